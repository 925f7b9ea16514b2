//! Passed frames that the host has not seen as they are now.
//!
//! The host's stack gets its copy of a frame before the program does. If the program then changes the frame
//! (it takes an outer header off, say, or rewrites an address) and passes it, what it passes is news to the
//! host, and this is its way there. To tell such a frame from one that was left alone takes a copy of every
//! frame as it arrived; that costs little beside the system call that brought it.

use squalus_port::{Burst, Frame, Pool, Port};

/// The way of changed frames into the host's stack.
pub(crate) struct Changed {
    host: Box<dyn Port>,
    /// The frame in each chunk as it arrived: its start, its length and, in `copies`, its bytes.
    arrived: Vec<(u16, u16)>,
    copies: Vec<u8>,
    chunk_size: usize,
    changed: Burst,
}

/// How many passed frames got to the host, or were there already, and how many did not.
pub(crate) struct Passed {
    pub(crate) passed: usize,
    pub(crate) dropped: usize,
}

impl Changed {
    pub(crate) fn new(host: Box<dyn Port>, pool: &Pool) -> Changed {
        Changed {
            host,
            arrived: vec![(0, 0); pool.capacity()],
            copies: vec![0; pool.capacity() * pool.chunk_size()],
            chunk_size: pool.chunk_size(),
            changed: Burst::new(),
        }
    }

    pub(crate) fn host_name(&self) -> &str {
        &self.host.info().name
    }

    /// Remembers a frame that arrives.
    pub(crate) fn remember(&mut self, pool: &Pool, frame: &Frame) {
        let data = pool.data(frame);
        let at = frame.chunk() * self.chunk_size;
        if let (Some(arrived), Some(copy)) = (
            self.arrived.get_mut(frame.chunk()),
            self.copies.get_mut(at..at + data.len()),
        ) {
            *arrived = bounds(frame);
            copy.copy_from_slice(data);
        }
    }

    /// Whether the frame is what arrived.
    fn is_as_it_arrived(&self, pool: &Pool, frame: &Frame) -> bool {
        let at = frame.chunk() * self.chunk_size;
        self.arrived.get(frame.chunk()) == Some(&bounds(frame))
            && self.copies.get(at..at + frame.len()) == Some(pool.data(frame))
    }

    /// Hands the frames that have changed to the host and frees the others, which it has.
    pub(crate) fn pass(&mut self, pool: &mut Pool, frames: &mut Burst) -> Passed {
        let mut unchanged = 0;
        for frame in frames.drain() {
            let refused = match self.is_as_it_arrived(pool, &frame) {
                true => {
                    unchanged += 1;
                    Some(frame)
                }
                // There is room: both bursts hold the same number.
                false => self.changed.push(frame).err(),
            };
            if let Some(frame) = refused {
                pool.free(frame);
            }
        }
        if self.changed.is_empty() {
            return Passed {
                passed: unchanged,
                dropped: 0,
            };
        }
        let changed = self.changed.len();
        let taken = self.host.pass(pool, &mut self.changed);
        Passed {
            passed: unchanged + taken,
            dropped: changed.saturating_sub(taken),
        }
    }
}

/// Frames are shorter than 64 KiB, and so are chunks.
fn bounds(frame: &Frame) -> (u16, u16) {
    (frame.start() as u16, frame.len() as u16)
}
