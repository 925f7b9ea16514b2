//! The same bytecode in the engine rbpf.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use squalus_isa::Verdict;
use squalus_object::Object;
use squalus_rbpf::Program;
use squalus_vm::{EngineKind, VmBuilder};

use super::measure::Answer;
use super::programs::{self, ENTRY};
use super::schedule::Schedule;

/// Loads a program into rbpf. The error of a program that cannot run there has an [`squalus_rbpf::Unfit`] in it.
pub(super) fn load(program: &programs::Program) -> Result<Program> {
    let object = Object::parse(program.object)?;
    let insns = object.require_program(ENTRY)?.insns.clone();
    let vm = VmBuilder::new(object).engine(EngineKind::Interp).build()?;
    let linked = vm.linked().first().context("the object has no program")?;
    let facts = squalus_analysis::analyse(linked)?;
    Ok(Program::load(&insns, linked, &facts)?)
}

/// Runs each frame once.
pub(super) fn check(program: &mut Program, frames: &[Vec<u8>]) -> Vec<Answer> {
    let answer = |frame: &Vec<u8>| {
        let mut value = [0];
        program.set(0, frame);
        program.run(&mut value);
        Answer {
            value: value[0] as u32,
            frame: program.frame(0).to_vec(),
        }
    };
    frames.iter().map(answer).collect()
}

/// Nanoseconds a packet, entering the program included.
pub(super) fn measure(
    program: &mut Program,
    frames: &[Vec<u8>],
    packets: u32,
    schedule: Schedule,
) -> Result<f64> {
    let mut values = vec![0; schedule.burst()];
    schedule.time(packets, |first| {
        for n in 0..schedule.burst() {
            program.set(n, &frames[schedule.frame(first + n)]);
        }
        let start = Instant::now();
        program.run(&mut values);
        let time = start.elapsed();
        let tx = |value: &u64| *value as u32 == Verdict::Tx as u32;
        ensure!(
            values.iter().all(tx),
            "a frame got another verdict than XDP_TX"
        );
        Ok(time)
    })
}
