//! `squalus prog load`, `attach`, `detach`, `status` and `dump`, in the kernel and in userspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{FAR_END, INTERFACE, Net, Outcome, SQUALUS, wait_until};

/// An object of the kernel engine's tests.
fn object(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ebpf/kernel/tests/objects");
    folder.join(name).to_str().unwrap().to_owned()
}

/// A bpf file system of one test's own.
struct BpfFs(PathBuf);

impl BpfFs {
    fn mount(test: &str) -> BpfFs {
        let path = std::env::temp_dir().join(format!("{test}-bpf-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&path)
            .status();
        assert!(mount.unwrap().success());
        BpfFs(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        if unmounted.is_ok_and(|status| status.success()) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }
}

/// A namespace with a cable, and a place for what stays.
struct Bench {
    net: Net,
    bpffs: BpfFs,
}

impl Bench {
    fn new(test: &str) -> Option<Bench> {
        Some(Bench {
            net: Net::new(test)?,
            bpffs: BpfFs::mount(test),
        })
    }

    /// `squalus prog` with a place of its own.
    fn prog(&self, args: &[&str]) -> Outcome {
        let place = self.bpffs.file("own");
        let all = [&["prog"], args, &["--bpffs", &place]].concat();
        self.net.run(SQUALUS, &all)
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let outcome = self.prog(&[args, &["-j"]].concat());
        outcome.expect(0, &[]);
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {outcome:#?}"))
    }

    /// The program of an interface, as `status` shows it.
    #[track_caller]
    fn status(&self, interface: &str) -> Value {
        let mut rows = self.json(&["status", interface]);
        rows[0]["program"].take()
    }
}

#[test]
fn an_attached_program_stays_until_it_is_detached() {
    let Some(bench) = Bench::new("sq-e2e-attach") else {
        return;
    };
    let engine = object("engine.o");
    let attached = bench.json(&["attach", INTERFACE, &engine, "--prog", "count"]);
    assert_eq!(
        (&attached["ifname"], &attached["mode"]),
        (&INTERFACE.into(), &"native".into())
    );
    let status = bench.status(INTERFACE);
    assert_eq!(status["id"], attached["id"]);
    assert_eq!(status["tag"], attached["tag"]);
    assert_eq!(
        (&status["name"], &status["ours"]),
        (&"count".into(), &true.into())
    );
    let outcome = bench.prog(&["status"]);
    outcome.expect(0, &[]);
    let row = outcome
        .stdout
        .lines()
        .find(|line| line.starts_with(INTERFACE))
        .unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    let id = status["id"].to_string();
    let expected = [
        INTERFACE,
        "native",
        &id,
        "count",
        status["tag"].as_str().unwrap(),
        "squalus",
    ];
    assert_eq!(words[..6], expected);
    assert!(
        outcome
            .stdout
            .lines()
            .any(|line| line.split_whitespace().eq([FAR_END, "-"]))
    );

    // Its maps can be looked at, with types; other programs are told who is there.
    let maps = bench.json_of(&["dump", "--interface", INTERFACE, "--map", ".rodata"]);
    let verdict = &maps[0]["elements"][0]["formatted"]["value"][".rodata"][0]["verdict"];
    assert_eq!(*verdict, 2);
    let said = [
        &*format!("id {id} `count`"),
        "squalus prog detach sq0",
        "--replace",
    ];
    bench
        .prog(&["attach", INTERFACE, &engine, "--prog", "push"])
        .expect(2, &said);

    let replaced = bench.json(&["attach", INTERFACE, &engine, "--prog", "push", "--force"]);
    assert_eq!(replaced["replaced"]["id"], attached["id"]);
    let skb = [
        "attach",
        INTERFACE,
        &engine,
        "--prog",
        "cut",
        "--replace",
        "--mode",
        "SKB",
    ];
    assert_eq!(bench.json(&skb)["mode"], "skb");
    assert_eq!(bench.net.attached().as_deref(), Some("cut"));
    bench
        .prog(&["detach", INTERFACE, "--id", "1"])
        .expect(2, &["is another", "--all"]);
    bench.prog(&["detach", INTERFACE]).expect(0, &[]);
    assert_eq!(
        (bench.net.attached(), bench.status(INTERFACE)),
        (None, Value::Null)
    );
    bench
        .prog(&["detach", INTERFACE])
        .expect(2, &["has no XDP program"]);
}

impl Bench {
    /// Of a command that knows no place.
    #[track_caller]
    fn json_of(&self, args: &[&str]) -> Value {
        let outcome = self.net.run(SQUALUS, &[&["prog"], args, &["-j"]].concat());
        outcome.expect(0, &[]);
        serde_json::from_str(&outcome.stdout).unwrap()
    }
}

#[test]
fn programs_of_others_are_shown_and_spared() {
    let Some(bench) = Bench::new("sq-e2e-others") else {
        return;
    };
    let engine = object("engine.o");
    let place = ["--bpffs", &bench.bpffs.file("others")];
    let attach = ["prog", "attach", INTERFACE, &engine, "--prog", "count"];
    bench
        .net
        .run(SQUALUS, &[&attach[..], &place].concat())
        .expect(0, &[]);
    let status = bench.status(INTERFACE);
    assert_eq!(
        (&status["holder"], &status["ours"]),
        (&"link".into(), &false.into())
    );
    bench
        .prog(&["detach", INTERFACE])
        .expect(2, &["of somebody else", "`--all`"]);
    assert_eq!(bench.json(&["detach", INTERFACE, "--all"])["name"], "count");
    assert_eq!(bench.net.attached(), None);
}

#[test]
fn attaching_says_what_hinders_it() {
    let Some(bench) = Bench::new("sq-e2e-hindered") else {
        return;
    };
    let (engine, refused) = (object("engine.o"), object("refused.o"));
    let attach = |args: &[&str], said: &[&str]| {
        bench.prog(&[&["attach"], args].concat()).expect(2, said);
        assert_eq!(bench.net.attached(), None);
    };
    attach(
        &["sqnone", &engine],
        &["no interface `sqnone`", INTERFACE, FAR_END],
    );
    attach(&[INTERFACE, &engine], &["--prog", "count, push"]);
    attach(
        &[INTERFACE, &engine, "--prog", "nothing"],
        &["`nothing`", "count"],
    );
    attach(
        &[INTERFACE, &refused],
        &["refused.c:14", "RUST_LOG=squalus_kernel=debug"],
    );
    let leaving = ["--prog", "leaving"];
    attach(
        &[&[INTERFACE, &object("features.o")], &leaving[..]].concat(),
        &["device or CPU maps"],
    );
    let hardware = ["--prog", "count", "--mode", "hw"];
    attach(
        &[&[INTERFACE, &engine], &hardware[..]].concat(),
        &["hardware"],
    );
    let seconds = ["--prog", "count", "--seconds", "1"];
    attach(
        &[&[INTERFACE, &engine], &seconds[..]].concat(),
        &["--engine jit"],
    );
    let nowhere = std::env::temp_dir().join("sq-no-bpffs");
    let nowhere = [
        "prog", "attach", INTERFACE, &engine, "--prog", "count", "--bpffs",
    ]
    .into_iter()
    .chain(nowhere.to_str());
    let outcome = bench.net.run(SQUALUS, &nowhere.collect::<Vec<_>>());
    outcome.expect(2, &["not in a bpf file system"]);
    assert_eq!(bench.net.attached(), None);
    // Without rights: which are missing.
    let nobody = [
        "--reuid=65534",
        "--clear-groups",
        SQUALUS,
        "prog",
        "load",
        &engine,
    ];
    let outcome = bench.net.run("setpriv", &nobody);
    outcome.expect(2, &["lacks CAP_BPF"]);
}

#[test]
fn loaded_programs_are_pinned_with_their_maps() {
    let Some(bench) = Bench::new("sq-e2e-load") else {
        return;
    };
    let engine = object("engine.o");
    let outcome = bench.prog(&["load", &engine]);
    outcome.expect(0, &["not pinned"]);
    assert_eq!(outcome.stdout.lines().count(), 6);
    let pin = bench.bpffs.file("kept");
    let loaded = bench.json(&[
        "load", &engine, "--prog", "count", "--prog", "jump", "--pin", &pin,
    ]);
    let names = |key: &str| {
        let rows = loaded[key].as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("programs"), ["count", "jump"]);
    assert!(names("maps").contains(&"a_hash_with_a_long_name".to_owned()));
    let dumps = bench.json_of(&["dump", "--pinned", &pin]);
    let dumped = |name: &str| {
        dumps
            .as_array()
            .unwrap()
            .iter()
            .find(|map| map["name"] == name)
    };
    assert_eq!(
        dumped(".data").unwrap()["elements"][0]["formatted"]["value"][".data"][0]["runs"],
        7
    );
    // The kernel cuts names.
    assert_eq!(
        dumped("a_hash_with_a_l").unwrap()["elements"],
        Value::Array(vec![])
    );
    let id = loaded["maps"][0]["id"].to_string();
    let outcome = bench.net.run(SQUALUS, &["prog", "dump", "--id", &id]);
    outcome.expect(0, &[]);
    assert!(
        outcome.stdout.ends_with("Found 0 elements\n"),
        "{outcome:#?}"
    );
    bench
        .prog(&["load", &engine, "--prog", "count", "--pin", &pin])
        .expect(2, &["exists"]);
}

#[test]
fn a_program_runs_on_our_engine_in_the_foreground() {
    let Some(bench) = Bench::new("sq-e2e-foreground") else {
        return;
    };
    let engine = object("engine.o");
    let pings = || {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0));
        // Anything that makes the far end send frames.
        socket.and_then(|socket| {
            socket.set_broadcast(true)?;
            socket.send_to(b"frame", ("10.9.9.255", 9))
        })
    };
    let address = [
        "addr",
        "add",
        "10.9.9.1/24",
        "broadcast",
        "10.9.9.255",
        "dev",
        FAR_END,
    ];
    bench.net.run("ip", &address).expect(0, &[]);
    for (engine_name, io) in [("jit", "afxdp"), ("interp", "packet")] {
        let args = [
            "prog", "attach", INTERFACE, &engine, "--prog", "count", "-j",
        ];
        let how = ["--engine", engine_name, "--io", io, "--interval", "0.05"];
        let mut running = bench.net.spawn(SQUALUS, &[&args[..], &how].concat());
        running.wait_for_stderr(INTERFACE);
        let sent = wait_until(|| {
            bench.net.namespace.run(pings).unwrap().ok()?;
            running.stdout_has("\"XDP_PASS\":").then_some(())
        });
        assert!(sent.is_some(), "no frame came");
        let outcome = running.end(Signal::INT);
        outcome.expect(0, &[]);
        let last: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
        assert!(last["verdicts"]["XDP_PASS"].as_u64() > Some(0), "{last}");
        assert_eq!(last["engine"], engine_name);
        assert_eq!(bench.net.attached(), None);
    }
    let replace = [
        "attach",
        INTERFACE,
        &engine,
        "--prog",
        "count",
        "--engine",
        "jit",
        "--replace",
    ];
    bench.prog(&replace).expect(2, &["--engine kernel"]);
}
