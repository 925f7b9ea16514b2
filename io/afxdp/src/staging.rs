//! Frames longer than a chunk.
//!
//! AF_XDP's chunks are at most a page; a longer frame comes in several, in one descriptor each. Programs in
//! userspace want a frame in one piece, so a port for such frames keeps chunks of its own and copies: pieces
//! together as they come, and apart as they leave.

use squalus_port::{Frame, FrameSize, Pool, PoolConfig, PortError, PortStats};

/// `XDP_PKT_CONTD` of linux/if_xdp.h: the frame goes on in the next descriptor.
const CONTINUED: u32 = 1;

/// A port's own chunks, and the frame that is coming in.
pub(crate) struct Staging {
    pub(crate) pool: Pool,
    partial: Option<Frame>,
    /// The rest of this frame is not wanted.
    skipping: bool,
}

impl Staging {
    /// As many chunks as the rings can hold, twice.
    pub(crate) fn new(chunks: usize) -> Result<Staging, PortError> {
        let pool = Pool::new(&PoolConfig {
            frames: chunks as u32,
            frame_size: FrameSize::Page,
            ..PoolConfig::default()
        })?;
        Ok(Staging {
            pool,
            partial: None,
            skipping: false,
        })
    }

    /// Takes a piece that has come; the frame, if that was the last one.
    pub(crate) fn take(
        &mut self,
        entry: libc::xdp_desc,
        pool: &mut Pool,
        stats: &mut PortStats,
    ) -> Option<Frame> {
        let Some(piece) = self.pool.reclaim(entry.addr, entry.len) else {
            stats.rx_dropped += 1;
            return None;
        };
        if self.partial.is_none() && !self.skipping {
            self.partial = pool.alloc();
            self.skipping = self.partial.is_none();
            stats.rx_dropped += u64::from(self.skipping);
        }
        if let Some(mut frame) = self.partial.take() {
            if append(pool, &mut frame, self.pool.data(&piece)) {
                self.partial = Some(frame);
            } else {
                stats.rx_too_long += 1;
                self.skipping = true;
                pool.free(frame);
            }
        }
        self.pool.free(piece);
        if entry.options & CONTINUED != 0 {
            return None;
        }
        self.skipping = false;
        self.partial.take()
    }

    /// How many pieces a frame of this length leaves in.
    pub(crate) fn pieces(&self, len: usize) -> usize {
        len.div_ceil(self.pool.max_packet())
    }

    /// Copies a packet into chunks and gives `each` their descriptors; there must be enough of them
    /// ([`Staging::pieces`]).
    pub(crate) fn cut(&mut self, packet: &[u8], mut each: impl FnMut(libc::xdp_desc)) {
        let size = self.pool.max_packet();
        let last = packet.len().div_ceil(size).saturating_sub(1);
        for (n, piece) in packet.chunks(size).enumerate() {
            let Some(frame) = self.pool.alloc_from(piece) else {
                return;
            };
            each(libc::xdp_desc {
                addr: self.pool.lend(frame),
                len: piece.len() as u32,
                options: if n < last { CONTINUED } else { 0 },
            });
        }
    }
}

/// Puts bytes behind a frame's; false if there is no room.
fn append(pool: &mut Pool, frame: &mut Frame, piece: &[u8]) -> bool {
    let (start, len) = (frame.start(), frame.len());
    if !pool.set_range(frame, start, len + piece.len()) {
        return false;
    }
    pool.data_mut(frame)[len..].copy_from_slice(piece);
    true
}
