//! `QUEUE` and `STACK` (kernel/bpf/queue_stack_maps.c): values without keys, in the order they came.
//!
//! A ring behind a lock that is held for one copy, as in the kernel: pushing to a full map with `BPF_EXIST`
//! drops the oldest value at one end while others pop at either, which no lock-free ring or stack offers.

use std::io;

use squalus_isa::{Errno, MapDef, MapType, UpdateFlags};

use crate::arena::Arena;
use crate::spin::{Held, Spin};
use crate::sync::atomic::{AtomicU32, Ordering::Relaxed};
use crate::words::{self, Padded};

pub(crate) struct Queue {
    arena: Arena,
    stride: usize,
    value_size: usize,
    entries: u32,
    /// Whether the value taken is the newest (`STACK`).
    newest_first: bool,
    state: Padded<State>,
}

/// All but the lock is changed only with the lock held.
struct State {
    lock: Spin,
    /// The oldest value's place in the ring.
    oldest: AtomicU32,
    len: AtomicU32,
}

impl Queue {
    pub(crate) fn new(def: &MapDef, colour: u32) -> io::Result<Queue> {
        let value_size = def.value_size as usize;
        let stride = words::pad(value_size);
        let len = stride
            .checked_mul(def.max_entries as usize)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Queue {
            arena: Arena::new(len, colour)?,
            stride,
            value_size,
            entries: def.max_entries,
            newest_first: def.kind == MapType::Stack,
            state: Padded(State {
                lock: Spin::new(),
                oldest: AtomicU32::new(0),
                len: AtomicU32::new(0),
            }),
        })
    }

    pub(crate) fn len(&self) -> u32 {
        self.state.0.len.load(Relaxed)
    }

    /// # Safety
    /// `value` is readable for the value size.
    pub(crate) unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        if flags & UpdateFlags::NOEXIST.0 != 0 || flags > UpdateFlags::EXIST.0 {
            return Err(Errno::EINVAL);
        }
        let ring = self.locked();
        if ring.len() == self.entries {
            if flags != UpdateFlags::EXIST.0 {
                return Err(Errno::E2BIG);
            }
            ring.drop_oldest();
        }
        let place = ring.place(ring.len());
        // SAFETY: slots are aligned and hold `value_size` bytes; the source by the caller.
        unsafe { words::store(self.slot(place), value, self.value_size) };
        ring.set_len(ring.len() + 1);
        Ok(())
    }

    /// Takes the next value.
    ///
    /// # Safety
    /// `value` is writable for the value size.
    pub(crate) unsafe fn pop(&self, value: *mut u8) -> Result<(), Errno> {
        // SAFETY: the caller's.
        unsafe { self.next(value, true) }
    }

    /// Copies the next value and leaves it.
    ///
    /// # Safety
    /// `value` is writable for the value size.
    pub(crate) unsafe fn peek(&self, value: *mut u8) -> Result<(), Errno> {
        // SAFETY: the caller's.
        unsafe { self.next(value, false) }
    }

    /// # Safety
    /// `value` is writable for the value size.
    unsafe fn next(&self, value: *mut u8, take: bool) -> Result<(), Errno> {
        let ring = self.locked();
        let Some(newest) = ring.len().checked_sub(1) else {
            // As in the kernel, whoever gets nothing gets zeros.
            // SAFETY: the caller's.
            unsafe { value.write_bytes(0, self.value_size) };
            return Err(Errno::ENOENT);
        };
        let place = ring.place(if self.newest_first { newest } else { 0 });
        // SAFETY: slots are aligned and hold `value_size` bytes; the target by the caller.
        unsafe { words::load(value, self.slot(place), self.value_size) };
        if take && self.newest_first {
            ring.set_len(newest);
        } else if take {
            ring.drop_oldest();
        }
        Ok(())
    }

    fn slot(&self, place: u32) -> *mut u8 {
        self.arena.at(place as usize * self.stride)
    }

    fn locked(&self) -> Ring<'_> {
        let state = &self.state.0;
        Ring {
            _held: state.lock.lock(),
            state,
            entries: self.entries,
        }
    }
}

/// The locked ring.
struct Ring<'a> {
    _held: Held<'a>,
    state: &'a State,
    entries: u32,
}

impl Ring<'_> {
    fn len(&self) -> u32 {
        self.state.len.load(Relaxed)
    }

    fn set_len(&self, len: u32) {
        self.state.len.store(len, Relaxed);
    }

    /// Where the value is that came `nth` after the oldest.
    fn place(&self, nth: u32) -> u32 {
        let place = u64::from(self.state.oldest.load(Relaxed)) + u64::from(nth);
        let entries = u64::from(self.entries);
        (if place < entries {
            place
        } else {
            place - entries
        }) as u32
    }

    fn drop_oldest(&self) {
        self.state.oldest.store(self.place(1), Relaxed);
        self.set_len(self.len() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(kind: MapType, entries: u32) -> Queue {
        let def = MapDef::new("q", kind, (0, 8), entries);
        Queue::new(&def, 0).unwrap()
    }

    fn push(queue: &Queue, value: u64, flags: u64) -> Result<(), Errno> {
        // SAFETY: 8 bytes.
        unsafe { queue.push(value.to_ne_bytes().as_ptr(), flags) }
    }

    fn pop(queue: &Queue) -> Result<u64, Errno> {
        let mut value = [0xff; 8];
        // SAFETY: 8 bytes.
        unsafe { queue.pop(value.as_mut_ptr()) }.map(|()| u64::from_ne_bytes(value))
    }

    #[test]
    fn a_full_map_drops_the_oldest_if_asked_to() {
        for (kind, left) in [(MapType::Queue, [2, 3]), (MapType::Stack, [3, 2])] {
            let queue = queue(kind, 2);
            assert_eq!([1, 2].map(|value| push(&queue, value, 0)), [Ok(()); 2]);
            assert_eq!(push(&queue, 3, 0), Err(Errno::E2BIG));
            assert_eq!(push(&queue, 3, UpdateFlags::EXIST.0), Ok(()));
            assert_eq!([pop(&queue), pop(&queue)], left.map(Ok));
            assert_eq!(pop(&queue), Err(Errno::ENOENT));
        }
    }

    /// Each value pushed comes out once, in a queue in each producer's order.
    #[test]
    fn threads_lose_and_double_nothing() {
        const EACH: u64 = 20_000;
        for kind in [MapType::Queue, MapType::Stack] {
            let queue = queue(kind, 7);
            let taken: Vec<Vec<u64>> = std::thread::scope(|scope| {
                for producer in 0..2 {
                    let queue = &queue;
                    scope.spawn(move || {
                        for value in 0..EACH {
                            while push(queue, producer << 32 | value, 0).is_err() {
                                std::thread::yield_now();
                            }
                        }
                    });
                }
                let consumers: Vec<_> =
                    (0..2).map(|_| scope.spawn(|| take(&queue, EACH))).collect();
                consumers.into_iter().map(|c| c.join().unwrap()).collect()
            });
            if kind == MapType::Queue {
                for values in &taken {
                    for producer in 0..2 {
                        let of = values.iter().filter(|&&value| value >> 32 == producer);
                        assert!(of.is_sorted());
                    }
                }
            }
            let mut all = taken.concat();
            all.sort_unstable();
            let expected: Vec<_> = (0..2)
                .flat_map(|p| (0..EACH).map(move |v| p << 32 | v))
                .collect();
            assert_eq!(all, expected);
        }
    }

    fn take(queue: &Queue, count: u64) -> Vec<u64> {
        let mut values = Vec::new();
        while (values.len() as u64) < count {
            match pop(queue) {
                Ok(value) => values.push(value),
                Err(_) => std::thread::yield_now(),
            }
        }
        values
    }
}
