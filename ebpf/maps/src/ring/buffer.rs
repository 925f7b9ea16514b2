//! Records in a ring: any number of producers, one consumer, no lock between them.
//!
//! Positions count bytes since the beginning; the memory holds those from `consumed` to `produced`. A
//! record is whole words, the first one its *header*. A producer claims a record by moving `produced`
//! on, which repeats only if another producer did the same meanwhile. It then fills the record and stores
//! the header last. Until then the consumer must see that the record is not finished, though nobody has
//! written anything yet: so the consumer leaves nothing but zeros behind, and a header of zero means *not
//! yet*. (The kernel takes a spin lock instead, under which a producer claims a record and marks it busy.)
//!
//! The memory is mapped twice in a row, so a record is contiguous wherever it starts.

use std::io;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, PoisonError};
use crate::words::{self, Padded, WORD};

use super::mirror::Mirror;

pub(crate) struct Buffer {
    base: *mut u8,
    mask: u64,
    /// Up to where producers have claimed.
    produced: Padded<AtomicU64>,
    /// Up to where the consumer has read. Only changed under `consumer`.
    consumed: Padded<AtomicU64>,
    /// Whoever holds it is the consumer. Producers never ask for it.
    consumer: Mutex<()>,
    /// What `base` points into.
    _memory: Option<Mirror>,
}

// SAFETY: `base` points to memory that lives as long as the buffer. A record belongs to one producer from
// its claim to its header's store, and to the consumer from there until `consumed` has passed it.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// The record is not finished.
    Busy,
    /// It is, and has so many bytes, header included.
    Ready(u32),
}

impl Buffer {
    /// A buffer of `len` bytes, a power of two of whole pages.
    pub(crate) fn new(len: u32) -> io::Result<Buffer> {
        let memory = Mirror::new(len as usize)?;
        Ok(Buffer::over(memory.base(), len, Some(memory)))
    }

    /// A buffer in `len` zeroed bytes, aligned to words, which `memory` keeps mapped twice.
    pub(crate) fn over(base: *mut u8, len: u32, memory: Option<Mirror>) -> Buffer {
        debug_assert!(len.is_power_of_two() && len as usize >= WORD);
        Buffer {
            base,
            mask: u64::from(len) - 1,
            produced: Padded(AtomicU64::new(0)),
            consumed: Padded(AtomicU64::new(0)),
            consumer: Mutex::new(()),
            _memory: memory,
        }
    }

    /// Bytes it holds.
    pub(crate) fn len(&self) -> u64 {
        self.mask + 1
    }

    pub(crate) fn produced(&self) -> u64 {
        self.produced.0.load(Ordering::Acquire)
    }

    pub(crate) fn consumed(&self) -> u64 {
        self.consumed.0.load(Ordering::SeqCst)
    }

    /// The byte at a position.
    pub(crate) fn at(&self, position: u64) -> *mut u8 {
        self.base.wrapping_add((position & self.mask) as usize)
    }

    /// How far `addr` is into the memory, modulo its length; `None` if outside.
    pub(crate) fn offset_of(&self, addr: usize) -> Option<u64> {
        let offset = addr.checked_sub(self.base.addr())? as u64;
        (offset < 2 * self.len()).then_some(offset & self.mask)
    }

    /// The header of the record at a position.
    pub(crate) fn header(&self, position: u64) -> &AtomicU64 {
        debug_assert!(position.is_multiple_of(WORD as u64));
        // SAFETY: in bounds and aligned. Programs never get a pointer to it.
        unsafe { &*self.at(position).cast::<AtomicU64>() }
    }

    /// Claims a record of `len` bytes, a multiple of words: its position, unless there is no room. All of
    /// it is zero. As in the kernel, never is every byte in use.
    pub(crate) fn claim(&self, len: u64) -> Option<u64> {
        debug_assert!(len.is_multiple_of(WORD as u64));
        let mut at = self.produced.0.load(Ordering::Relaxed);
        loop {
            // Acquire: the consumer's zeros are there before what the producer writes over them.
            let consumed = self.consumed.0.load(Ordering::Acquire);
            // Negative if `at` is out of date; then the exchange fails.
            let used = at.wrapping_add(len).wrapping_sub(consumed).cast_signed();
            if used > self.mask.cast_signed() {
                return None;
            }
            match self.produced.0.compare_exchange_weak(
                at,
                at + len,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(at),
                Err(now) => at = now,
            }
        }
    }

    /// Copies `bytes` into a claimed record, `offset` bytes behind its start, a multiple of words.
    pub(crate) fn fill(&self, record: u64, offset: usize, bytes: &[u8]) {
        debug_assert!(offset.is_multiple_of(WORD) && offset + bytes.len() <= self.len() as usize);
        // SAFETY: a record is contiguous, and the claimer's alone; words don't pass its end.
        unsafe {
            words::store(
                self.at(record).wrapping_add(offset),
                bytes.as_ptr(),
                bytes.len(),
            );
        }
    }

    /// Stores a header that says busy.
    pub(crate) fn mark(&self, record: u64, header: u64) {
        self.header(record).store(header, Ordering::Relaxed);
    }

    /// Stores the header of a filled record, which says ready: it is the consumer's from now on.
    ///
    /// Sequentially consistent, so that of a producer that looks for a sleeping consumer afterwards and a
    /// consumer that looks for a record before it sleeps, one finds the other.
    pub(crate) fn commit(&self, record: u64, header: u64) {
        self.header(record).swap(header, Ordering::SeqCst);
    }

    /// Whether the next record is ready.
    pub(crate) fn is_ready(&self, read: impl Fn(u64) -> Header) -> bool {
        let next = self.header(self.consumed()).load(Ordering::SeqCst);
        read(next) != Header::Busy
    }

    /// Takes the records that are ready, up to the first busy one and no further than producers had come
    /// when it began. `each` gets a record's header and the bytes behind it.
    ///
    /// Must not be called from `each`.
    pub(crate) fn consume(&self, read: impl Fn(u64) -> Header, mut each: impl FnMut(u64, &[u8])) {
        let _consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.produced();
        let mut at = self.consumed.0.load(Ordering::Relaxed);
        while at < end {
            let header = self.header(at).load(Ordering::Acquire);
            let Header::Ready(len) = read(header) else {
                return;
            };
            let len = len as usize;
            let record = self.at(at);
            // SAFETY: the header says that the record has `len` bytes and that its producer is done with
            // it; it is contiguous.
            let payload = unsafe { std::slice::from_raw_parts(record.add(WORD), len - WORD) };
            each(header, payload);
            // SAFETY: as above, and `payload` is no longer used.
            unsafe { words::zero(record, len) };
            at += len as u64;
            // SeqCst as in `commit`: a producer looks here whether the consumer had caught up with it.
            self.consumed.0.store(at, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: u64) -> Header {
        match header as u32 {
            0 => Header::Busy,
            len => Header::Ready(len),
        }
    }

    fn put(buffer: &Buffer, word: u64) -> bool {
        let Some(at) = buffer.claim(16) else {
            return false;
        };
        buffer.fill(at, 8, &word.to_ne_bytes());
        buffer.commit(at, 16);
        true
    }

    fn take(buffer: &Buffer) -> Vec<u64> {
        let mut words = Vec::new();
        buffer.consume(read, |_, bytes| {
            words.push(u64::from_ne_bytes(bytes.try_into().unwrap()));
        });
        words
    }

    #[test]
    fn records_come_out_in_order_over_many_rounds() {
        let buffer = Buffer::new(4096).unwrap();
        for round in 0..1000 {
            assert!((0..100).all(|at| put(&buffer, round * 100 + at)));
            assert_eq!(
                take(&buffer),
                (round * 100..round * 100 + 100).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn one_byte_always_stays_free() {
        let buffer = Buffer::new(4096).unwrap();
        assert_eq!((0..).take_while(|&word| put(&buffer, word)).count(), 255);
        assert_eq!(take(&buffer).len(), 255);
        assert_eq!(buffer.claim(4096), None);
        assert!(buffer.claim(4088).is_some());
    }

    #[test]
    fn a_busy_record_holds_up_what_follows() {
        let buffer = Buffer::new(4096).unwrap();
        let first = buffer.claim(16).unwrap();
        assert!(put(&buffer, 2));
        assert_eq!(take(&buffer), []);
        assert!(!buffer.is_ready(read));
        buffer.fill(first, 8, &1_u64.to_ne_bytes());
        buffer.commit(first, 16);
        assert!(buffer.is_ready(read));
        assert_eq!(take(&buffer), [1, 2]);
    }

    #[test]
    fn a_record_over_the_end_is_contiguous_and_leaves_zeros() {
        let buffer = Buffer::new(4096).unwrap();
        for _ in 0..3 {
            let at = buffer.claim(2800).unwrap();
            // SAFETY: the record is ours.
            let zeros = unsafe { std::slice::from_raw_parts(buffer.at(at), 2800) };
            assert!(zeros.iter().all(|&byte| byte == 0));
            buffer.fill(at, 8, &[0xa5; 2792]);
            buffer.commit(at, 2800);
            let mut seen = 0;
            buffer.consume(read, |_, bytes| {
                assert!(bytes.iter().all(|&byte| byte == 0xa5));
                seen += bytes.len();
            });
            assert_eq!(seen, 2792);
        }
    }
}
