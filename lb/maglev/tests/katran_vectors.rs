//! Hashes and rings that katran itself computed, if the recordings are at hand.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;
use squalus_maglev::{Endpoint, HashFunction, RingSize, murmur3_x64_64, real_hash, ring};

/// The recorded vectors, or `None` with a word on stderr.
fn vectors() -> Option<Value> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (directory, demanded) = match std::env::var_os("SQUALUS_KATRAN_CORPUS") {
        Some(directory) => (PathBuf::from(directory), true),
        None => (root.join("../shared/katran-corpus"), false),
    };
    let file = directory.join("vectors.json");
    match std::fs::read_to_string(&file) {
        Ok(text) => Some(serde_json::from_str(&text).expect("vectors.json is JSON")),
        Err(error) if demanded => panic!("SQUALUS_KATRAN_CORPUS: {}: {error}", file.display()),
        Err(_) => {
            eprintln!(
                "SKIPPED: katran's hash vectors are not here; set SQUALUS_KATRAN_CORPUS to their directory"
            );
            None
        }
    }
}

fn rows<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
    let rows = vectors[name].as_array().expect("an array of vectors");
    assert!(!rows.is_empty(), "{name} is empty");
    rows
}

fn hex(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().expect("hex text"), 16).expect("hex")
}

fn number(value: &Value) -> u32 {
    value
        .as_u64()
        .and_then(|n| n.try_into().ok())
        .expect("a u32")
}

fn address(value: &Value) -> IpAddr {
    value.as_str().expect("text").parse().expect("an address")
}

#[test]
fn murmur() {
    let Some(vectors) = vectors() else { return };
    for row in rows(&vectors, "murmur3_x64_64") {
        let hash = murmur3_x64_64(hex(&row["A"]), hex(&row["B"]), number(&row["seed"]));
        assert_eq!(hash, hex(&row["h"]), "{row}");
    }
}

#[test]
fn address_hashes() {
    let Some(vectors) = vectors() else { return };
    for row in rows(&vectors, "folly_ip_hash") {
        let hash = real_hash(address(&row["ip"]));
        assert_eq!(hash, hex(&row["hash"]), "{row}");
        let offset = murmur3_x64_64(hash, 42, 0) % 65_537;
        let skip = murmur3_x64_64(hash, 2_718_281_828, 2307) % 65_536 + 1;
        assert_eq!(offset, u64::from(number(&row["maglev_offset"])), "{row}");
        assert_eq!(skip, u64::from(number(&row["maglev_skip"])), "{row}");
    }
}

#[test]
fn rings() {
    let Some(vectors) = vectors() else { return };
    for row in rows(&vectors, "rings") {
        let name = format!("{} {}", row["name"], row["maglev"]);
        let function = match row["maglev"].as_str() {
            Some("V1") => HashFunction::MaglevV1,
            Some("V2") => HashFunction::MaglevV2,
            other => panic!("{name}: unknown function {other:?}"),
        };
        let endpoints: Vec<Endpoint> = (1..)
            .zip(row["reals_weight"].as_array().expect("reals"))
            .map(|(num, real)| Endpoint {
                num,
                weight: number(&real[1]),
                hash: real_hash(address(&real[0])),
            })
            .collect();
        let size = RingSize::new(number(&row["ring_size"])).expect("a prime");
        let ring = ring(function, &endpoints, size).expect("usable reals");

        let first: Vec<u32> = row["first32"]
            .as_array()
            .expect("slots")
            .iter()
            .map(number)
            .collect();
        assert_eq!(ring[..first.len()], first, "{name}");
        for (num, slots) in row["slots"].as_object().expect("slots per real") {
            let num: u32 = num.parse().expect("a real's index");
            let got = ring.iter().filter(|&&n| n == num).count();
            assert_eq!(got, number(slots) as usize, "{name}: slots of real {num}");
        }
    }
}
