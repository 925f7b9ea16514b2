//! The reference engine: slow, every access checked.
//!
//! It is what the other engines are measured against, so it is written to be read, not to be fast. Every
//! register carries, beside its 64 bits, what it points to: the packet, a call's stack, one map value, a
//! map, the context. Arithmetic keeps that as long as it makes sense and drops it otherwise; a spilled
//! register keeps it in a shadow of the stack. Each load, store and helper argument is then compared with
//! the exact bounds of what it may touch. So *any* decoded program runs safely here, proven or not, and
//! whatever the kernel's verifier would have rejected ends as a [`Trap`] when, and only when, it happens.
//!
//! Decisions where the kernel leaves a choice or the verifier forbids:
//! - Stack bytes that were never written read as zero. Each call starts with a fresh stack.
//! - After a helper that can move the packet, whether it succeeded or not, packet pointers from before
//!   are invalid, as the verifier has it.
//! - Registers `r1` to `r5` are lost after a call; using one before writing it is a trap.
//! - A run may execute [`Env::budget_per_run`] instructions. `may_goto` jumps when nearly all are used up.
//! - Every function has [`squalus_runtime::STACK_SIZE`] bytes of stack for itself; the kernel allows as many
//!   in all nested calls together.
//! - Any number but 0 that a callback returns ends the rounds; the verifier allows 0 and 1 only. A tail call
//!   in a callback replaces the callback.
//! - What a run holds when it ends, a spin lock or records of ring buffers, is given back.

mod alu;
mod args;
mod call;
mod facts;
mod frames;
mod machine;
mod memory;
mod stack;
mod value;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use squalus_analysis::Facts;
use squalus_runtime::{Due, Env, Frame, FramePlace, FrameRef, LinkedProgram, Timers, Trap};

use stack::Stacks;

/// An interpreter with its stacks: one per worker, used for run after run without allocating.
pub struct Interp {
    stacks: Stacks,
    visits: Option<&'static [AtomicU8]>,
    facts: Arc<[Facts]>,
    false_fact: Option<String>,
}

impl Default for Interp {
    fn default() -> Self {
        Interp::new()
    }
}

impl std::fmt::Debug for Interp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interp")
    }
}

impl Interp {
    /// An interpreter.
    #[must_use]
    pub fn new() -> Interp {
        Interp {
            stacks: Stacks::new(),
            visits: None,
            facts: Arc::new([]),
            false_fact: None,
        }
    }

    /// From now on, compares what analysis said of the programs, in their order, with what is the case before
    /// every instruction. A false fact ends the run as unsupported, and [`Interp::false_fact`] tells it. Slow,
    /// for tests.
    pub fn check_facts(&mut self, facts: Arc<[Facts]>) {
        self.facts = facts;
    }

    /// The first fact that was found to be false.
    #[must_use]
    pub fn false_fact(&self) -> Option<&str> {
        self.false_fact.as_deref()
    }

    /// From now on, counts each instruction executed in one of `counters`, chosen by its slot and its
    /// program's number; a counter stays at its greatest value. A coverage-guided fuzzer that looks at
    /// them sees where in a program its inputs get.
    pub fn count_visits(&mut self, counters: &'static [AtomicU8]) {
        self.visits = (!counters.is_empty()).then_some(counters);
    }

    /// Runs program `entry` on `frame` and returns `r0`. `programs` are what tail calls reach, by the
    /// numbers that program arrays hold.
    ///
    /// Whatever happens, `frame` has the limits that the program left.
    ///
    /// # Errors
    /// The check that failed. The verdict of such a run is `XDP_ABORTED`.
    ///
    /// # Safety
    /// The calling thread must be a [`squalus_maps::Worker`] of the reclaimer of the programs' maps, not
    /// paused: nothing else keeps an inner map alive that is removed while the program uses it.
    pub unsafe fn run(
        &mut self,
        programs: &[Arc<LinkedProgram>],
        entry: usize,
        env: &mut Env,
        frame: &mut FrameRef<'_>,
    ) -> Result<u64, Trap> {
        env.begin(frame.place());
        let observed = Observed {
            visits: self.visits,
            facts: &self.facts,
            false_fact: &mut self.false_fact,
        };
        let result = machine::run(programs, entry, env, &mut self.stacks, observed);
        // SAFETY: the programs hold their maps, and the worker its inner maps.
        unsafe { env.end() };
        frame.set_redirect(env.redirect);
        note(env, &result);
        result
    }

    /// Runs the callback of a timer, if its element is still there.
    ///
    /// # Errors
    /// The check that failed.
    ///
    /// # Safety
    /// As [`Interp::run`]; `due` is of these timers, whose maps are the programs'.
    pub unsafe fn run_timer(
        &mut self,
        programs: &[Arc<LinkedProgram>],
        env: &mut Env,
        timers: &Timers,
        due: &Due,
    ) -> Result<(), Trap> {
        let mut nothing = Frame::EMPTY;
        env.begin(FramePlace::of(&mut nothing));
        let is = |program: &Arc<LinkedProgram>| call::owner(program) == due.callback.owner;
        let Some(program) = programs.iter().position(is) else {
            return Ok(());
        };
        let Some(args) = timers.arguments(due, env) else {
            return Ok(());
        };
        let stacks = &mut self.stacks;
        let observed = Observed {
            visits: None,
            facts: &self.facts,
            false_fact: &mut self.false_fact,
        };
        let at = (program, due.callback.slot);
        let result = machine::call(programs, at, args, env, stacks, observed);
        // SAFETY: the programs hold their maps.
        unsafe { env.end() };
        note(env, &result);
        result.map(|_| ())
    }
}

/// What watches a run.
pub(crate) struct Observed<'a> {
    pub visits: Option<&'static [AtomicU8]>,
    /// By program; none if facts are not checked.
    pub facts: &'a [Facts],
    pub false_fact: &'a mut Option<String>,
}

/// Leaves in the environment why a run was ended.
fn note(env: &mut Env, result: &Result<u64, Trap>) {
    if let Err(trap) = result {
        env.trap = trap.reason as u32;
        env.trap_slot = trap.slot as u32;
    }
}
