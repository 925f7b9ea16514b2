//! Where the compiler comes in.

use std::sync::Arc;

use squalus_analysis::Facts;
use squalus_jit::{
    CompiledProgram, Context, JitError, Lookahead, Options, Outcomes, Tier, compile_tier,
    run_burst, run_timer,
};
use squalus_runtime::{Due, Env, FrameRef, LinkedProgram, Timers};

/// What a program's code is made from.
#[derive(Clone, Copy)]
pub(crate) struct CodeSource<'a> {
    pub program: &'a LinkedProgram,
    pub facts: &'a Facts,
    pub context: &'a Arc<Context>,
    pub tier: Tier<'a>,
}

/// Compiled code of all programs, by number.
#[derive(Debug)]
pub(crate) struct Native {
    programs: Vec<CompiledProgram>,
}

impl Native {
    /// Compiles programs, each from what the analysis found of it.
    ///
    /// # Errors
    /// Those of the first program that cannot be compiled.
    pub fn compile(sources: &[CodeSource<'_>], options: Options) -> Result<Native, JitError> {
        let compiled = sources.iter().map(|source| {
            let (program, facts) = (source.program, source.facts);
            compile_tier(program, facts, source.context, options, source.tier)
        });
        let programs = compiled.collect::<Result<_, _>>()?;
        Ok(Native { programs })
    }

    /// Bytes of machine code.
    pub fn code_len(&self) -> usize {
        self.programs.iter().map(CompiledProgram::code_len).sum()
    }

    /// Runs the callback of a timer; a failed check is left in `env`.
    ///
    /// # Safety
    /// As [`Native::run_burst`]; the timers are of this machine's maps.
    pub unsafe fn run_timer(&self, env: &mut Env, timers: &Timers, due: &Due) {
        // SAFETY: the environment is borrowed for the whole run; the rest is the caller's promise.
        unsafe { run_timer(&self.programs, env, timers, due) };
    }

    /// Runs program `entry` on each frame.
    ///
    /// # Safety
    /// The calling thread must be a worker of the maps' reclaimer, not paused.
    #[inline]
    pub unsafe fn run_burst(
        &self,
        entry: usize,
        env: &mut Env,
        lookahead: &mut Lookahead,
        frames: &mut [FrameRef<'_>],
        outcomes: &mut impl Outcomes,
    ) {
        // SAFETY: environment and frames are borrowed for all runs; `compile` made the programs from their
        // own facts; the rest is the caller's promise.
        unsafe { run_burst(&self.programs, entry, env, lookahead, frames, outcomes) };
    }
}

/// Compiled code of all programs of a machine ([`crate::Vm::machine_code`]).
#[derive(Clone, Debug)]
pub struct MachineCode(pub(crate) Arc<Native>);

impl MachineCode {
    /// The programs, by number.
    #[must_use]
    pub fn programs(&self) -> &[CompiledProgram] {
        &self.0.programs
    }

    /// Whether it is the same code.
    #[must_use]
    pub fn is(&self, other: &MachineCode) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
