//! Lookups of a whole burst, announced before the burst is run.
//!
//! Beside a program that looks up in an LRU map stands a function that finds out the keys (`squalus_ssa`'s pass
//! `prefetch`). For a table larger than the caches it makes bursts several times faster; for a small one it costs
//! time. Which of the two it is, is tried out now and then.

use std::time::{Duration, Instant};

use squalus_maps::{Ahead, Map};
use squalus_runtime::{Env, FrameRef};

use crate::run::{Entry, RunState};

/// Most frames that are looked at before they are run.
pub(crate) const BURST: usize = 64;
/// A burst of fewer frames is run as it is.
const FEWEST: usize = 8;
/// How many bursts are tried with and without, and after how many bursts they are again.
const TRIAL: u32 = 8;
const PERIOD: u32 = 2048;

/// What one worker knows of whether looking ahead is worth its time.
#[derive(Debug)]
pub struct Lookahead {
    announced: Vec<Ahead>,
    /// How many bursts of this period there were.
    turn: u32,
    /// The fastest burst without and with, in time a frame.
    fastest: [Duration; 2],
    worth: bool,
}

impl Default for Lookahead {
    fn default() -> Lookahead {
        Lookahead {
            announced: Vec::with_capacity(BURST),
            turn: 0,
            fastest: [Duration::MAX; 2],
            worth: false,
        }
    }
}

/// How a burst is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    pub(crate) look: bool,
    start: Option<Instant>,
}

impl Lookahead {
    /// How a burst of so many frames is to be run.
    pub(crate) fn begin(&mut self, frames: usize) -> Trial {
        let (mut look, mut start) = (false, None);
        if frames >= FEWEST {
            look = self.worth;
            if self.turn < 2 * TRIAL {
                look = self.turn.is_multiple_of(2);
                // Decides about speed only, never about results.
                start = Some(Instant::now());
            }
            self.turn = (self.turn + 1) % PERIOD;
        }
        Trial { look, start }
    }

    /// Learns from a burst that was run.
    #[inline]
    pub(crate) fn end(&mut self, trial: Trial, frames: usize) {
        if let Some(start) = trial.start {
            self.learn(trial.look, start.elapsed() / frames as u32);
        }
    }

    #[cold]
    fn learn(&mut self, look: bool, time: Duration) {
        let fastest = &mut self.fastest[usize::from(look)];
        *fastest = time.min(*fastest);
        if self.turn == 2 * TRIAL {
            let [without, with] = std::mem::replace(&mut self.fastest, [Duration::MAX; 2]);
            // What is as fast either way is better left alone.
            self.worth = with < without / 8 * 7;
        }
    }

    /// Announces what the program will look up for these frames.
    ///
    /// # Safety
    /// As [`crate::run_linked`], for each frame; `code` stands beside the program, and `state` is of the burst.
    pub(crate) unsafe fn announce(
        &mut self,
        code: Entry,
        env: *mut Env,
        state: *mut RunState,
        frames: &mut [FrameRef<'_>],
    ) {
        self.announced.clear();
        // SAFETY: the environment and the state are the caller's; the code was compiled for this signature.
        unsafe {
            (*state).announced = &raw mut self.announced;
            for n in 0..frames.len() {
                if let Some(next) = frames.get(n + 1) {
                    next.prefetch();
                }
                let place = frames[n].place();
                (*env).begin(place);
                code(env, place.address());
            }
            (*state).announced = std::ptr::null_mut();
        }
        for ahead in self.announced.drain(..) {
            // SAFETY: the maps are there as long as the worker does not pass a quiescent point.
            unsafe { ahead.follow() };
        }
    }
}

/// Announces the lookup of the key of `len` bytes at `key`.
///
/// # Safety
/// Called by compiled code in [`Lookahead::announce`], with the address of a map and of so many bytes.
pub(crate) unsafe extern "C" fn look_ahead(
    env: *mut Env,
    map: *const Map,
    key: *const u8,
    len: u64,
) -> u64 {
    // SAFETY: the caller's; the first scratch word is the address of the burst's state.
    unsafe {
        let state: *mut RunState =
            std::ptr::with_exposed_provenance_mut((*env).scratch[0] as usize);
        if let Some(announced) = (*state).announced.as_mut()
            && announced.len() < BURST
        {
            announced.extend((*map).look_ahead(key, len as usize));
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_faster_is_kept_until_the_next_trial() {
        let mut lookahead = Lookahead::default();
        for (with, without, worth) in [(100, 200, 1), (200, 100, 0), (500, 600, 1), (590, 600, 0)] {
            let mut looked = 0;
            for turn in 0..PERIOD {
                let mut trial = lookahead.begin(BURST);
                assert_eq!(trial.start.is_some(), turn < 2 * TRIAL);
                if trial.start.take().is_some() {
                    let time = if trial.look { with } else { without };
                    lookahead.learn(trial.look, Duration::from_nanos(time + u64::from(turn % 3)));
                } else {
                    looked += u32::from(trial.look);
                }
            }
            let all = worth * (PERIOD - 2 * TRIAL);
            assert_eq!(looked, all);
        }
    }

    #[test]
    fn small_bursts_are_not_looked_at() {
        let mut lookahead = Lookahead::default();
        for _ in 0..PERIOD {
            let trial = lookahead.begin(FEWEST - 1);
            assert!(!trial.look && trial.start.is_none());
        }
    }
}
