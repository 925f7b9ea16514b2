//! Keys and values of a hash, in numbered slots.
//!
//! Without per-CPU values a slot is key, then value, each padded to words, in one cache line where both
//! fit: a lookup that found the slot's number touches one more line. Per-CPU values are in an array of
//! their own for each CPU, so that CPUs never share a line.

use std::io;

use squalus_isa::MapDef;

use crate::arena::Arena;
use crate::inline::HashLayout;
use crate::key::{Key, Stored};
use crate::layout::{Layout, read_copies};
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::words::{self, WORD};

const LINE: usize = 64;

pub(crate) struct Entries {
    arena: Arena,
    stride: usize,
    key_len: usize,
    key_words: usize,
    layout: Layout,
    per_cpu: Option<PerCpu>,
    copies: u32,
    capacity: u32,
}

/// Values of per-CPU maps: `arena + cpu * plane + slot * stride`.
struct PerCpu {
    arena: Arena,
    stride: usize,
    plane: usize,
}

/// A value to write.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    /// A program's: of this CPU. The pointer is readable for the value size.
    Program(*const u8, u32),
    /// The control side's: of all CPUs, as long as all of them, padded.
    Control(&'a [u8]),
}

impl Entries {
    /// Slots for `capacity` entries.
    pub(crate) fn new(def: &MapDef, capacity: u32, cpus: u32, colour: u32) -> io::Result<Entries> {
        let key_len = def.key_size as usize;
        let value_size = def.value_size as usize;
        let slots = capacity as usize;
        let per_cpu = if def.kind.is_per_cpu() {
            let stride = words::pad(value_size);
            let plane = product(stride, slots)?.next_multiple_of(2 * LINE);
            let arena = Arena::new(product(plane, cpus as usize)?, colour)?;
            Some(PerCpu {
                arena,
                stride,
                plane,
            })
        } else {
            None
        };
        let inline = if per_cpu.is_some() {
            0
        } else {
            words::pad(value_size)
        };
        let stride = slot_stride(words::pad(key_len) + inline);
        Ok(Entries {
            arena: Arena::new(product(stride, slots)?, colour)?,
            stride,
            key_len,
            key_words: key_len.div_ceil(WORD),
            layout: Layout::new(def),
            copies: if per_cpu.is_some() { cpus } else { 1 },
            per_cpu,
            capacity,
        })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn key_len(&self) -> usize {
        self.key_len
    }

    pub(crate) fn key_words(&self) -> usize {
        self.key_words
    }

    pub(crate) fn is_per_cpu(&self) -> bool {
        self.per_cpu.is_some()
    }

    /// Address of the first slot, and bytes between slots.
    pub(crate) fn slots(&self) -> (usize, usize) {
        (self.arena.at(0) as usize, self.stride)
    }

    /// The layout with what it says of values.
    pub(crate) fn with_values(&self, layout: HashLayout) -> HashLayout {
        match &self.per_cpu {
            None => HashLayout {
                values: layout.slots + (self.key_words * WORD) as u64,
                value_stride: layout.stride,
                plane: 0,
                copies: 1,
                ..layout
            },
            Some(values) => HashLayout {
                values: values.arena.at(0) as u64,
                value_stride: values.stride as u64,
                plane: values.plane as u64,
                copies: self.copies.into(),
                ..layout
            },
        }
    }

    /// The stored key of a slot.
    #[inline(always)]
    pub(crate) fn key(&self, slot: u32) -> Stored {
        debug_assert!(slot < self.capacity);
        let key = self.arena.at(slot as usize * self.stride);
        // SAFETY: slots are aligned to words and begin with the key's words.
        unsafe { Stored::new(key, self.key_words) }
    }

    #[inline(always)]
    pub(crate) fn key_is<K: Key>(&self, slot: u32, key: &K) -> bool {
        let stored = self.key(slot);
        let mut different = 0;
        for index in 0..key.words() {
            different |= stored.word(index) ^ key.word(index);
        }
        different == 0
    }

    pub(crate) fn key_bytes(&self, slot: u32) -> Vec<u8> {
        let mut bytes = vec![0; self.key_len];
        // SAFETY: the vector has that many bytes.
        unsafe { self.copy_key(slot, bytes.as_mut_ptr()) };
        bytes
    }

    /// # Safety
    /// `key` is writable for the key size.
    pub(crate) unsafe fn copy_key(&self, slot: u32, key: *mut u8) {
        let stored = self.arena.at(slot as usize * self.stride);
        // SAFETY: the slot's key has `key_len` bytes, aligned; the target by the caller.
        unsafe { words::load(key, stored, self.key_len) };
    }

    /// The value of a slot (of one CPU; a CPU that has none counts as the first).
    #[inline(always)]
    pub(crate) fn value(&self, slot: u32, cpu: u32) -> *mut u8 {
        debug_assert!(slot < self.capacity);
        match &self.per_cpu {
            None => self
                .arena
                .at(slot as usize * self.stride + self.key_words * WORD),
            Some(values) => {
                let cpu = if cpu < self.copies { cpu } else { 0 };
                values
                    .arena
                    .at(cpu as usize * values.plane + slot as usize * values.stride)
            }
        }
    }

    /// All copies of a slot's value; with `locked`, under its lock.
    pub(crate) fn value_bytes(&self, slot: u32, locked: bool) -> Vec<u8> {
        let copies = self.is_per_cpu().then_some(self.copies);
        read_copies(&self.layout, copies, locked, |cpu| self.value(slot, cpu))
    }

    /// Fills a slot that no reader can find yet.
    ///
    /// # Safety
    /// The caller got the slot from the pool, or removed it from the index. The value's contract holds.
    pub(crate) unsafe fn fill<K: Key>(&self, slot: u32, key: &K, value: Value<'_>) {
        // A reader still comparing the slot's former key must see that the index changed if it sees any of
        // the bytes written below. Pairs with the fence in `Set::still`.
        fence(Ordering::Release);
        let stored = self
            .arena
            .at(slot as usize * self.stride)
            .cast::<AtomicU64>();
        for index in 0..key.words() {
            // SAFETY: the key's words begin the slot.
            unsafe { (*stored.add(index)).store(key.word(index), Ordering::Relaxed) };
        }
        if let (Value::Program(..), Some(_)) = (value, &self.per_cpu) {
            for cpu in 0..self.copies {
                // SAFETY: every CPU's value has as many bytes.
                unsafe { words::zero(self.value(slot, cpu), self.layout.size) };
            }
        }
        // SAFETY: the caller's.
        unsafe { self.write(slot, value) };
    }

    /// Overwrites a slot's value: a program that of its CPU, the control side all.
    ///
    /// # Safety
    /// The value's contract holds.
    pub(crate) unsafe fn write(&self, slot: u32, value: Value<'_>) {
        match value {
            Value::Program(bytes, cpu) => {
                // SAFETY: the slot has the value's bytes, aligned; the source by the caller.
                unsafe { self.layout.store(self.value(slot, cpu), bytes) };
            }
            Value::Control(bytes) => {
                let copies = bytes.chunks(words::pad(self.layout.size));
                for (cpu, bytes) in (0..self.copies).zip(copies) {
                    // SAFETY: as above; each chunk has at least the value's bytes.
                    unsafe { self.layout.store(self.value(slot, cpu), bytes.as_ptr()) };
                }
            }
        }
    }

    /// Overwrites a slot's value under its lock.
    ///
    /// # Safety
    /// The value's contract holds.
    pub(crate) unsafe fn write_locked(&self, slot: u32, value: Value<'_>) {
        let bytes = match value {
            Value::Program(bytes, _) => bytes,
            Value::Control(bytes) => bytes.as_ptr(),
        };
        // SAFETY: as in `write`; values with locks are not per-CPU.
        unsafe { self.layout.store_locked(self.value(slot, 0), bytes) };
    }

    /// Ends what an entry that leaves the index has under way.
    pub(crate) fn retire(&self, slot: u32) {
        // SAFETY: values with timers are not per-CPU; the slot has the value's bytes, aligned.
        unsafe { self.layout.stop_timer(self.value(slot, 0)) };
    }

    /// The slot whose value is at an address, in maps that are not per-CPU.
    pub(crate) fn slot_of(&self, addr: usize) -> Option<u32> {
        if self.is_per_cpu() || !self.contains(addr, self.layout.size) {
            return None;
        }
        Some((self.arena.offset_of(addr)? / self.stride) as u32)
    }

    /// Whether a range of addresses lies in one value.
    pub(crate) fn contains(&self, addr: usize, len: usize) -> bool {
        let (offset, stride, start, slots) = match &self.per_cpu {
            None => {
                let offset = self.arena.offset_of(addr);
                (offset, self.stride, self.key_words * WORD, self.capacity)
            }
            Some(values) => {
                let offset = values.arena.offset_of(addr).map(|at| at % values.plane);
                (offset, values.stride, 0, self.capacity)
            }
        };
        let Some(offset) = offset else { return false };
        let (slot, at) = (offset / stride, offset % stride);
        let end = at.checked_add(len);
        slot < slots as usize
            && at >= start
            && end.is_some_and(|end| end <= start + self.layout.size)
    }
}

/// A length in bytes, unless it is beyond all memory.
fn product(size: usize, count: usize) -> io::Result<usize> {
    let len = size.checked_mul(count);
    len.filter(|&len| len <= isize::MAX as usize)
        .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Small slots don't straddle cache lines.
pub(crate) const fn slot_stride(len: usize) -> usize {
    if len <= WORD {
        WORD
    } else if len <= LINE {
        len.next_power_of_two()
    } else {
        len.next_multiple_of(2 * WORD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides() {
        let strides = [8, 24, 40, 56, 64, 72, 104].map(slot_stride);
        assert_eq!(strides, [8, 32, 64, 64, 64, 80, 112]);
    }
}
