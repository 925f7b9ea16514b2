//! Verdicts and redirects on ports in memory: no root, both engines.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Actions, OBJECT, frame, set_program, setup};
use squalus_forward::{Forwarder, Interfaces, Options, RedirectDrop, Sockets, WorkerReport};
use squalus_isa::Verdict;
use squalus_port::{FrameSize, MemoryPort, Pool, PoolConfig, Port, PortError, Wire};
use squalus_vm::{EngineKind, MapAccess, Object, UpdateFlags, VmBuilder};

const PATIENCE: Duration = Duration::from_secs(60);

/// Interfaces that are wires in memory, by index.
#[derive(Default)]
struct Cables {
    wires: Mutex<BTreeMap<u32, Wire>>,
    /// Those that somebody wanted to open.
    asked: Mutex<BTreeSet<u32>>,
    links: BTreeMap<u32, Result<Option<u32>, RedirectDrop>>,
}

impl Cables {
    /// Frames that went out of an interface.
    fn sent(&self, ifindex: u32) -> Vec<Vec<u8>> {
        let wires = self.wires.lock().unwrap();
        wires.get(&ifindex).map(Wire::take_sent).unwrap_or_default()
    }
}

impl Interfaces for Cables {
    fn open(&self, ifindex: u32) -> Result<Box<dyn Port>, PortError> {
        self.asked.lock().unwrap().insert(ifindex);
        if !self.links.contains_key(&ifindex) {
            return Err(PortError::NoInterface(format!("index {ifindex}")));
        }
        let (port, wire) = MemoryPort::new(format!("m{ifindex}"), 1000);
        self.wires.lock().unwrap().insert(ifindex, wire);
        Ok(Box::new(port))
    }

    fn link(&self, ifindex: u32) -> Result<Option<u32>, RedirectDrop> {
        let link = self.links.get(&ifindex).copied();
        link.unwrap_or(Err(RedirectDrop::NoInterface))
    }
}

#[derive(Default)]
struct Inbox(Mutex<Vec<(u32, Vec<u8>)>>);

impl Sockets for Inbox {
    fn deliver(&self, socket: u32, frame: &[u8]) -> bool {
        self.0.lock().unwrap().push((socket, frame.to_vec()));
        socket != 13
    }
}

/// A forwarding program, the wire of its port, and where redirects go.
struct Bench {
    forwarder: Forwarder,
    wire: Wire,
    cables: Arc<Cables>,
    inbox: Arc<Inbox>,
}

/// Interfaces 21, 22 and 25 take frames, 23 is down, 24 has an MTU of 100; 21 is where frames come in.
fn bench(engine: EngineKind) -> Bench {
    let vm = VmBuilder::new(Object::parse(OBJECT).unwrap())
        .engine(engine)
        .build()
        .unwrap();
    let cables = Arc::new(Cables {
        links: BTreeMap::from([
            (21, Ok(None)),
            (22, Ok(None)),
            (23, Err(RedirectDrop::Down)),
            (24, Ok(Some(100))),
            (25, Ok(None)),
        ]),
        ..Cables::default()
    });
    let inbox = Arc::new(Inbox::default());
    let mut forwarder = Forwarder::new(vm, "verdicts", Options::default())
        .unwrap()
        .with_interfaces(Arc::clone(&cables) as Arc<dyn Interfaces>)
        .with_sockets(Arc::clone(&inbox) as Arc<dyn Sockets>);
    let vm = forwarder.vm();
    setup(vm, [21, 22, 25], |name| set_program(vm, name));
    for (key, socket) in [(0_u32, 7_u32), (1, 13)] {
        let (key, socket) = (key.to_ne_bytes(), socket.to_ne_bytes());
        vm.update("sockets".into(), &key, &socket, UpdateFlags::ANY)
            .unwrap();
    }
    for (key, ifindex) in [(2_u32, 23_u32), (3, 24), (4, 99)] {
        let (key, ifindex) = (key.to_ne_bytes(), ifindex.to_ne_bytes());
        vm.update("interfaces".into(), &key, &ifindex, UpdateFlags::ANY)
            .unwrap();
    }
    let (port, wire) = MemoryPort::new("m21", 1000);
    let pool = Pool::new(&PoolConfig {
        frames: 256,
        ..PoolConfig::default()
    })
    .unwrap();
    forwarder.start(vec![vec![(Box::new(port), pool)]]).unwrap();
    Bench {
        forwarder,
        wire,
        cables,
        inbox,
    }
}

impl Bench {
    /// Sends frames through and returns what the worker then says of itself.
    fn run(&mut self, frames: &[Vec<u8>]) -> WorkerReport {
        for frame in frames {
            assert!(self.wire.push(frame));
        }
        self.wire.close();
        self.forwarder.join().unwrap();
        self.forwarder.reports().remove(0)
    }

    /// Waits until the opener deals with an interface.
    fn wait_for(&self, ifindex: u32) {
        let deadline = Instant::now() + PATIENCE;
        while !self.cables.asked.lock().unwrap().contains(&ifindex) {
            assert!(
                Instant::now() < deadline,
                "interface {ifindex} is not opened"
            );
            std::thread::yield_now();
        }
    }
}

const ENGINES: [EngineKind; 2] = [EngineKind::Interp, EngineKind::Jit];

#[test]
fn each_verdict_does_what_it_says() {
    for engine in ENGINES {
        let mut bench = bench(engine);
        let frames = [0, 1, 2, 3, Actions::UNKNOWN_VERDICT].map(|action| frame(action, 0, 0));
        let report = bench.run(&frames);
        let verdict = |verdict| {
            report
                .verdicts
                .iter()
                .find(|(v, _)| *v == verdict)
                .unwrap()
                .1
        };
        assert_eq!(verdict(Verdict::Aborted), 2);
        assert_eq!((report.aborted_by_program, report.unknown_verdicts), (1, 1));
        assert_eq!((verdict(Verdict::Drop), verdict(Verdict::Redirect)), (1, 0));
        let passed = bench.wire.take_passed();
        assert_eq!(passed.len(), 1);
        assert_eq!(passed[0][16], 0x5a, "as the program left it");
        let sent = bench.wire.take_sent();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0][..6], frames[3][6..12]);
    }
}

#[test]
fn entries_of_device_maps_are_open_before_the_first_frame() {
    for engine in ENGINES {
        let mut bench = bench(engine);
        let frames = [
            frame(Actions::PORT, 1, 0),
            frame(Actions::HASHED, 1, 0),
            frame(Actions::PORT, 2, 0),
            frame(Actions::PORT, 2, 0xdd),
            frame(Actions::PORT, 2, 0xab),
            frame(Actions::WITH_METADATA, 2, 0xee),
        ];
        let report = bench.run(&frames);
        let sent = bench.cables.sent(22);
        assert_eq!(sent.len(), 2);
        assert_eq!((sent[0][16], sent[0][20]), (0x5a, 0), "no egress program");
        let sent = bench.cables.sent(25);
        assert_eq!(sent.len(), 2);
        // Interface out, interface in, queue, metadata.
        assert_eq!(sent[0][20..24], [25, 0, 0, 0]);
        assert_eq!(sent[1][20..24], [25, 0, 0, 1]);
        assert_eq!(sent[1].len(), frames[5].len() - 4);
        assert_eq!(report.redirected, 4);
        let drops = [(RedirectDrop::Program, 1), (RedirectDrop::Aborted, 1)];
        assert_eq!(report.redirect_drops, drops);
    }
}

#[test]
fn a_broadcast_leaves_by_each_interface_once() {
    for engine in ENGINES {
        let mut bench = bench(engine);
        let report = bench.run(&[frame(Actions::ALL_PORTS, 0, 0)]);
        let sent = [21, 22, 25].map(|ifindex| bench.cables.sent(ifindex));
        assert!(sent.iter().all(|frames| frames.len() == 1));
        // The last one goes through a program, which leaves traces in its copy alone.
        assert_eq!(sent.map(|frames| frames[0][20]), [0, 0, 25]);
        assert_eq!(report.redirected, 3);
    }
}

#[test]
fn other_cpus_are_the_hosts_stack() {
    for engine in ENGINES {
        let mut bench = bench(engine);
        let frames = [0, 0xdd, 0xcc].map(|last| frame(Actions::CPU, 0, last));
        let report = bench.run(&frames);
        let passed = bench.wire.take_passed();
        assert_eq!(passed.len(), 1);
        assert_eq!(passed[0][20], 0xc9);
        let again = bench.cables.sent(22);
        assert_eq!((again.len(), again[0][20]), (1, 0xc9));
        assert_eq!(report.redirected, 2);
        assert_eq!(report.redirect_drops, [(RedirectDrop::Program, 1)]);
    }
}

#[test]
fn sockets_are_whoever_reads_them() {
    for engine in ENGINES {
        let mut bench = bench(engine);
        let frames = [0, 1, 2].map(|socket| frame(Actions::SOCKET, socket, 0));
        let report = bench.run(&frames);
        let inbox = bench.inbox.0.lock().unwrap();
        let sockets: Vec<u32> = inbox.iter().map(|(socket, _)| *socket).collect();
        assert_eq!(
            sockets,
            [7, 13],
            "13 refuses, and entry 2 is empty: XDP_PASS"
        );
        assert_eq!(inbox[0].1[16], 0x5a);
        assert_eq!(bench.wire.take_passed().len(), 1);
        assert_eq!(report.redirect_drops, [(RedirectDrop::NoConsumer, 1)]);
    }
}

#[test]
fn what_cannot_leave_says_why() {
    for engine in ENGINES {
        let mut bench = bench(engine);
        // The first frames find the interfaces closed, and have them opened.
        for index in 2..5 {
            assert!(bench.wire.push(&frame(Actions::REDIRECT, index, 0)));
        }
        for ifindex in [23, 24, 99] {
            bench.wait_for(ifindex);
        }
        // After what it is at.
        bench.forwarder.open_devices();
        let mut long = frame(Actions::REDIRECT, 3, 0);
        long.resize(119, 0);
        let frames = [
            frame(Actions::REDIRECT, 2, 0),
            frame(Actions::REDIRECT, 4, 0),
            long.clone(),
            long[..118].to_vec(),
            frame(Actions::NO_TARGET, 0, 0),
            frame(Actions::WRONG_FLAGS, 22, 0),
        ];
        let report = bench.run(&frames);
        assert_eq!(bench.cables.sent(24).len(), 1);
        let drops = [
            (RedirectDrop::NoTarget, 1),
            (RedirectDrop::NoInterface, 1),
            (RedirectDrop::NotOpen, 3),
            (RedirectDrop::Down, 1),
            (RedirectDrop::TooLong, 1),
        ];
        assert_eq!(report.redirect_drops, drops);
        assert_eq!(
            report.aborted_by_program, 1,
            "flags that bpf_redirect does not have"
        );
    }
}

#[test]
fn no_frame_is_lost_to_the_pool() {
    let mut bench = bench(EngineKind::Jit);
    // More rounds than the pool has frames, through every way that copies or frees.
    let mut expected = 0;
    for round in 0..200 {
        for action in [
            Actions::ALL_PORTS,
            Actions::PORT,
            Actions::SOCKET,
            Actions::CPU,
        ] {
            while !bench
                .wire
                .push(&frame(action, 2 * u8::from(action == Actions::PORT), 0))
            {
                std::thread::yield_now();
            }
        }
        expected = round + 1;
        bench.cables.sent(21);
        bench.cables.sent(22);
        bench.cables.sent(25);
        let _ = bench.wire.take_passed();
    }
    let report = bench.run(&[]);
    assert_eq!(report.lanes[0].stats.rx_frames, 4 * expected);
    let delivered = bench.inbox.0.lock().unwrap().len() as u64;
    assert_eq!(delivered, expected);
}

/// Frames through a program of the object for fragments, in chunks longer than a page.
fn jumbo(program: &str, frames: &[Vec<u8>]) -> (WorkerReport, Vec<Vec<u8>>) {
    const FRAGMENTS: &[u8] = include_bytes!("../../ebpf/vm/tests/objects/fragments.o");
    let object = Object::parse(FRAGMENTS).unwrap();
    let vm = VmBuilder::new(object).build().unwrap();
    let mut forwarder = Forwarder::new(vm, program, Options::default()).unwrap();
    let (port, wire) = MemoryPort::new("m0", 100);
    let pool = Pool::new(&PoolConfig {
        frames: 64,
        frame_size: FrameSize::Jumbo,
        ..PoolConfig::default()
    })
    .unwrap();
    for frame in frames {
        assert!(wire.push(frame));
    }
    wire.close();
    forwarder.start(vec![vec![(Box::new(port), pool)]]).unwrap();
    forwarder.join().unwrap();
    (forwarder.reports().remove(0), wire.take_passed())
}

#[test]
fn programs_for_fragments_get_whole_jumbo_frames() {
    // Each asks for 50 bytes more at its end.
    let frames = [60, 3520, 3521, 9014].map(|len| {
        let mut frame = vec![7; len];
        frame[14] = 1;
        frame[16..20].copy_from_slice(&50_u32.to_ne_bytes());
        frame
    });
    let (report, passed) = jumbo("fragments", &frames);
    assert_eq!(report.lanes[0].fragmented, 0);
    // A full page does not grow; its fragments do.
    let lengths: Vec<usize> = passed.iter().map(Vec::len).collect();
    assert_eq!(lengths, [110, 3520, 3571, 9064]);
    assert_eq!(passed[3][..24], frames[3][..24]);
    assert_eq!(passed[3][9014..], [0; 50]);
    // What the program saw of its length: all, and in one piece.
    let word = |frame: &[u8], at| u32::from_ne_bytes(*frame[at..].first_chunk().unwrap());
    assert_eq!((word(&passed[3], 28), word(&passed[3], 32)), (9064, 3520));
}

#[test]
fn other_programs_get_no_jumbo_frames() {
    let frames = [60, 3520, 3521, 9014].map(|len| vec![7; len]);
    let (report, passed) = jumbo("one_piece", &frames);
    assert_eq!(report.lanes[0].fragmented, 2);
    assert_eq!(passed, frames[..2]);
}
