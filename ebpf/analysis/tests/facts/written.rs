//! Which maps a program may change: all that it does, and no others if that can be known.

use squalus_isa::{HelperId, MapDef, MapType, MemSize, opcode as o};
use squalus_runtime::asm::{Asm, R};

use crate::{def, facts};

/// Hashes 0 and 1 are alike, array 2 is not, 3 is an array of maps with inner maps as the hashes.
fn maps() -> Vec<MapDef> {
    let outer = MapDef {
        inner: Some(Box::new(def(MapType::Hash, 8))),
        ..def(MapType::ArrayOfMaps, 4)
    };
    vec![
        def(MapType::Hash, 8),
        def(MapType::Hash, 8),
        def(MapType::Array, 16),
        outer,
    ]
}

fn written(asm: &Asm) -> Vec<bool> {
    let (program, facts) = facts(asm, &maps());
    facts.written_maps(&program)
}

/// Looks up key 0 in a map; goes on with its value in r0, or exits.
fn lookup(asm: &mut Asm, map: u32) {
    let found = asm.label();
    asm.store(MemSize::W, 10, -4, 0)
        .map(1, map)
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_if(o::JNE, 0, 0, found)
        .mov(0, 0)
        .exit()
        .bind(found);
}

/// A program of one lookup and what `rest` does with the value in r0.
fn after_lookup(map: u32, rest: impl FnOnce(&mut Asm)) -> Vec<bool> {
    let mut asm = Asm::new();
    lookup(&mut asm, map);
    rest(&mut asm);
    asm.mov(0, 2).exit();
    written(&asm)
}

#[test]
fn reading_writes_nothing() {
    for map in [0, 2] {
        let written = after_lookup(map, |asm| {
            asm.load(MemSize::Dw, 3, 0, 0)
                .store(MemSize::Dw, 10, -16, R(3));
        });
        assert_eq!(written, [false; 4]);
    }
}

#[test]
fn stores_and_atomics_write_the_map_of_the_value() {
    let stored = after_lookup(2, |asm| {
        asm.store(MemSize::B, 0, 15, 1);
    });
    assert_eq!(stored, [false, false, true, false]);
    let added = after_lookup(0, |asm| {
        asm.mov(3, 1).atomic(MemSize::Dw, o::ADD.into(), 0, 0, 3);
    });
    assert_eq!(added, [true, false, false, false]);
}

#[test]
fn helpers_write_their_map_and_what_they_are_given_to_write() {
    for (helper, args) in [
        (HelperId::MAP_UPDATE_ELEM, 4),
        (HelperId::MAP_DELETE_ELEM, 2),
    ] {
        let mut asm = Asm::new();
        asm.store(MemSize::Dw, 10, -8, 0)
            .store(MemSize::W, 10, -12, 0)
            .map(1, 1)
            .mov(2, R(10))
            .add(2, -12);
        if args == 4 {
            asm.mov(3, R(10)).add(3, -8).mov(4, 0);
        }
        asm.call(helper).mov(0, 2).exit();
        assert_eq!(written(&asm), [false, true, false, false], "{helper}");
    }
    // A number is read from the stack and written to a value.
    let parsed = after_lookup(2, |asm| {
        asm.mov(4, R(0))
            .store(MemSize::Dw, 10, -16, 0x3031)
            .mov(1, R(10))
            .add(1, -16)
            .mov(2, 8)
            .mov(3, 0)
            .call(HelperId::STRTOL);
    });
    assert_eq!(parsed, [false, false, true, false]);
}

#[test]
fn an_inner_map_may_be_any_map_like_it() {
    let mut asm = Asm::new();
    lookup(&mut asm, 3);
    let none = asm.label();
    asm.mov(1, R(0))
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_if(o::JEQ, 0, 0, none)
        .store(MemSize::W, 0, 0, 1)
        .bind(none)
        .mov(0, 2)
        .exit();
    assert_eq!(written(&asm), [true, true, false, false]);
}

/// The value of map 0 or 2 in r8, by chance, and what `rest` does with it.
fn after_either(rest: impl FnOnce(&mut Asm)) -> Vec<bool> {
    let mut asm = Asm::new();
    let (other, on) = (asm.label(), asm.label());
    asm.call(HelperId::GET_PRANDOM_U32)
        .jump_if(o::JEQ, 0, 0, other);
    lookup(&mut asm, 0);
    asm.mov(8, R(0)).jump(on).bind(other);
    lookup(&mut asm, 2);
    asm.mov(8, R(0)).bind(on).mov(6, 1);
    rest(&mut asm);
    asm.mov(0, 2).exit();
    written(&asm)
}

#[test]
fn where_paths_meet_it_is_the_map_of_one_of_them() {
    let expected = [true, false, true, false];
    let at_once = after_either(|asm| {
        asm.store(MemSize::W, 8, 0, R(6));
    });
    assert_eq!(at_once, expected);
    // After a branch, a call, and a copy.
    let later = after_either(|asm| {
        let on = asm.label();
        asm.call(HelperId::GET_PRANDOM_U32)
            .jump_if(o::JEQ, 0, 7, on)
            .mov(6, 5)
            .bind(on)
            .mov(2, R(8))
            .add(2, 4)
            .store(MemSize::W, 2, 0, R(6));
    });
    assert_eq!(later, expected);
    // Through the stack nobody follows it: it may be any map with such values.
    let spilled = after_either(|asm| {
        asm.store(MemSize::Dw, 10, -16, R(8))
            .load(MemSize::Dw, 2, 10, -16)
            .store(MemSize::W, 2, 0, R(6));
    });
    assert_eq!(spilled, [true, true, true, false]);
}

#[test]
fn a_store_that_is_only_checked_may_go_anywhere() {
    let written = after_lookup(2, |asm| {
        asm.load(MemSize::Dw, 3, 0, 0)
            .alu(o::ADD, 0, R(3))
            .store(MemSize::B, 0, 0, 1);
    });
    assert_eq!(written[..3], [true; 3]);
}

#[test]
fn what_cannot_be_reached_counts_for_nothing() {
    let mut asm = Asm::new();
    asm.mov(0, 2).exit();
    lookup(&mut asm, 0);
    asm.store(MemSize::Dw, 0, 0, 1).mov(0, 2).exit();
    assert_eq!(written(&asm), [false; 4]);
}
