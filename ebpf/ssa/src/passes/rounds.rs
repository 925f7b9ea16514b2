//! Loops whose rounds are known to be few need not count them one by one.
//!
//! If a parameter of a loop's head begins with a number and moves by the same distance each round, and a branch on it
//! that no round goes around leaves the loop, then the loop can be gone through beforehand: it ends after so many
//! rounds, or earlier. The budget is then not taken from in each round, but once where the loop is left, as much as
//! the parameter has moved. What the parameter is compared with need not be a number: it is enough that it is not
//! greater than one.

use squalus_runtime::{Env, TrapReason};

use super::fold::{calculate, compare, known_zero, negated};
use super::loops::Loop;
use crate::build::Emitter;
use crate::dominators::Dominators;
use crate::ir::{
    BinOp, Block, Cmp, Fixed, Function, Op, Reason, Region, Target, Terminator, Ty, UnOp, Value,
};

/// More rounds than this are not gone through beforehand, and counted one by one.
pub(super) const MOST: u64 = 4096;
/// How many operations lie between a parameter and a condition at most.
const DEPTH: u32 = 8;

/// Takes the budget where the loop is left instead of in it, if its rounds are known to be few. Returns the blocks that
/// were made on the edges that leave it, and where they lead.
pub(super) fn run(
    function: &mut Function,
    dominators: &Dominators,
    before: &[Vec<Block>],
    of: &Loop,
) -> Vec<(Block, Block)> {
    let Some(charge) = Charge::find(function, of.head) else {
        return Vec::new();
    };
    let counters = function.block(of.head).params.len();
    let Some(mut counter) =
        (0..counters).find_map(|n| Counter::find(function, dominators, before, of, n))
    else {
        return Vec::new();
    };
    let data = function.block_mut(of.head);
    data.insts
        .retain(|inst| *inst != charge.trap && *inst != charge.store);
    let has_next = |block: &Block| function.block(*block).insts.contains(&counter.next);
    let home = of.blocks.iter().copied().find(has_next);
    counter.home = home;
    let edges = leaving(function, of).into_iter();
    edges
        .map(|(from, to)| (counter.charge(function, dominators, from, to), to))
        .collect()
}

/// How often the head of a loop is come to, if that is known, and the block that leaves it. There is one way out
/// then, but for those that end the run.
pub(super) fn exact(
    function: &Function,
    dominators: &Dominators,
    before: &[Vec<Block>],
    of: &Loop,
) -> Option<(u64, Block)> {
    let [(from, _)] = *leaving(function, of) else {
        return None;
    };
    let counters = 0..function.block(of.head).params.len();
    let mut counters = counters.filter_map(|n| Counter::find(function, dominators, before, of, n));
    let found = counters.find(|counter| counter.last == from && counter.rounds.count.is_some())?;
    Some((found.rounds.count?, from))
}

/// The instructions at a loop's head that take from the budget.
struct Charge {
    trap: Value,
    store: Value,
}

impl Charge {
    fn find(function: &Function, head: Block) -> Option<Charge> {
        let insts = &function.block(head).insts;
        let is_trap = |inst: &&Value| {
            let reason = Reason::Known(TrapReason::Budget);
            matches!(function.value(**inst).op, Op::TrapIf { reason: known, .. } if known == reason)
        };
        let stored = |inst: &Value| match function.value(*inst).op {
            Op::Store {
                region: Region::Env,
                off,
                value,
                ..
            } if off == Env::OFFSET_BUDGET as i32 => Some((*inst, value)),
            _ => None,
        };
        let mut stores = insts.iter().filter_map(stored);
        // Only one, and nobody looks at it in between.
        let ((store, left), None) = (stores.next()?, stores.next()) else {
            return None;
        };
        // Where an inner loop is left, more than one piece is taken at once.
        let is_one = match function.value(left).op {
            Op::Bin(BinOp::Add, _, by) => function.constant(by) == Some(u64::MAX),
            _ => false,
        };
        let trap = *insts.iter().find(is_trap)?;
        is_one.then_some(Charge { trap, store })
    }
}

/// The edges that leave a loop, but for those that end the run.
fn leaving(function: &Function, of: &Loop) -> Vec<(Block, Block)> {
    let mut edges = Vec::new();
    for &from in &of.blocks {
        let targets = function
            .block(from)
            .end
            .iter()
            .flat_map(Terminator::targets);
        for target in targets.filter(|target| !of.has(target.block)) {
            let edge = (from, target.block);
            if !function.ends_run(target.block) && !edges.contains(&edge) {
                edges.push(edge);
            }
        }
    }
    edges
}

/// A parameter that moves by the same distance each round.
struct Counter {
    param: Value,
    first: u64,
    /// What it is in the next round, and the block that knows it.
    next: Value,
    home: Option<Block>,
    /// The branch that leaves the loop at the latest.
    last: Block,
    rounds: Rounds,
}

/// The rounds that a branch lets a loop make.
struct Rounds {
    /// How far the parameter moves in each; not 0.
    step: i64,
    /// How many they are if it is this branch that leaves the loop, if that is known. In any case they are so few
    /// that the parameter doesn't come around.
    count: Option<u64>,
}

impl Counter {
    /// The parameter with this number, if it ends the loop soon.
    fn find(
        function: &Function,
        dominators: &Dominators,
        before: &[Vec<Block>],
        of: &Loop,
        n: usize,
    ) -> Option<Counter> {
        let param = function.block(of.head).params[n];
        let (mut first, mut next) = (None, None);
        let mut latches = Vec::new();
        for &from in &before[of.head.0 as usize] {
            let targets = function
                .block(from)
                .end
                .iter()
                .flat_map(Terminator::targets);
            for target in targets.filter(|target| target.block == of.head) {
                let (value, known) = match of.has(from) {
                    true => (target.args[n], &mut next),
                    false => (target.args[n], &mut first),
                };
                if known.is_some_and(|known| known != value) {
                    return None;
                }
                *known = Some(value);
                latches.extend(of.has(from).then_some(from));
            }
        }
        let (first, next) = (function.constant(first?)?, next?);
        let every = |block: &Block| {
            latches
                .iter()
                .all(|&latch| dominators.dominates(*block, latch))
        };
        let mut tests = of.blocks.iter().copied().filter(every);
        let (last, rounds) = tests.find_map(|block| {
            let test = Test::at(function, of, block)?;
            Some((block, test.rounds(function, param, first, next)?))
        })?;
        Some(Counter {
            param,
            first,
            next,
            home: None,
            last,
            rounds,
        })
    }

    /// Puts a block on an edge that takes from the budget: a piece for each time the loop's head was come to.
    fn charge(
        &self,
        function: &mut Function,
        dominators: &Dominators,
        from: Block,
        to: Block,
    ) -> Block {
        let block = function.make_block();
        let (slot, cold) = (function.block(from).end_slot, function.block(to).cold);
        let mut arguments = Vec::new();
        if let Some(end) = &mut function.block_mut(from).end {
            for target in end.targets_mut().filter(|target| target.block == to) {
                arguments = std::mem::take(&mut target.args);
                target.block = block;
            }
        }
        let made = std::mem::replace(function, Function::new(function.id));
        let mut emit = Emitter::at(made, block, slot);
        let has_next = self
            .home
            .is_some_and(|home| dominators.dominates(home, from));
        let pieces = match self.rounds.count.filter(|_| from == self.last) {
            Some(count) => emit.number(Ty::I64, count),
            // The loop then need not keep what the parameter was.
            None if has_next => self.moves(&mut emit, self.next),
            None => {
                let moves = self.moves(&mut emit, self.param);
                emit.moved(moves, 1)
            }
        };
        let left = emit.load_env(Ty::I64, Env::OFFSET_BUDGET);
        let short = emit.cmp(Cmp::ULt, left, pieces);
        emit.trap_if(short, TrapReason::Budget);
        let left = emit.bin(BinOp::Sub, left, pieces);
        emit.store(Region::Env, emit.env, Env::OFFSET_BUDGET as i32, left);
        let args = arguments;
        emit.end(Terminator::Jump(Target { block: to, args }));
        emit.function.block_mut(block).cold = cold;
        *function = emit.function;
        block
    }

    /// How often the parameter has moved when it is `now`.
    fn moves(&self, emit: &mut Emitter, now: Value) -> Value {
        let first = emit.number(emit.function.ty(self.param), self.first);
        let moved = match self.rounds.step > 0 {
            true => emit.bin(BinOp::Sub, now, first),
            false => emit.bin(BinOp::Sub, first, now),
        };
        let moved = emit.resize(moved, Ty::I64);
        match self.rounds.step.unsigned_abs() {
            1 => moved,
            step if step.is_power_of_two() => {
                emit.bin_with(BinOp::LShr, moved, step.trailing_zeros().into())
            }
            step => emit.bin_with(BinOp::UDiv, moved, step),
        }
    }
}

/// A branch that leaves a loop.
struct Test {
    condition: Value,
    /// Whether it leaves if the condition holds.
    leaves_if: bool,
}

impl Test {
    fn at(function: &Function, of: &Loop, block: Block) -> Option<Test> {
        match &function.block(block).end {
            Some(Terminator::Branch {
                condition,
                then,
                other,
            }) if of.has(then.block) != of.has(other.block) => Some(Test {
                condition: *condition,
                leaves_if: of.has(other.block),
            }),
            _ => None,
        }
    }

    /// The rounds of a loop that this branch leaves before long, if a parameter moves by the same distance in each.
    fn rounds(&self, function: &Function, param: Value, first: u64, next: Value) -> Option<Rounds> {
        let ty = function.ty(param);
        let distance = |now: u64, then: u64| {
            let shift = 64 - ty.bits();
            (then.wrapping_sub(now) << shift).cast_signed() >> shift
        };
        let exact = evaluate(function, self.condition, (param, first), DEPTH).is_some();
        let limit = if exact {
            None
        } else {
            Some(self.limit(function)?)
        };
        let (mut now, mut step) = (first, None);
        for count in 1..=MOST {
            let leaves = match limit {
                None => {
                    let holds = evaluate(function, self.condition, (param, now), DEPTH)?;
                    (holds != 0) == self.leaves_if
                }
                Some((op, a, most)) => {
                    let a = evaluate(function, a, (param, now), DEPTH)?;
                    compare(op, Ty::I64, a, most)
                }
            };
            let then = evaluate(function, next, (param, now), DEPTH)?;
            let moved = distance(now, then);
            if moved == 0 || step.is_some_and(|step| step != moved) {
                return None;
            }
            step = Some(moved);
            if leaves {
                let way = u128::from(moved.unsigned_abs()) * u128::from(count);
                return (way <= ty.mask().into()).then_some(Rounds {
                    step: moved,
                    count: exact.then_some(count),
                });
            }
            now = then;
        }
        None
    }

    /// The loop is left at the latest when this comparison of a value with a number holds.
    fn limit(&self, function: &Function) -> Option<(Cmp, Value, u64)> {
        let Op::Cmp(op, a, limit) = function.value(self.condition).op else {
            return None;
        };
        let leaves = if self.leaves_if { op } else { negated(op) };
        matches!(leaves, Cmp::UGe | Cmp::UGt).then(|| (leaves, a, most(function, limit)))
    }
}

/// The greatest number that a value can be, as far as that is easily seen.
fn most(function: &Function, value: Value) -> u64 {
    let mask = function.ty(value).mask();
    let by_bits = mask & !known_zero(function, value, 0);
    match function.value(value).op {
        Op::Un(UnOp::ZeroExtend, x) => most(function, x),
        Op::Bin(BinOp::Add, a, b) => function
            .constant(b)
            .and_then(|b| most(function, a).checked_add(b))
            .filter(|sum| *sum <= mask)
            .unwrap_or(by_bits),
        _ => by_bits,
    }
}

/// What a value is if a parameter is a number; none if it depends on others.
fn evaluate(function: &Function, value: Value, given: (Value, u64), depth: u32) -> Option<u64> {
    if value == given.0 {
        return Some(given.1);
    }
    let ty = function.ty(value);
    let of = |value: Value| evaluate(function, value, given, depth.checked_sub(1)?);
    Some(match function.value(value).op {
        Op::Fixed(Fixed::Number(_, number)) => number,
        Op::Bin(op, a, b) => calculate(op, ty, of(a)?, of(b)?),
        Op::Cmp(op, a, b) => compare(op, function.ty(a), of(a)?, of(b)?).into(),
        Op::Un(UnOp::ZeroExtend | UnOp::Truncate, a) => of(a)? & ty.mask(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::super::loops::loops;
    use super::super::rewrite::predecessors;
    use super::*;
    use crate::build::target;

    /// A loop that goes on while a number that begins with `first` and moves by `step` is not `last`.
    fn counting(first: u64, step: i64, last: u64) -> Function {
        let mut emit = Emitter::new(0);
        let [head, out] = [(); 2].map(|()| emit.function.make_block());
        let first = emit.number(Ty::I32, first);
        let mut enter = target(head);
        enter.args.push(first);
        emit.end(Terminator::Jump(enter));
        let param = emit.function.make(Op::Param, Ty::I32, 0);
        emit.function.block_mut(head).params.push(param);
        emit.block = head;
        emit.charge();
        let next = emit.bin_with(BinOp::Add, param, step.cast_unsigned() & Ty::I32.mask());
        let condition = emit.cmp_with(Cmp::Ne, next, last);
        let mut then = target(head);
        then.args.push(next);
        emit.end(Terminator::Branch {
            condition,
            then,
            other: target(out),
        });
        emit.block = out;
        let zero = emit.number(Ty::I64, 0);
        emit.end(Terminator::Return(zero));
        emit.function
    }

    #[test]
    fn few_rounds_are_counted_at_the_end() {
        for (first, step, last, few) in [
            (0, 1, 64, true),
            (100, -4, 0, true),
            (0xffff_ffff, 3, 32, true),
            (0, 1, 100_000, false),
            (0, 2, 9, false),
            (0, 0, 9, false),
            // It comes around.
            (0, 0x1000_0001, (100 * 0x1000_0001) & 0xffff_ffff, false),
        ] {
            let mut function = counting(first, step, last);
            let of = loops(&function).remove(0);
            let (dominators, before) = (Dominators::new(&function), predecessors(&function));
            let added = run(&mut function, &dominators, &before, &of);
            crate::verify(&function).unwrap();
            assert_eq!(added.len(), usize::from(few), "{function}");
            let charge = Charge::find(&function, of.head);
            assert_eq!(charge.is_none(), few, "{function}");
        }
    }

    #[test]
    fn a_limit_that_cannot_be_great_is_enough() {
        for (mask, few) in [(127, true), (0xffff, false)] {
            let mut emit = Emitter::new(0);
            let [head, out] = [(); 2].map(|()| emit.function.make_block());
            let some = emit.load(Ty::I64, Region::Packet, emit.env, 0);
            let some = emit.bin_with(BinOp::And, some, mask);
            let limit = emit.moved(some, 32);
            let mut enter = target(head);
            enter.args.push(emit.number(Ty::I64, 0));
            emit.end(Terminator::Jump(enter));
            let param = emit.function.make(Op::Param, Ty::I64, 0);
            emit.function.block_mut(head).params.push(param);
            emit.block = head;
            emit.charge();
            let next = emit.moved(param, 1);
            let condition = emit.cmp(Cmp::ULt, next, limit);
            let mut then = target(head);
            then.args.push(next);
            emit.end(Terminator::Branch {
                condition,
                then,
                other: target(out),
            });
            emit.block = out;
            emit.end(Terminator::Return(next));
            let mut function = emit.function;
            let of = loops(&function).remove(0);
            let (dominators, before) = (Dominators::new(&function), predecessors(&function));
            run(&mut function, &dominators, &before, &of);
            crate::verify(&function).unwrap();
            let charge = Charge::find(&function, of.head);
            assert_eq!(charge.is_none(), few, "{function}");
        }
    }
}
