//! Visits of instructions are counted for whoever wants to see them.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use squalus_interp::Interp;
use squalus_isa::opcode as o;
use squalus_runtime::asm::Asm;
use squalus_runtime::{Clock, Env, FrameMemory, LinkedProgram, Rng};

static COUNTERS: [AtomicU8; 8] = [const { AtomicU8::new(0) }; 8];

#[test]
fn every_execution_counts_up_to_the_greatest_value() {
    let mut code = Asm::new();
    let (again, out) = (code.label(), code.label());
    code.mov(0, 300)
        .bind(again)
        .add(0, -1)
        .jump_if(o::JNE, 0, 0, again)
        .jump(out)
        .mov(0, 7)
        .bind(out)
        .exit();
    let program = LinkedProgram::new("test", &code.finish(), Arc::from([]), Vec::new()).unwrap();
    let mut memory = FrameMemory::new();
    memory.set(&[0; 60]).unwrap();
    let mut frame = memory.frame().unwrap();
    let mut env = Env::new(0, Clock::Fixed(0), Rng::seeded(1));
    let mut interp = Interp::new();
    interp.count_visits(&COUNTERS);
    // SAFETY: the program has no maps.
    let result = unsafe { interp.run(&[Arc::new(program)], 0, &mut env, &mut frame) };
    assert_eq!(result, Ok(0));
    let counts = COUNTERS.each_ref().map(|counter| counter.load(Relaxed));
    assert_eq!(counts, [1, 255, 255, 1, 0, 1, 0, 0]);
}
