//! Hand-made programs for what generated ones don't reach: traps, calls, tail calls, maps.

mod common;

use common::{Ran, agree, compile_all, link, run_interp, run_jit};
use squalus_analysis::{Access, Area, analyse};
use squalus_isa::{HelperId, Insn, MapDef, MapType, MemSize, UpdateFlags, opcode as o};
use squalus_jit::{Options, Pass, Passes, compile};
use squalus_maps::Map;
use squalus_runtime::asm::{Asm, R};
use squalus_runtime::{Redirect, TrapReason};

const PACKET: [u8; 60] = [7; 60];

fn map(kind: MapType, value_size: u32, max_entries: u32) -> MapDef {
    MapDef::new("map", kind, (4, value_size), max_entries)
}

/// `r1 = &map[index]; r2 = &key` with the key `key` on the stack, then the lookup.
fn lookup(asm: &mut Asm, index: u32, key: i32) {
    asm.store(MemSize::W, 10, -4, key)
        .mov(2, R(10))
        .add(2, -4)
        .map(1, index)
        .call(HelperId::MAP_LOOKUP_ELEM);
}

fn trap(reason: TrapReason, slot: usize) -> Ran {
    Ran {
        result: Err(reason),
        slot: Some(slot),
        packet: PACKET.to_vec(),
        redirect: Redirect::Nowhere,
    }
}

fn value(result: u64) -> Ran {
    Ran {
        result: Ok(result),
        slot: None,
        packet: PACKET.to_vec(),
        redirect: Redirect::Nowhere,
    }
}

/// Both engines end the run at the same place and leave the packet alone. A helper's argument is checked
/// by its address in compiled code, so the reason it names can be less exact.
fn both_trap(codes: &[Vec<Insn>], maps: &[MapDef]) {
    let loaded = link(codes, maps);
    let interp = run_interp(&loaded, &PACKET);
    let jit = run_jit(&loaded, &compile_all(&loaded, Options::default()), &PACKET);
    assert!(
        interp.result.is_err() && jit.result.is_err(),
        "{interp:?} {jit:?}"
    );
    assert_eq!((interp.slot, interp.packet), (jit.slot, jit.packet));
}

#[test]
fn packet_accesses_without_a_check_are_checked() {
    for (off, size, fits) in [
        (0, MemSize::Dw, true),
        (52, MemSize::Dw, true),
        (53, MemSize::Dw, false),
        (59, MemSize::B, true),
        (60, MemSize::B, false),
        (-1, MemSize::B, false),
        (i16::MAX, MemSize::W, false),
    ] {
        let mut asm = Asm::new();
        asm.load(MemSize::W, 2, 1, 0)
            .mov(0, 0)
            .store(size, 2, off, 5)
            .exit();
        let ran = agree(&[asm.finish()], &[], &PACKET);
        if fits {
            assert_eq!(ran.result, Ok(0), "{off} {size:?}");
            assert_eq!(ran.packet[off as usize], 5);
        } else {
            assert_eq!(ran, trap(TrapReason::Packet, 2), "{off} {size:?}");
        }
    }
}

#[test]
fn packet_accesses_at_unknown_offsets_are_checked() {
    for (index, result) in [(50, Ok(7)), (59, Ok(7)), (60, Err(TrapReason::Packet))] {
        let mut asm = Asm::new();
        asm.load(MemSize::W, 2, 1, 0)
            .load(MemSize::W, 3, 1, 4)
            .mov(4, R(2))
            .add(4, 14)
            .mov(0, 0);
        let out = asm.label();
        asm.jump_if(o::JGT, 4, R(3), out)
            .load(MemSize::B, 5, 2, 3)
            .alu(o::MUL, 5, 0)
            .add(5, index)
            .alu(o::AND, 5, 0xff)
            .add(2, R(5))
            .load(MemSize::B, 0, 2, 0)
            .bind(out)
            .exit();
        assert_eq!(agree(&[asm.finish()], &[], &PACKET).result, result);
    }
}

#[test]
fn checked_bounds_are_proved() {
    let mut asm = Asm::new();
    let out = asm.label();
    asm.load(MemSize::W, 2, 1, 0)
        .load(MemSize::W, 3, 1, 4)
        .mov(4, R(2))
        .add(4, 14)
        .mov(0, 0)
        .jump_if(o::JGT, 4, R(3), out)
        .load(MemSize::H, 0, 2, 12)
        .bind(out)
        .exit();
    let loaded = link(&[asm.finish()], &[]);
    let facts = analyse(&loaded.programs[0]).unwrap();
    assert_eq!(
        facts.inst(6).unwrap().access,
        Some(Access::Proved(Area::Packet))
    );
}

#[test]
fn the_stack_has_an_end() {
    for (off, fits) in [
        (-512, true),
        (-513, false),
        (-8, true),
        (-7, false),
        (0, false),
    ] {
        let mut asm = Asm::new();
        asm.mov(0, 3)
            .store(MemSize::Dw, 10, off, 1)
            .load(MemSize::Dw, 0, 10, -512)
            .exit();
        let ran = agree(&[asm.finish()], &[], &PACKET);
        if fits {
            assert_eq!(ran, value(u64::from(off == -512)), "{off}");
        } else {
            assert_eq!(ran, trap(TrapReason::Stack, 1), "{off}");
        }
    }
}

/// A pointer may be outside the frame as long as nothing is used there.
#[test]
fn pointers_beside_the_frame_are_pointers() {
    for distance in [-520, -20_000, 8] {
        let mut asm = Asm::new();
        let subprogram = asm.label();
        asm.store(MemSize::Dw, 10, -512, 7)
            .mov(1, R(10))
            .add(1, distance)
            .call_local(subprogram)
            .exit()
            .bind(subprogram)
            .load(MemSize::Dw, 0, 1, (-512 - distance) as i16)
            .exit();
        assert_eq!(agree(&[asm.finish()], &[], &PACKET), value(7), "{distance}");
    }
}

#[test]
fn the_stack_reads_as_zero_before_it_is_written() {
    let mut asm = Asm::new();
    asm.mov(0, 0);
    for off in 1..=64i16 {
        asm.load(MemSize::Dw, 1, 10, -8 * off).add(0, R(1));
    }
    // At an offset that only the run knows.
    asm.load(MemSize::B, 1, 10, -33)
        .alu(o::AND, 1, 0xff)
        .mov(2, R(10))
        .alu(o::SUB, 2, R(1))
        .load(MemSize::Dw, 3, 2, -300)
        .add(0, R(3))
        .exit();
    assert_eq!(agree(&[asm.finish()], &[], &PACKET), value(0));
}

#[test]
fn array_values_have_bounds() {
    let maps = [map(MapType::Array, 16, 4)];
    for (key, off, expected) in [
        (3, 8, value(0)),
        (3, 9, trap(TrapReason::MapValue, 6)),
        (3, -1, trap(TrapReason::MapValue, 6)),
        (4, 0, trap(TrapReason::NullPointer, 6)),
    ] {
        let mut asm = Asm::new();
        lookup(&mut asm, 0, key);
        // Without the comparison with null that the kernel demands.
        asm.load(MemSize::Dw, 0, 0, off).exit();
        assert_eq!(
            agree(&[asm.finish()], &maps, &PACKET),
            expected,
            "{key} {off}"
        );
    }
}

#[test]
fn values_found_by_lookups_are_shared() {
    for kind in [MapType::Array, MapType::PerCpuArray] {
        let maps = [map(kind, 8, 4)];
        let mut asm = Asm::new();
        let out = asm.label();
        lookup(&mut asm, 0, 2);
        asm.jump_eq(0, 0, out)
            .mov(1, 40)
            .atomic(MemSize::Dw, i32::from(o::ADD), 0, 0, 1)
            .atomic(MemSize::W, i32::from(o::ADD) | o::ATOMIC_FETCH, 0, 0, 1);
        asm.mov(6, R(1));
        lookup(&mut asm, 0, 2);
        asm.jump_eq(0, 0, out)
            .load(MemSize::Dw, 0, 0, 0)
            .add(0, R(6))
            .bind(out)
            .exit();
        assert_eq!(agree(&[asm.finish()], &maps, &PACKET), value(120), "{kind}");
    }
}

#[test]
fn inner_maps_are_reached_through_arrays_of_maps() {
    let inner = map(MapType::Hash, 8, 10);
    let mut outer = map(MapType::ArrayOfMaps, 4, 2);
    outer.inner = Some(Box::new(inner.clone()));
    let mut asm = Asm::new();
    let out = asm.label();
    lookup(&mut asm, 0, 1);
    asm.mov(6, R(0))
        .mov(0, 99)
        .jump_eq(6, 0, out)
        .mov(1, R(6))
        .mov(2, R(10))
        .add(2, -4)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_eq(0, 0, out)
        .load(MemSize::Dw, 0, 0, 0)
        .bind(out)
        .exit();
    let code = asm.finish();
    assert_eq!(
        agree(
            std::slice::from_ref(&code),
            std::slice::from_ref(&outer),
            &PACKET
        ),
        value(99)
    );

    let loaded = link(&[code], &[outer]);
    let map = Map::new(&inner, &loaded.env).unwrap();
    let one = 1u32.to_ne_bytes();
    map.sys_update(&one, &77u64.to_ne_bytes(), UpdateFlags::ANY)
        .unwrap();
    loaded.maps[0].set_inner(&one, map).unwrap();
    let programs = compile_all(&loaded, Options::default());
    assert_eq!(run_interp(&loaded, &PACKET), value(77));
    assert_eq!(run_jit(&loaded, &programs, &PACKET), value(77));
    let facts = analyse(&loaded.programs[0]).unwrap();
    assert_eq!(facts.counts(&loaded.programs[0]).checked, 0);
    assert_eq!(facts.counts(&loaded.programs[0]).checked_calls, 0);
}

#[test]
fn keys_outside_the_frame_are_refused() {
    let maps = [map(MapType::Hash, 8, 4)];
    let mut asm = Asm::new();
    asm.mov(2, R(10))
        .add(2, -3)
        .map(1, 0)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .mov(0, 0)
        .exit();
    both_trap(&[asm.finish()], &maps);
}

#[test]
fn keys_whose_place_is_not_proved_are_still_found() {
    let maps = [map(MapType::Hash, 8, 4)];
    let mut asm = Asm::new();
    // The key at an offset that only the run knows.
    asm.load(MemSize::B, 3, 10, -100)
        .alu(o::AND, 3, 0xff)
        .mov(2, R(10))
        .alu(o::SUB, 2, R(3))
        .add(2, -260)
        .store(MemSize::W, 2, 0, 5)
        .mov(6, R(2))
        .store(MemSize::Dw, 10, -8, 1234)
        .mov(3, R(10))
        .add(3, -8)
        .mov(4, 0)
        .map(1, 0)
        .call(HelperId::MAP_UPDATE_ELEM)
        .mov(2, R(6))
        .map(1, 0)
        .call(HelperId::MAP_LOOKUP_ELEM);
    let out = asm.label();
    asm.jump_eq(0, 0, out)
        .load(MemSize::Dw, 0, 0, 0)
        .bind(out)
        .exit();
    assert_eq!(agree(&[asm.finish()], &maps, &PACKET), value(1234));
}

#[test]
fn helpers_get_memory_of_checked_length() {
    for (len, ok) in [(16, true), (60, true), (64, false)] {
        let mut asm = Asm::new();
        asm.mov(6, R(1))
            .load(MemSize::W, 3, 6, 0)
            .mov(1, 0)
            .mov(2, 0)
            .mov(4, len)
            .mov(5, 0)
            .call(HelperId::CSUM_DIFF)
            .exit();
        if ok {
            let ran = agree(&[asm.finish()], &[], &PACKET);
            assert!(ran.result.is_ok(), "{ran:?}");
        } else {
            both_trap(&[asm.finish()], &[]);
        }
    }
}

#[test]
fn subprograms_return_and_keep_their_callers_registers() {
    let mut asm = Asm::new();
    let (add, twice) = (asm.label(), asm.label());
    asm.mov(6, 100)
        .store(MemSize::Dw, 10, -8, 5)
        .mov(1, 3)
        .mov(2, R(10))
        .add(2, -8)
        .call_local(twice)
        .add(0, R(6))
        .load(MemSize::Dw, 1, 10, -8)
        .add(0, R(1))
        .exit()
        .bind(twice)
        .mov(6, R(1))
        .mov(7, R(2))
        .mov(2, R(1))
        .call_local(add)
        .store(MemSize::Dw, 7, 0, R(0))
        .mov(1, R(0))
        .mov(2, R(6))
        .call_local(add)
        .exit()
        .bind(add)
        .mov(0, R(1))
        .add(0, R(2))
        .exit();
    assert_eq!(agree(&[asm.finish()], &[], &PACKET), value(100 + 9 + 6));
}

#[test]
fn calls_nest_eight_deep() {
    for (depth, deep) in [(6, false), (7, false), (8, true)] {
        let mut asm = Asm::new();
        let (sub, out) = (asm.label(), asm.label());
        asm.mov(1, depth)
            .call_local(sub)
            .exit()
            .bind(sub)
            .mov(6, R(1))
            .mov(0, 1)
            .add(1, -1)
            .jump_eq(1, 0, out)
            .call_local(sub)
            .bind(out)
            .add(0, R(6))
            .exit();
        let ran = agree(&[asm.finish()], &[], &PACKET);
        if deep {
            assert_eq!(ran, trap(TrapReason::CallDepth, 7));
        } else {
            let sum = u64::from(depth.unsigned_abs());
            assert_eq!(ran, value(1 + sum * (sum + 1) / 2));
        }
    }
}

#[test]
fn endless_programs_end() {
    let mut asm = Asm::new();
    let again = asm.label();
    asm.mov(0, 0).bind(again).add(0, 1).jump(again).exit();
    let loaded = link(&[asm.finish()], &[]);
    let programs = compile_all(&loaded, Options::default());
    let budget = Err(TrapReason::Budget);
    assert_eq!(run_jit(&loaded, &programs, &PACKET).result, budget);
    assert_eq!(run_interp(&loaded, &PACKET).result, budget);
}

#[test]
fn loops_in_loops_take_from_one_budget() {
    for (rounds, ends) in [(45, true), (50, false)] {
        for known in 0..8 {
            let loaded = link(&[nested_loops(rounds, known)], &[]);
            for passes in [
                Passes::NONE,
                Passes::NONE.with(Pass::Hoist),
                Passes::ALL.without(Pass::Hoist),
                Passes::ALL,
            ] {
                let options = Options {
                    passes,
                    ..Options::default()
                };
                let ran = run_jit(&loaded, &compile_all(&loaded, options), &PACKET).result;
                let counted = u64::from(rounds.unsigned_abs()).pow(3);
                let expected = ends.then_some(counted).ok_or(TrapReason::Budget);
                assert_eq!(ran, expected, "{passes}, known: {known:03b}");
            }
        }
    }
}

/// Counts the rounds of a loop in a loop in a loop; a bit each says whose rounds are known beforehand.
fn nested_loops(rounds: i32, known: i32) -> Vec<Insn> {
    const RX_QUEUE_INDEX: i16 = 16;
    let mut asm = Asm::new();
    let heads = [asm.label(), asm.label(), asm.label()];
    asm.load(MemSize::W, 9, 1, RX_QUEUE_INDEX).mov(0, 0);
    for (n, head) in heads.into_iter().enumerate() {
        let counter = 6 + n as u8;
        asm.mov(counter, rounds);
        if known & 1 << n == 0 {
            asm.add(counter, R(9));
        }
        asm.bind(head);
    }
    asm.add(0, 1);
    for (n, head) in heads.into_iter().enumerate().rev() {
        let counter = 6 + n as u8;
        asm.add(counter, -1).jump_if(o::JNE, counter, 0, head);
    }
    asm.exit();
    asm.finish()
}

fn tail_call_to(asm: &mut Asm, index: i32) {
    asm.mov(1, R(6))
        .map(2, 0)
        .mov(3, index)
        .call(HelperId::TAIL_CALL);
}

/// Runs linked programs whose map 0 is a program array that holds them all from index 0 on.
fn with_tail_calls(codes: &[Vec<Insn>]) -> Ran {
    let maps = [map(MapType::ProgArray, 4, 8), map(MapType::Array, 8, 1)];
    let mut results = Vec::new();
    for compiled in [false, true] {
        let loaded = link(codes, &maps);
        for n in 0..codes.len() as u32 {
            loaded.maps[0]
                .set_program(n, Some(n))
                .expect("the index is inside");
        }
        results.push(if compiled {
            run_jit(&loaded, &compile_all(&loaded, Options::default()), &PACKET)
        } else {
            run_interp(&loaded, &PACKET)
        });
    }
    assert_eq!(results[0], results[1]);
    results.remove(0)
}

#[test]
fn tail_calls_replace_the_program() {
    let mut first = Asm::new();
    first.mov(6, R(1)).store(MemSize::Dw, 10, -8, 5);
    tail_call_to(&mut first, 1);
    first.mov(0, 1).exit();
    let mut second = Asm::new();
    second
        .load(MemSize::Dw, 0, 10, -8)
        .load(MemSize::W, 1, 1, 12)
        .add(0, R(1))
        .add(0, 41)
        .exit();
    assert_eq!(
        with_tail_calls(&[first.finish(), second.finish()]),
        value(42)
    );
}

#[test]
fn tail_calls_to_nothing_go_on() {
    let mut asm = Asm::new();
    asm.mov(6, R(1));
    tail_call_to(&mut asm, 7);
    tail_call_to(&mut asm, 1 << 20);
    asm.mov(0, 6).exit();
    assert_eq!(with_tail_calls(&[asm.finish()]), value(6));
}

#[test]
fn tail_calls_are_limited() {
    // Counts in a map value how often it runs, then calls itself.
    let mut asm = Asm::new();
    asm.mov(6, R(1))
        .map_value(7, 1, 0)
        .load(MemSize::Dw, 1, 7, 0)
        .add(1, 1)
        .store(MemSize::Dw, 7, 0, R(1));
    tail_call_to(&mut asm, 0);
    asm.load(MemSize::Dw, 0, 7, 0).exit();
    assert_eq!(with_tail_calls(&[asm.finish()]), value(34));
}

#[test]
fn a_tail_call_in_a_subprogram_returns_to_its_caller() {
    let mut first = Asm::new();
    let sub = first.label();
    first
        .call_local(sub)
        .add(0, 100)
        .exit()
        .bind(sub)
        .mov(6, R(1));
    tail_call_to(&mut first, 1);
    first.mov(0, 1).exit();
    let mut second = Asm::new();
    second.mov(0, 5).exit();
    assert_eq!(
        with_tail_calls(&[first.finish(), second.finish()]),
        value(105)
    );
}

#[test]
fn packet_pointers_are_read_anew_after_an_adjustment() {
    let mut asm = Asm::new();
    let out = asm.label();
    asm.mov(6, R(1))
        .mov(2, -8)
        .call(HelperId::XDP_ADJUST_HEAD)
        .jump_if(o::JNE, 0, 0, out)
        .load(MemSize::W, 2, 6, 0)
        .load(MemSize::W, 3, 6, 4)
        .mov(0, R(3))
        .alu(o::SUB, 0, R(2))
        .store(MemSize::Dw, 2, 0, 1)
        .bind(out)
        .exit();
    let ran = agree(&[asm.finish()], &[], &PACKET);
    assert_eq!(ran.result, Ok(68));
    assert_eq!(ran.packet.len(), 68);
    assert_eq!(ran.packet[..10], [1, 0, 0, 0, 0, 0, 0, 0, 7, 7]);
}

#[test]
fn stale_pointers_reach_at_most_the_packet() {
    // The old end of the packet, after it was cut.
    let mut asm = Asm::new();
    asm.mov(6, R(1))
        .load(MemSize::W, 7, 6, 0)
        .mov(2, -20)
        .call(HelperId::XDP_ADJUST_TAIL)
        .load(MemSize::B, 0, 7, 50)
        .exit();
    let code = [asm.finish()];
    let loaded = link(&code, &[]);
    let ran = run_jit(&loaded, &compile_all(&loaded, Options::default()), &PACKET);
    assert_eq!(ran.result, Err(TrapReason::NotPointer));
    assert!(run_interp(&loaded, &PACKET).result.is_err());
}

#[test]
fn numbers_are_no_pointers() {
    let mut asm = Asm::new();
    asm.imm64(1, 0x4141_4141_0000)
        .load(MemSize::Dw, 0, 1, 0)
        .exit();
    assert_eq!(
        agree(&[asm.finish()], &[], &PACKET),
        trap(TrapReason::NotPointer, 2)
    );
}

#[test]
fn a_pointer_is_no_result() {
    let mut asm = Asm::new();
    asm.mov(0, R(10)).exit();
    assert_eq!(
        agree(&[asm.finish()], &[], &PACKET),
        trap(TrapReason::Return, 1)
    );
}

#[test]
fn atomic_operations_need_alignment_and_a_place() {
    let mut asm = Asm::new();
    asm.mov(0, 0)
        .mov(1, 1)
        .atomic(MemSize::Dw, i32::from(o::ADD), 10, -12, 1)
        .exit();
    assert_eq!(
        agree(&[asm.finish()], &[], &PACKET),
        trap(TrapReason::Misaligned, 2)
    );
    let mut asm = Asm::new();
    asm.load(MemSize::W, 2, 1, 0)
        .mov(0, 0)
        .mov(1, 1)
        .atomic(MemSize::W, i32::from(o::ADD), 2, 0, 1)
        .exit();
    assert_eq!(
        agree(&[asm.finish()], &[], &PACKET),
        trap(TrapReason::AtomicPlace, 3)
    );
}

#[test]
fn writing_the_context_is_refused_by_name() {
    let mut asm = Asm::new();
    asm.mov(0, 0).store(MemSize::W, 1, 0, 1).exit();
    let loaded = link(&[asm.finish()], &[]);
    let error = analyse(&loaded.programs[0]).err().unwrap().to_string();
    assert_eq!(
        error,
        "program `test`, instruction 1: it writes to the context, or uses it atomically; XDP programs may only read it"
    );
}

#[test]
fn dead_code_is_no_error() {
    let mut asm = Asm::new();
    let out = asm.label();
    asm.mov(0, 2)
        .jump_eq(0, 2, out)
        .store(MemSize::W, 1, 0, 1)
        .bind(out)
        .exit();
    assert_eq!(agree(&[asm.finish()], &[], &PACKET), value(2));
}

#[test]
fn compiled_programs_move_between_threads() {
    fn is_send_and_sync<T: Send + Sync>(_: &T) {}
    let mut asm = Asm::new();
    asm.mov(0, 2).exit();
    let loaded = link(&[asm.finish()], &[]);
    let program = compile(&loaded.programs[0], &analyse(&loaded.programs[0]).unwrap()).unwrap();
    is_send_and_sync(&program);
}
