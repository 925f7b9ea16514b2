//! `PERF_EVENT_ARRAY` (kernel/bpf/arraymap.c, kernel/trace/bpf_trace.c, kernel/events/ring_buffer.c):
//! samples from programs to whoever drains the buffers.
//!
//! In the kernel an element is a perf event that belongs to a CPU and has a ring of its own; here it is
//! that ring. Records are the kernel's: a sample holds its data behind a length, padded so that both
//! together are whole words, and samples that found no room are counted and reported before the next one
//! that did. Where the kernel has one producer to a ring, here another thread may stand in for the same
//! CPU (a test run beside a worker), so producers agree as in a [ring buffer](crate::ring::buffer).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use squalus_isa::{Errno, MapDef};

use crate::arena::Arena;
use crate::reclaim::Reclaimer;
use crate::refs;
use crate::ring::buffer::{Buffer, Header};
use crate::ring::wakeup::Wakeup;
use crate::ring::{is_ring_len, page_size};
use crate::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// As an index: the element of the CPU the program runs on (`BPF_F_CURRENT_CPU`).
pub const PERF_CURRENT_CPU: u32 = u32::MAX;

/// `struct perf_event_header`, and the length that precedes a sample's data.
const HEADER: usize = 8;
const RAW_LEN: usize = 4;
/// Length of a record about lost samples: the header, an id, and how many.
const LOST_LEN: usize = 24;
/// The header's length has 16 bits.
const MAX_RECORD: usize = u16::MAX as usize / 8 * 8;
/// Record types (`PERF_RECORD_*`).
const LOST: u32 = 2;
const SAMPLE: u32 = 9;

/// A perf event array's contents: a ring for each index that the control side opened.
pub struct PerfEvents {
    /// Of pointers, null where none is open.
    arena: Arena,
    entries: u32,
    /// Cells from here on were never set: most of a huge array need never be looked at.
    used: AtomicU32,
    cpus: u32,
    wakeup: Arc<Wakeup>,
    /// Serialises the control side, so that nobody clones a reference while another drops it.
    control: Mutex<()>,
    reclaimer: Arc<Reclaimer>,
}

/// A reference to a ring, owned by whoever stores it.
type RingCell = AtomicPtr<PerfRing>;

/// The samples of one CPU.
struct PerfRing {
    cpu: u32,
    buffer: Buffer,
    /// Samples that found no room since the last one that did.
    lost: AtomicU64,
    lost_ever: AtomicU64,
}

/// A sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerfRecord<'a> {
    /// The CPU whose program sent it.
    pub cpu: u32,
    /// How many samples before it found no room, since the one before.
    pub lost: u64,
    /// What the program sent, in kernel order: its data, then the part of the packet it asked for, then
    /// up to seven zeros, so that four bytes more would be whole words.
    pub data: &'a [u8],
}

impl PerfEvents {
    pub(crate) fn new(
        def: &MapDef,
        cpus: u32,
        colour: u32,
        reclaimer: Arc<Reclaimer>,
    ) -> io::Result<PerfEvents> {
        let entries = def.max_entries;
        Ok(PerfEvents {
            arena: Arena::new(entries as usize * size_of::<RingCell>(), colour)?,
            entries,
            used: AtomicU32::new(0),
            cpus,
            wakeup: Arc::new(Wakeup::new()),
            control: Mutex::new(()),
            reclaimer,
        })
    }

    pub(crate) fn len(&self) -> u32 {
        self.entries
    }

    fn cell(&self, index: u32) -> Option<&RingCell> {
        (index < self.entries).then(|| {
            let cell = self.arena.at(index as usize * size_of::<RingCell>());
            // SAFETY: in bounds and aligned; zeroed memory is a null pointer, and only cells live here.
            unsafe { &*cell.cast::<RingCell>() }
        })
    }
}

/// The program side.
impl PerfEvents {
    /// Sends a sample made of `parts`, one after the other, from CPU `cpu` to the ring at `index` (or
    /// [`PERF_CURRENT_CPU`]), as `bpf_perf_event_output` does. The caller must be a registered
    /// [`Worker`](crate::Worker).
    ///
    /// # Errors
    /// `E2BIG` for an index outside, `ENOENT` where no ring is open, `EOPNOTSUPP` where it belongs to
    /// another CPU, `ENOSPC` if it is full (then the sample counts as lost) or the sample is larger than
    /// 64 KiB.
    pub fn output(&self, index: u32, cpu: u32, parts: &[&[u8]]) -> Result<(), Errno> {
        let index = if index == PERF_CURRENT_CPU {
            cpu
        } else {
            index
        };
        let cell = self.cell(index).ok_or(Errno::E2BIG)?;
        // SAFETY: a non-null cell holds a live ring, which the reclaimer keeps while a worker may use it.
        let ring = unsafe { cell.load(Ordering::Acquire).as_ref() }.ok_or(Errno::ENOENT)?;
        if ring.cpu != cpu {
            return Err(Errno::EOPNOTSUPP);
        }
        ring.output(parts)?;
        self.wakeup.wake();
        Ok(())
    }
}

/// The control side.
impl PerfEvents {
    /// Opens a ring of `pages` pages (a power of two) at `index` for the samples of CPU `cpu`, in place of
    /// the one there.
    ///
    /// # Errors
    /// `E2BIG` for an index outside, `ENODEV` for a CPU that the environment does not have, `EINVAL` for
    /// another number of pages, `ENOMEM` if memory or descriptors are short.
    pub fn open(&self, index: u32, cpu: u32, pages: u32) -> Result<(), Errno> {
        let cell = self.cell(index).ok_or(Errno::E2BIG)?;
        if cpu >= self.cpus {
            return Err(Errno::ENODEV);
        }
        let len = pages.checked_mul(page_size()).ok_or(Errno::EINVAL)?;
        if !is_ring_len(len) {
            return Err(Errno::EINVAL);
        }
        let ring = PerfRing {
            cpu,
            buffer: Buffer::new(len).map_err(|_| Errno::ENOMEM)?,
            lost: AtomicU64::new(0),
            lost_ever: AtomicU64::new(0),
        };
        let _guard = self.lock();
        if index >= self.used.load(Ordering::Relaxed) {
            self.used.store(index + 1, Ordering::Release);
        }
        refs::replace(cell, Some(Arc::new(ring)), &self.reclaimer);
        Ok(())
    }

    /// Opens a ring of `pages` pages for every CPU that has an index, as consumers usually do.
    ///
    /// # Errors
    /// As [`PerfEvents::open`].
    pub fn open_all(&self, pages: u32) -> Result<(), Errno> {
        (0..self.cpus.min(self.len())).try_for_each(|cpu| self.open(cpu, cpu, pages))
    }

    /// Removes the ring at `index` and what it holds.
    ///
    /// # Errors
    /// `E2BIG` for an index outside, `ENOENT` where no ring is open.
    pub fn close(&self, index: u32) -> Result<(), Errno> {
        let cell = self.cell(index).ok_or(Errno::E2BIG)?;
        let _guard = self.lock();
        if refs::replace(cell, None, &self.reclaimer) {
            Ok(())
        } else {
            Err(Errno::ENOENT)
        }
    }

    /// Passes the samples in the ring at `index` to `each`, oldest first; those that come meanwhile stay.
    /// Returns how many: none where no ring is open.
    ///
    /// One thread drains a ring at a time; others wait. `each` must not drain it itself.
    pub fn drain(&self, index: u32, each: impl FnMut(PerfRecord<'_>)) -> usize {
        self.ring(index).map_or(0, |ring| ring.drain(each))
    }

    /// How many samples the ring at `index` ever lost for lack of room; those not yet reported by
    /// [`PerfRecord::lost`] included.
    #[must_use]
    pub fn lost(&self, index: u32) -> u64 {
        self.ring(index)
            .map_or(0, |ring| ring.lost_ever.load(Ordering::Relaxed))
    }

    /// Sleeps until there is a sample in any ring, at most for `timeout` (rounded up to milliseconds).
    /// False if the time ran out. It may wake for nothing.
    ///
    /// One consumer may wait at a time.
    ///
    /// # Errors
    /// If the system has no descriptor left to sleep on.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        self.wakeup.wait(timeout, || {
            let used = self.used.load(Ordering::Acquire);
            let mut rings = (0..used).filter_map(|index| self.ring(index));
            rings.any(|ring| ring.buffer.is_ready(read))
        })
    }

    fn ring(&self, index: u32) -> Option<Arc<PerfRing>> {
        let cell = self.cell(index)?;
        let _guard = self.lock();
        refs::clone(cell)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PerfEvents {
    fn drop(&mut self) {
        let used = self.used.load(Ordering::Acquire);
        for cell in (0..used).filter_map(|index| self.cell(index)) {
            refs::replace(cell, None, &self.reclaimer);
        }
    }
}

impl PerfRing {
    fn output(&self, parts: &[&[u8]]) -> Result<(), Errno> {
        let data: usize = parts.iter().map(|part| part.len()).sum();
        let raw = (RAW_LEN + data).next_multiple_of(8);
        let len = HEADER + raw;
        let about_lost = self.lost.load(Ordering::Relaxed) != 0;
        let before = if about_lost { LOST_LEN } else { 0 };
        let claimed = (len <= MAX_RECORD).then(|| self.buffer.claim((before + len) as u64));
        let Some(at) = claimed.flatten() else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.lost_ever.fetch_add(1, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        };
        let sample = at + before as u64;
        self.fill(sample, (raw - RAW_LEN) as u32, parts);
        self.buffer.commit(sample, header(SAMPLE, len));
        if about_lost {
            // Another producer may have reported them in between: then none is left.
            let lost = self.lost.swap(0, Ordering::Relaxed);
            self.buffer.fill(at, 2 * 8, &lost.to_ne_bytes());
            self.buffer.commit(at, header(LOST, LOST_LEN));
        }
        Ok(())
    }

    /// Writes a sample's length and data.
    fn fill(&self, sample: u64, len: u32, parts: &[&[u8]]) {
        let raw = self.buffer.at(sample).wrapping_add(HEADER);
        let mut to = raw.wrapping_add(RAW_LEN);
        // SAFETY: the claimed record is this thread's alone, contiguous, and long enough for all parts.
        unsafe {
            raw.cast::<u32>().write(len);
            for part in parts {
                to.copy_from_nonoverlapping(part.as_ptr(), part.len());
                to = to.add(part.len());
            }
        }
    }

    fn drain(&self, mut each: impl FnMut(PerfRecord<'_>)) -> usize {
        let (mut count, mut lost) = (0, 0);
        self.buffer.consume(read, |header, record| {
            if header as u32 == LOST {
                lost += word(record, 8, u64::from_ne_bytes);
            } else {
                let len = word(record, 0, u32::from_ne_bytes) as usize;
                let data = &record[RAW_LEN..RAW_LEN + len];
                each(PerfRecord {
                    cpu: self.cpu,
                    lost,
                    data,
                });
                (count, lost) = (count + 1, 0);
            }
        });
        count
    }
}

fn header(kind: u32, len: usize) -> u64 {
    u64::from(kind) | (len as u64) << 48
}

fn read(header: u64) -> Header {
    if header == 0 {
        Header::Busy
    } else {
        Header::Ready((header >> 48) as u32)
    }
}

/// The number at `at` of a record, which is long enough for it.
fn word<T: Default, const N: usize>(record: &[u8], at: usize, read: fn([u8; N]) -> T) -> T {
    record[at..]
        .first_chunk()
        .map_or_else(T::default, |bytes| read(*bytes))
}

impl std::fmt::Debug for PerfEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerfEvents")
            .field("len", &self.len())
            .field("cpus", &self.cpus)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use squalus_isa::MapType;

    use super::*;

    fn events(entries: u32, cpus: u32) -> (PerfEvents, Arc<Reclaimer>) {
        let def = MapDef::new("events", MapType::PerfEventArray, (4, 4), entries);
        let reclaimer = Reclaimer::new();
        (
            PerfEvents::new(&def, cpus, 0, Arc::clone(&reclaimer)).unwrap(),
            reclaimer,
        )
    }

    #[test]
    fn samples_are_padded_with_zeros() {
        let (events, reclaimer) = events(2, 2);
        let _worker = reclaimer.register();
        events.open_all(1).unwrap();
        for _ in 0..300 {
            events
                .output(PERF_CURRENT_CPU, 1, &[b"abc", b"de"])
                .unwrap();
            let mut seen = Vec::new();
            events.drain(1, |record| {
                seen.push((record.cpu, record.lost, record.data.to_vec()))
            });
            assert_eq!(seen, [(1, 0, b"abcde\0\0\0\0\0\0\0".to_vec())]);
        }
        assert_eq!(
            events.drain(0, |_| panic!("nothing was sent from there")),
            0
        );
    }

    #[test]
    fn rings_are_opened_for_cpus_there_are() {
        let (events, _) = events(3, 2);
        assert_eq!(events.open(3, 0, 1), Err(Errno::E2BIG));
        assert_eq!(events.open(0, 2, 1), Err(Errno::ENODEV));
        for pages in [0, 3, 1 << 21] {
            assert_eq!(events.open(0, 0, pages), Err(Errno::EINVAL), "{pages}");
        }
        assert_eq!(events.open_all(8), Ok(()));
        assert_eq!(events.output(2, 0, &[]), Err(Errno::ENOENT));
        assert_eq!(events.close(2), Err(Errno::ENOENT));
    }

    #[test]
    fn a_ring_that_is_replaced_waits_for_workers() {
        let (events, reclaimer) = events(1, 1);
        let worker = reclaimer.register();
        events.open(0, 0, 1).unwrap();
        events.output(0, 0, &[b"old"]).unwrap();
        events.open(0, 0, 1).unwrap();
        assert_eq!((reclaimer.collect(), events.drain(0, |_| ())), (1, 0));
        worker.quiescent();
        assert_eq!(reclaimer.collect(), 0);
    }
}
