//! The `squalus` command.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use squalus::{bench, demo, prog, serve};

/// Layer 4 load balancer whose XDP program runs in the kernel or in userspace.
#[derive(Parser)]
#[command(name = "squalus", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Balance on an interface, controlled over katran's gRPC service.
    #[command(disable_help_flag = true)]
    Serve {
        /// The flags of katran_server_grpc and squalus' own; `squalus serve --help` lists them.
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "FLAG"
        )]
        flags: Vec<OsString>,
    },
    /// The whole path on this machine: client, balancer and reals as hosts; kernel and userspace side by side.
    Demo(demo::DemoArgs),
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
    squalus::log_to_stderr();
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("squalus: {}", squalus::explain(&error));
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> Result<bool> {
    match cli.command {
        Command::Serve { flags } => serve::main("squalus serve", flags),
        Command::Demo(args) => demo::run(&args),
        Command::Prog { command } => prog::run(&command),
        Command::Bench { command } => bench::run(&command).map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
