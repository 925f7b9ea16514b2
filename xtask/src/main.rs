//! Project chores: everything that CI does, and the building of the BPF objects.
#![forbid(unsafe_code)]

mod aarch64;
mod bpf;
mod layers;
mod tally;

use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

/// Project chores.
#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// All that CI runs: format, lints, layers, tests, documentation, BPF objects.
    Ci {
        /// First installs what building the BPF objects needs (Debian packages and bpf-linker; needs root).
        #[arg(long)]
        install: bool,
    },
    /// All tests.
    Test {
        /// Arguments for `cargo test`, e.g. `-p squalus-maps`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The engine's tests as aarch64 code, under emulation on other machines (half an hour); says what was skipped.
    TestAarch64 {
        /// Arguments for `cargo test`, e.g. `-p squalus-jit`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Builds the BPF programs into bpf/objects.
    Bpf {
        /// Builds elsewhere and compares with the committed objects instead.
        #[arg(long)]
        check: bool,
        /// First installs what the build needs (Debian packages and bpf-linker; needs root).
        #[arg(long)]
        install: bool,
    },
    /// Checks that dependencies between crates point one way and that unsafe code stays where it belongs.
    Layers,
    /// Format, lints and documentation without tests.
    Lint,
}

fn main() -> ExitCode {
    match chore(Cli::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn chore(chore: Chore) -> Result<()> {
    match chore {
        Chore::Ci { install } => {
            lint()?;
            bpf::run(true, install)?;
            test(&[])
        }
        Chore::Test { args } => test(&args),
        Chore::TestAarch64 { args } => aarch64::test(&args),
        Chore::Bpf { check, install } => bpf::run(check, install),
        Chore::Layers => layers::check(&root()?),
        Chore::Lint => lint(),
    }
}

fn lint() -> Result<()> {
    layers::check(&root()?)?;
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        &[],
    )?;
    bpf::lint()?;
    cargo(
        &["doc", "--workspace", "--no-deps"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )
}

fn test(args: &[String]) -> Result<()> {
    let mut all = vec!["test"];
    if args.is_empty() {
        all.push("--workspace");
    }
    all.extend(args.iter().map(String::as_str));
    if args.is_empty() {
        // What was skipped, and how much was compared, must be seen of tests that pass too.
        all.extend(["--", "--show-output"]);
    }
    cargo(&all, &[])?;
    if args.is_empty() {
        cargo(&MODELS, &[])?;
        bpf::test()
    } else {
        Ok(())
    }
}

/// The models of the maps' lock-free structures, which need a build of their own.
const MODELS: [&str; 9] = [
    "test",
    "-p",
    "squalus-maps",
    "--features",
    "model",
    "--lib",
    "models",
    "--",
    "--show-output",
];

pub(crate) fn cargo(args: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    run(&mut cargo_command(args, environment)?)
}

/// Cargo in the repository's root, announced.
fn cargo_command(args: &[&str], environment: &[(&str, &str)]) -> Result<Command> {
    eprintln!("+ cargo {}", args.join(" "));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(args)
        .current_dir(root()?)
        .envs(environment.iter().copied());
    Ok(command)
}

/// Runs a command to its end; anything but success is an error.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let status = command
        .status()
        .with_context(|| format!("cannot start {name}"))?;
    ensure_success(&name, status)
}

fn ensure_success(name: &str, status: ExitStatus) -> Result<()> {
    ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}

/// The root of the repository.
fn root() -> Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .map(PathBuf::from)
        .context("xtask lies one folder below the root")
}
