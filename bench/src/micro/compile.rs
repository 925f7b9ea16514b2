//! How long our engine takes to analyse and compile a program.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use squalus_jit::Options;
use squalus_object::Object;
use squalus_vm::{EngineKind, VmBuilder};

use super::programs::Program;
use crate::engines::CodeArgs;

/// Compile time of one program, in microseconds: of each step the median of the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct CompileTime {
    /// Instructions of the object's program, subprograms included.
    pub instructions: usize,
    /// Finding facts.
    pub analysis_us: f64,
    /// From facts to optimized SSA.
    pub ssa_us: f64,
    /// From there to machine code.
    pub code_us: f64,
    /// Bytes of machine code.
    pub code_bytes: usize,
}

impl CompileTime {
    /// All steps together.
    #[must_use]
    pub fn all_us(&self) -> f64 {
        self.analysis_us + self.ssa_us + self.code_us
    }
}

/// Measures compile time over `rounds` rounds.
///
/// # Errors
/// If the program cannot be analysed or compiled.
pub fn measure(program: &Program, rounds: usize, code: CodeArgs) -> Result<CompileTime> {
    let vm = VmBuilder::new(Object::parse(program.object)?)
        .engine(EngineKind::Interp)
        .build()?;
    let linked = vm.linked().first().context("the object has no program")?;
    let options = Options {
        passes: code.passes,
        ..Options::default()
    };
    let (mut analysis, mut ssa, mut code, mut code_bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        let start = Instant::now();
        let facts = squalus_analysis::analyse(linked)?;
        let between = Instant::now();
        let compiled = squalus_jit::compile_with(linked, &facts, options)?;
        let rest = between.elapsed();
        analysis.push(between - start);
        ssa.push(compiled.ssa_time());
        code.push(rest.saturating_sub(compiled.ssa_time()));
        code_bytes = compiled.code_len();
    }
    Ok(CompileTime {
        instructions: linked.insts().len(),
        analysis_us: median_us(analysis),
        ssa_us: median_us(ssa),
        code_us: median_us(code),
        code_bytes,
    })
}

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    median.as_nanos() as f64 / 1000.0
}
