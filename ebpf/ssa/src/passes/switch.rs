//! Many comparisons of one value with numbers become one jump by a table.
//!
//! eBPF has no such jump, so compilers search for the way in steps, a branch each. What such a search leads to is asked
//! of it here for all numbers between which it can tell apart.

use super::fold::{compare, known_zero};
use super::rewrite::each_use;
use crate::ir::{BinOp, Block, Cmp, Function, Op, Target, Terminator, Ty, UnOp, Value};

/// How many branches there are at least: fewer are foreseen well, and take no more time than the jump.
const FEWEST: usize = 8;
/// How many there are at most.
const MOST: usize = 64;
/// The longest table.
const LONGEST: u64 = 128;

/// Goes over all blocks.
pub(super) fn run(function: &mut Function) {
    let order = function.reverse_postorder();
    let branches = |block: &&Block| asks(function, **block).is_some();
    if order.iter().filter(branches).count() < FEWEST {
        return;
    }
    let uses = uses(function, &order);
    let mut done = vec![false; function.blocks.len()];
    for block in order {
        if done[block.0 as usize] {
            continue;
        }
        let Some(search) = Search::from(function, &uses, block) else {
            continue;
        };
        search
            .steps
            .iter()
            .for_each(|step| done[step.0 as usize] = true);
        if search.steps.len() >= FEWEST {
            search.replace(function);
        }
    }
}

/// How often each value is used.
fn uses(function: &Function, order: &[Block]) -> Vec<u32> {
    let mut uses = vec![0; function.values.len()];
    for &block in order {
        each_use(function, block, |value| uses[value.0 as usize] += 1);
    }
    uses
}

/// A comparison with a number that a block ends by.
struct Asked<'a> {
    condition: Value,
    op: Cmp,
    value: Value,
    number: u64,
    ways: [&'a Target; 2],
}

fn asks(function: &Function, block: Block) -> Option<Asked<'_>> {
    let Some(Terminator::Branch {
        condition,
        then,
        other,
    }) = &function.block(block).end
    else {
        return None;
    };
    let Op::Cmp(op, value, number) = function.value(*condition).op else {
        return None;
    };
    Some(Asked {
        condition: *condition,
        op,
        value,
        number: function.constant(number)?,
        ways: [then, other],
    })
}

/// A search for the way that belongs to a value.
struct Search {
    root: Block,
    value: Value,
    /// The blocks that make it, the root among them.
    steps: Vec<Block>,
    /// The numbers that it compares with.
    numbers: Vec<u64>,
}

impl Search {
    fn from(function: &Function, uses: &[u32], root: Block) -> Option<Search> {
        let value = asks(function, root)?.value;
        let mut search = Search {
            root,
            value,
            steps: vec![root],
            numbers: Vec::new(),
        };
        let mut at = 0;
        while at < search.steps.len() {
            let asked = asks(function, search.steps[at])?;
            search.numbers.push(asked.number);
            for way in asked.ways {
                if search.goes_on(function, uses, way) && search.steps.len() < MOST {
                    search.steps.push(way.block);
                }
            }
            at += 1;
        }
        Some(search)
    }

    /// Whether an edge leads to a block that does nothing but compare the same value.
    fn goes_on(&self, function: &Function, uses: &[u32], way: &Target) -> bool {
        let data = function.block(way.block);
        let Some(asked) = asks(function, way.block) else {
            return false;
        };
        let alone = match *data.insts {
            [] => true,
            [only] => only == asked.condition && uses[only.0 as usize] == 1,
            _ => false,
        };
        alone
            && asked.value == self.value
            && way.args.is_empty()
            && data.cold == function.block(self.root).cold
            && !self.steps.contains(&way.block)
    }

    /// The way for a number.
    fn way<'a>(&self, function: &'a Function, number: u64) -> Option<&'a Target> {
        let mut block = self.root;
        for _ in 0..self.steps.len() {
            let asked = asks(function, block)?;
            let holds = compare(asked.op, function.ty(self.value), number, asked.number);
            let way = asked.ways[usize::from(!holds)];
            if !self.steps.contains(&way.block) || way.block == self.root {
                return Some(way);
            }
            block = way.block;
        }
        None
    }

    /// The ways, each with the first number that it is for; the next one begins where it ends.
    fn ways<'a>(&self, function: &'a Function, most: u64) -> Option<Vec<(u64, &'a Target)>> {
        let ty = function.ty(self.value);
        let mut starts: Vec<u64> = vec![0, ty.mask() / 2 + 1];
        starts.extend(self.numbers.iter().flat_map(|&n| [n, n.wrapping_add(1)]));
        starts.retain(|&start| start <= most);
        starts.sort_unstable();
        starts.dedup();
        let mut ways: Vec<(u64, &Target)> = Vec::with_capacity(starts.len());
        for start in starts {
            let way = self.way(function, start)?;
            if ways.last().is_none_or(|(_, last)| *last != way) {
                ways.push((start, way));
            }
        }
        Some(ways)
    }

    /// Puts one jump in the place of the search, unless its table would be long.
    fn replace(&self, function: &mut Function) -> Option<()> {
        let ty = function.ty(self.value);
        let most = !known_zero(function, self.value, 0);
        let most = u64::MAX.checked_shr(most.leading_zeros()).unwrap_or(0);
        let ways = self.ways(function, most)?;
        // What lies outside of the table goes one way.
        let rest = ways.last()?.1.clone();
        let first = ways.iter().find(|(_, way)| **way != rest)?.0;
        let end = ways.last()?.0;
        if end - first > LONGEST || (ty == Ty::I64 && most > u32::MAX.into()) {
            return None;
        }
        let mut targets = Vec::with_capacity((end - first) as usize);
        let mut next = ways.iter().peekable();
        while let Some((start, way)) = next.next() {
            let stop = next.peek().map_or(*start, |(start, _)| *start);
            let range = (*start).max(first)..stop.max(first);
            targets.extend(range.map(|_| (*way).clone()));
        }
        let value = self.index(function, first);
        function.block_mut(self.root).end = Some(Terminator::Switch {
            value,
            targets,
            rest,
        });
        Some(())
    }

    /// The value's distance from the table's first number, in 32 bits.
    fn index(&self, function: &mut Function, first: u64) -> Value {
        let ty = function.ty(self.value);
        let slot = function.block(self.root).end_slot;
        let mut value = self.value;
        let make = |function: &mut Function, op, ty| {
            let made = function.make(op, ty, slot);
            function.block_mut(self.root).insts.push(made);
            made
        };
        if first != 0 {
            let number = function.number(ty, first.wrapping_neg());
            value = make(function, Op::Bin(BinOp::Add, value, number), ty);
        }
        match ty {
            Ty::I32 => value,
            Ty::I64 => make(function, Op::Un(UnOp::Truncate, value), Ty::I32),
            _ => make(function, Op::Un(UnOp::ZeroExtend, value), Ty::I32),
        }
    }
}
