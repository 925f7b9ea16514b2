//! Reads and writes of memory whose bounds were checked.
//!
//! Map values are shared with other workers and with the control plane. So every access here is atomic
//! (relaxed): whole if its address is aligned, as on the hardware, byte by byte if not.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, fence};

use squalus_isa::{AtomicOp, MemSize};

/// Loads a number of `size` from `from`, zero-extended.
///
/// # Safety
/// `from` must be readable for `size`, and written by other threads only atomically.
pub(crate) unsafe fn load(from: *mut u8, size: MemSize) -> u64 {
    let bytes = size.bytes() as usize;
    // SAFETY: the caller promises the memory; alignment is checked where an access is whole.
    unsafe {
        if !from.addr().is_multiple_of(bytes) {
            return (0..bytes).rev().fold(0, |value, n| {
                value << 8 | u64::from(AtomicU8::from_ptr(from.add(n)).load(Relaxed))
            });
        }
        match size {
            MemSize::B => AtomicU8::from_ptr(from).load(Relaxed).into(),
            MemSize::H => AtomicU16::from_ptr(from.cast()).load(Relaxed).into(),
            MemSize::W => AtomicU32::from_ptr(from.cast()).load(Relaxed).into(),
            MemSize::Dw => AtomicU64::from_ptr(from.cast()).load(Relaxed),
        }
    }
}

/// Stores the low bytes of `value` at `to`.
///
/// # Safety
/// `to` must be writable for `size`, and used by other threads only atomically.
pub(crate) unsafe fn store(to: *mut u8, size: MemSize, value: u64) {
    let bytes = size.bytes() as usize;
    // SAFETY: the caller promises the memory; alignment is checked where an access is whole.
    unsafe {
        if !to.addr().is_multiple_of(bytes) {
            for (n, byte) in value.to_le_bytes().into_iter().take(bytes).enumerate() {
                AtomicU8::from_ptr(to.add(n)).store(byte, Relaxed);
            }
            return;
        }
        match size {
            MemSize::B => AtomicU8::from_ptr(to).store(value as u8, Relaxed),
            MemSize::H => AtomicU16::from_ptr(to.cast()).store(value as u16, Relaxed),
            MemSize::W => AtomicU32::from_ptr(to.cast()).store(value as u32, Relaxed),
            MemSize::Dw => AtomicU64::from_ptr(to.cast()).store(value, Relaxed),
        }
    }
}

/// As [`load`], before all accesses that follow.
///
/// # Safety
/// As [`load`].
pub(crate) unsafe fn load_acquire(from: *mut u8, size: MemSize) -> u64 {
    // SAFETY: the caller's.
    let value = unsafe { load(from, size) };
    fence(Acquire);
    value
}

/// As [`store`], after all accesses before.
///
/// # Safety
/// As [`store`].
pub(crate) unsafe fn store_release(to: *mut u8, size: MemSize, value: u64) {
    fence(Release);
    // SAFETY: the caller's.
    unsafe { store(to, size, value) };
}

macro_rules! atomic {
    ($name:ident, $word:ty, $cell:ty) => {
        /// Atomic read-modify-write; returns the old value. `r0` is what `CmpXchg` compares with.
        ///
        /// # Safety
        /// As [`store`]; `at` must be aligned to the word's size.
        pub(crate) unsafe fn $name(at: *mut u8, op: AtomicOp, src: $word, r0: $word) -> $word {
            // SAFETY: the caller promises memory and alignment.
            let cell = unsafe { <$cell>::from_ptr(at.cast()) };
            match op {
                AtomicOp::Add => cell.fetch_add(src, SeqCst),
                AtomicOp::Or => cell.fetch_or(src, SeqCst),
                AtomicOp::And => cell.fetch_and(src, SeqCst),
                AtomicOp::Xor => cell.fetch_xor(src, SeqCst),
                AtomicOp::Xchg => cell.swap(src, SeqCst),
                AtomicOp::CmpXchg => cell
                    .compare_exchange(r0, src, SeqCst, SeqCst)
                    .unwrap_or_else(|old| old),
                // The machine makes these itself.
                AtomicOp::LoadAcquire | AtomicOp::StoreRelease => cell.load(SeqCst),
            }
        }
    };
}

atomic!(atomic64, u64, AtomicU64);
atomic!(atomic32, u32, AtomicU32);
