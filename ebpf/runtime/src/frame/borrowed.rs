//! Frames in borrowed buffers.

use core::marker::PhantomData;

use super::{Frame, FramePlace, MAX_BUFFER, MAX_META, MIN_FRAME, RESERVED_TAIL, TEST_RUN_PAGE};
use crate::Redirect;

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
    pub(super) frame: Frame,
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

    /// Where the frame's pointers are, for an engine: while it runs a program it may change them by the `adjust_*` functions
    /// of [`Frame`], and nobody else may use the frame.
    #[inline]
    #[must_use]
    pub fn place(&mut self) -> FramePlace {
        FramePlace::of(&mut self.frame)
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let place = frame.place().address();
        // SAFETY: the buffer is borrowed by `frame`, which nobody else uses.
        unsafe {
            (*place).adjust_head(-20).unwrap();
            (*place).adjust_tail(10).unwrap();
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
}
