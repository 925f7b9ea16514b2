//! AF_PACKET and tap ports on virtual interfaces in network namespaces of their own. Needs root.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use squalus_packet::{Fanout, PacketConfig, PacketPort, TapConfig, TapPort};
use squalus_port::{Burst, HostPath, MacAddr, Pool, PoolConfig, Port, PortError, PortState};

use support::{
    PATIENCE, experiment, ip, is_experiment, pool, port, receive, receive_within, send, udp_frame,
    veth, wait_until_up,
};

#[test]
fn every_frame_is_echoed_unchanged() {
    let Some(namespace) = veth("sq-packet-echo") else {
        return;
    };
    let (mut a, mut b) = (port(&namespace, "sqa"), port(&namespace, "sqb"));
    let (mut pool_a, mut pool_b) = (pool(), pool());
    let (mut burst, mut echo) = (Burst::new(), Burst::new());
    let mut echoed = 0;
    for round in 0..40_u16 {
        let frames: Vec<_> = (0..50)
            .map(|n| experiment(round * 50 + n, 60 + usize::from(round * 50 + n) % 1455))
            .collect();
        send(&mut b, &mut pool_b, &frames);
        let deadline = Instant::now() + PATIENCE;
        let mut this_round = 0;
        while this_round < frames.len() && Instant::now() < deadline {
            a.wait(Duration::from_millis(10));
            a.recv(&mut pool_a, &mut burst);
            for frame in burst.drain() {
                if is_experiment(pool_a.data(&frame)) {
                    echo.push(frame).unwrap();
                } else {
                    pool_a.free(frame);
                }
            }
            this_round += a.send(&mut pool_a, &mut echo);
        }
        assert_eq!(
            receive(&mut b, &mut pool_b, frames.len(), is_experiment),
            frames
        );
        echoed += this_round;
    }
    assert_eq!(echoed, 2000);
    assert_eq!(a.state(), PortState::Up);
    let (stats_a, stats_b) = (a.stats(), b.stats());
    assert_eq!(stats_a.tx_frames, 2000);
    assert_eq!(stats_b.tx_frames, 2000);
    assert_eq!(
        (stats_a.rx_dropped, stats_a.tx_dropped, stats_a.rx_too_long),
        (0, 0, 0)
    );
    // What a port holds to receive into is all that is missing.
    assert!(pool_a.capacity() - pool_a.available() <= 64);
}

#[test]
fn a_program_may_grow_the_head_and_own_frames_do_not_return() {
    let Some(namespace) = veth("sq-packet-grow") else {
        return;
    };
    let (mut a, mut b) = (port(&namespace, "sqa"), port(&namespace, "sqb"));
    let (mut pool_a, mut pool_b) = (pool(), pool());
    let mut burst = Burst::new();
    let mut frame = pool_a.alloc_from(&experiment(7, 100)).unwrap();
    let start = frame.start();
    assert!(pool_a.set_range(&mut frame, start - 40, 140));
    pool_a.data_mut(&mut frame).copy_within(40..54, 0);
    burst.push(frame).unwrap();
    assert_eq!(a.send(&mut pool_a, &mut burst), 1);
    let frames = receive(&mut b, &mut pool_b, 1, is_experiment);
    assert_eq!(frames[0].len(), 140);
    assert_eq!(frames[0][54..], experiment(7, 100)[14..]);

    send(&mut b, &mut pool_b, &[experiment(8, 60)]);
    let seen = receive(&mut a, &mut pool_a, 1, is_experiment);
    assert_eq!(
        seen,
        [experiment(8, 60)],
        "the port's own frame would have come first"
    );
}

#[test]
fn vlan_tags_are_where_they_were_sent() {
    let Some(namespace) = veth("sq-packet-vlan") else {
        return;
    };
    let (mut a, mut b) = (port(&namespace, "sqa"), port(&namespace, "sqb"));
    let (mut pool_a, mut pool_b) = (pool(), pool());
    let mut tagged = experiment(3, 200);
    tagged.splice(12..12, [0x81, 0x00, 0x60, 0x2a]);
    send(&mut b, &mut pool_b, std::slice::from_ref(&tagged));
    let frames = receive(&mut a, &mut pool_a, 1, |frame| frame.len() > 150);
    assert_eq!(frames, [tagged]);
}

#[test]
fn too_long_frames_are_counted_both_ways() {
    let Some(namespace) = veth("sq-packet-long") else {
        return;
    };
    ip(&namespace, "link set sqb mtu 3000");
    ip(&namespace, "link set sqa mtu 3000");
    let (mut a, mut b) = (port(&namespace, "sqa"), port(&namespace, "sqb"));
    let (mut pool_a, mut pool_b) = (
        pool(),
        Pool::new(&PoolConfig {
            frame_size: squalus_port::FrameSize::Page,
            ..PoolConfig::default()
        })
        .unwrap(),
    );
    send(
        &mut b,
        &mut pool_b,
        &[experiment(1, 2500), experiment(2, 100)],
    );
    let frames = receive(&mut a, &mut pool_a, 1, is_experiment);
    assert_eq!(frames, [experiment(2, 100)]);
    assert_eq!(a.stats().rx_too_long, 1);

    let mut burst = Burst::new();
    for frame in [experiment(3, 60), experiment(4, 3500), experiment(5, 60)] {
        burst.push(pool_b.alloc_from(&frame).unwrap()).unwrap();
    }
    assert_eq!(b.send(&mut pool_b, &mut burst), 2);
    assert_eq!(b.stats().tx_too_long, 1);
    let frames = receive(&mut a, &mut pool_a, 2, is_experiment);
    assert_eq!(frames, [experiment(3, 60), experiment(5, 60)]);
    assert_eq!(b.state(), PortState::Up);
}

#[test]
fn checksums_left_to_the_card_are_completed() {
    let Some(namespace) = veth("sq-packet-csum") else {
        return;
    };
    // Offloads stay on: the host leaves UDP checksums on sqb unfinished.
    ip(&namespace, "addr add 10.99.0.2/24 dev sqb");
    ip(
        &namespace,
        "neigh add 10.99.0.1 lladdr 02:00:00:00:00:0a dev sqb nud permanent",
    );
    let mut a = port(&namespace, "sqa");
    let mut pool_a = pool();
    let socket = namespace
        .run(|| UdpSocket::bind("10.99.0.2:4000"))
        .unwrap()
        .unwrap();
    socket
        .send_to(b"unfinished business", "10.99.0.1:53")
        .unwrap();
    let frames = receive(&mut a, &mut pool_a, 1, |frame| {
        frame[12..14] == [8, 0] && frame[23] == 17
    });
    let frame = &frames[0];
    assert_eq!(&frame[42..], b"unfinished business");
    let words = |bytes: &[u8]| -> u64 {
        bytes
            .chunks(2)
            .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
            .sum()
    };
    let sum = words(&frame[26..34]) + 17 + words(&frame[38..40]) + words(&frame[34..]);
    assert_eq!(sum % 0xffff, 0, "pseudo header and datagram sum to ffff");
}

#[test]
fn a_fanout_group_shares_the_frames() {
    let Some(namespace) = veth("sq-packet-fanout") else {
        return;
    };
    let member = |member| {
        let config = PacketConfig {
            fanout: Some(Fanout { group: 77, member }),
            ..PacketConfig::new("sqa")
        };
        namespace
            .run(|| PacketPort::open(&config))
            .unwrap()
            .unwrap()
    };
    let (mut one, mut two, mut b) = (member(0), member(1), port(&namespace, "sqb"));
    let (mut pool_one, mut pool_two, mut pool_b) = (pool(), pool(), pool());
    let frames: Vec<_> = (0..60_u16).map(|n| udp_frame(1000 + n)).collect();
    send(&mut b, &mut pool_b, &frames);
    let is_ours = |frame: &[u8]| frame[12..14] == [8, 0] && frame[36..38] == [0, 53];
    let deadline = Instant::now() + PATIENCE;
    let mut seen: (Vec<_>, Vec<_>) = Default::default();
    while seen.0.len() + seen.1.len() < 60 && Instant::now() < deadline {
        let mut burst = Burst::new();
        one.recv(&mut pool_one, &mut burst);
        seen.0.extend(
            burst
                .iter()
                .map(|frame| pool_one.data(frame).to_vec())
                .filter(|f| is_ours(f)),
        );
        burst.free(&mut pool_one);
        two.recv(&mut pool_two, &mut burst);
        seen.1.extend(
            burst
                .iter()
                .map(|frame| pool_two.data(frame).to_vec())
                .filter(|f| is_ours(f)),
        );
        burst.free(&mut pool_two);
    }
    assert!(
        !seen.0.is_empty() && !seen.1.is_empty(),
        "{} and {}",
        seen.0.len(),
        seen.1.len()
    );
    let mut all: Vec<_> = seen.0.into_iter().chain(seen.1).collect();
    all.sort();
    assert_eq!(all, frames);
    assert_eq!(two.info().queue, 1);
}

#[test]
fn a_link_that_goes_down_and_up_heals() {
    let Some(namespace) = veth("sq-packet-down") else {
        return;
    };
    let (mut a, mut b) = (port(&namespace, "sqa"), port(&namespace, "sqb"));
    let (mut pool_a, mut pool_b) = (pool(), pool());
    let mut burst = Burst::new();
    ip(&namespace, "link set sqa down");
    a.wait(PATIENCE);
    while a.recv(&mut pool_a, &mut burst) > 0 {
        burst.free(&mut pool_a);
    }
    assert_eq!(a.state(), PortState::Failed(libc::ENETDOWN));
    burst
        .push(pool_a.alloc_from(&experiment(1, 60)).unwrap())
        .unwrap();
    assert_eq!(a.send(&mut pool_a, &mut burst), 0);
    assert_eq!(a.stats().tx_dropped, 1);

    ip(&namespace, "link set sqa up");
    wait_until_up(&namespace, "sqa");
    wait_until_up(&namespace, "sqb");
    send(&mut b, &mut pool_b, &[experiment(2, 60)]);
    assert_eq!(
        receive(&mut a, &mut pool_a, 1, is_experiment),
        [experiment(2, 60)]
    );
    assert_eq!(a.state(), PortState::Up);
}

#[test]
fn a_tap_hands_frames_to_the_host_and_takes_its_own() {
    let Some(namespace) = veth("sq-tap") else {
        return;
    };
    ip(&namespace, "addr add 10.99.0.1/24 dev sqa");
    let config = TapConfig {
        mac: Some(MacAddr([2, 0, 0, 0, 0, 0x0a])),
        ..TapConfig::new("sq-pass0")
    };
    let open = |queue| {
        let config = TapConfig {
            queue,
            ..config.clone()
        };
        namespace
            .run(move || TapPort::open(&config))
            .unwrap()
            .unwrap()
    };
    let (mut tap, mut second) = (open(0), open(1));
    assert_eq!(tap.info().mac, config.mac);
    assert_eq!(tap.info().notices, Vec::<String>::new());
    let mut pool = pool();

    // The address is sqa's: the host takes packets for it from wherever they come.
    let socket = namespace
        .run(|| UdpSocket::bind("10.99.0.1:53"))
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut burst = Burst::new();
    burst
        .push(pool.alloc_from(&udp_frame(4321)).unwrap())
        .unwrap();
    assert_eq!(tap.pass(&mut pool, &mut burst), 1);
    let mut buffer = [0; 100];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..len], from.to_string().as_str()),
        (&b"ping"[..], "10.99.0.2:4321")
    );
    send(&mut second, &mut pool, &[udp_frame(4322)]);
    assert_eq!(socket.recv_from(&mut buffer).unwrap().1.port(), 4322);

    drop(second);
    ip(&namespace, "addr add 10.98.0.1/24 dev sq-pass0");
    ip(
        &namespace,
        "neigh add 10.98.0.2 lladdr 02:00:00:00:00:0c dev sq-pass0 nud permanent",
    );
    let from_tap = namespace
        .run(|| UdpSocket::bind("10.98.0.1:99"))
        .unwrap()
        .unwrap();
    // The second queue may live on for a moment (see below), and what goes there is lost.
    let frames = (0..100).find_map(|_| {
        from_tap.send_to(b"out", "10.98.0.2:7").unwrap();
        let is_ipv4 = |frame: &[u8]| frame[12..14] == [8, 0];
        let frames = receive_within(&mut tap, &mut pool, 1, PATIENCE / 100, is_ipv4);
        (!frames.is_empty()).then_some(frames)
    });
    let frames = frames.expect("the host sends through the queue that is left");
    assert_eq!(frames[0][..6], [2, 0, 0, 0, 0, 0x0c]);
    assert_eq!(&frames[0][42..], b"out");

    // A process that another test is about to start holds a copy of every descriptor until its `exec`.
    drop(tap);
    let interface = || namespace.run(|| squalus_port::Interface::by_name("sq-pass0"));
    let deadline = Instant::now() + PATIENCE;
    while interface().unwrap().is_ok() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let gone = interface().unwrap();
    assert!(matches!(gone, Err(PortError::NoInterface(_))), "{gone:?}");
}

#[test]
fn changed_frames_reach_the_host_and_others_only_once() {
    let Some(namespace) = veth("sq-packet-changed") else {
        return;
    };
    ip(&namespace, "addr add 10.99.0.1/24 dev sqa");
    ip(
        &namespace,
        "link add sqp type veth peer name sqq address 02:00:00:00:00:0a",
    );
    for end in ["sqp", "sqq"] {
        ip(&namespace, &format!("link set {end} up"));
    }
    wait_until_up(&namespace, "sqq");
    let towards_host = PacketConfig {
        towards_host: true,
        ..PacketConfig::new("sqp")
    };
    let host = namespace
        .run(|| PacketPort::open(&towards_host))
        .unwrap()
        .unwrap();
    assert_eq!(host.info().notices, Vec::<String>::new());
    let mut pool_a = pool();
    let mut a = port(&namespace, "sqa").with_host_path(Box::new(host), &pool_a);
    assert_eq!(a.info().host, HostPath::AlreadyUnlessChanged("sqp".into()));
    let socket = namespace
        .run(|| UdpSocket::bind("10.99.0.1:53"))
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();

    // One frame that the host understands by itself, one that it does only without its first 16 bytes, and
    // one to a port where nobody is until that is changed in place.
    let mut wrapped = experiment(0, 16);
    wrapped.extend(udp_frame(4322));
    let (mut b, mut pool_b) = (port(&namespace, "sqb"), pool());
    let mut misdirected = udp_frame(4323);
    misdirected[37] = 54;
    send(
        &mut b,
        &mut pool_b,
        &[udp_frame(4321), wrapped, misdirected],
    );
    let (mut received, mut burst) = (Burst::new(), Burst::new());
    let deadline = Instant::now() + PATIENCE;
    while burst.len() < 3 && Instant::now() < deadline {
        a.wait(Duration::from_millis(10));
        a.recv(&mut pool_a, &mut received);
        for mut frame in received.drain() {
            let (start, len) = (frame.start(), frame.len());
            if is_experiment(pool_a.data(&frame)) {
                assert!(pool_a.set_range(&mut frame, start + 16, len - 16));
            } else if pool_a.data(&frame)[12..14] != [8, 0] {
                pool_a.free(frame);
                continue;
            } else if pool_a.data(&frame)[37] == 54 {
                pool_a.data_mut(&mut frame)[37] = 53;
            }
            burst.push(frame).unwrap();
        }
    }
    assert_eq!(a.pass(&mut pool_a, &mut burst), 3);
    assert_eq!((a.stats().passed, a.stats().pass_dropped), (3, 0));
    let mut buffer = [0; 100];
    let mut ports = [0; 3].map(|_| socket.recv_from(&mut buffer).unwrap().1.port());
    ports.sort_unstable();
    assert_eq!(ports, [4321, 4322, 4323]);
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(socket.recv_from(&mut buffer).is_err(), "a frame came twice");
}

#[test]
fn impossible_ports_say_why() {
    let Some(namespace) = veth("sq-packet-errors") else {
        return;
    };
    let open = |name: &str| {
        namespace
            .run(|| PacketPort::open(&PacketConfig::new(name)).map(drop))
            .unwrap()
    };
    assert!(matches!(open("sqx"), Err(PortError::NoInterface(name)) if name == "sqx"));
    let tap = |name: &str| {
        namespace
            .run(|| TapPort::open(&TapConfig::new(name)).map(drop))
            .unwrap()
    };
    assert!(matches!(tap("sqa"), Err(PortError::TapBusy(_))));
    assert!(matches!(
        tap("a-much-too-long-name"),
        Err(PortError::Config(_))
    ));
    let unknown = namespace
        .run(|| squalus_packet::disable_offloads("sqx"))
        .unwrap();
    assert!(matches!(unknown, Err(PortError::NoInterface(_))));
}
