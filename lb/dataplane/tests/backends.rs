//! The same object, provisioned by the same controller, in both backends on every kind of port.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../io/packet/tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use squalus_afxdp::{AttachMode, Filter, Steering};
use squalus_core::{Action, Config, Mac, NewReal, VipKey};
use squalus_dataplane::user::{Idle, PortOptions, UserOptions};
use squalus_dataplane::{
    Controller, Dataplane, KernelDataplane, LoadOptions, SessionTables, Settings, UserDataplane,
};
use squalus_isa::Verdict;
use squalus_kernel::Mode;
use squalus_port::{
    Capture, CaptureWriter, HostPath, MemoryPort, PcapConfig, PcapPort, Pool, PoolConfig, Port,
    PortMode, PortRequest, PortState,
};
use squalus_testkit::Namespace;
use squalus_vm::EngineKind;

use support::{
    PATIENCE, experiment, ip, ipv6_to, pool, port, receive, send, udp_frame, udp_to, veth,
};

const OBJECT: &[u8] = include_bytes!("../../../bpf/objects/balancer.bpf.o");

const VIP: [u8; 4] = [10, 99, 0, 100];
const REAL: [u8; 4] = [10, 1, 1, 1];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];

fn settings() -> Settings {
    Settings {
        balancer: Config {
            mac: Mac(ROUTER),
            ..Config::default()
        },
        sessions: SessionTables {
            entries: 4096,
            cpus: vec![0],
        },
    }
}

fn vip() -> VipKey {
    VipKey {
        address: VIP.into(),
        port: 53,
        proto: 17,
    }
}

/// A controller over the dataplane, with one VIP of two reals.
fn provision<D: Dataplane>(dataplane: D) -> Controller<D> {
    let mut controller = Controller::load(dataplane, settings()).unwrap();
    controller.add_vip(vip(), 0).unwrap();
    let reals = [REAL, [10, 1, 1, 2]].map(|address| NewReal {
        address: address.into(),
        weight: 1,
        flags: 0,
    });
    let refused = controller.modify_reals(Action::Add, &reals, vip()).unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    controller
}

fn user(engine: EngineKind) -> Controller<UserDataplane> {
    let options = UserOptions {
        engine,
        ..UserOptions::default()
    };
    provision(UserDataplane::load(OBJECT, options).unwrap())
}

fn small_pool() -> Pool {
    Pool::new(&PoolConfig {
        frames: 512,
        ..PoolConfig::default()
    })
    .unwrap()
}

/// Frames of many sessions, of many lengths.
fn sessions(count: u16) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| {
            udp_to(
                VIP,
                1000 + n % 100,
                &vec![n as u8; usize::from(n) * 7 % 1400],
            )
        })
        .collect()
}

fn is_tunnelled(frame: &[u8]) -> bool {
    frame.len() > 34 && frame[12..14] == [8, 0] && frame[23] == 4
}

/// Checks one IPIP frame against the frame that it should carry.
fn check_tunnel(outer: &[u8], inner: &[u8]) {
    assert_eq!(outer[..6], ROUTER);
    assert_eq!(outer[34..], inner[14..]);
    assert_eq!(outer[30..33], REAL[..3]);
}

#[test]
fn frames_in_memory_are_forwarded_by_both_engines() {
    for engine in [EngineKind::Interp, EngineKind::Jit] {
        let mut controller = user(engine);
        let (port, wire) = MemoryPort::new("m0", 10_000);
        let port: Box<dyn Port> = Box::new(port);
        let infos = controller
            .dataplane_mut()
            .start(vec![vec![(port, small_pool())]])
            .unwrap();
        assert_eq!(infos[0].obtained, PortMode::Memory);

        let frames = sessions(3000);
        for (n, frame) in frames.iter().enumerate() {
            assert!(wire.push(frame));
            if n % 1000 == 500 {
                assert!(wire.push(&udp_frame(n as u16)) && wire.push(&[1, 2, 3]));
            }
        }
        assert!(wire.wait_sent(frames.len(), PATIENCE));
        wire.close();
        controller.dataplane_mut().join().unwrap();
        let sent = wire.take_sent();
        assert_eq!(sent.len(), frames.len());
        sent.iter()
            .zip(&frames)
            .for_each(|(outer, inner)| check_tunnel(outer, inner));
        let passed: Vec<_> = [500, 1500, 2500].map(udp_frame).into();
        assert_eq!(wire.take_passed(), passed);

        let report = &controller.dataplane().reports()[0];
        let verdict = |wanted| {
            report
                .verdicts
                .iter()
                .find(|(v, _)| *v == wanted)
                .unwrap()
                .1
        };
        assert_eq!((verdict(Verdict::Tx), verdict(Verdict::Pass)), (3000, 3));
        assert_eq!((verdict(Verdict::Aborted), report.aborts.len()), (0, 0));
        assert_eq!(report.lanes[0].runts, 3);
        assert_eq!(report.lanes[0].stats.rx_frames, 3006);
        assert_eq!(report.lanes[0].state, PortState::Finished);
        assert!(!report.running);
        let info = controller.dataplane().info();
        assert_eq!(
            (info.backend, info.engine.as_str()),
            ("user", engine.name())
        );
    }
}

#[test]
fn workers_share_the_maps_and_stop_when_told() {
    let options = UserOptions {
        cores: vec![0, 1],
        idle: Idle::Wait {
            spins: 2,
            timeout: Duration::from_millis(5),
        },
        ..UserOptions::default()
    };
    let mut controller = provision(UserDataplane::load(OBJECT, options).unwrap());
    let (one, wire_one) = MemoryPort::new("m0", 1000);
    let (two, wire_two) = MemoryPort::new("m1", 1000);
    let (three, wire_three) = MemoryPort::new("m2", 1000);
    let lane = |port: MemoryPort| -> (Box<dyn Port>, Pool) { (Box::new(port), small_pool()) };
    let ports = vec![vec![lane(one)], vec![lane(two), lane(three)]];
    controller.dataplane_mut().start(ports).unwrap();
    let again = controller.dataplane_mut().start(Vec::new()).unwrap_err();
    assert!(again.to_string().contains("already"), "{again}");

    for wire in [&wire_one, &wire_two, &wire_three] {
        assert!(wire.push(&udp_to(VIP, 7, b"before")));
        assert!(wire.wait_sent(1, PATIENCE));
    }
    // A change takes effect on all workers while they wait.
    controller.del_vip(vip()).unwrap();
    for wire in [&wire_one, &wire_two, &wire_three] {
        let frame = udp_to(VIP, 8, b"after");
        assert!(wire.push(&frame));
        let deadline = Instant::now() + PATIENCE;
        let mut passed = Vec::new();
        while passed.is_empty() && Instant::now() < deadline {
            passed = wire.take_passed();
        }
        assert_eq!(passed, [frame]);
    }
    let reports = controller.dataplane().reports();
    assert_eq!(
        reports.iter().map(|r| r.lanes.len()).collect::<Vec<_>>(),
        [1, 2]
    );
    assert!(reports.iter().all(|report| report.running));
    controller.dataplane_mut().detach().unwrap();
    controller.dataplane_mut().detach().unwrap();
    assert!(
        controller
            .dataplane()
            .reports()
            .iter()
            .all(|report| !report.running)
    );
    assert!(wire_one.push(b"nobody reads this any more"));
}

#[test]
fn a_capture_stands_in_for_the_card() {
    let directory = std::env::temp_dir().join(format!("squalus-backends-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = |name: &str| directory.join(name);
    let frames = sessions(300);
    let mut writer = CaptureWriter::create(&file("in.pcap")).unwrap();
    for (n, frame) in frames.iter().enumerate() {
        writer
            .write(Duration::from_micros(n as u64), frame)
            .unwrap();
    }
    writer.write(Duration::from_secs(1), &udp_frame(1)).unwrap();
    writer.flush().unwrap();
    let config = PcapConfig {
        sent: Some(file("sent.pcap")),
        passed: Some(file("passed.pcap")),
        ..PcapConfig::new(file("in.pcap"))
    };
    let mut controller = user(EngineKind::Jit);
    let pool = small_pool();
    let port: Box<dyn Port> = Box::new(PcapPort::open(&config, &pool).unwrap());
    controller
        .dataplane_mut()
        .start(vec![vec![(port, pool)]])
        .unwrap();
    controller.dataplane_mut().join().unwrap();
    let sent = Capture::read(&file("sent.pcap")).unwrap();
    assert_eq!(sent.len(), 300);
    for (n, (outer, inner)) in sent.iter().zip(&frames).enumerate() {
        check_tunnel(outer.bytes, inner);
        assert_eq!(outer.time, Duration::from_micros(n as u64));
    }
    let passed = Capture::read(&file("passed.pcap")).unwrap();
    assert_eq!(
        passed.iter().map(|f| f.bytes.to_vec()).collect::<Vec<_>>(),
        [udp_frame(1)]
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Sends the frames from `sqb`, some at a time, and returns what comes back tunnelled.
fn through(namespace: &Namespace, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (mut wire, mut pool) = (port(namespace, "sqb"), pool());
    let mut back = Vec::new();
    for some in frames.chunks(32) {
        send(&mut wire, &mut pool, some);
        back.extend(receive(&mut wire, &mut pool, some.len(), is_tunnelled));
    }
    back
}

fn attached(namespace: &Namespace) -> Option<String> {
    let find = || squalus_kernel::attached_program("sqa").unwrap();
    namespace.run(find).unwrap().map(|program| program.name)
}

/// Lets the far end take frames that a program on `sqa` sends: `XDP_TX` on a veth delivers only to an end
/// that has an XDP program too (GRO there is not enough: frames then wait for other traffic). This one
/// passes everything.
fn accept_xdp(namespace: &Namespace) -> Steering {
    let open = || Steering::open("sqb", AttachMode::Native, Filter::Vips);
    namespace.run(open).unwrap().unwrap()
}

fn start_on(
    namespace: &Namespace,
    dataplane: &mut UserDataplane,
    request: PortRequest,
) -> squalus_port::PortInfo {
    let options = PortOptions {
        request,
        ..PortOptions::new("sqa")
    };
    let started = namespace.run(|| dataplane.start_on(&options)).unwrap();
    started.unwrap().remove(0)
}

#[test]
fn kernel_and_user_send_the_same_frames() {
    let Some(namespace) = veth("sq-backends") else {
        return;
    };
    let _far_end = accept_xdp(&namespace);
    let frames = sessions(500);
    let mut kernel = provision(KernelDataplane::load(OBJECT, &LoadOptions::default()).unwrap());
    namespace
        .run(|| kernel.dataplane_mut().attach("sqa", Mode::Native))
        .unwrap()
        .unwrap();
    assert_eq!(attached(&namespace).as_deref(), Some("balancer_ingres"));
    assert_eq!(kernel.dataplane().info().obtained, "native");
    let expected = through(&namespace, &frames);
    assert_eq!(expected.len(), frames.len());
    expected
        .iter()
        .zip(&frames)
        .for_each(|(outer, inner)| check_tunnel(outer, inner));
    kernel.dataplane_mut().detach().unwrap();
    assert_eq!(attached(&namespace), None);

    for (request, obtained) in [
        (PortRequest::Auto, PortMode::AfXdpCopy),
        (PortRequest::AfPacket, PortMode::AfPacket),
    ] {
        let mut user = user(EngineKind::Jit);
        let info = start_on(&namespace, user.dataplane_mut(), request);
        assert_eq!((info.asked, info.obtained), (request, obtained));
        assert_eq!(through(&namespace, &frames), expected, "{obtained}");
        user.dataplane_mut().detach().unwrap();
        let report = &user.dataplane().reports()[0];
        let verdict = |wanted| {
            report
                .verdicts
                .iter()
                .find(|(v, _)| *v == wanted)
                .unwrap()
                .1
        };
        assert_eq!(verdict(Verdict::Tx), 500);
        assert_eq!(attached(&namespace), None);
    }
}

#[test]
fn steering_follows_the_vips_and_passed_frames_reach_the_host() {
    let Some(namespace) = veth("sq-backends-steer") else {
        return;
    };
    ip(&namespace, "addr add 10.99.0.1/24 dev sqa");
    ip(&namespace, "addr add 10.99.0.100/32 dev sqa");
    let host = namespace
        .run(|| std::net::UdpSocket::bind("10.99.0.100:53"))
        .unwrap()
        .unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut user = user(EngineKind::Jit);
    let info = start_on(&namespace, user.dataplane_mut(), PortRequest::AfXdp);
    assert_eq!(info.host, HostPath::Tap("sq-pass0".into()));
    assert_eq!(through(&namespace, &sessions(10)).len(), 10);

    // Another port of the same address keeps it steered, but port 53 is the host's now.
    let other = VipKey { port: 80, ..vip() };
    user.add_vip(other, 0).unwrap();
    user.del_vip(vip()).unwrap();
    let (mut wire, mut pool) = (port(&namespace, "sqb"), pool());
    let mut buffer = [0; 64];
    send(&mut wire, &mut pool, &[udp_to(VIP, 41, b"through the tap")]);
    let (len, from) = host.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from.port()), (&b"through the tap"[..], 41));
    let passed = |user: &Controller<UserDataplane>| {
        let report = &user.dataplane().reports()[0];
        report
            .verdicts
            .iter()
            .find(|(v, _)| *v == Verdict::Pass)
            .unwrap()
            .1
    };
    assert_eq!(passed(&user), 1);

    // Without any VIP at the address the kernel leaves its frames alone.
    user.del_vip(other).unwrap();
    send(
        &mut wire,
        &mut pool,
        &[udp_to(VIP, 42, b"not through the tap")],
    );
    assert_eq!(host.recv_from(&mut buffer).unwrap().1.port(), 42);
    assert_eq!(passed(&user), 1);

    // IPv6, added while frames flow.
    let v6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let vip6 = VipKey {
        address: v6.into(),
        port: 53,
        proto: 17,
    };
    user.add_vip(vip6, 0).unwrap();
    let real = NewReal {
        address: "fd00::99".parse().unwrap(),
        weight: 1,
        flags: 0,
    };
    user.modify_reals(Action::Add, &[real], vip6).unwrap();
    let datagram = ipv6_to(v6, 17, &[0, 9, 0, 53, 0, 8, 0, 0]);
    send(&mut wire, &mut pool, &[experiment(1, 60), datagram.clone()]);
    let back = receive(&mut wire, &mut pool, 1, |frame| {
        frame[12..14] == [0x86, 0xdd] && frame[20] == 41
    });
    assert_eq!(back[0][54..], datagram[14..]);
}

#[test]
fn what_cannot_be_started_says_why_and_leaves_nothing() {
    let Some(namespace) = veth("sq-backends-errors") else {
        return;
    };
    let mut kernel = provision(KernelDataplane::load(OBJECT, &LoadOptions::default()).unwrap());
    namespace
        .run(|| kernel.dataplane_mut().attach("sqa", Mode::Native))
        .unwrap()
        .unwrap();
    let again = namespace
        .run(|| kernel.dataplane_mut().attach("sqa", Mode::Native))
        .unwrap();
    assert!(again.unwrap_err().to_string().contains("balancer_ingres"));

    // Where AF_XDP cannot be, auto says why and takes AF_PACKET.
    let mut user = user(EngineKind::Interp);
    let xdp = PortOptions {
        request: PortRequest::AfXdp,
        ..PortOptions::new("sqa")
    };
    let refused = namespace
        .run(|| user.dataplane_mut().start_on(&xdp))
        .unwrap()
        .unwrap_err();
    assert!(
        refused.to_string().contains("already attached"),
        "{refused}"
    );
    let info = start_on(&namespace, user.dataplane_mut(), PortRequest::Auto);
    assert_eq!(info.obtained, PortMode::AfPacket);
    assert!(
        info.notices[0].contains("already attached"),
        "{:?}",
        info.notices
    );
    drop(user);

    let mut user = UserDataplane::load(OBJECT, UserOptions::default()).unwrap();
    let nowhere = namespace
        .run(|| user.start_on(&PortOptions::new("sqx")))
        .unwrap()
        .unwrap_err();
    assert!(nowhere.to_string().contains("`sqx`"), "{nowhere}");
    let broken = UserDataplane::load(b"no object", UserOptions::default()).unwrap_err();
    assert!(broken.to_string().contains("BPF object"), "{broken}");
    let options = UserOptions {
        load: LoadOptions {
            globals: vec![("no_such_switch".into(), vec![1])],
            ..LoadOptions::default()
        },
        ..UserOptions::default()
    };
    let misspelt = UserDataplane::load(OBJECT, options).unwrap_err();
    assert!(
        misspelt.to_string().contains("no_such_switch"),
        "{misspelt}"
    );
    drop(kernel);
    assert_eq!(attached(&namespace), None);
}
