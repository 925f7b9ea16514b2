//! Numbers of 32 bits that are added up are loaded and added two at a time.
//!
//! Checksums add words of 32 bits to a sum of 64. Where several that lie side by side in memory are added, each pair
//! becomes one load of two numbers, pairs are added to pairs, and the two sums at the end to each other: additions can
//! be done in any order, and what carries out of 64 bits is lost in any. In a loop the pairs are summed up over all
//! rounds, and only added to each other behind it.
//!
//! Each load waits for the end of its sum, never the other way round: it is made where both of its halves were made
//! before, and only if nothing in between may change them. Only memory that nobody else sees is treated so: others
//! could see that words are loaded later, and two at once.

use std::collections::HashMap;

use super::dead;
use super::loops::{Loop, loops};
use super::place::{Place, place};
use super::rewrite::{each_use, edges, predecessors};
use crate::dominators::Dominators;
use crate::ir::{BinOp, Block, Function, Op, Order, Region, Terminator, Ty, UnOp, Value};

/// Fewer pairs than this are not worth the additions at the end.
const LEAST: usize = 4;

/// Goes over all blocks, then over all loops.
pub(super) fn run(function: &mut Function) {
    let uses = Uses::of(function);
    let mut any = false;
    for block in function.reverse_postorder() {
        any |= sums(function, &uses, block);
    }
    if any {
        // What was added up one by one is not used any more.
        dead::run(function);
        for of in loops(function) {
            carry(function, &of);
        }
    }
}

/// How often values are used.
struct Uses(Vec<u32>);

impl Uses {
    fn of(function: &Function) -> Uses {
        Uses::in_blocks(function, &function.reverse_postorder())
    }

    fn in_blocks(function: &Function, blocks: &[Block]) -> Uses {
        let mut uses = vec![0; function.values.len()];
        for &block in blocks {
            each_use(function, block, |value| uses[value.0 as usize] += 1);
        }
        Uses(uses)
    }

    fn is_one(&self, value: Value) -> bool {
        self.0.get(value.0 as usize) == Some(&1)
    }
}

/// Adds up pairs in a block. Says whether there were any.
fn sums(function: &mut Function, uses: &Uses, block: Block) -> bool {
    let is_sum = |inst: &Value| operands(function, *inst).is_some();
    if function
        .block(block)
        .insts
        .iter()
        .filter(|i| is_sum(i))
        .count()
        < 2 * LEAST - 1
    {
        return false;
    }
    let insts = function.block(block).insts.clone();
    let at: HashMap<Value, usize> = insts.iter().enumerate().map(|(n, &i)| (i, n)).collect();
    let mut inner = vec![false; insts.len()];
    let mut added: Vec<(usize, Vec<Value>)> = Vec::new();
    for (n, &root) in insts.iter().enumerate().rev() {
        if inner[n] {
            continue;
        }
        let Some((a, b)) = operands(function, root) else {
            continue;
        };
        let (mut open, mut leaves) = (vec![b, a], Vec::new());
        while let Some(value) = open.pop() {
            match (operands(function, value), at.get(&value)) {
                (Some((a, b)), Some(&at)) if uses.is_one(value) => {
                    inner[at] = true;
                    open.extend([b, a]);
                }
                _ => leaves.push(value),
            }
        }
        let pairs = pairs(function, uses, &at, &leaves);
        let first = pairs.iter().flatten().map(|leaf| at[&leaf.load]).min();
        let Some(first) = first.filter(|_| pairs.len() >= LEAST) else {
            continue;
        };
        let between = insts[first..n].iter().copied();
        let between: Vec<Value> = between
            .filter(|inst| function.value(*inst).op.has_effect())
            .collect();
        let changed = |leaf: &Leaf| {
            let mut between = between.iter();
            between.any(|&inst| leaf.place.may_be_changed_by(function, inst))
        };
        if !pairs.iter().flatten().any(changed) {
            added.push((n, rebuild(function, root, &leaves, &pairs)));
        }
    }
    let any = !added.is_empty();
    let mut out = Vec::with_capacity(insts.len());
    for (n, inst) in insts.into_iter().enumerate() {
        if added.last().is_some_and(|(root, _)| *root == n) {
            out.extend(added.pop().map(|(_, new)| new).unwrap_or_default());
        }
        out.push(inst);
    }
    function.block_mut(block).insts = out;
    any
}

/// What a sum of 64 bits is made of.
fn operands(function: &Function, value: Value) -> Option<(Value, Value)> {
    match function.value(value).op {
        Op::Bin(BinOp::Add, a, b) if function.ty(value) == Ty::I64 => Some((a, b)),
        _ => None,
    }
}

/// A number of 32 bits that is loaded and added.
#[derive(Clone, Copy)]
struct Leaf {
    /// What is added.
    value: Value,
    load: Value,
    place: Place,
}

/// Loads that lie side by side, all in the region of the first one, by their places.
fn pairs(
    function: &Function,
    uses: &Uses,
    at: &HashMap<Value, usize>,
    leaves: &[Value],
) -> Vec<[Leaf; 2]> {
    let leaf = |&value: &Value| {
        let Op::Un(UnOp::ZeroExtend, load) = function.value(value).op else {
            return None;
        };
        let loaded = function.ty(load) == Ty::I32 && at.contains_key(&load);
        let alone = uses.is_one(value) && uses.is_one(load);
        let private = |region| matches!(region, Region::Packet | Region::Frame | Region::Temp(_));
        let place = place(function, load).filter(|place| private(place.region))?;
        if !loaded || !alone {
            return None;
        }
        Some(Leaf { value, load, place })
    };
    let mut found: Vec<Leaf> = leaves.iter().filter_map(leaf).collect();
    if let Some(region) = found.first().map(|leaf| leaf.place.region) {
        found.retain(|leaf| leaf.place.region == region);
    }
    found.sort_by_key(|leaf| (leaf.place.base, leaf.place.off));
    let mut pairs = Vec::new();
    let mut rest = &found[..];
    while let [a, b, ..] = *rest {
        let beside = a.place.is_followed_by(&b.place);
        pairs.extend(beside.then_some([a, b]));
        rest = &rest[if beside { 2 } else { 1 }..];
    }
    pairs
}

/// Makes a sum one of pairs and what is left; returns the instructions to put before it.
fn rebuild(
    function: &mut Function,
    root: Value,
    leaves: &[Value],
    pairs: &[[Leaf; 2]],
) -> Vec<Value> {
    let mut new = Vec::new();
    let slot = function.value(root).slot;
    let mut make = |function: &mut Function, op: Op, ty: Ty| {
        let value = function.make(op, ty, slot);
        new.push(value);
        value
    };
    let mut vectors = Vec::new();
    for [low, _] in pairs {
        let Op::Load {
            region, base, off, ..
        } = function.value(low.load).op
        else {
            unreachable!("leaves are loads");
        };
        let order = Order::Plain;
        let load = Op::Load {
            region,
            base,
            off,
            order,
        };
        let both = make(function, load, Ty::I64);
        vectors.push(make(function, Op::Un(UnOp::Pair, both), Ty::V128));
    }
    while vectors.len() > 1 {
        let next = vectors.chunks(2).map(|two| match *two {
            [a, b] => make(function, Op::Bin(BinOp::Add, a, b), Ty::V128),
            _ => two[0],
        });
        vectors = next.collect();
    }
    let sum = Op::Un(UnOp::Sum, vectors[0]);
    // What comes from before comes last: a loop waits for it.
    let paired = |value: &Value| pairs.iter().flatten().any(|leaf| leaf.value == *value);
    let mut rest: Vec<Value> = leaves.iter().copied().filter(|v| !paired(v)).collect();
    rest.sort_by_key(|&value| matches!(function.value(value).op, Op::Param));
    let mut rest = rest.into_iter();
    let Some(mut all) = rest.next() else {
        function.values[root.0 as usize].op = sum;
        return new;
    };
    for value in rest {
        all = make(function, Op::Bin(BinOp::Add, all, value), Ty::I64);
    }
    let sum = make(function, sum, Ty::I64);
    function.values[root.0 as usize].op = Op::Bin(BinOp::Add, all, sum);
    new
}

/// A sum that goes from round to round of a loop.
struct Carried {
    /// Which of the head's parameters.
    n: usize,
    /// What it is in the next round: `rest` and the sum of `pair`.
    next: Value,
    rest: Value,
    pair: Value,
    /// The block that has it.
    home: Block,
    /// Where the loop is left to.
    exit: Block,
}

/// Lets sums of pairs go from round to round as pairs.
fn carry(function: &mut Function, of: &Loop) {
    let (dominators, before) = (Dominators::new(function), predecessors(function));
    for n in 0..function.block(of.head).params.len() {
        if let Some(carried) = Carried::find(function, &dominators, &before, of, n) {
            carried.run(function, &before, of);
        }
    }
}

impl Carried {
    fn find(
        function: &Function,
        dominators: &Dominators,
        before: &[Vec<Block>],
        of: &Loop,
        n: usize,
    ) -> Option<Carried> {
        let param = function.block(of.head).params[n];
        let mut latches = before[of.head.0 as usize].iter().filter(|b| of.has(**b));
        let (&latch, None) = (latches.next()?, latches.next()) else {
            return None;
        };
        let next = edges(function, latch, of.head).next()?.args[n];
        let (rest, sum) = operands(function, next)?;
        let Op::Un(UnOp::Sum, pair) = function.value(sum).op else {
            return None;
        };
        // The parameter goes into what it is next, and nowhere else; what it is next is not asked for in the loop.
        let (everywhere, inside) = (Uses::of(function), Uses::in_blocks(function, &of.blocks));
        let alone = |value| everywhere.is_one(value) && inside.is_one(value);
        let mut at = rest;
        while at != param {
            let (a, b) = operands(function, at).filter(|_| alone(at))?;
            at = if b == param { b } else { a };
        }
        if !alone(param) || !inside.is_one(next) {
            return None;
        }
        let mut exits = of.blocks.iter().flat_map(|&block| {
            let targets = function
                .block(block)
                .end
                .iter()
                .flat_map(Terminator::targets);
            targets.filter(|target| !of.has(target.block) && !function.ends_run(target.block))
        });
        let (exit, None) = (exits.next()?.block, exits.next()) else {
            return None;
        };
        let home = of.blocks.iter().copied();
        let mut home = home.filter(|&block| function.block(block).insts.contains(&next));
        let home = home.next()?;
        let known = before[exit.0 as usize].len() == 1 && dominators.dominates(home, exit);
        known.then_some(Carried {
            n,
            next,
            rest,
            pair,
            home,
            exit,
        })
    }

    fn run(&self, function: &mut Function, before: &[Vec<Block>], of: &Loop) {
        let slot = function.value(self.next).slot;
        let param = function.make(Op::Param, Ty::V128, slot);
        let all = Op::Bin(BinOp::Add, param, self.pair);
        let all = function.make(all, Ty::V128, slot);
        let nothing = function.number(Ty::V128, 0);
        function.block_mut(of.head).params.push(param);
        let mut sources = before[of.head.0 as usize].clone();
        sources.sort();
        sources.dedup();
        for from in sources {
            let inside = of.has(from);
            let end = function.block_mut(from).end.iter_mut();
            for target in end.flat_map(Terminator::targets_mut) {
                if target.block == of.head {
                    target.args.push(if inside { all } else { nothing });
                    if inside {
                        target.args[self.n] = self.rest;
                    }
                }
            }
        }
        let insts = &mut function.block_mut(self.home).insts;
        let at = insts.iter().position(|inst| *inst == self.next);
        insts.insert(at.expect("the block has it"), all);
        let sum = function.make(Op::Un(UnOp::Sum, all), Ty::I64, slot);
        let end = function.make(Op::Bin(BinOp::Add, self.rest, sum), Ty::I64, slot);
        for block in function.reverse_postorder() {
            if !of.has(block) {
                replace(function, block, self.next, end);
            }
        }
        function.block_mut(self.exit).insts.splice(0..0, [sum, end]);
    }
}

/// Replaces a value in a block.
fn replace(function: &mut Function, block: Block, old: Value, new: Value) {
    let with = |value| if value == old { new } else { value };
    for n in 0..function.block(block).insts.len() {
        let inst = function.block(block).insts[n];
        function.values[inst.0 as usize].op.map_uses(with);
    }
    if let Some(end) = &mut function.block_mut(block).end {
        end.map_uses(with);
    }
}
