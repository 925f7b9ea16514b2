//! Where the compiler comes in.

use std::sync::Arc;

use squalus_analysis::Facts;
use squalus_jit::{CompiledProgram, Options, compile_with, run_linked, run_timer};
use squalus_runtime::{Due, Env, FrameRef, LinkedProgram, Timers};

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
    /// As [`Native::run`]; the timers are of this machine's maps.
    pub unsafe fn run_timer(&self, env: &mut Env, timers: &Timers, due: &Due) {
        // SAFETY: the environment is borrowed for the whole run; the rest is the caller's promise.
        unsafe { run_timer(&self.programs, env, timers, due) };
    }

    /// Runs program `entry` on `frame` and returns `r0`; a failed check is left in `env`.
    ///
    /// # Safety
    /// The calling thread must be a worker of the maps' reclaimer, not paused.
    pub unsafe fn run(&self, entry: usize, env: &mut Env, frame: &mut FrameRef<'_>) -> u64 {
        env.begin(frame.raw());
        // SAFETY: `frame` is borrowed for the whole run, the environment too; `compile` made the programs
        // from their own facts; the rest is the caller's promise.
        let value = unsafe { run_linked(&self.programs, entry, env) };
        // SAFETY: the environment's frame began as this frame's; only the `adjust_*` functions change it.
        unsafe { frame.set_raw(env.frame) };
        frame.set_redirect(env.redirect);
        value
    }
}
