//! Frames in the order in which they come.

use squalus_isa::Verdict;

/// Frames that come again and again in one order, with the verdict that each must get. They lie one behind the
/// other, so that fetching the next one costs little beside what is measured.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes: Vec<u8>,
    frames: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// In units of [`LINE`].
    start: u32,
    len: u16,
    verdict: Verdict,
}

/// A cache line, at whose beginning each frame starts.
const LINE: usize = 64;

impl Traffic {
    /// Adds a frame of at most 64 KiB.
    pub fn push(&mut self, frame: &[u8], verdict: Verdict) {
        self.frames.push(Place {
            start: (self.bytes.len() / LINE) as u32,
            len: frame.len() as u16,
            verdict,
        });
        self.bytes.extend_from_slice(frame);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(LINE), 0);
    }

    /// How many frames there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// The bytes of frame number `n`.
    #[inline]
    #[must_use]
    pub fn frame(&self, n: usize) -> &[u8] {
        let place = self.frames[n];
        &self.bytes[place.start as usize * LINE..][..place.len.into()]
    }

    /// The verdict that frame number `n` must get.
    #[inline]
    #[must_use]
    pub fn verdict(&self, n: usize) -> Verdict {
        self.frames[n].verdict
    }
}
