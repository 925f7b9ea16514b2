//! From bytecode and facts to SSA.
//!
//! The eBPF registers, and the bytes of the stack frame that are [cells](cells), are *variables*: where paths
//! meet, a block has a parameter for each variable that is read later on. Facts are spent here: what is known
//! to be constant is a number, branches that cannot be taken are left out, and an access gets a check only if
//! nothing proved it.
//!
//! A block of the bytecode can be built twice: *hot* and general. The hot copies are those that a profile
//! saw run; a way that it did not see taken leads from a hot block to the general copy of its target, and from
//! there nothing leads back. So in hot blocks only hot paths meet, and what is constant on them stays so.

mod alu;
mod call;
mod callback;
mod cells;
mod depth;
mod edges;
mod emit;
mod fact_checks;
mod guess;
mod helpers;
mod live;
mod memory;

use squalus_analysis::{Facts, FuncId, InstFacts, MapRef, Shapes, Value as Known};
use squalus_isa::{Decoded, ImmSource, Inst, Operand, Reg};
use squalus_runtime::{LinkedProgram, STACK_SIZE, TrapReason, function_address};

use crate::ir::{BinOp, Block, Fixed, Function, Op, Region, Terminator, Ty, Value};
use crate::support::{Profile, Support};
pub(crate) use cells::Cells;
use cells::own_offset;
pub use depth::counts_depth;
use edges::Edges;
pub use edges::has_changed;
pub(crate) use emit::{Emitter, target};
use live::Live;

/// What a function is made from.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The program.
    pub program: &'a LinkedProgram,
    /// What the analysis found for it.
    pub facts: &'a Facts,
    /// Functions that compiled code calls.
    pub support: &'a Support,
    /// Which blocks ran how often, if hot blocks are to be built apart.
    pub profile: Option<&'a Profile>,
    /// Where each run of a block is counted, if it is.
    pub counts: Option<Counters>,
    /// Whether bytes of the stack become values.
    pub stack: bool,
    /// Whether small helpers become instructions.
    pub helpers: bool,
    /// Whether code keeps the depth of calls ([`counts_depth`]).
    pub counts_depth: bool,
    /// Whether every fact about a register is compared with the register, and a false one ends the run. Facts
    /// are used for nothing else but accesses then. For tests of the analysis.
    pub check_facts: bool,
}

/// Counters of 64 bits for all blocks by their numbers, for each CPU apart: who shares them loses counts.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Address of CPU 0's first counter.
    pub address: usize,
    /// Distance in bytes from one CPU's to the next one's.
    pub stride: usize,
    /// For how many CPUs there are some; others use CPU 0's.
    pub cpus: u32,
}

/// Builds one function of a program. Its entry block must be reachable.
#[must_use]
pub fn build(mut input: Input<'_>, func: FuncId) -> Function {
    // Of a function that did not run nothing is known.
    let entry = input.facts.cfg().entry(func);
    input.profile = input.profile.filter(|profile| profile.is_hot(entry));
    let cells = if input.stack && !input.check_facts {
        Cells::find(input.program, input.facts, func)
    } else {
        Cells::default()
    };
    let live = if input.check_facts {
        Live::all(input.facts, &cells)
    } else {
        Live::find(input.program, input.facts, func, &cells)
    };
    let mut builder = Builder {
        input,
        func,
        emit: Emitter::new(func),
        vars: Vec::new(),
        cells,
        shapes: Shapes::new(input.program),
        live,
        nodes: Vec::new(),
        number: Vec::new(),
        edges: Edges::default(),
        rare: Vec::new(),
        undefined: Value(0),
        counts: None,
    };
    if let Some(profile) = input.profile {
        let own = edges::blocks_of(input.facts, func);
        let successors = |block| builder.successors(block).collect();
        builder.edges = Edges::find(profile, entry, &own, successors);
    } else if func == 0 {
        let successors = |block| builder.successors(block).collect();
        builder.rare = guess::rare(input.program, input.facts, successors);
    }
    builder.prologue();
    builder.body();
    builder.emit.function
}

/// A copy of a block of the bytecode.
#[derive(Clone, Debug)]
struct Node {
    /// Its number there.
    from: usize,
    hot: bool,
    block: Block,
    /// Whether it has parameters: several edges lead here.
    meets: bool,
    /// What variables hold on entry, if not.
    vars: Option<Vec<Value>>,
}

struct Builder<'a> {
    input: Input<'a>,
    func: FuncId,
    emit: Emitter,
    /// What each variable holds now: the registers, then the cells.
    vars: Vec<Value>,
    cells: Cells,
    shapes: Shapes,
    live: Live,
    /// In an order in which blocks come before what they lead to, loops aside.
    nodes: Vec<Node>,
    /// Number of the node for a block of the bytecode, general and hot.
    number: Vec<[Option<usize>; 2]>,
    /// Which ways the profile saw taken.
    edges: Edges,
    /// Which blocks are taken to be rare where there is no profile.
    rare: Vec<bool>,
    /// Stands for variables that nobody reads.
    undefined: Value,
    /// The address of this CPU's counters, if blocks are counted.
    counts: Option<Value>,
}

impl Builder<'_> {
    fn prologue(&mut self) {
        let zero = self.emit.number(Ty::I64, 0);
        self.undefined = zero;
        self.vars = vec![zero; Reg::COUNT];
        self.counts = self.input.counts.map(|counts| self.counters(counts));
        if self.input.check_facts {
            self.vars[Reg::FP.index()] = self.frame_address(STACK_SIZE as i32);
        }
        if self.func == 0 {
            self.vars[1] = self.emit.env;
        } else {
            self.emit.function.params = 5;
            for n in 1..=5 {
                let param = self.emit.function.make(Op::Param, Ty::I64, 0);
                self.emit
                    .function
                    .block_mut(Function::ENTRY)
                    .params
                    .push(param);
                self.vars[n] = param;
            }
        }
        for n in 0..self.cells.all().len() {
            let zero = self.emit.number(self.cells.all()[n].ty, 0);
            self.vars.push(zero);
        }
        self.zero_frame();
        if self.input.facts.checks_stack() {
            self.register_frame();
        }
    }

    fn body(&mut self) {
        self.plan();
        let first = self.input.facts.cfg().entry(self.func);
        let hot = self.is_hot(first);
        self.enter(self.node_of(first, hot));
        for number in 0..self.nodes.len() {
            self.node(number);
        }
    }

    /// Finds which copies of which blocks there are.
    fn plan(&mut self) {
        let cfg = self.input.facts.cfg();
        self.number = vec![[None; 2]; cfg.blocks().len()];
        let first = cfg.entry(self.func);
        let hot = self.is_hot(first);
        let mut edges = vec![[0_u32; 2]; cfg.blocks().len()];
        let mut order = Vec::new();
        let mut seen = vec![[false; 2]; cfg.blocks().len()];
        let mut pending = vec![(first, hot, false)];
        while let Some((from, hot, left)) = pending.pop() {
            if left {
                order.push((from, hot));
                continue;
            }
            if std::mem::replace(&mut seen[from][usize::from(hot)], true) {
                continue;
            }
            pending.push((from, hot, true));
            for to in self.successors(from) {
                let to_hot = hot && self.is_hot_way(from, to);
                edges[to][usize::from(to_hot)] += 1;
                pending.push((to, to_hot, false));
            }
        }
        for (from, hot) in order.into_iter().rev() {
            let block = self.emit.function.make_block();
            let head = cfg.blocks()[from].loop_head;
            self.emit.function.block_mut(block).cold = self.is_cold(from, hot);
            self.number[from][usize::from(hot)] = Some(self.nodes.len());
            self.nodes.push(Node {
                from,
                hot,
                block,
                meets: head || edges[from][usize::from(hot)] > 1,
                vars: None,
            });
        }
        for number in 0..self.nodes.len() {
            self.make_params(number);
        }
    }

    fn is_hot(&self, block: usize) -> bool {
        self.input
            .profile
            .is_some_and(|profile| profile.is_hot(block))
    }

    /// Whether a copy of a block is to be out of the way.
    fn is_cold(&self, block: usize, hot: bool) -> bool {
        match self.input.profile {
            Some(_) => !hot,
            None => self.rare.get(block) == Some(&true),
        }
    }

    /// Whether a hot block's successor is hot when reached from there.
    fn is_hot_way(&self, from: usize, to: usize) -> bool {
        let often = |profile: &Profile| {
            let taken = self.edges.taken(from, to);
            taken.is_none_or(|taken| profile.is_often(to, taken))
        };
        self.is_hot(to) && self.input.profile.is_some_and(often)
    }

    /// The blocks that execution can go on with after a block.
    fn successors(&self, from: usize) -> impl Iterator<Item = usize> + use<> {
        edges::successors(self.input.facts, from)
    }

    fn make_params(&mut self, number: usize) {
        let (from, block, meets) = {
            let node = &self.nodes[number];
            (node.from, node.block, node.meets)
        };
        if !meets {
            return;
        }
        let slot =
            self.input.program.insts()[self.input.facts.cfg().blocks()[from].first].slot as u32;
        let mut vars = vec![self.undefined; self.vars.len()];
        for var in self.live.at(from) {
            let param = self.emit.function.make(Op::Param, self.var_ty(var), slot);
            self.emit.function.block_mut(block).params.push(param);
            vars[var] = param;
        }
        self.nodes[number].vars = Some(vars);
    }

    fn var_ty(&self, var: usize) -> Ty {
        match var.checked_sub(Reg::COUNT) {
            None => Ty::I64,
            Some(cell) => self.cells.all()[cell].ty,
        }
    }

    /// The hot or general copy of a block.
    fn node_of(&self, block: usize, hot: bool) -> usize {
        self.number[block][usize::from(hot)].expect("edges lead to planned nodes")
    }

    /// Ends the block under construction by going to a node.
    fn enter(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let mut to = target(node.block);
        if node.meets {
            to.args = self.live.at(node.from).map(|var| self.vars[var]).collect();
        } else {
            node.vars = Some(self.vars.clone());
        }
        self.emit.end(Terminator::Jump(to));
    }

    fn node(&mut self, number: usize) {
        let (from, hot) = (self.nodes[number].from, self.nodes[number].hot);
        self.emit.block = self.nodes[number].block;
        let Some(vars) = self.nodes[number].vars.take() else {
            unreachable!("a node that nothing leads to is not planned");
        };
        self.vars = vars;
        self.count(from);
        let facts = self.input.facts;
        let block = &facts.cfg().blocks()[from];
        if block.loop_head {
            // Each round costs a piece of the budget.
            self.emit.slot = self.input.program.insts()[block.first].slot as u32;
            self.emit.charge();
        }
        for n in block.first..block.end {
            let decoded = self.input.program.insts()[n];
            self.emit.slot = decoded.slot as u32;
            let Some(known) = facts.inst(n) else {
                // The analysis found that execution does not come here.
                return self.emit.trap(TrapReason::Unsupported);
            };
            if self.input.check_facts {
                self.check_facts(known);
            }
            match decoded.inst {
                Inst::Jump { .. } => return self.go((from, hot), block.jump),
                Inst::JumpIf { .. } | Inst::MayJump { .. } => {
                    return self.branch((from, hot), known, &decoded);
                }
                Inst::Exit => return self.exit(known),
                _ => {
                    self.instruction(known, &decoded);
                    if self.emit.function.block(self.emit.block).end.is_some() {
                        return;
                    }
                    if !known.can_fall {
                        return self.emit.trap(TrapReason::Unsupported);
                    }
                }
            }
        }
        self.go((from, hot), block.fall);
    }

    /// The address of this CPU's counters.
    fn counters(&mut self, counters: Counters) -> Value {
        let first = self.emit.number(Ty::I64, counters.address as u64);
        let offset = self.cpu_offset(counters.cpus, counters.stride);
        self.emit.bin(BinOp::Add, first, offset)
    }

    /// Counts a run of a block.
    fn count(&mut self, block: usize) {
        let Some(counts) = self.counts else {
            return;
        };
        let at = block as i32 * 8;
        let count = self.emit.load(Ty::I64, Region::Counts, counts, at);
        let count = self.emit.moved(count, 1);
        self.emit.store(Region::Counts, counts, at, count);
    }

    fn instruction(&mut self, known: &InstFacts, decoded: &Decoded) {
        match decoded.inst {
            Inst::Alu {
                width,
                op,
                dst,
                src,
            } => self.alu(known, (width, op), dst, src),
            Inst::End { kind, bits, dst } => self.endian(known, kind, bits, dst),
            Inst::LoadImm { dst, imm } => {
                let value = self.immediate(imm);
                self.set(dst, value);
            }
            Inst::Load { .. } | Inst::Store { .. } | Inst::Atomic { .. } => {
                self.memory(known, decoded)
            }
            Inst::Call(target) => self.call(known, target),
            Inst::Jump { .. } | Inst::JumpIf { .. } | Inst::MayJump { .. } | Inst::Exit => {}
        }
    }

    /// Goes on with another block.
    fn go(&mut self, (from, hot): (usize, bool), to: Option<usize>) {
        let Some(to) = to else {
            return self.emit.trap(TrapReason::Unsupported);
        };
        let hot = hot && self.is_hot_way(from, to);
        self.enter(self.node_of(to, hot));
    }

    fn branch(&mut self, from: (usize, bool), known: &InstFacts, decoded: &Decoded) {
        let block = &self.input.facts.cfg().blocks()[from.0];
        if self.input.check_facts && known.can_jump != known.can_fall {
            let condition = self.condition(known, &decoded.inst);
            self.check_way(condition, known.can_jump);
        }
        match (known.can_jump, known.can_fall) {
            (true, false) => return self.go(from, block.jump),
            (false, true) => return self.go(from, block.fall),
            (false, false) => return self.emit.trap(TrapReason::Unsupported),
            (true, true) => {}
        }
        let condition = self.condition(known, &decoded.inst);
        let (then, other) = (
            self.emit.function.make_block(),
            self.emit.function.make_block(),
        );
        self.emit.end(Terminator::Branch {
            condition,
            then: target(then),
            other: target(other),
        });
        for (way, to) in [(then, block.jump), (other, block.fall)] {
            self.emit.block = way;
            let hot = to.is_some_and(|to| from.1 && self.is_hot_way(from.0, to));
            self.emit.function.block_mut(way).cold = to.is_none_or(|to| self.is_cold(to, hot));
            self.go(from, to);
        }
    }

    fn exit(&mut self, known: &InstFacts) {
        if self.func == 0 && !matches!(known.reg(Reg::R0), Known::Scalar(_)) {
            return self.emit.trap(TrapReason::Return);
        }
        let value = self.reg(known, Reg::R0);
        self.emit.end(Terminator::Return(value));
    }

    /// What a register holds, as a number or address if that is known.
    fn reg(&mut self, known: &InstFacts, reg: Reg) -> Value {
        if self.input.check_facts {
            return self.vars[reg.index()];
        }
        match known.reg(reg) {
            Known::Scalar(scalar) => {
                if let Some(constant) = scalar.as_constant() {
                    return self.emit.number(Ty::I64, constant);
                }
            }
            Known::Ctx(off) => return self.emit.moved(self.emit.env, off),
            value @ Known::Stack { .. } => {
                // Addresses beside the frame may be computed, but the code generator knows none of them.
                if let Some(off) = own_offset(value, self.func)
                    && (0..=STACK_SIZE as i32).contains(&off)
                {
                    return self.frame_address(off);
                }
            }
            Known::Map {
                map: MapRef::Direct(map),
                null: None,
            } => return self.emit.function.fixed(Fixed::Map(map)),
            _ => {}
        }
        self.vars[reg.index()]
    }

    fn set(&mut self, reg: Reg, value: Value) {
        self.vars[reg.index()] = value;
    }

    fn operand(&mut self, known: &InstFacts, operand: Operand) -> Value {
        match operand {
            Operand::Reg(reg) => self.reg(known, reg),
            Operand::Imm(imm) => self.emit.number(Ty::I64, i64::from(imm).cast_unsigned()),
        }
    }

    fn immediate(&mut self, imm: ImmSource) -> Value {
        match imm {
            ImmSource::Value(value) => self.emit.number(Ty::I64, value),
            ImmSource::Map(map) => self.emit.function.fixed(Fixed::Map(map)),
            ImmSource::MapValue { map, offset } => {
                let array = self.input.program.maps()[map as usize].array_base();
                // Linking checked that the map is an array.
                let base = array.map_or(0, |array| array.base as u64);
                self.emit.number(Ty::I64, base + u64::from(offset))
            }
            ImmSource::Func(slot) => self.emit.number(Ty::I64, function_address(slot)),
        }
    }
}
