//! What every userspace engine shares: the packet buffer, the environment of a worker, the helpers and
//! their prototypes, and programs ready to run.
//!
//! An engine executes the instructions of a [`LinkedProgram`] over an [`Env`]. Whatever it does itself
//! must agree with what is here: which context loads exist ([`ctx_field`]), what a helper takes
//! ([`proto`]) and which reasons end a run ([`TrapReason`]). Helpers are plain `extern "C"` functions, so
//! that generated code and the interpreter call the very same ones.
//!
//! Map pointers in registers are addresses of [`squalus_maps::Map`]; map values are where the map keeps
//! them.

mod arg;
pub mod asm;
mod callback;
mod clock;
mod csum;
mod ctx;
mod env;
mod fib;
mod format;
mod frame;
mod held;
pub mod helpers;
mod map_use;
mod memory;
mod program;
mod proto;
mod redirect;
mod refused;
mod siphash;
mod timers;
mod trace;
mod trap;

pub use arg::{ArgKind, ArgLen, ArgMemory, MAX_ARG_SIZE, Usage};
pub use callback::{
    Iterates, LentKeys, MAX_LENT_KEY, MAX_LOOPS, Walk, function_address, loop_rounds,
};
pub use clock::{Clock, ClockId, Rng};
pub use csum::{csum_diff, csum_partial};
pub use ctx::{CtxField, ctx_field};
pub use env::{DEFAULT_BUDGET, Env, MAX_CALL_FRAMES, MAX_OPEN_FRAMES, MAX_TAIL_CALLS, STACK_SIZE};
pub use fib::{
    Fib, FibAnswer, FibCell, FibLink, FibMacs, FibOutcome, FibQuery, FibReader, FibRoute, FibTable,
    Mac,
};
pub use frame::{
    Frame, FrameError, FrameMemory, FramePlace, FrameRef, MIN_FRAME, PACKET_HEADROOM,
    RESERVED_HEAD, RESERVED_TAIL, TEST_RUN_MAX, TEST_RUN_MAX_FRAGMENTED, TEST_RUN_PAGE,
};
pub use held::{Held, MAX_RECORDS, Record};
pub use map_use::{holds_const_str, touches_fields};
pub use program::{LinkError, LinkedProgram, POISON_HELPER, Reject, SourceLine, Subprogram};
pub use proto::{HelperFn, Proto, RetKind, proto, protos};
pub use redirect::Redirect;
pub use refused::why_refused;
pub use timers::{Callback, Due, Timers};
pub use trace::TraceLog;
pub use trap::{Trap, TrapReason};
