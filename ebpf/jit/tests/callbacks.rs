//! Helpers that call subprograms back: interpreted and compiled alike.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod common;

use common::{Ran, agree, compile_all, link, run_interp, run_jit};
use squalus_analysis::analyse;
use squalus_isa::{Errno, HelperId, MapDef, MapFlags, MapType, MemSize, UpdateFlags, opcode as o};
use squalus_jit::Options;
use squalus_runtime::asm::{Asm, Label, R};
use squalus_runtime::{MAX_LOOPS, Redirect, TrapReason};

fn map(kind: MapType, entries: u32) -> MapDef {
    MapDef::new("m", kind, (4, 8), entries)
}

fn value(result: u64) -> Ran {
    Ran {
        result: Ok(result),
        slot: None,
        packet: vec![0; 64],
        redirect: Redirect::Nowhere,
    }
}

fn run(code: &Asm, maps: &[MapDef]) -> Ran {
    agree(&[code.finish()], maps, &[0; 64])
}

fn reason(code: &Asm, maps: &[MapDef]) -> TrapReason {
    run(code, maps).result.unwrap_err()
}

/// `bpf_loop(rounds, callback, fp - 8, flags)` with a zeroed context.
fn call_loop(code: &mut Asm, rounds: i32, callback: Label, flags: i32) {
    code.store(MemSize::Dw, 10, -8, 0)
        .mov(1, rounds)
        .function(2, callback)
        .mov(3, R(10))
        .add(3, -8)
        .mov(4, flags)
        .call(HelperId::LOOP);
}

/// Adds the number of the round to the context and stops after round `last`.
fn sum_until(code: &mut Asm, callback: Label, last: i32) {
    let stop = code.label();
    code.bind(callback)
        .load(MemSize::Dw, 3, 2, 0)
        .add(3, R(1))
        .store(MemSize::Dw, 2, 0, R(3))
        .mov(0, 0)
        .jump_if(o::JNE, 1, last, stop)
        .mov(0, 1)
        .bind(stop)
        .exit();
}

#[test]
fn a_loop_runs_its_rounds_and_shares_its_context() {
    for (rounds, last, flags, expected) in [
        (0, -1, 0, 0),
        (1, -1, 0, 1 << 32),
        (10, -1, 0, 10 << 32 | 45),
        (10, 3, 0, 4 << 32 | 6),
        (-1, -1, 0, Errno::E2BIG.as_return() << 32),
        (MAX_LOOPS as i32 + 1, -1, 0, Errno::E2BIG.as_return() << 32),
        (3, -1, 1, Errno::EINVAL.as_return() << 32),
    ] {
        let mut code = Asm::new();
        let callback = code.label();
        call_loop(&mut code, rounds, callback, flags);
        code.load(MemSize::Dw, 1, 10, -8)
            .alu(o::LSH, 0, 32)
            .alu(o::OR, 0, R(1))
            .exit();
        sum_until(&mut code, callback, last);
        // The sum of no rounds is 0 in both engines, whatever the helper returned.
        assert_eq!(run(&code, &[]), value(expected), "{rounds} {last} {flags}");
    }
}

#[test]
fn only_the_low_half_counts_rounds() {
    let mut code = Asm::new();
    let callback = code.label();
    code.store(MemSize::Dw, 10, -8, 0)
        .imm64(1, 7 << 32 | 2)
        .function(2, callback)
        .mov(3, R(10))
        .add(3, -8)
        .mov(4, 0)
        .call(HelperId::LOOP)
        .exit();
    sum_until(&mut code, callback, -1);
    assert_eq!(run(&code, &[]), value(2));
}

#[test]
fn a_callback_has_a_frame_and_registers_of_its_own() {
    let mut code = Asm::new();
    let callback = code.label();
    code.mov(6, 61).mov(7, 71).mov(8, 81).mov(9, 91);
    call_loop(&mut code, 3, callback, 0);
    code.mov(0, R(6))
        .add(0, R(7))
        .add(0, R(8))
        .add(0, R(9))
        .load(MemSize::Dw, 1, 10, -8)
        .add(0, R(1))
        .exit();
    // Counts in its own frame, which is fresh in each round, and adds that to the context.
    code.bind(callback)
        .load(MemSize::Dw, 6, 10, -8)
        .add(6, 1)
        .store(MemSize::Dw, 10, -8, R(6))
        .load(MemSize::Dw, 7, 2, 0)
        .add(7, R(6))
        .store(MemSize::Dw, 2, 0, R(7))
        .mov(8, 0)
        .mov(9, 0)
        .mov(0, 0)
        .exit();
    assert_eq!(run(&code, &[]), value(61 + 71 + 81 + 91 + 3));
}

#[test]
fn loops_nest_as_deep_as_calls() {
    for (depth, fits) in [(7, true), (8, false)] {
        let mut code = Asm::new();
        let callbacks: Vec<Label> = (0..depth).map(|_| code.label()).collect();
        call_loop(&mut code, 2, callbacks[0], 0);
        code.load(MemSize::Dw, 0, 10, -8).exit();
        for (n, callback) in callbacks.iter().enumerate() {
            code.bind(*callback);
            match callbacks.get(n + 1) {
                Some(&inner) => {
                    code.mov(6, R(2));
                    code.mov(1, 2)
                        .function(2, inner)
                        .mov(3, R(6))
                        .mov(4, 0)
                        .call(HelperId::LOOP);
                }
                None => {
                    code.load(MemSize::Dw, 3, 2, 0)
                        .add(3, 1)
                        .store(MemSize::Dw, 2, 0, R(3));
                }
            }
            code.mov(0, 0).exit();
        }
        let ran = run(&code, &[]);
        if fits {
            assert_eq!(ran, value(1 << depth));
        } else {
            assert_eq!(ran.result, Err(TrapReason::CallDepth));
        }
    }
}

#[test]
fn either_of_two_callbacks_is_called() {
    for chosen in [0, 1] {
        let mut code = Asm::new();
        let (add, keep, other, on) = (code.label(), code.label(), code.label(), code.label());
        code.store(MemSize::Dw, 10, -8, chosen)
            .load(MemSize::W, 1, 1, 12)
            .mov(6, R(1))
            .alu(o::AND, 6, 0)
            .add(6, chosen)
            .function(2, add)
            .load(MemSize::Dw, 7, 10, -8)
            .jump_eq(7, 0, other)
            .function(2, keep)
            .bind(other)
            .mov(3, R(10))
            .add(3, -8)
            .store(MemSize::Dw, 10, -8, 0)
            .mov(1, 5)
            .mov(4, 0)
            .call(HelperId::LOOP)
            .bind(on)
            .load(MemSize::Dw, 0, 10, -8)
            .exit();
        sum_until(&mut code, add, -1);
        code.bind(keep).mov(0, 0).exit();
        assert_eq!(run(&code, &[]), value([10, 0][chosen as usize]));
    }
}

#[test]
fn a_callback_may_come_from_the_caller() {
    let mut code = Asm::new();
    let (looper, add, twice) = (code.label(), code.label(), code.label());
    code.store(MemSize::Dw, 10, -8, 0);
    for callback in [add, twice] {
        code.function(1, callback)
            .mov(2, R(10))
            .add(2, -8)
            .call_local(looper);
    }
    code.load(MemSize::Dw, 0, 10, -8).exit();
    code.bind(looper)
        .mov(3, R(2))
        .mov(2, R(1))
        .mov(1, 4)
        .mov(4, 0)
        .call(HelperId::LOOP)
        .mov(0, 0)
        .exit();
    sum_until(&mut code, add, -1);
    code.bind(twice)
        .load(MemSize::Dw, 3, 2, 0)
        .add(3, R(3))
        .store(MemSize::Dw, 2, 0, R(3))
        .mov(0, 0)
        .exit();
    assert_eq!(run(&code, &[]), value(6 << 4));
}

#[test]
fn a_number_is_no_callback() {
    let mut code = Asm::new();
    let callback = code.label();
    code.mov(1, 5)
        .mov(2, 4711)
        .mov(3, 0)
        .mov(4, 0)
        .call(HelperId::LOOP)
        .exit();
    sum_until(&mut code, callback, -1);
    // The address is taken, but not by what is passed.
    code.function(1, callback).mov(0, 0).exit();
    assert_eq!(reason(&code, &[]), TrapReason::Argument);
}

#[test]
fn packet_pointers_do_not_outlive_a_callback_that_moves_the_packet() {
    let mut code = Asm::new();
    let (callback, short) = (code.label(), code.label());
    code.load(MemSize::W, 6, 1, 0)
        .load(MemSize::W, 7, 1, 4)
        .mov(9, R(1))
        .mov(8, R(6))
        .add(8, 34)
        .jump_if(o::JGT, 8, R(7), short)
        .mov(1, 1)
        .function(2, callback)
        .mov(3, R(9))
        .mov(4, 0)
        .call(HelperId::LOOP)
        .load(MemSize::B, 0, 6, 33)
        .exit()
        .bind(short)
        .mov(0, 0)
        .exit();
    code.bind(callback)
        .mov(1, R(2))
        .mov(2, -32)
        .call(HelperId::XDP_ADJUST_TAIL)
        .mov(0, 0)
        .exit();
    let loaded = link(&[code.finish()], &[]);
    assert_eq!(
        run_interp(&loaded, &[0; 64]).result,
        Err(TrapReason::StalePacket)
    );
    let facts = analyse(&loaded.programs[0]).unwrap();
    let load = loaded.programs[0].insts().iter().position(|d| {
        matches!(
            d.inst,
            squalus_isa::Inst::Load {
                size: MemSize::B,
                ..
            }
        )
    });
    assert!(
        !facts
            .inst(load.unwrap())
            .unwrap()
            .access
            .unwrap()
            .is_proved()
    );
}

#[test]
fn the_context_is_reached_through_the_callers_frame() {
    let mut code = Asm::new();
    let (callback, short) = (code.label(), code.label());
    code.store(MemSize::Dw, 10, -8, R(1))
        .store(MemSize::Dw, 10, -16, 0)
        .mov(1, 4)
        .function(2, callback)
        .mov(3, R(10))
        .add(3, -16)
        .mov(4, 0)
        .call(HelperId::LOOP)
        .load(MemSize::Dw, 0, 10, -16)
        .exit();
    code.bind(callback)
        .load(MemSize::Dw, 6, 2, 8)
        .load(MemSize::W, 3, 6, 0)
        .load(MemSize::W, 4, 6, 4)
        .load_signed(MemSize::W, 5, 6, 12)
        .mov(0, R(3))
        .add(0, 2)
        .jump_if(o::JGT, 0, R(4), short)
        .load(MemSize::B, 3, 3, 1)
        .add(5, R(3))
        .load(MemSize::Dw, 0, 2, 0)
        .add(0, R(5))
        .store(MemSize::Dw, 2, 0, R(0))
        .bind(short)
        .mov(0, 0)
        .exit();
    let ran = agree(&[code.finish()], &[], &[3; 64]);
    assert_eq!(ran.result, Ok(4 * (3 + 1)));
}

#[test]
fn what_a_callback_writes_is_not_taken_for_known() {
    // The caller knows its context to be 0 before, and must not after.
    let mut code = Asm::new();
    let (callback, zero) = (code.label(), code.label());
    call_loop(&mut code, 2, callback, 0);
    code.load(MemSize::Dw, 1, 10, -8)
        .mov(0, 7)
        .jump_eq(1, 0, zero)
        .mov(0, 9)
        .bind(zero)
        .exit();
    sum_until(&mut code, callback, -1);
    assert_eq!(run(&code, &[]), value(9));
}

#[test]
fn endless_rounds_end() {
    let mut code = Asm::new();
    let callback = code.label();
    call_loop(&mut code, MAX_LOOPS as i32, callback, 0);
    code.exit();
    sum_until(&mut code, callback, -1);
    // The engines count differently, so they stop at different instructions.
    let loaded = link(&[code.finish()], &[]);
    let budget = Err(TrapReason::Budget);
    assert_eq!(run_interp(&loaded, &[0; 64]).result, budget);
    let compiled = compile_all(&loaded, Options::default());
    assert_eq!(run_jit(&loaded, &compiled, &[0; 64]).result, budget);
}

#[test]
fn a_pointer_is_no_answer_of_a_callback() {
    let mut code = Asm::new();
    let callback = code.label();
    call_loop(&mut code, 2, callback, 0);
    code.exit();
    code.bind(callback).mov(0, R(10)).exit();
    let loaded = link(&[code.finish()], &[]);
    let result = Err(TrapReason::Return);
    assert_eq!(run_interp(&loaded, &[0; 64]).result, result);
    let compiled = compile_all(&loaded, Options::default());
    assert_eq!(run_jit(&loaded, &compiled, &[0; 64]).result, result);
}

/// Walks map 0 with `callback` and a zeroed context; r0 is the result.
fn for_each(code: &mut Asm, callback: Label, flags: i32) {
    code.store(MemSize::Dw, 10, -8, 0)
        .map(1, 0)
        .function(2, callback)
        .mov(3, R(10))
        .add(3, -8)
        .mov(4, flags)
        .call(HelperId::FOR_EACH_MAP_ELEM);
}

/// Adds key and value to the context, writes the key to the value, stops at `last`.
fn visit(code: &mut Asm, callback: Label, last: i32) {
    let on = code.label();
    code.bind(callback)
        .load(MemSize::W, 6, 2, 0)
        .load(MemSize::Dw, 7, 3, 0)
        .load(MemSize::Dw, 8, 4, 0)
        .add(8, R(6))
        .add(8, R(7))
        .store(MemSize::Dw, 4, 0, R(8))
        .store(MemSize::Dw, 3, 0, R(6))
        .mov(0, 0)
        .jump_if(o::JNE, 6, last, on)
        .mov(0, 1)
        .bind(on)
        .exit();
}

#[test]
fn arrays_are_walked_in_order() {
    for kind in [MapType::Array, MapType::PerCpuArray] {
        for (last, flags, visited, sum) in [(-1, 0, 8, 28), (2, 0, 3, 3), (-1, 1, -22, 0)] {
            let mut code = Asm::new();
            let callback = code.label();
            for_each(&mut code, callback, flags);
            code.load(MemSize::Dw, 1, 10, -8)
                .alu(o::LSH, 0, 8)
                .add(0, R(1))
                .exit();
            visit(&mut code, callback, last);
            let expected = (i64::from(visited) << 8) + sum;
            assert_eq!(
                run(&code, &[map(kind, 8)]),
                value(expected.cast_unsigned()),
                "{kind}"
            );
        }
    }
}

#[test]
fn hashes_are_walked_and_changed_on_the_way() {
    for kind in [MapType::Hash, MapType::LruHash, MapType::PerCpuHash] {
        let mut code = Asm::new();
        let callback = code.label();
        for key in 1..=5 {
            code.store(MemSize::W, 10, -4, key)
                .store(MemSize::Dw, 10, -16, key * 100)
                .map(1, 0)
                .mov(2, R(10))
                .add(2, -4)
                .mov(3, R(10))
                .add(3, -16)
                .mov(4, 0)
                .call(HelperId::MAP_UPDATE_ELEM);
        }
        for_each(&mut code, callback, 0);
        code.load(MemSize::Dw, 1, 10, -8)
            .alu(o::LSH, 0, 16)
            .add(0, R(1))
            .exit();
        // Adds keys and values, and deletes what it is given.
        code.bind(callback)
            .load(MemSize::W, 6, 2, 0)
            .load(MemSize::Dw, 7, 3, 0)
            .load(MemSize::Dw, 8, 4, 0)
            .add(8, R(6))
            .add(8, R(7))
            .store(MemSize::Dw, 4, 0, R(8))
            .call(HelperId::MAP_DELETE_ELEM)
            .exit();
        let expected = (5 << 16) | ((1 + 2 + 3 + 4 + 5) * 101);
        let ran = run(&code, &[map(kind, 16)]);
        assert_eq!(ran, value(expected), "{kind}");
    }
}

#[test]
fn keys_are_for_reading_and_have_an_end() {
    for (change, expected) in [(true, TrapReason::ReadOnly), (false, TrapReason::MapValue)] {
        let mut code = Asm::new();
        let callback = code.label();
        for_each(&mut code, callback, 0);
        code.exit().bind(callback);
        if change {
            code.store(MemSize::W, 2, 0, 1);
        } else {
            code.load(MemSize::Dw, 1, 2, 0);
        }
        code.mov(0, 0).exit();
        assert_eq!(reason(&code, &[map(MapType::Array, 1)]), expected);
    }
}

#[test]
fn keys_that_are_not_proved_are_found_while_lent() {
    // Through the caller's frame, the analysis loses what the pointer is.
    let mut code = Asm::new();
    let callback = code.label();
    for_each(&mut code, callback, 0);
    code.load(MemSize::Dw, 0, 10, -8).exit();
    code.bind(callback)
        .store(MemSize::Dw, 4, 0, R(2))
        .load(MemSize::Dw, 5, 4, 0)
        .load(MemSize::W, 0, 5, 0)
        .store(MemSize::Dw, 4, 0, R(0))
        .mov(0, 0)
        .exit();
    assert_eq!(run(&code, &[map(MapType::Array, 4)]), value(3));
}

#[test]
fn only_maps_with_elements_are_walked() {
    let mut code = Asm::new();
    let callback = code.label();
    for_each(&mut code, callback, 0);
    code.exit();
    visit(&mut code, callback, -1);
    let mut trie = map(MapType::LpmTrie, 4);
    (trie.key_size, trie.flags) = (8, MapFlags::NO_PREALLOC);
    assert_eq!(reason(&code, &[trie]), TrapReason::HelperMap);
}

#[test]
fn elements_of_a_hash_are_those_of_the_control_side() {
    let mut code = Asm::new();
    let callback = code.label();
    for_each(&mut code, callback, 0);
    code.load(MemSize::Dw, 0, 10, -8).exit();
    visit(&mut code, callback, -1);
    let loaded = link(&[code.finish()], &[map(MapType::Hash, 1000)]);
    for key in 0..700u32 {
        let value = u64::from(key) * 3;
        loaded.maps[0]
            .sys_update(&key.to_ne_bytes(), &value.to_ne_bytes(), UpdateFlags::ANY)
            .unwrap();
    }
    let ran = run_interp(&loaded, &[0; 64]);
    assert_eq!(ran.result, Ok((0..700).sum::<u64>() * 4));
}

#[test]
fn a_program_in_a_callbacks_place_is_there_for_one_round() {
    let mut counting = Asm::new();
    let each = counting.label();
    // The callback finds the program's context in its caller's frame.
    counting
        .store(MemSize::Dw, 10, -16, R(1))
        .store(MemSize::Dw, 10, -8, 0)
        .mov(1, 3)
        .function(2, each)
        .mov(3, R(10))
        .add(3, -16)
        .mov(4, 0)
        .call(HelperId::LOOP)
        .mov(7, R(0))
        .load(MemSize::Dw, 0, 10, -8)
        .alu(o::LSH, 7, 8)
        .alu(o::OR, 0, R(7))
        .exit()
        .bind(each)
        .load(MemSize::Dw, 3, 2, 8)
        .add(3, 1)
        .store(MemSize::Dw, 2, 8, R(3))
        .load(MemSize::Dw, 1, 2, 0)
        .map(2, 0)
        .mov(3, 0)
        .call(HelperId::TAIL_CALL)
        .mov(0, 1)
        .exit();
    let mut other = Asm::new();
    // Another slot is the callback's here: it must not be run.
    for _ in 0..40 {
        other.mov(0, 0);
    }
    other.exit();
    let defs = [MapDef {
        value_size: 4,
        ..map(MapType::ProgArray, 1)
    }];
    let codes = [counting.finish(), other.finish()];
    let loaded = link(&codes, &defs);
    loaded.maps[0].set_program(0, Some(1)).unwrap();
    let expected = value(3 << 8 | 3);
    assert_eq!(run_interp(&loaded, &[0; 64]), expected);
    let programs = compile_all(&loaded, Options::default());
    assert_eq!(run_jit(&loaded, &programs, &[0; 64]), expected);
}

#[test]
fn walks_over_huge_maps_without_elements_end() {
    let mut code = Asm::new();
    let (callback, again) = (code.label(), code.label());
    code.bind(again);
    for_each(&mut code, callback, 0);
    code.jump(again).bind(callback).mov(0, 0).exit();
    let loaded = link(&[code.finish()], &[map(MapType::Hash, 1 << 20)]);
    let budget = Err(TrapReason::Budget);
    assert_eq!(run_interp(&loaded, &[0; 64]).result, budget);
    let compiled = compile_all(&loaded, Options::default());
    assert_eq!(run_jit(&loaded, &compiled, &[0; 64]).result, budget);
}
