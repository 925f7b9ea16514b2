//! Which ways between blocks a profile saw taken.
//!
//! Blocks are counted, ways are not; but a block runs as often as the ways to it are taken, and the ways from
//! it. Where all but one of them are known, so is the last. A way that stays unknown may have been taken.

use std::collections::HashMap;

use squalus_analysis::{Facts, FuncId};

use crate::support::Profile;

/// A way, from block to block of the bytecode.
type Edge = (usize, usize);

/// How often the ways of a function were taken, as far as that can be told.
#[derive(Debug, Default)]
pub(super) struct Edges {
    taken: HashMap<Edge, u64>,
}

impl Edges {
    /// Reckons the counts of ways. `successors` are the ways from each block that can be taken.
    pub(super) fn find(
        profile: &Profile,
        entry: usize,
        own: &[usize],
        successors: impl Fn(usize) -> Vec<usize>,
    ) -> Edges {
        let mut from: HashMap<usize, Vec<Edge>> = HashMap::new();
        let mut to: HashMap<usize, Vec<Edge>> = HashMap::new();
        for &block in own {
            for next in successors(block) {
                let edge = (block, next);
                let edges = from.entry(block).or_default();
                if !edges.contains(&edge) {
                    edges.push(edge);
                    to.entry(next).or_default().push(edge);
                }
            }
        }
        let mut edges = Edges::default();
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for &block in own {
                let count = profile.counts().get(block).copied().unwrap_or(0);
                let arrivals = (block != entry).then(|| to.get(&block)).flatten();
                for all in [from.get(&block), arrivals].into_iter().flatten() {
                    changed |= edges.complete(all, count);
                }
            }
        }
        edges
    }

    /// Finds the one unknown count of several whose sum is known.
    fn complete(&mut self, all: &[Edge], sum: u64) -> bool {
        let mut unknown = all.iter().filter(|edge| !self.taken.contains_key(edge));
        let (Some(&last), None) = (unknown.next(), unknown.next()) else {
            return false;
        };
        let known: u64 = all.iter().filter_map(|edge| self.taken.get(edge)).sum();
        self.taken.insert(last, sum.saturating_sub(known));
        true
    }

    /// How often a way was taken, if that is known.
    pub(super) fn taken(&self, from: usize, to: usize) -> Option<u64> {
        self.taken.get(&(from, to)).copied()
    }
}

/// Whether code that was made for one profile is not good for traffic that gave a newer one: ways are taken often now
/// that were not hot, or rarely that were taken often. What lies between says nothing, so that a little traffic
/// which comes and goes makes no difference; nor do functions that ran less than `least` times in both.
#[must_use]
pub fn has_changed(facts: &Facts, old: &Profile, new: &Profile, least: u64) -> bool {
    let cfg = facts.cfg();
    (0..cfg.functions() as FuncId).any(|func| {
        let (entry, own) = (cfg.entry(func), blocks_of(facts, func));
        let [then, now] = [old, new].map(|profile| Ways::new(facts, profile, entry, &own));
        if then.runs.max(now.runs) < least {
            return false;
        }
        let differs = |from: usize| {
            successors(facts, from).any(|to| {
                let (then, now) = (then.share(from, to), now.share(from, to));
                now == Share::Often && then < Share::Hot
                    || then == Share::Often && now == Share::Rare
            })
        };
        (then.runs == 0) != (now.runs == 0) || own.into_iter().any(differs)
    })
}

/// How often a way is taken, compared with how often its function runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Share {
    /// Hardly ever.
    Rare,
    Seldom,
    /// So often that it gets code of its own.
    Hot,
    /// So often that it matters.
    Often,
}

/// A function's ways.
struct Ways<'a> {
    profile: &'a Profile,
    edges: Edges,
    runs: u64,
}

impl<'a> Ways<'a> {
    fn new(facts: &Facts, profile: &'a Profile, entry: usize, own: &[usize]) -> Ways<'a> {
        let next = |block| successors(facts, block).collect();
        Ways {
            profile,
            edges: Edges::find(profile, entry, own, next),
            runs: profile.counts().get(entry).copied().unwrap_or(0),
        }
    }

    fn share(&self, from: usize, to: usize) -> Share {
        const RARE: u64 = 1024;
        const OFTEN: u64 = 64;
        let whole = self.profile.counts().get(to).copied().unwrap_or(0);
        let count = self.edges.taken(from, to).unwrap_or(whole);
        let is_one_in = |bound| count != 0 && count.saturating_mul(bound) >= self.runs;
        if is_one_in(OFTEN) {
            Share::Often
        } else if self.profile.is_often(to, count) {
            Share::Hot
        } else if is_one_in(RARE) {
            Share::Seldom
        } else {
            Share::Rare
        }
    }
}

/// The blocks that execution can go on with after a block.
pub(super) fn successors(facts: &Facts, from: usize) -> impl Iterator<Item = usize> + use<> {
    let block = &facts.cfg().blocks()[from];
    let last = facts.inst(block.end - 1);
    let falls = last.is_some_and(|known| known.can_fall);
    let jumps = last.is_some_and(|known| known.can_jump);
    let falls = falls.then_some(block.fall).flatten();
    let jumps = jumps.then_some(block.jump).flatten();
    falls.into_iter().chain(jumps)
}

/// The blocks of a function.
pub(super) fn blocks_of(facts: &Facts, func: FuncId) -> Vec<usize> {
    let blocks = facts.cfg().blocks();
    let own = |&n: &usize| blocks[n].func == func && facts.entry(n).is_some();
    (0..blocks.len()).filter(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A diamond in which one side leads past the other: 0 to 1 or 2, 1 to 2 or 3, 2 to 3.
    fn edges(counts: [u64; 4]) -> Edges {
        let profile = Profile::new(counts.to_vec(), &[0; 4]);
        let successors = |block| match block {
            0 => vec![1, 2],
            1 => vec![2, 3],
            2 => vec![3],
            _ => vec![],
        };
        Edges::find(&profile, 0, &[0, 1, 2, 3], successors)
    }

    #[test]
    fn ways_between_blocks_that_ran_may_not_have_been_taken() {
        let edges = edges([100, 100, 100, 100]);
        assert_eq!(edges.taken(0, 2), Some(0));
        assert_eq!(edges.taken(1, 2), Some(100));
        assert_eq!(edges.taken(1, 3), Some(0));
    }

    #[test]
    fn counts_that_do_not_add_up_do_no_harm() {
        let edges = edges([100, 103, 99, 102]);
        assert_eq!(edges.taken(0, 2), Some(0));
        assert!(edges.taken(1, 3).is_some_and(|taken| taken <= 4));
    }
}
