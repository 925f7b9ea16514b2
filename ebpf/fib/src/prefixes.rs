//! Longest prefix match over a set that never changes.
//!
//! For each prefix length that occurs there is a sorted list; a lookup searches one list after the other,
//! longest first. That is a dozen or two binary searches for a full Internet table, needs no memory of its
//! own, and gives shorter matches as easily as the longest.

use std::net::IpAddr;
use std::ops::Range;

use crate::facts::{Prefix, Route, bits};

/// The routes of one table, by their destinations.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    routes: Vec<Route>,
    /// By descending length.
    lengths: Vec<(u8, Vec<Entry>)>,
}

#[derive(Debug)]
struct Entry {
    bits: u128,
    routes: Range<usize>,
}

impl Prefixes {
    /// Arranges routes; those of one destination keep their order.
    pub(crate) fn new(mut routes: Vec<Route>) -> Prefixes {
        routes.sort_by_key(|route| {
            let len = route.destination.len;
            (std::cmp::Reverse(len), masked(route.destination))
        });
        let mut lengths: Vec<(u8, Vec<Entry>)> = Vec::new();
        let mut start = 0;
        for group in routes.chunk_by(|a, b| same(a.destination, b.destination)) {
            let end = start + group.len();
            let destination = group[0].destination;
            let entry = Entry {
                bits: masked(destination),
                routes: start..end,
            };
            match lengths.last_mut() {
                Some((len, entries)) if *len == destination.len => entries.push(entry),
                _ => lengths.push((destination.len, vec![entry])),
            }
            start = end;
        }
        Prefixes { routes, lengths }
    }

    /// The routes to destinations that contain `address`, those of the longest prefix first.
    pub(crate) fn matches(&self, address: IpAddr) -> impl Iterator<Item = &[Route]> {
        self.lengths.iter().filter_map(move |(len, entries)| {
            let wanted = masked(Prefix { address, len: *len });
            let found = entries.binary_search_by_key(&wanted, |entry| entry.bits);
            found
                .ok()
                .map(|at| &self.routes[entries[at].routes.clone()])
        })
    }
}

fn masked(prefix: Prefix) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix.len.min(128)));
    bits(prefix.address) & mask.unwrap_or(0)
}

fn same(a: Prefix, b: Prefix) -> bool {
    a.len == b.len && masked(a) == masked(b)
}
