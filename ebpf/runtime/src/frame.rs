//! A packet buffer as an XDP program and its helpers see it (`struct xdp_buff`).
//!
//! ```text
//! hard_start          data_meta   data                 data_end        hard_end
//!     | reserved | free    | metadata | packet             | tail room     |
//! ```
//! The limits are those of the kernel's `net/core/filter.c`: the first [`RESERVED_HEAD`] bytes are never
//! given away (the kernel keeps its `struct xdp_frame` there), metadata is a multiple of four and at most
//! 255 bytes, and a packet is never shorter than an Ethernet header.

mod borrowed;
mod memory;

use core::mem::offset_of;

use squalus_isa::Errno;

pub use borrowed::{FrameError, FrameRef};
pub use memory::FrameMemory;

/// Free bytes before a packet by default (`XDP_PACKET_HEADROOM`).
pub const PACKET_HEADROOM: usize = 256;
/// Bytes at the hard start that no program gets (`sizeof(struct xdp_frame)`).
pub const RESERVED_HEAD: usize = 40;
/// Bytes the kernel keeps at the end of a packet's page (`struct skb_shared_info`, aligned).
pub const RESERVED_TAIL: usize = 320;
/// Size of the page the kernel's test run puts a packet in.
pub const TEST_RUN_PAGE: usize = 4096;
/// Longest frame of a test run: the page without headroom and reserved tail.
pub const TEST_RUN_MAX: usize = TEST_RUN_PAGE - PACKET_HEADROOM - RESERVED_TAIL;
/// Length of an Ethernet header: the shortest packet (`ETH_HLEN`).
pub const MIN_FRAME: usize = 14;
/// Most metadata a packet may carry in bytes (`skb_shared_info.meta_len` has eight bits).
const MAX_META: usize = 255;
/// Longest buffer of a frame. Bounds of packet pointers are proved from packets being shorter than 4 GiB.
const MAX_BUFFER: usize = u32::MAX as usize;
/// Size of a fragment: a page.
const FRAGMENT: usize = 4096;
/// Most fragments of a packet (`MAX_SKB_FRAGS`).
const MAX_FRAGMENTS: usize = 17;
/// Longest frame of a test run of a program that takes fragments.
pub const TEST_RUN_MAX_FRAGMENTED: usize = TEST_RUN_MAX + MAX_FRAGMENTS * FRAGMENT;
/// Longest packet part `xdp_load_bytes` looks at.
const MAX_COPY: u32 = 0xffff;

/// `EACCES`, which only `xdp_adjust_meta` returns.
const EACCES: Errno = Errno(13);

/// The five pointers of a packet buffer, laid out for generated code, and what lies in fragments.
///
/// Invariant of every value made by this crate's safe functions while its memory is borrowed:
/// `hard_start <= data_meta <= data <= data_end <= hard_end`, all in one allocation. If the packet has
/// fragments, they are the `rest` bytes from `data_end` on, inside the same allocation.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    data: *mut u8,
    hard_start: *mut u8,
    data_end: *mut u8,
    hard_end: *mut u8,
    data_meta: *mut u8,
    /// How many bytes of the packet may be in fragments, and how many are.
    rest_room: usize,
    rest: usize,
}

/// Where a [`Frame`] is that a program works on.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct FramePlace(*mut Frame);

// SAFETY: an address. Using what is there takes an unsafe function, whose caller answers for who else uses it.
unsafe impl Send for FramePlace {}
// SAFETY: as above.
unsafe impl Sync for FramePlace {}

impl FramePlace {
    /// Nowhere: there is no frame.
    pub const NOWHERE: FramePlace = FramePlace(core::ptr::null_mut());

    /// The place of this frame.
    #[inline]
    #[must_use]
    pub const fn of(frame: &mut Frame) -> FramePlace {
        FramePlace(&raw mut *frame)
    }

    /// Its address.
    #[inline]
    #[must_use]
    pub const fn address(self) -> *mut Frame {
        self.0
    }
}

// SAFETY: a `Frame` is five addresses and two lengths. Using the memory behind them takes an unsafe function, whose caller
// answers for who else uses it.
unsafe impl Send for Frame {}
// SAFETY: as above.
unsafe impl Sync for Frame {}

impl Frame {
    /// Offset of the start of metadata.
    pub const OFFSET_DATA_META: usize = offset_of!(Frame, data_meta);
    /// Offset of the start of the packet.
    pub const OFFSET_DATA: usize = offset_of!(Frame, data);
    /// Offset of the end of the packet.
    pub const OFFSET_DATA_END: usize = offset_of!(Frame, data_end);
    /// Offset of the start of the buffer.
    pub const OFFSET_HARD_START: usize = offset_of!(Frame, hard_start);
    /// Offset of the end of the buffer.
    pub const OFFSET_HARD_END: usize = offset_of!(Frame, hard_end);
    /// Offset of the number of bytes in fragments.
    pub const OFFSET_REST: usize = offset_of!(Frame, rest);

    /// No buffer at all: every access is out of bounds.
    pub const EMPTY: Frame = Frame {
        hard_start: core::ptr::null_mut(),
        data_meta: core::ptr::null_mut(),
        data: core::ptr::null_mut(),
        data_end: core::ptr::null_mut(),
        hard_end: core::ptr::null_mut(),
        rest: 0,
        rest_room: 0,
    };

    /// Address of the first byte of the buffer.
    #[must_use]
    pub fn hard_start(&self) -> *mut u8 {
        self.hard_start
    }

    /// Address of the first byte of metadata.
    #[must_use]
    pub fn data_meta(&self) -> *mut u8 {
        self.data_meta
    }

    /// Address of the first byte of the packet.
    #[must_use]
    pub fn data(&self) -> *mut u8 {
        self.data
    }

    /// Address after the last byte of the packet.
    #[must_use]
    pub fn data_end(&self) -> *mut u8 {
        self.data_end
    }

    /// Address after the last byte of the buffer.
    #[must_use]
    pub fn hard_end(&self) -> *mut u8 {
        self.hard_end
    }

    /// Length of the part of the packet that programs see directly.
    #[must_use]
    pub fn linear_len(&self) -> usize {
        self.data_end.addr() - self.data.addr()
    }

    /// Length of the packet in bytes, fragments included (`bpf_xdp_get_buff_len`).
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a packet is never empty, an absent one has length 0"
    )]
    pub fn len(&self) -> usize {
        self.linear_len() + self.rest
    }

    /// Length of the metadata in bytes.
    #[must_use]
    pub fn meta_len(&self) -> usize {
        self.data.addr() - self.data_meta.addr()
    }

    /// Moves the start of the packet by `offset` bytes and its metadata with it (`bpf_xdp_adjust_head`).
    ///
    /// # Errors
    /// `EINVAL` if the packet would run into the reserved head or become shorter than 14 bytes.
    ///
    /// # Safety
    /// The buffer must be live and not accessed by anyone else.
    pub unsafe fn adjust_head(&mut self, offset: i32) -> Result<(), Errno> {
        let meta_len = self.meta_len();
        let data = moved(self.data, offset);
        let first = (self.hard_start.addr() + RESERVED_HEAD + meta_len) as i64;
        let last = self.data_end.addr() as i64 - MIN_FRAME as i64;
        if data < first || data > last {
            return Err(Errno::EINVAL);
        }
        let step = offset as isize;
        if meta_len != 0 {
            // SAFETY: both ranges lie between the hard start and the packet's end, by the check above and
            // the frame's invariant; the caller promises the buffer is live.
            unsafe {
                core::ptr::copy(
                    self.data_meta,
                    self.data_meta.wrapping_offset(step),
                    meta_len,
                );
            }
        }
        self.data_meta = self.data_meta.wrapping_offset(step);
        self.data = self.data.wrapping_offset(step);
        Ok(())
    }

    /// Moves the end of the packet by `offset` bytes; new bytes are zero (`bpf_xdp_adjust_tail`).
    ///
    /// # Errors
    /// `EINVAL` if the packet would leave the buffer (or its last fragment) or become shorter than 14 bytes.
    ///
    /// # Safety
    /// The buffer must be live and not accessed by anyone else.
    pub unsafe fn adjust_tail(&mut self, offset: i32) -> Result<(), Errno> {
        if self.rest > 0 {
            // SAFETY: the caller's.
            return unsafe { self.adjust_rest(offset) };
        }
        let end = moved(self.data_end, offset);
        if end > self.hard_end.addr() as i64 || end < self.data.addr() as i64 + MIN_FRAME as i64 {
            return Err(Errno::EINVAL);
        }
        if offset > 0 {
            // SAFETY: the new end is inside the buffer, which the caller promises is live.
            unsafe { core::ptr::write_bytes(self.data_end, 0, offset as usize) };
        }
        self.data_end = self.data_end.wrapping_offset(offset as isize);
        Ok(())
    }

    /// The same for a packet with fragments: only the last one grows; what shrinks may be the rest of it, and
    /// then the part before (`bpf_xdp_frags_increase_tail`, `bpf_xdp_frags_shrink_tail`).
    ///
    /// # Safety
    /// As [`Frame::adjust_tail`].
    unsafe fn adjust_rest(&mut self, offset: i32) -> Result<(), Errno> {
        let change = offset.unsigned_abs() as usize;
        if offset >= 0 {
            let last = (self.rest - 1) % FRAGMENT + 1;
            if change > FRAGMENT - last || change > self.rest_room - self.rest {
                return Err(Errno::EINVAL);
            }
            // SAFETY: `rest_room` bytes from the end of the linear part on are the buffer's, which the caller
            // promises is live.
            unsafe { core::ptr::write_bytes(self.data_end.wrapping_add(self.rest), 0, change) };
            self.rest += change;
            return Ok(());
        }
        if change + MIN_FRAME > self.len() {
            return Err(Errno::EINVAL);
        }
        let from_rest = change.min(self.rest);
        self.rest -= from_rest;
        self.data_end = self.data_end.wrapping_sub(change - from_rest);
        Ok(())
    }

    /// Moves the start of the metadata by `offset` bytes (`bpf_xdp_adjust_meta`).
    ///
    /// # Errors
    /// `EINVAL` if it would run into the reserved head or the packet, `EACCES` if the metadata would be
    /// longer than 255 bytes or not a multiple of four.
    pub fn adjust_meta(&mut self, offset: i32) -> Result<(), Errno> {
        let meta = moved(self.data_meta, offset);
        let data = self.data.addr() as i64;
        if meta < (self.hard_start.addr() + RESERVED_HEAD) as i64 || meta > data {
            return Err(Errno::EINVAL);
        }
        let len = (data - meta) as usize;
        if !len.is_multiple_of(4) || len > MAX_META {
            return Err(EACCES);
        }
        self.data_meta = self.data_meta.wrapping_offset(offset as isize);
        Ok(())
    }

    /// The address of `len` packet bytes from `offset` (`bpf_xdp_pointer`).
    ///
    /// # Errors
    /// `EFAULT` if either exceeds 65535, `EINVAL` if the range leaves the packet.
    pub fn part(&self, offset: u32, len: u32) -> Result<*mut u8, Errno> {
        if offset > MAX_COPY || len > MAX_COPY {
            return Err(Errno::EFAULT);
        }
        if (offset + len) as usize > self.len() {
            return Err(Errno::EINVAL);
        }
        Ok(self.data.wrapping_add(offset as usize))
    }
}

/// Address of `pointer + offset` without wrapping.
fn moved(pointer: *mut u8, offset: i32) -> i64 {
    pointer.addr() as i64 + i64::from(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_last_fragment_grows_and_all_of_them_shrink() {
        let mut memory = FrameMemory::new();
        memory
            .set_fragmented(&[5; TEST_RUN_MAX + FRAGMENT + 100])
            .unwrap();
        let mut frame = memory.frame().unwrap();
        assert!(frame.has_fragments());
        let raw = &mut frame.frame;
        assert_eq!((raw.linear_len(), raw.rest), (TEST_RUN_MAX, FRAGMENT + 100));
        // SAFETY: the buffer is borrowed by `frame`, which nobody else uses.
        unsafe {
            assert_eq!(raw.adjust_tail(FRAGMENT as i32 - 99), Err(Errno::EINVAL));
            raw.adjust_tail(FRAGMENT as i32 - 100).unwrap();
            raw.adjust_tail(-(FRAGMENT as i32) - 1).unwrap();
            assert_eq!(raw.rest, FRAGMENT - 1);
            raw.adjust_tail(1 - FRAGMENT as i32 - 10).unwrap();
            assert_eq!((raw.linear_len(), raw.rest), (TEST_RUN_MAX - 10, 0));
            assert_eq!(raw.adjust_tail(11), Err(Errno::EINVAL), "the page is full");
            raw.adjust_tail(10).unwrap();
            assert_eq!(
                raw.adjust_tail(-(TEST_RUN_MAX as i32) + 13),
                Err(Errno::EINVAL)
            );
        }
        assert_eq!(
            frame.packet()[TEST_RUN_MAX - 11..],
            [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        let too_long = memory.set_fragmented(&[0; TEST_RUN_MAX_FRAGMENTED + 1]);
        assert!(matches!(too_long, Err(FrameError::Range { .. })));
    }

    proptest! {
        /// Whatever a program asks for, the packet stays in its buffer, at least 14 bytes long, and a
        /// refused request changes nothing.
        #[test]
        fn limits_hold_after_any_requests(
            data in 0usize..300,
            len in 14usize..200,
            tail in 0usize..100,
            requests in prop::collection::vec((0u8..3, prop_oneof![-300i32..300, any::<i32>()]), 0..12),
        ) {
            let mut buffer = vec![1u8; data + len + tail];
            let range = buffer.as_ptr_range();
            let (first, last) = (range.start.addr(), range.end.addr());
            let mut frame = FrameRef::new(&mut buffer, data, len).unwrap().frame;
            for (kind, delta) in requests {
                let before = format!("{frame:?}");
                // SAFETY: `buffer` is alive and used through `frame` alone.
                let result = unsafe {
                    match kind {
                        0 => frame.adjust_head(delta),
                        1 => frame.adjust_tail(delta),
                        _ => frame.adjust_meta(delta),
                    }
                };
                if result.is_err() {
                    prop_assert_eq!(before, format!("{:?}", frame));
                }
                let (meta, data) = (frame.data_meta.addr(), frame.data.addr());
                prop_assert!(first <= meta && meta <= data && frame.data_end.addr() <= last);
                prop_assert!(frame.len() >= MIN_FRAME);
                prop_assert!(frame.meta_len() <= MAX_META && frame.meta_len().is_multiple_of(4));
            }
        }
    }
}
