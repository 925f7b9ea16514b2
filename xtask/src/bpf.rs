//! Building the BPF objects, and checking that the committed ones match their source.
//!
//! Most users have no BPF toolchain, so the objects are committed; the check keeps them honest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::root;

/// Version of bpf-linker whose output the committed objects are.
const BPF_LINKER: &str = "0.10.3";

/// Builds into bpf/objects, or with `check` elsewhere to compare.
pub fn run_build(output: &Path) -> Result<()> {
    fs::create_dir_all(output)?;
    let mut command = Command::new(root()?.join("bpf/build"));
    command.arg(output).env("PATH", path_with_linker()?);
    crate::run(&mut command)
}

/// The chore.
pub fn run(check: bool, install: bool) -> Result<()> {
    if install {
        install_tools()?;
    }
    let committed = root()?.join("bpf/objects");
    if !check {
        return run_build(&committed);
    }
    let fresh = root()?.join("target/bpf-check");
    run_build(&fresh)?;
    compare(&committed, &fresh)
}

/// Lints of the BPF programs, which need no BPF toolchain.
pub fn lint() -> Result<()> {
    crate::cargo(
        &["fmt", "--all", "--check", "--manifest-path", MANIFEST],
        &[],
    )?;
    let host = host()?;
    let target = ["--target", host.as_str()];
    let clippy = ["clippy", "--manifest-path", MANIFEST, "--workspace"];
    crate::cargo(
        &[&clippy[..], &target, &["--", "-D", "warnings"]].concat(),
        &[],
    )
}

/// Tests of what the BPF programs share, on the host.
pub fn test() -> Result<()> {
    let host = host()?;
    crate::cargo(
        &[
            "test",
            "--manifest-path",
            MANIFEST,
            "-p",
            "squalus-bpf-net",
            "--target",
            &host,
        ],
        &[],
    )
}

/// The workspace of the BPF programs.
const MANIFEST: &str = "bpf/Cargo.toml";

/// The host's target triple: the BPF workspace builds for BPF unless told otherwise.
fn host() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

fn compare(committed: &Path, fresh: &Path) -> Result<()> {
    let mut compared = 0;
    for entry in fs::read_dir(fresh)? {
        let name = entry?.file_name();
        if Path::new(&name).extension().is_none_or(|e| e != "o") {
            continue;
        }
        let old = fs::read(committed.join(&name)).with_context(|| {
            format!(
                "bpf/objects/{} is not committed: run `cargo xtask bpf`",
                name.display()
            )
        })?;
        if old != fs::read(fresh.join(&name))? {
            bail!(
                "bpf/objects/{} does not match its source: run `cargo xtask bpf`",
                name.display()
            );
        }
        compared += 1;
    }
    if compared == 0 {
        bail!("the build made no objects");
    }
    eprintln!("{compared} BPF objects match their source");
    Ok(())
}

/// Debian's packages of a Rust compiler with a prebuilt `core` for BPF, and bpf-linker.
fn install_tools() -> Result<()> {
    run_command("apt-get", &["update", "-q"])?;
    let packages = ["rustc-web", "libstd-rust-web-dev-bpf"];
    run_command(
        "apt-get",
        &[
            &["install", "-y", "-q", "--no-install-recommends"][..],
            &packages,
        ]
        .concat(),
    )?;
    let tools = tools()?;
    let wanted = tools.join("bin/bpf-linker");
    if !wanted.is_file() {
        let into = tools.display().to_string();
        run_command(
            "cargo",
            &[
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--locked",
                "--root",
                &into,
            ],
        )?;
    }
    Ok(())
}

fn run_command(program: &str, args: &[&str]) -> Result<()> {
    crate::run(Command::new(program).args(args))
}

/// Where the chore installs build tools.
fn tools() -> Result<PathBuf> {
    Ok(root()?.join("target/tools"))
}

fn path_with_linker() -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(tools()?.join("bin")).chain(std::env::split_paths(&path));
    std::env::join_paths(all).context("PATH has an invalid entry")
}
