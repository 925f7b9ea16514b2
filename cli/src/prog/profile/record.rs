//! Running frames through a program while looking where it is.
//!
//! Only what happens within bursts counts: the time of each sample tells whether it fell into one. What this
//! process does besides, restoring frames most of all, is in no figure.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use squalus_isa::Verdict;
use squalus_kernel::{Sample, Sampler};
use squalus_runtime::{FrameRef, PACKET_HEADROOM};
use squalus_vm::{MachineCode, Vm, Worker};

/// Frames of a burst, as the data plane runs them.
pub const BURST: usize = 64;
/// Room behind a frame, as drivers leave.
const TAILROOM: usize = 320;
/// Bursts between two looks at the samples that came.
const BETWEEN: usize = 256;
/// Bursts whose time is kept.
const KEPT: usize = 1 << 20;
/// Packets before code is compiled for them: more than are counted.
const WARM_UP: u64 = 20_000;

/// How long to run, and how often to look.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seconds: Duration,
    pub period: Duration,
    /// How many packets, if not as many as there is time for.
    pub packets: Option<u64>,
}

/// What was seen.
pub struct Recording {
    /// How often each address was.
    pub addresses: BTreeMap<usize, u64>,
    /// All code that was run, beginning with the first.
    pub code: Vec<MachineCode>,
    pub packets: u64,
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Nanoseconds of full bursts, as far as they were kept.
    pub bursts: Vec<u32>,
    /// Samples that there was no room for.
    pub lost: u64,
}

/// Runs `frames` in turn.
///
/// # Errors
/// If there is no such program, a frame is none, or the kernel does not let the process be sampled.
pub fn record(vm: &Vm, program: &str, frames: &[Vec<u8>], plan: &Plan) -> Result<Recording> {
    let mut recorder = Recorder {
        vm,
        worker: vm.worker(program, 0)?,
        frames,
        next: 0,
        bursts: Vec::with_capacity(BETWEEN),
        recording: Recording {
            addresses: BTreeMap::new(),
            code: Vec::new(),
            packets: 0,
            verdicts: BTreeMap::new(),
            bursts: Vec::new(),
            lost: 0,
        },
    };
    recorder.warm_up()?;
    let sampler = Sampler::of_this_thread(plan.period)?;
    recorder.record(sampler, plan)?;
    recorder.worker.pause();
    Ok(recorder.recording)
}

struct Recorder<'a> {
    vm: &'a Vm,
    worker: Worker,
    frames: &'a [Vec<u8>],
    next: usize,
    /// When bursts began and ended, since the samples were last looked at.
    bursts: Vec<(u64, u64)>,
    recording: Recording,
}

impl Recorder<'_> {
    /// Has the code compiled for these frames.
    fn warm_up(&mut self) -> Result<()> {
        let mut memory = self.memory();
        let mut burst = self.burst(&mut memory)?;
        let mut done = 0;
        while done < WARM_UP {
            done += self.run(&mut burst, usize::MAX)? as u64;
        }
        self.worker.pause();
        self.vm.settle();
        self.bursts.clear();
        self.recording.bursts.clear();
        self.recording.verdicts.clear();
        Ok(())
    }

    fn record(&mut self, mut sampler: Sampler, plan: &Plan) -> Result<()> {
        let mut memory = self.memory();
        let mut burst = self.burst(&mut memory)?;
        let mut samples = Vec::new();
        let end = Sampler::now() + plan.seconds.as_nanos() as u64;
        loop {
            self.keep_code()?;
            for _ in 0..BETWEEN {
                let left = plan.packets.map(|all| all - self.recording.packets);
                let done = match left {
                    Some(0) => break,
                    Some(left) => self.run(&mut burst, left.min(BURST as u64) as usize)?,
                    None => self.run(&mut burst, BURST)?,
                };
                self.recording.packets += done as u64;
            }
            self.recording.lost += sampler.drain(&mut samples);
            self.count(&mut samples);
            let over = match plan.packets {
                Some(all) => self.recording.packets >= all,
                None => Sampler::now() >= end,
            };
            if over {
                return Ok(());
            }
        }
    }

    /// Holds on to the code that is run now, so that its addresses never mean anything else.
    fn keep_code(&mut self) -> Result<()> {
        let code = self.vm.machine_code().context("programs are compiled")?;
        if !self.recording.code.iter().any(|known| known.is(&code)) {
            self.recording.code.push(code);
        }
        Ok(())
    }

    fn memory(&self) -> Vec<Vec<u8>> {
        let longest = self.frames.iter().map(Vec::len).max().unwrap_or(0);
        let len = (PACKET_HEADROOM + longest + TAILROOM).next_multiple_of(64);
        vec![vec![0; len]; BURST]
    }

    fn burst<'m>(&self, memory: &'m mut [Vec<u8>]) -> Result<Vec<FrameRef<'m>>> {
        let first = self.frames.first().context("no frames given")?;
        let frame = |buffer: &'m mut Vec<u8>| FrameRef::new(buffer, PACKET_HEADROOM, first.len());
        let frames: Result<Vec<_>, _> = memory.iter_mut().map(frame).collect();
        frames.context("a frame cannot be run")
    }

    /// Runs a burst of at most so many frames, and returns how many it were.
    fn run(&mut self, burst: &mut [FrameRef<'_>], most: usize) -> Result<usize> {
        let count = most.min(burst.len());
        let burst = &mut burst[..count];
        for frame in burst.iter_mut() {
            let packet = &self.frames[self.next];
            let refilled = frame.refill(PACKET_HEADROOM, packet);
            refilled.with_context(|| format!("frame {} cannot be run", self.next + 1))?;
            self.next = (self.next + 1) % self.frames.len();
        }
        let mut verdicts = [Verdict::Aborted; BURST];
        let start = Sampler::now();
        self.worker.run_burst(burst, &mut verdicts);
        let end = Sampler::now();
        self.bursts.push((start, end));
        if count == BURST && self.recording.bursts.len() < KEPT {
            let nanos = u32::try_from(end - start).unwrap_or(u32::MAX);
            self.recording.bursts.push(nanos);
        }
        for verdict in &verdicts[..count] {
            *self.recording.verdicts.entry(verdict.name()).or_default() += 1;
        }
        Ok(count)
    }

    /// Counts the samples that fell into bursts.
    fn count(&mut self, samples: &mut Vec<Sample>) {
        for sample in samples.drain(..) {
            let after = self.bursts.partition_point(|(_, end)| *end < sample.nanos);
            if self
                .bursts
                .get(after)
                .is_some_and(|(start, _)| *start <= sample.nanos)
            {
                let count = self.recording.addresses.entry(sample.address as usize);
                *count.or_default() += 1;
            }
        }
        self.bursts.clear();
    }
}
