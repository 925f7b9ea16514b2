//! The seam between our SSA and whoever makes machine code of it.
//!
//! Everything that is known of eBPF, of maps and of facts is used up before this point: a backend sees
//! numbers, addresses and calls, and needs no knowledge of ours. So a second one stays cheap.

use std::fmt;

use squalus_ssa::ir::Function;

use crate::code_map::Origin;

/// One program, after all passes.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// The functions by number, the program's own first; none for those that are never reached.
    pub functions: &'a [Option<Function>],
    /// Addresses of the maps, by their index in the program.
    pub maps: &'a [usize],
    /// What code calls that no instruction names.
    pub calls: Calls,
    /// Whether jumps shall be as short as they can be.
    pub relax: bool,
    /// Whether the texts of [`Code`] are wanted.
    pub keep_text: bool,
}

/// Addresses of functions with C's calling convention that instructions stand for.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// `(env, map, key, 0, 0, 0) -> address`: a lookup that is left ([`squalus_ssa::ir::Op::Lookup`]).
    pub lookup: usize,
    /// `(env, context, map, index, 0, 0) -> taken`: decides a tail call.
    pub resolve_tail_call: usize,
    /// `(env) -> (r0, status)`: runs the program that a subprogram has called in its tail.
    pub nested_tail_call: usize,
}

/// Machine code of one program. It holds addresses, and can stand anywhere itself.
#[derive(Clone, Debug, Default)]
pub struct Code {
    /// The code.
    pub bytes: Vec<u8>,
    /// Where the functions start; anywhere for those that are never reached.
    pub starts: Vec<usize>,
    /// Where they end.
    pub ends: Vec<usize>,
    /// The backend's own intermediate code before its optimizations, if wanted.
    pub intermediate: String,
    /// Which bytes come from which eBPF instruction, in order, if wanted.
    pub origins: Vec<Origin>,
}

/// A function that no code could be made of.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Which.
    pub func: usize,
    /// Why.
    pub reason: String,
}

/// Makes machine code.
///
/// Functions are called with C's calling convention. Those without parameters of their own have the environment and
/// its frame as their parameters, others the environment and `r1` to `r5`; all return `r0` and a status in two
/// registers: 0 if they returned, 1 if a check failed (then the environment holds the reason and the slot, and `r0`
/// is 0), 2 if the program is to be replaced by the environment's next one.
///
/// # Safety
/// The code must do what the functions say and nothing else.
pub unsafe trait Backend: fmt::Debug + Send + Sync {
    /// Translates a program.
    ///
    /// # Errors
    /// If it cannot.
    fn generate(&self, module: &Module<'_>) -> Result<Code, Refused>;
}
