//! What the loader makes of each form of map, variable, function and section.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data;
mod host;
mod maps;
mod programs;
mod types;

use std::fs;
use std::path::Path;

use squalus_isa::{ImmSource, Inst, decode};
use squalus_object::{Object, ObjectError, Program};

fn bytes(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects");
    fs::read(path.join(name)).unwrap()
}

fn load(name: &str) -> Object {
    Object::parse(&bytes(name)).unwrap()
}

/// Names of the maps a program refers to, in the order of its instructions.
fn maps_used<'o>(object: &'o Object, program: &Program) -> Vec<&'o str> {
    decode(&program.insns)
        .unwrap()
        .iter()
        .filter_map(|d| match d.inst {
            Inst::LoadImm {
                imm: ImmSource::Map(map) | ImmSource::MapValue { map, .. },
                ..
            } => Some(object.maps[map as usize].def.name.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn every_accepted_program_decodes() {
    for name in [
        "legacy.o",
        "legacy_samples.o",
        "legacy_iproute2.o",
        "btf_maps.o",
        "data.o",
        "calls.o",
        "sections.o",
        "core.o",
        "kconfig.o",
        "ksyms.o",
        "legacy_tails.o",
        "legacy_early.o",
        "fields.o",
        "pins.o",
        "struct_ops.o",
    ] {
        for program in &load(name).programs {
            decode(&program.insns).unwrap_or_else(|e| panic!("{name} {}: {e}", program.name));
        }
    }
}

#[test]
fn files_that_are_no_bpf_objects_are_named_for_what_they_are() {
    let error = |bytes: &[u8]| Object::parse(bytes).unwrap_err().to_string();
    assert!(error(b"").starts_with("not an eBPF object: no ELF file"));
    assert!(error(b"#!/bin/sh").starts_with("not an eBPF object: no ELF file"));

    let mut foreign = bytes("legacy.o");
    foreign[18] = 62;
    assert!(error(&foreign).contains("machine 62"));
    let mut big = bytes("legacy.o");
    big[5] = 2;
    big.swap(18, 19);
    assert_eq!(Object::parse(&big).unwrap_err(), ObjectError::BigEndian);
}

#[test]
fn a_btf_map_without_btf_says_how_to_get_it() {
    let mut stripped = bytes("btf_maps.o");
    let at = stripped
        .windows(5)
        .position(|w| w == b".BTF\0")
        .expect("the section's name");
    stripped[at + 1] = b'_';
    let error = Object::parse(&stripped).unwrap_err().to_string();
    assert_eq!(
        error,
        "section `.maps`: its maps are described by BTF, which the object lacks; compile with -g"
    );
}

#[test]
fn a_file_cut_short_says_so() {
    let whole = bytes("legacy.o");
    let error = Object::parse(&whole[..whole.len() / 2]).unwrap_err();
    assert!(matches!(error, ObjectError::NotBpf(_)), "{error}");
}
