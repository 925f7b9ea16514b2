//! Code that counts, and code that was made for what was counted.

mod common;

use common::{Loaded, compile_tier_all, contexts, link, run_jit};
use squalus_analysis::analyse;
use squalus_isa::{Insn, MemSize, opcode as o};
use squalus_jit::{CompiledProgram, Options, Pass, Passes, Profile, Tier, has_changed};
use squalus_runtime::asm::{Asm, R};

/// Two ways through a program: for packets whose first byte is 1, and for all others. Both call a subprogram that
/// goes round a loop as often as the second byte says.
fn program() -> Vec<Insn> {
    let mut asm = Asm::new();
    let (out, one, join, sub, head, over) = (
        asm.label(),
        asm.label(),
        asm.label(),
        asm.label(),
        asm.label(),
        asm.label(),
    );
    asm.load(MemSize::W, 2, 1, 0)
        .load(MemSize::W, 3, 1, 4)
        .mov(4, R(2))
        .add(4, 14)
        .mov(0, 1)
        .jump_if(o::JGT, 4, R(3), out)
        .load(MemSize::B, 6, 2, 0)
        .load(MemSize::B, 1, 2, 1)
        .jump_if(o::JEQ, 6, 1, one)
        .mov(7, 100)
        .jump(join)
        .bind(one)
        .mov(7, 200)
        .bind(join)
        .call_local(sub)
        .add(0, R(7))
        .bind(out)
        .exit();
    asm.bind(sub)
        .mov(0, 0)
        .bind(head)
        .jump_if(o::JEQ, 1, 0, over)
        .add(0, 3)
        .add(1, -1)
        .jump(head)
        .bind(over)
        .exit();
    asm.finish()
}

fn packet(first: u8, second: u8) -> Vec<u8> {
    let mut packet = vec![0; 60];
    (packet[0], packet[1]) = (first, second);
    packet
}

fn value(loaded: &Loaded, programs: &[CompiledProgram], packet: &[u8]) -> u64 {
    run_jit(loaded, programs, packet)
        .result
        .expect("no check fails")
}

#[test]
fn blocks_are_counted() {
    let loaded = link(&[program()], &[]);
    let contexts = contexts(&loaded);
    let programs = compile_tier_all(&loaded, &contexts, Options::default(), &[Tier::Counted]);
    for _ in 0..3 {
        assert_eq!(value(&loaded, &programs, &packet(1, 5)), 215);
    }
    assert_eq!(value(&loaded, &programs, &packet(9, 0)), 100);
    assert_eq!(contexts[0].runs(), 4);
    let facts = analyse(&loaded.programs[0]).expect("the program can be right");
    let profile = contexts[0].profile();
    let insts = loaded.programs[0].insts();
    let mut by_slot = Vec::new();
    for (block, &count) in facts.cfg().blocks().iter().zip(profile.counts()) {
        by_slot.push((insts[block.first].slot, count));
    }
    let count = |slot| {
        by_slot
            .iter()
            .find(|(first, _)| *first == slot)
            .map(|(_, n)| *n)
    };
    // The entry, the two ways, the subprogram's loop and its end.
    assert_eq!(count(0), Some(4));
    assert_eq!(count(9), Some(1));
    assert_eq!(count(11), Some(3));
    assert!(by_slot.iter().any(|&(_, n)| n == 15), "{by_slot:?}");
    contexts[0].reset();
    assert!(contexts[0].profile().counts().iter().all(|&n| n == 0));
    assert_eq!(contexts[0].runs(), 0);
}

#[test]
fn code_for_one_way_is_right_for_the_other() {
    let loaded = link(&[program()], &[]);
    let contexts = contexts(&loaded);
    // Calls that stay can be counted in the end.
    let passes = Passes::ALL.without(Pass::Inline);
    let options = Options {
        keep_text: true,
        passes,
        ..Options::default()
    };
    let counting = compile_tier_all(&loaded, &contexts, options, &[Tier::Counted]);
    for _ in 0..1000 {
        value(&loaded, &counting, &packet(1, 2));
    }
    let profile = contexts[0].profile();
    let hot = compile_tier_all(&loaded, &contexts, options, &[Tier::Hot(&profile)]);
    for (first, second, result) in [(1, 2, 206), (7, 2, 106), (1, 0, 200), (0, 90, 370)] {
        assert_eq!(value(&loaded, &hot, &packet(first, second)), result);
    }
    assert_eq!(contexts[0].profile(), profile, "hot code does not count");
    // The rare way does not come back to the hot code: what it does with the result is there twice.
    let without = Options {
        passes: passes.without(Pass::Hot),
        ..options
    };
    let plain = compile_tier_all(&loaded, &contexts, without, &[Tier::Hot(&profile)]);
    let calls = |programs: &[CompiledProgram]| {
        let clif = programs[0].clif().expect("it was kept");
        clif.lines()
            .filter(|line| line.contains(" = call fn"))
            .count()
    };
    assert_eq!((calls(&hot), calls(&plain)), (2, 1));
}

/// What was counted when so many packets went the one way and so many the other.
fn counted(loaded: &Loaded, ones: u32, others: u32) -> Profile {
    let contexts = contexts(loaded);
    let programs = compile_tier_all(loaded, &contexts, Options::default(), &[Tier::Counted]);
    for (first, count) in [(1, ones), (0, others)] {
        for _ in 0..count {
            value(loaded, &programs, &packet(first, 1));
        }
    }
    contexts[0].profile()
}

#[test]
fn traffic_changes_when_ways_become_often_or_rare() {
    let loaded = link(&[program()], &[]);
    let facts = analyse(&loaded.programs[0]).expect("the program can be right");
    let one = counted(&loaded, 4000, 0);
    let few = counted(&loaded, 4000, 20);
    let many = counted(&loaded, 2000, 2000);
    let other = counted(&loaded, 0, 4000);
    let changes = |old, new| has_changed(&facts, old, new, 1);
    assert!(!changes(&one, &one));
    assert!(!changes(&one, &few), "one in 200 says nothing");
    assert!(!changes(&few, &one));
    assert!(!changes(&few, &many), "these ways were hot before");
    assert!(changes(&one, &many) && changes(&many, &one));
    assert!(changes(&one, &other) && changes(&few, &other));
    assert!(!has_changed(&facts, &one, &other, 5000), "it hardly runs");
}
