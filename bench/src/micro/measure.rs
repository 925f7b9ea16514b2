//! One program in one engine: what it answers, and how long it takes.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use squalus_engine::{Engine, TestRun};
use squalus_isa::Verdict;
use squalus_kernel::{KernelEngine, KernelError, LoadOptions, Stopwatch};
use squalus_object::Object;
use squalus_runtime::{FrameRef, PACKET_HEADROOM};
use squalus_vm::{EngineKind, Vm, VmBuilder, Worker};

use super::EngineName;
use super::native::{Clang, Native};
use super::programs::{ENTRY, Program};
use super::rbpf;
use super::repeated::{repeated, side_by_side};
use super::schedule::Schedule;
use super::traffic::FRAMES;
use crate::engines::CodeArgs;

/// What a program left of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `r0`, or what the function returned.
    pub value: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.value)?;
        self.frame
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A frame's buffer; its length is no power of two, so that frames don't fall on the same cache sets.
const BUFFER: usize = 2048 + 64;

/// The program several times in a row, beside it in the kernel.
const REPEATED: &str = "micro_repeated";

/// A program in the kernel, once and several times in a row.
pub struct InKernel {
    /// Both, with their maps.
    pub engine: KernelEngine,
    /// How many times.
    repeats: usize,
    /// How far apart the frames are.
    stride: usize,
}

impl InKernel {
    /// Loads it, as often in a row as [`Program::repeats`] says, or as the kernel's verifier can follow.
    fn load(program: &Program) -> Result<InKernel> {
        let (mut repeats, stride) = (program.repeats()?, program.stride());
        loop {
            let mut object = Object::parse(program.object)?;
            let once = object.require_program(ENTRY)?;
            let repeated = repeated(once, REPEATED, repeats, stride)?;
            object.programs.push(repeated);
            match KernelEngine::load_object(object, &LoadOptions::default()) {
                Err(KernelError::Verifier { program, .. })
                    if program == REPEATED && repeats > 2 =>
                {
                    repeats /= 2;
                }
                Err(error) => return Err(error.into()),
                Ok(engine) => {
                    return Ok(InKernel {
                        engine,
                        repeats,
                        stride,
                    });
                }
            }
        }
    }

    fn stopwatch(&self, frames: &[Vec<u8>]) -> Result<Stopwatch<'_>, KernelError> {
        let beside = match self.stride {
            0 => frames.to_vec(),
            stride => side_by_side(frames, self.repeats, stride),
        };
        self.engine.stopwatch_between(ENTRY, REPEATED, &beside)
    }
}

/// A program loaded into an engine.
pub enum Subject {
    /// The kernel.
    Kernel(Box<InKernel>),
    /// One of our engines.
    Userspace(Box<Vm>),
    /// Native code.
    Native(Native),
    /// The engine rbpf.
    Rbpf(Box<squalus_rbpf::Program>),
}

impl Subject {
    /// Loads `program` into `engine`.
    ///
    /// # Errors
    /// If the engine refuses it, or there is no clang for native code.
    pub fn load(
        engine: EngineName,
        program: &Program,
        frames: &[Vec<u8>],
        clang: Option<&Clang>,
        code: CodeArgs,
    ) -> Result<Subject> {
        let vm = |kind| -> Result<Subject> {
            let object = Object::parse(program.object)?;
            let vm = code.apply(VmBuilder::new(object)).engine(kind).build()?;
            Ok(Subject::Userspace(Box::new(vm)))
        };
        let loaded = match engine {
            EngineName::Kernel => {
                InKernel::load(program).map(|loaded| Subject::Kernel(Box::new(loaded)))
            }
            EngineName::Interp => vm(EngineKind::Interp),
            EngineName::Jit => vm(EngineKind::Jit),
            EngineName::Native => clang
                .context("there is no clang")
                .and_then(|clang| Native::start(clang, program, frames))
                .map(Subject::Native),
            EngineName::Rbpf => rbpf::load(program).map(|loaded| Subject::Rbpf(Box::new(loaded))),
        };
        loaded.with_context(|| format!("cannot load {} into {}", program.name, engine.name()))
    }

    /// Runs each frame once.
    ///
    /// # Errors
    /// If a run fails.
    pub fn check(&mut self, frames: &[Vec<u8>]) -> Result<Vec<Answer>> {
        let engine: &mut dyn Engine = match self {
            Subject::Native(native) => return native.check(),
            Subject::Rbpf(program) => return Ok(rbpf::check(program, frames)),
            Subject::Kernel(loaded) => &mut loaded.engine,
            Subject::Userspace(vm) => &mut **vm,
        };
        let answer = |frame: &Vec<u8>| {
            let result = engine.test_run(ENTRY, &TestRun::once(frame))?;
            Ok(Answer {
                value: result.return_value,
                frame: result.frame,
            })
        };
        frames.iter().map(answer).collect()
    }

    /// How often each frame has to come in a row, if it is this engine that decides.
    #[must_use]
    pub fn repeats(&self) -> Option<usize> {
        match self {
            Subject::Kernel(loaded) => Some(loaded.repeats),
            _ => None,
        }
    }

    /// Readies the timing of the program on these frames.
    ///
    /// # Errors
    /// If the engine cannot time it.
    pub fn timer<'a>(&'a mut self, frames: &'a [Vec<u8>], schedule: Schedule) -> Result<Timer<'a>> {
        let size = schedule.burst();
        Ok(match self {
            Subject::Kernel(loaded) => {
                let watch = loaded.stopwatch(frames)?;
                let more = loaded.repeats - 1;
                Timer::Kernel(Box::new(watch), more as f64)
            }
            Subject::Userspace(vm) => {
                let buffers = Box::new(Buffers {
                    worker: vm.worker(ENTRY, 0)?,
                    bytes: vec![0; size * BUFFER],
                    verdicts: vec![Verdict::Aborted; size],
                    frames,
                });
                Timer::Userspace(buffers, schedule)
            }
            Subject::Native(native) => Timer::Native(native, schedule),
            Subject::Rbpf(program) => Timer::Rbpf(program, schedule, frames),
        })
    }
}

/// A program that is being timed.
pub enum Timer<'a> {
    /// In the kernel: several times in a row and once, and by how many times the two differ.
    Kernel(Box<Stopwatch<'a>>, f64),
    /// In one of our engines.
    Userspace(Box<Buffers<'a>>, Schedule),
    /// As native code.
    Native(&'a mut Native, Schedule),
    /// In rbpf.
    Rbpf(&'a mut squalus_rbpf::Program, Schedule, &'a [Vec<u8>]),
}

/// What one round took, in nanoseconds a packet.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What was run.
    pub whole: f64,
    /// What is to be taken off, if the engine measures that itself.
    pub baseline: Option<f64>,
}

impl Timer<'_> {
    /// Runs so many packets, or a few more.
    ///
    /// # Errors
    /// If a run fails, or answers other than `XDP_TX`.
    pub fn round(&mut self, packets: u32) -> Result<Sample> {
        let whole = match self {
            Timer::Kernel(stopwatch, more) => {
                // Whole cycles, so that each frame counts alike.
                let round = stopwatch.round(packets.next_multiple_of(FRAMES as u32))?;
                ensure!(
                    round.verdict == Verdict::Tx,
                    "the kernel answered {} instead of XDP_TX",
                    round.verdict
                );
                return Ok(Sample {
                    whole: round.with_program / *more,
                    baseline: Some(round.baseline / *more),
                });
            }
            Timer::Userspace(buffers, schedule) => {
                schedule.again(packets, |packets, order| buffers.round(packets, order))?
            }
            Timer::Native(native, schedule) => {
                schedule.again(packets, |packets, order| native.measure(packets, order))?
            }
            Timer::Rbpf(program, schedule, frames) => {
                let measure = |packets, order| rbpf::measure(program, frames, packets, order);
                schedule.again(packets, measure)?
            }
        };
        let baseline = None;
        Ok(Sample { whole, baseline })
    }
}

/// A worker of one of our engines and the buffers of a burst.
pub struct Buffers<'a> {
    worker: Worker,
    bytes: Vec<u8>,
    verdicts: Vec<Verdict>,
    frames: &'a [Vec<u8>],
}

impl Buffers<'_> {
    fn round(&mut self, packets: u32, schedule: Schedule) -> Result<f64> {
        let time = schedule.time(packets, |first| {
            let mut burst = Vec::with_capacity(schedule.burst());
            let packets = first..first + schedule.burst();
            for (packet, buffer) in packets.zip(self.bytes.chunks_mut(BUFFER)) {
                let frame = &self.frames[schedule.frame(packet)];
                buffer[PACKET_HEADROOM..][..frame.len()].copy_from_slice(frame);
                burst.push(FrameRef::new(buffer, PACKET_HEADROOM, frame.len())?);
            }
            let start = Instant::now();
            let verdicts = &mut self.verdicts[..schedule.burst()];
            self.worker.run_burst(&mut burst, verdicts);
            let time = start.elapsed();
            ensure!(
                verdicts.iter().all(|verdict| *verdict == Verdict::Tx),
                "a frame got another verdict than XDP_TX: {:?}",
                self.worker.last_trap()
            );
            Ok(time)
        });
        self.worker.pause();
        time
    }
}
