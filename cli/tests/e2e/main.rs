//! The commands as users type them, through the real binaries, in network namespaces of their own.
//!
//! Needs root; without, each test says on standard error that it is skipped.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod commands;
mod demo;
mod prog;
mod refusals;
mod support;
