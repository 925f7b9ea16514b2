//! Where the compiler comes in.

use std::sync::Arc;

use squalus_analysis::Facts;
use squalus_jit::{CompiledProgram, Options, compile_with, run_burst, run_timer};
use squalus_runtime::{Due, Env, FrameRef, LinkedProgram, Timers, TrapReason};

use crate::VmError;

/// Compiled code of all programs, by number.
#[derive(Debug)]
pub(crate) struct Native {
    programs: Vec<CompiledProgram>,
}

impl Native {
    /// Compiles programs from what the analysis found of each.
    pub fn compile(
        programs: &[Arc<LinkedProgram>],
        facts: &[Facts],
        options: Options,
    ) -> Result<Native, VmError> {
        let compiled = programs.iter().zip(facts);
        let compiled = compiled.map(|(program, facts)| Ok(compile_with(program, facts, options)?));
        let programs = compiled.collect::<Result<_, VmError>>()?;
        Ok(Native { programs })
    }

    /// Runs the callback of a timer; a failed check is left in `env`.
    ///
    /// # Safety
    /// As [`Native::run_burst`]; the timers are of this machine's maps.
    pub unsafe fn run_timer(&self, env: &mut Env, timers: &Timers, due: &Due) {
        // SAFETY: the environment is borrowed for the whole run; the rest is the caller's promise.
        unsafe { run_timer(&self.programs, env, timers, due) };
    }

    /// Runs program `entry` on each frame; `each` hears of the outcomes as those of
    /// [`squalus_jit::run_burst`].
    ///
    /// # Safety
    /// The calling thread must be a worker of the maps' reclaimer, not paused.
    #[inline]
    pub unsafe fn run_burst<'a>(
        &self,
        entry: usize,
        env: &mut Env,
        frames: &mut [FrameRef<'a>],
        each: impl FnMut(usize, &mut FrameRef<'a>, &Env, Result<u64, TrapReason>),
    ) {
        // SAFETY: environment and frames are borrowed for all runs; `compile` made the programs from their
        // own facts; the rest is the caller's promise.
        unsafe { run_burst(&self.programs, entry, env, frames, each) };
    }
}
