//! Branches that only choose a value become instructions.
//!
//! eBPF has no instruction that chooses a value. Where the ways of a branch do nothing, the compiler had such a choice
//! in mind, and made a branch of it for want of one. A branch on data is often guessed wrong, and takes a jump and a
//! move for each side.

use super::fold::negated;
use crate::ir::{Block, Cmp, Function, Op, Target, Terminator, Ty, UnOp, Value};

/// How many numbers are chosen by one condition at most. Other values are chosen only where that costs next to nothing:
/// a comparison that is wanted as a number, and the lesser or greater of what is compared. All else would have to wait
/// for the condition, which a branch that is guessed right doesn't.
const MOST: usize = 2;

/// Goes over all blocks.
pub(super) fn run(function: &mut Function) {
    for block in function.reverse_postorder() {
        choose(function, block);
    }
}

/// Makes the end of a block a jump if all that its two ways differ in is easily chosen.
fn choose(function: &mut Function, block: Block) {
    let Some((condition, [then, other])) = function.branch(block) else {
        return;
    };
    let Op::Cmp(op, a, b) = function.value(condition).op else {
        return;
    };
    let slot = function.value(condition).slot;
    let cold = function.block(block).cold;
    let (Some(then), Some(other)) = (way(function, then, cold), way(function, other, cold)) else {
        return;
    };
    let pairs: Vec<(Value, Value)> = then.args.iter().copied().zip(other.args).collect();
    let easy = |&(x, y): &(Value, Value)| {
        x == y || is_asked(function, x, y).is_some() || is_extreme(function, op, [a, b], [x, y])
    };
    let hard: Vec<_> = pairs.iter().filter(|pair| !easy(pair)).collect();
    let number = |value: Value| function.constant(value).is_some();
    let numbers = hard.iter().all(|(x, y)| number(*x) && number(*y));
    if then.block != other.block || hard.len() > MOST || !numbers {
        return;
    }
    let mut args = Vec::with_capacity(pairs.len());
    for (x, y) in pairs {
        let ins = |function: &mut Function, op, ty| {
            let value = function.make(op, ty, slot);
            function.block_mut(block).insts.push(value);
            value
        };
        let ty = function.ty(x);
        let arg = match is_asked(function, x, y) {
            _ if x == y => x,
            None => ins(function, Op::Select(condition, x, y), ty),
            Some(holds) => {
                let op = if holds { op } else { negated(op) };
                let bit = ins(function, Op::Cmp(op, a, b), Ty::I8);
                match ty {
                    Ty::I8 => bit,
                    _ => ins(function, Op::Un(UnOp::ZeroExtend, bit), ty),
                }
            }
        };
        args.push(arg);
    }
    function.block_mut(block).end = Some(Terminator::Jump(Target {
        block: then.block,
        args,
    }));
}

/// Where an edge leads, by way of a block that does nothing else. None if it is taken rarely.
fn way(function: &Function, edge: &Target, cold: bool) -> Option<Target> {
    let data = function.block(edge.block);
    if data.cold != cold {
        return None;
    }
    Some(match &data.end {
        Some(Terminator::Jump(next)) if data.insts.is_empty() && data.params.is_empty() => {
            next.clone()
        }
        _ => edge.clone(),
    })
}

/// For 1 and 0 true, for 0 and 1 false.
fn is_asked(function: &Function, x: Value, y: Value) -> Option<bool> {
    match (function.constant(x), function.constant(y)) {
        (Some(1), Some(0)) => Some(true),
        (Some(0), Some(1)) => Some(false),
        _ => None,
    }
}

/// Whether the lesser or greater of two values that are compared is chosen, in whatever width.
fn is_extreme(function: &Function, op: Cmp, compared: [Value; 2], chosen: [Value; 2]) -> bool {
    let any_width = |mut value| {
        while let Op::Un(UnOp::ZeroExtend | UnOp::Truncate, of) = function.value(value).op {
            value = of;
        }
        value
    };
    let ([a, b], chosen) = (compared.map(any_width), chosen.map(any_width));
    !matches!(op, Cmp::Eq | Cmp::Ne) && (chosen == [a, b] || chosen == [b, a])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::build::{Emitter, target};
    use crate::ir::Region;

    /// A function that returns one of two values by how two numbers of the packet compare.
    fn branching(pick: impl Fn(&mut Emitter, Value, Value) -> [Value; 2], rare: bool) -> Function {
        let mut emit = Emitter::new(0);
        let [left, right, out] = [(); 3].map(|()| emit.function.make_block());
        let [a, b] = [0, 8].map(|off| emit.load(Ty::I64, Region::Packet, emit.env, off));
        let condition = emit.cmp(Cmp::ULt, a, b);
        emit.end(Terminator::Branch {
            condition,
            then: target(left),
            other: target(right),
        });
        let picked = pick(&mut emit, a, b);
        for (block, value) in [left, right].into_iter().zip(picked) {
            emit.block = block;
            let mut to = target(out);
            to.args.push(value);
            emit.end(Terminator::Jump(to));
        }
        let param = emit.function.make(Op::Param, Ty::I64, 0);
        emit.function.block_mut(out).params.push(param);
        emit.function.block_mut(right).cold = rare;
        emit.block = out;
        emit.end(Terminator::Return(param));
        emit.function
    }

    #[test]
    fn what_is_easily_chosen_needs_no_branch() {
        type Pick = fn(&mut Emitter, Value, Value) -> [Value; 2];
        let bits: Pick = |emit, _, _| [1, 0].map(|n| emit.number(Ty::I64, n));
        let opposite: Pick = |emit, _, _| [0, 1].map(|n| emit.number(Ty::I64, n));
        let least: Pick = |_, a, b| [a, b];
        let most: Pick = |_, a, b| [b, a];
        let others: Pick = |emit, _, _| [7, 3].map(|n| emit.number(Ty::I64, n));
        for (pick, rare, easy) in [
            (bits, false, true),
            (opposite, false, true),
            (least, false, true),
            (most, false, true),
            (least, true, false),
            (others, false, true),
            (others, true, false),
        ] {
            let mut function = branching(pick, rare);
            run(&mut function);
            crate::verify(&function).unwrap();
            let end = &function.block(Function::ENTRY).end;
            let jumps = matches!(end, Some(Terminator::Jump(_)));
            assert_eq!(jumps, easy, "{function}");
        }
    }
}
