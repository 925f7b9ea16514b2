//! The balancer, byte for byte the object that is shipped, in every engine.

use std::path::Path;

use squalus_conformance::engines::{self, Kind};
use squalus_conformance::{Hunt, Tally, balancer};

/// Frames in a world: fewer than a session table has entries.
const FRAMES: usize = 5000;

fn object() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf/objects/balancer.bpf.o");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn hunt(what: &str, seed: u64, switches: &[(&str, &[u8])]) {
    let kinds = engines::available().expect("SQUALUS_ENGINES names engines");
    let subject = balancer::subject(&object(), switches);
    let watch = balancer::watch();
    let hunt = Hunt {
        subject: &subject,
        kinds: &kinds,
        watch: &watch,
    };
    let case = balancer::Generator::new(seed).case(FRAMES);
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
