//! Parameters that need only half their width.
//!
//! eBPF's registers have 64 bits, and what programs do with 32 of them clears the others. So loops carry numbers that
//! are made wider at their end and cut off again at their beginning. Such a parameter becomes one of 32 bits: if all
//! that is given for it fits, and more of its users want the lower half than the whole.

use super::fold::known_zero;
use super::rewrite::{edges, predecessors};
use crate::ir::{BinOp, Block, Function, Op, Ty, UnOp, Value};

/// Goes over all parameters.
pub(super) fn run(function: &mut Function) {
    let order = function.reverse_postorder();
    let before = predecessors(function);
    let mut found = Found::new(function, &order);
    found.uses(function, &order);
    found.settle(function, &before);
    for &block in &order {
        found.narrow(function, &before, block);
    }
}

/// Parameters that may become narrower.
struct Found {
    /// For each value, whether it may.
    narrow: Vec<bool>,
    /// How many more users want the lower half than the whole.
    gain: Vec<i32>,
    /// The parameters and their places.
    params: Vec<(Block, usize, Value)>,
}

impl Found {
    fn new(function: &Function, order: &[Block]) -> Found {
        let mut found = Found {
            narrow: vec![false; function.values.len()],
            gain: vec![0; function.values.len()],
            params: Vec::new(),
        };
        for &block in order.iter().filter(|&&block| block != Function::ENTRY) {
            for (n, &param) in function.block(block).params.iter().enumerate() {
                if function.ty(param) == Ty::I64 {
                    found.narrow[param.0 as usize] = true;
                    found.params.push((block, n, param));
                }
            }
        }
        found
    }

    fn is(&self, value: Value) -> bool {
        self.narrow.get(value.0 as usize) == Some(&true)
    }

    /// Counts who wants what.
    fn uses(&mut self, function: &Function, order: &[Block]) {
        for &block in order {
            for &inst in &function.block(block).insts {
                let op = &function.value(inst).op;
                let gain = if wants_half(function, inst) { 1 } else { -1 };
                op.uses(|value| self.gain[value.0 as usize] += gain);
            }
            let end = function.block(block).end.iter();
            end.for_each(|end| end.decides(|value| self.gain[value.0 as usize] -= 1));
        }
    }

    /// Leaves those that fit and are worth it. One that is passed on to another counts for it too.
    fn settle(&mut self, function: &Function, before: &[Vec<Block>]) {
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for (block, n, param) in std::mem::take(&mut self.params) {
                let mut given = before[block.0 as usize]
                    .iter()
                    .flat_map(|&from| edges(function, from, block))
                    .map(|target| target.args[n]);
                if given.all(|value| self.is(value) || fits(function, value)) {
                    self.params.push((block, n, param));
                } else {
                    self.narrow[param.0 as usize] = false;
                    changed = true;
                }
            }
        }
        self.worth(function, before);
    }

    /// Leaves the groups of parameters, given for each other, that win more than they lose.
    fn worth(&mut self, function: &Function, before: &[Vec<Block>]) {
        let mut group: Vec<usize> = (0..self.narrow.len()).collect();
        fn head(group: &[usize], mut of: usize) -> usize {
            while group[of] != of {
                of = group[of];
            }
            of
        }
        let mut lost = Vec::new();
        for &(block, n, param) in &self.params {
            for &from in &before[block.0 as usize] {
                for target in edges(function, from, block) {
                    let given = target.args[n];
                    if self.is(given) {
                        let (a, b) = (
                            head(&group, given.0 as usize),
                            head(&group, param.0 as usize),
                        );
                        group[a] = b;
                    }
                }
            }
        }
        // What is given to parameters that stay wide is wanted whole.
        for (at, data) in function.blocks.iter().enumerate() {
            for &from in &before[at] {
                for target in edges(function, from, Block(at as u32)) {
                    let given = target.args.iter().zip(&data.params);
                    lost.extend(given.filter(|(_, to)| !self.is(**to)).map(|(arg, _)| *arg));
                }
            }
        }
        lost.iter()
            .for_each(|value| self.gain[value.0 as usize] -= 1);
        let mut gains = vec![0; self.narrow.len()];
        for &(.., param) in &self.params {
            gains[head(&group, param.0 as usize)] += self.gain[param.0 as usize];
        }
        self.params.retain(|(.., param)| {
            let keep = gains[head(&group, param.0 as usize)] > 0;
            self.narrow[param.0 as usize] = keep;
            keep
        });
    }

    /// Makes the parameters of a block narrower, and what is given for them.
    fn narrow(&self, function: &mut Function, before: &[Vec<Block>], block: Block) {
        let params = function.block(block).params.clone();
        for (n, param) in params.into_iter().enumerate() {
            if !self.is(param) {
                continue;
            }
            let slot = function.value(param).slot;
            let half = function.make(Op::Param, Ty::I32, slot);
            function.values[param.0 as usize].op = Op::Un(UnOp::ZeroExtend, half);
            let data = function.block_mut(block);
            data.params[n] = half;
            data.insts.insert(0, param);
            let mut sources = before[block.0 as usize].clone();
            sources.sort();
            sources.dedup();
            for from in sources {
                cut(function, from, block, n);
            }
        }
    }
}

/// Whether an instruction wants only the lower half of what it is of.
fn wants_half(function: &Function, inst: Value) -> bool {
    let small = |value| {
        function
            .constant(value)
            .is_some_and(|n| n <= u32::MAX.into())
    };
    match function.value(inst).op {
        Op::Un(UnOp::Truncate, _) => true,
        Op::Bin(BinOp::And, _, c) | Op::Cmp(_, _, c) => small(c),
        _ => false,
    }
}

/// Whether a value's upper half is 0.
fn fits(function: &Function, value: Value) -> bool {
    function.ty(value) == Ty::I64 && known_zero(function, value, 0) >> 32 == u32::MAX.into()
}

/// Cuts off what a block gives for a parameter of another.
fn cut(function: &mut Function, from: Block, to: Block, n: usize) {
    let Some(mut end) = function.block_mut(from).end.take() else {
        return;
    };
    let slot = function.block(from).end_slot;
    for target in end.targets_mut().filter(|target| target.block == to) {
        let value = target.args[n];
        target.args[n] = match (function.constant(value), &function.value(value).op) {
            (Some(number), _) => function.number(Ty::I32, number),
            (None, Op::Un(UnOp::ZeroExtend, half)) if function.ty(*half) == Ty::I32 => *half,
            _ => {
                let half = function.make(Op::Un(UnOp::Truncate, value), Ty::I32, slot);
                function.block_mut(from).insts.push(half);
                half
            }
        };
    }
    function.block_mut(from).end = Some(end);
}
