//! `squalus bench`: experiments.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use squalus_bench::exec;

use crate::objects;

/// An experiment.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Nanoseconds per packet of one object in the kernel, the interpreter and the JIT.
    Exec(ExecCommand),
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

/// Runs the experiment and prints its figures.
///
/// # Errors
/// If it cannot run, or would measure something other than it says.
pub fn run(command: &BenchCommand) -> Result<()> {
    let BenchCommand::Exec(args) = command;
    let object = objects::balancer(args.object.as_deref())?;
    let label = args
        .object
        .as_ref()
        .map_or("built-in".to_owned(), |path| path.display().to_string());
    let report = exec::run(&args.exec, &object, &label, |step| {
        eprintln!("bench: {step}")
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(())
}
