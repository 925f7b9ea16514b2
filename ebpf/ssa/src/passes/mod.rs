//! The passes, their names and their order.

mod dead;
mod fold;
mod forward;
mod lookup;
mod merge;
mod params;
mod rewrite;
mod simplify;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use squalus_maps::Map;

use crate::ir::Function;

/// A pass that can be switched off by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    /// Bytes of the stack become values. Done when the code is built.
    Stack,
    /// Hot blocks are built apart from the others. Done when the code is built.
    Hot,
    /// Simpler operations, one value for equal ones, no branch on what is known.
    Simplify,
    /// Loads of neighbouring bytes become one.
    Merge,
    /// What was stored or loaded before is not loaded again.
    Forward,
    /// Lookups in hashes are done in line.
    Lookup,
}

impl Pass {
    /// All passes.
    pub const ALL: [Pass; 6] = [
        Pass::Stack,
        Pass::Hot,
        Pass::Simplify,
        Pass::Merge,
        Pass::Forward,
        Pass::Lookup,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Pass::Stack => "stack",
            Pass::Hot => "hot",
            Pass::Simplify => "simplify",
            Pass::Merge => "merge",
            Pass::Forward => "forward",
            Pass::Lookup => "lookup",
        }
    }
}

/// A set of passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Passes(u32);

impl Passes {
    /// All of them.
    pub const ALL: Passes = Passes(u32::MAX);
    /// None of them.
    pub const NONE: Passes = Passes(0);

    /// The set with one more.
    #[must_use]
    pub const fn with(self, pass: Pass) -> Passes {
        Passes(self.0 | 1 << pass as u32)
    }

    /// The set with one less.
    #[must_use]
    pub const fn without(self, pass: Pass) -> Passes {
        Passes(self.0 & !(1 << pass as u32))
    }

    /// Whether a pass is in the set.
    #[must_use]
    pub const fn has(self, pass: Pass) -> bool {
        self.0 & 1 << pass as u32 != 0
    }
}

impl Default for Passes {
    fn default() -> Passes {
        Passes::ALL
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no pass of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPass(pub String);

impl fmt::Display for UnknownPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Pass::ALL.iter().map(|pass| pass.name()).collect();
        write!(
            f,
            "there is no pass `{}`; passes are: {}",
            self.0,
            names.join(", ")
        )
    }
}

impl std::error::Error for UnknownPass {}

impl FromStr for Pass {
    type Err = UnknownPass;

    fn from_str(name: &str) -> Result<Pass, UnknownPass> {
        let found = Pass::ALL.into_iter().find(|pass| pass.name() == name);
        found.ok_or_else(|| UnknownPass(name.to_owned()))
    }
}

/// Runs passes over a function that was built. `each` sees the function after each.
pub fn optimize(
    function: &mut Function,
    maps: &[Arc<Map>],
    wanted: Passes,
    mut each: impl FnMut(&str, &Function),
) {
    params::run(function);
    each("params", function);
    let mut run = |pass: Pass, work: &dyn Fn(&mut Function), function: &mut Function| {
        if wanted.has(pass) {
            work(function);
            each(pass.name(), function);
        }
    };
    let lookup = |function: &mut Function| lookup::run(function, maps);
    run(Pass::Simplify, &simplify_all, function);
    run(Pass::Forward, &forward::run, function);
    run(Pass::Merge, &merge::run, function);
    run(Pass::Lookup, &lookup, function);
    run(Pass::Simplify, &simplify_all, function);
    dead::run(function);
    each("dead", function);
}

fn simplify_all(function: &mut Function) {
    simplify::run(function);
    params::run(function);
}
