//! Passed frames that the host has not seen as they are now.
//!
//! The host's stack gets its copy of a frame before the program does. If the program then moves the
//! frame's bounds (it takes an outer header off, say) and passes it, what it passes is news to the host,
//! and this is its way there. A program that edits a frame without moving its bounds and passes it cannot
//! be told from one that leaves it alone: telling them apart would take a copy of every frame.

use squalus_port::{Burst, Frame, Pool, Port};

/// The way of moved frames into the host's stack.
pub(crate) struct Moved {
    host: Box<dyn Port>,
    /// Start and length of the frame in each chunk as it arrived.
    arrived: Vec<(u16, u16)>,
    moved: Burst,
}

/// How many passed frames got to the host, or were there already, and how many did not.
pub(crate) struct Passed {
    pub(crate) passed: usize,
    pub(crate) dropped: usize,
}

impl Moved {
    pub(crate) fn new(host: Box<dyn Port>, pool: &Pool) -> Moved {
        Moved {
            host,
            arrived: vec![(0, 0); pool.capacity()],
            moved: Burst::new(),
        }
    }

    pub(crate) fn host_name(&self) -> &str {
        &self.host.info().name
    }

    /// Remembers the bounds of a frame that arrives.
    pub(crate) fn remember(&mut self, frame: &Frame) {
        if let Some(arrived) = self.arrived.get_mut(frame.chunk()) {
            *arrived = bounds(frame);
        }
    }

    /// Hands the frames that have moved to the host and frees the others, which it has.
    pub(crate) fn pass(&mut self, pool: &mut Pool, frames: &mut Burst) -> Passed {
        let mut unmoved = 0;
        for frame in frames.drain() {
            let refused = match self.arrived.get(frame.chunk()) == Some(&bounds(&frame)) {
                true => {
                    unmoved += 1;
                    Some(frame)
                }
                // There is room: both bursts hold the same number.
                false => self.moved.push(frame).err(),
            };
            if let Some(frame) = refused {
                pool.free(frame);
            }
        }
        if self.moved.is_empty() {
            return Passed {
                passed: unmoved,
                dropped: 0,
            };
        }
        let moved = self.moved.len();
        let taken = self.host.pass(pool, &mut self.moved);
        Passed {
            passed: unmoved + taken,
            dropped: moved.saturating_sub(taken),
        }
    }
}

/// Frames are shorter than 64 KiB, and so are chunks.
fn bounds(frame: &Frame) -> (u16, u16) {
    (frame.start() as u16, frame.len() as u16)
}
