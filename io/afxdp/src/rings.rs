//! The four rings between an AF_XDP socket and the kernel.
//!
//! A ring is a power of two of slots and two counters that only grow: the producer's says how many entries
//! were ever put in, the consumer's how many were taken out. Each side writes its own counter, with
//! release order after it is done with the slots, and reads the other's with acquire order before it
//! touches them. Each side keeps a copy of the other's counter and looks again only when the copy says
//! that there is nothing to do.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// A ring's memory, mapped from the socket.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `Ring::map` with this address and length; the ring that owns it
        // is gone with it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// What producer and consumer rings share.
struct Ring<T> {
    mapping: Mapping,
    producer: usize,
    consumer: usize,
    flags: usize,
    slots: NonNull<T>,
    mask: u32,
}

// SAFETY: the ring is memory shared with the kernel; which thread uses our side of it does not matter, as
// long as it is one, which `&mut self` ensures.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn map(
        socket: &OwnedFd,
        page_offset: u64,
        offsets: &libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Ring<T>> {
        assert!(entries.is_power_of_two(), "the kernel refuses other sizes");
        let len = offsets.desc as usize + entries as usize * size_of::<T>();
        // SAFETY: a new mapping at an address of the kernel's choice affects no other memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                page_offset as libc::off_t,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| io::Error::other("mmap returned the null address"))?;
        let mapping = Mapping { base, len };
        // SAFETY: the kernel's offsets lie inside the ring's memory, whose length was computed from them.
        let slots = unsafe { base.add(offsets.desc as usize) }.cast();
        Ok(Ring {
            mapping,
            producer: offsets.producer as usize,
            consumer: offsets.consumer as usize,
            flags: offsets.flags as usize,
            slots,
            mask: entries - 1,
        })
    }

    fn counter(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the kernel says that an aligned 32-bit counter lives at this offset of the mapping, which
        // lives as long as `self`; both sides access it atomically only.
        unsafe { AtomicU32::from_ptr(self.mapping.base.as_ptr().add(offset).cast()) }
    }

    fn size(&self) -> u32 {
        self.mask + 1
    }

    /// Whether the kernel asks to be woken (`XDP_RING_NEED_WAKEUP`).
    fn needs_wakeup(&self) -> bool {
        self.counter(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn slot(&self, position: u32) -> NonNull<T> {
        // SAFETY: the masked position is below the number of slots in the mapping.
        unsafe { self.slots.add((position & self.mask) as usize) }
    }
}

/// A ring that we fill: fill and transmit rings.
pub(crate) struct Producer<T> {
    ring: Ring<T>,
    /// Entries put in, published or not.
    written: u32,
    /// The kernel's counter when last looked.
    taken: u32,
}

impl<T: Copy> Producer<T> {
    pub(crate) fn map(
        socket: &OwnedFd,
        page_offset: u64,
        offsets: &libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        let ring = Ring::map(socket, page_offset, offsets, entries)?;
        let written = ring.counter(ring.producer).load(Ordering::Relaxed);
        let taken = ring.counter(ring.consumer).load(Ordering::Acquire);
        Ok(Producer {
            ring,
            written,
            taken,
        })
    }

    /// Free slots; looks at the kernel's counter only if fewer than `want` are known.
    pub(crate) fn free(&mut self, want: usize) -> usize {
        let known = self.ring.size() - self.written.wrapping_sub(self.taken);
        if known as usize >= want {
            return known as usize;
        }
        self.taken = self
            .ring
            .counter(self.ring.consumer)
            .load(Ordering::Acquire);
        (self.ring.size() - self.written.wrapping_sub(self.taken)) as usize
    }

    /// Puts an entry in, unseen by the kernel until [`Producer::publish`]; false if the ring is full.
    pub(crate) fn push(&mut self, entry: T) -> bool {
        if self.free(1) == 0 {
            return false;
        }
        // SAFETY: the slot is free, so the kernel does not read it, and it lies in the mapping.
        unsafe { self.ring.slot(self.written).write(entry) };
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Shows the kernel all entries put in so far.
    pub(crate) fn publish(&mut self) {
        self.ring
            .counter(self.ring.producer)
            .store(self.written, Ordering::Release);
    }

    /// Entries that the kernel has not taken yet.
    pub(crate) fn outstanding(&mut self) -> u32 {
        self.taken = self
            .ring
            .counter(self.ring.consumer)
            .load(Ordering::Acquire);
        self.written.wrapping_sub(self.taken)
    }

    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that the kernel fills: receive and completion rings.
pub(crate) struct Consumer<T> {
    ring: Ring<T>,
    /// Entries taken, released or not.
    read: u32,
    /// The kernel's counter when last looked.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    pub(crate) fn map(
        socket: &OwnedFd,
        page_offset: u64,
        offsets: &libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        let ring = Ring::map(socket, page_offset, offsets, entries)?;
        let read = ring.counter(ring.consumer).load(Ordering::Relaxed);
        let produced = ring.counter(ring.producer).load(Ordering::Acquire);
        Ok(Consumer {
            ring,
            read,
            produced,
        })
    }

    /// Takes an entry out; the kernel may use its slot after [`Consumer::release`].
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.read == self.produced {
            self.produced = self
                .ring
                .counter(self.ring.producer)
                .load(Ordering::Acquire);
            if self.read == self.produced {
                return None;
            }
        }
        // SAFETY: the kernel published this slot and does not write to it before it is released; any bit
        // pattern is an entry, since entries are integers.
        let entry = unsafe { self.ring.slot(self.read).read() };
        self.read = self.read.wrapping_add(1);
        Some(entry)
    }

    /// Gives the kernel the slots of all entries taken so far.
    pub(crate) fn release(&mut self) {
        self.ring
            .counter(self.ring.consumer)
            .store(self.read, Ordering::Release);
    }
}
