//! The way to a fixed point: states flow along the edges until nothing changes.

use std::collections::{BTreeMap, BTreeSet};

use squalus_isa::{CallTarget, Decoded, HelperId, Inst, MapFlags, MapType, Operand, Reg};
use squalus_runtime::{ArgKind, LinkedProgram, SourceLine, proto};

use crate::branch::branch;
use crate::live::{Regs, live, live_slots};
use crate::machine::{Effect, FrameRead, Machine};
use crate::nest::Nest;
use crate::paths::{Limits, Paths};
use crate::shape::Shapes;
use crate::value::Joining;
use crate::{
    Access, Area, Cfg, Facts, FuncId, FunctionFacts, InstFacts, Interval, Name, State, Value,
};

/// Joins at a loop head before bounds are widened.
const LOOP_JOINS: u32 = 2;
/// Joins at a loop head before bounds are widened that the loop does not seem to move.
const LOOP_JOINS_ALL: u32 = 16;
/// Joins at any other block before bounds are widened.
const JOINS: u32 = 60;

/// A program that no execution can run rightly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("program `{program}`, instruction {slot}{}: {what}", place(line.as_ref()))]
pub struct AnalysisError {
    /// The program.
    pub program: String,
    /// Slot of the instruction.
    pub slot: usize,
    /// Its source line.
    pub line: Option<SourceLine>,
    /// What is wrong.
    pub what: Refusal,
}

fn place(line: Option<&SourceLine>) -> String {
    line.map(|line| format!(" ({line})")).unwrap_or_default()
}

/// What an instruction does that no XDP program may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A store or atomic operation on the context.
    #[error("it writes to the context, or uses it atomically; XDP programs may only read it")]
    ContextStore,
    /// A load that is not one field of `struct xdp_md`.
    #[error(
        "it reads {size} bytes at offset {off} of the context; `struct xdp_md` has 4-byte fields at offsets 0 to 20"
    )]
    ContextLoad {
        /// Offset in bytes.
        off: i64,
        /// Size of the load.
        size: u32,
    },
    /// A load of a pointer with sign extension.
    #[error("it sign-extends what it reads at offset {off} of the context, which is a pointer")]
    ContextSign {
        /// Offset in bytes.
        off: i64,
    },
}

/// What a function writes of other functions' frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameWrites {
    /// Anything, anywhere.
    pub(crate) wild: bool,
    /// Bytes of the frames of some functions, both ends included.
    pub(crate) known: BTreeMap<FuncId, (i64, i64)>,
}

impl FrameWrites {
    /// Adds bytes of a function's frame.
    pub(crate) fn add(&mut self, owner: FuncId, bytes: Interval) {
        let entry = self.known.entry(owner).or_insert((bytes.lo, bytes.hi));
        *entry = (entry.0.min(bytes.lo), entry.1.max(bytes.hi));
    }
}

/// What is known of a function while the analysis runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// Whether it or a function it calls may move the packet.
    pub(crate) moves_packet: bool,
    /// Whether it or a function it calls may give back a record of a ring buffer.
    pub(crate) releases_records: bool,
    /// What it or a function it calls may write of frames other than its own.
    pub(crate) writes: FrameWrites,
    /// What holds when it returns; only `r0` and packet bounds count.
    pub(crate) exit: Option<State>,
    /// Whether it may return a number.
    pub(crate) returns_number: bool,
    /// States of calls met since this was last emptied.
    pub(crate) calls: Vec<State>,
}

/// Finds the facts of a program.
///
/// # Errors
/// If an instruction that may be reached does what no XDP program may do, see [`Refusal`].
pub fn analyse(program: &LinkedProgram) -> Result<Facts, AnalysisError> {
    let mut best: Option<(usize, Facts)> = None;
    let mut refused = None;
    for limits in Limits::LEVELS {
        match analyse_within(program, limits) {
            Ok(facts) => {
                let counts = facts.counts(program);
                let checks = counts.checked + counts.checked_calls;
                if best.as_ref().is_none_or(|(least, _)| checks < *least) {
                    best = Some((checks, facts));
                }
                if checks == 0 {
                    break;
                }
            }
            // Where paths are not told apart, it may be one that execution never takes.
            Err(error) => refused = Some(error),
        }
    }
    match (best, refused) {
        (Some((_, facts)), _) => Ok(facts),
        (None, error) => Err(error.expect("it is refused if there are no facts")),
    }
}

fn analyse_within(program: &LinkedProgram, limits: Limits) -> Result<Facts, AnalysisError> {
    // Where a callback comes from elsewhere than the function that passes it on, the graph must know of
    // more calls. That is rare, so it is found out.
    match analyse_with(program, limits, false)? {
        Some(facts) => Ok(facts),
        None => Ok(analyse_with(program, limits, true)?.expect("the graph has all calls")),
    }
}

/// `None` if callbacks are called that the graph does not know, which cannot be with `any_callback`.
fn analyse_with(
    program: &LinkedProgram,
    limits: Limits,
    any_callback: bool,
) -> Result<Option<Facts>, AnalysisError> {
    let cfg = Cfg::new(program, any_callback);
    let mut solver = Solver::new(program, &cfg, limits);
    solver.solve()?;
    if solver.machine.strange_callback && !any_callback {
        return Ok(None);
    }
    let (insts, functions) = solver.collect()?;
    let timer_callbacks = solver.machine.timer_callbacks.iter().copied().collect();
    let entries = solver.joined_entries();
    let takes_locks = takes_locks(program, &insts);
    Ok(Some(Facts {
        cfg,
        insts,
        entries,
        functions,
        takes_locks,
        timer_callbacks,
    }))
}

/// Whether a lock may be held in the program: it takes one, or has a program in place of a subprogram that may
/// have taken one.
fn takes_locks(program: &LinkedProgram, insts: &[Option<Box<InstFacts>>]) -> bool {
    let main_end = program.subprograms()[0].end;
    let takes = |decoded: &Decoded| match decoded.inst {
        Inst::Call(CallTarget::Helper(HelperId::SPIN_LOCK)) => true,
        Inst::Call(CallTarget::Helper(HelperId::TAIL_CALL)) => decoded.slot >= main_end,
        _ => false,
    };
    let mut reached = program.insts().iter().zip(insts);
    reached.any(|(decoded, facts)| facts.is_some() && takes(decoded))
}

struct Solver<'a> {
    machine: Machine<'a>,
    entries: Vec<Paths>,
    limits: Limits,
    live: Vec<Regs>,
    live_slots: Vec<u64>,
    /// What was found of the access of each instruction, on all paths so far.
    accesses: Vec<Option<(Access, bool)>>,
    exit_joins: Vec<u32>,
    callers: Vec<BTreeSet<usize>>,
    /// States to go on from: order and number of the block, number of the state.
    pending: BTreeSet<(u32, usize, usize)>,
    /// As `pending`: heads of loops that go round again.
    again: BTreeSet<(u32, usize, usize)>,
    steps: Steps,
    nest: Nest,
}

type Collected = (Vec<Option<Box<InstFacts>>>, Vec<FunctionFacts>);

impl<'a> Solver<'a> {
    fn new(program: &'a LinkedProgram, cfg: &'a Cfg, limits: Limits) -> Solver<'a> {
        Solver {
            machine: Machine {
                program,
                cfg,
                frozen: frozen(program),
                summaries: summaries(program, cfg),
                shapes: Shapes::new(program),
                strange_callback: false,
                timer_callbacks: BTreeSet::new(),
                unlike: vec![false; program.insts().len()],
                at: 0,
            },
            entries: vec![Paths::default(); cfg.blocks().len()],
            limits,
            live: live(program.insts(), cfg),
            live_slots: live_slots(program.insts(), cfg),
            accesses: vec![None; program.insts().len()],
            exit_joins: vec![0; cfg.functions()],
            callers: vec![BTreeSet::new(); cfg.functions()],
            pending: BTreeSet::new(),
            again: BTreeSet::new(),
            steps: Steps::new(program),
            nest: Nest::new(program, cfg),
        }
    }

    fn solve(&mut self) -> Result<(), AnalysisError> {
        let start = State::entry(0, Value::Ctx(0));
        self.flow(None, self.machine.cfg.entry(0), start);
        while let Some((block, path)) = self.next() {
            self.visit(block, path)?;
        }
        Ok(())
    }

    /// What to go on from: the last loop that goes round again, after what is left to do in it.
    fn next(&mut self) -> Option<(usize, usize)> {
        let Some(&again) = self.again.last() else {
            let (_, block, path) = self.pending.pop_first()?;
            return Some((block, path));
        };
        let around = self.nest.headed_by(again.1);
        let inside = |block: usize| around.is_some_and(|around| around.contains(block));
        let mut pending = self.pending.iter();
        if let Some(&found) = pending.find(|(_, block, _)| inside(*block)) {
            self.pending.remove(&found);
            return Some((found.1, found.2));
        }
        self.again.remove(&again);
        Some((again.1, again.2))
    }

    fn visit(&mut self, number: usize, path: usize) -> Result<(), AnalysisError> {
        let cfg = self.machine.cfg;
        let block = &cfg.blocks()[number];
        let mut state = self.entries[number].states()[path].clone();
        let wrote_before = self.machine.summaries[block.func as usize].writes.clone();
        for n in block.first..block.end {
            let effect = self.step(block.func, &mut state, n)?;
            self.note_access(number, n, &effect);
            self.take_calls(number, n);
            if effect.replaced {
                let mut replaced = state.clone();
                replaced.packet_moved();
                replaced.set_reg(Reg::R0, Value::TOP);
                self.leave(block.func, &replaced);
            }
            if effect.ends {
                if self.machine.program.insts()[n].inst == Inst::Exit {
                    self.leave(block.func, &state);
                }
                self.note_writes(block.func, &wrote_before);
                return Ok(());
            }
        }
        self.note_writes(block.func, &wrote_before);
        let last = self.machine.program.insts()[block.end - 1].inst;
        if let (Some(next), Some(_)) = (block.fall, block.jump) {
            let mut fallen = state.clone();
            if branch(&mut fallen, &last, false) {
                self.flow(Some(number), next, fallen);
            }
        }
        let taken = block.jump.is_some();
        if let Some(next) = block.jump.or(block.fall)
            && branch(&mut state, &last, taken)
        {
            self.flow(Some(number), next, state);
        }
        Ok(())
    }

    fn step(&mut self, func: FuncId, state: &mut State, n: usize) -> Result<Effect, AnalysisError> {
        let program = self.machine.program;
        let decoded = &program.insts()[n];
        self.machine
            .step(func, state, decoded, n)
            .map_err(|what| AnalysisError {
                program: program.name().to_owned(),
                slot: decoded.slot,
                line: program.line(decoded.slot).cloned(),
                what,
            })
    }

    /// Adds a state to a block's entry; it comes from another block, or from a call.
    fn flow(&mut self, from: Option<usize>, to: usize, mut state: State) {
        let block = &self.machine.cfg.blocks()[to];
        let around = self.nest.headed_by(to);
        let head = self.nest.head(to);
        let kept = self.nest.around(to);
        state.motion.leave(|head| kept.contains(&head));
        match around {
            Some(around) if from.is_some_and(|from| around.contains(from)) => {
                state.motion.next_round(head);
            }
            Some(_) => state.motion.enter(head),
            None => {}
        }
        let limit = if around.is_some() { LOOP_JOINS } else { JOINS };
        let how = |joins| Joining {
            steps: (joins >= limit).then(|| self.steps.after(joins - limit)),
            around,
            all: joins
                >= if around.is_some() {
                    LOOP_JOINS_ALL
                } else {
                    JOINS
                },
            shapes: &self.machine.shapes,
        };
        if !self.limits.thorough {
            state.keep_pointers(self.live_slots[to]);
        }
        state.keep(self.live[to]);
        if let Some(path) =
            self.entries[to].add(state, head, &mut self.limits, around.is_some(), how)
        {
            let again = around.is_some_and(|around| from.is_some_and(|from| around.contains(from)));
            let open = if again {
                &mut self.again
            } else {
                &mut self.pending
            };
            open.insert((block.order, to, path));
        }
    }

    /// Notes how an access is allowed on one path. If it is checked and may be in different areas on different
    /// paths, it is to be checked for any area on all of them, and what follows from that is found out again.
    fn note_access(&mut self, block: usize, n: usize, effect: &Effect) {
        let Some(access) = effect.access else { return };
        let all = match self.accesses[n] {
            None => access,
            Some((known, meta)) if meta == effect.meta => known.or(access),
            Some((known, _)) => match known.or(access) {
                Access::Checked(_) => Access::Checked(Area::Any),
                proved => proved,
            },
        };
        self.accesses[n] = Some((all, effect.meta));
        if all == Access::Checked(Area::Any) && !self.machine.unlike[n] {
            self.machine.unlike[n] = true;
            self.revisit(block);
        }
    }

    fn revisit(&mut self, block: usize) {
        let order = self.machine.cfg.blocks()[block].order;
        let paths = 0..self.entries[block].states().len();
        self.pending.extend(paths.map(|path| (order, block, path)));
    }

    fn how(&self) -> Joining<'_> {
        Joining {
            steps: None,
            around: None,
            all: false,
            shapes: &self.machine.shapes,
        }
    }

    fn joined_entries(&self) -> Vec<Option<State>> {
        let blocks = self.machine.cfg.blocks().iter();
        let slot = |first: usize| self.machine.program.insts()[first].slot as u32;
        let joined = blocks.zip(&self.entries);
        joined
            .map(|(block, paths)| paths.all(slot(block.first), self.how()))
            .collect()
    }

    /// Passes on the states of a call that the last step made.
    fn take_calls(&mut self, block: usize, n: usize) {
        let cfg = self.machine.cfg;
        let callees = match self.machine.program.insts()[n].inst {
            Inst::Call(CallTarget::Local(target)) => &[self.machine.function_at(target)],
            Inst::Call(CallTarget::Helper(_)) => cfg.callbacks(cfg.blocks()[block].func),
            _ => return,
        };
        for &callee in callees {
            let calls = std::mem::take(&mut self.machine.summaries[callee as usize].calls);
            if !calls.is_empty() {
                self.callers[callee as usize].insert(block);
            }
            for call in calls {
                self.flow(None, cfg.entry(callee), call);
            }
        }
    }

    /// Joins a state into what holds when a function returns.
    fn leave(&mut self, func: FuncId, state: &State) {
        let result = match state.reg(Reg::R0) {
            Value::Stack { .. } => Value::TOP,
            value => value.renamed(Some(Name::Made(u32::MAX))),
        };
        let exit = state.only_result(func, result);
        let joins = &mut self.exit_joins[func as usize];
        let summary = &mut self.machine.summaries[func as usize];
        summary.returns_number |= matches!(state.reg(Reg::R0), Value::Scalar(_));
        let changed = match &mut summary.exit {
            None => {
                summary.exit = Some(exit);
                true
            }
            Some(known) => {
                let how = Joining {
                    steps: (*joins >= JOINS).then_some(self.steps.after(0)),
                    around: None,
                    all: true,
                    shapes: &self.machine.shapes,
                };
                known.join(&exit, u32::MAX, how)
            }
        };
        if changed {
            *joins += 1;
            self.revisit_callers(func);
        }
    }

    fn note_writes(&mut self, func: FuncId, before: &FrameWrites) {
        if self.machine.summaries[func as usize].writes != *before {
            self.revisit_callers(func);
        }
    }

    fn revisit_callers(&mut self, func: FuncId) {
        for block in self.callers[func as usize].clone() {
            self.revisit(block);
        }
    }

    /// Walks all blocks once more, on all paths, and writes down what holds.
    fn collect(&mut self) -> Result<Collected, AnalysisError> {
        let cfg = self.machine.cfg;
        let mut insts: Vec<Option<Box<InstFacts>>> = vec![None; self.machine.program.insts().len()];
        let mut functions = vec![FunctionFacts::default(); cfg.functions()];
        let mut lent = vec![Lent::default(); cfg.functions()];
        for (number, block) in cfg.blocks().iter().enumerate() {
            for path in 0..self.entries[number].states().len() {
                let mut state = self.entries[number].states()[path].clone();
                let places = insts.iter_mut().enumerate();
                for (n, place) in places.take(block.end).skip(block.first) {
                    let (regs, unwritten) = (state.regs(), state.unwritten());
                    let effect = self.step(block.func, &mut state, n)?;
                    note_frame(&mut functions, &mut lent, block.func, unwritten, &effect);
                    let decoded = &self.machine.program.insts()[n];
                    let found = inst_facts(&decoded.inst, regs, &state, &effect);
                    match place {
                        Some(known) => known.join(&found, decoded.slot as u32, &self.how()),
                        None => *place = Some(Box::new(found)),
                    }
                    if effect.ends {
                        break;
                    }
                }
            }
        }
        for (facts, lent) in functions.iter_mut().zip(&lent) {
            lent.note(facts);
        }
        for block in cfg.blocks() {
            for facts in insts[block.first..block.end].iter().flatten() {
                if matches!(facts.access, Some(Access::Checked(Area::Any | Area::Stack))) {
                    note_any_frame(&mut functions);
                }
            }
        }
        for (facts, summary) in functions.iter_mut().zip(&self.machine.summaries) {
            facts.returns_pointer = summary.exit.is_some() && !summary.returns_number;
        }
        Ok((insts, functions))
    }
}

/// What is known of an instruction that found `regs` and left `state`.
fn inst_facts(inst: &Inst, regs: [Value; Reg::COUNT], state: &State, effect: &Effect) -> InstFacts {
    let goes = |taken| match inst {
        // A jump changes nothing, so the state is what it found.
        Inst::JumpIf { .. } => branch(&mut state.clone(), inst, taken),
        _ => true,
    };
    let jumps = matches!(
        inst,
        Inst::Jump { .. } | Inst::JumpIf { .. } | Inst::MayJump { .. }
    );
    let falls = !matches!(inst, Inst::Jump { .. }) && !effect.ends;
    InstFacts {
        regs,
        access: effect.access,
        room: effect.room,
        frame: effect.frame,
        unproved_args: effect.unproved_args,
        index: effect.index,
        can_jump: jumps && goes(true),
        can_fall: falls && goes(false),
    }
}

/// Bytes of a frame, a bit each, that other functions use.
#[derive(Clone, Default)]
struct Lent {
    /// Those that may not be written when other functions are called.
    unwritten: [u64; 8],
    /// Those that other functions touch.
    touched: [u64; 8],
}

impl Lent {
    fn note(&self, facts: &mut FunctionFacts) {
        for (word, read) in facts.read_unwritten.iter_mut().enumerate() {
            *read |= self.unwritten[word] & self.touched[word];
        }
        for (lent, touched) in facts.lent.iter_mut().zip(self.touched) {
            *lent |= touched;
        }
    }
}

/// Adds what an instruction does with stack frames to the facts of functions.
fn note_frame(
    functions: &mut [FunctionFacts],
    lent: &mut [Lent],
    func: FuncId,
    unwritten: [u64; 8],
    effect: &Effect,
) {
    match effect.reads {
        FrameRead::None => {}
        FrameRead::Bytes(bytes) => {
            let facts = &mut functions[func as usize];
            for (read, bits) in facts.read_unwritten.iter_mut().zip(bits(bytes, unwritten)) {
                *read |= bits;
            }
        }
        FrameRead::Lent => {
            let lent = &mut lent[func as usize];
            for (all, unwritten) in lent.unwritten.iter_mut().zip(unwritten) {
                *all |= unwritten;
            }
        }
        FrameRead::AllFrames => note_any_frame(functions),
    }
    for (owner, bytes) in effect.lent.into_iter().flatten() {
        let lent = &mut lent[owner as usize];
        for (touched, bits) in lent.touched.iter_mut().zip(bits(bytes, [u64::MAX; 8])) {
            *touched |= bits;
        }
    }
}

/// Those of `among` that are in a range.
fn bits(bytes: Interval, among: [u64; 8]) -> [u64; 8] {
    let mut found = [0; 8];
    for byte in bytes.lo.max(0)..=bytes.hi.min(511) {
        let (word, bit) = (byte as usize / 64, byte as usize % 64);
        found[word] |= among[word] & (1 << bit);
    }
    found
}

/// Notes that any byte of any frame may be used.
fn note_any_frame(functions: &mut [FunctionFacts]) {
    for facts in functions {
        facts.read_unwritten = [u64::MAX; 8];
        facts.lent = [u64::MAX; 8];
    }
}

/// Contents of maps that neither programs nor the control side can change any more.
fn frozen(program: &LinkedProgram) -> Vec<Option<Vec<u8>>> {
    let maps = program.maps().iter();
    maps.map(|map| {
        let def = map.def();
        let constant = map.is_frozen()
            && def.kind == MapType::Array
            && def.max_entries == 1
            && def.flags.contains(MapFlags::RDONLY_PROG);
        constant
            .then(|| map.sys_lookup(&0u32.to_le_bytes()).ok().flatten())
            .flatten()
    })
    .collect()
}

fn summaries(program: &LinkedProgram, cfg: &Cfg) -> Vec<Summary> {
    let mut summaries = vec![Summary::default(); cfg.functions()];
    for block in cfg.blocks() {
        for decoded in &program.insts()[block.first..block.end] {
            if let Inst::Call(CallTarget::Helper(id)) = decoded.inst
                && let Some(proto) = proto(id)
            {
                let replaced = id == HelperId::TAIL_CALL && block.func != 0;
                let summary = &mut summaries[block.func as usize];
                summary.moves_packet |= proto.changes_packet || replaced;
                summary.releases_records |= proto.args.contains(&ArgKind::RingRecord) || replaced;
            }
        }
    }
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for func in 0..summaries.len() {
            let own = (
                summaries[func].moves_packet,
                summaries[func].releases_records,
            );
            let callees = cfg.callees(func as FuncId).iter();
            let all = callees.fold(own, |(moves, releases), &callee| {
                let callee = &summaries[callee as usize];
                (
                    moves | callee.moves_packet,
                    releases | callee.releases_records,
                )
            });
            (
                summaries[func].moves_packet,
                summaries[func].releases_records,
            ) = all;
            changed |= all != own;
        }
    }
    summaries
}

/// Bounds that widening stops at.
struct Steps {
    /// Those the program itself compares with, and the usual widths.
    all: Vec<u64>,
}

impl Steps {
    const WIDTHS: [u64; 6] = [
        0xff,
        0xffff,
        0x7fff_ffff,
        0xffff_ffff,
        u64::MAX >> 1,
        u64::MAX,
    ];

    fn new(program: &LinkedProgram) -> Steps {
        let mut all = Steps::WIDTHS.to_vec();
        for decoded in program.insts() {
            if let Inst::JumpIf {
                src: Operand::Imm(imm),
                ..
            } = decoded.inst
            {
                let k = i64::from(imm).cast_unsigned();
                all.extend([k.wrapping_sub(1), k, k.wrapping_add(1)]);
            }
        }
        all.sort_unstable();
        all.dedup();
        Steps { all }
    }

    /// The bounds after bounds were widened so often: fewer and fewer.
    fn after(&self, times: u32) -> &[u64] {
        match times {
            0..4 => &self.all,
            4..6 => &Steps::WIDTHS,
            _ => &Steps::WIDTHS[3..],
        }
    }
}
