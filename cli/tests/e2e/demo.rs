//! `squalus demo`, whole, ended in the middle, and without root.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Outcome, Running, SQUALUS, Scratch, interfaces, may_run, object, wait_until};

/// As short as it gets.
const SHORT: [&str; 6] = ["demo", "--json", "--packets", "10", "--requests", "3"];
const NOBODY: u32 = 65534;

/// One demo at a time: they would pass together too, but slowly.
static ONE: Mutex<()> = Mutex::new(());

fn demo(program: &str, prepare: impl FnOnce(&mut Command)) -> Running {
    let mut command = Command::new(program);
    command.args(SHORT);
    prepare(&mut command);
    Running::start(command, spawn)
}

/// A demo that Ctrl-C ends even if the tests run in the background of a shell, which has them ignore it.
fn demo_in_the_foreground() -> Running {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", SQUALUS]).args(SHORT);
    Running::start(command, spawn)
}

/// Starts a program. One that was just copied may be busy: a test on another thread that forked meanwhile holds
/// it open for writing until it executes a program of its own.
fn spawn(command: &mut Command) -> Child {
    for _ in 0..1000 {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome.unwrap(),
        }
    }
    panic!("{command:?} stays busy");
}

/// The report of a demo that passed with these backends.
#[track_caller]
fn passed(outcome: &Outcome, backends: &[&str]) -> Value {
    assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["passed"], true, "{outcome:#?}");
    let ran = report["backends"].as_array().unwrap();
    let names: Vec<&str> = ran.iter().map(|b| b["backend"].as_str().unwrap()).collect();
    assert_eq!(names, backends);
    for backend in ran {
        assert_eq!(backend["http"].as_array().unwrap().len(), 2);
        let sweep = backend["sweep"].as_array().unwrap();
        assert_eq!(sweep.len(), 12);
        // Both backends count the same.
        assert_eq!(backend["sweep"], ran[0]["sweep"]);
        assert!(sweep.iter().all(|row| row["lru_misses"] == row["sessions"]));
    }
    report
}

#[test]
fn it_passes_twice_in_a_row() {
    if !may_run("demo") {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = interfaces();
    for _ in 0..2 {
        let outcome = demo(SQUALUS, |_| {}).outcome();
        let report = passed(&outcome, &["kernel", "user"]);
        assert_eq!(report["left_out"], Value::Array(vec![]));
        assert!(!outcome.stderr.contains('\u{1b}'), "colours in a pipe");
        assert!(outcome.stderr.contains("demo: kernel: HTTP over TCP"));
    }
    assert_eq!(interfaces(), before);
}

#[test]
fn a_balancer_that_does_not_start_ends_it() {
    if !may_run("demo with an object that is no balancer") {
        return;
    }
    let decap = object().with_file_name("decap.bpf.o");
    let outcome = demo(SQUALUS, |command| {
        command.arg("--object").arg(decap);
    })
    .outcome();
    outcome.expect(2, &["it is not a balancer", "the balancer did not start"]);
    assert_eq!(outcome.stdout, "");
}

#[test]
fn ended_in_the_middle_it_leaves_nothing() {
    if !may_run("demo, ended in the middle") {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = interfaces();
    for (signal, when) in [
        (Signal::KILL, "demo: making hosts"),
        (Signal::INT, "demo: starting the balancer"),
        (Signal::INT, "demo: kernel: HTTP"),
        (Signal::TERM, "demo: kernel: 1"),
        (Signal::KILL, "demo: user: HTTP"),
    ] {
        let mut demo = demo_in_the_foreground();
        demo.wait_for_stderr(when);
        let traces = Traces::of(demo.id());
        let outcome = demo.end(signal);
        let how = (outcome.status.signal(), outcome.status.code());
        assert_eq!(how, (Some(signal.as_raw()), None), "{outcome:#?}");
        traces.assert_gone(when);
        assert_eq!(interfaces(), before);
    }
    passed(&demo(SQUALUS, |_| {}).outcome(), &["kernel", "user"]);
}

/// Processes of a demo and the namespaces they hold.
struct Traces {
    processes: Vec<u32>,
    namespaces: BTreeSet<String>,
}

impl Traces {
    fn of(demo: u32) -> Traces {
        let mut processes = vec![demo];
        processes.extend(all_processes().filter(|pid| parent(*pid) == Some(demo)));
        let own = network("self").unwrap_or_default();
        let held = processes.iter().flat_map(|pid| namespaces(*pid));
        Traces {
            namespaces: held.filter(|name| *name != own).collect(),
            processes,
        }
    }

    #[track_caller]
    fn assert_gone(&self, when: &str) {
        let gone = wait_until(|| {
            let running = self.processes.iter().any(|pid| is_running(*pid));
            let held = all_processes().flat_map(namespaces);
            let held = held.into_iter().any(|name| self.namespaces.contains(&name));
            (!running && !held).then_some(())
        });
        assert!(
            gone.is_some(),
            "after `{when}` something is left of processes {:?}, namespaces {:?}",
            self.processes,
            self.namespaces
        );
    }
}

fn all_processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The fields of /proc/PID/stat behind the name: state, parent, and so on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// A process that has ended may wait for its parent to notice.
fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z" && fields[0] != "X")
}

fn network(process: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{process}/ns/net")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// The network namespaces that a process is in or holds by a descriptor.
fn namespaces(pid: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let held = descriptors.flatten().filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let name = target.to_str()?;
        name.starts_with("net:[").then(|| name.to_owned())
    });
    held.chain(network(&pid.to_string())).collect()
}

/// A copy of the program that anybody can run.
fn for_everybody(scratch: &Scratch) -> String {
    let path = scratch.0.join("squalus");
    fs::copy(SQUALUS, &path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn without_root_the_userspace_half_runs() {
    if !may_run("demo without root (which starts as root)") {
        return;
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = Scratch::new("unprivileged");
    let program = for_everybody(&scratch);
    let outcome = demo(&program, |command| {
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    })
    .outcome();
    if outcome.stderr.contains("needs a user namespace") {
        outcome.expect(2, &["sudo squalus demo", "user.max_user_namespaces"]);
        eprintln!("SKIPPED demo without root: this system has no user namespaces for users");
        return;
    }
    let report = passed(&outcome, &["user"]);
    let left_out = report["left_out"][0].as_str().unwrap();
    assert!(left_out.contains("needs root"), "{left_out}");
    let mode = report["backends"][0]["mode"].as_str().unwrap();
    assert!(mode.contains("AF_PACKET"), "{mode}");

    let outcome = demo(&program, |command| {
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command.args(["--backends", "kernel"]);
    })
    .outcome();
    outcome.expect(2, &["needs root", "sudo squalus demo"]);
}

#[test]
fn without_root_and_user_namespaces_it_says_what_it_needs() {
    if !may_run("demo without user namespaces (which starts as root)") {
        return;
    }
    let scratch = Scratch::new("no-user-namespaces");
    let program = for_everybody(&scratch);
    // In a user namespace of its own the limit can be set for it alone.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && \
                  exec setpriv --bounding-set=-all --inh-caps=-all \"$0\" demo";
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--",
        "sh",
        "-c",
        script,
        &program,
    ]);
    let outcome = Running::start(command, |command| command.spawn().unwrap()).outcome();
    outcome.expect(
        2,
        &[
            "needs a user namespace",
            "sudo squalus demo",
            "user.max_user_namespaces",
        ],
    );
}
