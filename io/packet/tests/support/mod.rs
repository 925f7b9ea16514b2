//! What the tests of ports in namespaces share: a cable, frames, sending and receiving.
#![allow(dead_code, reason = "every test file uses its part")]

use std::process::Command;
use std::time::{Duration, Instant};

use squalus_packet::{PacketConfig, PacketPort};
use squalus_port::{Burst, Pool, PoolConfig, Port};
use squalus_testkit::{Namespace, stay_on_this_cpu};

/// Longest time to wait for something that takes no time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An ethertype for experiments, which no host answers (IEEE 802).
pub const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// A namespace with a veth pair `sqa`-`sqb`, both ends up; `None`, and a note, without the rights. From now on the
/// calling thread stays on its CPU, so that frames arrive in the order in which it sends them.
pub fn veth(label: &str) -> Option<Namespace> {
    let namespace = match Namespace::new(label) {
        Ok(namespace) => namespace,
        Err(error) => {
            eprintln!("SKIPPED {label}: needs root ({error})");
            return None;
        }
    };
    stay_on_this_cpu();
    ip(
        &namespace,
        "link add sqa address 02:00:00:00:00:0a type veth peer name sqb address 02:00:00:00:00:0b",
    );
    for end in ["sqa", "sqb"] {
        ip(&namespace, &format!("link set {end} up"));
    }
    for end in ["sqa", "sqb"] {
        wait_until_up(&namespace, end);
    }
    Some(namespace)
}

/// Waits until the kernel has noticed the carrier; before that a link silently loses what is sent.
pub fn wait_until_up(namespace: &Namespace, interface: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !ip(namespace, &format!("-o link show {interface}")).contains("state UP") {
        assert!(Instant::now() < deadline, "{interface} does not come up");
    }
    // The state shows before the queue is there; this waits for the lock under which both are set.
    ip(namespace, &format!("link set {interface} up"));
}

/// Runs `ip` in the namespace and returns what it prints.
pub fn ip(namespace: &Namespace, arguments: &str) -> String {
    let run = || {
        let output = Command::new("ip")
            .args(arguments.split(' '))
            .output()
            .expect("ip runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    namespace.run(run).unwrap()
}

pub fn port(namespace: &Namespace, interface: &str) -> PacketPort {
    let config = PacketConfig::new(interface);
    namespace
        .run(|| PacketPort::open(&config))
        .unwrap()
        .unwrap()
}

pub fn pool() -> Pool {
    Pool::new(&PoolConfig::default()).unwrap()
}

pub fn experiment(number: u16, len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x0a]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x0b]);
    frame[12..14].copy_from_slice(&EXPERIMENT);
    frame[14..16].copy_from_slice(&number.to_be_bytes());
    for (n, byte) in frame[16..].iter_mut().enumerate() {
        *byte = (n as u16 ^ number) as u8;
    }
    frame
}

pub fn send(port: &mut impl Port, pool: &mut Pool, frames: &[Vec<u8>]) {
    let mut burst = Burst::new();
    for frame in frames {
        burst.push(pool.alloc_from(frame).unwrap()).unwrap();
    }
    assert_eq!(port.send(pool, &mut burst), frames.len());
}

/// Receives `count` frames that `wanted` accepts and frees the others, which are the hosts' own chatter.
pub fn receive(
    port: &mut impl Port,
    pool: &mut Pool,
    count: usize,
    wanted: impl Fn(&[u8]) -> bool,
) -> Vec<Vec<u8>> {
    receive_within(port, pool, count, PATIENCE, wanted)
}

/// The same, with another patience.
pub fn receive_within(
    port: &mut impl Port,
    pool: &mut Pool,
    count: usize,
    patience: Duration,
    wanted: impl Fn(&[u8]) -> bool,
) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + patience;
    let (mut frames, mut burst) = (Vec::new(), Burst::new());
    while frames.len() < count && Instant::now() < deadline {
        port.wait(Duration::from_millis(10));
        port.recv(pool, &mut burst);
        let good = burst
            .iter()
            .map(|frame| pool.data(frame))
            .filter(|data| wanted(data));
        frames.extend(good.map(<[u8]>::to_vec));
        burst.free(pool);
    }
    frames
}

pub fn is_experiment(frame: &[u8]) -> bool {
    frame[12..14] == EXPERIMENT
}

/// A UDP datagram from 10.99.0.2 to 10.99.0.1, port 53, without a UDP checksum.
pub fn udp_frame(source_port: u16) -> Vec<u8> {
    udp_to([10, 99, 0, 1], source_port, b"ping")
}

/// A UDP datagram from 10.99.0.2 to port 53 of any address.
pub fn udp_to(destination: [u8; 4], source_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 0x0a, 2, 0, 0, 0, 0, 0x0b, 8, 0, 0x45, 0];
    frame.extend((28 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 0, 2]);
    frame.extend(destination);
    let words = frame[14..34].chunks(2);
    let sum: u32 = words
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(source_port.to_be_bytes());
    frame.extend([0, 53]);
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// An IPv6 packet from fd00::2 with this next header and payload.
pub fn ipv6_to(destination: [u8; 16], next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![
        2, 0, 0, 0, 0, 0x0a, 2, 0, 0, 0, 0, 0x0b, 0x86, 0xdd, 0x60, 0, 0, 0,
    ];
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([
        next_header,
        64,
        0xfd,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        2,
    ]);
    frame.extend(destination);
    frame.extend(payload);
    frame
}
