//! eBPF programs as SSA.
#![forbid(unsafe_code)]
mod build;
mod dominators;
mod inline;
pub mod ir;
mod passes;
mod print;
pub mod support;
mod uses;
mod verify;

pub use build::{Counters, Input, build, counts_depth, has_changed};
pub use dominators::Dominators;
pub use inline::inline;
pub use passes::{Pass, Passes, UnknownPass, optimize};
pub use verify::{Malformed, verify};
