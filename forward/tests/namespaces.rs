//! What happens to frames in the kernel and here: the same object on the same cables, on every kind of port,
//! with all that the network sees. Needs root.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "../../io/packet/tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use common::{Actions, OBJECT, frame, set_program, setup};
use squalus_forward::{Forwarder, Options, PortOptions, RedirectDrop};
use squalus_kernel::{KernelEngine, LoadOptions, Mode};
use squalus_packet::PacketPort;
use squalus_port::{Burst, Interface, Pool, Port, PortMode, PortRequest};
use squalus_testkit::Namespace;
use squalus_vm::{Object, VmBuilder};

use support::{ip, is_experiment, pool, port, receive, send, veth, wait_until_up};

/// Longest time that a frame may take, and how long to wait for one that should not come.
const PATIENCE: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(60);

/// How many frames are seen at all places. The kernel's CPU maps have threads of their own, so that only the number
/// tells when all have come.
const SEEN: usize = 21;

/// Where frames can be seen: at the host behind `sqa`, and at the far ends of all cables.
const PLACES: [&str; 4] = ["sqa", "sqb", "sqd", "sqf"];

/// Everything seen at each of [`PLACES`], sorted.
type Seen = [Vec<Vec<u8>>; 4];

/// Cables `sqa`-`sqb`, where frames come in, and `sqc`-`sqd` and `sqe`-`sqf`, where redirected ones go out.
fn cables(label: &str) -> Option<Namespace> {
    let namespace = veth(label)?;
    ip(&namespace, "link add sqc type veth peer name sqd");
    ip(&namespace, "link add sqe type veth peer name sqf");
    let ends = ["sqc", "sqd", "sqe", "sqf"];
    for end in ends {
        ip(&namespace, &format!("link set {end} up"));
    }
    for end in ends {
        wait_until_up(&namespace, end);
    }
    Some(namespace)
}

/// The indices of the near ends.
fn indices(namespace: &Namespace) -> [u32; 3] {
    ["sqa", "sqc", "sqe"].map(|name| {
        let interface = namespace.run(|| Interface::by_name(name)).unwrap();
        interface.unwrap().index
    })
}

/// Observers at all places.
struct Observers {
    ports: Vec<(PacketPort, Pool)>,
    sender: (PacketPort, Pool),
}

impl Observers {
    fn new(namespace: &Namespace, host: &str) -> Observers {
        let names = [host, PLACES[1], PLACES[2], PLACES[3]];
        Observers {
            ports: names
                .iter()
                .map(|name| (port(namespace, name), pool()))
                .collect(),
            sender: (port(namespace, "sqb"), pool()),
        }
    }

    /// Sends frames one by one and collects what is seen until `count` frames were and no more come.
    fn send_and_watch(&mut self, frames: &[Vec<u8>], count: usize) -> Seen {
        let mut seen = Seen::default();
        for frame in frames {
            send(
                &mut self.sender.0,
                &mut self.sender.1,
                std::slice::from_ref(frame),
            );
        }
        let deadline = Instant::now() + PATIENCE;
        let mut quiet = Instant::now() + QUIET;
        let mut total = 0;
        while Instant::now() < deadline && (total < count || Instant::now() < quiet) {
            let mut burst = Burst::new();
            let before = total;
            for ((port, pool), seen) in self.ports.iter_mut().zip(&mut seen) {
                port.wait(Duration::from_millis(1));
                port.recv(pool, &mut burst);
                let frames = burst.iter().map(|frame| pool.data(frame));
                let frames = frames.filter(|frame| is_experiment(frame));
                let before = seen.len();
                seen.extend(frames.map(<[u8]>::to_vec));
                total += seen.len() - before;
                burst.free(pool);
            }
            if total > before {
                quiet = Instant::now() + QUIET;
            }
        }
        seen.each_mut().map(|frames| {
            frames.sort();
            std::mem::take(frames)
        })
    }
}

/// Frames for everything that the kernel can do here too.
fn frames() -> Vec<Vec<u8>> {
    let plain = [
        0,
        1,
        2,
        3,
        Actions::UNKNOWN_VERDICT,
        Actions::NO_TARGET,
        Actions::WRONG_FLAGS,
    ];
    let mut frames: Vec<_> = plain.map(|action| frame(action, 22, 0)).into();
    let redirects = [
        (Actions::REDIRECT, 1),
        (Actions::REDIRECT, 2), // unknown
        (Actions::PORT, 1),
        (Actions::PORT, 2),  // through the egress program
        (Actions::PORT, 5),  // empty
        (Actions::PORT, 77), // outside
        (Actions::HASHED, 1),
        (Actions::HASHED, 5),
        (Actions::ALL_PORTS, 0),
        (Actions::ALL_HASHED_BUT_INGRESS, 0),
        (Actions::CPU, 0),
        (Actions::CPU, 1), // no program
        (Actions::CPU, 5),
        (Actions::GROW_AND_PORT, 1),
        (Actions::SHRINK_AND_HASHED, 1),
        (Actions::PORT_OR_TX, 1),
        (Actions::PORT_OR_TX, 5),
        (Actions::PORT_OR_DROP, 5),
        (Actions::WITH_METADATA, 2),
        (Actions::SOCKET, 3), // empty: passes
    ];
    frames.extend(redirects.map(|(action, argument)| frame(action, argument, 0)));
    for last in [0xdd, 0xab, 0xee] {
        frames.push(frame(Actions::PORT, 2, last));
    }
    frames.push(frame(Actions::CPU, 0, 0xdd));
    frames.push(frame(Actions::CPU, 0, 0xcc));
    // Longer than the way out allows: `sqc` has an MTU of 500.
    for len in [514, 519, 1000] {
        let mut long = frame(Actions::PORT, 1, 0);
        long.resize(len, 7);
        frames.push(long);
    }
    frames
}

/// What the kernel does with the frames.
fn in_kernel(label: &str, frames: &[Vec<u8>]) -> Option<Seen> {
    let namespace = cables(label)?;
    let interfaces = indices(&namespace);
    let engine = KernelEngine::load(OBJECT, &LoadOptions::default()).unwrap();
    let set_up = || {
        setup(&engine, interfaces, |name| set_program(&engine, name));
        common::add_plain_cpu(&engine);
        ["sqb", "sqd", "sqf"].map(|end| engine.attach("pass", end, Mode::Native).unwrap())
    };
    let _ends = namespace.run(set_up).unwrap();
    ip(&namespace, "link set sqc mtu 500");
    ip(&namespace, "link set sqd mtu 500");
    let _attached = namespace
        .run(|| engine.attach("verdicts", "sqa", Mode::Native))
        .unwrap()
        .unwrap();
    let mut observers = Observers::new(&namespace, "sqa");
    Some(observers.send_and_watch(frames, SEEN))
}

/// What we do with them.
fn in_userspace(
    label: &str,
    request: PortRequest,
    frames: &[Vec<u8>],
    expected: usize,
) -> Option<(Seen, Forwarder)> {
    let namespace = cables(label)?;
    let interfaces = indices(&namespace);
    let vm = VmBuilder::new(Object::parse(OBJECT).unwrap())
        .cpus(2)
        .build()
        .unwrap();
    setup(&vm, interfaces, |name| set_program(&vm, name));
    common::add_plain_cpu(&vm);
    ip(&namespace, "link set sqc mtu 500");
    ip(&namespace, "link set sqd mtu 500");
    let options = PortOptions {
        request,
        ..PortOptions::everything("sqa")
    };
    let start = || {
        let mut forwarder = Forwarder::new(vm, "verdicts", Options::default()).unwrap();
        let infos = forwarder.attach(&[options]).unwrap();
        (forwarder, infos)
    };
    let (mut forwarder, infos) = namespace.run(start).unwrap();
    let packet = request == PortRequest::AfPacket;
    let wanted = if packet {
        PortMode::AfPacket
    } else {
        PortMode::AfXdpCopy
    };
    assert_eq!(infos[0].obtained, wanted, "{:?}", infos[0].notices);
    // AF_PACKET's host sees each frame as it came; what the program made of it comes by the tap.
    let mut observers = Observers::new(&namespace, if packet { "sq-sqa" } else { "sqa" });
    let seen = observers.send_and_watch(frames, expected);
    namespace.run(|| forwarder.stop()).unwrap().unwrap();
    Some((seen, forwarder))
}

fn check(label: &str, request: PortRequest) {
    let frames = frames();
    let Some(kernel) = in_kernel(&format!("{label}-k"), &frames) else {
        return;
    };
    let expected = kernel.iter().map(Vec::len).sum();
    let (ours, forwarder) = in_userspace(label, request, &frames, expected).unwrap();
    for (place, (kernel, ours)) in PLACES.iter().zip(kernel.iter().zip(&ours)) {
        let heads = |frames: &[Vec<u8>]| -> Vec<_> {
            let head = |frame: &Vec<u8>| (frame.len(), frame[..28].to_vec());
            frames.iter().map(head).collect()
        };
        assert_eq!(
            heads(ours),
            heads(kernel),
            "at {place}, ours and the kernel's"
        );
        assert_eq!(ours, kernel, "at {place}");
    }
    assert_eq!(expected, SEEN);
    let report = forwarder.reports().remove(0);
    let count = |why| {
        report
            .redirect_drops
            .iter()
            .find(|(w, _)| *w == why)
            .map(|(_, n)| *n)
    };
    assert_eq!(
        count(RedirectDrop::TooLong),
        Some(2),
        "{:?}",
        report.redirect_drops
    );
    assert_eq!(count(RedirectDrop::Program), Some(2));
    assert_eq!(count(RedirectDrop::Aborted), Some(1));
}

#[test]
fn all_verdicts_are_the_kernels_on_af_xdp() {
    check("sq-verdicts-xdp", PortRequest::AfXdp);
}

#[test]
fn all_verdicts_are_the_kernels_on_af_packet() {
    check("sq-verdicts-packet", PortRequest::AfPacket);
}

/// Attaches the program and gives the forwarder and what was obtained.
fn attached(namespace: &Namespace, options: PortOptions) -> (Forwarder, PortMode) {
    let vm = VmBuilder::new(Object::parse(OBJECT).unwrap())
        .build()
        .unwrap();
    setup(&vm, indices(namespace), |name| set_program(&vm, name));
    let start = || {
        let mut forwarder = Forwarder::new(vm, "verdicts", Options::default()).unwrap();
        let infos = forwarder.attach(&[options]).unwrap();
        (forwarder, infos[0].obtained)
    };
    namespace.run(start).unwrap()
}

#[test]
fn a_tap_serves_the_host_it_runs_on() {
    let Some(namespace) = cables("sq-verdicts-tap") else {
        return;
    };
    let options = PortOptions {
        request: PortRequest::Tap,
        ..PortOptions::everything("sqtap")
    };
    let (mut forwarder, obtained) = attached(&namespace, options);
    assert_eq!(obtained, PortMode::Tap);
    // The host's end, from which frames are sent and where those sent back or passed arrive.
    let (mut host, mut far) = (port(&namespace, "sqtap"), port(&namespace, "sqd"));
    let (mut host_pool, mut far_pool) = (pool(), pool());
    let actions = [0, 1, 2, 3, Actions::PORT];
    let frames = actions.map(|action| frame(action, 1, 0));
    send(&mut host, &mut host_pool, &frames);
    let back = receive(&mut host, &mut host_pool, 2, is_experiment);
    let mut kinds: Vec<_> = back
        .iter()
        .map(|frame| (frame[14], frame[5], frame[16]))
        .collect();
    kinds.sort_unstable();
    // Passed as it was but for the program's mark; sent back with its addresses swapped.
    assert_eq!(kinds, [(2, 0x0a, 0x5a), (3, 0x0b, 0x5a)]);
    let redirected = receive(&mut far, &mut far_pool, 1, is_experiment);
    assert_eq!(redirected[0][14..17], [Actions::PORT, 1, 0x5a]);
    namespace.run(|| forwarder.stop()).unwrap().unwrap();
    let report = forwarder.reports().remove(0);
    assert_eq!((report.aborted_by_program, report.redirected), (1, 1));
}

#[test]
fn tagged_frames_meet_the_program_with_their_tags() {
    for request in [PortRequest::AfXdp, PortRequest::AfPacket] {
        let Some(namespace) = cables("sq-verdicts-vlan") else {
            return;
        };
        let options = PortOptions {
            request,
            ..PortOptions::everything("sqa")
        };
        let (mut forwarder, _) = attached(&namespace, options);
        let (mut host, mut wire) = (port(&namespace, "sqa"), port(&namespace, "sqb"));
        let (mut host_pool, mut wire_pool) = (pool(), pool());
        // Were it not for the tag, the program would send it back.
        let mut tagged = frame(3, 0, 0);
        tagged.splice(12..12, [0x81, 0x00, 0x60, 0x2a]);
        send(&mut wire, &mut wire_pool, &[tagged.clone(), frame(3, 0, 0)]);
        let ours = |frame: &[u8]| frame[12..14] == [0x81, 0] || is_experiment(frame);
        let passed = receive(&mut host, &mut host_pool, 1, |frame| {
            frame[12..14] == [0x81, 0]
        });
        assert_eq!(passed, [tagged], "{request}");
        let back = receive(&mut wire, &mut wire_pool, 1, ours);
        assert!(
            is_experiment(&back[0]),
            "{request}: the tagged one came back"
        );
        namespace.run(|| forwarder.stop()).unwrap().unwrap();
    }
}
