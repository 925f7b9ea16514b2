//! Abstract interpretation: facts about every instruction.
//!
//! [`analyse`] runs a program on sets of values instead of values. A [`State`] says what registers and
//! stack slots can hold at one place of the program: numbers by known bits and ranges ([`Scalar`]),
//! pointers by region and offset ([`Value`]), and how far the packet is known to reach. Where paths meet,
//! states are joined, and loops are gone round until nothing changes; bounds that keep growing are
//! widened, so that every analysis ends, whatever the program.
//!
//! Two promises hold whatever the program. *Soundness*: no fact is ever false in an execution; compiled
//! code leaves out checks because of them. *Totality*: what cannot be proved is no error but an access to
//! be checked at run time ([`Access::Checked`]). Refused is only what no execution can do rightly, such as
//! a store into the context.
//!
//! What makes this hard, and how it is done:
//! - *Packet bounds* hold for pointers related to the compared one: see [`State`].
//! - *Pointers that can be null* are so together with their copies: they share a [`Name`].
//! - *Places depend on each other*: a pointer is set only where a number says so. Blocks keep the states of
//!   different paths apart, at first those with other kinds of values, at last as many as it takes to prove
//!   everything, within limits. Facts say what holds on all
//!   paths; names in them mean nothing across registers.
//! - *Loops* end by a comparison of a counter, while the pointers that move beside it are compared with nothing:
//!   the rounds of a loop bound both, see `motion`.
//! - *Subprograms* know the frames of their callers, unless recursion gives one function several. A callee
//!   cannot change its caller's stack unless it writes through a pointer to it, or through a pointer of
//!   unknown origin; then the caller forgets its whole frame.
//! - *Checked accesses of unknown origin* may hit any live stack frame, so they make frames forgotten,
//!   while a check for an area other than the stack leaves them alone.
#![forbid(unsafe_code)]

mod arithmetic;
mod branch;
mod callbacks;
mod calls;
mod cfg;
mod compare;
mod explain;
mod facts;
mod frame;
mod join;
mod live;
mod loops;
mod machine;
mod motion;
mod nest;
mod paths;
mod scalar;
mod shape;
mod solve;
mod state;
mod value;
mod written;

pub use cfg::{Block, Cfg};
pub use compare::{Test, refine};
pub use explain::{Check, describe};
pub use facts::{Access, Area, Counts, Facts, FunctionFacts, InstFacts};
pub use scalar::Scalar;
pub use shape::Shapes;
pub use solve::{AnalysisError, Refusal, analyse};
pub use state::State;
pub use value::{Base, FuncId, Interval, MAX_OFFSET, MapRef, Name, Value};
