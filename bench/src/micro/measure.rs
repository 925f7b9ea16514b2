//! One program in one engine: what it answers, and how long it takes.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use squalus_engine::{Engine, TestRun};
use squalus_isa::Verdict;
use squalus_kernel::{KernelEngine, LoadOptions};
use squalus_object::Object;
use squalus_runtime::{FrameRef, PACKET_HEADROOM};
use squalus_vm::{EngineKind, Vm, VmBuilder};

use super::EngineName;
use super::native::{Clang, Native};
use super::programs::{ENTRY, Program};

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
    const MOST: usize = 64;
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
    ) -> Result<Subject> {
        let vm = |kind| -> Result<Subject> {
            let object = Object::parse(program.object)?;
            let vm = VmBuilder::new(object).engine(kind).build()?;
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

    /// Nanoseconds of a packet, entering the program included, except in the kernel.
    ///
    /// # Errors
    /// If a run fails, or answers other than `XDP_TX`.
    pub fn measure(&mut self, frames: &[Vec<u8>], packets: u32) -> Result<f64> {
        let bursts = Bursts::of(frames);
        match self {
            Subject::Kernel(engine) => {
                let measured = engine.measure_rounds(ENTRY, frames, packets, 0, 1)?;
                Ok(measured.nanos())
            }
            Subject::Userspace(vm) => measure_vm(vm, frames, packets, bursts),
            Subject::Native(native) => native.measure(packets, bursts),
        }
    }
}

/// Bursts are timed; restoring frames in between is not. The median burst counts: one in which the thread was
/// interrupted tells nothing.
fn measure_vm(vm: &Vm, frames: &[Vec<u8>], packets: u32, bursts: Bursts) -> Result<f64> {
    let mut worker = vm.worker(ENTRY, 0)?;
    let mut buffers = vec![0u8; bursts.frames * BUFFER];
    let mut verdicts = vec![Verdict::Aborted; bursts.frames];
    let mut source = frames.iter().cycle();
    let mut times = Vec::new();
    for _ in 0..(packets as usize).div_ceil(bursts.frames) {
        let mut burst = Vec::with_capacity(bursts.frames);
        for buffer in buffers.chunks_mut(BUFFER) {
            let frame = source.next().context("no frames given")?;
            buffer[PACKET_HEADROOM..][..frame.len()].copy_from_slice(frame);
            burst.push(FrameRef::new(buffer, PACKET_HEADROOM, frame.len())?);
        }
        let start = Instant::now();
        worker.run_burst(&mut burst, &mut verdicts);
        times.push(start.elapsed());
        ensure!(
            verdicts.iter().all(|verdict| *verdict == Verdict::Tx),
            "a frame got another verdict than XDP_TX: {:?}",
            worker.last_trap()
        );
    }
    worker.pause();
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok(median.as_nanos() as f64 / bursts.frames as f64)
}
