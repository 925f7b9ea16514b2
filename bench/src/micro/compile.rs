//! How long our engine takes to analyse and compile a program.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use squalus_object::Object;
use squalus_vm::{EngineKind, VmBuilder};

use super::programs::Program;

/// Compile time of one program: the median of the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct CompileTime {
    /// Instructions of the object's program, subprograms included.
    pub instructions: usize,
    /// Analysis, in microseconds.
    pub analysis_us: f64,
    /// From facts to machine code, in microseconds.
    pub codegen_us: f64,
    /// Both, per instruction, in microseconds.
    pub us_per_instruction: f64,
    /// Bytes of machine code.
    pub code_bytes: usize,
}

/// Measures compile time over `rounds` rounds.
///
/// # Errors
/// If the program cannot be analysed or compiled.
pub fn measure(program: &Program, rounds: usize) -> Result<CompileTime> {
    let vm = VmBuilder::new(Object::parse(program.object)?)
        .engine(EngineKind::Interp)
        .build()?;
    let linked = vm.linked().first().context("the object has no program")?;
    let (mut analysis, mut codegen, mut code_bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        let start = Instant::now();
        let facts = squalus_analysis::analyse(linked)?;
        let between = Instant::now();
        let compiled = squalus_jit::compile(linked, &facts)?;
        codegen.push(between.elapsed());
        analysis.push(between - start);
        code_bytes = compiled.code_len();
    }
    let (analysis_us, codegen_us) = (median_us(analysis), median_us(codegen));
    let instructions = linked.insts().len();
    Ok(CompileTime {
        instructions,
        analysis_us,
        codegen_us,
        us_per_instruction: (analysis_us + codegen_us) / instructions as f64,
        code_bytes,
    })
}

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    median.as_nanos() as f64 / 1000.0
}
