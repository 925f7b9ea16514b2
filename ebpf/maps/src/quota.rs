//! Slots of a hash, and how many entries may use them.
//!
//! One share for all, or with `BPF_F_NO_COMMON_LRU` one for each CPU: a CPU's new entries take the slots of
//! its own share, and when they are used up, one of *its* entries must go, as with the kernel's per-CPU
//! lists. Whose an entry is shows in the slot's number, so it costs no memory and a lookup never asks.

use std::io;

use crate::pool::Pool;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::words::Padded;

/// Slots beyond the entries of a share, besides one for each CPU: for replacements under way.
const SPARE_SLOTS: u32 = 16;

pub(crate) struct Quota {
    shares: Box<[Share]>,
    /// Entries of a share.
    entries: u32,
    /// Slots of a share.
    slots: u32,
    /// Where the control side puts its next entry if all shares are used up.
    turn: AtomicU32,
}

struct Share {
    pool: Pool,
    live: Padded<AtomicU32>,
}

impl Quota {
    /// For `entries` in all, a multiple of `shares`.
    pub(crate) fn new(entries: u32, shares: u32, cpus: u32) -> io::Result<Quota> {
        let entries = entries / shares;
        let slots = entries.saturating_add(cpus).saturating_add(SPARE_SLOTS);
        let share = |_| {
            Ok(Share {
                pool: Pool::new(slots)?,
                live: Padded(AtomicU32::new(0)),
            })
        };
        Ok(Quota {
            shares: (0..shares).map(share).collect::<io::Result<_>>()?,
            entries,
            slots,
            turn: AtomicU32::new(0),
        })
    }

    pub(crate) fn shares(&self) -> u32 {
        self.shares.len() as u32
    }

    /// All slots.
    pub(crate) fn slots(&self) -> u32 {
        self.slots.saturating_mul(self.shares())
    }

    /// All entries.
    pub(crate) fn len(&self) -> u32 {
        self.shares.iter().map(Share::len).sum()
    }

    /// Whose share new entries of this CPU take.
    pub(crate) fn of_cpu(&self, cpu: u32) -> u32 {
        if cpu < self.shares() { cpu } else { 0 }
    }

    /// Whose share an entry of the control side takes: the emptiest, or all in turn.
    pub(crate) fn of_control(&self) -> u32 {
        if self.shares.len() == 1 {
            return 0;
        }
        let (share, live) = (0..)
            .zip(self.shares.iter().map(Share::len))
            .min_by_key(|&(_, live)| live)
            .unwrap_or_default();
        if live < self.entries {
            share
        } else {
            self.turn.fetch_add(1, Ordering::Relaxed) % self.shares()
        }
    }

    /// Whose a slot is.
    #[inline]
    pub(crate) fn of_slot(&self, slot: u32) -> u32 {
        if self.shares.len() == 1 {
            0
        } else {
            slot / self.slots
        }
    }

    pub(crate) fn is_full(&self, share: u32) -> bool {
        self.share(share).len() >= self.entries
    }

    /// Counts one more entry, if it may be.
    pub(crate) fn claim(&self, share: u32) -> bool {
        self.share(share)
            .live
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| {
                (live < self.entries).then_some(live + 1)
            })
            .is_ok()
    }

    /// Takes back a [`Quota::claim`].
    pub(crate) fn unclaim(&self, share: u32) {
        self.share(share).live.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// A slot that is not in use. There are more slots than entries; those beyond are only away for
    /// moments, held by replacements that wait for nothing.
    pub(crate) fn slot(&self, share: u32) -> u32 {
        loop {
            if let Some(slot) = self.share(share).pool.pop() {
                return share * self.slots + slot;
            }
            crate::sync::thread::yield_now();
        }
    }

    /// A slot is no longer in use.
    pub(crate) fn give_back(&self, slot: u32) {
        let share = self.of_slot(slot);
        self.share(share).pool.push(slot - share * self.slots);
    }

    /// An entry is gone, and its slot no longer in use.
    pub(crate) fn release(&self, slot: u32) {
        self.give_back(slot);
        // After the slot is back: whoever gets the entry's place in the count also gets a slot.
        self.unclaim(self.of_slot(slot));
    }

    fn share(&self, share: u32) -> &Share {
        &self.shares[share as usize]
    }
}

impl Share {
    fn len(&self) -> u32 {
        self.live.0.load(Ordering::Relaxed)
    }
}
