//! What a run holds that must not outlive it: a spin lock, records reserved in ring buffers.
//!
//! The kernel's verifier proves that a program gives everything back. Here a run can end anywhere, so what
//! it holds is written down, and the engine gives it back when the run is over.

use core::mem::offset_of;

use squalus_maps::Map;

/// Most ring buffer records that a run can have reserved at once. A reservation beyond that fails as if the
/// ring were full.
pub const MAX_RECORDS: usize = 16;

/// A record that `bpf_ringbuf_reserve` gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Address of its first byte.
    pub address: u64,
    /// How many bytes were reserved.
    pub len: u64,
    /// Address of the ring's [`squalus_maps::Map`].
    pub map: u64,
    /// Differs between all reservations of a run, so that a stale pointer is told from a new record at the
    /// same place.
    pub id: u64,
}

impl Record {
    const NONE: Record = Record {
        address: 0,
        len: 0,
        map: 0,
        id: 0,
    };
}

/// What the current run holds.
#[derive(Debug)]
pub struct Held {
    /// Address of the spin lock, or 0.
    pub(crate) lock: u64,
    count: usize,
    next: u64,
    records: [Record; MAX_RECORDS],
}

impl Held {
    pub(crate) const OFFSET_LOCK: usize = offset_of!(Held, lock);

    /// Nothing.
    pub const NOTHING: Held = Held {
        lock: 0,
        count: 0,
        next: 1,
        records: [Record::NONE; MAX_RECORDS],
    };

    /// Whether nothing is held.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.lock == 0 && self.count == 0
    }

    /// Whether a spin lock is held.
    #[must_use]
    pub const fn is_locked(&self) -> bool {
        self.lock != 0
    }

    /// The records reserved now.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records[..self.count]
    }

    /// The record that starts at `address`.
    #[must_use]
    pub fn record(&self, address: u64) -> Option<Record> {
        let mut records = self.records().iter();
        records.find(|record| record.address == address).copied()
    }

    /// Whether `len` bytes at `address` lie inside one record.
    #[must_use]
    pub fn holds(&self, address: u64, len: u64) -> bool {
        let inside = |record: &Record| {
            let off = address.wrapping_sub(record.address);
            off <= record.len && record.len - off >= len
        };
        self.records().iter().any(inside)
    }

    /// Whether another record can be noted.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.count < MAX_RECORDS
    }

    /// Notes a record of `len` bytes at `address` of the ring that is the map at `map`. There must be room.
    pub fn reserved(&mut self, address: u64, len: u64, map: u64) {
        let id = self.next;
        self.next += 1;
        if let Some(place) = self.records.get_mut(self.count) {
            *place = Record {
                address,
                len,
                map,
                id,
            };
            self.count += 1;
        }
    }

    /// Gives back everything.
    ///
    /// # Safety
    /// The maps of the lock and of the records must be alive.
    #[cold]
    pub(crate) unsafe fn give_back(&mut self) {
        let lock = std::mem::take(&mut self.lock);
        if lock != 0 {
            // SAFETY: the run took this lock; the map is alive, as the caller says.
            unsafe { squalus_maps::spin_unlock(lock as *mut u8) };
        }
        while let Some(Record { address, map, .. }) = self.records().first().copied() {
            self.released(address);
            // SAFETY: as above; the map gave the record out to this run, which did not give it back.
            unsafe {
                let map = &*std::ptr::with_exposed_provenance::<Map>(map as usize);
                if let Some(ring) = map.ring() {
                    ring.discard(address as *mut u8, 0);
                }
            }
        }
    }

    /// Forgets the record that starts at `address` and returns it.
    pub fn released(&mut self, address: u64) -> Option<Record> {
        let at = self.records().iter().position(|r| r.address == address)?;
        let record = self.records[at];
        self.count -= 1;
        self.records[at] = self.records[self.count];
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_by_their_bytes_until_released() {
        let mut held = Held::NOTHING;
        held.reserved(1000, 16, 1);
        held.reserved(2000, 8, 2);
        assert!(held.holds(1000, 16) && held.holds(1008, 8) && held.holds(1016, 0));
        assert!(!held.holds(1008, 9) && !held.holds(999, 1) && !held.holds(u64::MAX, 2));
        assert_eq!(held.released(1008), None);
        assert_eq!(held.released(1000).map(|record| record.map), Some(1));
        assert!(!held.holds(1000, 1) && held.holds(2000, 8));
        assert_eq!(held.released(2000).map(|record| record.map), Some(2));
        assert!(held.is_empty());
    }

    #[test]
    fn there_is_room_for_so_many_records_and_no_more() {
        let mut held = Held::NOTHING;
        for n in 0..MAX_RECORDS as u64 {
            assert!(held.has_room());
            held.reserved(n * 8 + 8, 8, 1);
        }
        assert!(!held.has_room());
    }
}
