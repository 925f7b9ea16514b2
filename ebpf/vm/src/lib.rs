#![doc = include_str!("../README.md")]

mod access;
mod error;
mod events;
mod host;
mod native;
mod pins;
mod redirect;
mod shared;
mod slot;
mod source;
mod special;
mod tier;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use squalus_engine::{Engine, EngineError, MapAccess, MapRef, TestResult, TestRun};
pub use squalus_isa::{
    Errno, HelperId, Insn, MapDef, MapFlags, MapType, MemSize, UpdateFlags, Verdict,
};
pub use squalus_jit::{Pass, Passes};
pub use squalus_maps::{Cursor, PerfRecord};
pub use squalus_object::Object;
pub use squalus_runtime::{
    Clock, DEFAULT_BUDGET, Fib, FibCell, FrameError, FrameMemory, FrameRef, LinkedProgram,
    MIN_FRAME, PACKET_HEADROOM, SourceLine, Trap, TrapReason, asm,
};

pub use access::Maps;
pub use error::VmError;
pub use events::{PerfReader, RingReader};
pub use host::for_host;
pub use native::MachineCode;
pub use pins::PinnedMaps;
pub use redirect::Destination;
pub use tier::{CodeState, Tiering};
pub use worker::{Worker, WorkerStats};

use shared::{Settings, Shared};
use source::Source;
use tier::Background;

/// How programs are executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// Interpreted, every access checked.
    Interp,
    /// Compiled.
    #[default]
    Jit,
}

impl EngineKind {
    /// The name in reports: `interp` or `jit`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EngineKind::Interp => "interp",
            EngineKind::Jit => "jit",
        }
    }
}

/// What a machine is to be like.
pub struct VmBuilder {
    source: Source,
    only: Option<Vec<String>>,
    settings: Settings,
}

impl std::fmt::Debug for VmBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl VmBuilder {
    /// A machine for all XDP programs of `object` that load by themselves. Fitting it to the running kernel (CO-RE,
    /// `.kconfig`) is the caller's: see [`for_host`]. Change the object before: its `.rodata` with
    /// [`Object::set_global`], map sizes in [`Object::maps`].
    #[must_use]
    pub fn new(object: Object) -> VmBuilder {
        VmBuilder::from_source(Source::from_object(object))
    }

    /// A machine for hand-made programs, which name maps by their index in `maps`.
    #[must_use]
    pub fn assembled(maps: Vec<MapDef>, programs: Vec<(String, Vec<Insn>)>) -> VmBuilder {
        VmBuilder::from_source(Source::assembled(maps, programs))
    }

    /// Gives hand-made programs' map number `map` a value that never changes: constant text, for example.
    ///
    /// # Panics
    /// If there is no such map.
    #[must_use]
    pub fn constant(mut self, map: usize, value: Vec<u8>) -> VmBuilder {
        let map = &mut self.source.maps[map];
        (map.initial, map.frozen) = (Some(value), true);
        self
    }

    fn from_source(source: Source) -> VmBuilder {
        let settings = Settings {
            kind: EngineKind::default(),
            cpus: 1,
            clock: Clock::Real,
            time_per_burst: false,
            seed: None,
            budget: DEFAULT_BUDGET,
            routes: Arc::default(),
            pins: None,
            check_facts: false,
            code: squalus_jit::Options::default(),
            tiering: Tiering::default(),
            counted_runs: tier::RUNS,
            specialise: false,
        };
        VmBuilder {
            source,
            only: None,
            settings,
        }
    }

    /// Loads these programs only, also such that don't load by themselves.
    #[must_use]
    pub fn only(mut self, programs: &[&str]) -> VmBuilder {
        self.only = Some(programs.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    /// How to execute; compiled by default.
    #[must_use]
    pub fn engine(mut self, kind: EngineKind) -> VmBuilder {
        self.settings.kind = kind;
        self
    }

    /// How many CPUs (workers) per-CPU maps have values for; 1 by default, at least 1.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> VmBuilder {
        self.settings.cpus = cpus.max(1);
        self
    }

    /// Where programs get the time from; the host's clocks by default.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> VmBuilder {
        self.settings.clock = clock;
        self
    }

    /// Whether `bpf_ktime_get_ns` asks the clock only once in a burst, at the first call, and tells that time until
    /// the burst ends; off by default. Asking costs as much as a good part of a packet. What programs do with
    /// coarse times (rates, timeouts) stays the same; but a run that measures its own duration sees none, and
    /// a time that another worker has just stored may lie a burst's duration ahead. Other clocks are not
    /// concerned.
    #[must_use]
    pub fn time_per_burst(mut self, on: bool) -> VmBuilder {
        self.settings.time_per_burst = on;
        self
    }

    /// Makes random numbers and hash seeds follow from `seed`, so that runs can be replayed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> VmBuilder {
        self.settings.seed = Some(seed);
        self
    }

    /// The routes that `bpf_fib_lookup` and `bpf_check_mtu` answer from, in place of the machine's own
    /// ([`Vm::routes`]).
    #[must_use]
    pub fn routes(mut self, routes: Arc<FibCell>) -> VmBuilder {
        self.settings.routes = routes;
        self
    }

    /// Shares the maps that the object wants pinned with other machines built with the same namespace; without,
    /// each machine has its own. The machine then has the namespace's number of CPUs.
    #[must_use]
    pub fn pins(mut self, pins: &PinnedMaps) -> VmBuilder {
        self.settings.pins = Some(pins.clone());
        self
    }

    /// For tests: the interpreter compares what analysis claims of the programs with what is the case before every
    /// instruction, and test runs fail if a claim is false. Compiled programs are not concerned.
    #[must_use]
    pub fn check_facts(mut self) -> VmBuilder {
        self.settings.check_facts = true;
        self
    }

    /// Which passes of the optimizer compiled programs go through; all by default. They change no result.
    #[must_use]
    pub fn passes(mut self, passes: Passes) -> VmBuilder {
        self.settings.code.passes = passes;
        self
    }

    /// Whether compiled programs are compiled again, in the background, for the traffic they see; off by default.
    /// It changes no result.
    #[must_use]
    pub fn tiering(mut self, tiering: Tiering) -> VmBuilder {
        self.settings.tiering = tiering;
        self
    }

    /// For tests: how many runs are counted before programs are compiled again; some thousand by default.
    #[must_use]
    pub fn counted_runs(mut self, runs: u64) -> VmBuilder {
        self.settings.counted_runs = runs;
        self
    }

    /// Whether compiled code may have the contents of maps in it that only the control side changes; off by default.
    /// It changes no result. Before such a map is changed, other code is installed, and the writer waits until all
    /// workers have ended their bursts; new code is made in the background when there were no writes for a while.
    /// A machine with [`VmBuilder::pins`] has no such code.
    #[must_use]
    pub fn specialise(mut self, on: bool) -> VmBuilder {
        self.settings.specialise = on;
        self
    }

    /// Keeps what shows where compiled code comes from ([`Vm::machine_code`]), for tools.
    #[must_use]
    pub fn keep_text(mut self) -> VmBuilder {
        self.settings.code.keep_text = true;
        self
    }

    /// How many instructions a run may execute (in compiled code: how often it may jump back).
    #[must_use]
    pub fn budget(mut self, instructions: u64) -> VmBuilder {
        self.settings.budget = instructions;
        self
    }

    /// Creates the maps with their initial contents, links the programs and compiles them if asked to.
    ///
    /// # Errors
    /// What is malformed or not supported, by name. Nothing remains of the machine then.
    pub fn build(mut self) -> Result<Vm, VmError> {
        self.source.select(self.only.as_deref())?;
        if let Some(pins) = &self.settings.pins {
            self.settings.cpus = pins.cpus();
        }
        let shared = Arc::new(Shared::build(&self.source, self.settings)?);
        let background = shared.compiler.as_ref();
        let background = background.map(|_| Background::start(&shared));
        Ok(Vm {
            background: background.transpose().map_err(VmError::Thread)?,
            maps: Maps { shared },
            test_workers: Vec::new(),
            memory: FrameMemory::new(),
        })
    }
}

/// A loaded object.
#[derive(Debug)]
pub struct Vm {
    maps: Maps,
    /// Compiles anew, if that is wanted.
    background: Option<Background>,
    /// The workers of test runs, by CPU, as far as they were needed.
    test_workers: Vec<Option<Worker>>,
    memory: FrameMemory,
}

impl Vm {
    fn shared(&self) -> &Arc<Shared> {
        &self.maps.shared
    }

    /// A handle on the maps, for other threads.
    #[must_use]
    pub fn handle(&self) -> Maps {
        self.maps.clone()
    }

    /// Where the routes are published that programs ask for; empty unless someone publishes some.
    #[must_use]
    pub fn routes(&self) -> &Arc<FibCell> {
        &self.shared().settings.routes
    }

    /// With [`Tiering::On`] or [`VmBuilder::specialise`]: what the compiled code is like that workers run.
    #[must_use]
    pub fn code(&self) -> Option<CodeState> {
        self.background.as_ref()?;
        let mut code = self.shared().requests.code();
        if let Some(special) = &self.shared().special {
            (code.special, code.withdrawn) = special.state();
        }
        Some(code)
    }

    /// With [`Tiering::On`]: compiles the programs now for the traffic that was counted, if that was enough (some
    /// thousand packets), and waits until that is done. Workers run the new code from their next burst on. With
    /// [`VmBuilder::specialise`] it has the contents of maps in it, unless somebody changes them at this moment.
    pub fn settle(&self) -> Option<CodeState> {
        self.background.as_ref()?;
        self.shared().requests.settle();
        self.code()
    }

    /// With [`Tiering::On`]: has traffic counted anew from now on, as happens now and then by itself.
    pub fn recount(&self) -> Option<CodeState> {
        self.background.as_ref()?;
        self.shared().requests.recount();
        self.code()
    }

    /// The compiled code that workers run now, unless programs are interpreted. It stays where it is as long as the
    /// result is kept.
    #[must_use]
    pub fn machine_code(&self) -> Option<MachineCode> {
        let slot = self.shared().code.as_ref();
        slot.map(|slot| MachineCode(slot.current()))
    }

    /// How programs are executed.
    #[must_use]
    pub fn kind(&self) -> EngineKind {
        self.shared().settings.kind
    }

    /// The programs as linked, by number.
    #[must_use]
    pub fn linked(&self) -> &[Arc<LinkedProgram>] {
        &self.shared().programs
    }

    /// A worker for `program`. Its number `cpu` selects its values in per-CPU maps: no two workers that run
    /// at the same time may share one.
    ///
    /// # Errors
    /// If there is no such program or CPU.
    pub fn worker(&self, program: &str, cpu: u32) -> Result<Worker, EngineError> {
        let entry = self.entry(program)?;
        self.check_cpu(program, cpu)?;
        Ok(Worker::new(self.shared(), cpu, entry))
    }

    /// The failed check that ended the last test run on `cpu` (of its repetitions the last one that failed), if
    /// one did.
    #[must_use]
    pub fn last_trap(&self, cpu: u32) -> Option<&Trap> {
        let worker = self.test_workers.get(cpu as usize)?.as_ref()?;
        worker.last_trap()
    }

    fn entry(&self, program: &str) -> Result<usize, EngineError> {
        let shared = self.shared();
        shared
            .program_id(program)
            .ok_or_else(|| EngineError::NoProgram {
                name: program.to_owned(),
                available: shared.listing(),
            })
    }

    fn check_cpu(&self, program: &str, cpu: u32) -> Result<(), EngineError> {
        let cpus = self.shared().settings.cpus;
        if cpu < cpus {
            return Ok(());
        }
        let reason = format!("there is no CPU {cpu}: the machine was built for {cpus}");
        Err(test_error(program, reason))
    }
}

fn test_error(program: &str, reason: String) -> EngineError {
    EngineError::TestRun {
        program: program.to_owned(),
        reason,
    }
}

impl Engine for Vm {
    fn name(&self) -> &'static str {
        self.kind().name()
    }

    fn programs(&self) -> Vec<String> {
        self.shared().program_names()
    }

    fn test_run(&mut self, program: &str, run: &TestRun<'_>) -> Result<TestResult, EngineError> {
        let entry = self.entry(program)?;
        self.check_cpu(program, run.cpu)?;
        let failed = |error| test_error(program, format!("{error} (EINVAL)"));
        // As the kernel's test runs do, whether or not the program is one for fragments.
        self.memory.set_fragmented(run.frame).map_err(failed)?;
        let cpu = run.cpu as usize;
        if self.test_workers.len() <= cpu {
            self.test_workers.resize_with(cpu + 1, || None);
        }
        let shared = &self.maps.shared;
        let worker =
            self.test_workers[cpu].get_or_insert_with(|| Worker::new(shared, run.cpu, entry));
        worker.begin(entry);
        let mut frame = self.memory.frame().map_err(failed)?;
        let repeat = run.repeat.max(1);
        let start = Instant::now();
        let value = worker.repeat(&mut frame, repeat);
        let duration = start.elapsed();
        worker.pause();
        if let Some(what) = worker.false_fact() {
            return Err(test_error(program, format!("a fact is false: {what}")));
        }
        Ok(TestResult {
            return_value: value as u32,
            // As the kernel's, whose output begins with the metadata.
            frame: [frame.metadata(), frame.packet()].concat(),
            duration: Duration::from_nanos(duration.as_nanos() as u64 / u64::from(repeat)),
        })
    }
}

impl MapAccess for Vm {
    fn maps(&self) -> Vec<MapDef> {
        self.maps.maps()
    }

    fn cpus(&self) -> usize {
        self.maps.cpus()
    }

    fn lookup(&self, map: MapRef<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.maps.lookup(map, key)
    }

    fn update(
        &self,
        map: MapRef<'_>,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
    ) -> Result<(), EngineError> {
        self.maps.update(map, key, value, flags)
    }

    fn update_batch(&self, map: MapRef<'_>, keys: &[u8], values: &[u8]) -> Result<(), EngineError> {
        self.maps.update_batch(map, keys, values)
    }

    fn delete(&self, map: MapRef<'_>, key: &[u8]) -> Result<(), EngineError> {
        self.maps.delete(map, key)
    }

    fn next_key(
        &self,
        map: MapRef<'_>,
        key: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        self.maps.next_key(map, key)
    }

    fn create_inner(&self, outer: &str, key: &[u8], def: &MapDef) -> Result<(), EngineError> {
        self.maps.create_inner(outer, key, def)
    }
}
