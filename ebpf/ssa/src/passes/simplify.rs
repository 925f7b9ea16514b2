//! Simpler operations, one value for equal ones, and no branch on what is known.

use std::collections::HashMap;

use super::fold::{Folded, fold};
use super::rewrite::Aliases;
use crate::dominators::Dominators;
use crate::ir::{Block, Function, Op, Terminator, Ty, Value};

/// How often an operation is simplified again at most.
const ROUNDS: usize = 8;

/// Goes over all blocks once, those that dominate others first.
pub(super) fn run(function: &mut Function) {
    let dominators = Dominators::new(function);
    let mut pass = Simplify {
        aliases: Aliases::new(function),
        seen: HashMap::new(),
        dominators: &dominators,
        out: Vec::new(),
    };
    for &block in dominators.order() {
        pass.block(function, block);
    }
    // Loops use values that were simplified after them.
    pass.aliases.apply(function);
}

struct Simplify<'a> {
    aliases: Aliases,
    /// Values by what they are, and the block that defines them.
    seen: HashMap<(Pure, Ty), (Block, Value)>,
    dominators: &'a Dominators,
    out: Vec<Value>,
}

/// An operation whose result depends on its operands alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Pure {
    Bin(crate::ir::BinOp, Value, Value),
    Un(crate::ir::UnOp, Value, Ty),
    Cmp(crate::ir::Cmp, Value, Value),
    Select(Value, Value, Value),
}

impl Simplify<'_> {
    fn block(&mut self, function: &mut Function, block: Block) {
        let insts = std::mem::take(&mut function.block_mut(block).insts);
        self.out = Vec::with_capacity(insts.len());
        for inst in insts {
            self.inst(function, block, inst);
        }
        let data = function.block_mut(block);
        data.insts = std::mem::take(&mut self.out);
        let Some(mut end) = data.end.take() else {
            return;
        };
        end.map_uses(|value| self.aliases.resolve(value));
        let end = decided(function, end);
        function.block_mut(block).end = Some(end);
    }

    /// Simplifies an instruction, and the ones that this needs.
    fn inst(&mut self, function: &mut Function, block: Block, inst: Value) {
        let mut op = function.value(inst).op.clone();
        op.map_uses(|value| self.aliases.resolve(value));
        let (ty, slot) = (function.value(inst).ty, function.value(inst).slot);
        for _ in 0..ROUNDS {
            let mut extra = Vec::new();
            let folded = fold(function, &op, ty, slot, &mut extra);
            for value in extra {
                self.inst(function, block, value);
            }
            match folded {
                None => break,
                Some(Folded::Value(value)) => {
                    let value = self.aliases.resolve(value);
                    return self.aliases.set(inst, value);
                }
                Some(Folded::Op(simpler)) => {
                    op = simpler;
                    op.map_uses(|value| self.aliases.resolve(value));
                }
            }
        }
        if let Some(pure) = pure(function, &op) {
            if let Some(&(home, value)) = self.seen.get(&(pure, ty))
                && self.dominators.dominates(home, block)
            {
                return self.aliases.set(inst, value);
            }
            self.seen.insert((pure, ty), (block, inst));
        }
        if let Op::TrapIf { condition, .. } = op
            && function.constant(condition) == Some(0)
        {
            return;
        }
        function.values[inst.0 as usize].op = op;
        self.out.push(inst);
    }
}

fn pure(function: &Function, op: &Op) -> Option<Pure> {
    Some(match *op {
        Op::Bin(op, a, b) => Pure::Bin(op, a, b),
        Op::Un(op, a) => Pure::Un(op, a, function.ty(a)),
        Op::Cmp(op, a, b) => Pure::Cmp(op, a, b),
        Op::Select(c, a, b) => Pure::Select(c, a, b),
        _ => return None,
    })
}

/// A branch on a number is a jump.
fn decided(function: &Function, end: Terminator) -> Terminator {
    let Terminator::Branch {
        condition,
        then,
        other,
    } = &end
    else {
        return end;
    };
    match function.constant(*condition) {
        Some(0) => Terminator::Jump(other.clone()),
        Some(_) => Terminator::Jump(then.clone()),
        None => end,
    }
}
