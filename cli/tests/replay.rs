//! Recorded katran, packet by packet, on every engine.
//!
//! Recordings are data that stays outside the repository: in `$SQUALUS_KATRAN_CORPUS`, or in
//! `../shared/katran-corpus` beside it. Without them these tests say so and check nothing. katran's own
//! objects, if there are any, are taken from `$SQUALUS_KATRAN_OBJECTS`.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn recording(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SQUALUS_KATRAN_CORPUS");
    let folder = folder.map_or_else(|| root().join("../shared/katran-corpus"), PathBuf::from);
    let file = folder.join(format!("{name}.json.gz"));
    if !file.is_file() {
        eprintln!(
            "SKIPPED: no recording {} (set SQUALUS_KATRAN_CORPUS to the folder)",
            file.display()
        );
        return None;
    }
    Some(file)
}

fn may_use_the_kernel() -> bool {
    let root = std::fs::metadata("/proc/self")
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if !root {
        eprintln!("SKIPPED: the kernel engine needs root");
    }
    root
}

/// Replays a recording; the exit code and the whole output.
fn replay(recording: &Path, engine: &str, object: Option<&Path>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squalus"));
    command
        .args(["prog", "replay"])
        .arg(recording)
        .args(["--engine", engine]);
    if let Some(object) = object {
        command.arg("--object").arg(object);
    }
    let output = command.output().expect("the binary of this package starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

fn assert_all_match(engine: &str, object: Option<&Path>) {
    let Some(recording) = recording("ipip") else {
        return;
    };
    let (code, text) = replay(&recording, engine, object);
    assert!(text.trim_end().ends_with("matched 1500 of 1500"), "{text}");
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn our_object_answers_as_recorded_in_the_kernel() {
    if may_use_the_kernel() {
        assert_all_match("kernel", None);
    }
}

#[test]
fn our_object_answers_as_recorded_in_the_interpreter() {
    assert_all_match("interp", None);
}

#[test]
fn our_object_answers_as_recorded_when_compiled() {
    assert_all_match("jit", None);
}

#[test]
fn katrans_object_answers_as_recorded_on_every_engine() {
    let Some(folder) = std::env::var_os("SQUALUS_KATRAN_OBJECTS") else {
        eprintln!(
            "SKIPPED: SQUALUS_KATRAN_OBJECTS names no folder with katran's objects (ipip.bpf.o)"
        );
        return;
    };
    let object = Path::new(&folder).join("ipip.bpf.o");
    for engine in ["interp", "jit", "kernel"] {
        if engine != "kernel" || may_use_the_kernel() {
            assert_all_match(engine, Some(&object));
        }
    }
}

#[test]
fn a_difference_is_counted_shown_and_fails() {
    let Some(file) = recording("ipip") else {
        return;
    };
    let mut text = String::new();
    let bytes = std::fs::read(file).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text)
        .unwrap();
    let altered = text.replacen("\"return\": \"XDP_TX\"", "\"return\": \"XDP_DROP\"", 1);
    let altered = if altered == text {
        text.replacen("\"return\":\"XDP_TX\"", "\"return\":\"XDP_DROP\"", 1)
    } else {
        altered
    };
    assert_ne!(altered, text);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("altered.json");
    std::fs::write(&path, altered).unwrap();
    let (code, output) = replay(&path, "jit", None);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("expected XDP_DROP"), "{output}");
    assert!(
        output.trim_end().ends_with("matched 1499 of 1500"),
        "{output}"
    );
    let json = Command::new(env!("CARGO_BIN_EXE_squalus"))
        .args(["prog", "replay", "-j"])
        .arg(&path)
        .output()
        .expect("the binary of this package starts");
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(report["frames"]["matched"], 1499, "{report}");
    assert!(
        report["mismatches"][0]
            .to_string()
            .contains("expected XDP_DROP")
    );
}

#[test]
fn what_is_no_recording_is_refused() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-recording.json");
    std::fs::write(&path, "{\"phases\": 1}").unwrap();
    let (code, output) = replay(&path, "interp", None);
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("is not a recording"), "{output}");
}
