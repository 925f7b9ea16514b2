//! `squalus prog` on objects of this repository: what it prints, and how it ends.
//!
//! Expected output is in `golden/prog`; `SQUALUS_BLESS=1 cargo test -p squalus --test prog` writes it anew.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use squalus_port::CaptureWriter;

/// An Ethernet header and 46 zeroes, in hexadecimal.
fn zeroes() -> String {
    "00".repeat(60)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// An object by its short name: ours, this test's, or one of the loader's tests.
fn object(name: &str) -> String {
    let places = [
        root().join(format!("bpf/objects/{name}.bpf.o")),
        root().join(format!("cli/tests/prog/{name}.o")),
        root().join(format!("ebpf/object/tests/objects/{name}.o")),
    ];
    let found = places.into_iter().find(|path| path.is_file());
    let found = found.unwrap_or_else(|| panic!("there is no object {name}"));
    found.to_str().unwrap().to_owned()
}

fn temporary(name: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    path.to_str().unwrap().to_owned()
}

/// How a command ended.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

fn prog(args: &[&str]) -> Outcome {
    prog_with_input(args, b"")
}

fn prog_with_input(args: &[&str], input: &[u8]) -> Outcome {
    squalus(&[&["prog"], args].concat(), input)
}

fn squalus(args: &[&str], input: &[u8]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squalus"));
    command.args(args);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The engines there are here.
fn engines() -> Vec<&'static str> {
    let root = std::fs::metadata("/proc/self")
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if root {
        return vec!["interp", "jit", "kernel"];
    }
    eprintln!("SKIPPED: the kernel engine needs root");
    vec!["interp", "jit"]
}

#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let path = root().join("cli/tests/golden/prog").join(name);
    if std::env::var_os("SQUALUS_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs", path.display());
}

#[test]
fn objects_are_listed() {
    for name in ["decap", "maps", "btf_maps", "calls", "legacy", "sections"] {
        let outcome = prog(&["list", &object(name)]);
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
        assert_golden(&format!("list_{name}.txt"), &outcome.stdout);
    }
}

#[test]
fn listings_as_json_hold_the_same() {
    let listing = prog(&["list", "-j", &object("sections")]).json();
    let names = |key: &str| {
        let rows = listing[key].as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert!(names("programs").contains(&"fragments".to_owned()));
    let refused = ["dangling", "replacement"];
    assert_eq!(names("refused"), refused);
    let outer = prog(&["list", "--json", &object("btf_maps")]).json();
    let outer = outer["maps"].as_array().unwrap();
    let outer = outer.iter().find(|map| map["name"] == "outer").unwrap();
    assert_eq!(outer["type"], "array_of_maps");
    assert_eq!(outer["inner"]["bytes_value"], 8);
}

#[test]
fn programs_are_disassembled() {
    for name in ["decap", "maps", "calls", "data", "legacy"] {
        let outcome = prog(&["disasm", &object(name)]);
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
        assert_golden(&format!("disasm_{name}.txt"), &outcome.stdout);
    }
}

#[test]
fn one_program_is_disassembled_by_name() {
    let object = object("calls");
    let programs = prog(&["disasm", &object, "two", "-j"]).json();
    let programs = programs.as_array().unwrap();
    assert_eq!(programs.len(), 1);
    assert_eq!(programs[0]["name"], "two");
    let rows = programs[0]["instructions"].as_array().unwrap();
    let functions: Vec<&str> = rows
        .iter()
        .filter_map(|row| row["function"].as_str())
        .collect();
    assert_eq!(functions, ["two", "tick", "leaf"]);
    assert!(rows[0]["line"].as_u64().unwrap() > 1);
    let outcome = prog(&["disasm", &object, "nine"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("one, two, three"), "{outcome:#?}");
}

#[test]
fn ssa_shows_what_passes_do() {
    let object = object("loop");
    let outcome = prog(&["disasm", &object, "--ssa", "--passes", "stack,simplify"]);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert_golden("ssa_loop.txt", &outcome.stdout);
    let whole = prog(&["disasm", &object, "--ssa=simplify"]);
    assert_eq!(whole.code, Some(0), "{whole:#?}");
    assert!(whole.stdout.contains("\n-    "), "{whole:#?}");
    let only = prog(&["disasm", &object, "--ssa=simplify", "-j"]).json();
    let stages = only[0]["stages"].as_array().unwrap();
    assert_eq!(stages[0]["stage"], "build");
    let count = |stage: &Value| stage["instructions"].as_u64().unwrap();
    assert!(count(&stages[0]) > count(stages.last().unwrap()), "{only}");
    let outcome = prog(&["disasm", &object, "--ssa=outline"]);
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome
            .stderr
            .contains("there is no stage `outline`: build, ")
    );
}

#[test]
fn machine_code_stands_below_its_source_line() {
    let object = object("loop");
    let outcome = prog(&["disasm", &object, "--native", "--opcodes"]);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let (_, line) = outcome.stdout.split_once("hash = (hash ^ i)").unwrap();
    let (line, _) = line.split_once("; ./loop.c").unwrap();
    assert!(line.contains(" w3 ^= w4\n"), "{line}");
    if cfg!(target_arch = "x86_64") {
        assert!(line.contains("  imul $0x1000193"), "{line}");
    }
    let report = prog(&["disasm", &object, "--native", "-j"]).json();
    let native = report[0]["native"].as_array().unwrap();
    // A function need not begin at a line of the cache.
    let mut at = native[0]["pc"].as_u64().unwrap();
    assert!(at < 64 && at.is_multiple_of(16), "{at}");
    for inst in native {
        assert_eq!(inst["pc"].as_u64().unwrap(), at, "{inst}");
        at += inst["opcodes"].as_str().unwrap().len() as u64 / 2;
    }
    let rows = report[0]["instructions"].as_array().unwrap();
    let slots: Vec<_> = rows.iter().map(|row| &row["slot"]).collect();
    let of_some = native.iter().filter(|inst| !inst["slot"].is_null());
    assert!(of_some.clone().count() > 10);
    assert!(
        of_some
            .into_iter()
            .all(|inst| slots.contains(&&inst["slot"]))
    );
}

/// A profile of as many seconds as it takes to be seen often; `None`, and a note, where the kernel does not let us.
fn with_samples(profile: impl Fn(&str) -> Outcome) -> Option<Value> {
    for seconds in ["0.3", "3", "30"] {
        let outcome = profile(seconds);
        if outcome.stderr.contains("perf_event_paranoid") {
            eprintln!("SKIPPED: {}", outcome.stderr);
            return None;
        }
        let report = outcome.json();
        if report["samples"].as_u64() >= Some(200) {
            return Some(report);
        }
    }
    panic!("hardly a sample in 30 seconds");
}

#[test]
fn a_profile_finds_the_line_that_takes_the_time() {
    let (object, zeroes) = (object("loop"), zeroes());
    let args = ["profile", &object, "--frame", &zeroes, "-j"];
    let profile = |seconds: &str| prog(&[&args[..], &["--seconds", seconds]].concat());
    let Some(report) = with_samples(profile) else {
        return;
    };
    assert_eq!(report["verdicts"]["XDP_TX"], report["packets"]);
    let lines = report["lines"].as_array().unwrap();
    let in_loop = |line: &&Value| {
        let source = line["source"].as_str().unwrap_or_default();
        source.contains("loop.c:21") || source.contains("loop.c:22")
    };
    let percent = |line: &Value| line["percent"].as_f64().unwrap();
    let percent: f64 = lines.iter().filter(in_loop).map(percent).sum();
    assert!(percent > 80.0, "{report}");
    let once = prog(&[&args[..], &["repeat", "700"]].concat()).json();
    assert_eq!(once["packets"], 700);
}

#[test]
fn a_balancer_is_profiled_with_its_vips() {
    let args = ["bench", "profile", "tcp_v4_syn", "-j", "--seconds"];
    let profile = |seconds: &str| squalus(&[&args[..], &[seconds]].concat(), b"");
    let Some(report) = with_samples(profile) else {
        return;
    };
    // What has no VIP would be passed.
    assert_eq!(report["verdicts"]["XDP_TX"], report["packets"], "{report}");
    let lines = report["lines"].as_array().unwrap();
    let sources = lines.iter().filter_map(|line| line["source"].as_str());
    assert!(
        sources
            .clone()
            .any(|source| source.contains("balancer/src/"))
    );
}

#[test]
fn every_pass_is_in_the_documentation() {
    let text = std::fs::read_to_string(root().join("docs/optimizer.md")).unwrap();
    for pass in squalus_vm::Pass::ALL {
        assert!(text.contains(&format!("\n| `{pass}` |")), "{pass}");
    }
}

#[test]
fn passes_are_chosen_by_name() {
    let (object, zeroes) = (object("maps"), zeroes());
    for passes in ["all", "none", "stack,merge", "-simplify"] {
        let args = ["run", &object, "--frame", &zeroes, "--passes", passes];
        let outcome = prog(&args);
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
        assert!(outcome.stdout.contains("Return value: 2"), "{outcome:#?}");
    }
    let outcome = prog(&[
        "run",
        &object,
        "--frame",
        &zeroes,
        "--passes",
        "all,-outline",
    ]);
    assert_eq!(outcome.code, Some(2));
    let interpreted = ["--engine", "interp", "--passes", "none"];
    let refused = prog(&[&["run", &object, "--frame", &zeroes], &interpreted[..]].concat());
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("--passes is for compiled code"));
    for said in ["there is no pass `outline`", "\n  merge "] {
        assert!(outcome.stderr.contains(said), "{outcome:#?}");
    }
}

/// The text with the measured time replaced.
fn without_time(text: &str) -> String {
    let Some((before, rest)) = text.split_once("duration") else {
        return text.to_owned();
    };
    let (colon, rest) = rest.split_once(": ").unwrap();
    let (time, after) = rest.split_once("ns").unwrap();
    assert!(time.parse::<u64>().is_ok(), "{text}");
    format!("{before}duration{colon}: Nns{after}")
}

#[test]
fn a_run_and_its_maps_read_as_bpftools_on_every_engine() {
    let (object, zeroes) = (object("maps"), zeroes());
    let maps = "--dump-maps=entries,untyped,empty,.bss";
    for engine in engines() {
        let args = ["run", &object, "--engine", engine, "--frame", &zeroes, maps];
        let outcome = prog(&[&args[..], &["repeat", "3", "data_out", "-"]].concat());
        assert_eq!(outcome.code, Some(0), "{engine}: {outcome:#?}");
        assert_golden("run_maps.txt", &without_time(&outcome.stdout));
    }
}

#[test]
fn dumps_as_json_hold_bytes_and_types() {
    let (object, zeroes) = (object("maps"), zeroes());
    let args = ["test", "-j", &object, "fill", "--frame", &zeroes];
    let report = prog(&[&args[..], &["--dump-maps"]].concat()).json();
    assert_eq!(
        (&report["retval"], &report["verdict"]),
        (&2.into(), &"XDP_PASS".into())
    );
    assert!(report["duration"].is_u64());
    let maps = report["maps"].as_array().unwrap();
    let names: Vec<&str> = maps
        .iter()
        .map(|map| map["name"].as_str().unwrap())
        .collect();
    let filled = ["entries", "untyped", "counters", ".rodata", ".bss"];
    assert_eq!(names, filled, "maps without entries are left out");
    let entry = &maps[0]["elements"][0];
    assert_eq!(entry["key"][0], "0x7f");
    assert_eq!(entry["formatted"]["value"]["balance"], -5);
    assert_eq!(entry["formatted"]["value"]["low"], "0x5");
    assert_eq!(entry["formatted"]["value"]["name"], "one");
    let counter = &maps[2]["elements"][0];
    assert_eq!(counter["values"][0]["value"][0], "0x29");
    assert_eq!(counter["formatted"]["values"][0]["value"], 41);
}

/// IPv4 in IPv4: the whole frame, and the one inside.
fn tunnelled() -> (Vec<u8>, Vec<u8>) {
    let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let header = |protocol, len| {
        let mut header = [0; 20];
        (header[0], header[3], header[8], header[9]) = (0x45, len, 64, protocol);
        header[12..].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        header
    };
    let inner = [&header(17, 60)[..], &[7; 40]].concat();
    let outer = [&ethernet[..], &header(4, 80), &inner].concat();
    (outer, [&ethernet[..], &inner].concat())
}

#[test]
fn our_objects_answer_the_same_on_every_engine() {
    let (outer, inner) = tunnelled();
    let frame = hex::encode(&outer);
    for engine in engines() {
        let run = |name: &str| {
            let args = ["run", &object(name), "--engine", engine, "--frame", &frame];
            prog(&[&args[..], &["data_out", "-", "-j"]].concat()).json()
        };
        let decap = run("decap");
        assert_eq!(decap["verdict"], "XDP_PASS", "{engine}");
        assert_eq!(decap["data_out"], Value::from(inner.clone()), "{engine}");
        let balancer = run("balancer");
        assert_eq!(balancer["verdict"], "XDP_PASS", "{engine}: no VIP");
        assert_eq!(balancer["data_out"], Value::from(outer.clone()), "{engine}");
    }
}

#[test]
fn frames_come_from_and_go_to_files_and_pipes() {
    let (outer, inner) = tunnelled();
    let (object, input, output) = (object("decap"), temporary("in"), temporary("out"));
    std::fs::write(&input, &outer).unwrap();
    let from_file = ["run", &object, "xdpdecap", "data_in", &input];
    let outcome = prog(&[&from_file[..], &["data_out", &output]].concat());
    assert_eq!(
        without_time(&outcome.stdout),
        "Return value: 2, duration: Nns\n"
    );
    assert_eq!(std::fs::read(&output).unwrap(), inner);
    std::fs::remove_file(&output).unwrap();

    let from_pipe = ["run", &object, "data_out", &output, "data_in", "-"];
    let outcome = prog_with_input(&from_pipe, &outer);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert_eq!(std::fs::read(&output).unwrap(), inner);
}

#[test]
fn a_trap_is_explained_and_fails() {
    let (object, zeroes) = (object("trap"), zeroes());
    for engine in ["interp", "jit"] {
        let args = ["run", &object, "--engine", engine, "--frame", &zeroes];
        let outcome = prog(&args);
        assert_eq!(outcome.code, Some(1), "{outcome:#?}");
        assert_eq!(
            without_time(&outcome.stdout),
            "Return value: 0, duration: Nns\n"
        );
        assert_eq!(
            outcome.stderr,
            "program `far` trapped at instruction 1: access outside the packet \
             (./trap.c:13: return packet[2000];)\n"
        );
        let outcome = prog(&[&args[..], &["-j"]].concat());
        let trap = &outcome.json()["trap"];
        assert_eq!(
            (&trap["reason"], outcome.code),
            (&"packet_bounds".into(), Some(1))
        );
    }
    if engines().contains(&"kernel") {
        let outcome = prog(&["run", &object, "--engine", "kernel", "--frame", &zeroes]);
        assert_eq!(outcome.code, Some(2), "{outcome:#?}");
        assert!(
            outcome.stderr.contains("rejected program `far`"),
            "{outcome:#?}"
        );
    }
}

#[test]
fn a_capture_is_counted() {
    let path = temporary("frames.pcap");
    let mut writer = CaptureWriter::create(Path::new(&path)).unwrap();
    for len in [60, 2100, 10, 60, 3000] {
        writer.write(Duration::ZERO, &vec![1; len]).unwrap();
    }
    writer.flush().unwrap();
    let object = object("trap");
    for engine in ["interp", "jit"] {
        let args = ["run", &object, "--engine", engine, "--pcap", &path];
        let outcome = prog(&args);
        assert_eq!(outcome.code, Some(1), "{outcome:#?}");
        let expected = "5 frames\nXDP_ABORTED  2\nXDP_DROP     2\nduration (average): Nns\n";
        assert_eq!(without_time(&outcome.stdout), expected);
        assert!(
            outcome.stderr.contains("2 times: program `far` trapped"),
            "{outcome:#?}"
        );
        assert!(
            outcome.stderr.contains("1 frames not run: "),
            "{outcome:#?}"
        );
        let report = prog(&[&args[..], &["-j", "repeat", "2"]].concat()).json();
        assert_eq!(
            (&report["frames"], &report["refused"]),
            (&10.into(), &2.into())
        );
        assert_eq!(report["verdicts"]["XDP_DROP"], 4);
        assert_eq!(report["traps"][0]["count"], 4);
    }
    for engine in engines() {
        let args = [
            "run",
            &self::object("decap"),
            "--engine",
            engine,
            "--pcap",
            &path,
        ];
        let outcome = prog(&[&args[..], &["-j", "--dump-maps=decap_counters"]].concat());
        let report = outcome.json();
        assert_eq!(report["verdicts"]["XDP_PASS"], 4, "{engine}: {outcome:#?}");
        let total = &report["maps"][0]["elements"][0]["formatted"]["values"][0]["value"]["total"];
        assert_eq!(total, 4, "{engine}: {outcome:#?}");
    }
}

#[test]
fn what_cannot_be_run_is_refused_with_the_reason() {
    let (maps, zeroes) = (object("maps"), zeroes());
    let text = temporary("no-object");
    std::fs::write(&text, "no object").unwrap();
    let long = temporary("long-frame");
    std::fs::write(&long, vec![0; 80_000]).unwrap();
    let refusals: [(&[&str], &str); 12] = [
        (&["list", "/nowhere.o"], "cannot read the object /nowhere.o"),
        (&["list", &text], "not an eBPF object"),
        (&["disasm", &text], "not an eBPF object"),
        (&["run", &text, "--frame", &zeroes], "not an eBPF object"),
        (&["run", &maps], "nothing to run on"),
        (
            &["run", &maps, "--frame", "0x"],
            "--frame is not hexadecimal",
        ),
        (
            &["run", &maps, "--frame", "0011"],
            "shorter than an Ethernet header",
        ),
        (
            &["run", &maps, "data_in", &long],
            "test run of `fill` failed",
        ),
        (
            &["run", &maps, "data_in", "/nowhere"],
            "cannot read the frame /nowhere",
        ),
        (&["run", &maps, "none", "--frame", &zeroes], "it has: fill"),
        (
            &["run", &maps, "--frame", &zeroes, "--dump-maps=none"],
            "it has: entries",
        ),
        (&["run", &maps, "--pcap", &text], "neither pcap nor pcapng"),
    ];
    for (args, said) in refusals {
        let outcome = prog(args);
        assert_eq!(outcome.code, Some(2), "{args:?}: {outcome:#?}");
        assert_eq!(outcome.stdout, "", "{args:?}");
        assert!(outcome.stderr.contains(said), "{args:?}: {outcome:#?}");
    }
}

#[test]
fn a_program_runs_though_its_neighbour_cannot() {
    // `two` hands a callback to a helper, which userspace refuses.
    let (object, zeroes) = (object("calls"), zeroes());
    let outcome = prog(&["run", &object, "one", "--frame", &zeroes]);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
}

#[test]
fn a_program_that_does_not_load_by_itself_runs_if_named() {
    for engine in ["interp", "jit"] {
        let args = ["run", &object("pins"), "unnamed", "--engine", engine];
        let run = prog(&[&args[..], &["--frame", &zeroes()]].concat());
        assert_eq!(run.code, Some(0), "{run:#?}");
    }
}

#[test]
fn maps_of_an_object_are_shown_as_programs_find_them() {
    for name in ["data", "btf_maps"] {
        let outcome = prog(&["dump", &object(name)]);
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
        assert_golden(&format!("dump_{name}.txt"), &outcome.stdout);
    }
    let dump = prog(&["dump", "-j", &object("data"), "--map", ".rodata"]).json();
    assert_eq!(dump.as_array().unwrap().len(), 1);
    let absent = prog(&["dump", &object("data"), "--map", "nothing"]);
    assert_eq!(absent.code, Some(2), "{absent:#?}");
    assert!(absent.stderr.contains("no map `nothing`"), "{absent:#?}");
    assert_eq!(prog(&["dump"]).code, Some(2));
}

/// What `squalus prog verify` printed, with any time in place of the time it took.
fn without_times(text: &str) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        match line.split_once("analysed in ") {
            Some((before, _)) => out += &format!("{before}analysed in N ms\n"),
            None => out += line,
        }
    }
    out
}

#[test]
fn verification_tells_what_is_proved() {
    for name in ["decap", "trap", "calls"] {
        let outcome = prog(&["verify", &object(name)]);
        let text = without_times(&outcome.stdout);
        assert_golden(&format!("verify_{name}.txt"), &text);
    }
}

#[test]
fn only_strict_verification_minds_checks() {
    let ended = |args: &[&str]| prog(&[&["verify"], args].concat()).code;
    let (proved, checked) = (object("decap"), object("trap"));
    assert_eq!(ended(&[&checked]), Some(0));
    assert_eq!(ended(&["--strict", &checked]), Some(1));
    assert_eq!(ended(&["--strict", &proved, "xdpdecap"]), Some(0));
    let refused = prog(&["verify", &object("sections"), "hinted"]);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(
        refused.stdout.contains("cannot run in userspace"),
        "{refused:#?}"
    );
    let none = prog(&["verify", &proved, "absent"]);
    assert_eq!(none.code, Some(2), "{none:#?}");
    assert!(none.stderr.contains("xdpdecap"), "{none:#?}");
}

#[test]
fn verification_as_json_holds_the_same() {
    let report = prog(&["verify", "-j", &object("trap")]).json();
    let program = &report[0];
    assert_eq!(program["program"], "far");
    assert_eq!(program["accesses"]["proved"], 1);
    assert_eq!(program["accesses"]["checked"], 1);
    let check = &program["checks"][0];
    assert_eq!(check["slot"], 1);
    assert_eq!(check["registers"][0]["register"], "r1");
    assert_eq!(check["registers"][0]["holds"], "data");
    assert_eq!(check["source"], "./trap.c:13: return packet[2000];");
    assert!(check["reason"].as_str().unwrap().contains("data + 2001"));
}
