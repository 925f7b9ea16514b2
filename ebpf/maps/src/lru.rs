//! Which entry of an LRU map goes when it is full.
//!
//! Time is counted in insertions: an epoch is a 32nd of the map's capacity. Each entry carries, in its
//! set's line, the epoch of its last use as one byte; a lookup writes it only if it changed. The victim is
//! the oldest entry of the two sets a new key could go to, about ten candidates, which comes close to the
//! globally oldest (Redis does well with five). If all of them are in use, two sets more are looked at.
//!
//! As in the kernel, where an entry joins the active list only when it is looked up, an entry that was
//! inserted and never used again goes earlier: it starts as old as if last used one capacity ago. So a
//! flood of new flows displaces its own entries before those of live sessions.

use crate::index::{Index, Place, ways};
use crate::set::Way;
use crate::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::words::Padded;

const EPOCHS: u32 = 32;

pub(crate) struct Clock {
    /// The current epoch. Every lookup reads it.
    now: Padded<AtomicU8>,
    /// Insertions in an epoch.
    epoch: u64,
    /// How many epochs an unused entry is older than a used one.
    head_start: u8,
    inserted: Padded<AtomicU64>,
    /// Where to look for a victim next if a key's own sets have none.
    hand: Padded<AtomicU32>,
}

impl Clock {
    pub(crate) fn new(capacity: u32) -> Clock {
        let epoch = (capacity / EPOCHS).max(1);
        Clock {
            now: Padded(AtomicU8::new(0)),
            epoch: u64::from(epoch),
            head_start: (capacity / epoch).min(64) as u8,
            inserted: Padded(AtomicU64::new(0)),
            hand: Padded(AtomicU32::new(0)),
        }
    }

    /// The stamp of an entry in use.
    #[inline(always)]
    pub(crate) fn now(&self) -> u8 {
        self.now.0.load(Ordering::Relaxed)
    }

    /// Where [`Clock::now`] reads.
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref(&self.now.0).expose_provenance()
    }

    /// The stamp of a new entry. Time goes on.
    pub(crate) fn insert(&self) -> u8 {
        let count = self.inserted.0.fetch_add(1, Ordering::Relaxed);
        if count.is_multiple_of(self.epoch) {
            self.now
                .0
                .store((count / self.epoch) as u8, Ordering::Relaxed);
        }
        self.now().wrapping_sub(self.head_start)
    }

    /// The oldest of `candidates`, and whether a better victim is worth looking for: it was used within
    /// about the last capacity of insertions.
    pub(crate) fn oldest(
        &self,
        candidates: impl Iterator<Item = (Place, Way)>,
    ) -> Option<(Place, bool)> {
        let now = self.now();
        candidates
            .map(|(place, entry)| (place, now.wrapping_sub(entry.stamp)))
            .max_by_key(|&(_, age)| age)
            .map(|(place, age)| (place, age < self.head_start))
    }

    /// Looks through `tries` more sets, in turn, and applies `evict` to the oldest entry of the first one
    /// that has any which `may` go: with `unused`, any that was not in use. Passes over sets that are locked.
    pub(crate) fn evict_elsewhere<R>(
        &self,
        index: &Index,
        tries: u32,
        unused: bool,
        may: impl Fn(u32) -> bool,
        evict: impl Fn(Place) -> Option<R>,
    ) -> Option<R> {
        (0..tries).find_map(|_| {
            let number = self.hand.0.fetch_add(1, Ordering::Relaxed) % index.sets();
            let set = index.set(number).try_lock()?;
            let (place, in_use) =
                self.oldest(ways(&set, number).filter(|(_, entry)| may(entry.slot)))?;
            if unused && in_use { None } else { evict(place) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_entries_are_older_than_used_ones_by_one_capacity() {
        for capacity in [1, 10, 32, 100, 1000, 8_000_000] {
            let clock = Clock::new(capacity);
            let unused = clock.insert();
            let head_start = u64::from(clock.now().wrapping_sub(unused)) * clock.epoch;
            let capacity = u64::from(capacity);
            assert!(
                head_start <= capacity && head_start + clock.epoch > capacity,
                "{capacity}"
            );
        }
    }

    #[test]
    fn ages_count_in_insertions() {
        let clock = Clock::new(320);
        let first = clock.insert();
        for _ in 0..100 {
            clock.insert();
        }
        assert_eq!(clock.insert().wrapping_sub(first), 10);
    }
}
