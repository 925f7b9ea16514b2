//! `squalus bench`: experiments.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use squalus_bench::{ablation, exec, micro};

use crate::objects;

/// An experiment.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Nanoseconds per packet of one object in the kernel, the interpreter and the JIT.
    Exec(ExecCommand),
    /// What each pass of the optimizer is worth: the same object with all, without each one, and with none.
    Ablation(AblationCommand),
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
