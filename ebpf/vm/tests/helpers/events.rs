//! Perf events and ring buffers: results of every operation, and what a ring says of itself.

use squalus_isa::{HelperId, MapType, MemSize, opcode as o};
use squalus_runtime::Rng;

use crate::harness::{Arg, Program, may_use_bpf, plain};

#[test]
fn perf_events_without_a_reader_and_wrong_flags_are_refused_alike() {
    if !may_use_bpf() {
        return;
    }
    let mut program = Program::new();
    let map = program.map(plain("events", MapType::PerfEventArray, (4, 4), 2));
    let data = program.input(b"12345678");
    for flags in [
        0,
        1,
        2,
        0xffff_ffff,
        0xffff_fffe,
        64 << 32 | 0xffff_ffff,
        65 << 32 | 0xffff_ffff,
        0xf_ffff << 32,
        1 << 52,
        1 << 63,
    ] {
        program.call(
            HelperId::PERF_EVENT_OUTPUT,
            &[Arg::Ctx, map, Arg::Num(flags), data, Arg::Num(8)],
        );
    }
    let results = program.compare().results();
    assert!(
        [-2, -7, -14, -22]
            .iter()
            .all(|errno| results.contains(errno))
    );
}

#[test]
fn rings_fill_and_answer_alike() {
    if !may_use_bpf() {
        return;
    }
    let mut rng = Rng::seeded(21);
    for _ in 0..20 {
        let mut program = Program::new();
        let ring = program.map(plain("ring", MapType::RingBuf, (0, 0), 4096));
        let data = program.input(&[7; 1024]);
        for _ in 0..12 {
            let size = [0, 1, 7, 8, 9, 500, 1024][rng.next_u32() as usize % 7];
            let flags = u64::from(rng.next_u32() % 5);
            match rng.next_u32() % 4 {
                0 | 1 => reserve(&mut program, ring, size, flags),
                2 => {
                    let args = [ring, data, Arg::Num(size), Arg::Num(flags)];
                    program.call(HelperId::RINGBUF_OUTPUT, &args);
                }
                _ => {}
            }
            for what in 0..5 {
                program.call(HelperId::RINGBUF_QUERY, &[ring, Arg::Num(what)]);
            }
        }
        program.compare();
    }
}

/// Reserves, notes whether there was room, writes if there was and submits or discards.
fn reserve(program: &mut Program, ring: Arg, size: u64, flags: u64) {
    for (n, arg) in [ring, Arg::Num(size), Arg::Num(u64::from(flags == 4))]
        .into_iter()
        .enumerate()
    {
        program.set(n as u8 + 1, arg);
    }
    let out = program.code.label();
    program.code.call(HelperId::RINGBUF_RESERVE);
    program.code.jump_eq(0, 0, out);
    if size >= 8 {
        program.code.store(MemSize::Dw, 0, 0, 42);
    }
    let finish = match flags & 1 {
        0 => HelperId::RINGBUF_SUBMIT,
        _ => HelperId::RINGBUF_DISCARD,
    };
    program
        .code
        .mov(1, squalus_runtime::asm::R(0))
        .mov(2, flags as i32 & 3)
        .call(finish);
    program.set(1, Arg::Out(0));
    program.code.load(MemSize::Dw, 2, 1, 0).alu(o::ADD, 2, 1);
    program
        .code
        .store(MemSize::Dw, 1, 0, squalus_runtime::asm::R(2));
    program.code.bind(out);
}

#[test]
fn queues_stacks_and_bloom_filters_answer_alike() {
    if !may_use_bpf() {
        return;
    }
    let mut rng = Rng::seeded(4);
    for (kind, helpers) in [
        (MapType::Queue, 3),
        (MapType::Stack, 3),
        (MapType::BloomFilter, 2),
    ] {
        let mut program = Program::new();
        // So many that bloom filters, which hash with their own seeds, don't err.
        let entries = if kind == MapType::BloomFilter {
            10_000
        } else {
            3
        };
        let map = program.map(plain("values", kind, (0, 8), entries));
        for n in 0..40 {
            let at = Arg::Stack(-8 * (1 + n % 8));
            program
                .code
                .store(MemSize::Dw, 10, -8 * (1 + n % 8) as i16, n / 2);
            match rng.next_u32() % helpers {
                0 => {
                    let flags = [0, 0, 2, 1, 4][rng.next_u32() as usize % 5];
                    program.call(HelperId::MAP_PUSH_ELEM, &[map, at, Arg::Num(flags)]);
                }
                1 => {
                    program.call(HelperId::MAP_PEEK_ELEM, &[map, at]);
                }
                _ => {
                    program.call(HelperId::MAP_POP_ELEM, &[map, at]);
                }
            }
            program
                .code
                .load(MemSize::Dw, 2, 10, -8 * (1 + n % 8) as i16);
            program.set(1, Arg::Out(8 * n as u32));
            program
                .code
                .store(MemSize::Dw, 1, 0, squalus_runtime::asm::R(2));
        }
        program.compare();
    }
}
