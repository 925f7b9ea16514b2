//! A bounded list of frames.

use std::ops::{Deref, DerefMut};

use crate::{Frame, Pool};

/// How many frames a [`Burst`] holds.
pub const BURST: usize = 64;

/// Up to [`BURST`] frames that go through the packet loop together.
#[derive(Debug)]
pub struct Burst {
    frames: Vec<Frame>,
}

impl Burst {
    /// An empty burst. Allocates once; no other method does.
    #[must_use]
    pub fn new() -> Self {
        Burst {
            frames: Vec::with_capacity(BURST),
        }
    }

    /// How many more frames fit.
    #[must_use]
    pub fn room(&self) -> usize {
        BURST - self.frames.len()
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// Gives the frame back if the burst is full.
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.frames.len() == BURST {
            return Err(frame);
        }
        self.frames.push(frame);
        Ok(())
    }

    /// Removes and returns the last frame.
    pub fn pop(&mut self) -> Option<Frame> {
        self.frames.pop()
    }

    /// Removes all frames, first to last.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = Frame> + '_ {
        self.frames.drain(..)
    }

    /// Removes the first `count` frames (or all there are), first to last.
    pub fn drain_first(&mut self, count: usize) -> impl ExactSizeIterator<Item = Frame> + '_ {
        let count = count.min(self.frames.len());
        self.frames.drain(..count)
    }

    /// Frees all frames; returns how many there were.
    pub fn free(&mut self, pool: &mut Pool) -> usize {
        let count = self.frames.len();
        for frame in self.frames.drain(..) {
            pool.free(frame);
        }
        count
    }
}

impl Default for Burst {
    fn default() -> Self {
        Burst::new()
    }
}

impl Deref for Burst {
    type Target = [Frame];

    fn deref(&self) -> &[Frame] {
        &self.frames
    }
}

impl DerefMut for Burst {
    fn deref_mut(&mut self) -> &mut [Frame] {
        &mut self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PoolConfig;

    #[test]
    fn a_full_burst_gives_the_frame_back() {
        let mut pool = Pool::new(&PoolConfig::default()).unwrap();
        let mut burst = Burst::new();
        for _ in 0..BURST {
            burst.push(pool.alloc().unwrap()).unwrap();
        }
        assert_eq!(burst.room(), 0);
        let extra = pool.alloc().unwrap();
        let back = burst.push(extra).unwrap_err();
        pool.free(back);
        assert_eq!(burst.free(&mut pool), BURST);
        assert_eq!(pool.available(), pool.capacity());
    }

    #[test]
    fn draining_some_keeps_the_order_of_the_rest() {
        let mut pool = Pool::new(&PoolConfig::default()).unwrap();
        let mut burst = Burst::new();
        for n in 0..5u8 {
            burst.push(pool.alloc_from(&[n]).unwrap()).unwrap();
        }
        for frame in burst.drain_first(2) {
            pool.free(frame);
        }
        let rest: Vec<u8> = burst.iter().map(|f| pool.data(f)[0]).collect();
        assert_eq!(rest, [2, 3, 4]);
    }
}
