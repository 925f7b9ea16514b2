//! Ways past branches that ask what was asked before.
//!
//! eBPF has no instruction that chooses a value, so compilers make a branch of each choice; what is asked next is often
//! the same again. If each way to a block that does nothing but ask says what the answer is, the ways lead on at once.

use super::rewrite::{each_use, predecessors};
use crate::dominators::Dominators;
use crate::ir::{Block, Function, Op, Target, Terminator, Value};

/// How many blocks are led past at most, and how far back answers are looked for.
const MOST: usize = 16;
const FAR: usize = 4;

/// Goes over all blocks.
pub(super) fn run(function: &mut Function) {
    for _ in 0..MOST {
        let before = predecessors(function);
        let mut order = function.reverse_postorder().into_iter();
        let Some(asks) = order.find_map(|block| Asks::at(function, &before, block)) else {
            return;
        };
        asks.lead_past(function, &before);
    }
}

/// A block that only asks what is known on all ways to it.
struct Asks {
    block: Block,
    /// Where it leads if the condition holds, and if not.
    ways: [Target; 2],
}

impl Asks {
    fn at(function: &Function, before: &[Vec<Block>], block: Block) -> Option<Asks> {
        let data = function.block(block);
        let Some(Terminator::Branch {
            condition,
            then,
            other,
        }) = &data.end
        else {
            return None;
        };
        let from = &before[block.0 as usize];
        let alone = |way: &Target| way.block != block && before[way.block.0 as usize].len() == 1;
        let entered = from.len() >= 2 && block != Function::ENTRY;
        if !data.insts.is_empty() || !entered || !alone(then) || !alone(other) {
            return None;
        }
        let known = |from: &Block| answer(function, before, *from, block, *condition).is_some();
        let asks = Asks {
            block,
            ways: [then.clone(), other.clone()],
        };
        (from.iter().all(known) && asks.stays_behind(function)).then_some(asks)
    }

    /// Whether all that uses the block's parameters is behind one of the two ways.
    fn stays_behind(&self, function: &Function) -> bool {
        let params = &function.block(self.block).params;
        if params.is_empty() {
            return true;
        }
        let dominators = Dominators::new(function);
        let behind = |block: Block| {
            let mut ways = self.ways.iter();
            ways.any(|way| dominators.dominates(way.block, block))
        };
        let mut users = dominators.order().iter().filter(|&&block| !behind(block));
        users.all(|&block| block == self.block || !uses(function, block, params))
    }

    /// Leads each edge on to where its answer leads. What the parameters were, both ways have their own of.
    fn lead_past(&self, function: &mut Function, before: &[Vec<Block>]) {
        let params = function.block(self.block).params.clone();
        let condition = match &function.block(self.block).end {
            Some(Terminator::Branch { condition, .. }) => *condition,
            _ => unreachable!("such blocks end with branches"),
        };
        let dominators = Dominators::new(function);
        for way in &self.ways {
            let own: Vec<Value> = params.iter().map(|&param| copy(function, param)).collect();
            let behind = dominators.order().iter().copied();
            for block in behind.filter(|block| dominators.dominates(way.block, *block)) {
                replace(function, block, &params, &own);
            }
            function.block_mut(way.block).params.extend(own);
        }
        let mut from = before[self.block.0 as usize].clone();
        from.dedup();
        for from in from {
            let Some(holds) = answer(function, before, from, self.block, condition) else {
                unreachable!("all answers are known");
            };
            self.lead_on(function, from, holds, &params);
        }
    }

    fn lead_on(&self, function: &mut Function, from: Block, holds: Answer, params: &[Value]) {
        let Some(mut end) = function.block_mut(from).end.take() else {
            return;
        };
        for (n, target) in end.targets_mut().enumerate() {
            if target.block != self.block {
                continue;
            }
            let holds = match holds {
                Answer::Always(holds) => holds,
                Answer::BySide => n == 0,
            };
            let way = &self.ways[usize::from(!holds)];
            let given = |value: &Value| match params.iter().position(|param| param == value) {
                Some(n) => target.args[n],
                None => *value,
            };
            let mut args: Vec<Value> = way.args.iter().map(given).collect();
            args.append(&mut target.args);
            *target = Target {
                block: way.block,
                args,
            };
        }
        function.block_mut(from).end = Some(end);
    }
}

/// What a condition is where an edge is taken.
#[derive(Clone, Copy)]
enum Answer {
    Always(bool),
    /// It decides the edge itself: it holds on the first one.
    BySide,
}

/// What a condition is on the way from a block to the next, if a branch has said so.
fn answer(
    function: &Function,
    before: &[Vec<Block>],
    from: Block,
    to: Block,
    condition: Value,
) -> Option<Answer> {
    let (mut from, mut to) = (from, to);
    for step in 0..FAR {
        if let Some(Terminator::Branch {
            condition: asked,
            then,
            other,
        }) = &function.block(from).end
            && *asked == condition
        {
            return match then.block == other.block {
                false => Some(Answer::Always(then.block == to)),
                true => (step == 0).then_some(Answer::BySide),
            };
        }
        let [only] = *before[from.0 as usize] else {
            return None;
        };
        (from, to) = (only, from);
    }
    None
}

/// Another parameter like this one.
fn copy(function: &mut Function, param: Value) -> Value {
    let (ty, slot) = (function.ty(param), function.value(param).slot);
    function.make(Op::Param, ty, slot)
}

/// Whether a block uses some of these values.
fn uses(function: &Function, block: Block, values: &[Value]) -> bool {
    let mut found = false;
    each_use(function, block, |value| found |= values.contains(&value));
    found
}

/// Has a block use others instead of these values.
fn replace(function: &mut Function, block: Block, values: &[Value], others: &[Value]) {
    let other = |value: Value| match values.iter().position(|own| *own == value) {
        Some(n) => others[n],
        None => value,
    };
    for n in 0..function.block(block).insts.len() {
        let inst = function.block(block).insts[n];
        function.values[inst.0 as usize].op.map_uses(other);
    }
    if let Some(end) = &mut function.block_mut(block).end {
        end.map_uses(other);
    }
}
