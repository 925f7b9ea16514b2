//! Time and randomness, as interfaces: every run can be replayed.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which of the kernel's clocks a helper reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockId {
    /// `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`).
    Monotonic,
    /// `CLOCK_BOOTTIME` (`bpf_ktime_get_boot_ns`).
    Boot,
    /// `CLOCK_MONOTONIC_COARSE` (`bpf_ktime_get_coarse_ns`).
    Coarse,
    /// `CLOCK_TAI` (`bpf_ktime_get_tai_ns`).
    Tai,
}

/// Where programs get the time from, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The host's clocks.
    #[default]
    Real,
    /// Always the same time, whichever clock is asked.
    Fixed(u64),
    /// What the holder of the other handle last stored, whichever clock is asked.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The time in nanoseconds.
    #[must_use]
    pub fn now(&self, id: ClockId) -> u64 {
        match self {
            Clock::Real => real(id),
            Clock::Fixed(ns) => *ns,
            Clock::Manual(ns) => ns.load(Ordering::Relaxed),
        }
    }
}

impl Clock {
    /// Ticks of the kernel's timer (`jiffies`): since five minutes before the 32-bit count first wraps, at
    /// boot. Clocks other than the host's tick 250 times a second.
    #[must_use]
    pub fn jiffies(&self) -> u64 {
        let tick = match self {
            Clock::Real => coarse_tick(),
            Clock::Fixed(_) | Clock::Manual(_) => 4_000_000,
        };
        let first = (300 * (1_000_000_000 / tick) as u32).wrapping_neg();
        u64::from(first) + self.now(ClockId::Coarse) / tick
    }
}

/// How often the host's coarse clock advances, in nanoseconds: with every tick of the kernel's timer.
fn coarse_tick() -> u64 {
    let mut tick = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `tick` is a valid place for the result; the clock exists on every Linux, so the call, served
    // by the vDSO, cannot fail.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut tick) };
    tick.tv_nsec.cast_unsigned().max(1)
}

fn real(id: ClockId) -> u64 {
    let id = match id {
        ClockId::Monotonic => libc::CLOCK_MONOTONIC,
        ClockId::Boot => libc::CLOCK_BOOTTIME,
        ClockId::Coarse => libc::CLOCK_MONOTONIC_COARSE,
        ClockId::Tai => libc::CLOCK_TAI,
    };
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result; these clocks exist on every Linux, so the call,
    // served by the vDSO, cannot fail.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// A generator for `bpf_get_prandom_u32` (SplitMix64): fast, reproducible, not for secrets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A generator whose numbers follow from `seed`.
    #[must_use]
    pub const fn seeded(seed: u64) -> Rng {
        Rng { state: seed }
    }

    /// A generator that differs on every call.
    #[must_use]
    pub fn from_host() -> Rng {
        Rng::seeded(RandomState::new().hash_one(0u8))
    }

    /// What the state, the generator's only word, grows by for each number.
    pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    /// Shifts and factors that mix the state. The number is the upper half of the result, mixed with itself
    /// shifted by 31.
    pub const MIX: [(u32, u64); 2] = [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)];

    /// The next number.
    pub const fn next_u32(&mut self) -> u32 {
        let [(first, by), (second, by_then)] = Rng::MIX;
        self.state = self.state.wrapping_add(Rng::STEP);
        let mut z = self.state;
        z = (z ^ (z >> first)).wrapping_mul(by);
        z = (z ^ (z >> second)).wrapping_mul(by_then);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_the_sequence() {
        let (mut a, mut b) = (Rng::seeded(7), Rng::seeded(7));
        let first: Vec<u32> = (0..4).map(|_| a.next_u32()).collect();
        let second: Vec<u32> = (0..4).map(|_| b.next_u32()).collect();
        assert_eq!(first, second);
        assert!(first.windows(2).all(|w| w[0] != w[1]));
    }

    #[test]
    fn real_time_moves_forward() {
        let clock = Clock::Real;
        let a = clock.now(ClockId::Monotonic);
        let b = clock.now(ClockId::Monotonic);
        assert!(a > 0 && b >= a);
        assert!(clock.now(ClockId::Boot) >= a);
        assert!(clock.now(ClockId::Tai) > 1_600_000_000_000_000_000);
    }

    #[test]
    fn a_manual_clock_is_set_from_outside() {
        let handle = Arc::new(AtomicU64::new(5));
        let clock = Clock::Manual(Arc::clone(&handle));
        assert_eq!(clock.now(ClockId::Boot), 5);
        handle.store(9, Ordering::Relaxed);
        assert_eq!(clock.now(ClockId::Monotonic), 9);
    }
}
