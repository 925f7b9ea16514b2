//! The control plane changes the balancer while packets come: each change holds from the next packet on, none is seen
//! before an earlier one, and no packet is lost, whether or not what maps hold is part of the code.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../io/packet/tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use squalus_core::{Action, Config, Mac, NewReal, VipKey};
use squalus_dataplane::user::{PortAndPool, UserOptions};
use squalus_dataplane::{Controller, Dataplane, SessionTables, Settings, UserDataplane};
use squalus_port::{MemoryPort, Pool, PoolConfig, Wire};

use support::{PATIENCE, udp_to};

const OBJECT: &[u8] = include_bytes!("../../../bpf/objects/balancer.bpf.o");
const VIP: [u8; 4] = [10, 99, 0, 100];
/// A VIP that comes and goes.
const COMING: [u8; 4] = [10, 99, 0, 101];
/// How many changes of the MAC address and then of the real.
const ROUNDS: u8 = 36;

/// The router's address in a round.
fn mac(round: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, round])
}

/// The only real in a round.
fn real(round: u8) -> [u8; 4] {
    [10, 1, 1, round + 1]
}

fn vip(address: [u8; 4]) -> VipKey {
    VipKey {
        address: address.into(),
        port: 53,
        proto: 17,
    }
}

fn put(controller: &mut Controller<UserDataplane>, action: Action, address: [u8; 4], vip: VipKey) {
    let real = NewReal {
        address: address.into(),
        weight: 1,
        flags: 0,
    };
    let refused = controller.modify_reals(action, &[real], vip).unwrap();
    assert!(refused.is_empty(), "{refused:?}");
}

fn balancer(specialise: bool) -> Controller<UserDataplane> {
    let options = UserOptions {
        specialise,
        cores: vec![0, 1],
        ..UserOptions::default()
    };
    let settings = Settings {
        balancer: Config {
            mac: mac(0),
            ..Config::default()
        },
        sessions: SessionTables {
            entries: 200_000,
            cpus: vec![0, 1],
        },
    };
    let dataplane = UserDataplane::load(OBJECT, options).unwrap();
    let mut controller = Controller::load(dataplane, settings).unwrap();
    controller.add_vip(vip(VIP), 0).unwrap();
    put(&mut controller, Action::Add, real(0), vip(VIP));
    controller
}

fn lane(name: &str) -> (PortAndPool, Wire) {
    let (port, wire) = MemoryPort::new(name, 100_000);
    let pool = Pool::new(&PoolConfig {
        frames: 512,
        ..PoolConfig::default()
    });
    ((Box::new(port), pool.unwrap()), wire)
}

/// A packet of a session that nobody has seen, if there were less than 2^24 before.
fn fresh(destination: [u8; 4], session: &mut u32) -> Vec<u8> {
    *session += 1;
    let [_, network, host, port] = session.to_be_bytes();
    let mut frame = udp_to(destination, u16::from(port) + 1000, b"hello");
    // Adding to one word what is taken from another leaves the checksum as it is.
    frame[28] = network;
    frame[29] = host;
    frame[24..26].fill(0);
    let words = frame[14..34].chunks(2);
    let sum: u32 = words
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!sum as u16).to_be_bytes());
    frame
}

/// The rounds that a tunnelled frame shows: of its MAC address, and of its real.
fn rounds(frame: &[u8]) -> (u8, u8) {
    assert_eq!(
        (&frame[..5], &frame[12..14]),
        (&[2, 0, 0, 0, 1][..], &[8, 0][..])
    );
    assert_eq!(frame[30..33], [10, 1, 1]);
    (frame[5], frame[33] - 1)
}

/// Sends packets of new sessions until told to end, and looks at what becomes of them. Returns how many: a thousand
/// at least.
fn traffic(wire: &Wire, over: &AtomicBool) -> usize {
    let (mut session, mut newest, mut total) = (0, 0, 0);
    while !over.load(SeqCst) || total <= 1000 {
        for _ in 0..64 {
            assert!(wire.push(&fresh(VIP, &mut session)));
        }
        assert!(wire.wait_sent(64, PATIENCE), "a packet was lost");
        let sent = wire.take_sent();
        total += sent.len();
        for frame in sent {
            let (mac, real) = rounds(&frame);
            // The MAC address changes first, and a packet asks for it last.
            assert!(real <= mac, "MAC of {mac}, real of {real}");
            assert!(mac >= newest, "MAC of {mac} after that of {newest}");
            newest = mac;
        }
    }
    total
}

/// Whether packets that begin now see this round, and the VIP that comes and goes.
fn check(wire: &Wire, session: &mut u32, round: u8) {
    for _ in 0..20 {
        assert!(wire.push(&fresh(VIP, session)));
    }
    assert!(wire.wait_sent(20, PATIENCE));
    for frame in wire.take_sent() {
        assert_eq!(rounds(&frame), (round, round));
    }
    let other = fresh(COMING, session);
    assert!(wire.push(&other));
    if round.is_multiple_of(2) {
        let mut passed = Vec::new();
        let start = Instant::now();
        while passed.is_empty() && start.elapsed() < PATIENCE {
            passed = wire.take_passed();
        }
        assert_eq!(passed, [other]);
    } else {
        assert!(wire.wait_sent(1, PATIENCE));
        assert_eq!(wire.take_sent()[0][34..], other[14..]);
    }
}

fn change(controller: &mut Controller<UserDataplane>, round: u8) {
    controller.change_mac(mac(round)).unwrap();
    put(controller, Action::Add, real(round), vip(VIP));
    put(controller, Action::Delete, real(round - 1), vip(VIP));
    if round.is_multiple_of(2) {
        controller.del_vip(vip(COMING)).unwrap();
    } else {
        controller.add_vip(vip(COMING), 0).unwrap();
        put(controller, Action::Add, [10, 2, 2, 2], vip(COMING));
    }
}

/// Waits for code with contents in it, which is not made while runs are counted.
fn until_special(controller: &mut Controller<UserDataplane>) {
    let start = Instant::now();
    let vm = controller.dataplane_mut().vm_mut();
    while !vm.settle().unwrap().special {
        assert!(start.elapsed() < PATIENCE, "{:?}", vm.code());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn changes_hold_from_the_next_packet_on(specialise: bool) {
    let mut controller = balancer(specialise);
    let ((one, steady), (two, asked)) = (lane("m0"), lane("m1"));
    let dataplane = controller.dataplane_mut();
    dataplane.start(vec![vec![one], vec![two]]).unwrap();
    let over = AtomicBool::new(false);
    let mut session = 1 << 23;
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| traffic(&steady, &over));
        check(&asked, &mut session, 0);
        for round in 1..=ROUNDS {
            change(&mut controller, round);
            check(&asked, &mut session, round);
            if specialise && round.is_multiple_of(3) {
                // New code, in which this round is, and packets that run it.
                until_special(&mut controller);
                check(&asked, &mut session, round);
            }
        }
        over.store(true, SeqCst);
        assert!(traffic.join().unwrap() > 1000);
    });
    let code = controller.dataplane().code().unwrap();
    match specialise {
        // Where code that counts runs came in between there was nothing to withdraw.
        true => assert!(code.withdrawn >= 1, "{code:?}"),
        false => assert_eq!((code.special, code.withdrawn), (false, 0), "{code:?}"),
    }
    controller.dataplane_mut().detach().unwrap();
}

#[test]
fn with_contents_in_the_code() {
    changes_hold_from_the_next_packet_on(true);
}

#[test]
fn without() {
    changes_hold_from_the_next_packet_on(false);
}
