//! Helpers through programs: results, errors and effects of Linux 6.18.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod common;

use std::sync::Arc;

use common::{Machine, map, run, run_with};
use squalus_isa::{Errno, HelperId, MapType, MemSize, UpdateFlags, opcode as o};
use squalus_maps::Map;
use squalus_runtime::asm::{Asm, R};
use squalus_runtime::{PACKET_HEADROOM, RESERVED_HEAD, Redirect, TEST_RUN_MAX};

fn errno(code: i32) -> u64 {
    Errno(code).as_return()
}

/// Runs `helper(ctx, delta)` on a packet of 64 bytes; gives its result and the packet's length after.
fn adjust(helper: HelperId, delta: i32) -> (u64, usize) {
    let mut machine = Machine::new(&[]);
    let mut code = Asm::new();
    code.mov(2, delta).call(helper).exit();
    machine.add(&code.finish());
    let result = machine.run().unwrap();
    (result, machine.packet.len())
}

#[test]
fn adjust_head_stops_at_the_reserved_head_and_an_ethernet_header() {
    let room = (PACKET_HEADROOM - RESERVED_HEAD) as i32;
    assert_eq!(adjust(HelperId::XDP_ADJUST_HEAD, -room), (0, 64 + 216));
    assert_eq!(
        adjust(HelperId::XDP_ADJUST_HEAD, -room - 1),
        (errno(22), 64)
    );
    assert_eq!(adjust(HelperId::XDP_ADJUST_HEAD, 50), (0, 14));
    assert_eq!(adjust(HelperId::XDP_ADJUST_HEAD, 51), (errno(22), 64));
    assert_eq!(adjust(HelperId::XDP_ADJUST_HEAD, i32::MIN), (errno(22), 64));
    assert_eq!(adjust(HelperId::XDP_ADJUST_HEAD, i32::MAX), (errno(22), 64));
}

#[test]
fn adjust_tail_stops_at_the_page_and_an_ethernet_header() {
    let room = (TEST_RUN_MAX - 64) as i32;
    assert_eq!(adjust(HelperId::XDP_ADJUST_TAIL, room), (0, TEST_RUN_MAX));
    assert_eq!(adjust(HelperId::XDP_ADJUST_TAIL, room + 1), (errno(22), 64));
    assert_eq!(adjust(HelperId::XDP_ADJUST_TAIL, -50), (0, 14));
    assert_eq!(adjust(HelperId::XDP_ADJUST_TAIL, -51), (errno(22), 64));
}

#[test]
fn a_shrunk_and_grown_tail_is_zero() {
    let mut machine = Machine::new(&[]);
    let mut code = Asm::new();
    code.mov(6, R(1)).mov(2, -8).call(HelperId::XDP_ADJUST_TAIL);
    code.mov(1, R(6))
        .mov(2, 8)
        .call(HelperId::XDP_ADJUST_TAIL)
        .exit();
    machine.add(&code.finish());
    assert_eq!(machine.run(), Ok(0));
    let mut want: Vec<u8> = (0..56).collect();
    want.extend([0; 8]);
    assert_eq!(machine.packet, want);
}

#[test]
fn metadata_grows_in_words_and_moves_with_the_head() {
    let meta = |delta| adjust(HelperId::XDP_ADJUST_META, delta).0;
    assert_eq!(meta(-4), 0);
    assert_eq!(
        meta(-252),
        errno(22),
        "252 bytes don't fit before the reserved head"
    );
    assert_eq!(meta(-216), 0);
    assert_eq!(meta(-2), errno(13));
    assert_eq!(meta(4), errno(22));

    let mut machine = Machine::new(&[]);
    let mut code = Asm::new();
    code.mov(6, R(1)).mov(2, -4).call(HelperId::XDP_ADJUST_META);
    code.load(MemSize::W, 2, 6, 8)
        .store(MemSize::W, 2, 0, 0x0403_0201);
    code.mov(1, R(6))
        .mov(2, -20)
        .call(HelperId::XDP_ADJUST_HEAD);
    code.load(MemSize::W, 2, 6, 0).load(MemSize::W, 3, 6, 8);
    code.mov(0, R(2)).alu(o::SUB, 0, R(3)).exit();
    machine.add(&code.finish());
    assert_eq!(machine.run(), Ok(4));
    assert_eq!(machine.metadata, [1, 2, 3, 4]);
    assert_eq!(machine.packet.len(), 84);
    assert_eq!(machine.packet[20..24], [0, 1, 2, 3]);
}

#[test]
fn metadata_narrows_what_the_head_can_take() {
    let mut machine = Machine::new(&[]);
    let mut code = Asm::new();
    code.mov(6, R(1)).mov(2, -8).call(HelperId::XDP_ADJUST_META);
    code.mov(1, R(6))
        .mov(2, -212)
        .call(HelperId::XDP_ADJUST_HEAD)
        .exit();
    machine.add(&code.finish());
    assert_eq!(machine.run(), Ok(errno(22)));
}

#[test]
fn packet_bytes_are_copied_both_ways() {
    let mut machine = Machine::new(&[]);
    let mut code = Asm::new();
    code.mov(6, R(1))
        .mov(2, 10)
        .mov(3, R(10))
        .add(3, -8)
        .mov(4, 8)
        .call(HelperId::XDP_LOAD_BYTES);
    code.mov(1, R(6))
        .mov(2, 56)
        .mov(3, R(10))
        .add(3, -8)
        .mov(4, 8)
        .call(HelperId::XDP_STORE_BYTES);
    code.mov(1, R(6)).call(HelperId::XDP_GET_BUFF_LEN).exit();
    machine.add(&code.finish());
    assert_eq!(machine.run(), Ok(64));
    assert_eq!(machine.packet[56..], [10, 11, 12, 13, 14, 15, 16, 17]);

    let load = |offset, len| {
        run(move |c| {
            c.mov(2, offset)
                .mov(3, R(10))
                .add(3, -64)
                .mov(4, len)
                .call(HelperId::XDP_LOAD_BYTES)
                .exit();
        })
    };
    assert_eq!(load(0, 64), Ok(0));
    assert_eq!(load(1, 64), Ok(errno(22)));
    assert_eq!(load(0x1_0000, 1), Ok(errno(14)));
    assert_eq!(load(-1, 1), Ok(errno(14)));
}

#[test]
fn clock_cpu_and_random_numbers_come_from_the_environment() {
    for helper in [
        HelperId::KTIME_GET_NS,
        HelperId::KTIME_GET_BOOT_NS,
        HelperId::KTIME_GET_COARSE_NS,
    ] {
        let got = run(|c| {
            c.call(helper).exit();
        });
        assert_eq!(got, Ok(1000));
    }
    let mut machine = Machine::new(&[]);
    machine.env.cpu = 1;
    let mut code = Asm::new();
    code.call(HelperId::GET_SMP_PROCESSOR_ID).exit();
    machine.add(&code.finish());
    assert_eq!(machine.run(), Ok(1));
    let random = || {
        run(|c| {
            c.call(HelperId::GET_PRANDOM_U32).exit();
        })
    };
    assert_eq!(random(), random());
    assert!(random().unwrap() <= u64::from(u32::MAX));
}

#[test]
fn redirect_names_an_interface_and_knows_no_flags() {
    let mut machine = Machine::new(&[]);
    let mut code = Asm::new();
    code.mov(1, 7).mov(2, 0).call(HelperId::REDIRECT).exit();
    machine.add(&code.finish());
    assert_eq!(machine.run(), Ok(4));
    assert_eq!(machine.env.redirect, Redirect::Interface(7));
    let flagged = run(|c| {
        c.mov(1, 7).mov(2, 1).call(HelperId::REDIRECT).exit();
    });
    assert_eq!(flagged, Ok(0));
}

#[test]
fn printing_is_counted() {
    let mut machine = Machine::new(&[]);
    let mut code = Asm::new();
    code.store(MemSize::W, 10, -4, 0x000a_6968)
        .mov(1, R(10))
        .add(1, -4)
        .mov(2, 4);
    code.call(HelperId::TRACE_PRINTK).exit();
    machine.add(&code.finish());
    assert_eq!(machine.run(), Ok(3));
    assert_eq!(machine.env.trace.lines(), 1);
}

#[test]
fn checksums_of_stack_and_packet() {
    let sum = |seed: i32| {
        run(move |c| {
            c.load(MemSize::W, 3, 1, 0)
                .mov(1, 0)
                .mov(2, 0)
                .mov(4, 4)
                .mov(5, seed);
            c.call(HelperId::CSUM_DIFF).exit();
        })
    };
    assert_eq!(sum(0), Ok(0x0100 + 0x0302));
    assert_eq!(sum(5), Ok(0x0407));
    let torn = run(|c| {
        c.load(MemSize::W, 3, 1, 0)
            .mov(1, 0)
            .mov(2, 0)
            .mov(4, 3)
            .mov(5, 0);
        c.call(HelperId::CSUM_DIFF).exit();
    });
    assert_eq!(torn, Ok(0x0102));
}

#[test]
fn maps_are_looked_up_updated_and_deleted() {
    let defs = [map(MapType::Hash, 4, 8, 4)];
    let key = |c: &mut Asm| {
        c.map(1, 0).mov(2, R(10)).add(2, -4);
    };
    let got = run_with(&defs, |c| {
        let (fail, null) = (c.label(), c.label());
        c.store(MemSize::W, 10, -4, 9)
            .store(MemSize::Dw, 10, -16, 77);
        key(c);
        c.call(HelperId::MAP_DELETE_ELEM).mov(6, R(0));
        key(c);
        c.mov(3, R(10))
            .add(3, -16)
            .mov(4, 0)
            .call(HelperId::MAP_UPDATE_ELEM);
        c.jump_if(o::JNE, 0, 0, fail);
        key(c);
        c.call(HelperId::MAP_LOOKUP_ELEM).jump_eq(0, 0, null);
        c.load(MemSize::Dw, 0, 0, 0).alu(o::SUB, 0, R(6)).exit();
        c.bind(fail).mov(0, 1000).exit();
        c.bind(null).mov(0, 2000).exit();
    });
    assert_eq!(got, Ok(77 + 2), "the first delete answers ENOENT");
}

#[test]
fn per_cpu_values_follow_the_workers_number() {
    let mut machine = Machine::new(&[map(MapType::PerCpuArray, 4, 8, 1)]);
    let values: Vec<u8> = [11u64, 22].iter().flat_map(|v| v.to_ne_bytes()).collect();
    machine.maps[0]
        .sys_update(&[0; 4], &values, UpdateFlags::ANY)
        .unwrap();
    let mut code = Asm::new();
    let null = code.label();
    code.store(MemSize::W, 10, -4, 0)
        .map(1, 0)
        .mov(2, R(10))
        .add(2, -4);
    code.call(HelperId::MAP_LOOKUP_ELEM)
        .jump_eq(0, 0, null)
        .load(MemSize::Dw, 6, 0, 0);
    code.map(1, 0)
        .mov(2, R(10))
        .add(2, -4)
        .mov(3, 1)
        .call(HelperId::MAP_LOOKUP_PERCPU_ELEM);
    code.jump_eq(0, 0, null)
        .load(MemSize::Dw, 0, 0, 0)
        .alu(o::MUL, 0, 100)
        .add(0, R(6));
    code.bind(null).exit();
    machine.add(&code.finish());
    assert_eq!(machine.run(), Ok(2211));
    machine.env.cpu = 1;
    assert_eq!(machine.run(), Ok(2222));
}

#[test]
fn inner_maps_are_found_through_their_outer_map() {
    let inner = map(MapType::Array, 4, 4, 2);
    let mut outer = map(MapType::ArrayOfMaps, 4, 4, 2);
    outer.inner = Some(Box::new(inner.clone()));
    let mut machine = Machine::new(&[outer]);
    let mut code = Asm::new();
    let null = code.label();
    code.store(MemSize::W, 10, -4, 1)
        .map(1, 0)
        .mov(2, R(10))
        .add(2, -4);
    code.call(HelperId::MAP_LOOKUP_ELEM)
        .mov(1, R(0))
        .mov(0, 500)
        .jump_eq(1, 0, null);
    code.mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_eq(0, 0, null);
    code.load(MemSize::W, 0, 0, 0).bind(null).exit();
    machine.add(&code.finish());
    assert_eq!(machine.run(), Ok(500));
    let map: Arc<Map> = Map::new(&inner, &machine.map_env).unwrap();
    map.sys_update(&1u32.to_ne_bytes(), &33u32.to_ne_bytes(), UpdateFlags::ANY)
        .unwrap();
    machine.maps[0].set_inner(&1u32.to_ne_bytes(), map).unwrap();
    assert_eq!(machine.run(), Ok(33));
}
