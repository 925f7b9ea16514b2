//! The passes, their names and their order.

mod choose;
mod combine;
mod dead;
mod fold;
mod forward;
mod hoist;
mod idioms;
mod layout;
mod lookup;
mod loops;
mod merge;
mod narrow;
mod params;
mod place;
mod prefetch;
mod promote;
mod rewrite;
mod rounds;
mod simplify;
mod special;
mod straight;
mod switch;
mod thread;
mod unroll;
mod vector;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use squalus_maps::Map;

use crate::ir::Function;
use crate::support::Constants;
pub(crate) use rewrite::Aliases;
use special::Special;

/// A pass that can be switched off by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    /// Bytes of the stack become values. Done when the code is built.
    Stack,
    /// Small helpers become instructions. Done when the code is built.
    Helpers,
    /// Hot blocks are built apart from the others. Done when the code is built.
    Hot,
    /// Functions become parts of those that call them.
    Inline,
    /// Simpler operations, one value for equal ones, no branch on what is known.
    Simplify,
    /// Loops with few rounds are written out.
    Unroll,
    /// Numbers that are added up are loaded and added two at a time.
    Vector,
    /// Bytes of stack frames that are still memory become values.
    Promote,
    /// Loads of neighbouring bytes become one.
    Merge,
    /// Stores of neighbouring bytes become one.
    Combine,
    /// What was stored or loaded before is not loaded again.
    Forward,
    /// Lookups in hashes are done in line.
    Lookup,
    /// What maps hold that nobody changes becomes part of the code.
    Special,
    /// What loops use of the environment is loaded before them.
    Hoist,
    /// Blocks come in an order that suits the code generator.
    Layout,
    /// A function beside the program's announces what it will look up.
    Prefetch,
    /// Jumps in machine code are as short as they can be. Done when that is finished.
    Relax,
}

impl Pass {
    /// All passes.
    pub const ALL: [Pass; 17] = [
        Pass::Stack,
        Pass::Helpers,
        Pass::Hot,
        Pass::Inline,
        Pass::Simplify,
        Pass::Unroll,
        Pass::Vector,
        Pass::Promote,
        Pass::Merge,
        Pass::Combine,
        Pass::Forward,
        Pass::Lookup,
        Pass::Special,
        Pass::Hoist,
        Pass::Layout,
        Pass::Prefetch,
        Pass::Relax,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Pass::Stack => "stack",
            Pass::Helpers => "helpers",
            Pass::Hot => "hot",
            Pass::Inline => "inline",
            Pass::Simplify => "simplify",
            Pass::Unroll => "unroll",
            Pass::Vector => "vector",
            Pass::Promote => "promote",
            Pass::Merge => "merge",
            Pass::Combine => "combine",
            Pass::Forward => "forward",
            Pass::Lookup => "lookup",
            Pass::Special => "special",
            Pass::Hoist => "hoist",
            Pass::Layout => "layout",
            Pass::Prefetch => "prefetch",
            Pass::Relax => "relax",
        }
    }

    /// What it does, in a few words.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Pass::Stack => "bytes of the stack become values",
            Pass::Helpers => "small helpers become instructions",
            Pass::Hot => "blocks that are run often get code of their own",
            Pass::Inline => "functions become parts of those that call them",
            Pass::Promote => "bytes of the stack that are still memory become values",
            Pass::Simplify => {
                "simpler operations, equal ones only once, no branch on what is known"
            }
            Pass::Unroll => "loops that copy, fill or add up are written out",
            Pass::Vector => "what is added up is loaded and added two at a time",
            Pass::Merge => "loads of neighbouring bytes become one",
            Pass::Combine => "stores of neighbouring bytes become one",
            Pass::Forward => "what was stored or loaded before is not loaded again",
            Pass::Lookup => "hashes are searched without a call",
            Pass::Special => "what maps hold that nobody changes becomes part of the code",
            Pass::Hoist => "what loops use of the environment is loaded before them",
            Pass::Layout => "blocks come in an order that suits the code generator",
            Pass::Prefetch => "lookups in session tables are announced for whole bursts",
            Pass::Relax => "jumps in machine code are as short as they can be, loops aligned",
        }
    }
}

/// A set of passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Passes(u32);

impl Passes {
    /// All of them.
    pub const ALL: Passes = Passes((1 << Pass::ALL.len()) - 1);
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

impl FromStr for Passes {
    type Err = UnknownPass;

    /// Names with commas between them: these passes, or with a minus before each name all but these. `all` and
    /// `none` stand for sets, so that `all,-hot` is as `-hot`.
    fn from_str(list: &str) -> Result<Passes, UnknownPass> {
        let mut passes = match list.starts_with('-') {
            true => Passes::ALL,
            false => Passes::NONE,
        };
        for word in list.split(',') {
            passes = match (word, word.strip_prefix('-')) {
                ("all", _) => Passes::ALL,
                ("none", _) => Passes::NONE,
                (_, Some(name)) => passes.without(name.parse()?),
                (name, None) => passes.with(name.parse()?),
            };
        }
        Ok(passes)
    }
}

impl fmt::Display for Passes {
    /// As [`Passes::from_str`] reads it, the shorter way.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (on, off): (Vec<Pass>, Vec<Pass>) =
            Pass::ALL.into_iter().partition(|pass| self.has(*pass));
        let list = |sign: &str, passes: &[Pass]| {
            let names = passes.iter().map(|pass| format!("{sign}{pass}"));
            names.collect::<Vec<_>>().join(",")
        };
        match (&*on, &*off) {
            (_, []) => f.write_str("all"),
            ([], _) => f.write_str("none"),
            (on, off) if on.len() <= off.len() => f.write_str(&list("", on)),
            (_, off) => write!(f, "all,{}", list("-", off)),
        }
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
        let UnknownPass(name) = self;
        write!(f, "there is no pass `{name}`; passes are:")?;
        for pass in Pass::ALL {
            write!(f, "\n  {:<10} {}", pass.name(), pass.about())?;
        }
        Ok(())
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

/// Runs passes over a function that was built. `each` sees the function after each. What `constant`
/// names stays as it is as long as the result is used.
///
/// Gives the function that announces lookups, if there is one: it calls the function at the address `look_ahead`
/// with a map, the address of a key, and how many bytes can be read there.
pub fn optimize(
    function: &mut Function,
    maps: &[Arc<Map>],
    constant: Constants,
    wanted: Passes,
    look_ahead: usize,
    mut each: impl FnMut(&str, &Function),
) -> Option<Function> {
    params::run(function);
    each("params", function);
    let mut run = |pass: Pass, work: &mut dyn FnMut(&mut Function), function: &mut Function| {
        if wanted.has(pass) && (pass != Pass::Special || constant != Constants::NONE) {
            work(function);
            each(pass.name(), function);
        }
    };
    let mut special = Special::new(maps, constant);
    let mut special = |function: &mut Function| {
        special.run(function);
        simplify_all(function);
    };
    let mut lookup = |function: &mut Function| lookup::run(function, maps);
    let mut promote = |function: &mut Function| {
        if promote::run(function) {
            simplify_all(function);
        }
    };
    run(Pass::Simplify, &mut simplify_all, function);
    run(Pass::Unroll, &mut unroll, function);
    run(Pass::Promote, &mut promote, function);
    // What was read from one map says where to read in another.
    run(Pass::Special, &mut special, function);
    run(Pass::Special, &mut special, function);
    run(Pass::Forward, &mut forward::run, function);
    run(Pass::Merge, &mut merge::run, function);
    let mut slice = match wanted.has(Pass::Prefetch) {
        true => prefetch::slice(function, look_ahead),
        false => None,
    };
    run(Pass::Lookup, &mut lookup, function);
    run(Pass::Special, &mut special, function);
    run(Pass::Vector, &mut vector::run, function);
    run(Pass::Combine, &mut combine::run, function);
    let mut simplify = |function: &mut Function| {
        narrow::run(function);
        simplify_all(function);
    };
    run(Pass::Simplify, &mut simplify, function);
    run(Pass::Hoist, &mut hoist::run, function);
    dead::run(function);
    each("dead", function);
    if wanted.has(Pass::Layout) {
        layout::run(function);
        each(Pass::Layout.name(), function);
    }
    if let Some(slice) = &mut slice {
        if wanted.has(Pass::Lookup) {
            lookup::run(slice, maps);
        }
        if wanted.has(Pass::Simplify) {
            simplify_all(slice);
        }
        dead::run(slice);
        each(Pass::Prefetch.name(), slice);
    }
    slice
}

fn unroll(function: &mut Function) {
    if unroll::run(function) {
        simplify_all(function);
    }
}

fn simplify_all(function: &mut Function) {
    simplify::run(function);
    thread::run(function);
    params::run(function);
    straight::run(function);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn sets_are_read_as_they_are_written() {
        for (list, passes) in [
            ("all", Passes::ALL),
            ("none", Passes::NONE),
            ("merge,hot", Passes::NONE.with(Pass::Hot).with(Pass::Merge)),
            ("-hot", Passes::ALL.without(Pass::Hot)),
            (
                "all,-hot,-stack",
                Passes::ALL.without(Pass::Hot).without(Pass::Stack),
            ),
        ] {
            assert_eq!(list.parse(), Ok(passes), "{list}");
            assert_eq!(passes.to_string().parse(), Ok(passes), "{list}");
        }
        assert_eq!(Passes::ALL.without(Pass::Hot).to_string(), "all,-hot");
    }

    #[test]
    fn who_asks_for_an_unknown_pass_learns_which_there_are() {
        let error = "all,-outline".parse::<Passes>().unwrap_err().to_string();
        assert!(error.starts_with("there is no pass `outline`"), "{error}");
        for pass in Pass::ALL {
            assert!(error.contains(&format!("\n  {:<10} {}", pass.name(), pass.about())));
        }
        assert!("".parse::<Passes>().is_err());
    }
}
