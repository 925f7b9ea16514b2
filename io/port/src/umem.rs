//! The memory area behind a pool.

use std::io;
use std::ptr::NonNull;

/// An anonymous, page-aligned, writable memory mapping.
///
/// AF_XDP registers it with the kernel, which then reads and writes parts of it by itself; so there is no
/// reference to the area as a whole, only to the range of a frame that a worker holds (see
/// [`crate::Pool`]).
#[derive(Debug)]
pub struct Umem {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory that is valid from any thread until the last owner drops it; all
// access goes through `Pool`, which hands out disjoint ranges.
unsafe impl Send for Umem {}
// SAFETY: as above; `&Umem` only gives out the address and the length.
unsafe impl Sync for Umem {}

impl Umem {
    /// Maps `len` zeroed bytes and touches every page, so that the packet loop never faults.
    ///
    /// # Errors
    /// If the system has not that much memory.
    pub(crate) fn map(len: usize) -> io::Result<Umem> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice affects no other
        // memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| io::Error::other("mmap returned the null address"))?;
        Ok(Umem { base, len })
    }

    /// Where the area starts.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Its length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an area is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address of the byte at `offset`, which must not lie behind the end of the area.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len, "offset inside the area");
        // SAFETY: the offset was checked, so the result points into the mapping or to its end.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// The bytes of a range.
    ///
    /// # Safety
    /// Nobody (thread or kernel) may write to the range while the result lives.
    pub(crate) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset + len <= self.len, "range inside the area");
        // SAFETY: the range lies in the mapping; the caller vouches for the absence of writers.
        unsafe { std::slice::from_raw_parts(self.at(offset), len) }
    }

    /// The bytes of a range, writable.
    ///
    /// # Safety
    /// Nobody (thread or kernel) else may read or write the range while the result lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "the area is shared with the kernel; the pool hands out exclusive ranges"
    )]
    pub(crate) unsafe fn slice_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        assert!(offset + len <= self.len, "range inside the area");
        // SAFETY: the range lies in the mapping; the caller vouches for exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset), len) }
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this address and length, and no reference into it
        // outlives its owner.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
