//! A cable in a namespace, and programs that run there.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use squalus_testkit::{LinkEnd, Namespace, Rights, add_addresses, connect};

pub const SQUALUS: &str = env!("CARGO_BIN_EXE_squalus");
pub const SERVER: &str = env!("CARGO_BIN_EXE_katran_server_grpc");
pub const CLIENT: &str = env!("CARGO_BIN_EXE_katran_goclient");

/// The balancer's end of the cable, and the other one.
pub const INTERFACE: &str = "sq0";
pub const FAR_END: &str = "sq1";
pub const MAC: [u8; 6] = [2, 0x5c, 0, 0, 0, 1];
pub const FAR_MAC: [u8; 6] = [2, 0x5c, 0, 0, 0, 2];

/// Longest time to wait for something that takes no time.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Flags of a small balancer that ends at once; the interface must be added.
pub const SMALL: [&str; 7] = [
    "-hc_forwarding=false",
    "-lru_size",
    "1000",
    "-forwarding_cores",
    "0",
    "-shutdown_delay",
    "0",
];

/// The balancer object of the repository.
pub fn object() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bpf/objects/balancer.bpf.o")
}

/// Whether the tests can run; says so if not.
pub fn may_run(test: &str) -> bool {
    let root = Rights::of_process() == Rights::Kernel;
    if !root {
        eprintln!("SKIPPED {test}: needs root");
    }
    root
}

/// A namespace with a cable from [`INTERFACE`] to [`FAR_END`].
pub struct Net {
    pub namespace: Namespace,
}

impl Net {
    pub fn new(label: &str) -> Option<Net> {
        if !may_run(label) {
            return None;
        }
        let namespace = Namespace::new(label).unwrap();
        let end = |name, mac| LinkEnd {
            namespace: &namespace,
            name,
            mac,
            addresses: vec![],
        };
        connect(&end(INTERFACE, MAC), &end(FAR_END, FAR_MAC), 1600).unwrap();
        namespace.run(|| add_addresses("lo", &[])).unwrap().unwrap();
        Some(Net { namespace })
    }

    /// The XDP program on the balancer's interface.
    pub fn attached(&self) -> Option<String> {
        let find = || squalus_kernel::attached_program(INTERFACE).unwrap();
        let program = self.namespace.run(find).unwrap();
        program.map(|program| program.name)
    }

    pub fn interfaces(&self) -> Vec<String> {
        self.namespace.run(interfaces).unwrap()
    }

    /// Runs a program to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Outcome {
        self.spawn(program, args).outcome()
    }

    pub fn spawn(&self, program: &str, args: &[&str]) -> Running {
        let mut command = Command::new(program);
        command.args(args);
        Running::start(command, |command| {
            self.namespace.spawn_command(command).unwrap()
        })
    }

    /// Starts a balancer and waits until it forwards.
    pub fn serve(&self, args: &[&str]) -> Running {
        let all: Vec<&str> = SMALL.iter().chain(args).copied().collect();
        let mut server = self.spawn(SERVER, &all);
        server.wait_for_stdout("ready: ");
        server
    }
}

/// The interfaces of the calling thread's namespace.
pub fn interfaces() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = text.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Fails unless the program ended with this code and said all of this on standard error.
    #[track_caller]
    pub fn expect(&self, code: i32, said: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        for words in said {
            assert!(self.stderr.contains(words), "not said: {words}\n{self:#?}");
        }
    }
}

/// A program that runs; it is killed if the test forgets it.
pub struct Running {
    child: Child,
    readers: Option<(JoinHandle<String>, JoinHandle<String>)>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Running {
    pub fn start(mut command: Command, spawn: impl FnOnce(&mut Command) -> Child) -> Running {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(&mut command);
        let (out, stdout) = follow(child.stdout.take().unwrap());
        let (err, stderr) = follow(child.stderr.take().unwrap());
        Running {
            child,
            readers: Some((out, err)),
            stdout,
            stderr,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of standard output that begins so.
    #[track_caller]
    pub fn wait_for_stdout(&mut self, start: &str) {
        if !wait_for(&self.stdout, start) {
            let outcome = self.end(Signal::KILL);
            panic!("no `{start}`: {outcome:#?}");
        }
    }

    /// Waits for a line of standard error that begins so.
    #[track_caller]
    pub fn wait_for_stderr(&mut self, start: &str) {
        if !wait_for(&self.stderr, start) {
            let outcome = self.end(Signal::KILL);
            panic!("no `{start}`: {outcome:#?}");
        }
    }

    /// Whether one of the lines of standard output so far, since it was last asked, has these words.
    pub fn stdout_has(&self, words: &str) -> bool {
        self.stdout.try_iter().any(|line| line.contains(words))
    }

    /// Sends a signal and waits for the end.
    pub fn end(&mut self, signal: Signal) -> Outcome {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.child), signal);
        self.take_outcome()
    }

    /// Ends a balancer as a user does.
    #[track_caller]
    pub fn stop(mut self) {
        self.end(Signal::TERM).expect(0, &[]);
    }

    pub fn outcome(mut self) -> Outcome {
        self.take_outcome()
    }

    /// Waits until a line of standard output begins so, or the program has ended.
    pub fn said_or_ended(&mut self, start: &str) {
        // Standard output ends with the program.
        let _ = wait_for(&self.stdout, start);
    }

    fn take_outcome(&mut self) -> Outcome {
        let status = wait_until(|| self.child.try_wait().unwrap()).unwrap_or_else(|| {
            self.child.kill().unwrap();
            panic!("{} does not end", self.child.id())
        });
        let (out, err) = self.readers.take().expect("a program ends once");
        Outcome {
            status,
            stdout: out.join().unwrap(),
            stderr: err.join().unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines to the end, all together and one by one.
fn follow(pipe: impl Read + Send + 'static) -> (JoinHandle<String>, Receiver<String>) {
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut all = String::new();
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            all.push_str(&line);
            all.push('\n');
            // Nobody may be listening.
            let _ = sender.send(line);
        }
        all
    });
    (reader, lines)
}

fn wait_for(lines: &Receiver<String>, start: &str) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line.starts_with(start) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// Asks again and again until there is an answer, or patience is lost.
pub fn wait_until<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory that any user can read, until it is dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("squalus-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, open).unwrap();
        Scratch(path)
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, contents: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is in the system's temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
