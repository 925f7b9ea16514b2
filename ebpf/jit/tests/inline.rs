//! What stands in the code in place of calls: small helpers, lookups. The interpreter calls the functions.

mod common;

use std::sync::Arc;

use common::{agree, agree_after};
use squalus_isa::{HelperId, Insn, MapDef, MapType, MemSize, UpdateFlags, Verdict, opcode as o};
use squalus_maps::Map;
use squalus_runtime::Redirect;
use squalus_runtime::asm::{Asm, R};

fn map(kind: MapType, sizes: (u32, u32), max_entries: u32) -> MapDef {
    MapDef::new("map", kind, sizes, max_entries)
}

/// `helper(ctx, offset)` after as much metadata; the offset is a constant, or comes from the packet, whose
/// first byte is returned then.
fn adjust(helper: HelperId, offset: i32, meta: i32, constant: bool) -> (Vec<Insn>, Vec<u8>) {
    let mut asm = Asm::new();
    let out = asm.label();
    asm.mov(6, R(1))
        .mov(2, -meta)
        .call(HelperId::XDP_ADJUST_META);
    asm.load(MemSize::W, 2, 6, 0)
        .load(MemSize::W, 3, 6, 4)
        .mov(4, R(2))
        .add(4, 8)
        .jump_if(o::JGT, 4, R(3), out)
        .load(MemSize::W, 7, 2, 0)
        .mov(1, R(6));
    if constant {
        asm.mov(2, offset);
    } else {
        asm.mov(2, R(7));
    }
    asm.call(helper).mov(7, R(0));
    // What the program sees afterwards: how long the packet is, and its first byte.
    asm.load(MemSize::W, 2, 6, 0)
        .load(MemSize::W, 3, 6, 4)
        .mov(8, R(3))
        .alu(o::SUB, 8, R(2))
        .mov(4, R(2))
        .add(4, 1)
        .mov(9, 0)
        .jump_if(o::JGT, 4, R(3), out)
        .load(MemSize::B, 9, 2, 0);
    asm.bind(out);
    asm.alu(o::LSH, 8, 16)
        .alu(o::LSH, 9, 40)
        .alu32(o::AND, 7, 0xff)
        .mov(0, R(7))
        .alu(o::OR, 0, R(8))
        .alu(o::OR, 0, R(9))
        .exit();
    let mut packet: Vec<u8> = (1..=64).collect();
    packet[..4].copy_from_slice(&offset.to_ne_bytes());
    (asm.finish(), packet)
}

#[test]
fn the_start_and_the_end_move_alike() {
    let head = [
        0,
        -1,
        -2,
        -20,
        -40,
        -216,
        -217,
        -212,
        -256,
        1,
        8,
        49,
        50,
        51,
        64,
        i32::MIN,
        i32::MAX,
    ];
    let tail = [0, -1, -4, -49, -50, -51, -64, 1, 4, 300, i32::MIN, i32::MAX];
    for (helper, offsets) in [
        (HelperId::XDP_ADJUST_HEAD, &head[..]),
        (HelperId::XDP_ADJUST_TAIL, &tail[..]),
    ] {
        for (n, &offset) in offsets.iter().enumerate() {
            let (meta, constant) = [(0, true), (0, false), (4, true), (0, false)][n % 4];
            let (code, packet) = adjust(helper, offset, meta, constant);
            agree(&[code], &[], &packet);
        }
    }
}

#[test]
fn the_last_redirect_counts() {
    for flags in [0, 1] {
        let mut asm = Asm::new();
        asm.mov(1, 7).mov(2, 0).call(HelperId::REDIRECT);
        asm.mov(1, -2).mov(2, flags).call(HelperId::REDIRECT).exit();
        let ran = agree(&[asm.finish()], &[], &[0; 64]);
        let (verdict, ifindex) = match flags {
            0 => (Verdict::Redirect, u32::MAX - 1),
            _ => (Verdict::Aborted, 7),
        };
        assert_eq!(ran.result, Ok(verdict as u64));
        assert_eq!(ran.redirect, Redirect::Interface(ifindex));
    }
}

#[test]
fn checksums_of_few_words() {
    let lengths = [
        (0, 0),
        (0, 4),
        (4, 0),
        (0, 20),
        (20, 20),
        (64, 64),
        (68, 4),
        (8, 40),
    ];
    let packets = [
        [0xff; 80],
        [0; 80],
        std::array::from_fn(|n| (n * n * 7 + 3) as u8),
    ];
    for (n, (from, to)) in lengths.into_iter().enumerate() {
        for seed in [0, 0x1_8000_0001] {
            let mut asm = Asm::new();
            let out = asm.label();
            asm.load(MemSize::W, 8, 1, 0)
                .load(MemSize::W, 3, 1, 4)
                .mov(4, R(8))
                .add(4, 68)
                .mov(0, 0)
                .jump_if(o::JGT, 4, R(3), out);
            // The new bytes on the stack, the old ones in the packet.
            for at in (0..68).step_by(4) {
                asm.load(MemSize::W, 2, 8, at).alu32(o::MUL, 2, 0x0101_0301);
                asm.store(MemSize::W, 10, at - 72, R(2));
            }
            asm.mov(1, R(8))
                .mov(2, from)
                .mov(3, R(10))
                .add(3, -72)
                .mov(4, to)
                .imm64(5, seed)
                .call(HelperId::CSUM_DIFF);
            asm.bind(out);
            asm.exit();
            agree(&[asm.finish()], &[], &packets[n % packets.len()]);
        }
    }
}

#[test]
fn numbers_of_the_environment() {
    let mut asm = Asm::new();
    asm.mov(6, 0);
    for helper in [
        HelperId::GET_PRANDOM_U32,
        HelperId::KTIME_GET_NS,
        HelperId::GET_PRANDOM_U32,
        HelperId::GET_SMP_PROCESSOR_ID,
        HelperId::GET_NUMA_NODE_ID,
        HelperId::KTIME_GET_NS,
    ] {
        asm.call(helper).alu(o::MUL, 6, 31).alu(o::ADD, 6, R(0));
    }
    asm.mov(0, R(6)).exit();
    agree(&[asm.finish()], &[], &[0; 60]);
}

/// Stores words of 4 or 8 bytes that make up a key of `len` bytes before the end of the stack.
fn key(asm: &mut Asm, len: i16, wide: bool, number: i32) {
    let mut at = -len;
    while at < 0 {
        let value = number.wrapping_mul(i32::from(at) * 77 + 1);
        if wide && at % 8 == 0 && at <= -8 {
            asm.imm64(
                2,
                (value as u64) << 32 | 0x1234_5678 ^ u64::from(at.unsigned_abs()),
            );
            asm.store(MemSize::Dw, 10, at, R(2));
            at += 8;
        } else if at % 4 == 0 {
            asm.store(MemSize::W, 10, at, value);
            at += 4;
        } else {
            asm.store(MemSize::B, 10, at, value);
            at += 1;
        }
    }
}

#[test]
fn hashes_find_what_is_there_and_nothing_else() {
    let cases = [
        (MapType::Hash, &[1, 4, 12, 40, 72][..]),
        (MapType::LruHash, &[3, 20]),
        (MapType::PerCpuHash, &[8, 36]),
        (MapType::LruPerCpuHash, &[16]),
    ];
    for (kind, lengths) in cases {
        for &len in lengths {
            let wide = len % 8 != 0 || len == 40;
            let mut asm = Asm::new();
            asm.mov(9, 0);
            let lookup = |asm: &mut Asm, number| {
                let absent = asm.label();
                key(asm, len, wide, number);
                asm.map(1, 0).mov(2, R(10)).add(2, -i32::from(len));
                asm.call(HelperId::MAP_LOOKUP_ELEM);
                asm.alu(o::MUL, 9, 16).jump_eq(0, 0, absent);
                asm.load(MemSize::Dw, 1, 0, 0).alu(o::ADD, 9, R(1));
                asm.bind(absent);
            };
            lookup(&mut asm, 1);
            for number in [1, 2] {
                key(&mut asm, len, wide, number);
                asm.store(MemSize::Dw, 10, -96, number + 4);
                asm.map(1, 0).mov(2, R(10)).add(2, -i32::from(len));
                asm.mov(3, R(10)).add(3, -96).mov(4, 0);
                asm.call(HelperId::MAP_UPDATE_ELEM);
            }
            for number in [1, 2, 3] {
                lookup(&mut asm, number);
            }
            key(&mut asm, len, wide, 1);
            asm.map(1, 0).mov(2, R(10)).add(2, -i32::from(len));
            asm.call(HelperId::MAP_DELETE_ELEM);
            for number in [1, 2, 3] {
                lookup(&mut asm, number);
            }
            asm.mov(0, R(9)).exit();
            let ran = agree(
                &[asm.finish()],
                &[map(kind, (len as u32, 8), 100)],
                &[0; 60],
            );
            assert_eq!(ran.result, Ok(0x056_0060), "{kind:?}, {len}");
        }
    }
}

/// A session that every packet of its own uses stays while ten times as many others as the table holds come and go.
#[test]
fn lookups_keep_what_is_in_use() {
    const OTHERS: i32 = 2000;
    for kind in [MapType::LruHash, MapType::LruPerCpuHash] {
        let mut asm = Asm::new();
        let update = |asm: &mut Asm| {
            asm.map(1, 0).mov(2, R(10)).add(2, -8);
            asm.mov(3, R(10)).add(3, -8).mov(4, 0);
            asm.call(HelperId::MAP_UPDATE_ELEM);
        };
        let (again, absent) = (asm.label(), asm.label());
        asm.mov(6, 1).mov(9, 0).store(MemSize::Dw, 10, -8, 0);
        update(&mut asm);
        asm.bind(again).store(MemSize::Dw, 10, -8, 0);
        asm.map(1, 0).mov(2, R(10)).add(2, -8);
        asm.call(HelperId::MAP_LOOKUP_ELEM);
        asm.jump_eq(0, 0, absent).add(9, 1).bind(absent);
        asm.store(MemSize::Dw, 10, -8, R(6));
        update(&mut asm);
        asm.add(6, 1).jump_if(o::JLE, 6, OTHERS, again);
        asm.mov(0, R(9)).exit();
        let ran = agree(&[asm.finish()], &[map(kind, (8, 8), 200)], &[0; 60]);
        assert_eq!(ran.result, Ok(OTHERS as u64), "{kind:?}");
    }
}

/// Keys whose bytes are stored by instructions that reach beyond the words of the key.
#[test]
fn keys_are_put_together_from_stores_of_any_width() {
    let mut asm = Asm::new();
    asm.imm64(2, 0x1122_3344_5566_7788).mov(3, 0x0a0b_0c0d);
    asm.store(MemSize::W, 10, -12, R(3))
        .store(MemSize::Dw, 10, -8, R(2));
    // The same bytes by other stores.
    asm.store(MemSize::W, 10, -32, R(3))
        .store(MemSize::W, 10, -28, R(2))
        .alu(o::RSH, 2, 32)
        .store(MemSize::W, 10, -24, R(2));
    asm.store(MemSize::Dw, 10, -48, 9);
    asm.map(1, 0)
        .mov(2, R(10))
        .add(2, -32)
        .mov(3, R(10))
        .add(3, -48)
        .mov(4, 0);
    asm.call(HelperId::MAP_UPDATE_ELEM);
    asm.map(1, 0)
        .mov(2, R(10))
        .add(2, -12)
        .call(HelperId::MAP_LOOKUP_ELEM);
    let absent = asm.label();
    asm.mov(9, 0)
        .jump_eq(0, 0, absent)
        .load(MemSize::Dw, 9, 0, 0);
    asm.bind(absent);
    asm.mov(0, R(9)).exit();
    let ran = agree(&[asm.finish()], &[map(MapType::Hash, (12, 8), 4)], &[0; 60]);
    assert_eq!(ran.result, Ok(9));
}

/// Elements of inner arrays and hashes, inside and outside, and without an inner map.
#[test]
fn inner_maps_are_looked_up_alike() {
    for kind in [
        MapType::Array,
        MapType::PerCpuArray,
        MapType::Hash,
        MapType::LruHash,
    ] {
        for (outer_key, inner_key) in [(0, 0), (0, 3), (0, 4), (0, -1), (1, 0), (2, 0)] {
            let inner = map(kind, (4, 12), 4);
            let outer = MapDef {
                inner: Some(Box::new(inner.clone())),
                ..map(MapType::ArrayOfMaps, (4, 4), 2)
            };
            let mut asm = Asm::new();
            let none = asm.label();
            asm.mov(9, 0).store(MemSize::W, 10, -4, outer_key);
            asm.map(1, 0).mov(2, R(10)).add(2, -4);
            asm.call(HelperId::MAP_LOOKUP_ELEM).jump_eq(0, 0, none);
            asm.store(MemSize::W, 10, -8, inner_key);
            asm.mov(1, R(0)).mov(2, R(10)).add(2, -8);
            asm.call(HelperId::MAP_LOOKUP_ELEM)
                .mov(9, 1)
                .jump_eq(0, 0, none);
            asm.load(MemSize::W, 9, 0, 8).store(MemSize::W, 0, 8, 5);
            asm.bind(none);
            asm.mov(0, R(9)).exit();
            let prepare = |loaded: &common::Loaded| {
                let new = Map::new(&inner, &loaded.env).expect("the map's definition is valid");
                for key in 0..4_u32 {
                    let mut value = vec![key as u8 + 70; 12];
                    value.resize(if kind.is_per_cpu() { 32 } else { 12 }, 0);
                    new.sys_update(&key.to_ne_bytes(), &value, UpdateFlags::ANY)
                        .expect("the key fits");
                }
                let place = loaded.maps[0].set_inner(&[0; 4], Arc::clone(&new));
                place.expect("the inner map fits");
            };
            let ran = agree_after(&[asm.finish()], &[outer], &[0; 60], &prepare);
            let there = outer_key == 0 && (0..4).contains(&inner_key);
            let want = match outer_key {
                0 if there => (inner_key as u64 + 70) * 0x0101_0101,
                0 => 1,
                _ => 0,
            };
            assert_eq!(ran.result, Ok(want), "{kind:?}[{outer_key}][{inner_key}]");
        }
    }
}
