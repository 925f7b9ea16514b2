//! What fuzz targets share.

use squalus_runtime::{FrameRef, PACKET_HEADROOM};

/// Bytes around the packet's buffer that nobody may touch, and what they hold.
const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xa5;
/// Room behind the packet.
const TAIL_ROOM: usize = 64;

/// A packet in a buffer with guards around.
pub struct GuardedBuffer {
    bytes: Vec<u8>,
    len: usize,
}

impl GuardedBuffer {
    /// Copies a packet of at least 14 bytes.
    pub fn new(packet: &[u8]) -> GuardedBuffer {
        let mut bytes = vec![GUARD_BYTE; GUARD];
        bytes.extend([0; PACKET_HEADROOM]);
        bytes.extend(packet);
        bytes.extend([0; TAIL_ROOM]);
        bytes.extend([GUARD_BYTE; GUARD]);
        GuardedBuffer {
            bytes,
            len: packet.len(),
        }
    }

    /// The packet, ready for a program.
    pub fn frame(&mut self) -> FrameRef<'_> {
        let end = self.bytes.len() - GUARD;
        FrameRef::new(&mut self.bytes[GUARD..end], PACKET_HEADROOM, self.len)
            .expect("the packet is in its buffer")
    }

    /// Requires that nobody wrote outside the buffer that the program was given.
    pub fn check(&self) {
        let (before, after) = (
            &self.bytes[..GUARD],
            &self.bytes[self.bytes.len() - GUARD..],
        );
        let intact = |guard: &[u8]| guard.iter().all(|byte| *byte == GUARD_BYTE);
        assert!(intact(before) && intact(after), "a write beside the packet");
    }
}
