//! The same operations on our maps and on the kernel's, through the bpf(2) system call: results and error
//! numbers must be equal.
//!
//! Needs root (CAP_BPF); says so and passes where it has none. `SQUALUS_CASES=100` runs a hundred times as
//! many random cases.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod creation;
mod elements;
mod lru;
mod pair;
mod redirection;
mod references;
mod sys;

use common::def;
use squalus_isa::MapType;

fn kernel_available() -> bool {
    sys::available(&def(MapType::Array, 4, 4, 1))
}
