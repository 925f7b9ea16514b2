//! The engine's tests as aarch64 code: built with Debian's cross compiler and run by qemu in user mode.
//!
//! On an aarch64 machine they are simply run. In the end it says what ran, and what was skipped for want of what the
//! emulator has not: it has no bpf(2), so that nothing is compared with the kernel. Nothing else is left out or smaller:
//! what is emulated is built optimized instead.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tally::cargo_test;

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
/// How cargo builds what is emulated.
const PROFILE: &str = "emulated";
/// Where Debian's cross packages put the libraries of the other machine.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// What makes code, and what that code uses.
const PACKAGES: &[&str] = &[
    "squalus-isa",
    "squalus-object",
    "squalus-maps",
    "squalus-runtime",
    "squalus-analysis",
    "squalus-interp",
    "squalus-ssa",
    "squalus-jit",
    "squalus-vm",
    "squalus-conformance",
];

/// Runs `cargo test` with `args`, or on all packages that make or use native code.
pub fn test(args: &[String]) -> Result<()> {
    let native = cfg!(target_arch = "aarch64");
    let mut all = vec!["test", "--target", TARGET, "--no-fail-fast"];
    if !native {
        all.extend(["--profile", PROFILE]);
    }
    if args.is_empty() {
        all.extend(PACKAGES.iter().flat_map(|package| ["-p", package]));
    }
    all.extend(args.iter().map(String::as_str));
    if !all.contains(&"--") {
        all.push("--");
    }
    // What is skipped must be seen of tests that pass, too.
    all.push("--show-output");
    if native {
        return cargo_test(&all, &[]);
    }
    let missing = missing()?;
    if !missing.is_empty() {
        bail!(
            "to build and run aarch64 code, first:\n  {}",
            missing.join("\n  ")
        );
    }
    let runner = format!("{EMULATOR} -L {LIBRARIES}");
    let environment = [
        ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER),
        ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", &runner),
        // The emulator has no bpf(2), also for root.
        ("SQUALUS_ENGINES", "interp,jit"),
    ];
    cargo_test(&all, &environment)
}

/// Commands that install what is missing.
fn missing() -> Result<Vec<String>> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    let output = output.context("cannot start rustc")?;
    let sysroot = String::from_utf8_lossy(&output.stdout);
    let mut missing = Vec::new();
    if !Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(TARGET)
        .is_dir()
    {
        missing.push(format!("rustup target add {TARGET}"));
    }
    let packages = [
        (starts(LINKER), "gcc-aarch64-linux-gnu"),
        (
            Path::new(LIBRARIES).join("lib/libc.so.6").exists(),
            "libc6-dev-arm64-cross",
        ),
        (starts(EMULATOR), "qemu-user"),
    ];
    let packages: Vec<&str> = packages
        .iter()
        .filter(|(there, _)| !there)
        .map(|(_, name)| *name)
        .collect();
    if !packages.is_empty() {
        missing.push(format!("apt-get install {}", packages.join(" ")));
    }
    Ok(missing)
}

fn starts(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}
