//! Nanoseconds per packet of a loaded program, in the kernel and in our engine, in one way: a round runs so many
//! packets, restoring each frame before; another round only restores; the difference is the program's.
//!
//! The clock is read twice a round and is the thread's own, so neither its cost nor the time in which the thread
//! was not running is in a figure. Our engine's cost of entering a program is; the kernel's is not (see
//! [`KernelEngine::measure`]).

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use squalus_engine::Engine;
use squalus_isa::Verdict;
use squalus_kernel::{KernelEngine, Stopwatch};
use squalus_runtime::{FrameRef, PACKET_HEADROOM};
use squalus_vm::{Vm, Worker};

use super::traffic::Traffic;

/// Frames of a burst, as the data plane runs them.
const BURST: usize = 64;
/// Bytes of a frame's buffer: no power of two, so that frames don't fall on the same cache sets. A burst of short
/// frames stays in the first-level cache, as the kernel's only frame does.
const BUFFER: usize = 2048 + 64;
/// What a buffer is taken to hold before its first frame.
const SHORTEST: usize = 14;

/// What one round took, in nanoseconds a packet.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Restoring frames and running the program.
    pub whole: f64,
    /// Restoring frames alone.
    pub restoring: f64,
}

impl Sample {
    /// The program alone.
    #[must_use]
    pub fn nanos(&self) -> f64 {
        self.whole - self.restoring
    }
}

/// An engine whose programs can be timed.
pub trait Measure: Engine {
    /// Readies the timing of `program` on CPU 0.
    ///
    /// # Errors
    /// If there is no such program, or the engine cannot time it on these frames.
    fn rounds<'a>(&'a self, program: &str, traffic: &'a Traffic) -> Result<Box<dyn Rounds + 'a>>;

    /// Our machine, if it is ours.
    fn vm(&self) -> Option<&Vm> {
        None
    }
}

/// A program that is being timed.
pub trait Rounds {
    /// Runs `packets` packets to no other end than that everything is as it will be.
    ///
    /// # Errors
    /// As [`Rounds::round`].
    fn warm_up(&mut self, packets: u32) -> Result<()> {
        self.round(packets).map(drop)
    }

    /// Runs `packets` packets, beginning with the one after the last one of the round before.
    ///
    /// # Errors
    /// If a run fails or gives another verdict than the traffic says.
    fn round(&mut self, packets: u32) -> Result<Sample>;
}

impl Measure for KernelEngine {
    fn rounds<'a>(&'a self, program: &str, traffic: &'a Traffic) -> Result<Box<dyn Rounds + 'a>> {
        let frames: Vec<Vec<u8>> = (0..traffic.len())
            .map(|n| traffic.frame(n).to_vec())
            .collect();
        Ok(Box::new(KernelRounds {
            stopwatch: self.stopwatch(program, &frames)?,
            traffic,
            next: 0,
        }))
    }
}

struct KernelRounds<'a> {
    stopwatch: Stopwatch<'a>,
    traffic: &'a Traffic,
    next: usize,
}

impl Rounds for KernelRounds<'_> {
    fn round(&mut self, packets: u32) -> Result<Sample> {
        let round = self.stopwatch.round(packets)?;
        self.next = (self.next + packets as usize) % self.traffic.len();
        let last = (self.next + self.traffic.len() - 1) % self.traffic.len();
        let expected = self.traffic.verdict(last);
        ensure!(
            round.verdict == expected,
            "the kernel answered {} instead of {expected}",
            round.verdict
        );
        Ok(Sample {
            whole: round.with_program,
            restoring: round.baseline,
        })
    }
}

impl Measure for Vm {
    fn vm(&self) -> Option<&Vm> {
        Some(self)
    }

    fn rounds<'a>(&'a self, program: &str, traffic: &'a Traffic) -> Result<Box<dyn Rounds + 'a>> {
        Ok(Box::new(VmRounds {
            vm: self,
            worker: self.worker(program, 0)?,
            traffic,
            next: 0,
            buffers: vec![0; BURST * BUFFER],
            verdicts: [Verdict::Aborted; BURST],
            expected: [Verdict::Aborted; BURST],
        }))
    }
}

struct VmRounds<'a> {
    vm: &'a Vm,
    worker: Worker,
    traffic: &'a Traffic,
    next: usize,
    buffers: Vec<u8>,
    verdicts: [Verdict; BURST],
    expected: [Verdict; BURST],
}

impl Rounds for VmRounds<'_> {
    /// The traffic is shown to code that counts, to code made for it, and to what becomes of that.
    fn warm_up(&mut self, packets: u32) -> Result<()> {
        for _ in 0..3 {
            self.time(packets, true)?;
            self.worker.pause();
            self.vm.settle();
        }
        Ok(())
    }

    fn round(&mut self, packets: u32) -> Result<Sample> {
        let start = self.next;
        let restoring = self.time(packets, false)?;
        self.next = start;
        let whole = self.time(packets, true)?;
        self.worker.pause();
        Ok(Sample { whole, restoring })
    }
}

impl VmRounds<'_> {
    /// Nanoseconds a packet of restoring frames and, if so wanted, running the program.
    fn time(&mut self, packets: u32, run: bool) -> Result<f64> {
        let mut burst = Vec::with_capacity(BURST);
        for buffer in self.buffers.chunks_mut(BUFFER) {
            burst.push(FrameRef::new(buffer, PACKET_HEADROOM, SHORTEST)?);
        }
        let bursts = (packets as usize).div_ceil(BURST);
        let mut wrong = false;
        let start = thread_nanos();
        for _ in 0..bursts {
            for (frame, expected) in burst.iter_mut().zip(&mut self.expected) {
                frame.refill(PACKET_HEADROOM, self.traffic.frame(self.next))?;
                *expected = self.traffic.verdict(self.next);
                self.next += 1;
                if self.next == self.traffic.len() {
                    self.next = 0;
                }
            }
            if run {
                self.worker.run_burst(&mut burst, &mut self.verdicts);
            } else {
                std::hint::black_box(&mut burst);
            }
            wrong |= run & (self.verdicts != self.expected);
        }
        let nanos = (thread_nanos() - start) as f64;
        ensure!(
            !wrong,
            "the {} engine gave a frame another verdict than expected; of its last burst it gave {:?}",
            self.vm.name(),
            self.verdicts
        );
        Ok(nanos / (bursts * BURST) as f64)
    }
}

/// Keeps the calling thread on CPU 0, and lets it go when dropped.
pub struct Pinned(CpuSet);

impl Pinned {
    /// Pins the thread.
    ///
    /// # Errors
    /// If it may not run there.
    pub fn to_first() -> Result<Pinned> {
        let before = sched_getaffinity(None)?;
        let mut first = CpuSet::new();
        first.set(0);
        sched_setaffinity(None, &first).context(
            "cannot pin the measuring thread to CPU 0: allow it that CPU (taskset, cpuset)",
        )?;
        Ok(Pinned(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // If this fails, threads in the background share CPU 0, no more.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Nanoseconds that the calling thread has run.
fn thread_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
