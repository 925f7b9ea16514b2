//! One program in one engine: what it answers, and how long it takes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use squalus_engine::{Engine, TestRun};
use squalus_isa::Verdict;
use squalus_kernel::{KernelEngine, LoadOptions, Stopwatch};
use squalus_object::Object;
use squalus_runtime::{FrameRef, PACKET_HEADROOM};
use squalus_vm::{EngineKind, Vm, VmBuilder, Worker};

use super::EngineName;
use super::native::{Clang, Native};
use super::programs::{ENTRY, Program};
use super::rbpf;
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

/// How frames are run together: few enough that all stay in the first-level cache, as a kernel's one frame does.
#[derive(Clone, Copy, Debug)]
pub struct Bursts {
    /// Frames of a burst.
    pub frames: usize,
}

impl Bursts {
    const MOST: usize = squalus_rbpf::MAX_BURST;
    const BYTES: usize = 16 * 1024;

    /// Bursts for frames like these.
    #[must_use]
    pub fn of(frames: &[Vec<u8>]) -> Bursts {
        let longest = frames.iter().map(Vec::len).max().unwrap_or(1);
        Bursts {
            frames: (Bursts::BYTES / longest.max(1)).clamp(4, Bursts::MOST),
        }
    }
}

/// A frame's buffer; its length is no power of two, so that frames don't fall on the same cache sets.
const BUFFER: usize = 2048 + 64;

/// A program loaded into an engine.
pub enum Subject {
    /// The kernel.
    Kernel(Box<KernelEngine>),
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
            EngineName::Kernel => KernelEngine::load(program.object, &LoadOptions::default())
                .map(|engine| Subject::Kernel(Box::new(engine)))
                .map_err(Into::into),
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
            Subject::Kernel(engine) => &mut **engine,
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

    /// Readies the timing of the program on these frames.
    ///
    /// # Errors
    /// If the engine cannot time it.
    pub fn timer<'a>(&'a mut self, frames: &'a [Vec<u8>]) -> Result<Timer<'a>> {
        let bursts = Bursts::of(frames);
        Ok(match self {
            Subject::Kernel(engine) => Timer::Kernel(Box::new(engine.stopwatch(ENTRY, frames)?)),
            Subject::Userspace(vm) => Timer::Userspace(Box::new(Buffers {
                worker: vm.worker(ENTRY, 0)?,
                bytes: vec![0; bursts.frames * BUFFER],
                verdicts: vec![Verdict::Aborted; bursts.frames],
                frames,
            })),
            Subject::Native(native) => Timer::Native(native, bursts),
            Subject::Rbpf(program) => Timer::Rbpf(program, bursts, frames),
        })
    }
}

/// A program that is being timed.
pub enum Timer<'a> {
    /// In the kernel.
    Kernel(Box<Stopwatch<'a>>),
    /// In one of our engines.
    Userspace(Box<Buffers<'a>>),
    /// As native code.
    Native(&'a mut Native, Bursts),
    /// In rbpf.
    Rbpf(&'a mut squalus_rbpf::Program, Bursts, &'a [Vec<u8>]),
}

/// What one round took, in nanoseconds a packet.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Entering and running the program.
    pub whole: f64,
    /// The same with an empty program, if the engine measures that itself.
    pub entering: Option<f64>,
}

impl Timer<'_> {
    /// Runs so many packets, or a few more.
    ///
    /// # Errors
    /// If a run fails, or answers other than `XDP_TX`.
    pub fn round(&mut self, packets: u32) -> Result<Sample> {
        let whole = match self {
            Timer::Kernel(stopwatch) => {
                let round = stopwatch.round(packets)?;
                return Ok(Sample {
                    whole: round.with_program,
                    entering: Some(round.with_nothing),
                });
            }
            Timer::Userspace(buffers) => buffers.round(packets)?,
            Timer::Native(native, bursts) => native.measure(packets, *bursts)?,
            Timer::Rbpf(program, bursts, frames) => {
                rbpf::measure(program, frames, packets, *bursts)?
            }
        };
        let entering = None;
        Ok(Sample { whole, entering })
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
    fn round(&mut self, packets: u32) -> Result<f64> {
        let size = self.verdicts.len();
        let mut source = self.frames.iter().cycle();
        let time = median_burst(packets, size, || {
            let mut burst = Vec::with_capacity(size);
            for buffer in self.bytes.chunks_mut(BUFFER) {
                let frame = source.next().context("no frames given")?;
                buffer[PACKET_HEADROOM..][..frame.len()].copy_from_slice(frame);
                burst.push(FrameRef::new(buffer, PACKET_HEADROOM, frame.len())?);
            }
            let start = Instant::now();
            self.worker.run_burst(&mut burst, &mut self.verdicts);
            let time = start.elapsed();
            ensure!(
                self.verdicts.iter().all(|verdict| *verdict == Verdict::Tx),
                "a frame got another verdict than XDP_TX: {:?}",
                self.worker.last_trap()
            );
            Ok(time)
        });
        self.worker.pause();
        time
    }
}

/// Nanoseconds a packet, from bursts that are timed; what `burst` does before and after is not. The median burst
/// counts: one in which the thread was interrupted tells nothing.
pub(super) fn median_burst(
    packets: u32,
    size: usize,
    mut burst: impl FnMut() -> Result<Duration>,
) -> Result<f64> {
    let bursts = (packets as usize).div_ceil(size);
    let times: Result<Vec<Duration>> = (0..bursts).map(|_| burst()).collect();
    let mut times = times?;
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok(median.as_nanos() as f64 / size as f64)
}
