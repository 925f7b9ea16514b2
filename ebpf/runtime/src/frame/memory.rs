//! Buffers of test runs.

use super::{
    FRAGMENT, FrameError, FrameRef, MIN_FRAME, PACKET_HEADROOM, RESERVED_TAIL, TEST_RUN_MAX,
    TEST_RUN_MAX_FRAGMENTED, TEST_RUN_PAGE,
};

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
