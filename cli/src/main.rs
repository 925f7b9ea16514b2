//! The `squalus` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use squalus::{bench, prog};

/// Layer 4 load balancer whose XDP program runs in the kernel or in userspace.
#[derive(Parser)]
#[command(name = "squalus", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Objects and programs on any engine.
    Prog {
        #[command(subcommand)]
        command: prog::ProgCommand,
    },
    /// Experiments: kernel and userspace side by side.
    Bench {
        #[command(subcommand)]
        command: bench::BenchCommand,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("squalus: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> Result<bool> {
    match cli.command {
        Command::Prog { command } => prog::run(&command),
        Command::Bench { command } => bench::run(&command).map(|()| true),
    }
}
