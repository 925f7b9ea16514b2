//! The `squalus` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use squalus::prog;

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
    }
}
