//! Numbers that follow from a seed.

/// A generator of reproducible numbers (SplitMix64), with the choices that case generators make.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
    /// Choices that are made already, the next one last.
    made: Vec<u8>,
}

impl Rng {
    /// The generator for `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Rng {
        let made = Vec::new();
        Rng { state: seed, made }
    }

    /// The generator that makes these choices, a byte for each, before any of its own: a fuzzer changes some of them,
    /// and the others stay.
    #[must_use]
    pub fn of_choices(choices: &[u8]) -> Rng {
        let made = choices.iter().rev().copied().collect();
        Rng { state: 0, made }
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        if let Some(made) = self.made.pop() {
            return Rng::new(made.into()).word();
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        match (bound, self.made.last()) {
            (0, _) => 0,
            (..=256, Some(&made)) => {
                self.made.pop();
                usize::from(made) % bound
            }
            _ => (self.word() % bound as u64) as usize,
        }
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `percent` times in a hundred.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.word() as u8
    }

    /// That many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

/// The number that [`crate::Step::Fill`] puts at `index`: any 32-bit hash will do, as long as it stays.
pub(crate) fn hash(seed: u64, index: u32) -> u32 {
    (Rng::new(seed ^ (u64::from(index) << 20)).word() >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_that_are_made_come_first() {
        let mut rng = Rng::of_choices(&[7, 3, 255]);
        assert_eq!((rng.below(10), rng.below(2), rng.below(256)), (7, 1, 255));
        assert_eq!(rng.word(), Rng::new(0).word());
    }
}
