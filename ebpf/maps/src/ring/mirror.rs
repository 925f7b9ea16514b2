//! Memory that is mapped twice in a row, so that what runs over its end goes on at its start.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// `len` zeroed bytes, and the same bytes once more behind them. Pages come when they are first touched.
pub(crate) struct Mirror {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory. Whoever hands out pointers into it is responsible for how they are used.
unsafe impl Send for Mirror {}
// SAFETY: as above.
unsafe impl Sync for Mirror {}

impl Mirror {
    /// `len` must be whole pages.
    pub(crate) fn new(len: usize) -> io::Result<Mirror> {
        // SAFETY: a string constant; the descriptor is new.
        let file = unsafe {
            let fd = libc::memfd_create(c"squalus-ring".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let size = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: a descriptor of our own.
        if unsafe { libc::ftruncate(file.as_raw_fd(), size) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let twice = len.checked_mul(2).ok_or(io::ErrorKind::OutOfMemory)?;
        let reserved = map(std::ptr::null_mut(), twice, libc::PROT_NONE, None)?;
        let mirror = Mirror {
            base: reserved,
            len,
        };
        for half in [0, len] {
            let at = reserved.as_ptr().wrapping_add(half);
            map(at, len, libc::PROT_READ | libc::PROT_WRITE, Some(&file))?;
        }
        Ok(mirror)
    }

    /// The first byte.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // SAFETY: exactly the range reserved in `new`; the owner is gone, so nobody points into it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len * 2) };
    }
}

/// Maps `file` at `at`, which is part of a reservation; without a file, reserves addresses.
fn map(at: *mut u8, len: usize, access: i32, file: Option<&OwnedFd>) -> io::Result<NonNull<u8>> {
    let (flags, fd) = match file {
        Some(file) => (libc::MAP_SHARED | libc::MAP_FIXED, file.as_raw_fd()),
        None => (
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
        ),
    };
    // SAFETY: a fixed mapping only replaces what the caller reserved; any other is new.
    let mapped = unsafe { libc::mmap(at.cast(), len, access, flags, fd, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(mapped.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_are_the_same_memory() {
        let mirror = Mirror::new(8192).unwrap();
        // SAFETY: both offsets are inside, and nobody else uses the memory.
        unsafe {
            let low = mirror.base().add(10);
            let high = mirror.base().add(8192 + 10);
            low.write_volatile(7);
            assert_eq!(high.read_volatile(), 7);
            high.write_volatile(9);
            assert_eq!(low.read_volatile(), 9);
        }
    }
}
