//! Real objects: compiled and interpreted alike, every fact true, nearly every access proved.
//!
//! More objects than the repository's own can be given by naming their directory in
//! `SQUALUS_KATRAN_OBJECTS`.

mod common;

use std::path::{Path, PathBuf};

use common::{Loaded, load, run_interp, run_jit};
use squalus_analysis::analyse;
use squalus_jit::Options;

fn objects() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf/objects");
    let mut directories = vec![own];
    match std::env::var_os("SQUALUS_KATRAN_OBJECTS") {
        Some(directory) => directories.push(directory.into()),
        None => eprintln!("SKIPPED katran's objects: SQUALUS_KATRAN_OBJECTS is not set"),
    }
    let mut paths = Vec::new();
    for directory in directories {
        let entries = std::fs::read_dir(&directory).expect("the directory can be read");
        let entries = entries.map(|entry| entry.expect("the directory can be read").path());
        paths.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "o")));
    }
    paths.sort();
    assert!(!paths.is_empty(), "the repository holds its objects");
    paths
}

/// Loads an object; `None` if it needs maps that only the kernel has.
fn open(path: &Path) -> Option<Loaded> {
    let bytes = std::fs::read(path).expect("the object can be read");
    let needs_events = bytes.windows(10).any(|part| part == b"event_pipe");
    if needs_events {
        eprintln!("SKIPPED {}: it writes perf events", path.display());
        return None;
    }
    Some(load(&bytes, 2))
}

/// Ethernet frames with every header a balancer looks at, cut at every length.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (ether_type, protocol) in [
        (0x0800u16, 1u8),
        (0x0800, 4),
        (0x0800, 6),
        (0x0800, 17),
        (0x0800, 41),
        (0x86dd, 6),
        (0x86dd, 17),
        (0x86dd, 41),
        (0x86dd, 58),
        (0x0806, 0),
    ] {
        for fill in [0u8, 8, 0xc0] {
            let mut frame = [fill; 130];
            frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
            if ether_type == 0x86dd {
                (frame[14], frame[20]) = (0x60, protocol);
            } else {
                (frame[14], frame[23]) = (0x45, protocol);
                frame[20..22].fill(0);
            }
            frames.extend((14..=130).step_by(7).map(|len| frame[..len].to_vec()));
        }
    }
    frames
}

#[test]
fn objects_run_alike_and_all_facts_are_true() {
    for path in objects() {
        let (Some(interp), Some(plain), Some(checked)) = (open(&path), open(&path), open(&path))
        else {
            continue;
        };
        let fast = common::compile_all(&plain, Options::default());
        let check_facts = Options {
            check_facts: true,
            ..Options::default()
        };
        let slow = common::compile_all(&checked, check_facts);
        for frame in frames() {
            let expected = run_interp(&interp, &frame);
            assert!(expected.result.is_ok(), "{}: {expected:?}", path.display());
            for (loaded, programs) in [(&plain, &fast), (&checked, &slow)] {
                let ran = run_jit(loaded, programs, &frame);
                assert_eq!(ran, expected, "{}: {frame:02x?}", path.display());
            }
        }
    }
}

#[test]
fn nearly_all_accesses_are_proved() {
    for path in objects() {
        let Some(loaded) = open(&path) else { continue };
        for program in &loaded.programs {
            let facts = analyse(program).expect("the program can be right");
            let counts = facts.counts(program);
            eprintln!("{} {}: {counts:?}", path.display(), program.name());
            assert!(counts.checked * 50 <= counts.proved, "{counts:?}");
            assert!(
                counts.checked_calls * 20 <= counts.proved_calls,
                "{counts:?}"
            );
        }
    }
}
