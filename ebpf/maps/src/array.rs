//! `ARRAY` and `PERCPU_ARRAY`: an index is an address (kernel/bpf/arraymap.c).

use std::io;

use squalus_isa::{Errno, MapDef, UpdateFlags};

use crate::arena::Arena;
use crate::layout::{Layout, read_copies};
use crate::words;

/// CPUs' values don't share a pair of cache lines (the unit adjacent-line prefetchers fetch).
const CPU_ALIGN: usize = 128;

/// Where an array's values are: `base + cpu * cpu_stride + index * stride`, for `index < entries`.
///
/// Never changes while the map lives, so compiled code may hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrayBase {
    /// Address of element 0 (of CPU 0).
    pub base: usize,
    /// Bytes between elements.
    pub stride: usize,
    /// Bytes between CPUs' copies; 0 if the map is not per-CPU.
    pub cpu_stride: usize,
    /// How many elements.
    pub entries: u32,
}

pub(crate) struct Array {
    arena: Arena,
    entries: u32,
    layout: Layout,
    stride: usize,
    /// Bytes of one CPU's copy.
    plane: usize,
    per_cpu: bool,
    /// Copies: 1, or the number of CPUs.
    copies: u32,
}

impl Array {
    pub(crate) fn new(def: &MapDef, cpus: u32, colour: u32) -> io::Result<Array> {
        let value_size = def.value_size as usize;
        let stride = words::pad(value_size);
        let copies = if def.kind.is_per_cpu() { cpus } else { 1 };
        let plane = stride
            .checked_mul(def.max_entries as usize)
            .and_then(|len| len.checked_next_multiple_of(CPU_ALIGN))
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let len = plane
            .checked_mul(copies as usize)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Array {
            arena: Arena::new(len, colour)?,
            entries: def.max_entries,
            layout: Layout::new(def),
            stride,
            plane,
            per_cpu: def.kind.is_per_cpu(),
            copies,
        })
    }

    pub(crate) fn base(&self) -> ArrayBase {
        ArrayBase {
            base: self.arena.base() as usize,
            stride: self.stride,
            cpu_stride: if self.per_cpu { self.plane } else { 0 },
            entries: self.entries,
        }
    }

    pub(crate) fn copies(&self) -> u32 {
        self.copies
    }

    #[inline]
    pub(crate) fn slot(&self, index: u32, cpu: u32) -> *mut u8 {
        if index >= self.entries {
            return std::ptr::null_mut();
        }
        // A CPU the map has no copy for (every CPU, in a plain array) gets the first one.
        let cpu = if cpu < self.copies { cpu } else { 0 };
        self.arena
            .at(cpu as usize * self.plane + index as usize * self.stride)
    }

    /// Program-side update of one CPU's value.
    ///
    /// # Safety
    /// `value` is readable for the value size.
    pub(crate) unsafe fn update(
        &self,
        index: u32,
        value: *const u8,
        flags: u64,
        cpu: u32,
    ) -> Result<(), Errno> {
        self.check_update(index, flags)?;
        // SAFETY: the index is checked; the source by the caller.
        unsafe { self.store(index, cpu, value, flags) };
        Ok(())
    }

    /// # Safety
    /// The index is below the number of entries, `value` is readable for the value size, and the flags are
    /// checked.
    unsafe fn store(&self, index: u32, cpu: u32, value: *const u8, flags: u64) {
        let slot = self.slot(index, cpu);
        // SAFETY: the slot has the value's bytes, at a multiple of 8; the source by the caller.
        unsafe {
            if flags & UpdateFlags::LOCK.0 == 0 {
                self.layout.store(slot, value);
            } else {
                self.layout.store_locked(slot, value);
            }
            self.layout.stop_timer(slot);
        }
    }

    /// Programs learn in the kernel's order what is wrong: the lock that arrays don't have comes last.
    fn check_update(&self, index: u32, flags: u64) -> Result<(), Errno> {
        let others = flags & !UpdateFlags::LOCK.0;
        if others > UpdateFlags::EXIST.0 {
            return Err(Errno::EINVAL);
        }
        if index >= self.entries {
            return Err(Errno::E2BIG);
        }
        if others == UpdateFlags::NOEXIST.0 {
            return Err(Errno::EEXIST);
        }
        self.layout.check_lock(flags)
    }

    /// With `locked`, under the value's lock.
    pub(crate) fn sys_lookup(&self, index: u32, locked: bool) -> Option<Vec<u8>> {
        if index >= self.entries {
            return None;
        }
        let copies = self.per_cpu.then_some(self.copies);
        Some(read_copies(&self.layout, copies, locked, |cpu| {
            self.slot(index, cpu)
        }))
    }

    /// `value` has the length of all copies.
    pub(crate) fn sys_update(&self, index: u32, value: &[u8], flags: u64) -> Result<(), Errno> {
        self.check_update(index, flags)?;
        for (cpu, value) in (0..self.copies).zip(value.chunks(self.stride)) {
            // SAFETY: the index is checked; a chunk has at least the value's bytes.
            unsafe { self.store(index, cpu, value.as_ptr(), flags) };
        }
        Ok(())
    }

    /// The index of the value at an address, in any plane.
    pub(crate) fn index_of(&self, addr: usize) -> Option<u32> {
        let inside = self.contains(addr, self.layout.size);
        let offset = self.arena.offset_of(addr).filter(|_| inside)?;
        Some((offset % self.plane / self.stride) as u32)
    }

    pub(crate) fn contains(&self, addr: usize, len: usize) -> bool {
        let Some(offset) = self.arena.offset_of(addr) else {
            return false;
        };
        let in_plane = offset % self.plane;
        let index = in_plane / self.stride;
        index < self.entries as usize
            && (in_plane % self.stride)
                .checked_add(len)
                .is_some_and(|end| end <= self.layout.size)
    }
}

/// The key after `key` in an array: absent or outside starts from 0.
pub(crate) fn next_index(entries: u32, key: Option<u32>) -> Option<u32> {
    match key {
        Some(last) if last == entries - 1 => None,
        Some(index) if index < entries => Some(index + 1),
        _ => Some(0),
    }
}
