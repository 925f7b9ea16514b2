//! Time and place.

use squalus_isa::HelperId;
use squalus_vm::EngineKind;

use crate::harness::{Program, frame, may_use_bpf, run};

#[test]
fn the_thread_that_runs_the_program_is_this_one() {
    if !may_use_bpf() {
        return;
    }
    let mut program = Program::new();
    program.call(HelperId::GET_CURRENT_PID_TGID, &[]);
    program.compare();
}

#[test]
fn jiffies_are_counted_from_the_same_moment() {
    if !may_use_bpf() {
        return;
    }
    let mut program = Program::new();
    program.call(HelperId::JIFFIES64, &[]);
    let want = run(&mut program.kernel(), &frame()).results()[0];
    let got = run(&mut program.vm(EngineKind::Interp), &frame()).results()[0];
    // A minute at the fastest timer: loading took far less, and another base differs by far more.
    assert!((got - want).abs() < 60_000, "{got} and {want}");
}
