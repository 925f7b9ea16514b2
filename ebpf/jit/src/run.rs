//! Running compiled programs: the entry, tail calls, and the state of one run.
//!
//! Small programs take less time than what may stand around them, so a burst does what it can once. Frames stay where
//! they are: the program gets the address of their pointers, and changes them there. What a run leaves behind is undone
//! only if it left something: it trapped, made a tail call, or holds a lock or a record. A frame then costs some 35
//! instructions besides those of the program.

use std::mem::{MaybeUninit, offset_of};

use squalus_maps::Ahead;
use squalus_runtime::{
    Due, Env, Frame, FramePlace, FrameRef, MAX_CALL_FRAMES, MAX_OPEN_FRAMES, Timers, TrapReason,
};

use crate::CompiledProgram;
use crate::ahead::{BURST, Lookahead};

/// What compiled functions return, in two registers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// `r0`; 0 if the run was ended.
    pub(crate) value: u64,
    /// One of the constants.
    pub(crate) status: u64,
}

impl Outcome {
    /// The function returned.
    pub(crate) const DONE: u64 = 0;
    /// A check failed; [`Env::trap`] says which.
    pub(crate) const TRAPPED: u64 = 1;
    /// The program is to be replaced by [`Env::next_program`].
    pub(crate) const TAIL_CALL: u64 = 2;
}

/// A compiled program's machine code.
pub(crate) type Entry = unsafe extern "C" fn(*mut Env, *mut Frame) -> Outcome;

/// The machine code of another function of a program.
pub(crate) type Function = unsafe extern "C" fn(*mut Env, u64, u64, u64, u64, u64) -> Outcome;

/// State of one run besides the environment. Its address is in the first word of [`Env::scratch`].
#[repr(C)]
pub(crate) struct RunState {
    /// Lowest address of the stack frame of each function in execution, 0 if nothing may point there. Those up to
    /// `depth` are initialised.
    frames: [MaybeUninit<u64>; MAX_OPEN_FRAMES],
    /// How many calls are open: the index of the innermost frame.
    pub(crate) depth: u64,
    /// How many may be open while the running program runs: as many as it had when it began, and its own.
    deepest: u64,
    programs: *const CompiledProgram,
    count: usize,
    /// Where lookups are announced, while they are.
    pub(crate) announced: *mut Vec<Ahead>,
}

impl RunState {
    pub(crate) const OFFSET_DEPTH: i32 = offset_of!(RunState, depth) as i32;
    pub(crate) const OFFSET_FRAMES: i32 = offset_of!(RunState, frames) as i32;
    pub(crate) const OFFSET_DEEPEST: i32 = offset_of!(RunState, deepest) as i32;
}

/// How many calls a program may have open.
const MAX_CALLS: u64 = MAX_CALL_FRAMES as u64 - 1;

impl RunState {
    fn new(programs: &[CompiledProgram]) -> RunState {
        let mut frames = [MaybeUninit::uninit(); MAX_OPEN_FRAMES];
        frames[0].write(0);
        RunState {
            frames,
            depth: 0,
            deepest: MAX_CALLS,
            programs: programs.as_ptr(),
            count: programs.len(),
            announced: std::ptr::null_mut(),
        }
    }

    /// The lowest address of each open frame.
    pub(crate) fn open_frames(&self) -> impl Iterator<Item = u64> {
        let open = self.frames.iter().take(self.depth as usize + 1);
        // SAFETY: whoever opens a frame writes its place at once.
        open.map(|frame| unsafe { frame.assume_init() })
    }
}

/// Runs program number `entry` of `programs`, which tail calls reach by these numbers, and returns `r0`.
/// If a check failed the result is 0 (`XDP_ABORTED`) and [`Env::trap`] says why.
///
/// # Safety
/// `env` must be valid, its frame live, and both used by nobody else during the run; the worker must be
/// registered with the reclaimer of the programs' maps, so that what lookups return stays valid. The
/// programs must have been compiled from facts that the analysis found for them.
pub unsafe fn run_linked(programs: &[CompiledProgram], entry: usize, env: *mut Env) -> u64 {
    let mut state = RunState::new(programs);
    // SAFETY: the caller passes a valid environment that nobody else uses; `state` outlives the run.
    unsafe {
        (*env).scratch[0] = (&raw mut state).expose_provenance() as u64;
        let outcome = dispatch(env, &raw mut state, entry);
        (*env).scratch[0] = 0;
        // The programs hold their maps, and the worker its inner maps.
        (*env).end();
        outcome.value
    }
}

/// What hears of the runs of a burst.
pub trait Outcomes {
    /// A run was ended: [`Env::trap_reason`] says why. [`Outcomes::returned`] follows, with 0.
    fn trapped(&mut self, env: &Env);

    /// The run on frame number `n` of the burst returned `value`. The frame is as the program left it, and the
    /// environment's [`Env::redirect`] is the run's.
    fn returned(&mut self, n: usize, frame: &mut FrameRef<'_>, env: &Env, value: u64);
}

/// Runs program number `entry` on each frame as [`run_linked`] does, [`Env::begin`] included. `lookahead` is the worker's
/// own.
///
/// # Safety
/// As [`run_linked`], for each frame.
#[inline]
pub unsafe fn run_burst(
    programs: &[CompiledProgram],
    entry: usize,
    env: &mut Env,
    lookahead: &mut Lookahead,
    frames: &mut [FrameRef<'_>],
    outcomes: &mut impl Outcomes,
) {
    let mut state = RunState::new(programs);
    let state = &raw mut state;
    let env = &raw mut *env;
    let program = programs.get(entry);
    let code = program.map_or(no_program as Entry, CompiledProgram::entry);
    let holds = program.is_some_and(|program| program.context().holds);
    let ahead = program.and_then(CompiledProgram::ahead);
    // SAFETY: the environment is borrowed for the whole burst, and the state lives as long. The code was
    // compiled for this signature, and changes frames as the `adjust_*` functions do; the rest is the caller's promise.
    unsafe {
        (*env).scratch[0] = state.expose_provenance() as u64;
        for (first, frames) in (0..).step_by(BURST).zip(frames.chunks_mut(BURST)) {
            let trial = ahead.map(|ahead| {
                let trial = lookahead.begin(frames.len());
                if trial.look {
                    lookahead.announce(ahead, env, state, frames);
                }
                trial
            });
            (*env).begin(FramePlace::NOWHERE);
            (*state).frames[0].write(0);
            let (mut n, mut frames) = (first, frames);
            while let Some((frame, others)) = frames.split_first_mut() {
                if let Some(next) = others.first() {
                    next.prefetch();
                }
                let place = frame.place();
                (*env).begin_next(place);
                let mut ended = code(env, place.address());
                if (*env).ended_plainly() {
                    if holds {
                        // The programs hold their maps, and the worker its inner maps.
                        (*env).end();
                    }
                } else {
                    ended = end_otherwise(env, state, ended);
                    if (*env).trap != 0 {
                        outcomes.trapped(&*env);
                    }
                    (*env).forget();
                    (*state).frames[0].write(0);
                }
                outcomes.returned(n, frame, &*env, ended.value);
                (n, frames) = (n + 1, others);
            }
            if let Some(trial) = trial {
                lookahead.end(trial, n - first);
            }
        }
        (*env).scratch[0] = 0;
    }
}

/// Ends a run that made tail calls, the last of which may be still to be followed, or whose check failed, perhaps in the
/// midst of calls. The value is 0 in the latter case.
///
/// # Safety
/// As [`run_linked`]; `state` is the run's own.
#[cold]
unsafe fn end_otherwise(env: *mut Env, state: *mut RunState, mut ended: Outcome) -> Outcome {
    // SAFETY: the caller's.
    unsafe {
        if ended.status == Outcome::TAIL_CALL {
            ended = dispatch(env, state, (*env).next_program as usize);
        }
        ((*state).depth, (*state).deepest) = (0, MAX_CALLS);
        (*env).end();
        if (*env).trap != 0 {
            ended.value = 0;
        }
    }
    ended
}

/// Stands for a program that is not there.
///
/// # Safety
/// The environment must be valid, and nobody else's during the call.
unsafe extern "C" fn no_program(env: *mut Env, _frame: *mut Frame) -> Outcome {
    // SAFETY: the caller's.
    unsafe {
        (*env).trap = TrapReason::TailCall as u32;
        (*env).trap_slot = 0;
    }
    Outcome {
        value: 0,
        status: Outcome::TRAPPED,
    }
}

/// Runs the callback of a timer, if its element is still there. A failed check is left in [`Env::trap`].
///
/// # Safety
/// As [`run_linked`]; `due` is of these timers, whose maps are the programs'.
pub unsafe fn run_timer(programs: &[CompiledProgram], env: *mut Env, timers: &Timers, due: &Due) {
    // SAFETY: the caller passes a valid environment that nobody else uses.
    let env = unsafe { &mut *env };
    let mut nothing = Frame::EMPTY;
    env.begin(FramePlace::of(&mut nothing));
    let mut owners = programs.iter();
    let program = owners.find(|program| program.owner() == due.callback.owner);
    let callback = program.and_then(|program| program.callback(due.callback.slot));
    let Some((callback, [map, key, value])) = callback.zip(timers.arguments(due, env)) else {
        return;
    };
    let mut state = RunState::new(programs);
    env.scratch[0] = (&raw mut state).expose_provenance() as u64;
    // SAFETY: the code was compiled for this signature, from facts that hold for a map with timers, a key
    // and a value of it; the rest is the caller's promise.
    unsafe {
        callback(env, map, key, value, 0, 0);
        env.scratch[0] = 0;
        env.end();
    }
}

/// Runs a program and those it tail-calls, until one returns.
///
/// # Safety
/// As [`run_linked`]; `state` is the run's own.
unsafe fn dispatch(env: *mut Env, state: *mut RunState, mut program: usize) -> Outcome {
    loop {
        // SAFETY: the state holds the slice that `run_linked` borrows for the whole run.
        let programs = unsafe { std::slice::from_raw_parts((*state).programs, (*state).count) };
        let Some(compiled) = programs.get(program) else {
            // SAFETY: the environment is valid and ours.
            return unsafe { no_program(env, (*env).frame_place().address()) };
        };
        // SAFETY: the state is this run's; the code was compiled for this signature, and its requirements
        // are the caller's promise. `depth` is below the number of frames: calls check it.
        let outcome = unsafe {
            let depth = (*state).depth as usize;
            (*state).frames[depth].write(0);
            (compiled.entry())(env, (*env).frame_place().address())
        };
        if outcome.status != Outcome::TAIL_CALL {
            return outcome;
        }
        // SAFETY: the environment is valid and ours.
        program = unsafe { (*env).next_program as usize };
    }
}

/// A tail call in a subprogram: the new program replaces the subprogram alone, and returns to its caller.
///
/// # Safety
/// Called by compiled code only, during a run.
pub(crate) unsafe extern "C" fn nested_tail_call(env: *mut Env) -> Outcome {
    // SAFETY: during a run the first scratch word is the address of the run's state.
    unsafe {
        let state: *mut RunState =
            std::ptr::with_exposed_provenance_mut((*env).scratch[0] as usize);
        let deepest = (*state).deepest;
        (*state).deepest = (*state).depth + MAX_CALLS;
        let outcome = dispatch(env, state, (*env).next_program as usize);
        (*state).deepest = deepest;
        outcome
    }
}
