//! Claims of the analysis are compared with what is the case, and false ones are found.

use std::sync::Arc;

use squalus_analysis::analyse;
use squalus_interp::Interp;
use squalus_isa::{MemSize, opcode as o};
use squalus_maps::MapEnv;
use squalus_runtime::asm::Asm;
use squalus_runtime::{Clock, Env, FrameMemory, LinkedProgram, Rng, TrapReason};

fn link(asm: &Asm) -> Arc<LinkedProgram> {
    let program = LinkedProgram::new("test", &asm.finish(), Arc::new([]), Vec::new());
    Arc::new(program.expect("the program links"))
}

/// Runs one program with what is claimed of another that has the same shape: the first false claim.
fn run(program: &Asm, claimed: &Asm) -> Option<String> {
    let maps = MapEnv::with_seed(1, 7);
    let _worker = maps.reclaimer.register();
    let mut memory = FrameMemory::new();
    memory.set(&[7; 60]).expect("a packet has 60 bytes");
    let mut frame = memory.frame().expect("a packet was set");
    let mut env = Env::new(0, Clock::Fixed(1), Rng::seeded(1));
    let facts = analyse(&link(claimed)).expect("the program can be right");
    let mut interp = Interp::new();
    interp.check_facts(Arc::new([facts]));
    // SAFETY: the worker is registered and not paused.
    let ran = unsafe { interp.run(&[link(program)], 0, &mut env, &mut frame) };
    let told = interp.false_fact().map(str::to_owned);
    let ended = ran.err().map(|trap| trap.reason);
    assert_eq!(ended, told.as_ref().map(|_| TrapReason::Unsupported));
    told
}

#[track_caller]
fn assert_found(make: impl Fn(i32) -> Asm, what: &str) {
    assert_eq!(run(&make(1), &make(1)), None);
    let told = run(&make(1), &make(2)).expect("a claim is false");
    assert!(told.contains(what), "{told}");
}

#[test]
fn false_claims_about_registers_are_found() {
    let number = |n| {
        let mut asm = Asm::new();
        asm.mov(0, n).exit();
        asm
    };
    assert_found(number, "instruction 1: r0 holds");
    let field = |n| {
        let mut asm = Asm::new();
        asm.load(MemSize::W, 2, 1, n as i16 * 4 - 4)
            .mov(0, 2)
            .exit();
        asm
    };
    assert_found(field, "data_end was claimed");
}

#[test]
fn false_claims_about_the_stack_are_found() {
    let slot = |n| {
        let mut asm = Asm::new();
        let on = asm.label();
        asm.store(MemSize::Dw, 10, -8, n)
            .load(MemSize::W, 1, 1, 12)
            .jump_if(o::JNE, 1, 99, on)
            .bind(on)
            .mov(0, 2)
            .exit();
        asm
    };
    assert_found(slot, "fp-8 holds");
}

#[test]
fn false_claims_about_jumps_are_found() {
    let jump = |n| {
        let mut asm = Asm::new();
        let out = asm.label();
        asm.mov(0, 2)
            .load(MemSize::W, 1, 1, 12)
            .alu(o::AND, 1, 0)
            .jump_if(o::JLT, 1, n - 1, out)
            .mov(0, 1)
            .bind(out)
            .exit();
        asm
    };
    assert_found(jump, "a jump went where it cannot");
}
