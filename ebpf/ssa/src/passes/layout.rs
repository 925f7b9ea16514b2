//! Blocks in the order that suits the code generator.
//!
//! A block that only leads on is taken out of the way: values on the edge of a loop that leads back then need no
//! block of their own, and a loop is one branch back. The code generator puts the second target of a branch right
//! after it: of two, the one that stays in the loop.

use super::fold::negated;
use super::loops::{Loop, loops};
use crate::ir::{BinOp, Block, Cmp, Function, Op, Target, Terminator, Ty, Value};

/// Goes over all blocks.
pub(super) fn run(function: &mut Function) {
    shorten(function);
    let found = loops(function);
    for of in &found {
        for &block in &of.blocks {
            advanced(function, of, block);
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
        let data = function.block(block);
        let mut used = |value: Value| {
            if let Some(at) = home[value.0 as usize]
                && at != block
            {
                passed[at.0 as usize] = false;
            }
        };
        for &inst in &data.insts {
            function.value(inst).op.uses(&mut used);
        }
        data.end.iter().for_each(|end| end.uses(&mut used));
    }
    passed
}

/// If a loop goes on by what a parameter of its head was, and the next one is known by then, it goes on by that: so
/// that only one of them is needed.
fn advanced(function: &mut Function, of: &Loop, block: Block) {
    let Some(Terminator::Branch {
        condition,
        then,
        other,
    }) = &function.block(block).end
    else {
        return;
    };
    let back = [then, other]
        .into_iter()
        .find(|target| target.block == of.head);
    let Op::Cmp(op @ (Cmp::Eq | Cmp::Ne), param, limit) = function.value(*condition).op else {
        return;
    };
    let params = &function.block(of.head).params;
    let place = params.iter().position(|&known| known == param);
    let (Some(back), Some(n), Some(limit)) = (back, place, function.constant(limit)) else {
        return;
    };
    let next = back.args[n];
    let Op::Bin(BinOp::Add, base, by) = function.value(next).op else {
        return;
    };
    let Some(by) = function.constant(by).filter(|_| base == param) else {
        return;
    };
    let (ty, slot) = (function.ty(param), function.value(*condition).slot);
    let limit = function.number(ty, limit.wrapping_add(by));
    let cmp = function.make(Op::Cmp(op, next, limit), Ty::I8, slot);
    let data = function.block_mut(block);
    data.insts.push(cmp);
    if let Some(Terminator::Branch { condition, .. }) = &mut data.end {
        *condition = cmp;
    }
}

/// Has a branch that may leave a loop stay in it by its second target.
fn stay(function: &mut Function, of: &Loop, block: Block) {
    let Some(Terminator::Branch {
        condition,
        then,
        other,
    }) = &function.block(block).end
    else {
        return;
    };
    if !of.has(then.block) || of.has(other.block) {
        return;
    }
    let Op::Cmp(op, a, b) = function.value(*condition).op else {
        return;
    };
    let slot = function.value(*condition).slot;
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
