//! Which ways between blocks a profile saw taken.
//!
//! Blocks are counted, ways are not; but a block runs as often as the ways to it are taken, and the ways from
//! it. Where all but one of them are known, so is the last. A way that stays unknown may have been taken.

use std::collections::HashMap;

use squalus_analysis::FuncId;

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

/// The blocks of a function.
pub(super) fn blocks_of(facts: &squalus_analysis::Facts, func: FuncId) -> Vec<usize> {
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
