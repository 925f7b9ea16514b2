//! Memory below 4 GiB for a burst of frames and their contexts.

use std::io;
use std::ptr::NonNull;

/// Frames of a burst.
pub(crate) const FRAMES: usize = 64;
/// In front of each frame.
const HEADROOM: usize = 256;
/// Bytes of a frame.
pub(crate) const ROOM: usize = 1536;
/// From one frame's buffer to the next: no power of two, so that frames don't fall on the same cache sets.
const STRIDE: usize = 2048 + 64;
/// `struct xdp_md`: six 32-bit fields, `data`, `data_end` and `data_meta` first.
const CONTEXT: usize = 24;
const CONTEXTS: usize = FRAMES * STRIDE;
const LEN: usize = CONTEXTS + FRAMES * CONTEXT;

/// The memory. Freed when dropped.
pub(crate) struct LowMemory(NonNull<u8>);

impl LowMemory {
    pub(crate) fn new() -> io::Result<LowMemory> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | LOW,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = LowMemory(start);
        let end = start.as_ptr().addr() + LEN;
        if u32::try_from(end).is_err() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(memory)
    }

    pub(crate) fn set(&mut self, n: usize, frame: &[u8]) {
        assert!(n < FRAMES && frame.len() <= ROOM, "no place for this frame");
        let data = n * STRIDE + HEADROOM;
        self.slice(data, frame.len()).copy_from_slice(frame);
        let address = self.0.as_ptr().addr() + data;
        let fields = [address, address + frame.len(), address, 0, 0, 0];
        let context = self.slice(CONTEXTS + n * CONTEXT, CONTEXT);
        for (place, field) in context.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&(field as u32).to_ne_bytes());
        }
    }

    pub(crate) fn frame(&self, n: usize) -> &[u8] {
        assert!(n < FRAMES, "no such frame");
        let context = self.0.as_ptr().wrapping_add(CONTEXTS + n * CONTEXT);
        // SAFETY: two 32-bit numbers of a context, inside the mapping, which is zeroed at first.
        let [data, end] = unsafe { context.cast::<[u32; 2]>().read() };
        let off = n * STRIDE + HEADROOM;
        // SAFETY: `set` left the frame's length, which it checked, as the difference; programs cannot write to
        // contexts. Nobody writes while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(off), (end - data) as usize) }
    }

    /// The context of frame `n`. What runs on it may change the frame too.
    ///
    /// # Safety
    /// The reference must be gone before anything else is done with the memory.
    pub(crate) unsafe fn context(&mut self, n: usize) -> &'static mut [u8] {
        assert!(n < FRAMES, "no such frame");
        let context = self.0.as_ptr().wrapping_add(CONTEXTS + n * CONTEXT);
        // SAFETY: inside the mapping; that nobody else has a reference into it is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(context, CONTEXT) }
    }

    fn slice(&mut self, off: usize, len: usize) -> &mut [u8] {
        assert!(off + len <= LEN, "inside the memory");
        // SAFETY: inside the mapping, which is `self`'s alone.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr().add(off), len) }
    }
}

#[cfg(target_arch = "x86_64")]
const LOW: i32 = libc::MAP_32BIT;
#[cfg(not(target_arch = "x86_64"))]
const LOW: i32 = 0;

impl Drop for LowMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; nothing refers to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LEN) };
    }
}
