//! Memory for machine code: writable while it is filled, executable after, never both.

use std::io;
use std::ptr::NonNull;

/// Finished machine code. Freed when dropped.
pub(crate) struct CodeMemory {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: after construction the memory is never written until it is unmapped, and nothing is bound to
// the thread that mapped it.
unsafe impl Send for CodeMemory {}
// SAFETY: as above; shared access only reads and executes.
unsafe impl Sync for CodeMemory {}

impl CodeMemory {
    /// Copies `code` to memory of its own and makes it executable.
    pub(crate) fn new(code: &[u8]) -> io::Result<CodeMemory> {
        let len = code.len().max(1);
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // From here on, dropping unmaps.
        let memory = CodeMemory { start, len };
        // SAFETY: the mapping is `len` bytes long, writable and ours alone.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), start.as_ptr(), code.len()) };
        // SAFETY: the range is exactly the mapping made above; no reference into it exists.
        let result = unsafe {
            libc::mprotect(
                start.as_ptr().cast(),
                len,
                libc::PROT_READ | libc::PROT_EXEC,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        flush_instruction_cache(start.as_ptr(), len);
        Ok(memory)
    }

    /// Address of the code at `offset`.
    pub(crate) fn at(&self, offset: usize) -> *const u8 {
        debug_assert!(offset < self.len);
        self.start.as_ptr().wrapping_add(offset)
    }

    /// The code.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is readable, `len` bytes long, and never written again.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Bytes of code.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping made in `new`; whoever could run the code borrows `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Makes freshly written code visible to instruction fetch. x86-64 keeps the caches coherent.
#[cfg(not(target_arch = "aarch64"))]
fn flush_instruction_cache(_start: *const u8, _len: usize) {}

#[cfg(target_arch = "aarch64")]
fn flush_instruction_cache(start: *const u8, len: usize) {
    use std::arch::asm;
    const LINE: usize = 16; // A lower bound of what CTR_EL0 can say: correct everywhere.
    let (start, end) = (start as usize & !(LINE - 1), start as usize + len);
    for address in (start..end).step_by(LINE) {
        // SAFETY: cache maintenance by address of mapped memory changes no state the program can see.
        unsafe { asm!("dc cvau, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    for address in (start..end).step_by(LINE) {
        // SAFETY: as above.
        unsafe { asm!("ic ivau, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}
