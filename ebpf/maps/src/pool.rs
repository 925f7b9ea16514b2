//! Free element slots: a stack that any thread may push to and pop from.

use std::io;

use crate::arena::Arena;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::words::Padded;

/// Slot numbers below a capacity. Popped most recently pushed first (but for the spare one), because that slot
/// is likely still in a cache; then the ones never used, in order, so that memory is only committed as the map
/// fills.
pub(crate) struct Pool {
    /// One slot that is not on the stack, plus one; 0 if there is none. Whoever takes a slot and gives another
    /// back, as replacements do, gets by without the stack.
    spare: Padded<AtomicU32>,
    /// Low half: top of the stack plus one, 0 if empty. High half: a version, so that a pop which was
    /// overtaken by a pop and a push of the same slot notices.
    head: Padded<AtomicU64>,
    /// The slot below each pushed slot, as in `head`.
    below: Arena,
    /// The first slot never used.
    fresh: Padded<AtomicU32>,
    capacity: u32,
}

impl Pool {
    pub(crate) fn new(capacity: u32) -> io::Result<Pool> {
        Ok(Pool {
            spare: Padded(AtomicU32::new(0)),
            head: Padded(AtomicU64::new(0)),
            below: Arena::new(capacity as usize * size_of::<AtomicU32>(), 0)?,
            fresh: Padded(AtomicU32::new(0)),
            capacity,
        })
    }

    fn below(&self, slot: u32) -> &AtomicU32 {
        debug_assert!(slot < self.capacity);
        let at = self.below.at(slot as usize * size_of::<AtomicU32>());
        // SAFETY: in bounds and aligned; the arena holds nothing else.
        unsafe { &*at.cast::<AtomicU32>() }
    }

    #[inline]
    pub(crate) fn pop(&self) -> Option<u32> {
        if self.spare.0.load(Ordering::Relaxed) != 0
            && let Some(slot) = self.spare.0.swap(0, Ordering::AcqRel).checked_sub(1)
        {
            return Some(slot);
        }
        self.pop_stacked()
    }

    fn pop_stacked(&self) -> Option<u32> {
        let mut head = self.head.0.load(Ordering::Acquire);
        while head as u32 != 0 {
            let slot = head as u32 - 1;
            let next = versioned(head, self.below(slot).load(Ordering::Relaxed));
            match self
                .head
                .0
                .compare_exchange_weak(head, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(slot),
                Err(now) => head = now,
            }
        }
        self.fresh
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |slot| {
                (slot < self.capacity).then_some(slot + 1)
            })
            .ok()
    }

    #[inline]
    pub(crate) fn push(&self, slot: u32) {
        let spare = &self.spare.0;
        let kept = spare.load(Ordering::Relaxed) == 0
            && spare
                .compare_exchange(0, slot + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if !kept {
            self.push_stacked(slot);
        }
    }

    fn push_stacked(&self, slot: u32) {
        let mut head = self.head.0.load(Ordering::Relaxed);
        loop {
            self.below(slot).store(head as u32, Ordering::Relaxed);
            let next = versioned(head, slot + 1);
            match self
                .head
                .0
                .compare_exchange_weak(head, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

fn versioned(head: u64, top: u32) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | u64::from(top)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn hands_out_every_slot_once() {
        let pool = Pool::new(3).unwrap();
        let all: Vec<_> = std::iter::from_fn(|| pool.pop()).collect();
        assert_eq!(all, [0, 1, 2]);
        pool.push(1);
        pool.push(2);
        assert_eq!(
            [pool.pop(), pool.pop(), pool.pop()],
            [Some(1), Some(2), None]
        );
    }

    #[test]
    fn threads_never_share_a_slot() {
        let pool = Pool::new(64).unwrap();
        let taken: Vec<AtomicU32> = (0..64).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let slots: Vec<_> = (0..round % 7).filter_map(|_| pool.pop()).collect();
                        for &slot in &slots {
                            assert_eq!(taken[slot as usize].swap(1, Ordering::SeqCst), 0);
                        }
                        for slot in slots {
                            taken[slot as usize].store(0, Ordering::SeqCst);
                            pool.push(slot);
                        }
                    }
                });
            }
        });
        let left: HashSet<_> = std::iter::from_fn(|| pool.pop()).collect();
        assert_eq!(left.len(), 64);
    }
}
