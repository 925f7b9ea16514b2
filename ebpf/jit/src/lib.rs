//! Facts to native code through Cranelift.
//!
//! [`compile`] turns a program and the facts that the analysis proved about it into machine code. Every
//! eBPF function becomes a native one: registers become Cranelift variables, and so do the parts of the
//! stack frame that are only used as whole words at known addresses. Context loads read the environment;
//! what is known to be constant is an immediate; branches that cannot be taken are left out.
//!
//! *Trust.* The code contains no check where the facts say an access is proved, and one everywhere else:
//! inline against the packet's bounds for packet pointers, out of line for all others. A failed check
//! stores its reason and place in the environment and returns, through all callers, before the access
//! happens. Loops and calls use up a budget, so every run ends.
//!
//! *Unsafe.* Three places: executable memory (never writable and executable at once), the checks that
//! compiled code calls, and [`run_linked`], whose caller promises that the environment is valid and that
//! programs, maps and facts belong together.

mod ahead;
mod backend;
mod checks;
mod code_map;
mod context;
mod cranelift;
mod host;
mod lower;
mod memory;
mod relax;
mod run;
mod walk;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use squalus_analysis::{Facts, FuncId};
use squalus_maps::Map;
use squalus_runtime::{Env, HelperFn, LinkedProgram, helpers};
use squalus_ssa::Input;
use squalus_ssa::ir::Function;

use memory::CodeMemory;
use run::Entry;

pub use ahead::Lookahead;
pub use backend::{Backend, Calls, Code, Module, Refused};
pub use code_map::{CodeMap, Origin};
pub use context::Context;
pub use cranelift::Cranelift;
pub use run::{Outcomes, run_burst, run_linked, run_timer};
pub use squalus_ssa::support::{Constants, MapSet, Profile};
pub use squalus_ssa::{Pass, Passes, UnknownPass, has_changed};

/// Why a program could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum JitError {
    /// This processor or system is not one that code is generated for.
    #[error("no native code for this machine: {0}; use the interpreter")]
    Host(String),
    /// The code generator refused a function.
    #[error("program `{program}`, function at instruction {slot}: {reason}")]
    Codegen {
        /// The program.
        program: String,
        /// Slot where the function starts.
        slot: usize,
        /// What the code generator said.
        reason: String,
    },
    /// The system gave no memory for code.
    #[error("no executable memory: {0}; check limits and security policies of the process")]
    Memory(#[from] io::Error),
}

/// Optional output of [`compile_with`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Keep the intermediate code, and what the machine code comes from.
    pub keep_text: bool,
    /// Compare every fact about a register with the register when an instruction is reached, and end the
    /// run with [`squalus_runtime::TrapReason::Unsupported`] if it is false. Facts are used for nothing
    /// else but accesses then. For tests of the analysis.
    pub check_facts: bool,
    /// The passes that are run.
    pub passes: Passes,
    /// What may become part of the code: contents of maps, which nobody may change from when it is made until it is
    /// used no more.
    pub constant: Constants,
    /// What makes machine code of the result.
    pub backend: &'static dyn Backend,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            keep_text: false,
            check_facts: false,
            passes: Passes::ALL,
            constant: Constants::NONE,
            backend: &Cranelift,
        }
    }
}

fn support(context: &Context) -> squalus_ssa::support::Support {
    let check = checks::check as unsafe extern "C" fn(_, _, _, _) -> _;
    let check_args = checks::check_args as unsafe extern "C" fn(_, _, _, _, _) -> _;
    let load_context = checks::load_context as unsafe extern "C" fn(_, _, _) -> _;
    let begin_walk = walk::begin_walk as unsafe extern "C" fn(_, _, _, _) -> _;
    let next_element = walk::next_element as unsafe extern "C" fn(_, _, _, _) -> _;
    squalus_ssa::support::Support {
        context: std::ptr::from_ref(context).expose_provenance(),
        check: check as usize,
        check_args: check_args as usize,
        load_context: load_context as usize,
        begin_walk: begin_walk as usize,
        next_element: next_element as usize,
        depth_offset: run::RunState::OFFSET_DEPTH,
        frames_offset: run::RunState::OFFSET_FRAMES,
        deepest_offset: run::RunState::OFFSET_DEEPEST,
    }
}

/// What code is to be like.
#[derive(Clone, Copy, Debug, Default)]
pub enum Tier<'a> {
    /// Nothing is known of how it will run.
    #[default]
    Plain,
    /// It counts how often each block runs ([`Context::profile`]).
    Counted,
    /// Good for how it ran before.
    Hot(&'a Profile),
}

impl<'a> Tier<'a> {
    fn profile(self) -> Option<&'a Profile> {
        match self {
            Tier::Hot(profile) => Some(profile),
            Tier::Plain | Tier::Counted => None,
        }
    }
}

/// A program as machine code.
pub struct CompiledProgram {
    code: CodeMemory,
    entry: usize,
    /// Where the code starts that announces the program's lookups, if there is any.
    ahead: Option<usize>,
    /// Where the code of functions starts that timers may call, by their slots.
    callbacks: Vec<(usize, usize)>,
    text: Option<Text>,
    ssa_time: Duration,
    context: Arc<Context>,
}

struct Text {
    ssa: Vec<(String, Function)>,
    map: CodeMap,
    clif: String,
}

impl CompiledProgram {
    /// Runs this program alone: tail calls reach only itself, as number 0. Returns `r0`, or 0 if a check
    /// failed ([`Env::trap`]).
    ///
    /// # Safety
    /// As [`run_linked`].
    pub unsafe fn run(&self, env: *mut Env) -> u64 {
        // SAFETY: the caller's.
        unsafe { run_linked(std::slice::from_ref(self), 0, env) }
    }

    /// Bytes of machine code.
    #[must_use]
    pub fn code_len(&self) -> usize {
        self.code.len()
    }

    /// The part of the compile time that went into making SSA and optimizing it.
    #[must_use]
    pub fn ssa_time(&self) -> Duration {
        self.ssa_time
    }

    /// The machine code.
    #[must_use]
    pub fn code(&self) -> &[u8] {
        self.code.bytes()
    }

    /// What the machine code comes from, if it was kept.
    #[must_use]
    pub fn map(&self) -> Option<&CodeMap> {
        self.text.as_ref().map(|text| &text.map)
    }

    /// The program as SSA, function by function, as it was built and after each pass, with the pass' name; if
    /// it was kept.
    #[must_use]
    pub fn ssa(&self) -> Option<&[(String, Function)]> {
        self.text.as_ref().map(|text| &*text.ssa)
    }

    /// The code generator's intermediate code before optimization, if it was kept.
    #[must_use]
    pub fn clif(&self) -> Option<&str> {
        self.text.as_ref().map(|text| &*text.clif)
    }

    /// What it has in common with other code of the same program.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Whether the lookups of a burst can be announced before it is run ([`run_burst`]).
    #[must_use]
    pub fn announces(&self) -> bool {
        self.ahead.is_some()
    }

    /// What timers know the program by.
    fn owner(&self) -> u64 {
        std::ptr::from_ref(&*self.context).addr() as u64
    }

    /// The code of a function that timers may call.
    fn callback(&self, slot: usize) -> Option<run::Function> {
        let (_, start) = self.callbacks.iter().find(|(own, _)| *own == slot)?;
        // SAFETY: at this offset starts the code of a function other than the first, generated with this
        // signature and the host's C calling convention; the memory lives as long as `self`.
        Some(unsafe { std::mem::transmute::<*const u8, run::Function>(self.code.at(*start)) })
    }

    #[inline]
    fn entry(&self) -> Entry {
        // SAFETY: at this offset starts the code of the program's first function, generated with this
        // signature and the host's C calling convention; the memory lives as long as `self`.
        unsafe { std::mem::transmute::<*const u8, Entry>(self.code.at(self.entry)) }
    }

    /// The code that announces the program's lookups.
    fn ahead(&self) -> Option<Entry> {
        let start = self.ahead?;
        // SAFETY: as in `entry`, with the function at this offset.
        Some(unsafe { std::mem::transmute::<*const u8, Entry>(self.code.at(start)) })
    }
}

impl std::fmt::Debug for CompiledProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledProgram")
            .field("code_len", &self.code.len())
            .finish_non_exhaustive()
    }
}

/// Compiles a program. `facts` must be what [`squalus_analysis::analyse`] found for this very program.
///
/// # Errors
/// If the machine is not supported, the code generator refuses, or memory is short.
pub fn compile(program: &LinkedProgram, facts: &Facts) -> Result<CompiledProgram, JitError> {
    compile_with(program, facts, Options::default())
}

/// As [`compile`], with options.
///
/// # Errors
/// As [`compile`].
pub fn compile_with(
    program: &LinkedProgram,
    facts: &Facts,
    options: Options,
) -> Result<CompiledProgram, JitError> {
    let context = Context::new(program, facts, 1);
    compile_tier(program, facts, &context, options, Tier::Plain)
}

/// Compiles a program once more: `context` is the program's.
///
/// # Errors
/// As [`compile`].
pub fn compile_tier(
    program: &LinkedProgram,
    facts: &Facts,
    context: &Arc<Context>,
    options: Options,
    tier: Tier<'_>,
) -> Result<CompiledProgram, JitError> {
    let support = support(context);
    let input = Input {
        program,
        facts,
        support: &support,
        profile: tier.profile().filter(|_| options.passes.has(Pass::Hot)),
        counts: matches!(tier, Tier::Counted).then(|| context.counters()),
        stack: options.passes.has(Pass::Stack),
        helpers: options.passes.has(Pass::Helpers),
        counts_depth: squalus_ssa::counts_depth(program, facts),
        check_facts: options.check_facts,
    };
    let mut ssa = Vec::new();
    let start = Instant::now();
    let (functions, ahead) = functions(input, options, &mut ssa)?;
    let ssa_time = start.elapsed();
    let maps: Vec<usize> = context.maps.iter().map(address).collect();
    let module = Module {
        functions: &functions,
        maps: &maps,
        calls: calls(),
        relax: options.passes.has(Pass::Relax),
        keep_text: options.keep_text,
    };
    let code = options.backend.generate(&module);
    let code = code.map_err(|refused| JitError::Codegen {
        program: program.name().to_owned(),
        slot: program
            .subprograms()
            .get(refused.func)
            .map_or(0, |f| f.start),
        reason: refused.reason,
    })?;
    Ok(CompiledProgram {
        entry: code.starts[0],
        ahead: ahead.map(|func| code.starts[func]),
        callbacks: callbacks(program, facts, &code),
        code: CodeMemory::new(&code.bytes)?,
        text: options.keep_text.then(|| Text {
            ssa,
            map: CodeMap::new(&functions, &context.maps, module.calls, &code),
            clif: code.intermediate,
        }),
        ssa_time,
        context: Arc::clone(context),
    })
}

/// All functions of a program after all passes, and which of them announces lookups: one behind the program's own.
fn functions(
    input: Input<'_>,
    options: Options,
    text: &mut Vec<(String, Function)>,
) -> Result<(Vec<Option<Function>>, Option<usize>), JitError> {
    let cfg = input.facts.cfg();
    let reached = |func: FuncId| input.facts.entry(cfg.entry(func)).is_some();
    let build = |func| reached(func).then(|| squalus_ssa::build(input, func));
    let mut functions: Vec<_> = (0..cfg.functions() as FuncId).map(build).collect();
    for function in functions.iter().flatten() {
        keep(input, options, text, "build", function)?;
    }
    let (wanted, hot) = (options.passes.has(Pass::Inline), input.profile.is_some());
    squalus_ssa::inline(&mut functions, input.facts, wanted, hot);
    let mut announcing = None;
    for function in functions.iter_mut().flatten() {
        keep(input, options, text, Pass::Inline.name(), function)?;
        announcing = announcing.or(optimize(input, function, options, text)?);
    }
    // Each function from beginning to end.
    text.sort_by_key(|(_, function)| function.id);
    let ahead = announcing.as_ref().map(|_| functions.len());
    functions.extend(announcing.map(Some));
    Ok((functions, ahead))
}

/// Keeps what a function is after a pass if that is wanted, and has it verified then or in tests.
fn keep(
    input: Input<'_>,
    options: Options,
    text: &mut Vec<(String, Function)>,
    pass: &str,
    function: &Function,
) -> Result<(), JitError> {
    if options.keep_text {
        text.push((pass.to_owned(), function.clone()));
    }
    if !options.keep_text && !cfg!(debug_assertions) {
        return Ok(());
    }
    squalus_ssa::verify(function).map_err(|error| JitError::Codegen {
        program: input.program.name().to_owned(),
        slot: input.program.subprograms()[function.id as usize].start,
        reason: format!("the code is malformed after `{pass}`: {error}"),
    })
}

/// Where the code of functions starts that timers may call, by their slots.
fn callbacks(program: &LinkedProgram, facts: &Facts, code: &Code) -> Vec<(usize, usize)> {
    let place = |&func: &FuncId| {
        let slot = program.subprograms()[func as usize].start;
        (slot, code.starts[func as usize])
    };
    facts.timer_callbacks().iter().map(place).collect()
}

fn address(map: &Arc<Map>) -> usize {
    Arc::as_ptr(map).expose_provenance()
}

fn calls() -> Calls {
    let lookup: HelperFn = helpers::map_lookup_elem;
    let resolve: HelperFn = helpers::resolve_tail_call;
    let nested = run::nested_tail_call as unsafe extern "C" fn(_) -> _;
    Calls {
        lookup: lookup as usize,
        resolve_tail_call: resolve as usize,
        nested_tail_call: nested as usize,
    }
}

/// Runs all passes over a function, and gives the one that announces its lookups. What it was after each of them
/// goes to `text` if that is kept.
fn optimize(
    input: Input<'_>,
    function: &mut Function,
    options: Options,
    text: &mut Vec<(String, Function)>,
) -> Result<Option<Function>, JitError> {
    let mut result = Ok(());
    let each = |pass: &str, function: &Function| {
        if result.is_ok() {
            result = keep(input, options, text, pass, function);
        }
    };
    let (maps, constant) = (input.program.maps(), options.constant);
    let look_ahead = match function.id {
        0 => ahead::look_ahead as unsafe extern "C" fn(_, _, _, _) -> _ as usize,
        _ => 0,
    };
    let passes = options.passes;
    let ahead = squalus_ssa::optimize(function, maps, constant, passes, look_ahead, each);
    result.map(|()| ahead)
}
