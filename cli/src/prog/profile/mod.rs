//! `squalus prog profile`: where a program's time goes in userspace, by source line.

mod record;
mod report;
mod symbols;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use squalus_bench::engines::{CodeArgs, EngineName};
use squalus_object::Object;
use squalus_port::Capture;
use squalus_vm::Vm;

use super::loaded::{self, Loaded};
use super::run::Input;
use super::words::Words;
use record::Plan;
use report::Report;

/// Options of `squalus prog profile`.
#[derive(Debug, Args)]
#[command(
    override_usage = "squalus prog profile [OPTIONS] OBJ [PROGRAM] data_in FILE [repeat N]
       squalus prog profile [OPTIONS] OBJ [PROGRAM] --frame HEX [repeat N]
       squalus prog profile [OPTIONS] OBJ [PROGRAM] --pcap FILE [repeat N]"
)]
pub struct ProfileArgs {
    /// The object file.
    #[arg(value_name = "OBJ")]
    object: PathBuf,
    /// The program, if the object has several, then words as `prog run` has them: `data_in FILE`, and `repeat N`
    /// for how often the frames are run; without, they are for so many seconds.
    #[arg(value_name = "PROGRAM WORDS")]
    words: Vec<String>,
    /// The frame in hexadecimal, instead of `data_in`; spaces and colons don't matter.
    #[arg(long, value_name = "HEX", conflicts_with = "pcap")]
    frame: Option<String>,
    /// The frames of this capture (pcap or pcapng), in turn.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    #[command(flatten)]
    code: CodeArgs,
    #[command(flatten)]
    look: LookArgs,
}

/// How to look, and what to show.
#[derive(Debug, Args)]
pub struct LookArgs {
    /// How long to run.
    #[arg(long, default_value_t = 2.0, value_name = "S")]
    seconds: f64,
    /// How often to look, in a second.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    frequency: u32,
    /// How many source lines to show.
    #[arg(long, default_value_t = 15, value_name = "N")]
    lines: usize,
    /// Print JSON.
    #[arg(short, long)]
    json: bool,
}

/// Runs the program, looks where it is, and prints what came of it.
///
/// # Errors
/// If the object or the frames cannot be used, or the kernel does not let the process be sampled.
pub fn run(args: &ProfileArgs) -> Result<bool> {
    let words = Words::parse(&args.words)?;
    ensure!(
        words.data_out.is_none(),
        "`data_out` is for `prog run`: a profile shows where the time goes"
    );
    let frames = frames(Input::of(
        args.frame.as_deref(),
        args.pcap.as_deref(),
        &words,
    )?)?;
    let packets = u64::from(words.repeat) * frames.len() as u64;
    let plan = args.look.plan(words.repeats.then_some(packets))?;
    let bytes = loaded::read(&args.object)?;
    let wanted = words.program.as_deref();
    let code = CodeArgs {
        adaptive: true,
        keep_text: true,
        ..args.code
    };
    let mut loaded = Loaded::load(EngineName::Jit, &bytes, wanted, code)
        .with_context(|| args.object.display().to_string())?;
    let program = loaded.choose(wanted)?;
    let Loaded::Vm(vm) = &loaded else {
        unreachable!("the JIT is no kernel");
    };
    let object = squalus_vm::for_host(Object::parse(&bytes)?)?;
    let recording = record::record(vm, &program, &frames, &plan)?;
    args.look
        .print(&Report::of(vm, &object, &program, &recording))?;
    Ok(true)
}

/// Profiles `program` of a machine that was made with [`CodeArgs::keep_text`] from the object in `bytes`, and prints
/// what came of it.
///
/// # Errors
/// If the frames cannot be used, or the kernel does not let the process be sampled.
pub fn show(
    vm: &Vm,
    bytes: &[u8],
    program: &str,
    frames: &[Vec<u8>],
    look: &LookArgs,
) -> Result<()> {
    let recording = record::record(vm, program, frames, &look.plan(None)?)?;
    let object = squalus_vm::for_host(Object::parse(bytes)?)?;
    look.print(&Report::of(vm, &object, program, &recording))
}

impl LookArgs {
    fn plan(&self, packets: Option<u64>) -> Result<Plan> {
        let seconds = Duration::try_from_secs_f64(self.seconds).ok();
        let seconds = seconds.filter(|seconds| !seconds.is_zero());
        Ok(Plan {
            seconds: seconds.context("--seconds must be more than 0")?,
            period: period(self.frequency)?,
            packets,
        })
    }

    fn print(&self, report: &Report) -> Result<()> {
        match self.json {
            true => super::print_json(report),
            false => super::print(&report.text(self.lines)),
        }
    }
}

fn frames(input: Input) -> Result<Vec<Vec<u8>>> {
    let frames: Vec<Vec<u8>> = match input {
        Input::Frame(frame) => vec![frame],
        Input::Capture(path) => read(&path)?,
    };
    Ok(frames)
}

fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let capture = Capture::read(path)?;
    let frames: Vec<Vec<u8>> = capture.iter().map(|frame| frame.bytes.to_vec()).collect();
    ensure!(!frames.is_empty(), "{} has no frames", path.display());
    Ok(frames)
}

/// The kernel's clock ticks every 10 microseconds at most.
fn period(frequency: u32) -> Result<Duration> {
    ensure!(
        (1..=100_000).contains(&frequency),
        "--frequency takes a number from 1 to 100000"
    );
    Ok(Duration::from_secs(1) / frequency)
}
