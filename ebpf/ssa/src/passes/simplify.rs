//! Simpler operations, one value for equal ones, and no branch on what is known.
//!
//! A branch tells something to the blocks that its edges alone lead to: what was compared with a number is
//! that number there, and the comparison, and its opposite, need not be asked again. In hot copies of blocks,
//! where only hot paths meet, that makes most of a packet's header known.

use std::collections::HashMap;

use super::fold::{Folded, Zeros, fold, negated, zero_bits};
use super::rewrite::{Aliases, edges, predecessors};
use crate::dominators::Dominators;
use crate::ir::{Block, Cmp, Function, Op, Terminator, Ty, UnOp, Value};

/// How often an operation is simplified again at most.
const ROUNDS: usize = 8;

/// Goes over all blocks once, those that dominate others first.
pub(super) fn run(function: &mut Function) {
    let dominators = Dominators::new(function);
    let before = predecessors(function);
    let mut pass = Simplify {
        aliases: Aliases::new(function),
        seen: HashMap::new(),
        told: HashMap::new(),
        answers: HashMap::new(),
        choices: HashMap::new(),
        extended: HashMap::new(),
        zeros: Zeros::new(),
        ended: vec![false; function.blocks.len()],
        before: &before,
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
    /// What values are in a block and those it dominates, by the branches that led there.
    told: HashMap<Value, Vec<(Block, Value)>>,
    /// How comparisons come out there.
    answers: HashMap<(Cmp, Value, Value), Vec<(Block, bool)>>,
    /// Choices by what is [asked] for.
    choices: HashMap<[Value; 2], Vec<Value>>,
    /// Values that were made wider, and the wider ones.
    extended: HashMap<Value, Vec<Value>>,
    zeros: Zeros,
    /// Blocks that were simplified.
    ended: Vec<bool>,
    before: &'a [Vec<Block>],
    dominators: &'a Dominators,
    out: Vec<Value>,
}

/// An operation whose result depends on its operands alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Pure {
    Bin(crate::ir::BinOp, Value, Value),
    Un(crate::ir::UnOp, Value, Ty),
    Cmp(Cmp, Value, Value),
    Select(Value, Value, Value),
}

impl Simplify<'_> {
    fn block(&mut self, function: &mut Function, block: Block) {
        self.params(function, block);
        self.learn_on_entry(function, block);
        let insts = std::mem::take(&mut function.block_mut(block).insts);
        self.out = Vec::with_capacity(insts.len());
        for inst in insts {
            self.inst(function, block, inst);
        }
        let data = function.block_mut(block);
        data.insts = std::mem::take(&mut self.out);
        self.ended[block.0 as usize] = true;
        let Some(mut end) = data.end.take() else {
            return;
        };
        end.map_uses(|value| self.resolve(block, value));
        let end = decided(function, end);
        function.block_mut(block).end = Some(end);
    }

    /// What a value is in a block.
    fn resolve(&mut self, block: Block, value: Value) -> Value {
        let value = self.aliases.resolve(value);
        let Some(told) = self.told.get(&value) else {
            return value;
        };
        let holds = |(home, _): &&(Block, Value)| self.dominators.dominates(*home, block);
        match told.iter().rev().find(holds) {
            Some(&(_, known)) => self.aliases.resolve(known),
            None => value,
        }
    }

    /// Notes which bits of a block's parameters are zero wherever it is entered from.
    fn params(&mut self, function: &Function, block: Block) {
        let before = &self.before[block.0 as usize];
        // Around a loop anything may come.
        if !before.iter().all(|from| self.ended[from.0 as usize]) {
            return;
        }
        for (n, &param) in function.block(block).params.iter().enumerate() {
            let mut zero = u64::MAX;
            for &from in before {
                for target in edges(function, from, block) {
                    zero &= zero_bits(function, &self.zeros, target.args[n], 0);
                }
            }
            if !before.is_empty() {
                self.zeros.insert(param, zero);
            }
        }
    }

    /// What the one edge that leads to a block says.
    fn learn_on_entry(&mut self, function: &mut Function, block: Block) {
        let [from] = *self.before[block.0 as usize] else {
            return;
        };
        let Some((condition, [then, other])) = function.branch(from) else {
            return;
        };
        let holds = then.block == block;
        if then.block != other.block {
            self.learn(function, block, condition, holds);
        }
    }

    /// From here on a condition is known.
    fn learn(&mut self, function: &mut Function, block: Block, condition: Value, holds: bool) {
        let op = function.value(condition).op.clone();
        if let Op::Cmp(op, a, b) = op {
            self.answers
                .entry((op, a, b))
                .or_default()
                .push((block, holds));
            self.answers
                .entry((negated(op), a, b))
                .or_default()
                .push((block, !holds));
            let equal = (op, holds) == (Cmp::Eq, true) || (op, holds) == (Cmp::Ne, false);
            if let Some(number) = function.constant(b).filter(|_| equal) {
                self.learn_number(function, block, a, number);
            }
        }
        if !holds || matches!(op, Op::Cmp(..)) {
            self.learn_number(function, block, condition, holds.into());
        }
        self.learn_choices(function, block, condition, holds);
    }

    /// A value is a number from here on, and so are its copies in other widths.
    fn learn_number(&mut self, function: &mut Function, block: Block, value: Value, number: u64) {
        let known = function.number(function.ty(value), number);
        self.told.entry(value).or_default().push((block, known));
        for wide in self.extended.get(&value).cloned().unwrap_or_default() {
            self.learn_number(function, block, wide, number);
        }
    }

    /// What is chosen by a condition that is known from here on.
    fn learn_choices(&mut self, function: &Function, block: Block, condition: Value, holds: bool) {
        let choices = self.choices.get(&asked(function, condition));
        for choice in choices.cloned().unwrap_or_default() {
            let Op::Select(by, a, b) = function.value(choice).op else {
                continue;
            };
            let holds = match (&function.value(condition).op, &function.value(by).op) {
                _ if condition == by => holds,
                (Op::Cmp(op, ..), Op::Cmp(other, ..)) if op == other => holds,
                (Op::Cmp(op, ..), Op::Cmp(other, ..)) if negated(*op) == *other => !holds,
                _ => continue,
            };
            let chosen = if holds { a } else { b };
            self.told.entry(choice).or_default().push((block, chosen));
        }
    }

    /// Simplifies an instruction, and the ones that this needs.
    fn inst(&mut self, function: &mut Function, block: Block, inst: Value) {
        let mut op = function.value(inst).op.clone();
        op.map_uses(|value| self.resolve(block, value));
        let (ty, slot) = (function.value(inst).ty, function.value(inst).slot);
        for _ in 0..ROUNDS {
            let mut extra = Vec::new();
            let folded = fold(function, &self.zeros, &op, (ty, slot), &mut extra);
            for value in extra {
                self.inst(function, block, value);
            }
            match folded {
                None => break,
                Some(Folded::Value(value)) => {
                    let value = self.resolve(block, value);
                    return self.aliases.set(inst, value);
                }
                Some(Folded::Op(simpler)) => {
                    op = simpler;
                    op.map_uses(|value| self.resolve(block, value));
                }
            }
        }
        if let Some(known) = self.answer(function, block, &op) {
            return self.aliases.set(inst, known);
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
        match op {
            Op::Select(condition, ..) => {
                let asked = asked(function, condition);
                self.choices.entry(asked).or_default().push(inst);
            }
            Op::Un(UnOp::ZeroExtend, narrow) => {
                self.extended.entry(narrow).or_default().push(inst);
            }
            _ => {}
        }
        function.values[inst.0 as usize].op = op;
        self.out.push(inst);
    }

    /// How a comparison comes out, if a branch has said so.
    fn answer(&self, function: &mut Function, block: Block, op: &Op) -> Option<Value> {
        let Op::Cmp(op, a, b) = *op else {
            return None;
        };
        let answers = self.answers.get(&(op, a, b))?;
        let mut answers = answers.iter().rev();
        let found = answers.find(|(home, _)| self.dominators.dominates(*home, block));
        found.map(|(_, holds)| function.number(Ty::I8, (*holds).into()))
    }
}

/// The values that a condition compares, or itself.
fn asked(function: &Function, condition: Value) -> [Value; 2] {
    match function.value(condition).op {
        Op::Cmp(_, a, b) => [a, b],
        _ => [condition; 2],
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
