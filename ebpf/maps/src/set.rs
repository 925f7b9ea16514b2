//! One cache line of a hash's index: eight ways.
//!
//! Readers take no lock. A way is found by its tag, one byte of the hash; then the slot's key is compared;
//! then the set's sequence number is read again. Writers, who hold the set's lock, change tags and slots
//! by single stores and count the sequence up after each change and *before* a removed slot can be used
//! again. So an unchanged number proves that the slot belonged to its way, and its key stood still, all the
//! while it was compared. A writer that stalls, even with the lock, stalls no reader: a reader only repeats
//! its search when a writer has completed a step.

use crate::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

/// Ways in a set.
pub(crate) const WAYS: usize = 8;

const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const ONES: u64 = 0x0101_0101_0101_0101;

#[repr(C, align(64))]
pub(crate) struct Set {
    pub(crate) seq: AtomicU32,
    lock: AtomicU32,
    /// A byte for each way: 0 if free.
    pub(crate) tags: AtomicU64,
    /// When each way was last used (LRU maps).
    pub(crate) stamps: [AtomicU8; WAYS],
    pub(crate) slots: [AtomicU32; WAYS],
    /// How many entries have this set as home but live in another.
    pub(crate) displaced: AtomicU32,
    /// A bit for each way: whether the entry's home is another set. Only who holds the lock looks.
    away: AtomicU32,
}

const _: () = assert!(size_of::<Set>() == 64);

/// What a way holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) tag: u8,
    pub(crate) slot: u32,
    pub(crate) away: bool,
    pub(crate) stamp: u8,
}

/// Readers' side.
impl Set {
    /// The number to pass to [`Set::still`].
    #[inline(always)]
    pub(crate) fn seq(&self) -> u32 {
        self.seq.load(Ordering::Acquire)
    }

    /// Whether no writer changed the set since `seq` was read.
    #[inline(always)]
    pub(crate) fn still(&self, seq: u32) -> bool {
        fence(Ordering::Acquire);
        self.seq.load(Ordering::Relaxed) == seq
    }

    /// The first way with this tag whose slot satisfies `is`, and the slot.
    #[inline(always)]
    pub(crate) fn find(&self, tag: u8, is: impl Fn(u32) -> bool) -> Option<(usize, u32)> {
        let mut hits = zero_bytes(self.tags.load(Ordering::Acquire) ^ (u64::from(tag) * ONES));
        while hits != 0 {
            let way = hits.trailing_zeros() as usize / 8;
            let slot = self.slots[way].load(Ordering::Acquire);
            if is(slot) {
                return Some((way, slot));
            }
            hits &= hits - 1;
        }
        None
    }

    /// The slot in `way`, if in use.
    pub(crate) fn slot(&self, way: usize) -> Option<u32> {
        let used = self.tags.load(Ordering::Acquire) >> (8 * way) & 0xff != 0;
        used.then(|| self.slots[way].load(Ordering::Acquire))
    }

    /// Whether an entry whose home this is may live in another set.
    #[inline(always)]
    pub(crate) fn has_displaced(&self) -> bool {
        self.displaced.load(Ordering::Acquire) != 0
    }

    /// Notes that `way` was used at `now`. Writes only if that is news.
    #[inline(always)]
    pub(crate) fn touch(&self, way: usize, now: u8) {
        let stamp = &self.stamps[way];
        if stamp.load(Ordering::Relaxed) != now {
            stamp.store(now, Ordering::Relaxed);
        }
    }
}

/// Writers' side: all but the counter of displaced entries needs the lock.
impl Set {
    pub(crate) fn lock(&self) -> Guard<'_> {
        let mut spins = 0_u32;
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            while self.lock.load(Ordering::Relaxed) != 0 {
                spins += 1;
                // The holder may have been preempted by us.
                if spins.is_multiple_of(128) {
                    crate::sync::thread::yield_now()
                } else {
                    crate::sync::hint::spin_loop()
                }
            }
        }
    }

    pub(crate) fn try_lock(&self) -> Option<Guard<'_>> {
        self.lock
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then(|| Guard(self))
    }

    pub(crate) fn free_way(&self) -> Option<usize> {
        let free = zero_bytes(self.tags.load(Ordering::Relaxed));
        (free != 0).then(|| free.trailing_zeros() as usize / 8)
    }

    pub(crate) fn way(&self, way: usize) -> Option<Way> {
        let tag = (self.tags.load(Ordering::Relaxed) >> (8 * way)) as u8;
        let slot = self.slots[way].load(Ordering::Relaxed);
        (tag != 0).then(|| Way {
            tag,
            slot,
            away: self.away.load(Ordering::Relaxed) >> way & 1 != 0,
            stamp: self.stamps[way].load(Ordering::Relaxed),
        })
    }

    /// Makes an entry visible in a free way.
    pub(crate) fn publish(&self, way: usize, entry: Way) {
        self.stamps[way].store(entry.stamp, Ordering::Relaxed);
        let others = self.away.load(Ordering::Relaxed) & !(1 << way);
        let away = others | u32::from(entry.away) << way;
        self.away.store(away, Ordering::Relaxed);
        self.slots[way].store(entry.slot, Ordering::Release);
        self.set_tag(way, entry.tag);
    }

    /// Makes another slot, with the same key, visible in place of the way's.
    pub(crate) fn replace(&self, way: usize, slot: u32) {
        self.slots[way].store(slot, Ordering::Release);
        self.count();
    }

    /// Hides the entry in `way`. Its slot may be used again afterwards.
    pub(crate) fn remove(&self, way: usize) {
        self.set_tag(way, 0);
    }

    pub(crate) fn displace(&self) {
        self.displaced.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn bring_back(&self) {
        let before = self.displaced.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before != 0);
    }

    fn set_tag(&self, way: usize, tag: u8) {
        let others = self.tags.load(Ordering::Relaxed) & !(0xff << (8 * way));
        self.tags
            .store(others | u64::from(tag) << (8 * way), Ordering::Release);
        self.count();
    }

    fn count(&self) {
        let seq = self.seq.load(Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Release);
    }
}

/// Holds a set's lock.
pub(crate) struct Guard<'a>(&'a Set);

impl std::ops::Deref for Guard<'_> {
    type Target = Set;

    fn deref(&self) -> &Set {
        self.0
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.lock.store(0, Ordering::Release);
    }
}

/// The top bit of each byte that is zero, and no other bit.
#[inline(always)]
fn zero_bytes(word: u64) -> u64 {
    !(((word & LOW) + LOW) | word | LOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_try_does_not_unlock() {
        let words: [AtomicU64; 16] = Default::default();
        let at = words.as_ptr().cast::<u8>();
        // SAFETY: 128 zeroed bytes hold an aligned set, which is only changed through its atomics.
        let set = unsafe { &*at.add(at.align_offset(64)).cast::<Set>() };
        let guard = set.try_lock();
        assert!(guard.is_some() && set.try_lock().is_none() && set.try_lock().is_none());
        drop(guard);
        assert!(set.try_lock().is_some());
    }

    #[test]
    fn zero_bytes_are_found_exactly() {
        for word in [
            0,
            1,
            0x0100,
            0x0001_0000_0100,
            u64::MAX,
            0x8000_0000_0000_0080,
            0x00ff_0180_0000_0100,
        ] {
            let expected = (0..8)
                .filter(|byte| word >> (8 * byte) & 0xff == 0)
                .fold(0_u64, |bits, byte| bits | 0x80 << (8 * byte));
            assert_eq!(zero_bytes(word), expected, "{word:x}");
        }
    }
}
