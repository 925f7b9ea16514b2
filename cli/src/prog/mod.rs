//! `squalus prog`: objects and programs on any engine.

mod compare;
mod recording;
mod replay;

use anyhow::Result;
use clap::Subcommand;

/// What to do with a program.
#[derive(Debug, Subcommand)]
pub enum ProgCommand {
    /// Replay a recorded balancer packet by packet and compare verdicts, bytes and counters.
    Replay(replay::ReplayArgs),
}

/// Carries out the command. False if it ran and found something that is not as it should be.
///
/// # Errors
/// If it could not run.
pub fn run(command: &ProgCommand) -> Result<bool> {
    match command {
        ProgCommand::Replay(args) => replay::run(args),
    }
}
