//! Bad input: a clear error, an exit code that is not zero, nothing left attached.

use std::net::TcpListener;

use rustix::process::Signal;
use squalus::decap::Decap;

use crate::support::{CLIENT, INTERFACE, Net, SERVER, SMALL, SQUALUS, Scratch, object};

const BACKENDS: [&str; 2] = ["kernel", "user"];

/// Starts a small balancer that must refuse with exit code 2, say all of this, and leave nothing.
#[track_caller]
fn refused(net: &Net, args: &[&str], said: &[&str]) {
    let before = (net.attached(), net.interfaces());
    let all: Vec<&str> = SMALL.iter().chain(args).copied().collect();
    let outcome = net.run(SERVER, &all);
    outcome.expect(2, said);
    assert_eq!(outcome.stdout, "", "{outcome:#?}");
    assert_eq!((net.attached(), net.interfaces()), before);
}

fn on(interface: &str, backend: &str) -> [String; 2] {
    [format!("-intf={interface}"), format!("-backend={backend}")]
}

#[test]
fn objects_that_are_none() {
    let Some(net) = Net::new("sq-e2e-objects") else {
        return;
    };
    let (scratch, whole) = (Scratch::new("objects"), std::fs::read(object()).unwrap());
    for backend in BACKENDS {
        let [interface, chosen] = on(INTERFACE, backend);
        let refused = |file: &str, said: &str| {
            let args = [&*interface, &*chosen, "-balancer_prog", file];
            refused(&net, &args, &[said]);
        };
        for length in [0, 3, 63, 64, 1000, 30_000, whole.len() - 1] {
            let file = scratch.file("truncated.o", &whole[..length]);
            refused(&file, "not a usable BPF object");
        }
        refused(SERVER, "not a usable BPF object");
        refused("/nonexistent.o", "cannot read the object /nonexistent.o");
        let no_balancer = object().with_file_name("decap.bpf.o");
        refused(no_balancer.to_str().unwrap(), "it is not a balancer");
        let file = scratch.file("small.o", &with_small_vip_map(&whole));
        refused(
            &file,
            "`vip_map` has room for 511, but the balancer needs 512",
        );
    }
}

/// The object with one VIP less: BTF writes a map's size as the length of an array, and 512 is the VIPs'.
fn with_small_vip_map(object: &[u8]) -> Vec<u8> {
    const ARRAY_OF_512: [(usize, u32); 4] = [(0, 0), (4, 3 << 24), (8, 0), (20, 512)];
    let mut changed = object.to_vec();
    let is = |at: usize, word: u32| object[at..at + 4] == word.to_le_bytes();
    let found: Vec<usize> = (0..object.len() - 24)
        .step_by(4)
        .filter(|at| ARRAY_OF_512.iter().all(|(n, word)| is(at + n, *word)))
        .collect();
    assert_eq!(found.len(), 1, "the object's BTF has changed");
    changed[found[0] + 20..found[0] + 24].copy_from_slice(&511_u32.to_le_bytes());
    changed
}

#[test]
fn corrupted_objects_are_refused_or_work() {
    let Some(net) = Net::new("sq-e2e-corrupted") else {
        return;
    };
    let (scratch, whole) = (Scratch::new("corrupted"), std::fs::read(object()).unwrap());
    for backend in BACKENDS {
        let [interface, chosen] = on(INTERFACE, backend);
        let mut refusals = 0;
        for n in 0..16 {
            let mut bytes = whole.clone();
            let at = n * whole.len() / 16 + 24;
            for byte in &mut bytes[at..at + 8] {
                *byte ^= 0xff;
            }
            let file = scratch.file("corrupted.o", &bytes);
            let args = [&*interface, &*chosen, "-balancer_prog", &file];
            let all: Vec<&str> = SMALL.iter().chain(&args).copied().collect();
            let mut server = net.spawn(SERVER, &all);
            // Names and line numbers may be wrong without harm; such an object runs until it is told to stop.
            server.said_or_ended("ready: ");
            let outcome = server.end(Signal::TERM);
            match outcome.status.code() {
                Some(0) => {}
                Some(2) => {
                    assert!(
                        outcome.stderr.contains("katran_server_grpc: "),
                        "{outcome:#?}"
                    );
                    refusals += 1;
                }
                _ => panic!("byte {at}: {outcome:#?}"),
            }
            assert_eq!(net.attached(), None, "byte {at}");
        }
        assert!(refusals > 0);
    }
}

#[test]
fn flags_that_are_none() {
    let Some(net) = Net::new("sq-e2e-flags") else {
        return;
    };
    let run = |program: &str, line: &str, said: &[&str]| {
        let words: Vec<&str> = line.split(' ').collect();
        net.run(program, &words).expect(2, said);
    };
    run(SERVER, "-inft=sq0", &["'--inft'", "'--intf'"]);
    run(SERVER, "-lru_size many", &["many"]);
    run(SERVER, "-default_mac 1:2:3", &["1:2:3"]);
    run(SERVER, "-forwarding_cores 0,x", &["`x` is no number"]);
    run(SERVER, "-backend kernal", &["'kernel'"]);
    run(SQUALUS, "serve --inft sq0", &["'--intf'"]);
    run(SQUALUS, "demo --packet 5", &["'--packets'"]);
    run(SQUALUS, "demo --io af_packets", &["'af_packet'"]);
    run(SQUALUS, "dmo", &["'demo'"]);
    run(CLIENT, "-lst", &["'--lst'"]);
    run(CLIENT, "-A -t 192.168.1.300:80", &["192.168.1.300:80"]);
    run(CLIENT, "-A -t 192.168.1.13", &["is no service"]);
    run(CLIENT, "-A -t 192.168.1.13:99999", &["is no service"]);
    run(CLIENT, "-A -u fc00::1:80", &["is no service"]);
    run(CLIENT, "-a -t 10.0.0.1:80 -r 10.0.0", &["is no IP address"]);
    run(CLIENT, "-A -t 10.0.0.1:80 -vf NO_LRUS", &["NO_LRU"]);
    let outcome = net.run(CLIENT, &["-l"]);
    outcome.expect(1, &["cannot reach a katran server at 127.0.0.1:50051"]);
    assert_eq!(outcome.stdout, "");
}

#[test]
fn places_that_are_not_free() {
    let Some(net) = Net::new("sq-e2e-places") else {
        return;
    };
    for backend in BACKENDS {
        let [interface, chosen] = on(INTERFACE, backend);
        let missing = ["-intf=sq9", &*chosen];
        refused(&net, &missing, &["there is no network interface `sq9`"]);
        let cores = [&*interface, &*chosen, "-forwarding_cores=4096"];
        refused(&net, &cores, &["core 4096, but there is: 0"]);
        let twice = [&*interface, &*chosen, "-forwarding_cores=0,0"];
        refused(&net, &twice, &["core 0 twice"]);
        let shared = [&*interface, &*chosen, "-map_path=/sys/fs/bpf/root"];
        refused(&net, &shared, &["shared mode"]);

        let listen = || TcpListener::bind("127.0.0.1:50051").unwrap();
        let listener = net.namespace.run(listen).unwrap();
        let args = [&*interface, &*chosen];
        refused(&net, &args, &["127.0.0.1:50051: the port is in use"]);
        drop(listener);

        let elsewhere = [&*interface, &*chosen, "-server", "192.0.2.1:50051"];
        refused(&net, &elsewhere, &["cannot listen on 192.0.2.1:50051"]);

        let other = net.namespace.run(|| Decap::pass_all(INTERFACE));
        let other = other.unwrap().unwrap();
        refused(
            &net,
            &args,
            &["`sq0` has an XDP program already", "xdp off"],
        );
        assert_eq!(net.attached().as_deref(), Some("xdpdecap"));
        drop(other);
    }
}

#[test]
fn one_balancer_for_each_interface() {
    let Some(net) = Net::new("sq-e2e-one") else {
        return;
    };
    let kernel = on(INTERFACE, "kernel");
    let user = on(INTERFACE, "user");
    let [interface, user] = [&user[0], &user[1]].map(String::as_str);
    let kernel = &*kernel[1];
    let second = "127.0.0.1:50052";
    for first in [
        &[interface, kernel][..],
        &[interface, user],
        &[interface, user, "-io=af_packet"],
    ] {
        let server = net.serve(first);
        let attached = net.attached();
        for other in [kernel, user] {
            let said = ["another squalus balances on `sq0` already"];
            refused(&net, &[interface, other, "-server", second], &said);
            let packet = [interface, other, "-server", second, "-io=af_packet"];
            refused(&net, &packet, &said);
        }
        // The first one does not notice.
        assert_eq!(net.attached(), attached);
        net.run(CLIENT, &["-A", "-t", "10.0.0.1:80"]).expect(0, &[]);
        server.stop();
        assert_eq!(net.attached(), None);
    }
}

#[test]
fn a_killed_balancer_leaves_nothing() {
    let Some(net) = Net::new("sq-e2e-killed") else {
        return;
    };
    let before = net.interfaces();
    for backend in BACKENDS {
        let [interface, chosen] = on(INTERFACE, backend);
        let mut server = net.serve(&[&interface, &chosen]);
        assert!(net.attached().is_some());
        let outcome = server.end(Signal::KILL);
        assert_eq!(outcome.status.code(), None);
        let gone = crate::support::wait_until(|| {
            (net.attached().is_none() && net.interfaces() == before).then_some(())
        });
        assert!(
            gone.is_some(),
            "{:?} {:?}",
            net.attached(),
            net.interfaces()
        );
    }
}
