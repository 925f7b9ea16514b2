//! Elements reached in other ways than by a lookup in a map that is named: maps in maps, walks over all elements, other
//! CPUs' values, records of ring buffers.

use squalus_isa::{HelperId, Insn, MemSize, opcode as o};
use squalus_runtime::asm::{Asm, Label, R};

use super::functions::Walk;
use super::{DATA, DATA_AT, FP, PACKET, STACK, functions, maps};
use crate::Rng;

/// `r2` = the address of a key on the stack, a small number: of the program's, or from the frame.
fn key(rng: &mut Rng, c: &mut Asm, most: i32) {
    let off = 8 * rng.below((STACK / 8) as usize) as i16 - STACK;
    match rng.percent(50) {
        true => {
            c.store(MemSize::Dw, FP, off, rng.below(most as usize) as i32);
        }
        false => {
            let at = DATA_AT + rng.below(DATA as usize) as i16;
            c.load(MemSize::B, 1, PACKET, at).alu(o::AND, 1, 7);
            c.store(MemSize::Dw, FP, off, R(1));
        }
    }
    c.mov(2, R(FP)).add(2, i32::from(off));
}

/// Reads the value in `r0`, of eight bytes, and perhaps writes some of it; to `none` if there is none.
fn use_value(rng: &mut Rng, c: &mut Asm, none: Label) {
    c.jump_eq(0, 0, none);
    match rng.below(4) {
        0 => c.store(MemSize::W, 0, 4, R(*rng.pick(&[8, 9]))),
        1 => c.mov(1, 3).atomic(MemSize::Dw, o::ADD.into(), 0, 0, 1),
        _ => c,
    };
    c.load(MemSize::Dw, 0, 0, 0);
}

/// A lookup in a map of maps and then in the inner map, or a change of the latter.
pub(super) fn inner(rng: &mut Rng, code: &mut Vec<Insn>) {
    let mut asm = Asm::new();
    let c = &mut asm;
    let none = c.label();
    let outer = *rng.pick(&[maps::ARRAYS, maps::HASHES]);
    key(rng, c, 5);
    c.map(1, outer as u32).call(HelperId::MAP_LOOKUP_ELEM);
    c.jump_eq(0, 0, none).mov(1, R(0));
    let off = 8 * rng.below((STACK / 8) as usize) as i16 - STACK;
    match rng.percent(60) {
        true => c.store(MemSize::Dw, FP, off, rng.below(6) as i32),
        false => c
            .load(
                MemSize::B,
                3,
                PACKET,
                DATA_AT + rng.below(DATA as usize) as i16,
            )
            .alu(o::AND, 3, 7)
            .store(MemSize::Dw, FP, off, R(3)),
    };
    c.mov(2, R(FP)).add(2, i32::from(off));
    match rng.below(6) {
        0 => {
            let from = 8 * rng.below((STACK / 8) as usize) as i16 - STACK;
            c.mov(3, R(FP)).add(3, i32::from(from));
            c.mov(4, *rng.pick(&[0, 0, 1, 2]));
            c.call(HelperId::MAP_UPDATE_ELEM);
        }
        1 => {
            c.call(HelperId::MAP_DELETE_ELEM);
        }
        _ => {
            c.call(HelperId::MAP_LOOKUP_ELEM);
            use_value(rng, c, none);
        }
    }
    c.bind(none);
    code.extend(asm.finish());
}

/// A walk over a map. What is made of its elements does not depend on their order, but for arrays.
pub(super) fn walk(rng: &mut Rng, code: &mut Vec<Insn>) {
    let map = *rng.pick(&[
        maps::ARRAY,
        maps::HASH,
        maps::PER_CPU_HASH,
        maps::PER_CPU,
        maps::LRU,
        maps::TABLE,
        maps::SETTINGS,
    ]);
    let off = 8 * rng.below((STACK / 8) as usize - 2) as i16 - STACK;
    let mut asm = Asm::new();
    let of_array = map == maps::ARRAY || map == maps::PER_CPU;
    asm.mov(3, R(FP)).add(3, i32::from(off)).map(1, map as u32);
    code.extend(asm.finish());
    code.extend(functions::of_walk(match (of_array, map) {
        (true, _) => Walk::Ordered,
        (_, maps::TABLE | maps::SETTINGS) => Walk::Reading,
        _ => Walk::Unordered,
    }));
    let mut asm = Asm::new();
    asm.mov(4, 0).call(HelperId::FOR_EACH_MAP_ELEM);
    code.extend(asm.finish());
}

/// Values of CPUs: the running one's, another's, and its number.
pub(super) fn per_cpu(rng: &mut Rng, code: &mut Vec<Insn>) {
    let mut asm = Asm::new();
    let c = &mut asm;
    let none = c.label();
    match rng.below(5) {
        0 => {
            c.call(HelperId::GET_SMP_PROCESSOR_ID);
        }
        1 => {
            key(rng, c, 5);
            let map = *rng.pick(&[maps::PER_CPU, maps::PER_CPU_HASH]);
            c.map(1, map as u32);
            match rng.percent(70) {
                true => c.mov(3, rng.below(3) as i32),
                false => c
                    .load(
                        MemSize::B,
                        3,
                        PACKET,
                        DATA_AT + rng.below(DATA as usize) as i16,
                    )
                    .alu(o::AND, 3, 3),
            };
            c.call(HelperId::MAP_LOOKUP_PERCPU_ELEM);
            use_value(rng, c, none);
        }
        _ => {
            key(rng, c, 5);
            c.map(1, maps::PER_CPU as u32);
            c.call(HelperId::MAP_LOOKUP_ELEM);
            use_value(rng, c, none);
        }
    }
    c.bind(none);
    code.extend(asm.finish());
}

/// A record of the ring, which is filled and given to whoever reads it, or thrown away. Nobody reads, so the ring gets
/// full.
pub(super) fn record(rng: &mut Rng, code: &mut Vec<Insn>) {
    let mut asm = Asm::new();
    let c = &mut asm;
    let none = c.label();
    let len = rng.between(1, 6) as i16 * 8;
    c.map(1, maps::RING as u32).mov(2, i32::from(len)).mov(3, 0);
    c.call(HelperId::RINGBUF_RESERVE).jump_eq(0, 0, none);
    for at in (0..len).step_by(8) {
        c.store(MemSize::Dw, 0, at, R(*rng.pick(&[8, 9])));
    }
    c.load(MemSize::W, 3, 0, rng.below((len / 4) as usize) as i16 * 4);
    c.store(MemSize::W, PACKET, DATA_AT, R(3)).mov(1, R(0));
    c.mov(2, *rng.pick(&[0, 1, 2]));
    c.call(*rng.pick(&[HelperId::RINGBUF_SUBMIT, HelperId::RINGBUF_DISCARD]));
    c.bind(none).mov(0, 4);
    code.extend(asm.finish());
}
