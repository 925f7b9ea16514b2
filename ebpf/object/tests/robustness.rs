//! Any bytes give an object or an error: no panic, no hang.
//!
//! The mutations are the same in every run. A continuous version of this test is the fuzz target `object`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use squalus_isa::decode;
use squalus_object::btf::{Btf, BtfFeatures};
use squalus_object::{HostConfig, Object};

/// Everything that can be done with an object.
fn exercise(bytes: &[u8]) -> bool {
    let Ok(mut object) = Object::parse(bytes) else {
        return false;
    };
    for features in [BtfFeatures::ALL, BtfFeatures::OLDEST] {
        let _ = object.kernel_btf(features);
    }
    for program in &object.programs {
        let _ = decode(&program.insns);
        let _ = (program.func_info(), program.line_info());
        for slot in 0..=program.insns.len().min(64) {
            let _ = (program.line(slot), program.subprogram(slot));
        }
    }
    for global in object.globals().to_vec() {
        let _ = object.set_global(&global.name, &vec![0xa5; global.size]);
    }
    if let Some(btf) = &object.btf {
        for (ty, _) in btf.types().take(256) {
            let _ = btf.value(ty, &[0xa5; 256]).map(|value| value.to_string());
        }
    }
    if object.needs_core() {
        let own = object.btf.clone();
        let _ = object.clone().relocate_core(None);
        let _ = object.clone().relocate_core(own.as_ref());
        let _ = object.relocate_core(Some(core_target()));
    }
    let _ = object.resolve_config(&HostConfig::new(6 << 16));
    let _ = object.resolve_kfuncs(core_target());
    for program in &object.programs {
        let _ = decode(&program.insns);
    }
    true
}

/// The types that core.c was written against.
fn core_target() -> &'static Btf {
    static TARGET: OnceLock<Btf> = OnceLock::new();
    TARGET.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects/core_target.o");
        let object = Object::parse(&fs::read(path).unwrap()).unwrap();
        object.btf.unwrap()
    })
}

fn objects() -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects");
    let mut found: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "o"))
        .map(|p| (p.display().to_string(), fs::read(&p).unwrap()))
        .collect();
    found.sort();
    assert!(found.len() >= 9);
    found
}

/// A small generator of our own, so that the inputs never change.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Changes a few places: single bits, boundary values of one to eight bytes, copies from elsewhere.
fn mutate(bytes: &mut [u8], random: &mut Random) {
    const EDGES: [u64; 8] = [
        0,
        1,
        0x7f,
        0xff,
        0x7fff_ffff,
        0xffff_ffff,
        0x7fff_ffff_ffff_ffff,
        u64::MAX,
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let end = bytes.len().min(at + (1 << random.below(4)));
                bytes[at..end].copy_from_slice(&edge[..end - at]);
            }
            _ => {
                let from = random.below(bytes.len());
                let len = random.below(16).min(bytes.len() - at.max(from));
                bytes.copy_within(from..from + len, at);
            }
        }
    }
}

#[test]
fn every_truncation_of_every_object_is_survived() {
    for (name, bytes) in objects() {
        assert!(exercise(&bytes), "{name} must load before it is cut");
        for len in 0..bytes.len() {
            exercise(&bytes[..len]);
        }
    }
}

#[test]
fn thousands_of_mutations_of_each_object_are_survived() {
    const MUTATIONS: usize = 2500;
    let mut random = Random(0x5eed_1234_abcd_ef01);
    let mut loaded = 0;
    for (_, bytes) in objects() {
        for _ in 0..MUTATIONS {
            let mut mutant = bytes.clone();
            mutate(&mut mutant, &mut random);
            loaded += usize::from(exercise(&mutant));
        }
    }
    // Mutations that break everything would test nothing but the first check.
    assert!(loaded > MUTATIONS, "{loaded}");
}

#[test]
fn every_byte_of_the_headers_may_be_anything() {
    let (_, bytes) = &objects()[0];
    for at in 0..64 {
        for value in 0..=255 {
            let mut mutant = bytes.clone();
            mutant[at] = value;
            exercise(&mutant);
        }
    }
}

#[test]
fn zero_filled_and_random_files_are_survived() {
    let mut random = Random(7);
    for len in [1, 63, 64, 65, 1000, 100_000] {
        exercise(&vec![0; len]);
        let mut noise: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        exercise(&noise);
        let header = [0x7f, b'E', b'L', b'F', 2, 1, 1];
        for (to, from) in noise.iter_mut().zip(header) {
            *to = from;
        }
        exercise(&noise);
    }
}
