//! Functions of a program that call each other: whether they become parts of their callers or not, results, traps
//! and counts are the same.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod common;

use common::{Loaded, agree, compile_all, compile_tier_all, contexts, link, run_interp, run_jit};
use squalus_isa::{HelperId, Insn, MapDef, MapFlags, MapType, MemSize, ValueFields, opcode as o};
use squalus_jit::{CompiledProgram, Options, Tier};
use squalus_runtime::TrapReason;
use squalus_runtime::asm::{Asm, Label, R};
use squalus_ssa::{Pass, Passes};

const PACKET: [u8; 64] = [7; 64];

fn result(asm: &Asm) -> Result<u64, TrapReason> {
    agree(&[asm.finish()], &[], &PACKET).result
}

fn options(passes: Passes) -> Options {
    Options {
        passes,
        keep_text: true,
        ..Options::default()
    }
}

/// The program after all passes, as text.
fn text(loaded: &Loaded, passes: Passes) -> String {
    let compiled = compile_all(loaded, options(passes));
    let stages = compiled[0].ssa().unwrap();
    let last = |id: u32| stages.iter().rev().find(|(_, f)| f.id == id);
    last(0).unwrap().1.to_string()
}

/// Calls `sub` with `r1 = fp + off`.
fn call_with_frame(asm: &mut Asm, sub: Label, off: i32) {
    asm.mov(1, R(10)).add(1, off).call_local(sub);
}

#[test]
fn what_callees_do_to_frames_of_callers_is_seen() {
    let mut asm = Asm::new();
    let sub = asm.label();
    asm.store(MemSize::Dw, 10, -16, 0x0102_0304)
        .store(MemSize::Dw, 10, -8, -1);
    call_with_frame(&mut asm, sub, -16);
    asm.mov(6, R(0)).store(MemSize::B, 10, -13, 0x55);
    call_with_frame(&mut asm, sub, -16);
    asm.load(MemSize::Dw, 1, 10, -16)
        .load(MemSize::H, 2, 10, -8)
        .alu(o::MUL, 0, 31)
        .add(0, R(6))
        .alu(o::MUL, 0, 31)
        .add(0, R(1))
        .alu(o::MUL, 0, 31)
        .add(0, R(2))
        .exit();
    // Reads and writes in other widths than the caller, in part beside what that wrote.
    asm.bind(sub)
        .load(MemSize::W, 0, 1, 0)
        .load(MemSize::H, 2, 1, 7)
        .add(0, R(2))
        .store(MemSize::H, 1, 1, R(0))
        .store(MemSize::W, 1, 6, R(2))
        .exit();
    let ran = result(&asm);
    assert!(ran.is_ok());
    let loaded = link(&[asm.finish()], &[]);
    let made = text(&loaded, Passes::ALL);
    assert!(!made.contains("call function"), "{made}");
    assert!(!made.contains("frame["), "{made}");
    assert!(text(&loaded, Passes::ALL.without(Pass::Inline)).contains("call function1"));
    assert!(text(&loaded, Passes::ALL.without(Pass::Promote)).contains("frame["));
}

#[test]
fn a_frame_that_is_indexed_stays_memory() {
    let mut asm = Asm::new();
    let sub = asm.label();
    asm.mov(6, 0);
    for n in 0..4 {
        asm.store(MemSize::Dw, 10, -8 - 8 * n, i32::from(n) + 3);
    }
    call_with_frame(&mut asm, sub, -32);
    asm.load(MemSize::Dw, 1, 10, -24).add(0, R(1)).exit();
    // Which word is written is known only when it runs.
    asm.bind(sub)
        .call(HelperId::GET_PRANDOM_U32)
        .alu(o::AND, 0, 1)
        .alu(o::LSH, 0, 3)
        .add(0, 8)
        .mov(2, R(10))
        .store(MemSize::Dw, 10, -8, 9)
        .load(MemSize::Dw, 0, 10, -8)
        .exit();
    assert_eq!(result(&asm), Ok(9 + 5));
    let mut asm = Asm::new();
    let sub = asm.label();
    for n in 0..4 {
        asm.store(MemSize::Dw, 10, -8 - 8 * n, i32::from(n) + 3);
    }
    asm.load(MemSize::W, 2, 1, 12);
    call_with_frame(&mut asm, sub, -32);
    asm.load(MemSize::Dw, 1, 10, -32).add(0, R(1)).exit();
    asm.bind(sub)
        .alu(o::AND, 2, 3)
        .alu(o::LSH, 2, 3)
        .add(1, R(2))
        .load(MemSize::Dw, 0, 1, 0)
        .store(MemSize::Dw, 1, 0, 77)
        .exit();
    assert!(result(&asm).is_ok());
}

#[test]
fn an_address_that_is_chosen_or_kept_is_one_in_memory() {
    let mut asm = Asm::new();
    let (sub, on) = (asm.label(), asm.label());
    asm.load(MemSize::W, 7, 1, 12)
        .store(MemSize::Dw, 10, -8, 1)
        .store(MemSize::Dw, 10, -16, 2)
        .mov(6, R(10))
        .add(6, -8)
        .jump_eq(7, 0, on)
        .add(6, -8)
        .bind(on)
        .store(MemSize::Dw, 10, -24, R(6))
        .mov(1, R(6))
        .call_local(sub)
        .load(MemSize::Dw, 1, 10, -24)
        .load(MemSize::Dw, 2, 1, 0)
        .add(0, R(2))
        .load(MemSize::Dw, 2, 10, -8)
        .alu(o::LSH, 2, 8)
        .add(0, R(2))
        .exit();
    asm.bind(sub)
        .load(MemSize::Dw, 0, 1, 0)
        .add(0, 10)
        .store(MemSize::Dw, 1, 0, R(0))
        .exit();
    assert!(result(&asm).is_ok());
}

#[test]
fn each_call_finds_its_frame_empty() {
    let mut asm = Asm::new();
    let (first, second) = (asm.label(), asm.label());
    asm.mov(6, 0);
    for n in 0..3 {
        asm.mov(1, n + 1).call_local(first).add(6, R(0));
        asm.mov(1, 10 * n).call_local(second).add(6, R(0));
    }
    asm.mov(0, R(6)).exit();
    // Two functions that read what they never wrote, and leave something there: their frames share a place.
    for (label, at) in [(first, -8), (second, -12)] {
        asm.bind(label)
            .load(MemSize::W, 0, 10, at)
            .add(0, R(1))
            .store(MemSize::Dw, 10, -16, R(0))
            .store(MemSize::Dw, 10, -8, R(0))
            .exit();
    }
    assert_eq!(result(&asm), Ok(1 + 10 - 10 + 2 + 10 + 3 + 20));
}

/// Functions one in another: each writes to its own frame and hands it down, with the first one's.
fn chain(depth: i32) -> Asm {
    let mut asm = Asm::new();
    let subs: Vec<Label> = (0..depth).map(|_| asm.label()).collect();
    asm.store(MemSize::Dw, 10, -8, 1000)
        .mov(2, R(10))
        .add(2, -8);
    call_with_frame(&mut asm, subs[0], -8);
    asm.load(MemSize::Dw, 1, 10, -8).add(0, R(1)).exit();
    for (n, &sub) in subs.iter().enumerate() {
        asm.bind(sub)
            .mov(6, R(1))
            .mov(7, R(2))
            .load(MemSize::Dw, 8, 6, 0)
            .add(8, n as i32)
            .store(MemSize::Dw, 10, -8, R(8))
            .load(MemSize::W, 3, 7, 0)
            .add(3, 1)
            .store(MemSize::W, 7, 0, R(3))
            .mov(0, 0);
        if let Some(&next) = subs.get(n + 1) {
            asm.mov(2, R(7));
            call_with_frame(&mut asm, next, -8);
        }
        asm.load(MemSize::Dw, 1, 10, -8)
            .add(0, R(1))
            .load(MemSize::Dw, 1, 6, 0)
            .add(0, R(1))
            .exit();
    }
    asm
}

#[test]
fn calls_may_be_eight_frames_deep_and_no_deeper() {
    for depth in 1..=7 {
        let ran = result(&chain(depth));
        assert!(ran.is_ok(), "{depth}: {ran:?}");
    }
    assert_eq!(result(&chain(8)), Err(TrapReason::CallDepth));
    let loaded = link(&[chain(7).finish()], &[]);
    let made = text(&loaded, Passes::ALL);
    assert!(!made.contains("call function"), "{made}");
    assert!(!made.contains("frame["), "{made}");
    assert!(!made.contains("env.scratch"), "the depth is known: {made}");
}

#[test]
fn functions_that_are_reached_on_several_ways_are_copied() {
    let mut asm = Asm::new();
    let [left, right, low, lowest] = [(); 4].map(|()| asm.label());
    asm.load(MemSize::W, 1, 1, 12)
        .mov(6, R(1))
        .call_local(left)
        .mov(7, R(0))
        .mov(1, R(6))
        .add(1, 3)
        .call_local(right)
        .add(0, R(7))
        .exit();
    for (label, factor) in [(left, 3), (right, 5)] {
        asm.bind(label)
            .mov(6, R(1))
            .add(1, factor)
            .call_local(low)
            .alu(o::MUL, 0, factor)
            .add(0, R(6))
            .exit();
    }
    asm.bind(low)
        .mov(6, R(1))
        .call_local(lowest)
        .mov(7, R(0))
        .mov(1, R(6))
        .add(1, R(7))
        .call_local(lowest)
        .add(0, R(7))
        .exit();
    let odd = asm.label();
    asm.bind(lowest)
        .mov(0, R(1))
        .jump_if(o::JSET, 1, 1, odd)
        .alu(o::RSH, 0, 1)
        .exit()
        .bind(odd)
        .alu(o::MUL, 0, 3)
        .add(0, 1)
        .exit();
    assert!(result(&asm).is_ok());
}

/// `even(n)` and `odd(n)` by each other.
fn even_or_odd(n: i32) -> Asm {
    let mut asm = Asm::new();
    let [even, odd, no, yes] = [(); 4].map(|()| asm.label());
    asm.load(MemSize::W, 1, 1, 12)
        .alu(o::AND, 1, 0)
        .add(1, n)
        .call_local(even)
        .exit();
    asm.bind(even)
        .jump_eq(1, 0, yes)
        .add(1, -1)
        .call_local(odd)
        .exit()
        .bind(yes)
        .mov(0, 1)
        .exit();
    asm.bind(odd)
        .jump_eq(1, 0, no)
        .add(1, -1)
        .call_local(even)
        .exit()
        .bind(no)
        .mov(0, 0)
        .exit();
    asm
}

#[test]
fn functions_may_call_themselves_by_others() {
    for n in 0..6 {
        let expected = u64::from(n % 2 == 0);
        assert_eq!(result(&even_or_odd(n)), Ok(expected), "{n}");
    }
    assert_eq!(result(&even_or_odd(40)), Err(TrapReason::CallDepth));
}

/// Calls the first of some functions, each of which calls the next one several times, the last of `len` instructions.
fn fan(levels: usize, width: usize, len: i32) -> Vec<Insn> {
    let mut asm = Asm::new();
    let subs: Vec<Label> = (0..levels).map(|_| asm.label()).collect();
    asm.mov(1, 1).call_local(subs[0]).exit();
    for (n, &sub) in subs.iter().enumerate() {
        asm.bind(sub);
        match subs.get(n + 1) {
            Some(&next) => {
                asm.mov(6, R(1));
                for _ in 0..width {
                    asm.mov(1, R(6)).call_local(next).mov(6, R(0));
                }
            }
            None => {
                asm.mov(0, R(1));
                for n in 0..len {
                    asm.alu(o::MUL, 0, 2 * n + 3).alu(o::XOR, 0, n);
                }
            }
        }
        asm.exit();
    }
    asm.finish()
}

/// How many instructions all functions have before all passes but `inline`.
fn size(program: &CompiledProgram) -> usize {
    let stages = program.ssa().unwrap().iter();
    let inlined = stages.filter(|(pass, _)| pass == "inline");
    let sizes = inlined.map(|(_, function)| {
        let blocks = function.reverse_postorder();
        let sizes = blocks.iter().map(|&b| function.block(b).insts.len() + 1);
        sizes.sum::<usize>()
    });
    sizes.sum()
}

#[test]
fn code_does_not_explode() {
    for (levels, width, len) in [(1, 1, 400), (2, 60, 20), (4, 6, 5), (5, 7, 100), (7, 20, 1)] {
        let code = fan(levels, width, len);
        let loaded = link(std::slice::from_ref(&code), &[]);
        let programs = compile_all(&loaded, options(Passes::ALL));
        let without = compile_all(&loaded, options(Passes::ALL.without(Pass::Inline)));
        let (before, after) = (size(&without[0]), size(&programs[0]));
        assert!(after <= 2 * before + 500, "{before} became {after}");
        let jit = run_jit(&loaded, &programs, &PACKET);
        // What is no call costs nothing, yet all runs end.
        match width.pow(levels as u32 - 1) < 10_000 {
            true => assert_eq!(jit, run_interp(&loaded, &PACKET)),
            false if jit.result == Err(TrapReason::Budget) => {}
            false => assert_eq!(jit, run_interp(&loaded, &PACKET)),
        }
    }
}

#[test]
fn a_trap_in_a_part_says_where_it_was() {
    let mut asm = Asm::new();
    let sub = asm.label();
    asm.mov(6, R(1))
        .load(MemSize::W, 1, 6, 0)
        .store(MemSize::B, 10, -1, 1)
        .call_local(sub)
        .mov(0, 0)
        .exit()
        .bind(sub)
        .mov(2, R(1))
        .add(2, 100)
        .load(MemSize::B, 0, 2, 0)
        .exit();
    let ran = agree(&[asm.finish()], &[], &PACKET);
    assert_eq!(ran.result, Err(TrapReason::Packet));
    assert_eq!(ran.slot, Some(8));
}

#[test]
fn blocks_are_counted_wherever_they_are() {
    let mut asm = Asm::new();
    let [sub, callback, odd, out] = [(); 4].map(|()| asm.label());
    asm.store(MemSize::Dw, 10, -8, 0)
        .mov(1, 5)
        .function(2, callback)
        .mov(3, R(10))
        .add(3, -8)
        .mov(4, 0)
        .call(HelperId::LOOP)
        .load(MemSize::Dw, 1, 10, -8)
        .call_local(sub)
        .mov(1, R(0))
        .call_local(sub)
        .exit();
    asm.bind(sub)
        .mov(0, R(1))
        .jump_if(o::JSET, 1, 1, odd)
        .add(0, 1)
        .exit()
        .bind(odd)
        .add(0, 2)
        .exit();
    asm.bind(callback)
        .load(MemSize::Dw, 3, 2, 0)
        .add(3, R(1))
        .store(MemSize::Dw, 2, 0, R(3))
        .jump_eq(1, 3, out)
        .mov(0, 0)
        .exit()
        .bind(out)
        .mov(0, 1)
        .exit();
    let loaded = link(&[asm.finish()], &[]);
    let counts = [Passes::ALL, Passes::ALL.without(Pass::Inline), Passes::NONE].map(|passes| {
        let contexts = contexts(&loaded);
        let programs = compile_tier_all(&loaded, &contexts, options(passes), &[Tier::Counted]);
        assert_eq!(run_jit(&loaded, &programs, &PACKET).result, Ok(9));
        contexts[0].profile().counts().to_vec()
    });
    assert_eq!(counts[0], counts[1]);
    assert_eq!(counts[0], counts[2]);
    assert!(counts[0].contains(&4), "rounds: {:?}", counts[0]);
}

#[test]
fn a_loop_of_a_helper_is_one_of_the_code() {
    let mut asm = Asm::new();
    let callback = asm.label();
    asm.store(MemSize::Dw, 10, -8, 0)
        .mov(1, 100)
        .function(2, callback)
        .mov(3, R(10))
        .add(3, -8)
        .mov(4, 0)
        .call(HelperId::LOOP)
        .load(MemSize::Dw, 1, 10, -8)
        .add(0, R(1))
        .exit();
    asm.bind(callback)
        .load(MemSize::Dw, 3, 2, 0)
        .add(3, R(1))
        .store(MemSize::Dw, 2, 0, R(3))
        .mov(0, 0)
        .exit();
    assert_eq!(result(&asm), Ok(100 + 99 * 50));
    let loaded = link(&[asm.finish()], &[]);
    let made = text(&loaded, Passes::ALL);
    assert!(!made.contains("call function"), "{made}");
    assert!(!made.contains("frame["), "{made}");
}

#[test]
fn a_tail_call_replaces_one_function_alone() {
    let def = MapDef {
        name: "m".to_owned(),
        kind: MapType::ProgArray,
        key_size: 4,
        value_size: 4,
        max_entries: 8,
        flags: MapFlags::default(),
        inner: None,
        extra: 0,
        fields: ValueFields::default(),
    };
    let mut first = Asm::new();
    let (outer, inner) = (first.label(), first.label());
    first.call_local(outer).add(0, 1000).exit();
    first
        .bind(outer)
        .mov(6, 5)
        .call_local(inner)
        .add(0, R(6))
        .exit();
    first
        .bind(inner)
        .map(2, 0)
        .mov(3, 1)
        .call(HelperId::TAIL_CALL)
        .mov(0, 1)
        .exit();
    let mut second = Asm::new();
    let sub = second.label();
    second.mov(1, 30).call_local(sub).exit();
    second.bind(sub).mov(0, R(1)).add(0, 1).exit();
    for (there, expected) in [(true, 1036), (false, 1006)] {
        let loaded = link(
            &[first.finish(), second.finish()],
            std::slice::from_ref(&def),
        );
        if there {
            loaded.maps[0].set_program(1, Some(1)).unwrap();
        }
        assert_eq!(run_interp(&loaded, &PACKET).result, Ok(expected));
        for passes in [Passes::ALL, Passes::NONE, Passes::ALL.without(Pass::Inline)] {
            let programs = compile_all(&loaded, options(passes));
            assert_eq!(run_jit(&loaded, &programs, &PACKET).result, Ok(expected));
        }
    }
}
