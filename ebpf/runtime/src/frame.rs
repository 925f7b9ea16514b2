//! A packet buffer as an XDP program and its helpers see it (`struct xdp_buff`).
//!
//! ```text
//! hard_start          data_meta   data                 data_end        hard_end
//!     | reserved | free    | metadata | packet             | tail room     |
//! ```
//! The limits are those of the kernel's `net/core/filter.c`: the first [`RESERVED_HEAD`] bytes are never
//! given away (the kernel keeps its `struct xdp_frame` there), metadata is a multiple of four and at most
//! 255 bytes, and a packet is never shorter than an Ethernet header.

use core::marker::PhantomData;
use core::mem::offset_of;

use squalus_isa::Errno;

use crate::Redirect;

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
///
/// What a program changes stands apart: copied in one with its neighbour, it would have to wait until its own store
/// has left the processor's store buffer.
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

/// Why a buffer cannot hold a packet where it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The packet does not lie inside its buffer.
    #[error("a packet of {len} bytes at {data} does not fit into a buffer of {capacity}")]
    Range {
        /// Where the packet starts.
        data: usize,
        /// Its length.
        len: usize,
        /// Length of the buffer.
        capacity: usize,
    },
    /// Shorter than an Ethernet header.
    #[error("a packet of {0} bytes is shorter than an Ethernet header (14)")]
    Short(usize),
    /// A buffer longer than any frame's.
    #[error("a buffer of {0} bytes is not one frame's: pass the part that holds the frame")]
    Long(usize),
    /// Metadata that cannot be.
    #[error(
        "{0} bytes of metadata: they are a multiple of four, at most 255, and need headroom before them"
    )]
    Metadata(usize),
}

/// A packet in a borrowed buffer, ready for a program.
///
/// The whole buffer is the program's: what is before the packet is headroom, what is behind it tail room.
#[derive(Debug)]
pub struct FrameRef<'a> {
    frame: Frame,
    redirect: Redirect,
    buffer: PhantomData<&'a mut [u8]>,
}

impl<'a> FrameRef<'a> {
    /// The packet of `len` bytes at offset `data` of `buffer`.
    ///
    /// # Errors
    /// If it is not inside the buffer, or shorter than an Ethernet header, or the buffer has 4 GiB or more.
    pub fn new(buffer: &'a mut [u8], data: usize, len: usize) -> Result<Self, FrameError> {
        let capacity = buffer.len();
        if capacity > MAX_BUFFER {
            return Err(FrameError::Long(capacity));
        }
        if data.checked_add(len).is_none_or(|end| end > capacity) {
            return Err(FrameError::Range {
                data,
                len,
                capacity,
            });
        }
        if len < MIN_FRAME {
            return Err(FrameError::Short(len));
        }
        let range = buffer.as_mut_ptr_range();
        let start = range.start.wrapping_add(data);
        let frame = Frame {
            hard_start: range.start,
            data_meta: start,
            data: start,
            data_end: start.wrapping_add(len),
            hard_end: range.end,
            rest: 0,
            rest_room: 0,
        };
        Ok(FrameRef {
            frame,
            redirect: Redirect::Nowhere,
            buffer: PhantomData,
        })
    }

    /// The packet as the kernel would hold it: what does not fit into its page is in fragments. A buffer that
    /// is no longer than that page is all the packet's.
    ///
    /// Programs that don't take fragments ([`FrameRef::has_fragments`]) must not get such a frame.
    ///
    /// # Errors
    /// As [`FrameRef::new`].
    pub fn fragmented(buffer: &'a mut [u8], data: usize, len: usize) -> Result<Self, FrameError> {
        const LINEAR: usize = TEST_RUN_PAGE - RESERVED_TAIL;
        let capacity = buffer.len();
        let mut frame = FrameRef::new(buffer, data, len)?;
        if capacity > TEST_RUN_PAGE && data + MIN_FRAME <= LINEAR {
            let raw = &mut frame.frame;
            raw.hard_end = raw.hard_start.wrapping_add(LINEAR);
            if data + len > LINEAR {
                raw.data_end = raw.hard_end;
                raw.rest = data + len - LINEAR;
                raw.rest_room = capacity - LINEAR;
            }
        }
        Ok(frame)
    }

    /// Whether part of the packet is in fragments.
    #[must_use]
    pub fn has_fragments(&self) -> bool {
        self.frame.rest > 0
    }

    /// As [`FrameRef::fragmented`], with `meta_len` bytes of metadata in front of the packet, as a former program left them.
    ///
    /// # Errors
    /// As [`FrameRef::new`]; also if there is no room for the metadata, or no program could have left it.
    pub fn with_metadata(
        buffer: &'a mut [u8],
        data: usize,
        len: usize,
        meta_len: usize,
    ) -> Result<Self, FrameError> {
        let mut frame = FrameRef::fragmented(buffer, data, len)?;
        if meta_len > 0 {
            let offset = -(meta_len.min(MAX_META + 1) as i32);
            let moved = frame.frame.adjust_meta(offset);
            moved.map_err(|_| FrameError::Metadata(meta_len))?;
        }
        Ok(frame)
    }

    /// Puts another packet into the same buffer, at offset `data`; what the frame was before is forgotten. The part
    /// of a buffer that [`FrameRef::fragmented`] gave to fragments is not used.
    ///
    /// # Errors
    /// As [`FrameRef::new`].
    #[inline]
    pub fn refill(&mut self, data: usize, packet: &[u8]) -> Result<(), FrameError> {
        let len = packet.len();
        let capacity = self.frame.hard_end.addr() - self.frame.hard_start.addr();
        if data.checked_add(len).is_none_or(|end| end > capacity) {
            return Err(FrameError::Range {
                data,
                len,
                capacity,
            });
        }
        if len < MIN_FRAME {
            return Err(FrameError::Short(len));
        }
        let start = self.frame.hard_start.wrapping_add(data);
        // SAFETY: the range lies in the buffer borrowed for `'a`, which `packet`, borrowed elsewhere, cannot overlap.
        unsafe { core::ptr::copy_nonoverlapping(packet.as_ptr(), start, len) };
        self.frame.data_meta = start;
        self.frame.data = start;
        self.frame.data_end = start.wrapping_add(len);
        self.frame.rest = 0;
        self.frame.rest_room = 0;
        self.redirect = Redirect::Nowhere;
        Ok(())
    }

    /// The raw pointers, for an engine.
    #[inline]
    #[must_use]
    pub fn raw(&self) -> Frame {
        self.frame
    }

    /// Takes over what a program made of the frame.
    ///
    /// # Safety
    /// `frame` must stem from [`FrameRef::raw`] of this frame and have been changed only by the
    /// `adjust_*` functions of [`Frame`].
    #[inline]
    pub unsafe fn set_raw(&mut self, frame: Frame) {
        self.frame.data_meta = frame.data_meta;
        self.frame.data = frame.data;
        self.frame.data_end = frame.data_end;
        self.frame.rest = frame.rest;
    }

    /// Asks the processor for the first bytes of the packet, which a program is about to read.
    #[inline]
    pub fn prefetch(&self) {
        const LINE: usize = 64;
        for line in 0..2 {
            let address = self.frame.data.wrapping_add(line * LINE);
            // SAFETY: a hint, which reads nothing that the program could see, whatever the address.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch(address.cast(), _MM_HINT_T0);
            }
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            unsafe {
                core::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
            }
        }
    }

    /// Where the packet starts in its buffer.
    #[must_use]
    pub fn data_offset(&self) -> usize {
        self.frame.data.addr() - self.frame.hard_start.addr()
    }

    /// Length of the packet.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a packet has at least 14 bytes"
    )]
    pub fn len(&self) -> usize {
        self.frame.len()
    }

    /// The packet, fragments included.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        // SAFETY: the range lies in the buffer borrowed for `'a` by the frame's invariant.
        unsafe { core::slice::from_raw_parts(self.frame.data, self.frame.len()) }
    }

    /// The packet, fragments included, to change.
    pub fn packet_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `packet`; `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.frame.data, self.frame.len()) }
    }

    /// The metadata in front of the packet.
    #[must_use]
    pub fn metadata(&self) -> &[u8] {
        // SAFETY: the range lies in the buffer borrowed for `'a` by the frame's invariant.
        unsafe { core::slice::from_raw_parts(self.frame.data_meta, self.frame.meta_len()) }
    }

    /// Where a program redirected the frame to; meaningful with verdict `XDP_REDIRECT`.
    #[must_use]
    pub fn redirect(&self) -> Redirect {
        self.redirect
    }

    /// Records the redirect target.
    #[inline]
    pub fn set_redirect(&mut self, redirect: Redirect) {
        self.redirect = redirect;
    }
}

/// A buffer of its own for one packet, with the headroom and tail limits of the kernel's test run.
#[derive(Clone, Debug)]
pub struct FrameMemory {
    bytes: Vec<u8>,
    data: usize,
    len: usize,
}

impl Default for FrameMemory {
    fn default() -> Self {
        FrameMemory::new()
    }
}

impl FrameMemory {
    /// An empty buffer: 256 bytes of headroom and room for [`TEST_RUN_MAX`] bytes.
    #[must_use]
    pub fn new() -> FrameMemory {
        FrameMemory {
            bytes: vec![0; TEST_RUN_PAGE - RESERVED_TAIL],
            data: PACKET_HEADROOM,
            len: 0,
        }
    }

    /// Copies a packet behind the default headroom; all other bytes become zero.
    ///
    /// # Errors
    /// If it is shorter than 14 or longer than [`TEST_RUN_MAX`] bytes.
    pub fn set(&mut self, packet: &[u8]) -> Result<(), FrameError> {
        self.fill(packet, TEST_RUN_MAX, TEST_RUN_PAGE - RESERVED_TAIL)
    }

    /// The same for programs that take fragments, up to [`TEST_RUN_MAX_FRAGMENTED`] bytes. Longer packets
    /// than [`TEST_RUN_MAX`] have some.
    ///
    /// # Errors
    /// If it is shorter than 14 bytes or too long.
    pub fn set_fragmented(&mut self, packet: &[u8]) -> Result<(), FrameError> {
        if packet.len() <= TEST_RUN_MAX {
            return self.set(packet);
        }
        let fragments = (packet.len() - TEST_RUN_MAX).next_multiple_of(FRAGMENT);
        let capacity = TEST_RUN_PAGE - RESERVED_TAIL + fragments;
        self.fill(packet, TEST_RUN_MAX_FRAGMENTED, capacity)
    }

    fn fill(&mut self, packet: &[u8], longest: usize, capacity: usize) -> Result<(), FrameError> {
        if packet.len() < MIN_FRAME {
            return Err(FrameError::Short(packet.len()));
        }
        if packet.len() > longest {
            return Err(FrameError::Range {
                data: PACKET_HEADROOM,
                len: packet.len(),
                capacity: PACKET_HEADROOM + longest,
            });
        }
        self.bytes.clear();
        self.bytes.resize(capacity, 0);
        self.data = PACKET_HEADROOM;
        self.len = packet.len();
        self.bytes[self.data..self.data + self.len].copy_from_slice(packet);
        Ok(())
    }

    /// The packet, ready for a program. Changes of its limits are lost with the borrow.
    ///
    /// # Errors
    /// If no packet was set.
    pub fn frame(&mut self) -> Result<FrameRef<'_>, FrameError> {
        FrameRef::fragmented(&mut self.bytes, self.data, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_must_lie_in_their_buffer() {
        let mut buffer = [0; 100];
        assert!(FrameRef::new(&mut buffer, 0, 100).is_ok());
        assert!(FrameRef::new(&mut buffer, 86, 14).is_ok());
        for (data, len) in [(87, 14), (101, 0), (usize::MAX, 20), (0, 101)] {
            let error = FrameRef::new(&mut buffer, data, len).unwrap_err();
            assert!(matches!(error, FrameError::Range { .. }), "{error}");
        }
        assert_eq!(
            FrameRef::new(&mut buffer, 0, 13).unwrap_err(),
            FrameError::Short(13)
        );
    }

    #[test]
    fn a_frame_is_shorter_than_4_gib() {
        // Never touched, so no memory is used.
        let mut buffer = vec![0; 1 << 32];
        assert_eq!(
            FrameRef::new(&mut buffer, 0, 1 << 32).unwrap_err(),
            FrameError::Long(1 << 32)
        );
        assert!(FrameRef::new(&mut buffer[1..], 0, 14).is_ok());
    }

    #[test]
    fn what_a_program_moved_is_seen_outside() {
        let mut buffer = [7; 400];
        let mut frame = FrameRef::new(&mut buffer, 256, 60).unwrap();
        let mut raw = frame.raw();
        // SAFETY: the buffer is borrowed by `frame`, which nobody else uses.
        unsafe {
            raw.adjust_head(-20).unwrap();
            raw.adjust_tail(10).unwrap();
            frame.set_raw(raw);
        }
        assert_eq!((frame.data_offset(), frame.len()), (236, 90));
        assert_eq!(frame.packet()[79..], [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        frame.packet_mut()[0] = 1;
        assert_eq!(buffer[236], 1);
    }

    #[test]
    fn a_buffer_takes_one_packet_after_the_other() {
        let mut buffer = [0; 100];
        let mut frame = FrameRef::new(&mut buffer, 20, 60).unwrap();
        // SAFETY: the buffer is borrowed.
        unsafe { frame.frame.adjust_head(20).unwrap() };
        frame.refill(80, &[7; 20]).unwrap();
        assert_eq!((frame.data_offset(), frame.packet()), (80, &[7; 20][..]));
        assert!(frame.metadata().is_empty());
        assert!(matches!(
            frame.refill(80, &[7; 21]),
            Err(FrameError::Range { .. })
        ));
        assert!(matches!(
            frame.refill(usize::MAX, &[7; 20]),
            Err(FrameError::Range { .. })
        ));
        assert_eq!(frame.refill(0, &[7; 13]), Err(FrameError::Short(13)));
        assert_eq!((frame.data_offset(), frame.len()), (80, 20));
    }

    #[test]
    fn metadata_goes_on_to_the_next_program() {
        let mut buffer = [3; 400];
        let frame = FrameRef::with_metadata(&mut buffer, 256, 60, 8).unwrap();
        assert_eq!((frame.metadata(), frame.data_offset()), (&[3; 8][..], 256));
        for meta_len in [3, 256, usize::MAX] {
            let error = FrameRef::with_metadata(&mut buffer, 256, 60, meta_len).unwrap_err();
            assert_eq!(error, FrameError::Metadata(meta_len));
        }
        assert!(FrameRef::with_metadata(&mut buffer, 44, 60, 8).is_err());
    }

    #[test]
    fn only_the_last_fragment_grows_and_all_of_them_shrink() {
        let mut memory = FrameMemory::new();
        memory
            .set_fragmented(&[5; TEST_RUN_MAX + FRAGMENT + 100])
            .unwrap();
        let mut frame = memory.frame().unwrap();
        assert!(frame.has_fragments());
        let mut raw = frame.raw();
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
            frame.set_raw(raw);
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
            let mut frame = FrameRef::new(&mut buffer, data, len).unwrap().raw();
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
