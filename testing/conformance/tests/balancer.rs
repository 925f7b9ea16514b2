//! The balancer, byte for byte the object that is shipped, in every engine.

use std::path::Path;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use squalus_conformance::engines::{self, Kind, Subject};
use squalus_conformance::{Case, Hunt, Tally, Watch, balancer};
use squalus_engine::MapAccess;

/// Frames in a world: fewer than a session table has entries.
const FRAMES: usize = 5000;

fn object() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf/objects/balancer.bpf.o");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn hunt(what: &str, seed: u64, switches: &[(&str, &[u8])]) {
    let kinds = engines::available().expect("SQUALUS_ENGINES names engines");
    let subject = balancer::subject(&object(), switches);
    let case = balancer::Generator::new(seed).case(FRAMES);
    run(what, &kinds, &subject, &balancer::watch(), case);
}

fn run(what: &str, kinds: &[Kind], subject: &Subject, watch: &Watch, case: Case) {
    let hunt = Hunt {
        subject,
        kinds,
        watch,
    };
    let tally = match hunt.run(case.steps.into_iter()) {
        Ok(tally) => tally,
        Err(error) => panic!("{what}: {error}"),
    };
    let names: Vec<String> = kinds.iter().map(Kind::to_string).collect();
    eprintln!("balancer, {what}, on {}: {tally}", names.join(", "));
    require_variety(&tally);
}

/// Cases that all end alike prove nothing.
fn require_variety(tally: &Tally) {
    let [aborted, drop, pass, tx, redirect] = tally.verdicts;
    assert_eq!((aborted, redirect), (0, 0), "{tally}");
    for count in [drop, pass, tx] {
        assert!(count > tally.frames / 20, "{tally}");
    }
}

#[test]
fn as_shipped() {
    hunt("as shipped", 1, &[]);
}

#[test]
fn udp_sessions_that_are_always_too_old() {
    hunt("no UDP timeout", 2, &[("udp_timeout_ns", &[0; 8])]);
}

#[test]
fn other_outer_headers() {
    let switches: &[(&str, &[u8])] = &[
        ("copy_inner_tos", &[0]),
        ("default_tos", &[0x48]),
        ("default_ttl", &[17]),
        ("max_packet_size", &[0xb0, 4, 0, 0]),
        ("ipip_v4_prefix", &[10, 99, 0, 0]),
        ("ipip_v6_prefix", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
    ];
    hunt("other outer headers", 3, switches);
}

/// The kernel's clock cannot be set; the two userspace engines share one that can, so nothing is masked.
#[test]
fn time_that_passes() {
    let clock = Arc::new(AtomicU64::new(0));
    let switches: &[(&str, &[u8])] = &[("max_conn_rate", &[5, 0, 0, 0, 0, 0, 0, 0])];
    let subject = Subject {
        clock: Some(Arc::clone(&clock)),
        ..balancer::subject(&object(), switches)
    };
    let watch = Watch {
        masks: Vec::new(),
        clock: Some(clock),
    };
    let case = balancer::Generator::new(4).timed_case(FRAMES);
    run(
        "time that passes",
        &[Kind::Interp, Kind::Jit],
        &subject,
        &watch,
        case,
    );
}

/// `stats` entry 512 + `index` over all CPUs: both numbers.
fn global_counter(engine: &dyn MapAccess, index: u32) -> (u64, u64) {
    let value = engine.lookup("stats".into(), &(512 + index).to_ne_bytes());
    let value = value
        .expect("the map is there")
        .expect("an array has all keys");
    let numbers = value
        .as_chunks::<8>()
        .0
        .iter()
        .map(|n| u64::from_ne_bytes(*n));
    let numbers: Vec<u64> = numbers.collect();
    let sum = |offset| numbers.iter().skip(offset).step_by(2).sum();
    (sum(0), sum(1))
}

/// Agreement on frames that are all dropped early would prove little: the cases must reach what the
/// program counts.
#[test]
fn the_cases_reach_every_counter() {
    let subject = balancer::subject(&object(), &[]);
    let mut engines = subject.load(&[Kind::Interp]).expect("the object loads");
    let engine = &mut *engines[0];
    for step in balancer::Generator::new(1).case(FRAMES).steps {
        step.perform(engine);
    }
    // LRU, LRU misses, fallback, drops, QUIC and ICMP, packets too big, migration, totals.
    for index in [0, 1, 9, 11, 12, 13] {
        let (v1, v2) = global_counter(engine, index);
        assert!(v1 > 0 && v2 > 0, "global counter {index}: {v1}, {v2}");
    }
    for index in [3, 15, 16, 17, 18, 19] {
        assert!(
            global_counter(engine, index).0 > 0,
            "global counter {index}"
        );
    }
    let quic = engine.lookup("quic_stats_map".into(), &[0; 4]);
    let quic = quic
        .expect("the map is there")
        .expect("an array has all keys");
    let fields = quic.as_chunks::<8>().0;
    // Field 6 counts connection ids of version 0, which carry no server: no program counts them.
    for field in (0..13).filter(|field| *field != 6) {
        let any = fields.iter().skip(field).step_by(13).any(|n| *n != [0; 8]);
        assert!(any, "QUIC counter {field}");
    }
}
