//! A lock of four bytes for changes that last a copy: of queues, and in values (`struct bpf_spin_lock`).

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{hint, thread};

/// Unlocked while zero, so zeroed memory holds unlocked locks.
#[repr(transparent)]
pub(crate) struct Spin(AtomicU32);

/// Unlocks when dropped.
pub(crate) struct Held<'a>(&'a Spin);

impl Spin {
    pub(crate) fn new() -> Spin {
        Spin(AtomicU32::new(0))
    }

    /// The lock in shared memory.
    ///
    /// # Safety
    /// `at` is aligned to 4 and its 4 bytes, used by nothing but locks, live as long as the result.
    #[inline]
    pub(crate) unsafe fn at<'a>(at: *mut u8) -> &'a Spin {
        // SAFETY: the caller's.
        unsafe { &*at.cast::<Spin>() }
    }

    #[inline]
    pub(crate) fn lock(&self) -> Held<'_> {
        let mut spins = 0_u32;
        while !self.try_lock() {
            spins += 1;
            // The holder may have been preempted by us.
            if spins.is_multiple_of(128) {
                thread::yield_now();
            } else {
                hint::spin_loop();
            }
        }
        Held(self)
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
            && self
                .0
                .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    fn unlock(&self) {
        self.0.store(0, Ordering::Release);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

/// Takes the `struct bpf_spin_lock` at `at`, waiting for as long as it is held (`bpf_spin_lock`).
///
/// # Safety
/// `at` is aligned to 4, its 4 bytes lie in a value of a map that lives, and nothing but locks uses them.
#[inline]
pub unsafe fn spin_lock(at: *mut u8) {
    // SAFETY: the caller's.
    std::mem::forget(unsafe { Spin::at(at) }.lock());
}

/// Gives back the `struct bpf_spin_lock` at `at` (`bpf_spin_unlock`).
///
/// # Safety
/// As [`spin_lock`], by which the caller has taken the lock.
#[inline]
pub unsafe fn spin_unlock(at: *mut u8) {
    // SAFETY: the caller's.
    unsafe { Spin::at(at) }.unlock();
}
