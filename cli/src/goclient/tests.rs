//! The client against a real server over loopback, with maps in memory behind it; what it prints is
//! compared with files under `cli/tests/golden/goclient` (`SQUALUS_BLESS=1` writes them).

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use squalus_abi::maps::name;
use squalus_abi::{Layout, LbStats};
use squalus_dataplane::memory::MemoryMaps;
use squalus_dataplane::{Controller, Settings};
use squalus_engine::MapAccess;
use squalus_isa::UpdateFlags;
use squalus_server::{Listener, Options};

/// A server on its own thread until dropped.
struct Server {
    address: String,
    maps: Arc<MemoryMaps>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(options: Options) -> Self {
        let maps = Arc::new(MemoryMaps::balancer(1));
        let loaded = Controller::load(Arc::clone(&maps), Settings::default());
        let controller = Arc::new(Mutex::new(loaded.expect("a balancer's maps")));
        let listener = Listener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.address().to_string();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let serving = listener.serve(controller, options, async { drop(stopped.await) });
            runtime
                .expect("a runtime")
                .block_on(serving)
                .expect("serves to the end");
        });
        Server {
            address,
            maps,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn set(&self, index: u32, v1: u64, v2: u64) {
        let mut value = [0; 16];
        LbStats { v1, v2 }.write_to(&mut value);
        let index = index.to_ne_bytes();
        self.maps
            .update(name::STATS.into(), &index, &value, UpdateFlags::ANY)
            .expect("fits");
    }

    /// Runs the client; the transcript shows command, stdout, stderr and status.
    fn client(&self, line: &str, transcript: &mut String) {
        writeln!(transcript, "$ katran_goclient {line}").expect("a String takes all");
        transcript.push_str(&client(&format!("{line} -server {}", self.address)));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends well");
        }
    }
}

fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_268_800)
}

fn client(line: &str) -> String {
    let words = std::iter::once("katran_goclient").chain(line.split_whitespace());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = words.map(OsString::from);
    let status = super::run(args, &mut out, &mut err, Duration::from_millis(1), noon);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let lines = |mark: &str, text: String| -> String {
        text.lines()
            .map(|line| format!("{mark} {line}\n"))
            .collect()
    };
    format!(
        "{}{}status {status}\n\n",
        lines("stderr:", text(err)),
        lines("stdout:", text(out))
    )
}

fn check(name: &str, transcript: &str) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/goclient");
    let path = directory.join(format!("{name}.txt"));
    if std::env::var_os("SQUALUS_BLESS").is_some() {
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::write(&path, transcript).expect("a file");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        transcript,
        golden,
        "{}: bless with SQUALUS_BLESS=1 if it is right",
        path.display()
    );
}

#[test]
fn services_and_reals() {
    let server = Server::start(Options::default());
    let mut transcript = String::new();
    for line in [
        "-l",
        "-A -t 192.168.1.13:5678",
        "-a -t 192.168.1.13:5678 -r 192.168.1.11",
        "--A --u=[fc00::1]:443 --vf QUIC_VIP",
        "-a -u [fc00::1]:443 -r fc00::1:2 -w 10 -rf LOCAL_REAL",
        "-a -u [fc00::1]:443 -r fc00::1:1 -w 5",
        "-E -u [fc00::1]:443 -vf NO_SPORT",
        "-l",
        "-e -t 192.168.1.13:5678 -r 192.168.1.11 -w 0",
        "-E -u [fc00::1]:443 -vf QUIC_VIP -unset",
        "-d -u [fc00::1]:443 -r fc00::1:2",
        "-l",
        "-D -t 192.168.1.13:5678",
        "-l",
        "-C",
        "-l",
    ] {
        server.client(line, &mut transcript);
    }
    check("services_and_reals", &transcript);
}

#[test]
fn failures() {
    let server = Server::start(Options::default());
    let mut transcript = String::new();
    for line in [
        "-A -t 10.0.0.1:80",
        "-A -t 10.0.0.1:80",
        "-D -t 10.0.0.1:81",
        "-E -t 10.0.0.1:81 -vf NO_LRU",
        "-a -t 10.0.0.1:81 -r 10.0.0.2",
        "-new_hc 10.0.0.2 -somark 1",
        "-del_hc -somark 1",
        "-list_hc",
    ] {
        server.client(line, &mut transcript);
    }
    server.maps.refuse_after(name::VIP_MAP, Some(0));
    for line in ["-D -t 10.0.0.1:80", "-C"] {
        server.client(line, &mut transcript);
    }
    check("failures", &transcript);
}

#[test]
fn wrong_usage() {
    let mut transcript = String::new();
    for line in [
        "",
        "-A -t 10.0.0.1",
        "-A -t [fc00::1]",
        "-a -t 1.2.3.4:5 -r 10.0.0",
        "-lru_stats",
        "-w x",
    ] {
        writeln!(transcript, "$ katran_goclient {line}").expect("a String takes all");
        transcript.push_str(&client(line));
    }
    check("wrong_usage", &transcript);
}

#[test]
fn no_server() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    drop(taken);
    let said = client(&format!("-l -server {address}"));
    let expected = format!("Error: cannot reach a katran server at {address}: Connection refused");
    assert!(
        said.contains(&expected) && said.ends_with("status 1\n\n"),
        "{said}"
    );
}

#[test]
fn router_and_server_ids() {
    let server = Server::start(Options {
        health_forwarding: false,
    });
    let mut transcript = String::new();
    for line in [
        "-list_mac",
        "-change_mac b8:3f:d2:2a:e5:11",
        "-list_mac",
        "-quic_mapping 10.0.0.1=1022",
        "-quic_mapping fc00::1=7",
        "-list_qm",
        "-del_qm -quic_mapping fc00::1=7",
        "-list_qm",
        "-list_hc",
        "-C",
    ] {
        server.client(line, &mut transcript);
    }
    check("router_and_server_ids", &transcript);
}

#[test]
fn statistics() {
    let server = Server::start(Options::default());
    let mut transcript = String::new();
    for line in ["-A -t 10.0.0.1:80", "-A -u [fc00::1]:443"] {
        drop(client(&format!("{line} -server {}", server.address)));
    }
    server.set(0, 1000, 64_000);
    server.set(1, 5, 320);
    server.set(512, 1005, 105);
    server.set(513, 75, 20);
    server.set(515, 3, 0);
    server.set(516, 2, 1);
    for line in [
        "-s -count 2",
        "-s -sum -count 2",
        "-s -lru -count 2",
        "-s -icmp -count 2",
    ] {
        server.client(line, &mut transcript);
    }
    check("statistics", &transcript);
}
