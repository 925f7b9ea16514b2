//! Basic blocks of a program and its subprograms.

use squalus_isa::{CallTarget, ImmSource, Inst};
use squalus_runtime::{ArgKind, LinkedProgram, Proto, proto};

use crate::FuncId;

/// A straight piece of code: entered at its first instruction, left after its last.
#[derive(Clone, Debug)]
pub struct Block {
    /// The function it belongs to.
    pub func: FuncId,
    /// Index of the first instruction.
    pub first: usize,
    /// Index after the last instruction.
    pub end: usize,
    /// Block that follows when the last instruction does not jump.
    pub fall: Option<usize>,
    /// Block the last instruction jumps to.
    pub jump: Option<usize>,
    /// Whether an edge of a loop leads here.
    pub loop_head: bool,
    /// Place in the order in which blocks are best visited: before their successors, loops aside, and
    /// callees before callers.
    pub order: u32,
}

/// The blocks of all functions.
#[derive(Clone, Debug)]
pub struct Cfg {
    blocks: Vec<Block>,
    block_of: Vec<usize>,
    entries: Vec<usize>,
    callees: Vec<Vec<FuncId>>,
    callbacks: Vec<Vec<FuncId>>,
    recursive: Vec<bool>,
}

impl Cfg {
    /// Finds the blocks of `program`. A function with helpers that call back is taken to call those
    /// functions back whose address it takes itself; with `any_callback`, all whose address is taken.
    #[must_use]
    pub fn new(program: &LinkedProgram, any_callback: bool) -> Cfg {
        let (blocks, block_of) = split(program);
        let entries: Vec<usize> = program
            .subprograms()
            .iter()
            .map(|sub| block_of[index(program, sub.start)])
            .collect();
        let callbacks = callbacks(program, any_callback);
        let callees = callees(program, &callbacks);
        let recursive = (0..callees.len())
            .map(|f| reaches(&callees, f as FuncId, f as FuncId))
            .collect();
        let mut cfg = Cfg {
            blocks,
            block_of,
            entries,
            callees,
            callbacks,
            recursive,
        };
        cfg.number();
        cfg
    }

    /// All blocks.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The block of an instruction, by its index.
    #[must_use]
    pub fn block_of(&self, inst: usize) -> usize {
        self.block_of[inst]
    }

    /// The first block of a function.
    #[must_use]
    pub fn entry(&self, func: FuncId) -> usize {
        self.entries[func as usize]
    }

    /// How many functions there are.
    #[must_use]
    pub fn functions(&self) -> usize {
        self.entries.len()
    }

    /// The functions that helpers may call back when a function calls them.
    #[must_use]
    pub fn callbacks(&self, func: FuncId) -> &[FuncId] {
        &self.callbacks[func as usize]
    }

    /// The functions that a function calls, or has called back.
    #[must_use]
    pub fn callees(&self, func: FuncId) -> &[FuncId] {
        &self.callees[func as usize]
    }

    /// Whether a function can have several frames at once.
    #[must_use]
    pub fn is_recursive(&self, func: FuncId) -> bool {
        self.recursive[func as usize]
    }

    /// Whether the step from one block to another closes a loop.
    #[must_use]
    pub fn is_back_edge(&self, from: usize, to: usize) -> bool {
        self.blocks[to].order <= self.blocks[from].order
    }

    /// Orders blocks callees first, each function in reverse postorder, and marks loop heads.
    fn number(&mut self) {
        let mut order = 0;
        let mut done = vec![false; self.callees.len()];
        for func in 0..self.callees.len() {
            self.number_function(func as FuncId, &mut done, &mut order);
        }
        for from in 0..self.blocks.len() {
            for to in [self.blocks[from].fall, self.blocks[from].jump] {
                if let Some(to) = to
                    && self.is_back_edge(from, to)
                {
                    self.blocks[to].loop_head = true;
                }
            }
        }
    }

    fn number_function(&mut self, func: FuncId, done: &mut [bool], order: &mut u32) {
        // An explicit stack: call chains in hostile programs can be as long as the program.
        let mut pending = vec![(func, false)];
        while let Some((func, callees_done)) = pending.pop() {
            if callees_done {
                for block in postorder(&self.blocks, self.entry(func)).into_iter().rev() {
                    self.blocks[block].order = *order;
                    *order += 1;
                }
            } else if !std::mem::replace(&mut done[func as usize], true) {
                pending.push((func, true));
                pending.extend(self.callees(func).iter().map(|&callee| (callee, false)));
            }
        }
    }
}

fn index(program: &LinkedProgram, slot: usize) -> usize {
    program
        .index_of(slot)
        .expect("linking checked that targets are instructions")
}

/// Cuts the code at jump targets, after jumps and at function starts.
fn split(program: &LinkedProgram) -> (Vec<Block>, Vec<usize>) {
    let insts = program.insts();
    let mut leader = vec![false; insts.len() + 1];
    for sub in program.subprograms() {
        leader[index(program, sub.start)] = true;
    }
    for (n, decoded) in insts.iter().enumerate() {
        if let Inst::Jump { target } | Inst::JumpIf { target, .. } | Inst::MayJump { target } =
            decoded.inst
        {
            leader[index(program, target)] = true;
            leader[n + 1] = true;
        } else if decoded.inst == Inst::Exit {
            leader[n + 1] = true;
        }
    }
    let firsts: Vec<usize> = (0..insts.len()).filter(|&n| leader[n]).collect();
    let mut block_of = vec![0; insts.len()];
    let mut current = 0;
    for (n, place) in block_of.iter_mut().enumerate() {
        if n > 0 && leader[n] {
            current += 1;
        }
        *place = current;
    }
    let blocks = firsts
        .iter()
        .enumerate()
        .map(|(b, &first)| {
            let end = firsts.get(b + 1).copied().unwrap_or(insts.len());
            let next = (end < insts.len()).then_some(b + 1);
            let (jump, fall) = match insts[end - 1].inst {
                Inst::Exit => (None, None),
                Inst::Jump { target } => (Some(block_of[index(program, target)]), None),
                Inst::JumpIf { target, .. } | Inst::MayJump { target } => {
                    (Some(block_of[index(program, target)]), next)
                }
                _ => (None, next),
            };
            Block {
                func: function_at(program, insts[first].slot),
                first,
                end,
                fall,
                jump,
                loop_head: false,
                order: 0,
            }
        })
        .collect();
    (blocks, block_of)
}

fn function_at(program: &LinkedProgram, slot: usize) -> FuncId {
    let after = program
        .subprograms()
        .partition_point(|sub| sub.start <= slot);
    (after - 1) as FuncId
}

fn callees(program: &LinkedProgram, callbacks: &[Vec<FuncId>]) -> Vec<Vec<FuncId>> {
    let mut callees = callbacks.to_vec();
    for decoded in program.insts() {
        if let Inst::Call(CallTarget::Local(target)) = decoded.inst {
            callees[function_at(program, decoded.slot) as usize].push(function_at(program, target));
        }
    }
    callees.iter_mut().for_each(sort);
    callees
}

/// For each function with helpers that call back, the functions they may call.
fn callbacks(program: &LinkedProgram, any: bool) -> Vec<Vec<FuncId>> {
    let mut taken = vec![Vec::new(); program.subprograms().len()];
    let mut iterates = vec![false; taken.len()];
    for decoded in program.insts() {
        let func = function_at(program, decoded.slot) as usize;
        match decoded.inst {
            Inst::LoadImm {
                imm: ImmSource::Func(target),
                ..
            } => taken[func].push(function_at(program, target)),
            Inst::Call(CallTarget::Helper(id)) => {
                let calls = |proto: &Proto| proto.args.contains(&ArgKind::Callback);
                iterates[func] |= proto(id).is_some_and(calls);
            }
            _ => {}
        }
    }
    let mut all = taken.concat();
    sort(&mut all);
    taken.iter_mut().for_each(sort);
    let each = taken.into_iter().zip(iterates);
    each.map(|(own, iterates)| match (iterates, any) {
        (false, _) => Vec::new(),
        (true, true) => all.clone(),
        (true, false) => own,
    })
    .collect()
}

fn sort(list: &mut Vec<FuncId>) {
    list.sort_unstable();
    list.dedup();
}

/// Whether calls lead from `from` to `to` in one step or more.
fn reaches(callees: &[Vec<FuncId>], from: FuncId, to: FuncId) -> bool {
    let mut seen = vec![false; callees.len()];
    let mut pending = callees[from as usize].clone();
    while let Some(func) = pending.pop() {
        if func == to {
            return true;
        }
        if !std::mem::replace(&mut seen[func as usize], true) {
            pending.extend(&callees[func as usize]);
        }
    }
    false
}

fn postorder(blocks: &[Block], entry: usize) -> Vec<usize> {
    let mut out = Vec::new();
    let mut seen = vec![false; blocks.len()];
    let mut pending = vec![(entry, false)];
    while let Some((block, done)) = pending.pop() {
        if done {
            out.push(block);
        } else if !std::mem::replace(&mut seen[block], true) {
            pending.push((block, true));
            let next = [blocks[block].fall, blocks[block].jump];
            pending.extend(next.into_iter().flatten().map(|b| (b, false)));
        }
    }
    out
}
