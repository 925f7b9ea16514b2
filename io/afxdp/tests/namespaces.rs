//! AF_XDP ports on virtual interfaces in network namespaces of their own. Needs root.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../packet/tests/support/mod.rs"]
mod support;

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use squalus_afxdp::{
    AfXdpConfig, AfXdpPort, AttachMode, Filter, Reinjection, Steering, attached_program,
};
use squalus_packet::{PacketPort, TapConfig, TapPort};
use squalus_port::{
    Burst, FrameSize, HostPath, Pool, PoolConfig, Port, PortError, PortMode, PortRequest, PortState,
};
use squalus_testkit::Namespace;

use support::{
    EXPERIMENT, PATIENCE, experiment, ip, ipv6_to, pool, port, receive, send, udp_frame, udp_to,
    veth,
};

const VIP: [u8; 4] = [10, 99, 0, 100];
const VIP6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

fn steering(namespace: &Namespace, mode: AttachMode, filter: Filter) -> Arc<Steering> {
    let steering = namespace
        .run(|| Steering::open("sqa", mode, filter))
        .unwrap()
        .unwrap();
    steering.add_vip(VIP.into()).unwrap();
    steering.add_vip(VIP6.into()).unwrap();
    Arc::new(steering)
}

fn config(steering: &Arc<Steering>, asked: PortRequest) -> AfXdpConfig {
    AfXdpConfig {
        steering: Arc::clone(steering),
        queue: 0,
        asked,
        host: Err("not tested".into()),
    }
}

fn open(
    namespace: &Namespace,
    config: AfXdpConfig,
    pool: &mut Pool,
) -> Result<AfXdpPort, PortError> {
    namespace.run(|| AfXdpPort::open(config, pool)).unwrap()
}

/// A port on interface `sqa`, and the pool of its frames.
fn opened(namespace: &Namespace, config: AfXdpConfig) -> (AfXdpPort, Pool) {
    let mut pool = pool();
    let port = open(namespace, config, &mut pool).unwrap();
    (port, pool)
}

/// The interface on the other end of the pair.
fn other_end(namespace: &Namespace) -> (PacketPort, Pool) {
    (port(namespace, "sqb"), pool())
}

/// Sends `rounds` bursts of frames to the VIP and checks that each comes back as it was.
fn check_echo(namespace: &Namespace, port_a: &mut AfXdpPort, pool_a: &mut Pool, rounds: u16) {
    let (mut wire, mut pool_b) = other_end(namespace);
    let mut burst = Burst::new();
    for round in 0..rounds {
        let frames: Vec<_> = (0..64)
            .map(|n| {
                let number = round * 64 + n;
                udp_to(
                    VIP,
                    number,
                    &vec![number as u8; 18 + usize::from(number) % 1455],
                )
            })
            .collect();
        send(&mut wire, &mut pool_b, &frames);
        let deadline = Instant::now() + PATIENCE;
        let mut echoed = 0;
        while echoed < frames.len() && Instant::now() < deadline {
            port_a.wait(Duration::from_millis(10));
            port_a.recv(pool_a, &mut burst);
            echoed += port_a.send(pool_a, &mut burst);
        }
        let back = receive(&mut wire, &mut pool_b, frames.len(), |frame| {
            frame[30..34] == VIP
        });
        assert_eq!(back, frames);
    }
}

#[test]
fn every_frame_to_a_vip_is_echoed_unchanged() {
    for mode in [AttachMode::Auto, AttachMode::Generic] {
        let Some(namespace) = veth("sq-xdp-echo") else {
            return;
        };
        let steering = steering(&namespace, mode, Filter::Vips);
        let native = mode == AttachMode::Auto;
        assert_eq!(steering.mode() == AttachMode::Native, native);
        let (mut port_a, mut pool_a) = opened(&namespace, config(&steering, PortRequest::AfXdp));
        let info = port_a.info();
        assert_eq!(
            (info.asked, info.obtained),
            (PortRequest::AfXdp, PortMode::AfXdpCopy)
        );
        assert_eq!(
            info.notices
                .iter()
                .any(|notice| notice.contains("zero copy")),
            native
        );
        // More rounds than the pool has bursts: frames must come back from every ring.
        check_echo(&namespace, &mut port_a, &mut pool_a, 100);
        let stats = port_a.stats();
        assert_eq!((stats.rx_frames, stats.tx_frames), (6400, 6400));
        assert_eq!((stats.rx_dropped, stats.tx_dropped), (0, 0));
    }
}

#[test]
fn a_program_may_grow_the_head_up_to_the_kernels_headroom() {
    let Some(namespace) = veth("sq-xdp-grow") else {
        return;
    };
    let steering = steering(&namespace, AttachMode::Auto, Filter::Vips);
    let (mut port_a, mut pool_a) = opened(&namespace, config(&steering, PortRequest::Auto));
    let (mut wire, mut pool_b) = other_end(&namespace);
    let sent = udp_to(VIP, 9, &[7; 1000]);
    send(&mut wire, &mut pool_b, std::slice::from_ref(&sent));
    let mut burst = Burst::new();
    assert!(port_a.wait(PATIENCE));
    assert_eq!(port_a.recv(&mut pool_a, &mut burst), 1);
    let frame = &mut burst[0];
    assert_eq!(frame.start(), 256);
    let len = frame.len();
    assert!(pool_a.set_range(frame, 0, len + 256));
    pool_a.data_mut(frame)[..256].copy_from_slice(&experiment(1, 256));
    assert_eq!(port_a.send(&mut pool_a, &mut burst), 1);
    let back = receive(&mut wire, &mut pool_b, 1, |frame| frame.len() > 1200);
    assert_eq!(back[0][..256], experiment(1, 256));
    assert_eq!(back[0][256..], sent);

    burst
        .push(pool_a.alloc_from(&experiment(1, 1600)).unwrap())
        .unwrap();
    burst.push(pool_a.alloc_from(&[0; 10]).unwrap()).unwrap();
    assert_eq!(port_a.send(&mut pool_a, &mut burst), 0);
    let stats = port_a.stats();
    assert_eq!((stats.tx_too_long, stats.tx_dropped), (1, 1));
}

#[test]
fn only_vips_are_taken_from_the_host() {
    let Some(namespace) = veth("sq-xdp-steer") else {
        return;
    };
    ip(&namespace, "addr add 10.99.0.1/24 dev sqa");
    let host = namespace
        .run(|| UdpSocket::bind("10.99.0.1:53"))
        .unwrap()
        .unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    let steering = steering(&namespace, AttachMode::Auto, Filter::Vips);
    let (mut port_a, mut pool_a) = opened(&namespace, config(&steering, PortRequest::AfXdp));
    let (mut wire, mut pool_b) = other_end(&namespace);
    let mut buffer = [0; 100];

    let to_vip6 = ipv6_to(VIP6, 17, &[0, 1, 0, 53, 0, 8, 0, 0]);
    let vip6_too_far = ipv6_to([0xfd; 16], 17, &[0, 1, 0, 53, 0, 8, 0, 0]);
    send(
        &mut wire,
        &mut pool_b,
        &[
            udp_frame(1),
            vip6_too_far,
            to_vip6.clone(),
            udp_to(VIP, 2, b"vip"),
        ],
    );
    assert_eq!(host.recv_from(&mut buffer).unwrap().1.port(), 1);
    let seen = receive(&mut port_a, &mut pool_a, 2, |_| true);
    assert_eq!(seen, [to_vip6, udp_to(VIP, 2, b"vip")]);

    // The host's own address becomes a VIP, and is none again.
    steering.add_vip([10, 99, 0, 1].into()).unwrap();
    send(&mut wire, &mut pool_b, &[udp_frame(3)]);
    assert_eq!(
        receive(&mut port_a, &mut pool_a, 1, |_| true),
        [udp_frame(3)]
    );
    assert!(steering.remove_vip([10, 99, 0, 1].into()).unwrap());
    assert!(!steering.remove_vip([10, 99, 0, 1].into()).unwrap());
    send(&mut wire, &mut pool_b, &[udp_frame(4)]);
    assert_eq!(
        host.recv_from(&mut buffer).unwrap().1.port(),
        4,
        "3 was not for the host"
    );

    let only = [[10, 99, 0, 7].into()].into();
    steering.set_vips(&only).unwrap();
    assert_eq!(steering.vips(), only);
    send(
        &mut wire,
        &mut pool_b,
        &[udp_to(VIP, 5, b""), udp_to([10, 99, 0, 7], 6, b"")],
    );
    assert_eq!(
        receive(&mut port_a, &mut pool_a, 1, |_| true),
        [udp_to([10, 99, 0, 7], 6, b"")]
    );
}

#[test]
fn all_traffic_leaves_neighbour_discovery_to_the_host() {
    let Some(namespace) = veth("sq-xdp-all") else {
        return;
    };
    let steering = steering(&namespace, AttachMode::Auto, Filter::All);
    let (mut port_a, mut pool_a) = opened(&namespace, config(&steering, PortRequest::AfXdp));
    let (mut wire, mut pool_b) = other_end(&namespace);
    let icmp6 = |kind| ipv6_to([0xfd; 16], 58, &[kind, 0, 0, 0, 0, 0, 0, 0]);
    let expected = [
        icmp6(132),
        icmp6(138),
        udp_frame(1),
        icmp6(128),
        ipv6_to([9; 16], 6, &[135; 20]),
    ];
    let mut sent = vec![experiment(1, 60), icmp6(133), icmp6(135), icmp6(137)];
    sent.extend(expected.clone());
    send(&mut wire, &mut pool_b, &sent);
    // The hosts' own router solicitations and multicast reports are no concern here.
    let ours = |frame: &[u8]| frame[11] == 0x0b && (frame[12] == 8 || frame[37] == 2);
    assert_eq!(
        receive(&mut port_a, &mut pool_a, expected.len(), ours),
        expected
    );
}

#[test]
fn passed_frames_reach_the_host_through_a_tap() {
    let Some(namespace) = veth("sq-xdp-pass") else {
        return;
    };
    ip(&namespace, "addr add 10.99.0.1/24 dev sqa");
    ip(&namespace, "addr add 10.99.0.100/32 dev lo");
    ip(&namespace, "link set lo up");
    let host = namespace
        .run(|| UdpSocket::bind("10.99.0.100:53"))
        .unwrap()
        .unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    let steering = steering(&namespace, AttachMode::Auto, Filter::Vips);
    let tap = TapConfig {
        mac: Some(steering.interface().mac),
        ..TapConfig::new("sq-pass0")
    };
    let tap = namespace.run(|| TapPort::open(&tap)).unwrap().unwrap();
    let config = AfXdpConfig {
        host: Ok(Box::new(tap)),
        ..config(&steering, PortRequest::AfXdp)
    };
    let (mut port_a, mut pool_a) = opened(&namespace, config);
    assert_eq!(port_a.info().host, HostPath::Tap("sq-pass0".into()));
    let (mut wire, mut pool_b) = other_end(&namespace);
    send(&mut wire, &mut pool_b, &[udp_to(VIP, 77, b"for the host")]);
    let mut burst = Burst::new();
    assert!(port_a.wait(PATIENCE));
    port_a.recv(&mut pool_a, &mut burst);
    assert_eq!(port_a.pass(&mut pool_a, &mut burst), 1);
    let mut buffer = [0; 100];
    let (len, from) = host.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..len], from.to_string().as_str()),
        (&b"for the host"[..], "10.99.0.2:77")
    );
    // The host's answer takes its own route, out of the interface.
    host.send_to(b"answer", from).unwrap();
    let arp = receive(&mut wire, &mut pool_b, 1, |frame| frame[12..14] == [8, 6]);
    assert_eq!(
        arp[0][38..42],
        [10, 99, 0, 2],
        "the host asks for the client on the interface"
    );
}

/// An ARP request for 10.99.0.1 from 10.99.0.2.
fn arp_request() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 0x0b, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([2, 0, 0, 0, 0, 0x0b, 10, 99, 0, 2]);
    frame.extend([0, 0, 0, 0, 0, 0, 10, 99, 0, 1]);
    frame
}

#[test]
fn everything_comes_and_goes_back_as_the_interfaces_own() {
    let Some(namespace) = veth("sq-xdp-all") else {
        return;
    };
    ip(&namespace, "addr add 10.99.0.1/24 dev sqa");
    let steering = steering(&namespace, AttachMode::Native, Filter::Everything);
    let tap = namespace
        .run(|| TapPort::open(&TapConfig::new("sq-pass0")))
        .unwrap()
        .unwrap();
    let reinjection = namespace
        .run(|| Reinjection::open("sq-pass0", &steering))
        .unwrap();
    let _reinjection = match reinjection {
        Ok(reinjection) => reinjection,
        Err(error) => {
            eprintln!("SKIPPED the way back through a tap: {error}");
            return;
        }
    };
    let config = AfXdpConfig {
        host: Ok(Box::new(tap)),
        ..config(&steering, PortRequest::AfXdp)
    };
    let (mut port_a, mut pool_a) = opened(&namespace, config);
    let (mut wire, mut pool_b) = other_end(&namespace);
    let mut tagged = experiment(3, 200);
    tagged.splice(12..12, [0x81, 0x00, 0x60, 0x2a]);
    let sent = [experiment(1, 60), tagged, arp_request()];
    send(&mut wire, &mut pool_b, &sent);
    let from_b =
        |frame: &[u8]| frame[6..12] == [2, 0, 0, 0, 0, 0x0b] && frame[12..14] != [0x86, 0xdd];
    assert_eq!(receive(&mut port_a, &mut pool_a, 3, from_b), sent);

    // The host hears the request on its interface, and answers there.
    let mut burst = Burst::new();
    let request = pool_a.alloc_from(&arp_request()).unwrap();
    burst.push(request).unwrap();
    assert_eq!(port_a.pass(&mut pool_a, &mut burst), 1);
    let arp = receive(&mut wire, &mut pool_b, 1, |frame| frame[12..14] == [8, 6]);
    assert_eq!(arp[0][20..32], [0, 2, 2, 0, 0, 0, 0, 0x0a, 10, 99, 0, 1]);
    let mut again = Burst::new();
    port_a.recv(&mut pool_a, &mut again);
    let looped = again
        .iter()
        .any(|frame| pool_a.data(frame) == arp_request());
    assert!(!looped, "a frame that went to the host came back");
}

#[test]
fn jumbo_frames_come_and_go_whole() {
    let Some(namespace) = veth("sq-xdp-jumbo") else {
        return;
    };
    ip(&namespace, "link set sqa mtu 9000");
    ip(&namespace, "link set sqb mtu 9000");
    let jumbo = || {
        Pool::new(&PoolConfig {
            frames: 512,
            frame_size: FrameSize::Jumbo,
            ..PoolConfig::default()
        })
        .unwrap()
    };
    let steering = steering(&namespace, AttachMode::Native, Filter::Everything);
    let mut pool_a = jumbo();
    let mut port_a = open(
        &namespace,
        config(&steering, PortRequest::AfXdp),
        &mut pool_a,
    )
    .unwrap();
    assert_eq!(port_a.info().obtained, PortMode::AfXdpCopy);
    let (mut wire, mut pool_b) = (port(&namespace, "sqb"), jumbo());
    let ours = |frame: &[u8]| frame[12..14] == EXPERIMENT;
    // More frames than there are chunks, so that each chunk must come back.
    for round in 0..200 {
        let lengths = [60, 1500, 3500, 3521, 3840, 3841, 7680, 7681, 9014];
        let frames: Vec<_> = lengths.map(|len| experiment(round, len)).into();
        send(&mut wire, &mut pool_b, &frames);
        let mut echo = Burst::new();
        let deadline = Instant::now() + PATIENCE;
        let mut received = Burst::new();
        while echo.len() < frames.len() && Instant::now() < deadline {
            port_a.wait(Duration::from_millis(10));
            port_a.recv(&mut pool_a, &mut received);
            for frame in received.drain() {
                match ours(pool_a.data(&frame)) {
                    true => echo.push(frame).unwrap(),
                    false => pool_a.free(frame),
                }
            }
        }
        let seen: Vec<Vec<u8>> = echo.iter().map(|f| pool_a.data(f).to_vec()).collect();
        assert!(seen == frames, "round {round}");
        assert_eq!(port_a.send(&mut pool_a, &mut echo), frames.len());
        assert!(receive(&mut wire, &mut pool_b, frames.len(), ours) == frames);
    }
    let stats = port_a.stats();
    assert_eq!((stats.rx_dropped, stats.tx_dropped), (0, 0));
    assert_eq!(pool_a.available(), pool_a.capacity());
}

#[test]
fn nothing_stays_attached_and_a_restart_works_at_once() {
    let Some(namespace) = veth("sq-xdp-restart") else {
        return;
    };
    for _ in 0..5 {
        let steering = steering(&namespace, AttachMode::Auto, Filter::Vips);
        let index = steering.interface().index;
        let (mut port_a, mut pool_a) = opened(&namespace, config(&steering, PortRequest::AfXdp));
        check_echo(&namespace, &mut port_a, &mut pool_a, 1);
        drop(steering);
        let attached = || namespace.run(|| attached_program(index)).unwrap().unwrap();
        assert_eq!(
            attached().map(|program| program.name).as_deref(),
            Some("sq_steer")
        );
        drop(port_a);
        // A child that another test is just starting holds all descriptors until it executes its program.
        let deadline = Instant::now() + PATIENCE;
        while attached().is_some() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(attached(), None);
    }
}

#[test]
fn an_interface_that_goes_away_shows() {
    let Some(namespace) = veth("sq-xdp-gone") else {
        return;
    };
    let steering = steering(&namespace, AttachMode::Auto, Filter::Vips);
    let (mut port_a, mut pool_a) = opened(&namespace, config(&steering, PortRequest::AfXdp));
    assert_eq!(port_a.state(), PortState::Up);
    ip(&namespace, "link del sqb");
    assert!(!port_a.wait(Duration::from_millis(1)));
    assert_eq!(port_a.state(), PortState::Failed(libc::ENETDOWN));
    assert!(!port_a.wait(Duration::from_millis(1)));
    let mut burst = Burst::new();
    assert_eq!(port_a.recv(&mut pool_a, &mut burst), 0);
    burst
        .push(pool_a.alloc_from(&udp_frame(1)).unwrap())
        .unwrap();
    port_a.send(&mut pool_a, &mut burst);
    assert!(matches!(port_a.state(), PortState::Failed(_)));
}

#[test]
fn impossible_ports_say_why() {
    let Some(namespace) = veth("sq-xdp-errors") else {
        return;
    };
    let steer = |name: &str, mode| {
        namespace
            .run(|| Steering::open(name, mode, Filter::Vips))
            .unwrap()
    };
    assert!(matches!(
        steer("sqx", AttachMode::Auto),
        Err(PortError::NoInterface(_))
    ));
    let loopback = steer("lo", AttachMode::Native).unwrap_err();
    assert!(
        matches!(loopback, PortError::Unsupported { .. }),
        "{loopback}"
    );

    let first = Arc::new(steer("sqa", AttachMode::Native).unwrap());
    for mode in [AttachMode::Auto, AttachMode::Native, AttachMode::Generic] {
        match steer("sqa", mode) {
            Err(PortError::XdpAttached {
                interface,
                id,
                program,
            }) => {
                assert_eq!((interface.as_str(), program.as_str()), ("sqa", "sq_steer"));
                assert!(id > 0);
            }
            other => panic!("{mode:?}: {other:?}"),
        }
    }

    let mut pool_a = pool();
    let zero_copy = open(
        &namespace,
        config(&first, PortRequest::AfXdpZeroCopy),
        &mut pool_a,
    );
    let error = zero_copy.map(drop).unwrap_err();
    assert!(matches!(&error, PortError::Unsupported { .. }), "{error}");
    let queue_7 = AfXdpConfig {
        queue: 7,
        ..config(&first, PortRequest::AfXdpCopy)
    };
    let error = open(&namespace, queue_7, &mut pool_a)
        .map(drop)
        .unwrap_err();
    assert!(
        matches!(&error, PortError::NoQueue { queue: 7, .. }),
        "{error}"
    );

    let _holder = open(
        &namespace,
        config(&first, PortRequest::AfXdpCopy),
        &mut pool_a,
    )
    .unwrap();
    let mut pool_b = pool();
    let error = open(
        &namespace,
        config(&first, PortRequest::AfXdpCopy),
        &mut pool_b,
    )
    .map(drop)
    .unwrap_err();
    assert!(
        matches!(&error, PortError::QueueBusy { queue: 0, .. }),
        "{error}"
    );
}
