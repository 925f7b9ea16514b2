//! The architecture as a check: which crate may depend on which, and where `unsafe` may stand.
//!
//! ARCHITECTURE.md prints the same rules as invariants; this makes them hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// For each folder, the folders and crates its crates may depend on (normal dependencies).
const ALLOWED: &[(&str, &[&str])] = &[
    ("ebpf/isa", &[]),
    ("ebpf/engine", &["ebpf/isa"]),
    ("ebpf/object", &["ebpf/isa"]),
    ("ebpf/maps", &["ebpf/isa"]),
    ("ebpf/runtime", &["ebpf/isa", "ebpf/maps"]),
    ("ebpf/analysis", &["ebpf/isa", "ebpf/maps", "ebpf/runtime"]),
    (
        "ebpf/interp",
        &["ebpf/isa", "ebpf/maps", "ebpf/runtime", "ebpf/analysis"],
    ),
    (
        "ebpf/ssa",
        &["ebpf/isa", "ebpf/maps", "ebpf/runtime", "ebpf/analysis"],
    ),
    (
        "ebpf/jit",
        &[
            "ebpf/isa",
            "ebpf/maps",
            "ebpf/runtime",
            "ebpf/analysis",
            "ebpf/ssa",
        ],
    ),
    ("ebpf/vm", &["ebpf"]),
    ("ebpf/fib", &["ebpf/isa", "ebpf/runtime"]),
    ("ebpf/kernel", &["ebpf/isa", "ebpf/engine", "ebpf/object"]),
    ("io/port", &[]),
    ("io/afxdp", &["io/port"]),
    ("io/packet", &["io/port"]),
    ("forward", &["ebpf", "io"]),
    ("lb/abi", &[]),
    ("lb/maglev", &[]),
    ("lb/core", &["lb/abi", "lb/maglev"]),
    (
        "lb/dataplane",
        &["lb/abi", "lb/core", "ebpf", "io", "forward"],
    ),
    ("lb/proto", &[]),
    ("lb/server", &["lb", "ebpf/engine"]),
    ("bench", &["ebpf", "lb", "testing/testkit", "testing/rbpf"]),
    (
        "cli",
        &["ebpf", "io", "forward", "lb", "bench", "testing/testkit"],
    ),
    ("testing/testkit", &["io"]),
    (
        "testing/rbpf",
        &["ebpf/isa", "ebpf/runtime", "ebpf/analysis"],
    ),
    (
        "testing/conformance",
        &["ebpf", "lb/abi", "testing/testkit"],
    ),
    ("xtask", &[]),
];

/// Crates that exist for unsafe code; all others forbid it.
const UNSAFE: &[&str] = &[
    "ebpf/maps",
    "ebpf/runtime",
    "ebpf/interp",
    "ebpf/jit",
    "ebpf/vm",
    "ebpf/kernel",
    "io/port",
    "io/afxdp",
    "io/packet",
    "testing/testkit",
    "testing/rbpf",
];

/// Checks all crates of the workspace.
pub fn check(root: &Path) -> Result<()> {
    let crates = crates(root)?;
    let mut faults = Vec::new();
    for (folder, manifest) in &crates {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == folder) else {
            faults.push(format!(
                "{folder} is not in the table of layers (xtask/src/layers.rs)"
            ));
            continue;
        };
        for dependency in dependencies(manifest, &crates) {
            if !allowed
                .iter()
                .any(|a| dependency == *a || dependency.starts_with(&format!("{a}/")))
            {
                faults.push(format!("{folder} must not depend on {dependency}"));
            }
        }
        faults.extend(unsafe_fault(root, folder)?);
    }
    if !faults.is_empty() {
        bail!("the layers do not hold:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// Folder to manifest text of every crate.
fn crates(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for group in ["ebpf", "io", "lb", "testing", "."] {
        let folder = root.join(group);
        for entry in
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
        {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let manifest = entry.path().join("Cargo.toml");
            if manifest.is_file() && !matches!(name.as_str(), "bpf" | "fuzz") {
                let path = if group == "." {
                    name
                } else {
                    format!("{group}/{name}")
                };
                found.insert(path, fs::read_to_string(manifest)?);
            }
        }
    }
    Ok(found)
}

/// Folders of the workspace crates among a manifest's normal dependencies.
fn dependencies(manifest: &str, crates: &BTreeMap<String, String>) -> BTreeSet<String> {
    let section = manifest
        .split("\n[dependencies]")
        .nth(1)
        .unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let folder_of = |package: &str| {
        let wanted = format!("name = \"{package}\"");
        crates
            .iter()
            .find(|(_, text)| text.lines().any(|line| line == wanted))
            .map(|(folder, _)| folder.clone())
    };
    section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| name.starts_with("squalus"))
        .filter_map(folder_of)
        .collect()
}

fn unsafe_fault(root: &Path, folder: &str) -> Result<Option<String>> {
    if UNSAFE.contains(&folder) {
        return Ok(None);
    }
    let source = root.join(folder).join("src");
    let file = ["lib.rs", "main.rs"]
        .map(|name| source.join(name))
        .into_iter()
        .find(|path| path.is_file());
    let file = file.with_context(|| format!("{folder} has neither src/lib.rs nor src/main.rs"))?;
    let forbids = fs::read_to_string(&file)?.contains("#![forbid(unsafe_code)]");
    Ok((!forbids).then(|| format!("{} must have #![forbid(unsafe_code)]", file.display())))
}
