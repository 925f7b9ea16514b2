//! `squalus prog`: objects and programs on any engine.

mod attach;
mod capture;
mod compare;
mod compiled;
mod disasm;
mod dump;
mod foreground;
mod list;
mod load;
mod loaded;
mod machine;
mod maps;
mod place;
pub mod profile;
mod recording;
mod replay;
mod run;
mod status;
mod verify;
mod words;

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};
use clap::Subcommand;

/// What to do with a program.
#[derive(Debug, Subcommand)]
pub enum ProgCommand {
    /// List an object's programs, maps and variables.
    List(list::ListArgs),
    /// Disassemble an object's programs, with source lines.
    Disasm(disasm::DisasmArgs),
    /// Show what is proved of programs, and what will be checked as they run in userspace.
    Verify(verify::VerifyArgs),
    /// Run a program on a frame or a capture, as `bpftool prog run` does.
    #[command(visible_alias = "test")]
    Run(run::RunArgs),
    /// Show where a program's time goes in userspace, by source line.
    Profile(profile::ProfileArgs),
    /// Load an object's programs into the kernel.
    Load(load::LoadArgs),
    /// Attach a program to an interface: in the kernel, where it stays, or in userspace as long as this runs.
    Attach(Box<attach::AttachArgs>),
    /// Take the program off an interface.
    #[command(visible_alias = "unload")]
    Detach(attach::DetachArgs),
    /// Show the programs on interfaces.
    Status(status::StatusArgs),
    /// Show what is in maps, with the names and types of BTF.
    Dump(maps::DumpArgs),
    /// Replay a recorded balancer packet by packet and compare verdicts, bytes and counters.
    Replay(replay::ReplayArgs),
}

/// Carries out the command. False if it ran and found something that is not as it should be.
///
/// # Errors
/// If it could not run.
pub fn run(command: &ProgCommand) -> Result<bool> {
    match command {
        ProgCommand::List(args) => list::run(args),
        ProgCommand::Disasm(args) => disasm::run(args),
        ProgCommand::Verify(args) => verify::run(args),
        ProgCommand::Run(args) => run::run(args),
        ProgCommand::Profile(args) => profile::run(args),
        ProgCommand::Load(args) => load::run(args),
        ProgCommand::Attach(args) => attach::run(args),
        ProgCommand::Detach(args) => attach::detach(args),
        ProgCommand::Status(args) => status::run(args),
        ProgCommand::Dump(args) => maps::run(args),
        ProgCommand::Replay(args) => replay::run(args),
    }
}

/// Writes to standard output. Whoever reads it may stop before the end.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Writes a line of JSON to standard output.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&(serde_json::to_string(value)? + "\n"))
}
