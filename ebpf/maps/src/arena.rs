//! Memory of maps: zeroed, lazily committed, at one address for the map's whole life.

use std::io;
use std::ptr::NonNull;

const HUGE_PAGE: usize = 2 << 20;
const LINE: usize = 64;
const COLOURS: usize = 64;

/// An anonymous mapping.
///
/// Creating one costs the same whatever its size: the kernel gives pages when they are first touched,
/// and none is reserved before. From two huge pages on it is aligned for, and asks for, huge pages,
/// because a lookup in a large map is bound by memory latency, part of which is the TLB's.
pub(crate) struct Arena {
    map: NonNull<u8>,
    map_len: usize,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: an arena is plain memory. Whoever hands out pointers into it is responsible for how they are used.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps `len` zeroed bytes, aligned to a cache line.
    ///
    /// Small arenas start at a line given by `colour`: all starting at a page's first line would make
    /// the first elements of many maps compete for one set of the L1 cache.
    pub(crate) fn new(len: usize, colour: u32) -> io::Result<Arena> {
        let len = len.max(1);
        let huge = len >= 2 * HUGE_PAGE;
        let slack = if huge { HUGE_PAGE } else { COLOURS * LINE };
        let map_len = len
            .checked_add(slack)
            .filter(|&total| total <= isize::MAX as usize)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new anonymous mapping, no address demanded.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let offset = if huge {
            map.as_ptr().align_offset(HUGE_PAGE)
        } else {
            colour as usize % COLOURS * LINE
        };
        // SAFETY: `offset` is at most `slack`, by which the mapping is longer than `len`.
        let base = unsafe { map.add(offset) };
        if huge {
            // SAFETY: the range lies in the mapping. A refusal only costs speed, so it is ignored.
            unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        }
        Ok(Arena {
            map,
            map_len,
            base,
            len,
        })
    }

    /// The first byte.
    #[inline]
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The byte at `offset`, which must be inside.
    #[inline]
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < self.len);
        // Wrapping arithmetic keeps this safe; using the pointer is what needs care.
        self.base.as_ptr().wrapping_add(offset)
    }

    /// How far `addr` is from the first byte, if it is inside.
    pub(crate) fn offset_of(&self, addr: usize) -> Option<usize> {
        addr.checked_sub(self.base.as_ptr() as usize)
            .filter(|&offset| offset < self.len)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; the owner is gone, so nobody points into it.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_arenas_cost_nothing_until_touched() {
        // More would keep emulators busy, which note something for each page.
        const LARGE: usize = 1 << 36;
        let arena = Arena::new(LARGE, 0).unwrap();
        assert_eq!(arena.base() as usize % HUGE_PAGE, 0);
        let last = arena.at(LARGE - 1);
        // SAFETY: inside the arena, which nobody else uses.
        unsafe {
            assert_eq!(*last, 0);
            *last = 7;
            assert_eq!(*last, 7);
        }
    }

    #[test]
    fn small_arenas_are_coloured() {
        let offset = |colour| Arena::new(100, colour).unwrap().base() as usize % 4096;
        assert_eq!([offset(0), offset(1), offset(65)], [0, 64, 64]);
    }

    #[test]
    fn offsets_end_at_the_bounds() {
        let arena = Arena::new(100, 3).unwrap();
        let base = arena.base() as usize;
        assert_eq!(arena.offset_of(base), Some(0));
        assert_eq!(arena.offset_of(base + 99), Some(99));
        assert_eq!(arena.offset_of(base + 100), None);
        assert_eq!(arena.offset_of(base - 1), None);
    }
}
