//! Loops whose rounds are known to be few are written out.
//!
//! Bytes that a loop moves one by one are moved eight or sixteen at a time if its rounds stand side by side: loads and
//! stores at distances that are numbers are what [`forward`](super::forward), [`merge`](super::merge),
//! [`combine`](super::combine) and [`vector`](super::vector) work on. So loops are written out that copy or fill
//! memory, or add up what they load; others only if they are small. What a loop hands on from round to round in any
//! other way takes its time however it is written.
//!
//! Only innermost loops whose rounds are known, and that are left at one place, are written out; when they are gone,
//! the loops around them are innermost. A loop with many rounds becomes one with fewer and longer rounds; those that
//! don't make a whole one go first. The price of all rounds is paid once ([`rounds`]), where the loop is left.

use std::collections::{HashMap, HashSet};

use super::fold::offset;
use super::loops::{Loop, loops};
use super::place::place;
use super::rewrite::predecessors;
use super::{dead, params, rounds, straight};
use crate::dominators::Dominators;
use crate::ir::{BinOp, Block, Function, Op, Order, Region, Target, Terminator, Ty, UnOp, Value};

/// How many instructions a function may have more afterwards.
const ROOM: usize = 2048;
/// How many instructions a loop may become.
const WHOLE: usize = 640;
/// How many a loop may become that is not known to gain much.
const SMALL: usize = 128;
/// How many instructions a round of a loop may have that is left.
const ROUND: usize = 160;
/// How many rounds become one at most.
const TOGETHER: usize = 16;
/// How many operations lie between a counter and an address at most.
const DEPTH: u32 = 6;
/// How many loops are written out at most.
const MOST: usize = 32;

/// Writes loops out. Says whether there were any.
pub(super) fn run(function: &mut Function) -> bool {
    if loops(function).is_empty() {
        return false;
    }
    dead::run(function);
    let mut pass = Unroll {
        room: ROOM,
        left: Vec::new(),
    };
    let changed = (0..MOST).take_while(|_| pass.next(function)).count() > 0;
    if changed {
        params::run(function);
        straight::run(function);
        reassociate(function);
    }
    changed
}

struct Unroll {
    /// How many instructions may still be added.
    room: usize,
    /// Heads of loops that stay as they are.
    left: Vec<Block>,
}

/// What becomes of a loop.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// How many rounds stand before it.
    before: usize,
    /// How many rounds become one; all that there are if no loop remains.
    together: usize,
    /// Whether a loop remains.
    again: bool,
}

impl Unroll {
    /// Writes out the next loop, if there is one.
    fn next(&mut self, function: &mut Function) -> bool {
        let found = loops(function);
        let inner = |of: &&Loop| {
            !self.left.contains(&of.head)
                && !function.block(of.head).cold
                && !found.iter().any(|l| l.head != of.head && of.has(l.head))
        };
        let found: Vec<&Loop> = found.iter().filter(inner).collect();
        if found.is_empty() {
            return false;
        }
        let (dominators, before) = (Dominators::new(function), predecessors(function));
        for of in found {
            self.left.push(of.head);
            let Some((count, last)) = rounds::exact(function, &dominators, &before, of) else {
                continue;
            };
            let Some(plan) = self.plan(function, &before, of, count as usize) else {
                continue;
            };
            rounds::run(function, &dominators, &before, of);
            dead::run(function);
            let before = predecessors(function);
            let added = size(function, of) * (plan.before + plan.together - 1);
            self.room = self.room.saturating_sub(added);
            self.left.extend(write(function, &before, of, last, plan));
            return true;
        }
        false
    }

    /// What to make of a loop with so many rounds.
    fn plan(
        &self,
        function: &Function,
        before: &[Vec<Block>],
        of: &Loop,
        count: usize,
    ) -> Option<Plan> {
        let size = size(function, of);
        let whole = Plan {
            before: 0,
            together: count,
            again: false,
        };
        let fits = |most: usize| count * size <= most.min(self.room);
        let kind = kind(function, before, of)?;
        if fits(SMALL) || kind == Kind::Moves && fits(WHOLE) {
            return Some(whole);
        }
        let together = (ROUND.min(self.room / 2) / size).min(TOGETHER);
        if kind == Kind::Other || together < 2 || count < 2 * together {
            return None;
        }
        // Powers of two keep what is moved aligned as it was.
        let together = 1 << together.ilog2();
        Some(Plan {
            before: count % together,
            together,
            again: true,
        })
    }
}

/// What a loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It fills or moves memory: nothing goes from round to round but what is counted.
    Moves,
    /// It adds up what it loads.
    Adds,
    Other,
}

/// What a loop does; none if it is not worth a thought.
fn kind(function: &Function, before: &[Vec<Block>], of: &Loop) -> Option<Kind> {
    let (mut stores, mut elsewhere) = (false, false);
    let insts = of.blocks.iter().flat_map(|&b| &function.block(b).insts);
    let inside: HashSet<Value> = insts.clone().copied().collect();
    for &inst in insts {
        match &function.value(inst).op {
            // Code that counts its blocks is replaced soon.
            Op::Store {
                region: Region::Counts,
                ..
            } => return None,
            Op::Atomic { .. }
            | Op::Lookup { .. }
            | Op::Native { .. }
            | Op::Local { .. }
            | Op::TailCall(..) => return None,
            Op::Load { order, .. } if *order != Order::Plain => return None,
            Op::Load { base, .. } => elsewhere |= is_loaded(function, &inside, *base, DEPTH),
            Op::Store { region, base, .. } => {
                stores |= *region != Region::Env;
                elsewhere |= is_loaded(function, &inside, *base, DEPTH);
            }
            _ => {}
        }
    }
    let params = &function.block(of.head).params;
    let mut adds = 0;
    for (n, &param) in params.iter().enumerate() {
        for &from in before[of.head.0 as usize].iter().filter(|b| of.has(**b)) {
            for target in super::rewrite::edges(function, from, of.head) {
                let next = target.args[n];
                let (base, _) = offset(function, next);
                if base == param {
                    continue;
                }
                if !is_sum(function, next, param) {
                    return Some(Kind::Other);
                }
                adds += 1;
            }
        }
    }
    Some(match (adds, stores) {
        _ if elsewhere => Kind::Other,
        (0, true) => Kind::Moves,
        (1, false) => Kind::Adds,
        _ => Kind::Other,
    })
}

/// Whether a value depends on what is loaded in the loop: then rounds don't lie side by side in memory.
fn is_loaded(function: &Function, inside: &HashSet<Value>, value: Value, depth: u32) -> bool {
    if !inside.contains(&value) {
        return false;
    }
    let mut found = depth == 0;
    match &function.value(value).op {
        Op::Load { .. } => true,
        op => {
            op.uses(|used| found = found || is_loaded(function, inside, used, depth - 1));
            found
        }
    }
}

/// Whether a value is a parameter and a number that was loaded.
fn is_sum(function: &Function, next: Value, param: Value) -> bool {
    let Op::Bin(BinOp::Add, a, b) = function.value(next).op else {
        return false;
    };
    let (a, b) = if a == param { (a, b) } else { (b, a) };
    let loads = |value| match function.value(value).op {
        Op::Un(UnOp::ZeroExtend, load) => {
            function.ty(load) == Ty::I32 && place(function, load).is_some()
        }
        _ => false,
    };
    a == param && function.ty(next) == Ty::I64 && loads(b)
}

/// How many instructions a loop has, but for what takes from the budget.
fn size(function: &Function, of: &Loop) -> usize {
    let insts = of.blocks.iter().flat_map(|&b| &function.block(b).insts);
    let of_env = |op: &Op| match op {
        Op::Load { region, .. } | Op::Store { region, .. } => *region == Region::Env,
        Op::TrapIf { .. } => true,
        _ => false,
    };
    let insts = insts.filter(|inst| !of_env(&function.value(**inst).op));
    insts.count().max(1)
}

/// Copies of a loop's blocks, one for each round that is written before the blocks themselves.
struct Writer<'a> {
    function: &'a mut Function,
    of: &'a Loop,
    /// The loop's blocks, each after those that lead to it.
    order: Vec<Block>,
    /// The block that leaves the loop.
    last: Block,
    copies: Vec<HashMap<Block, Block>>,
    /// The copy that the loop that remains begins with.
    again: Option<usize>,
    /// Whether one edge leads back to the head, so that a copy that only the one before leads to needs no parameters.
    one_latch: bool,
    /// What they are instead in the next copy.
    given: Option<Vec<Value>>,
}

/// Writes a loop out. Returns the head of the loop that remains, if one does.
fn write(
    function: &mut Function,
    before: &[Vec<Block>],
    of: &Loop,
    last: Block,
    plan: Plan,
) -> Option<Block> {
    let order = function.reverse_postorder().into_iter();
    let order = order.filter(|&block| of.has(block)).collect();
    let back = before[of.head.0 as usize].iter().filter(|b| of.has(**b));
    let mut writer = Writer {
        function,
        of,
        order,
        last,
        copies: Vec::new(),
        again: plan.again.then_some(plan.before),
        one_latch: back.count() == 1,
        given: None,
    };
    for _ in 1..plan.before + plan.together {
        let blocks = writer.of.blocks.iter();
        let blocks = blocks.map(|&block| (block, writer.function.make_block()));
        let blocks = blocks.collect();
        writer.copies.push(blocks);
    }
    for n in 0..writer.copies.len() {
        writer.copy(n);
    }
    let Some(first) = writer.copies.first() else {
        writer.finish(None);
        return None;
    };
    let first = first[&of.head];
    for &from in before[of.head.0 as usize].iter().filter(|b| !of.has(**b)) {
        let end = writer.function.block_mut(from).end.iter_mut();
        let targets = end.flat_map(Terminator::targets_mut);
        targets
            .filter(|target| target.block == of.head)
            .for_each(|target| target.block = first);
    }
    let again = writer.again.and_then(|n| writer.copies.get(n));
    let again = again.map(|blocks| blocks[&of.head]);
    writer.finish(again);
    again
}

impl Writer<'_> {
    /// The head of the round after a copy.
    fn head_after(&self, n: usize) -> Block {
        let copy = self.copies.get(n + 1);
        copy.map_or(self.of.head, |blocks| blocks[&self.of.head])
    }

    /// Fills a copy, which goes on with the next one.
    fn copy(&mut self, n: usize) {
        let mut values = HashMap::new();
        let given = self.given.take();
        let head_params = &self.function.block(self.of.head).params;
        values.extend(
            head_params
                .iter()
                .copied()
                .zip(given.iter().flatten().copied()),
        );
        for &block in &self.order {
            for param in self.function.block(block).params.clone() {
                let (ty, slot) = (self.function.ty(param), self.function.value(param).slot);
                let new = || self.function.make(Op::Param, ty, slot);
                values.entry(param).or_insert_with(new);
            }
        }
        for at in 0..self.order.len() {
            let block = self.order[at];
            let mut data = self.function.block(block).clone();
            if block == self.of.head && given.is_some() {
                data.params.clear();
            }
            for value in &mut data.params {
                *value = values[value];
            }
            for value in &mut data.insts {
                let mut made = self.function.value(*value).clone();
                let new = |value: Value| values.get(&value).copied().unwrap_or(value);
                made.op.map_uses(new);
                let made = self.function.make(made.op, made.ty, made.slot);
                values.insert(*value, made);
                *value = made;
            }
            if block == self.last {
                data.end = data.end.map(|end| self.stays(end));
            }
            if let Some(end) = &mut data.end {
                end.map_uses(|value| values.get(&value).copied().unwrap_or(value));
                end.targets_mut().for_each(|target| self.lead_on(n, target));
            }
            *self.function.block_mut(self.copies[n][&block]) = data;
        }
    }

    /// Has an edge of a copy lead to where it belongs.
    fn lead_on(&mut self, n: usize, target: &mut Target) {
        if target.block != self.of.head {
            let copy = self.copies[n].get(&target.block);
            target.block = copy.copied().unwrap_or(target.block);
            return;
        }
        target.block = self.head_after(n);
        let follows = n + 1 < self.copies.len() && self.again != Some(n + 1);
        if follows && self.one_latch {
            self.given = Some(std::mem::take(&mut target.args));
        }
    }

    /// The way of a branch that stays in the loop.
    fn stays(&self, end: Terminator) -> Terminator {
        let stays = end.targets().find(|target| self.of.has(target.block));
        Terminator::Jump(stays.cloned().expect("the branch is in the loop"))
    }

    /// Makes the loop's own blocks the last round: before the loop is left, or before it goes on with `again`.
    fn finish(self, again: Option<Block>) {
        let Some(again) = again else {
            let end = self.function.block_mut(self.last).end.take();
            let leaves = end.iter().flat_map(Terminator::targets);
            let mut leaves = leaves.filter(|target| !self.of.has(target.block));
            let leaves: Option<Target> = leaves.next().cloned();
            let leaves = leaves.expect("the branch leaves the loop");
            self.function.block_mut(self.last).end = Some(Terminator::Jump(leaves));
            return;
        };
        for &block in &self.order {
            let end = self.function.block_mut(block).end.iter_mut();
            let targets = end.flat_map(Terminator::targets_mut);
            targets
                .filter(|target| target.block == self.of.head)
                .for_each(|target| target.block = again);
        }
    }
}

/// Makes `x + (y + 8)` of two values `(x + y) + 8`: so rounds differ in numbers only.
fn reassociate(function: &mut Function) {
    for block in function.reverse_postorder() {
        let insts = std::mem::take(&mut function.block_mut(block).insts);
        let mut out = Vec::with_capacity(insts.len());
        for inst in insts {
            if let Some((x, y, by)) = parted(function, inst) {
                let (ty, slot) = (function.ty(inst), function.value(inst).slot);
                let sum = function.make(Op::Bin(BinOp::Add, x, y), ty, slot);
                let by = function.number(ty, by);
                function.values[inst.0 as usize].op = Op::Bin(BinOp::Add, sum, by);
                out.push(sum);
            }
            out.push(inst);
        }
        function.block_mut(block).insts = out;
    }
}

/// Two values and a number that a sum is made of, if both were added before.
fn parted(function: &Function, inst: Value) -> Option<(Value, Value, u64)> {
    let Op::Bin(BinOp::Add, a, b) = function.value(inst).op else {
        return None;
    };
    let is_number = |value| function.constant(value).is_some();
    if is_number(a) || is_number(b) {
        return None;
    }
    let ((x, p), (y, q)) = (offset(function, a), offset(function, b));
    let by = p.wrapping_add(q);
    (by != 0 && !is_number(x) && !is_number(y)).then_some((x, y, by))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::super::{simplify_all, vector};
    use super::*;
    use crate::build::{Emitter, target};
    use crate::ir::Cmp;

    /// A loop that goes from 0 on in steps of 4 until `rounds` are over, and hands on a sum.
    fn counting(rounds: u64, work: impl Fn(&mut Emitter, Value, Value) -> Value) -> Function {
        let mut emit = Emitter::new(0);
        let [head, out] = [(); 2].map(|()| emit.function.make_block());
        let zero = emit.number(Ty::I64, 0);
        emit.end(Terminator::Jump(Target {
            block: head,
            args: vec![zero, zero],
        }));
        let [at, sum] = [(); 2].map(|()| emit.function.make(Op::Param, Ty::I64, 0));
        emit.function.block_mut(head).params = vec![at, sum];
        emit.block = head;
        emit.charge();
        let new = work(&mut emit, at, sum);
        let next = emit.moved(at, 4);
        let condition = emit.cmp_with(Cmp::Ne, next, rounds * 4);
        emit.end(Terminator::Branch {
            condition,
            then: Target {
                block: head,
                args: vec![next, new],
            },
            other: target(out),
        });
        emit.block = out;
        emit.end(Terminator::Return(new));
        emit.function
    }

    fn moves(emit: &mut Emitter, at: Value, sum: Value) -> Value {
        let base = emit.bin(BinOp::Add, emit.env, at);
        let number = emit.load(Ty::I32, Region::Packet, base, 0);
        emit.store(Region::Packet, base, 4000, number);
        sum
    }

    fn adds(emit: &mut Emitter, at: Value, sum: Value) -> Value {
        let base = emit.bin(BinOp::Add, emit.env, at);
        let number = emit.load(Ty::I32, Region::Packet, base, 0);
        let number = emit.resize(number, Ty::I64);
        emit.bin(BinOp::Add, sum, number)
    }

    fn multiplies(emit: &mut Emitter, at: Value, sum: Value) -> Value {
        let sum = emit.bin(BinOp::Add, sum, at);
        emit.bin_with(BinOp::Mul, sum, 31)
    }

    fn count(function: &Function, is: impl Fn(&Op) -> bool) -> usize {
        let blocks = function.reverse_postorder().into_iter();
        let insts = blocks.flat_map(|block| function.block(block).insts.clone());
        insts.filter(|inst| is(&function.value(*inst).op)).count()
    }

    #[test]
    fn loops_are_written_out_if_it_pays() {
        type Work = fn(&mut Emitter, Value, Value) -> Value;
        for (work, rounds, loads, remain, changes) in [
            (moves as Work, 2, 2, 0, true),
            (moves, 64, 64, 0, true),
            (moves, 1000, 16 + 8, 1, true),
            (adds, 375, 16 + 7, 1, true),
            (multiplies, 4, 0, 0, true),
            (multiplies, 500, 0, 1, false),
        ] {
            let mut function = counting(rounds, work);
            simplify_all(&mut function);
            assert_eq!(run(&mut function), changes, "{function}");
            crate::verify(&function).unwrap();
            simplify_all(&mut function);
            crate::verify(&function).unwrap();
            assert_eq!(loops(&function).len(), remain, "{function}");
            let is_load = |op: &Op| {
                matches!(
                    op,
                    Op::Load {
                        region: Region::Packet,
                        ..
                    }
                )
            };
            assert_eq!(count(&function, is_load), loads, "{function}");
            let charges = count(&function, |op| matches!(op, Op::TrapIf { .. }));
            assert_eq!(charges, 1, "{function}");
        }
    }

    #[test]
    fn sums_go_from_round_to_round_in_pairs() {
        let mut function = counting(375, adds);
        simplify_all(&mut function);
        run(&mut function);
        simplify_all(&mut function);
        vector::run(&mut function);
        dead::run(&mut function);
        crate::verify(&function).unwrap();
        let [of] = &loops(&function)[..] else {
            panic!("{function}");
        };
        let params = &function.block(of.head).params;
        let carried = params.iter().filter(|p| function.ty(**p) == Ty::V128);
        assert_eq!(carried.count(), 1, "{function}");
        let sums = |op: &Op| matches!(op, Op::Un(UnOp::Sum, _));
        let inside = of.blocks.iter().flat_map(|&b| &function.block(b).insts);
        let inside = inside.filter(|inst| sums(&function.value(**inst).op));
        assert_eq!(
            (inside.count(), count(&function, sums)),
            (0, 1),
            "{function}"
        );
    }
}
