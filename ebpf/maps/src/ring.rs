//! `RINGBUF` (kernel/bpf/ringbuf.c): records from programs to whoever consumes them.
//!
//! Sizes, flags, results and the record header are the kernel's; how producers agree is not (see
//! [`buffer`]).

pub(crate) mod buffer;
pub(crate) mod mirror;
pub(crate) mod wakeup;

use std::io;
use std::time::Duration;

use squalus_isa::{Errno, MapDef, MapFlags};

use crate::sync::atomic::Ordering::Relaxed;
use crate::validate::MapError;

use buffer::{Buffer, Header};
use wakeup::Wakeup;

/// Bytes before a record's data: its length with two flags, and the page it lies in.
const HEADER: u64 = 8;
/// Marks, in the length, a record that is not submitted yet, and one that was discarded.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// The longest record (`RINGBUF_MAX_RECORD_SZ`).
const MAX_RECORD: u64 = u32::MAX as u64 / 4;
/// Pages that the kernel has before a ring's data.
const PAGES_BEFORE: u64 = 3;

/// Flags of `bpf_ringbuf_submit`, `_discard` and `_output`: don't wake the consumer.
pub const RING_NO_WAKEUP: u64 = 1;
/// Wake the consumer even if it has not caught up.
pub const RING_FORCE_WAKEUP: u64 = 2;

/// A ring buffer map's contents.
///
/// Any number of threads may [reserve](Ring::reserve) and [output](Ring::output); neither takes a lock.
/// Records are [consumed](Ring::consume) in the order of their reservation, so one that is not submitted
/// holds up all that follow: whoever ends a program early must [discard](Ring::discard) what it has open.
pub struct Ring {
    buffer: Buffer,
    wakeup: Wakeup,
}

/// What `BPF_MAP_CREATE` refuses.
pub(crate) fn validate(def: &MapDef) -> Result<(), MapError> {
    let einval = |reason: String| Err(MapError::new(def, Errno::EINVAL, reason));
    let unknown = def.flags.0 & !MapFlags::NUMA_NODE.0;
    if unknown != 0 {
        return einval(format!("its type does not take the flags {unknown:#x}"));
    }
    if def.key_size != 0 || def.value_size != 0 {
        return einval(
            "ring buffers have neither keys nor values; both sizes must be 0".to_owned(),
        );
    }
    if !is_ring_len(def.max_entries) {
        return einval(format!(
            "max_entries is {}; it must be a power of two of whole pages ({} bytes)",
            def.max_entries,
            page_size()
        ));
    }
    Ok(())
}

/// Whether a ring can have so many bytes.
pub(crate) fn is_ring_len(len: u32) -> bool {
    len.is_power_of_two() && len.is_multiple_of(page_size())
}

pub(crate) fn page_size() -> u32 {
    // SAFETY: no pointers involved.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u32::try_from(size).unwrap_or(4096)
}

fn read(header: u64) -> Header {
    let len = header as u32;
    if header == 0 || len & BUSY != 0 {
        return Header::Busy;
    }
    // At most a quarter of 4 GiB, and the ring's length.
    Header::Ready(record_len(u64::from(len & !DISCARDED)) as u32)
}

/// Bytes that a record with `len` bytes of data takes.
fn record_len(len: u64) -> u64 {
    (len + HEADER).next_multiple_of(8)
}

/// The program side.
impl Ring {
    pub(crate) fn new(len: u32) -> io::Result<Ring> {
        Ok(Ring {
            buffer: Buffer::new(len)?,
            wakeup: Wakeup::new(),
        })
    }

    /// A record of `len` bytes to be filled, all zero (the kernel's hold what was there before); null if
    /// there is no room (`bpf_ringbuf_reserve`). Every one must be submitted or discarded.
    #[must_use]
    pub fn reserve(&self, len: u64) -> *mut u8 {
        if len > MAX_RECORD || record_len(len) > self.buffer.len() {
            return std::ptr::null_mut();
        }
        let Some(at) = self.buffer.claim(record_len(len)) else {
            return std::ptr::null_mut();
        };
        self.buffer.mark(at, self.header_of(at, len as u32 | BUSY));
        self.buffer.at(at).wrapping_add(HEADER as usize)
    }

    /// Gives a reserved record to the consumer (`bpf_ringbuf_submit`) and wakes it if it waits for this
    /// very record; or always with [`RING_FORCE_WAKEUP`], never with [`RING_NO_WAKEUP`].
    ///
    /// # Safety
    /// `record` was returned by [`Ring::reserve`] of this ring and neither submitted nor discarded since.
    /// Nobody writes to it any more.
    pub unsafe fn submit(&self, record: *mut u8, flags: u64) {
        // SAFETY: the caller's.
        unsafe { self.finish(record, flags, 0) };
    }

    /// Gives up a reserved record (`bpf_ringbuf_discard`): consumers will pass over it.
    ///
    /// # Safety
    /// As [`Ring::submit`].
    pub unsafe fn discard(&self, record: *mut u8, flags: u64) {
        // SAFETY: the caller's.
        unsafe { self.finish(record, flags, DISCARDED) };
    }

    /// A record with a copy of `data` (`bpf_ringbuf_output`).
    ///
    /// # Errors
    /// `EINVAL` for unknown flags, `EAGAIN` if there is no room.
    pub fn output(&self, data: &[u8], flags: u64) -> Result<(), Errno> {
        if flags & !(RING_NO_WAKEUP | RING_FORCE_WAKEUP) != 0 {
            return Err(Errno::EINVAL);
        }
        let len = data.len() as u64;
        if len > MAX_RECORD || record_len(len) > self.buffer.len() {
            return Err(Errno::EAGAIN);
        }
        let at = self.buffer.claim(record_len(len)).ok_or(Errno::EAGAIN)?;
        self.buffer.fill(at, HEADER as usize, data);
        self.commit(at, len as u32, flags);
        Ok(())
    }

    /// What `bpf_ringbuf_query` answers: 0 bytes not yet consumed, 1 the ring's size, 2 the consumer's and
    /// 3 the producers' position; 0 to anything else.
    #[must_use]
    pub fn query(&self, what: u64) -> u64 {
        match what {
            0 => {
                // In this order, so that it is never negative.
                let consumed = self.buffer.consumed();
                self.buffer.produced() - consumed
            }
            1 => self.buffer.len(),
            2 => self.buffer.consumed(),
            3 => self.buffer.produced(),
            _ => 0,
        }
    }

    /// Whether `len` bytes at `addr` lie inside the reserved record `record`, not submitted or discarded
    /// yet. False if `record` is no address of this ring's.
    ///
    /// # Safety
    /// Inside this ring, `record` was returned by [`Ring::reserve`] and neither submitted nor discarded.
    #[must_use]
    pub unsafe fn record_contains(&self, record: *mut u8, addr: usize, len: usize) -> bool {
        let Some(offset) = self.buffer.offset_of(record.addr()) else {
            return false;
        };
        let header = self.buffer.header(offset.wrapping_sub(HEADER));
        let size = header.load(Relaxed) as u32 & !BUSY;
        let start = addr.checked_sub(record.addr());
        let end = start.and_then(|start| start.checked_add(len));
        end.is_some_and(|end| end <= size as usize)
    }

    /// # Safety
    /// As [`Ring::submit`].
    unsafe fn finish(&self, record: *mut u8, flags: u64, discarded: u32) {
        let offset = self.buffer.offset_of(record.addr());
        debug_assert!(offset.is_some_and(|offset| offset % HEADER == 0));
        let Some(at) = offset.map(|offset| offset.wrapping_sub(HEADER)) else {
            return;
        };
        let header = self.buffer.header(at);
        let len = header.load(Relaxed) as u32;
        debug_assert!(len & BUSY != 0);
        self.commit(at, len & !BUSY | discarded, flags);
    }

    fn commit(&self, at: u64, len: u32, flags: u64) {
        self.buffer.commit(at, self.header_of(at, len));
        let waits_for_it = || self.buffer.at(self.buffer.consumed()) == self.buffer.at(at);
        if flags & RING_FORCE_WAKEUP != 0 || flags & RING_NO_WAKEUP == 0 && waits_for_it() {
            self.wakeup.wake();
        }
    }

    fn header_of(&self, at: u64, len: u32) -> u64 {
        let page = (at & (self.buffer.len() - 1)) / u64::from(page_size()) + PAGES_BEFORE;
        page << 32 | u64::from(len)
    }
}

/// The consumer's side.
impl Ring {
    /// Takes what is submitted, up to the first record that is not, and no further than producers had come
    /// when it began. Returns how many records it passed to `each`.
    ///
    /// One thread consumes at a time; others wait. `each` must not consume from this ring itself.
    pub fn consume(&self, mut each: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        self.buffer.consume(read, |header, record| {
            let len = header as u32;
            if len & DISCARDED == 0 {
                each(&record[..len as usize]);
                count += 1;
            }
        });
        count
    }

    /// Sleeps until there is a record to consume or a producer forced a wakeup, at most for `timeout`
    /// (rounded up to milliseconds). False if the time ran out. It may wake for nothing.
    ///
    /// One consumer may wait at a time.
    ///
    /// # Errors
    /// If the system has no descriptor left to sleep on.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        self.wakeup.wait(timeout, || self.buffer.is_ready(read))
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("len", &self.buffer.len())
            .field("produced", &self.buffer.produced())
            .field("consumed", &self.buffer.consumed())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(ring: &Ring) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        ring.consume(|record| records.push(record.to_vec()));
        records
    }

    #[test]
    fn an_open_record_holds_up_those_behind_it() {
        let ring = Ring::new(4096).unwrap();
        let record = ring.reserve(8);
        ring.output(b"second", 0).unwrap();
        assert_eq!((taken(&ring).len(), ring.query(0)), (0, 32));
        // SAFETY: a record of eight bytes, which nobody else has.
        unsafe {
            record.cast::<u64>().write_unaligned(7);
            ring.submit(record, 0);
        }
        let expected = [7_u64.to_ne_bytes().to_vec(), b"second".to_vec()];
        assert_eq!((taken(&ring), ring.query(0)), (expected.to_vec(), 0));
    }

    #[test]
    fn a_record_ends_where_it_says() {
        let ring = Ring::new(4096).unwrap();
        let (one, two) = (ring.reserve(12), ring.reserve(8));
        // SAFETY: records of this ring, not finished yet.
        unsafe {
            for (addr, len, inside) in [(0, 12, true), (12, 0, true), (8, 5, false), (16, 1, false)]
            {
                assert_eq!(ring.record_contains(one, one.addr() + addr, len), inside);
            }
            assert!(!ring.record_contains(one, one.addr() - 1, 1));
            assert!(!ring.record_contains(one, two.addr(), 1));
            assert!(!ring.record_contains(std::ptr::null_mut(), one.addr(), 1));
            ring.discard(one, 0);
            ring.discard(two, 0);
        }
        assert!(taken(&ring).is_empty());
    }

    #[test]
    fn nobody_sleeps_beside_a_record() {
        let ring = Ring::new(4096).unwrap();
        let moment = Some(Duration::from_millis(1));
        assert!(!ring.wait(moment).unwrap());
        ring.output(b"quiet", RING_NO_WAKEUP).unwrap();
        assert!(ring.wait(None).unwrap());
        assert_eq!(taken(&ring), [b"quiet"]);
        assert!(!ring.wait(moment).unwrap());
    }

    #[test]
    fn a_forced_wakeup_reaches_who_waits_for_an_earlier_record() {
        // Room enough to try again until the sleeper sleeps: a full ring wakes nobody.
        let ring = Ring::new(1 << 20).unwrap();
        let open = ring.reserve(8);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| ring.wait(None).unwrap());
            // The sleeper may not sleep yet.
            while !sleeper.is_finished() {
                let _ = ring.output(b"now", RING_FORCE_WAKEUP);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        // SAFETY: the record is still open.
        unsafe { ring.discard(open, 0) };
        assert!(taken(&ring).iter().all(|record| record == b"now"));
    }
}
