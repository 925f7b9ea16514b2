//! Ring buffers and perf event arrays beside the kernel's: programs do the same in the kernel (test runs) as
//! the test does to our maps, consumers on both sides must get the same, and queries and error numbers must
//! be equal.
//!
//! Needs root (CAP_BPF, CAP_PERFMON); says so and passes where it has none.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod control;
mod perf;
mod program;
mod ring;
#[allow(dead_code, reason = "what the other comparisons use, too")]
#[path = "../kernel/sys.rs"]
mod sys;

use common::def;
use squalus_isa::MapType;

fn kernel_available() -> bool {
    sys::available(&def(MapType::RingBuf, 0, 0, 4096))
}

/// Shared memory of a kernel object, as its consumers map it.
struct Mapping {
    base: *mut u8,
    len: usize,
}

impl Mapping {
    fn new(fd: i32, at: usize, len: usize, access: i32) -> Mapping {
        // SAFETY: a new shared mapping.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                access,
                libc::MAP_SHARED,
                fd,
                at as libc::off_t,
            )
        };
        assert_ne!(
            base,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        Mapping {
            base: base.cast(),
            len,
        }
    }

    fn word(&self, at: usize) -> &std::sync::atomic::AtomicU64 {
        assert!(at + 8 <= self.len && at.is_multiple_of(8));
        // SAFETY: inside the mapping, aligned.
        unsafe { &*self.base.add(at).cast() }
    }

    /// A copy of what the kernel no longer changes.
    fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len);
        // SAFETY: inside the mapping.
        unsafe { std::slice::from_raw_parts(self.base.add(at), len) }.to_vec()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
