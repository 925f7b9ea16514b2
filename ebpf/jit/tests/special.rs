//! Programs that have the contents of maps in their code.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod common;

use std::sync::Arc;

use common::{Loaded, compile_all, link, run_interp, run_jit};
use proptest::prelude::*;
use squalus_isa::{HelperId, Insn, MapDef, MapType, MemSize, UpdateFlags, opcode as o};
use squalus_jit::{CompiledProgram, Constants, MapSet, Options, Pass, Passes};
use squalus_maps::{Map, MapEnv};
use squalus_runtime::asm::{Asm, R};
use squalus_ssa::ir::{Op, Region};

fn def(kind: MapType, key_size: u32, value_size: u32, max_entries: u32) -> MapDef {
    MapDef::new("map", kind, (key_size, value_size), max_entries)
}

/// Maps that no program of the set writes.
fn constant(loaded: &Loaded) -> MapSet {
    let written: Vec<Vec<bool>> = (loaded.programs.iter().zip(&*loaded.facts))
        .map(|(program, facts)| facts.written_maps(program))
        .collect();
    let maps = loaded.maps.iter().enumerate();
    let constant = maps.filter(|(n, map)| map.shows_contents() && !written.iter().any(|w| w[*n]));
    constant.map(|(n, _)| n).collect()
}

fn compile(loaded: &Loaded, passes: Passes) -> Vec<CompiledProgram> {
    let options = Options {
        keep_text: true,
        passes,
        constant: Constants {
            maps: constant(loaded),
            cpu: None,
        },
        ..Options::default()
    };
    compile_all(loaded, options)
}

/// What is left after the last pass: lookups in hashes, and loads from values.
fn left(program: &CompiledProgram) -> (usize, usize) {
    let (_, function) = program.ssa().unwrap().last().unwrap();
    let insts = function.reverse_postorder().into_iter();
    let insts = insts.flat_map(|block| function.block(block).insts.clone());
    let (mut lookups, mut loads) = (0, 0);
    for inst in insts {
        match &function.value(inst).op {
            Op::Lookup { .. } => lookups += 1,
            Op::Native { name, .. } if *name == "map_lookup_elem" => lookups += 1,
            Op::Load {
                region: Region::MapValue(_),
                ..
            } => loads += 1,
            _ => {}
        }
    }
    (lookups, loads)
}

/// Runs compiled in several ways, and interpreted: all must agree.
fn agree(loaded: &Loaded, packet: &[u8]) -> u64 {
    let expected = run_interp(loaded, packet);
    let alone = Passes::NONE.with(Pass::Special);
    let without = |pass| Passes::ALL.without(pass);
    for passes in [
        Passes::ALL,
        alone,
        alone.with(Pass::Simplify),
        without(Pass::Simplify),
        without(Pass::Special),
    ] {
        let programs = compile(loaded, passes);
        assert_eq!(run_jit(loaded, &programs, packet), expected, "{passes}");
    }
    expected.result.unwrap()
}

fn update(map: &Map, key: &[u8], value: &[u8]) {
    map.sys_update(key, value, UpdateFlags::ANY).unwrap();
}

/// r6 points to a packet of at least 16 bytes.
fn packet(asm: &mut Asm) {
    let long = asm.label();
    asm.load(MemSize::W, 6, 1, 0)
        .load(MemSize::W, 7, 1, 4)
        .mov(2, R(6))
        .add(2, 16)
        .jump_if(o::JLE, 2, R(7), long)
        .mov(0, 77)
        .exit()
        .bind(long);
}

/// Element 2 of an array: a byte, a word and a half.
fn array_program() -> Vec<Insn> {
    let mut asm = Asm::new();
    let found = asm.label();
    asm.store(MemSize::W, 10, -4, 2)
        .map(1, 0)
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_if(o::JNE, 0, 0, found)
        .mov(0, 99)
        .exit()
        .bind(found)
        .load(MemSize::B, 3, 0, 3)
        .load(MemSize::W, 4, 0, 4)
        .load(MemSize::H, 5, 0, 8)
        .mov(0, R(3))
        .alu(o::LSH, 0, 32)
        .alu(o::XOR, 0, R(4))
        .alu(o::LSH, 5, 40)
        .alu(o::OR, 0, R(5))
        .exit();
    asm.finish()
}

#[test]
fn elements_of_arrays_are_numbers() {
    let loaded = link(&[array_program()], &[def(MapType::Array, 4, 12, 4)]);
    let value: Vec<u8> = (1..=12).collect();
    update(&loaded.maps[0], &2u32.to_ne_bytes(), &value);
    assert_eq!(agree(&loaded, &[0; 64]), 0x04_0807_0605 | 0x0a09 << 40);
    let programs = compile(&loaded, Passes::ALL);
    assert_eq!(left(&programs[0]), (0, 0));
}

/// Looks up 12 bytes of the packet, or if they are not there, the first four of them and zeros. Returns two words
/// of the value, or 99.
fn hash_program(writes: bool) -> Vec<Insn> {
    let mut asm = Asm::new();
    let (found, absent) = (asm.label(), asm.label());
    packet(&mut asm);
    asm.load(MemSize::Dw, 3, 6, 0)
        .store(MemSize::Dw, 10, -16, R(3))
        .load(MemSize::W, 3, 6, 8)
        .store(MemSize::W, 10, -8, R(3));
    for _ in 0..2 {
        asm.map(1, 0)
            .mov(2, R(10))
            .add(2, -16)
            .call(HelperId::MAP_LOOKUP_ELEM)
            .jump_if(o::JNE, 0, 0, found)
            .store(MemSize::W, 10, -12, 0)
            .store(MemSize::W, 10, -8, 0);
    }
    asm.bind(absent)
        .mov(0, 99)
        .exit()
        .bind(found)
        .load(MemSize::W, 3, 0, 0)
        .load(MemSize::W, 4, 0, 4);
    if writes {
        asm.store(MemSize::W, 0, 8, R(3));
    }
    asm.alu(o::LSH, 3, 32)
        .alu(o::OR, 3, R(4))
        .mov(0, R(3))
        .exit();
    asm.finish()
}

const HASH: MapType = MapType::Hash;

fn entry(n: u8, last: u8, same: u32) -> ([u8; 12], Vec<u8>) {
    let key = [n, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, last];
    let value = [same.to_ne_bytes(), u32::from(n).to_ne_bytes(), [0; 4]].concat();
    (key, value)
}

fn hash_of(entries: &[([u8; 12], Vec<u8>)], writes: bool) -> Loaded {
    let loaded = link(&[hash_program(writes)], &[def(HASH, 12, 12, 64)]);
    for (key, value) in entries {
        update(&loaded.maps[0], key, value);
    }
    loaded
}

fn frame(key: &[u8]) -> Vec<u8> {
    let mut frame = key.to_vec();
    frame.resize(64, 0xee);
    frame
}

#[test]
fn an_empty_hash_is_not_searched() {
    let loaded = hash_of(&[], false);
    assert_eq!(agree(&loaded, &frame(&[1; 12])), 99);
    assert_eq!(left(&compile(&loaded, Passes::ALL)[0]), (0, 0));
}

#[test]
fn a_small_hash_is_compared_with() {
    let one = hash_of(&[entry(1, 12, 7)], false);
    assert_eq!(agree(&one, &frame(&entry(1, 12, 7).0)), 7 << 32 | 1);
    assert_eq!(agree(&one, &frame(&entry(1, 13, 7).0)), 99);
    assert_eq!(left(&compile(&one, Passes::ALL)[0]), (0, 0));
    // What all values have in common is a number; what not is loaded.
    let three = hash_of(&[entry(1, 12, 7), entry(2, 12, 7), entry(3, 12, 7)], false);
    assert_eq!(agree(&three, &frame(&entry(2, 12, 7).0)), 7 << 32 | 2);
    assert_eq!(left(&compile(&three, Passes::ALL)[0]), (0, 1));
}

#[test]
fn a_large_hash_is_searched_but_what_its_values_share_is_known() {
    let entries: Vec<_> = (0..40).map(|n| entry(n, 12, 7)).collect();
    let loaded = hash_of(&entries, false);
    assert_eq!(agree(&loaded, &frame(&entries[9].0)), 7 << 32 | 9);
    let (lookups, loads) = left(&compile(&loaded, Passes::ALL)[0]);
    assert_eq!((lookups != 0, loads), (true, 1));
}

#[test]
fn a_map_that_a_program_writes_is_left_alone() {
    let loaded = hash_of(&[entry(1, 12, 7)], true);
    assert!(constant(&loaded).is_empty());
    assert_eq!(agree(&loaded, &frame(&entry(1, 12, 7).0)), 7 << 32 | 1);
    assert_ne!(left(&compile(&loaded, Passes::ALL)[0]).0, 0);
}

/// Whether the value under 12 bytes of the packet has a flag; 99 if there is none.
fn flag_program(flag: i32) -> Vec<Insn> {
    let mut asm = Asm::new();
    let (found, out) = (asm.label(), asm.label());
    packet(&mut asm);
    asm.load(MemSize::Dw, 3, 6, 0)
        .store(MemSize::Dw, 10, -16, R(3))
        .load(MemSize::W, 3, 6, 8)
        .store(MemSize::W, 10, -8, R(3))
        .map(1, 0)
        .mov(2, R(10))
        .add(2, -16)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_if(o::JNE, 0, 0, found)
        .mov(0, 99)
        .exit()
        .bind(found)
        .load(MemSize::W, 3, 0, 0)
        .mov(0, 0)
        .alu(o::AND, 3, flag)
        .jump_if(o::JEQ, 3, 0, out)
        .mov(0, 1)
        .bind(out)
        .exit();
    asm.finish()
}

#[test]
fn a_flag_that_no_value_has_is_not_looked_for() {
    for (flag, loads) in [(4, 0), (2, 1), (8, 0)] {
        let loaded = link(&[flag_program(flag)], &[def(HASH, 12, 12, 64)]);
        for (n, flags) in [(1, 8), (2, 9), (3, 10)] {
            let (key, value) = entry(n, 12, flags);
            update(&loaded.maps[0], &key, &value);
        }
        for (n, flags) in [(1, 8), (2, 9), (3, 10)] {
            let has = u64::from(flags & flag as u32 != 0);
            assert_eq!(agree(&loaded, &frame(&entry(n, 12, 0).0)), has);
        }
        assert_eq!(left(&compile(&loaded, Passes::ALL)[0]), (0, loads));
    }
}

/// The flag of an element whose index a byte of the packet says; if it is 5, the element's number.
fn indexed_program() -> Vec<Insn> {
    let mut asm = Asm::new();
    let (found, out) = (asm.label(), asm.label());
    packet(&mut asm);
    asm.load(MemSize::B, 3, 6, 0)
        .store(MemSize::W, 10, -4, R(3))
        .map(1, 0)
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_if(o::JNE, 0, 0, found)
        .mov(0, 99)
        .exit()
        .bind(found)
        .mov(6, R(0))
        .load(MemSize::B, 0, 6, 17)
        .jump_if(o::JNE, 0, 5, out)
        .load(MemSize::W, 0, 6, 8)
        .bind(out)
        .exit();
    asm.finish()
}

#[test]
fn elements_that_agree_are_numbers_whatever_the_index() {
    let loaded = link(&[indexed_program()], &[def(MapType::Array, 4, 20, 9)]);
    let fill = |flags: [u8; 9]| {
        for (n, flag) in flags.into_iter().enumerate() {
            let mut value = [0; 20];
            value[8] = n as u8 + 20;
            value[17] = flag;
            update(&loaded.maps[0], &(n as u32).to_ne_bytes(), &value);
        }
    };
    fill([3; 9]);
    assert_eq!(agree(&loaded, &frame(&[4])), 3);
    assert_eq!(agree(&loaded, &frame(&[9])), 99);
    assert_eq!(left(&compile(&loaded, Passes::ALL)[0]).1, 0);
    fill([3, 3, 3, 3, 5, 3, 3, 3, 3]);
    assert_eq!(agree(&loaded, &frame(&[4])), 24);
    assert_eq!(agree(&loaded, &frame(&[0])), 3);
    assert_eq!(left(&compile(&loaded, Passes::ALL)[0]).1, 2);
}

/// Looks up 12 bytes of the packet in the inner map number 1, and counts in the value.
fn inner_program() -> Vec<Insn> {
    let mut asm = Asm::new();
    let out = asm.label();
    packet(&mut asm);
    asm.load(MemSize::Dw, 3, 6, 0)
        .store(MemSize::Dw, 10, -16, R(3))
        .load(MemSize::W, 3, 6, 8)
        .store(MemSize::W, 10, -8, R(3))
        .store(MemSize::W, 10, -20, 1)
        .map(1, 0)
        .mov(2, R(10))
        .add(2, -20)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .mov(6, 98)
        .jump_if(o::JEQ, 0, 0, out)
        .mov(1, R(0))
        .mov(2, R(10))
        .add(2, -16)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .mov(6, 99)
        .jump_if(o::JEQ, 0, 0, out)
        .load(MemSize::W, 6, 0, 4)
        .store(MemSize::W, 0, 0, 1)
        .bind(out)
        .mov(0, R(6))
        .exit();
    asm.finish()
}

#[test]
fn inner_maps_are_known_by_their_address() {
    let inner = def(MapType::LruHash, 12, 12, 64);
    let outer = MapDef {
        inner: Some(Box::new(inner.clone())),
        ..def(MapType::ArrayOfMaps, 4, 4, 4)
    };
    let loaded = link(&[inner_program()], &[outer]);
    let (key, value) = entry(1, 12, 7);
    assert_eq!(agree(&loaded, &frame(&key)), 98);
    let map = Map::new(&inner, &MapEnv::with_seed(2, 5)).unwrap();
    loaded.maps[0]
        .set_inner(&1u32.to_ne_bytes(), Arc::clone(&map))
        .unwrap();
    assert_eq!(agree(&loaded, &frame(&key)), 99);
    update(&map, &key, &value);
    assert_eq!(agree(&loaded, &frame(&key)), 1);
    let programs = compile(&loaded, Passes::ALL);
    // It is called where the lookup goes out of line, and nothing of its description is loaded.
    let (_, function) = programs[0].ssa().unwrap().last().unwrap();
    let is_map = |value| function.constant(value) == Some(Arc::as_ptr(&map).addr() as u64);
    let blocks = function.reverse_postorder().into_iter();
    let insts = blocks.flat_map(|block| function.block(block).insts.clone());
    let ops: Vec<&Op> = insts.map(|inst| &function.value(inst).op).collect();
    assert!(
        ops.iter()
            .any(|op| matches!(op, Op::Native { args, .. } if is_map(args[0])))
    );
    assert!(
        !ops.iter()
            .any(|op| matches!(op, Op::Load { base, .. } if is_map(*base)))
    );
}

#[test]
fn the_only_cpu_has_a_number() {
    let mut asm = Asm::new();
    asm.call(HelperId::GET_SMP_PROCESSOR_ID).add(0, 5).exit();
    let loaded = link(&[asm.finish()], &[]);
    for cpu in [None, Some(0)] {
        let options = Options {
            keep_text: true,
            constant: Constants {
                cpu,
                ..Constants::NONE
            },
            ..Options::default()
        };
        let programs = compile_all(&loaded, options);
        assert_eq!(run_jit(&loaded, &programs, &[0; 64]).result, Ok(5));
        let (_, function) = programs[0].ssa().unwrap().last().unwrap();
        let blocks = function.reverse_postorder().into_iter();
        let mut insts = blocks.flat_map(|block| function.block(block).insts.clone());
        let loads = insts.any(|inst| matches!(function.value(inst).op, Op::Load { .. }));
        assert_eq!(loads, cpu.is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Contents and keys of few different bytes, so that keys are found, nearly found and not found.
    #[test]
    fn whatever_a_hash_holds_lookups_agree(
        entries in prop::collection::vec((0u8..3, 10u8..13, 0u32..2), 0..12),
        short in any::<bool>(),
        n in 0u8..4,
        last in 9u8..14,
    ) {
        let mut entries: Vec<_> = entries.iter().map(|&(n, last, same)| entry(n, last, same)).collect();
        if short {
            entries.push(([n, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0], vec![6; 12]));
        }
        let loaded = hash_of(&entries, false);
        agree(&loaded, &frame(&entry(n, last, 0).0));
    }
}
