//! Blocks in the order that suits the code generator.
//!
//! A block that only leads on is taken out of the way: values on the edge of a loop that leads back then need no
//! block of their own, and a loop is one branch back. The code generator puts the second target of a branch right
//! after it: of two, the one that stays in the loop. A branch that only chooses a value is none, and many that
//! look for the way of one value are one jump.

use super::choose;
use super::fold::{calculate, compare, negated};
use super::loops::{Loop, loops};
use super::rewrite::{each_use, edges, predecessors};
use super::rounds::MOST;
use super::{straight, switch};
use crate::ir::{BinOp, Block, Cmp, Function, Op, Target, Terminator, Ty, Value};

/// Goes over all blocks.
pub(super) fn run(function: &mut Function) {
    shorten(function);
    choose::run(function);
    straight::run(function);
    switch::run(function);
    let (found, before) = (loops(function), predecessors(function));
    for of in &found {
        for &block in &of.blocks {
            advanced(function, &before, of, block);
        }
    }
    for block in function.reverse_postorder() {
        let inner = found.iter().find(|of| of.has(block));
        if let Some(of) = inner {
            stay(function, of, block);
        }
    }
}

/// Leads edges past blocks that only lead on.
fn shorten(function: &mut Function) {
    let passed = passed(function);
    for block in function.reverse_postorder() {
        let Some(mut end) = function.block_mut(block).end.take() else {
            continue;
        };
        for target in end.targets_mut() {
            // Blocks may lead on in a circle.
            for _ in 0..passed.len() {
                if !passed[target.block.0 as usize] || target.block == block {
                    break;
                }
                *target = behind(function, target);
            }
        }
        function.block_mut(block).end = Some(end);
    }
}

/// Where an edge leads after a block that only leads on.
fn behind(function: &Function, edge: &Target) -> Target {
    let data = function.block(edge.block);
    let Some(Terminator::Jump(next)) = &data.end else {
        unreachable!("such blocks end with jumps");
    };
    let given = |value: &Value| match data.params.iter().position(|param| param == value) {
        Some(n) => edge.args[n],
        None => *value,
    };
    Target {
        block: next.block,
        args: next.args.iter().map(given).collect(),
    }
}

/// For each block, whether it only leads on, and nobody else uses its parameters. Numbers that it passes on are
/// made in it: on an edge they would be made before the branch, whichever way it goes.
fn passed(function: &Function) -> Vec<bool> {
    let order = function.reverse_postorder();
    let mut passed = vec![false; function.blocks.len()];
    for &block in order.iter().filter(|&&block| block != Function::ENTRY) {
        let data = function.block(block);
        let leads_on = matches!(&data.end, Some(Terminator::Jump(to))
            if to.block != block && function.block(to.block).cold == data.cold);
        let makes = |end: &Terminator| {
            let mut makes = false;
            end.uses(|arg| makes |= matches!(function.value(arg).op, Op::Fixed(_)));
            makes
        };
        let makes = data.end.as_ref().is_some_and(makes);
        passed[block.0 as usize] = data.insts.is_empty() && leads_on && !makes;
    }
    let mut home = vec![None; function.values.len()];
    for &block in &order {
        for &param in &function.block(block).params {
            home[param.0 as usize] = Some(block);
        }
    }
    for &block in &order {
        each_use(function, block, |value| {
            if let Some(at) = home[value.0 as usize]
                && at != block
            {
                passed[at.0 as usize] = false;
            }
        });
    }
    passed
}

/// If a loop goes on by what a parameter of its head was, and the next one is known by then, it goes on by that: so
/// that only one of them is needed. If it is known how it begins and ends, the question is which is less, for the
/// code generator would turn the one whether they are equal back.
fn advanced(function: &mut Function, before: &[Vec<Block>], of: &Loop, block: Block) {
    let Some((condition, [then, other])) = function.branch(block) else {
        return;
    };
    let back = [then, other]
        .into_iter()
        .position(|target| target.block == of.head);
    let Op::Cmp(op, param, limit) = function.value(condition).op else {
        return;
    };
    let params = &function.block(of.head).params;
    let place = params.iter().position(|&known| known == param);
    let (Some(back), Some(place), Some(limit)) = (back, place, function.constant(limit)) else {
        return;
    };
    let next = [then, other][back].args[place];
    let Op::Bin(BinOp::Add, base, by) = function.value(next).op else {
        return;
    };
    let Some(by) = function.constant(by).filter(|_| base == param) else {
        return;
    };
    let (ty, slot) = (function.ty(param), function.value(condition).slot);
    let again = if back == 0 { op } else { negated(op) };
    let mut latches = before[of.head.0 as usize]
        .iter()
        .filter(|from| of.has(**from));
    let alone = latches.all(|latch| *latch == block);
    let first = first(function, before, of, place).filter(|_| alone);
    let (op, limit) = match first.and_then(|first| last(ty, first, by, (again, limit))) {
        Some((stays, last)) if back == 0 => (stays, last),
        Some((stays, last)) => (negated(stays), last),
        None if matches!(op, Cmp::Eq | Cmp::Ne) => (op, limit.wrapping_add(by)),
        None => return,
    };
    let limit = function.number(ty, limit);
    let cmp = function.make(Op::Cmp(op, next, limit), Ty::I8, slot);
    let data = function.block_mut(block);
    data.insts.push(cmp);
    if let Some(Terminator::Branch { condition, .. }) = &mut data.end {
        *condition = cmp;
    }
}

/// The number that a parameter of a loop's head begins with.
fn first(function: &Function, before: &[Vec<Block>], of: &Loop, place: usize) -> Option<u64> {
    let outside = before[of.head.0 as usize]
        .iter()
        .filter(|from| !of.has(**from));
    let mut given = outside.flat_map(|&from| edges(function, from, of.head));
    let first = given.next()?.args[place];
    let same = given.all(|target| target.args[place] == first);
    function.constant(first).filter(|_| same)
}

/// For what begins with `first`, moves by `by` and goes on while a comparison with a number holds: how each next one
/// compares with the last if it goes on, and the last. None if there are too many, or they come around.
fn last(ty: Ty, first: u64, by: u64, (again, limit): (Cmp, u64)) -> Option<(Cmp, u64)> {
    let up = compare(Cmp::SGt, ty, by, 0);
    let stays = if up { Cmp::SLt } else { Cmp::SGt };
    let mut now = first;
    for _ in 0..MOST {
        let next = calculate(BinOp::Add, ty, now, by);
        if !compare(stays, ty, now, next) {
            return None;
        }
        if !compare(again, ty, now, limit) {
            return Some((stays, next));
        }
        now = next;
    }
    None
}

/// Has a branch that may leave a loop stay in it by its second target.
fn stay(function: &mut Function, of: &Loop, block: Block) {
    let Some((condition, [then, other])) = function.branch(block) else {
        return;
    };
    if !of.has(then.block) || of.has(other.block) {
        return;
    }
    let Op::Cmp(op, a, b) = function.value(condition).op else {
        return;
    };
    let slot = function.value(condition).slot;
    let (then, other) = (other.clone(), then.clone());
    let condition = function.make(Op::Cmp(negated(op), a, b), Ty::I8, slot);
    let data = function.block_mut(block);
    data.insts.push(condition);
    data.end = Some(Terminator::Branch {
        condition,
        then,
        other,
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn the_last_number_of_a_loop_is_found_if_it_doesn_t_come_around() {
        let minus = |n: u64| n.wrapping_neg();
        for (ty, first, by, again, found) in [
            (Ty::I64, 0, 8, (Cmp::Ne, 504), Some((Cmp::SLt, 512))),
            (
                Ty::I64,
                63,
                minus(1),
                (Cmp::Ne, 0),
                Some((Cmp::SGt, minus(1))),
            ),
            (Ty::I64, 0, 8, (Cmp::ULt, 250), Some((Cmp::SLt, 264))),
            (Ty::I64, 0, 8, (Cmp::Ne, 503), None),
            (Ty::I8, 0, 1, (Cmp::Ne, 126), Some((Cmp::SLt, 127))),
            (Ty::I8, 0, 1, (Cmp::Ne, 127), None),
            (Ty::I64, 0, 0, (Cmp::Ne, 1), None),
        ] {
            assert_eq!(last(ty, first, by, again), found, "{first} {by} {again:?}");
            let Some((stays, last)) = found else {
                continue;
            };
            let mut now = first;
            loop {
                let next = calculate(BinOp::Add, ty, now, by);
                let stays = compare(stays, ty, next, last);
                assert_eq!(stays, compare(again.0, ty, now, again.1), "{now}");
                if !stays {
                    break;
                }
                now = next;
            }
        }
    }
}
