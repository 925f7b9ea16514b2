//! A value's bytes, and which of them nobody may overwrite.
//!
//! A `struct bpf_spin_lock` in a value belongs to whoever takes it: updates leave it alone, and it keeps its
//! state even while its memory is not an element, so that a program which still holds the lock of a deleted
//! element releases what it took. A `struct bpf_timer` becomes zero when its element is replaced or goes
//! away, which is what stops the timer. The control side reads both as zero.

use std::ops::Range;

use squalus_isa::{Errno, MapDef, UpdateFlags, ValueFields};

use crate::spin::{Held, Spin};
use crate::words;

pub(crate) struct Layout {
    pub(crate) size: usize,
    fields: ValueFields,
    /// What is between the fields, if there are any.
    parts: Vec<Range<usize>>,
}

impl Layout {
    pub(crate) fn new(def: &MapDef) -> Layout {
        let size = def.value_size as usize;
        let mut fields: Vec<_> = def.fields.ranges().collect();
        fields.sort_by_key(|field| field.start);
        let starts = std::iter::once(0).chain(fields.iter().map(|field| field.end));
        let ends = fields.iter().map(|field| field.start).chain([size]);
        Layout {
            size,
            fields: def.fields,
            parts: starts.zip(ends).map(|(start, end)| start..end).collect(),
        }
    }

    /// Copies a private value to a shared one, but for the fields.
    ///
    /// # Safety
    /// `src` is readable and `dst` writable for the value size; `dst` is aligned to a word, and all other
    /// threads use it atomically.
    #[inline]
    pub(crate) unsafe fn store(&self, dst: *mut u8, src: *const u8) {
        if self.fields.is_empty() {
            // SAFETY: the caller's.
            return unsafe { words::store(dst, src, self.size) };
        }
        for part in self.parts.iter().cloned() {
            // SAFETY: the caller's; parts lie in the value.
            unsafe { words::store_part(dst, src, part) };
        }
    }

    /// As [`Layout::store`], with the lock in `dst` held. There is one if `check_flags` found it.
    ///
    /// # Safety
    /// As [`Layout::store`].
    pub(crate) unsafe fn store_locked(&self, dst: *mut u8, src: *const u8) {
        // SAFETY: the caller's.
        unsafe {
            let _held = self.lock(dst);
            self.store(dst, src);
        }
    }

    /// Copies a shared value to a private one, its fields as zeros; if `locked`, with its lock held.
    ///
    /// # Safety
    /// As [`Layout::store`], with the roles swapped.
    pub(crate) unsafe fn load(&self, dst: *mut u8, src: *mut u8, locked: bool) {
        // SAFETY: the caller's.
        unsafe {
            let _held = if locked { self.lock(src) } else { None };
            words::load(dst, src, self.size);
        }
        for field in self.fields.ranges() {
            // SAFETY: fields lie in the value.
            unsafe { dst.add(field.start).write_bytes(0, field.len()) };
        }
    }

    /// Stops the timer of a value.
    ///
    /// # Safety
    /// `value` is writable for the value size and aligned to a word; all other threads use it atomically.
    #[inline]
    pub(crate) unsafe fn stop_timer(&self, value: *mut u8) {
        if let Some(at) = self.fields.timer {
            let timer = value.wrapping_add(at as usize);
            // SAFETY: the timer lies in the value, aligned to a word.
            unsafe { words::zero(timer, ValueFields::TIMER_SIZE as usize) };
        }
    }

    pub(crate) fn has_lock(&self) -> bool {
        self.fields.spin_lock.is_some()
    }

    /// Whether `BPF_F_LOCK`, if set, can be obeyed.
    pub(crate) fn check_lock(&self, flags: u64) -> Result<(), Errno> {
        if flags & UpdateFlags::LOCK.0 != 0 && !self.has_lock() {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// # Safety
    /// `value` is a value in shared memory that outlives the result.
    unsafe fn lock<'a>(&self, value: *mut u8) -> Option<Held<'a>> {
        let at = self.fields.spin_lock?;
        // SAFETY: the lock lies in the value, aligned to 4.
        Some(unsafe { Spin::at(value.wrapping_add(at as usize)) }.lock())
    }
}

/// A value of all its copies: one, or in per-CPU maps every CPU's, each padded to 8 bytes, as the syscall
/// returns them.
pub(crate) fn read_copies(
    layout: &Layout,
    copies: Option<u32>,
    locked: bool,
    slot: impl Fn(u32) -> *mut u8,
) -> Vec<u8> {
    let stride = match copies {
        Some(_) => words::pad(layout.size),
        None => layout.size,
    };
    let copies = copies.unwrap_or(1);
    let mut bytes = vec![0; stride * copies as usize];
    for (cpu, value) in (0..copies).zip(bytes.chunks_mut(stride)) {
        // SAFETY: slots are aligned and hold `size` bytes, as does `value`.
        unsafe { layout.load(value.as_mut_ptr(), slot(cpu), locked) };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use squalus_isa::MapType;

    /// For all places of the fields, exactly the bytes outside them are stored.
    #[test]
    fn fields_are_left_alone() {
        for size in 1..=48_u32 {
            for lock in (0..size).step_by(4).filter(|at| at + 4 <= size) {
                for timer in (0..size).step_by(8).filter(|at| at + 16 <= size) {
                    if (timer..timer + 16).contains(&lock) {
                        continue;
                    }
                    check(size, Some(lock), Some(timer));
                }
                check(size, Some(lock), None);
            }
            check(size, None, None);
        }
    }

    fn check(size: u32, spin_lock: Option<u32>, timer: Option<u32>) {
        let fields = ValueFields { spin_lock, timer };
        let layout = Layout::new(&MapDef {
            fields,
            ..MapDef::new("", MapType::Array, (4, size), 1)
        });
        let (mut shared, mut back) = ([0_u64; 8], [0xff_u8; 64]);
        // SAFETY: 64 bytes each, `shared` aligned.
        unsafe {
            layout.store(shared.as_mut_ptr().cast(), [0xab; 64].as_ptr());
            layout.load(back.as_mut_ptr(), shared.as_mut_ptr().cast(), false);
        }
        let stored: Vec<u8> = shared.iter().flat_map(|word| word.to_ne_bytes()).collect();
        for at in 0..64 {
            let outside = at < size as usize && !fields.ranges().any(|field| field.contains(&at));
            assert_eq!(
                stored[at],
                if outside { 0xab } else { 0 },
                "{fields:?} of {size}: {at}"
            );
            let read = if at < size as usize { stored[at] } else { 0xff };
            assert_eq!(back[at], read, "{fields:?} of {size}: {at}");
        }
    }
}
