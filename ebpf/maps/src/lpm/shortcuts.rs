//! The table that says, for the first bits of a key, where the way down has led after them.

use std::cmp::min;
use std::ops::Range;

use super::Trie;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Where the way to keys that begin alike leads: the link to the first node that is as long as what is known of
/// them, and the link of the longest prefix with a value before it, packed into a word. Both 0 if there is none.
#[derive(Clone, Copy)]
pub(super) struct Shortcut {
    pub(super) link: u32,
    pub(super) found: u32,
}

impl Shortcut {
    pub(super) fn of(word: u64) -> Shortcut {
        Shortcut {
            link: word as u32,
            found: (word >> 32) as u32,
        }
    }

    fn word(self) -> u64 {
        u64::from(self.found) << 32 | u64::from(self.link)
    }
}

/// The table has at most so many bits: it stays in the first levels of the cache.
const MOST_BITS: u32 = 12;
/// The table has so many times as many entries as there may be prefixes, as a shift: where most entries lead to
/// one node or none, lookups take the same way, which processors can predict. Models have few steps to look at.
const ROOM_SHIFT: u32 = if cfg!(feature = "model") { 0 } else { 2 };

/// How many first bits of a key the table of a trie is indexed by.
pub(super) fn bits(max_entries: u32, max_prefix: u32) -> u32 {
    let bits = (max_entries.max(1).ilog2() + ROOM_SHIFT).min(MOST_BITS);
    bits.min(max_prefix)
}

/// The table. Who changes it holds the lock.
impl Trie {
    #[inline]
    pub(super) fn shortcut(&self, number: u32) -> &AtomicU64 {
        let at = self.table.at(number as usize * size_of::<AtomicU64>());
        // SAFETY: numbers have at most `bits` bits, and only such words live here.
        unsafe { &*at.cast::<AtomicU64>() }
    }

    /// Brings up to date what goes through a node, on the way to keys that begin with `word`, or through the root.
    pub(super) fn refresh(&self, word: u64, node: Option<u32>) {
        let len = node.map_or(0, |node| self.len_of(node).0);
        let through = self.numbers(word, len);
        self.refresh_below(through, self.root.load(Ordering::Relaxed), 0);
    }

    /// The entries for keys that begin with the first `len` bits of `word`.
    fn numbers(&self, word: u64, len: u32) -> Range<u32> {
        let free = self.bits - min(len, self.bits);
        let first = (word >> (64 - self.bits)) as u32 >> free << free;
        first..first + (1 << free)
    }

    /// Brings entries up to date, all of which lie below a link.
    fn refresh_below(&self, entries: Range<u32>, link: u32, found: u32) {
        let set = |entries: Range<u32>, shortcut: Shortcut| {
            for number in entries {
                self.shortcut(number)
                    .store(shortcut.word(), Ordering::Release);
            }
        };
        let node = link.checked_sub(1);
        let Some((node, (len, has_value))) = node
            .map(|node| (node, self.len_of(node)))
            .filter(|(_, (len, _))| *len < self.bits)
        else {
            return set(entries, Shortcut { link, found });
        };
        let own = self.numbers(self.data_word(node, 0), len);
        let none = Shortcut { link: 0, found };
        let (start, end) = (own.start.max(entries.start), own.end.min(entries.end));
        if start >= end {
            return set(entries, none);
        }
        set(entries.start..start, none);
        set(end..entries.end, none);
        let found = if has_value { link } else { found };
        let middle = own.start + (own.end - own.start) / 2;
        let below = |entries: Range<u32>, side: usize| {
            if !entries.is_empty() {
                self.refresh_below(entries, self.child(node, side), found);
            }
        };
        below(start..end.min(middle), 0);
        below(start.max(middle)..end, 1);
    }
}
