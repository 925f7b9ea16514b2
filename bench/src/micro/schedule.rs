//! In which order frames come, and how many of them a burst has: the same for all engines.
//!
//! Each frame comes some times in a row, then the next, and all of that is compared with each frame coming once: so the
//! kernel has to be measured (see [`repeated`](super::repeated)), and what the processor learns of the branches shall be
//! the same everywhere. A frame that is new costs more than one that comes again, by what a foreseen branch is cheaper
//! than one that is not: a third of the time of some programs. Whoever counted it would stand beside a kernel that does
//! not.
//!
//! A cycle, after which all is as at its beginning, is a whole number of bursts: each place in the cycle has a median of
//! its own, and their sum is one of all frames, as the kernel's figure is, and not of those in the median burst.

use std::time::Duration;

use anyhow::Result;

/// The order of frames and the length of bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    frames: usize,
    repeats: usize,
    /// The most that fit into a burst.
    most: usize,
    burst: usize,
}

impl Schedule {
    const MOST: usize = squalus_rbpf::MAX_BURST;
    /// A burst stays in the first-level cache, as a kernel's one frame does.
    const BYTES: usize = 16 * 1024;

    /// For frames that come `repeats` times in a row each, which is twice at least. There must be frames, and none may
    /// be empty.
    #[must_use]
    pub fn new(frames: &[Vec<u8>], repeats: usize) -> Schedule {
        let longest = frames.iter().map(Vec::len).max().unwrap_or(1);
        let most = (Schedule::BYTES / longest.max(1)).clamp(1, Schedule::MOST);
        Schedule::cycles(frames.len(), repeats, most)
    }

    /// Bursts of at most so many frames.
    fn cycles(frames: usize, repeats: usize, most: usize) -> Schedule {
        let divides = |burst: &usize| (frames * repeats).is_multiple_of(*burst);
        Schedule {
            frames,
            repeats,
            most,
            burst: (1..=most).rev().find(divides).unwrap_or(1),
        }
    }

    /// Frames of a burst.
    #[must_use]
    pub const fn burst(&self) -> usize {
        self.burst
    }

    /// How often each frame comes in a row.
    #[must_use]
    pub const fn repeats(&self) -> usize {
        self.repeats
    }

    /// Nanoseconds that a frame's coming again takes. `measure` tells nanoseconds a packet of a schedule, running so many
    /// packets or a few more; of the two that it is asked for, one has each frame once.
    ///
    /// # Errors
    /// Of `measure`.
    pub fn again(
        self,
        packets: u32,
        mut measure: impl FnMut(u32, Schedule) -> Result<f64>,
    ) -> Result<f64> {
        let repeats = self.repeats as f64;
        let once = measure(packets.div_ceil(self.repeats as u32), self.once())?;
        let all = measure(packets, self)?;
        Ok((all * repeats - once) / (repeats - 1.0))
    }

    /// Each frame once.
    fn once(&self) -> Schedule {
        Schedule::cycles(self.frames, 1, self.most)
    }

    /// Which frame the packet with this number is, counted from the beginning of a round.
    #[must_use]
    pub const fn frame(&self, packet: usize) -> usize {
        packet / self.repeats % self.frames
    }

    /// Nanoseconds a packet. `burst` runs the burst that begins with the packet of this number and says how long it
    /// took; what it does before and after is not timed. So many packets are run, rounded up to whole cycles. Of each
    /// place in the cycle the median counts: a burst in which the thread was interrupted tells nothing.
    ///
    /// # Errors
    /// Of `burst`.
    pub fn time(
        &self,
        packets: u32,
        mut burst: impl FnMut(usize) -> Result<Duration>,
    ) -> Result<f64> {
        let cycle = self.frames * self.repeats;
        let mut places = vec![Vec::new(); cycle / self.burst];
        for _ in 0..(packets as usize).div_ceil(cycle) {
            for (place, times) in places.iter_mut().enumerate() {
                times.push(burst(place * self.burst)?);
            }
        }
        let whole: Duration = places.iter_mut().map(|times| median(times)).sum();
        Ok(whole.as_nanos() as f64 / cycle as f64)
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(len: usize) -> Vec<Vec<u8>> {
        vec![vec![0; len]; 16]
    }

    #[test]
    fn bursts_are_short_and_fill_the_cycle() {
        assert_eq!(Schedule::new(&frames(64), 8).burst(), 64);
        assert_eq!(Schedule::new(&frames(64), 2).burst(), 32);
        assert_eq!(Schedule::new(&frames(1514), 8).burst(), 8);
        assert_eq!(Schedule::new(&frames(64), 3).burst(), 48);
        assert_eq!(Schedule::new(&frames(1 << 20), 8).burst(), 1);
    }

    #[test]
    fn each_frame_comes_in_a_row() {
        let schedule = Schedule::new(&frames(64), 3);
        let order: Vec<usize> = (0..50).map(|packet| schedule.frame(packet)).collect();
        assert_eq!(order[..7], [0, 0, 0, 1, 1, 1, 2]);
        assert_eq!(order[45..], [15, 15, 15, 0, 0]);
    }

    #[test]
    fn what_a_new_frame_costs_more_does_not_count() {
        let schedule = Schedule::new(&frames(64), 8);
        let mut asked = Vec::new();
        // A frame takes 100 ns when it is new and 30 when it comes again.
        let again = schedule.again(10_000, |packets, schedule| {
            asked.push((packets, schedule.burst(), schedule.repeats()));
            let repeats = schedule.repeats() as f64;
            Ok((100.0 + 30.0 * (repeats - 1.0)) / repeats)
        });
        assert!((again.unwrap() - 30.0).abs() < 1e-9);
        assert_eq!(asked, [(1250, 16, 1), (10_000, 64, 8)]);
    }

    #[test]
    fn all_places_of_the_cycle_count_and_outliers_do_not() {
        let schedule = Schedule::new(&frames(1514), 4);
        assert_eq!(schedule.burst(), 8);
        let mut bursts = 0;
        let time = schedule.time(64 * 3, |first| {
            bursts += 1;
            let outlier = if bursts == 2 { 1_000_000 } else { 0 };
            Ok(Duration::from_nanos(first as u64 + outlier))
        });
        assert_eq!(bursts, 24);
        // Bursts begin with packets 0, 8 and so on to 56, and 64 packets are a cycle.
        assert_eq!(time.unwrap(), 224.0 / 64.0);
    }
}
