//! What all workers and control handles of one machine share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use squalus_analysis::{Facts, analyse};
use squalus_isa::UpdateFlags;
use squalus_jit::{Constants, Pass, Tier};
use squalus_maps::{Map, MapEnv};
use squalus_object::InitialTarget;
use squalus_runtime::{Clock, Env, FibCell, FibReader, LinkedProgram, Rng, Timers, TraceLog};

use crate::pins::{PinnedMaps, Session};
use crate::slot::CodeSlot;
use crate::source::{MapSource, Source};
use crate::special::{Special, unwritten};
use crate::tier::{Compiler, Requests, Tiering};
use crate::{EngineKind, VmError};

/// Ring buffers have a multiple of it, as in the kernel on most machines.
const PAGE_SIZE: u32 = 4096;

/// How a machine runs; everything that makes a run reproducible.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub kind: EngineKind,
    pub cpus: u32,
    pub clock: Clock,
    pub time_per_burst: bool,
    pub seed: Option<u64>,
    pub budget: u64,
    pub routes: Arc<FibCell>,
    pub pins: Option<PinnedMaps>,
    /// Whether the interpreter checks facts.
    pub check_facts: bool,
    /// How programs are compiled.
    pub code: squalus_jit::Options,
    pub tiering: Tiering,
    /// How many runs are counted before programs are compiled again.
    pub counted_runs: u64,
    /// Whether the contents of maps may become part of the code.
    pub specialise: bool,
}

impl Settings {
    /// Whether the contents of maps become part of the code. Not where other machines write maps of this one, and
    /// their workers must be waited for.
    fn specialises(&self) -> bool {
        self.specialise && self.pins.is_none() && self.code.passes.has(Pass::Special)
    }

    /// What maps are made in: other machines' if they share maps with this one.
    fn map_env(&self) -> MapEnv {
        match (&self.pins, self.seed) {
            (Some(pins), _) => pins.env().clone(),
            (None, Some(seed)) => MapEnv::with_seed(self.cpus, seed),
            (None, None) => MapEnv::new(self.cpus),
        }
    }
}

pub(crate) struct Shared {
    pub settings: Settings,
    pub map_env: MapEnv,
    pub maps: Arc<[Arc<Map>]>,
    pub map_index: HashMap<String, usize>,
    pub programs: Vec<Arc<LinkedProgram>>,
    /// Programs of the object that are not here, and why.
    pub left_out: Vec<String>,
    /// Which programs take frames in fragments.
    pub fragments: Vec<bool>,
    /// Facts that the interpreter checks, by program; none if it does not.
    pub checked_facts: Arc<[Facts]>,
    /// Compiled code, if the machine compiles.
    pub code: Option<Arc<CodeSlot>>,
    /// What it is compiled from again, if it is.
    pub compiler: Option<Compiler>,
    /// What the thread that does so is asked.
    pub requests: Arc<Requests>,
    /// Whose contents may be in the code, if any may.
    pub special: Option<Arc<Special>>,
    /// The timers in the maps' values, if there can be any.
    timers: Option<Arc<Timers>>,
    /// What programs traced, by CPU; each log is made with the first worker of its CPU.
    traces: Mutex<BTreeMap<u32, Arc<TraceLog>>>,
}

impl Shared {
    pub fn build(source: &Source, settings: Settings) -> Result<Shared, VmError> {
        let map_env = settings.map_env();
        let pins = settings.pins.clone();
        let mut session = pins.as_ref().map(PinnedMaps::begin);
        let Created { maps, found } = create_maps(&source.maps, &map_env, session.as_mut())?;
        let map_index = names(source.maps.iter().map(|map| map.def.name.as_str()));
        let program_index = names(source.programs.iter().map(|program| program.name.as_str()));
        let set = |at: usize| {
            set_initial(
                &source.maps[at],
                &maps[at],
                &maps,
                &map_index,
                &program_index,
            )
        };
        let (shared, own): (Vec<usize>, _) = (0..maps.len()).partition(|at| found.contains(at));
        own.into_iter().try_for_each(set)?;
        let programs = link(source, &maps)?;
        let facts: Arc<[Facts]> = analyse_all(&programs, &source.kfuncs)?.into();
        let code = compiled(&programs, &facts, &settings, &map_env)?;
        let (code, compiler) = code.unzip();
        let requests = Arc::<Requests>::default();
        let special = match (&code, &compiler) {
            (Some(slot), Some(compiler)) if settings.specialises() => {
                special(compiler, (&maps, settings.cpus), slot, &requests)
            }
            _ => None,
        };
        let compiler = compiler.filter(|_| settings.tiering != Tiering::Off || special.is_some());
        // Other machines see what changes in their maps only now that nothing can fail any more but this.
        shared.into_iter().try_for_each(set)?;
        if let Some(session) = session {
            session.publish();
        }
        Ok(Shared {
            timers: Timers::of(&maps),
            checked_facts: match settings.check_facts {
                true => facts,
                false => Arc::default(),
            },
            settings,
            map_env,
            maps,
            map_index,
            programs,
            left_out: source.left_out.clone(),
            fragments: source.programs.iter().map(|p| p.fragments).collect(),
            code,
            compiler,
            requests,
            special,
            traces: Mutex::default(),
        })
    }

    /// The environment of worker `cpu`.
    pub fn env(&self, cpu: u32) -> Env {
        let rng = match self.settings.seed {
            Some(seed) => Rng::seeded(seed ^ (u64::from(cpu) << 32)),
            None => Rng::from_host(),
        };
        let mut env = Env::new(cpu, self.settings.clock.clone(), rng);
        env.budget_per_run = self.settings.budget;
        env.time_per_burst = self.settings.time_per_burst;
        env.timers = self.timers.clone();
        env.fib = FibReader::new(Arc::clone(&self.settings.routes));
        if let Some(seed) = self.settings.seed {
            env.secret = [seed, !seed];
        }
        env.trace = Arc::clone(self.lock_traces().entry(cpu).or_insert(env.trace));
        env
    }

    /// The logs of all CPUs that had a worker.
    pub fn traces(&self) -> Vec<(u32, Arc<TraceLog>)> {
        let traces = self.lock_traces();
        let pair = |(cpu, log): (&u32, &Arc<TraceLog>)| (*cpu, Arc::clone(log));
        traces.iter().map(pair).collect()
    }

    fn lock_traces(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<TraceLog>>> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn program_names(&self) -> Vec<String> {
        let name = |program: &Arc<LinkedProgram>| program.name().to_owned();
        self.programs.iter().map(name).collect()
    }

    /// The programs there are, and those there might have been, for an error message.
    pub fn listing(&self) -> String {
        let mut listing = self.program_names().join(", ");
        if !self.left_out.is_empty() {
            listing += "; not loaded: ";
            listing += &self.left_out.join(", ");
        }
        listing
    }

    pub fn program_id(&self, name: &str) -> Option<usize> {
        self.programs
            .iter()
            .position(|program| program.name() == name)
    }
}

/// The programs' first code, and who makes the next, if they are compiled.
fn compiled(
    programs: &[Arc<LinkedProgram>],
    facts: &Arc<[Facts]>,
    settings: &Settings,
    map_env: &MapEnv,
) -> Result<Option<(Arc<CodeSlot>, Compiler)>, VmError> {
    if settings.kind == EngineKind::Interp {
        return Ok(None);
    }
    let tier = match settings.tiering {
        Tiering::Off => Tier::Plain,
        Tiering::On | Tiering::Untimed => Tier::Counted,
    };
    let compiler = Compiler::new(programs, Arc::clone(facts), settings.code, settings.cpus);
    let native = Arc::new(compiler.compile(|_| tier)?);
    let slot = CodeSlot::new(native, &map_env.reclaimer);
    Ok(Some((Arc::new(slot), compiler)))
}

/// Watches the maps whose contents may be in the code, if there are any.
fn special(
    compiler: &Compiler,
    (maps, cpus): (&[Arc<Map>], u32),
    slot: &Arc<CodeSlot>,
    requests: &Arc<Requests>,
) -> Option<Arc<Special>> {
    let set = unwritten(&compiler.programs, &compiler.facts, maps);
    let constants = Constants {
        maps: set,
        cpu: (cpus == 1).then_some(0),
    };
    let requests = Arc::clone(requests);
    let withdrawn = move || requests.specialise();
    (!set.is_empty()).then(|| Special::new((maps, constants), slot, withdrawn))
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<String, usize> {
    names
        .enumerate()
        .map(|(n, name)| (name.to_owned(), n))
        .collect()
}

/// The maps of a machine.
struct Created {
    maps: Arc<[Arc<Map>]>,
    /// Which of them were pinned before.
    found: HashSet<usize>,
}

/// Creates the maps, or takes those that are pinned.
fn create_maps(
    specs: &[MapSource],
    env: &MapEnv,
    mut session: Option<&mut Session<'_>>,
) -> Result<Created, VmError> {
    let mut maps = Vec::with_capacity(specs.len());
    let mut found = HashSet::new();
    for spec in specs {
        let def = squalus_object::sized(&spec.def, env.cpus, PAGE_SIZE);
        let pinned = match (&spec.pin, &session) {
            (Some(pin), Some(session)) => session.find(pin, &def)?,
            _ => None,
        };
        if pinned.is_some() {
            found.insert(maps.len());
        }
        let map = match pinned {
            Some(map) => map,
            None => {
                let map = Map::new(&def, env)?;
                if let (Some(pin), Some(session)) = (&spec.pin, &mut session) {
                    session.add(pin, &map);
                }
                map
            }
        };
        maps.push(map);
    }
    Ok(Created {
        maps: maps.into(),
        found,
    })
}

fn link(source: &Source, maps: &Arc<[Arc<Map>]>) -> Result<Vec<Arc<LinkedProgram>>, VmError> {
    let programs = source.programs.iter().map(|program| {
        let lines = program.lines.clone();
        let linked = LinkedProgram::new(&program.name, &program.code, Arc::clone(maps), lines)?;
        Ok(Arc::new(linked))
    });
    programs.collect()
}

/// Analyses the programs, so that each engine refuses the same ones: those that may come to what no userspace
/// engine has. Dead code may call what it likes.
fn analyse_all(programs: &[Arc<LinkedProgram>], kfuncs: &[String]) -> Result<Vec<Facts>, VmError> {
    let facts = programs.iter().map(|program| {
        let facts = analyse(program)?;
        let supported = facts.supported(program);
        supported.map_err(|error| VmError::of_link(error, kfuncs))?;
        Ok(facts)
    });
    facts.collect()
}

/// Sets what the object wants in a map before any program runs, then freezes it if it is constant.
fn set_initial(
    spec: &MapSource,
    map: &Map,
    maps: &[Arc<Map>],
    map_index: &HashMap<String, usize>,
    program_index: &HashMap<String, usize>,
) -> Result<(), VmError> {
    let name = &spec.def.name;
    let failed = |what: String| {
        move |errno| VmError::Initial {
            map: name.clone(),
            what,
            errno,
        }
    };
    if let Some(bytes) = &spec.initial {
        map.sys_update(&0u32.to_ne_bytes(), bytes, UpdateFlags::ANY)
            .map_err(failed("the section's data".to_owned()))?;
    }
    for value in &spec.values {
        let what = failed(format!("entry {}", value.index));
        match &value.target {
            InitialTarget::Map(inner) => {
                let index = map_index.get(inner).ok_or_else(|| VmError::UnknownMap {
                    map: name.clone(),
                    inner: inner.clone(),
                })?;
                map.set_inner(&value.index.to_ne_bytes(), Arc::clone(&maps[*index]))
                    .map_err(what)?;
            }
            InitialTarget::Program(program) => {
                let id = program_index
                    .get(program)
                    .ok_or_else(|| VmError::UnknownProgram {
                        map: name.clone(),
                        program: program.clone(),
                    })?;
                map.set_program(value.index, Some(*id as u32))
                    .map_err(what)?;
            }
        }
    }
    if spec.frozen {
        map.freeze();
    }
    Ok(())
}
