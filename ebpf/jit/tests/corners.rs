//! Instructions beyond the RFC, and corners of it: interpreted and compiled alike.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod common;

use common::{agree, compile_all, link, run_interp, run_jit};
use squalus_isa::{MapDef, MapFlags, MapType, MemSize, opcode as o};
use squalus_jit::Options;
use squalus_runtime::TrapReason;
use squalus_runtime::asm::{Asm, R};

const PACKET: [u8; 64] = [7; 64];
const SIZES: [MemSize; 4] = [MemSize::B, MemSize::H, MemSize::W, MemSize::Dw];

fn array() -> MapDef {
    MapDef::new("m", MapType::Array, (4, 16), 1)
}

fn result(write: impl FnOnce(&mut Asm)) -> Result<u64, TrapReason> {
    let mut code = Asm::new();
    write(&mut code);
    agree(&[code.finish()], &[array()], &PACKET).result
}

#[test]
fn ordered_accesses_load_and_store() {
    for size in SIZES {
        let bits = size.bytes() * 8;
        let expected = 0x8182_8384_8586_8788_u64 << (64 - bits) >> (64 - bits);
        for in_map in [false, true] {
            let read = result(|c| {
                c.map_value(6, 0, 8).imm64(1, 0x8182_8384_8586_8788);
                if !in_map {
                    c.mov(6, R(10)).add(6, -8);
                }
                c.store(MemSize::Dw, 6, 0, 0)
                    .atomic(size, o::ATOMIC_STORE_REL, 6, 0, 1)
                    .load_acquire(size, 7, 6, 0)
                    .load(MemSize::Dw, 0, 6, 0)
                    .alu(o::XOR, 0, R(7))
                    .add(0, R(7))
                    .exit();
            });
            assert_eq!(read, Ok(expected), "{size:?} {in_map}");
        }
    }
}

#[test]
fn ordered_accesses_are_aligned_and_not_of_packets() {
    for size in [MemSize::H, MemSize::W, MemSize::Dw] {
        for load in [false, true] {
            let reason = result(|c| {
                c.map_value(6, 0, 1).mov(1, 1);
                if load {
                    c.load_acquire(size, 7, 6, 0);
                } else {
                    c.atomic(size, o::ATOMIC_STORE_REL, 6, 0, 1);
                }
                c.mov(0, 0).exit();
            });
            assert_eq!(reason, Err(TrapReason::Misaligned), "{size:?} {load}");
        }
    }
    let reason = result(|c| {
        let short = c.label();
        c.load(MemSize::W, 6, 1, 0)
            .load(MemSize::W, 7, 1, 4)
            .mov(8, R(6))
            .add(8, 8)
            .mov(0, 0)
            .jump_if(o::JGT, 8, R(7), short)
            .load_acquire(MemSize::B, 0, 6, 0)
            .bind(short)
            .exit();
    });
    assert_eq!(reason, Err(TrapReason::AtomicPlace));
}

#[test]
fn a_load_acquire_needs_no_right_to_write() {
    let mut def = array();
    def.flags = MapFlags::RDONLY_PROG;
    let mut code = Asm::new();
    code.map_value(6, 0, 8)
        .load_acquire(MemSize::Dw, 0, 6, 0)
        .exit();
    assert_eq!(agree(&[code.finish()], &[def], &PACKET).result, Ok(0));
}

#[test]
fn loops_that_may_be_left_end() {
    let mut code = Asm::new();
    let (again, out) = (code.label(), code.label());
    code.mov(6, 0)
        .bind(again)
        .may_goto(out)
        .add(6, 1)
        .jump(again)
        .bind(out)
        .mov(0, 2)
        .exit();
    let loaded = link(&[code.finish()], &[]);
    assert_eq!(run_interp(&loaded, &PACKET).result, Ok(2));
    for check_facts in [false, true] {
        let options = Options {
            check_facts,
            ..Options::default()
        };
        let compiled = compile_all(&loaded, options);
        assert_eq!(run_jit(&loaded, &compiled, &PACKET).result, Ok(2));
    }
}

#[test]
fn short_loops_are_not_left() {
    let sum = result(|c| {
        let (again, out) = (c.label(), c.label());
        c.mov(0, 0)
            .mov(6, 0)
            .bind(again)
            .may_goto(out)
            .add(6, 1)
            .add(0, R(6))
            .jump_if(o::JLT, 6, 100, again)
            .bind(out)
            .exit();
    });
    assert_eq!(sum, Ok(5050));
}

#[test]
fn numbers_of_the_context_can_be_sign_extended() {
    let sum = result(|c| {
        c.load_signed(MemSize::W, 0, 1, 12)
            .load_signed(MemSize::W, 2, 1, 16)
            .load_signed(MemSize::W, 3, 1, 20)
            .add(0, R(2))
            .add(0, R(3))
            .exit();
    });
    assert_eq!(sum, Ok(1));
}
