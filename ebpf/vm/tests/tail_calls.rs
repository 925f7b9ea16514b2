//! How deep tail calls in subprograms go: each leaves its callers' frames open under those of the next program, and all
//! of a run count together. The kernel is asked.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use squalus_engine::{Engine, TestRun};
use squalus_isa::{HelperId, Insn, MapDef, MapType, MemSize, UpdateFlags, opcode as o};
use squalus_kernel::KernelEngine;
use squalus_runtime::asm::{Asm, R};
use squalus_runtime::{MAX_CALL_FRAMES, MAX_TAIL_CALLS};
use squalus_vm::{EngineKind, Pass, Passes, VmBuilder};

const PROGRAMS: u32 = 0;
const COUNT: u32 = 1;
/// A map whose two elements are walked over.
const WALKED: u32 = 2;

fn maps() -> Vec<MapDef> {
    vec![
        MapDef::new("programs", MapType::ProgArray, (4, 4), 2),
        MapDef::new("count", MapType::Array, (4, 8), 1),
        MapDef::new("walked", MapType::Array, (4, 8), 2),
    ]
}

/// A program that counts its runs in a map, calls functions `calls` deep, the last of which tail-calls number `next` of
/// the programs, and mixes into what that returns how deep it was. If it walks, it does so over a map in that
/// function: then frames are counted at run time.
fn link(calls: usize, next: i32, walks: bool) -> Vec<Insn> {
    let mut c = Asm::new();
    let callback = c.label();
    c.mov(6, R(1))
        .map_value(1, COUNT, 0)
        .mov(2, 1)
        .atomic(MemSize::Dw, i32::from(o::ADD), 1, 0, 2);
    for n in 0..calls {
        let function = c.label();
        c.mov(1, R(6)).call_local(function);
        c.alu(o::MUL, 0, 31).add(0, n as i32 + 1).exit();
        c.bind(function).mov(6, R(1));
    }
    c.mov(7, 0);
    if walks {
        c.map(1, WALKED).function(2, callback).mov(3, 0).mov(4, 0);
        c.call(HelperId::FOR_EACH_MAP_ELEM).mov(7, R(0));
    }
    c.mov(1, R(6)).map(2, PROGRAMS).mov(3, next);
    c.call(HelperId::TAIL_CALL);
    c.mov(0, R(7)).add(0, 77).exit();
    if walks {
        c.bind(callback).load(MemSize::W, 0, 2, 0);
        c.alu(o::AND, 0, 0).exit();
    }
    c.finish()
}

/// What the first of two programs returns, and how often programs ran.
fn outcome(engine: &mut dyn Engine) -> (u32, u64) {
    for program in [0u32, 1] {
        let number = program.to_ne_bytes();
        let set = engine.update("programs".into(), &number, &number, UpdateFlags::ANY);
        set.unwrap();
    }
    let result = engine.test_run("first", &TestRun::once(&[0; 64])).unwrap();
    let count = engine.lookup("count".into(), &[0; 4]).unwrap().unwrap();
    (
        result.return_value,
        u64::from_ne_bytes(count.try_into().unwrap()),
    )
}

/// All passes, none, and each alone.
fn sets() -> Vec<Passes> {
    let alone = Pass::ALL.map(|pass| Passes::NONE.with(pass));
    let mut sets = vec![Passes::ALL, Passes::NONE];
    sets.extend(alone);
    sets
}

fn compare(first: &[Insn], second: &[Insn], judge: bool) {
    let programs = || {
        vec![
            ("first".to_owned(), first.to_vec()),
            ("second".to_owned(), second.to_vec()),
        ]
    };
    let builder = |kind| VmBuilder::assembled(maps(), programs()).engine(kind);
    let mut interp = builder(EngineKind::Interp).build().unwrap();
    let expected = outcome(&mut interp);
    assert_eq!(interp.last_trap(0), None);
    assert_eq!(expected.1, 1 + u64::from(MAX_TAIL_CALLS));
    if judge {
        let mut kernel = KernelEngine::assembled(maps(), programs()).unwrap();
        assert_eq!(outcome(&mut kernel), expected);
    }
    for passes in sets() {
        let mut jit = builder(EngineKind::Jit).passes(passes).build().unwrap();
        assert_eq!(outcome(&mut jit), expected, "{passes}");
        assert_eq!(jit.last_trap(0), None);
        // Nothing of a run is left for the next.
        assert_eq!(outcome(&mut jit), (expected.0, 2 * expected.1), "{passes}");
    }
}

fn may_use_bpf() -> bool {
    match KernelEngine::assembled(maps(), vec![("probe".to_owned(), link(0, 0, false))]) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED: no comparison with the kernel: {error}");
            false
        }
    }
}

#[test]
fn each_program_of_a_chain_has_all_its_calls() {
    let judge = may_use_bpf();
    let deepest = MAX_CALL_FRAMES - 1;
    for calls in 0..=deepest {
        let program = link(calls, 0, false);
        compare(&program, &program, judge);
    }
}

#[test]
fn frames_are_counted_in_each_program_of_a_chain() {
    let judge = may_use_bpf();
    // The callback is a frame, too.
    for (calls, others) in [(1, 0), (3, 6), (6, 6), (5, 0)] {
        compare(&link(calls, 1, true), &link(others, 0, false), judge);
        compare(&link(calls, 1, true), &link(others, 0, true), judge);
        compare(&link(others, 1, false), &link(calls, 0, true), judge);
    }
}
