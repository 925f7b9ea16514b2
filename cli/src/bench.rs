//! `squalus bench`: experiments.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use squalus_bench::engines::CodeArgs;
use squalus_bench::{ablation, exec, micro};

use crate::objects;
use crate::prog::profile;

/// An experiment.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Nanoseconds per packet of one object in the kernel, the interpreter and the JIT.
    Exec(ExecCommand),
    /// What each pass of the optimizer is worth: the same object with all, without each one, and with none.
    Ablation(AblationCommand),
    /// Where the time goes in one case of `bench exec`, by source line, as `prog profile` shows it.
    Profile(ProfileCommand),
    /// Small programs of all kinds: our engines beside the kernel and clang's native code.
    Micro(MicroCommand),
}

/// Options of `squalus bench exec`.
#[derive(Debug, Args)]
pub struct ExecCommand {
    /// The object to measure; the built-in balancer if not given.
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    exec: exec::ExecArgs,
}

/// Options of `squalus bench ablation`.
#[derive(Debug, Args)]
pub struct AblationCommand {
    /// The object to measure; the built-in balancer if not given.
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ablation: ablation::AblationArgs,
}

/// Options of `squalus bench profile`.
#[derive(Debug, Args)]
pub struct ProfileCommand {
    /// The case.
    #[arg(value_name = "CASE")]
    case: String,
    /// The object to look at; the built-in balancer if not given.
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// How many sessions there are in turn.
    #[arg(long, default_value_t = 1, value_name = "N")]
    sessions: u32,
    #[command(flatten)]
    code: CodeArgs,
    #[command(flatten)]
    look: profile::LookArgs,
}

/// Options of `squalus bench micro`.
#[derive(Debug, Args)]
pub struct MicroCommand {
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    micro: micro::MicroArgs,
}

/// Runs the experiment and prints its figures.
///
/// # Errors
/// If it cannot run, or would measure something other than it says.
pub fn run(command: &BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Exec(args) => run_exec(args),
        BenchCommand::Ablation(args) => run_ablation(args),
        BenchCommand::Profile(args) => run_profile(args),
        BenchCommand::Micro(args) => run_micro(args),
    }
}

fn run_exec(args: &ExecCommand) -> Result<()> {
    let object = objects::balancer(args.object.as_deref())?;
    let label = label(args.object.as_deref());
    let report = exec::run(&args.exec, &object, &label, progress)?;
    print(args.json, &report, exec::Report::text)
}

fn run_ablation(args: &AblationCommand) -> Result<()> {
    let object = objects::balancer(args.object.as_deref())?;
    let label = label(args.object.as_deref());
    let report = ablation::run(&args.ablation, &object, &label, progress)?;
    print(args.json, &report, ablation::Report::text)
}

fn run_profile(args: &ProfileCommand) -> Result<()> {
    let object = objects::balancer(args.object.as_deref())?;
    let code = CodeArgs {
        keep_text: true,
        ..args.code
    };
    let prepared = exec::Prepared::new(&object, &args.case, args.sessions, code)?;
    let (vm, program) = (prepared.vm(), prepared.program());
    profile::show(vm, &object, program, &prepared.frames, &args.look)
}

/// What an object is called in reports.
fn label(object: Option<&Path>) -> String {
    object.map_or("built-in".to_owned(), |path| path.display().to_string())
}

fn run_micro(args: &MicroCommand) -> Result<()> {
    let report = micro::run(&args.micro, progress)?;
    print(args.json, &report, micro::Report::text)
}

fn progress(step: &str) {
    eprintln!("bench: {step}");
}

fn print<R: Serialize>(json: bool, report: &R, text: fn(&R) -> String) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{}", text(report));
    }
    Ok(())
}
