//! Threads hammer the same maps from both sides. Whatever is read must have been written: values say what
//! they are.
//!
//! A short run by default. `SQUALUS_SOAK_SECONDS=600` goes on for so long in each test; every soak says on
//! stderr how many operations there were.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod elements;
mod events;
mod orders;
mod references;
mod tries;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use squalus_maps::Map;

const CPUS: u32 = 3;

/// A word that says what it is: a key of 16 bits, the low half of a version, and a check over both.
fn word(key: u64, version: u64) -> u64 {
    let plain = key << 32 | version & 0xffff_ffff;
    (plain.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48 << 48) | plain
}

/// The key and the version in a word, which must be one that was written.
fn parse(found: u64) -> (u64, u64) {
    let (key, version) = (found >> 32 & 0xffff, found & 0xffff_ffff);
    assert_eq!(word(key, version), found, "{found:x} was never written");
    (key, version)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes
        .chunks(8)
        .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
}

struct Random(u64);

impl Random {
    fn below(&mut self, range: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % range
    }
}

fn key_bytes(map: &Map, key: u64) -> Vec<u8> {
    let mut bytes = vec![0; map.def().key_size as usize];
    bytes[..4].copy_from_slice(&(key as u32).to_ne_bytes());
    bytes
}

/// What a thread does over and over: one operation, its how manieth it is.
type Step<'a> = Box<dyn FnMut(&mut Random, u64) + Send + 'a>;

/// Repeats the workers' steps, `rounds` times each or for as long as a long run shall last, and those of
/// the control plane's threads meanwhile.
fn soak(name: &str, rounds: u64, workers: Vec<Step<'_>>, control: Vec<Step<'_>>) {
    let seconds = std::env::var("SQUALUS_SOAK_SECONDS").map(|text| text.parse().unwrap());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let (stop, operations) = (AtomicBool::new(false), AtomicU64::new(0));
    let goes_on = |round: u64| match until {
        Ok(until) => !round.is_multiple_of(256) || Instant::now() < until,
        Err(_) => round < rounds,
    };
    let run = |mut step: Step<'_>, seed: u64, is_worker: bool| {
        let _stop = StopOnPanic(&stop);
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut round = 0;
        while !stop.load(Relaxed) && (!is_worker || goes_on(round)) {
            step(&mut random, round);
            round += 1;
        }
        operations.fetch_add(round, Relaxed);
    };
    let run = &run;
    std::thread::scope(|scope| {
        for (step, seed) in control.into_iter().zip(1000..) {
            scope.spawn(move || run(step, seed, false));
        }
        let workers: Vec<_> = workers
            .into_iter()
            .zip(1..)
            .map(|(step, seed)| scope.spawn(move || run(step, seed, true)))
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    eprintln!("{name}: {} operations", operations.load(Relaxed));
}

/// Lets nobody go on for nothing.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Relaxed);
        }
    }
}
