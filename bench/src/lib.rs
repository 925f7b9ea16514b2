//! Experiments: engines side by side on the same object and the same packets.
//!
//! Every figure is meant for a ratio: what is compared runs in one process, on one pinned core, in turns, and
//! the median of many rounds counts. The report says how busy the machine was besides.
#![forbid(unsafe_code)]

pub mod ablation;
pub mod engines;
pub mod exec;
mod machine;
pub mod micro;

pub use machine::Machine;
