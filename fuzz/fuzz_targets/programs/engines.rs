//! Programs with their maps, to be interpreted or compiled.

use std::sync::Arc;

use squalus_analysis::{Facts, analyse};
use squalus_fuzz::GuardedBuffer;
use squalus_interp::Interp;
use squalus_isa::{Insn, UpdateFlags};
use squalus_jit::{CompiledProgram, Context, Options, Profile, Tier, compile_tier, run_linked};
use squalus_maps::{Map, MapEnv};
use squalus_runtime::{Clock, Env, FrameRef, LinkedProgram, Rng, Trap, TrapReason};

use crate::generate;

/// Generated programs need far less; raw ones may loop.
const BUDGET: u64 = 100_000;

/// Where a run ended.
#[derive(Debug)]
pub struct End {
    pub reason: TrapReason,
    pub slot: usize,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Ran {
    pub result: Result<u64, End>,
    pub packet: Vec<u8>,
    pub metadata: Vec<u8>,
    pub redirect: squalus_runtime::Redirect,
    pub traces: u64,
}

/// Linked programs and maps of their own.
pub struct Machine {
    pub maps: Arc<[Arc<Map>]>,
    programs: Vec<Arc<LinkedProgram>>,
    /// What the compilations of a program share, and its facts.
    contexts: Vec<(Arc<Context>, Facts)>,
    compiled: Vec<CompiledProgram>,
    env: MapEnv,
    run: Env,
}

impl Machine {
    /// `None` if a program is malformed.
    pub fn new(codes: &[Vec<Insn>]) -> Option<Machine> {
        let env = MapEnv::with_seed(2, 7);
        let maps = make_maps(&env);
        let link = |code: &Vec<Insn>| {
            let linked = LinkedProgram::new("fuzz", code, Arc::clone(&maps), Vec::new());
            linked.ok().map(Arc::new)
        };
        let mut run = Env::new(1, Clock::Fixed(1_000), Rng::seeded(1));
        run.budget_per_run = BUDGET;
        Some(Machine {
            programs: codes.iter().map(link).collect::<Option<_>>()?,
            contexts: Vec::new(),
            compiled: Vec::new(),
            maps,
            env,
            run,
        })
    }

    /// Compiles the programs, to code that counts its blocks if `counted`. `None` if the analysis refuses one.
    pub fn compile(&mut self, options: Options, counted: bool) -> Option<()> {
        for program in &self.programs {
            let facts = analyse(program).ok()?;
            self.contexts.push((Context::new(program, &facts, 1), facts));
        }
        self.compile_as(options, |_| {
            if counted { Tier::Counted } else { Tier::Plain }
        });
        Some(())
    }

    /// Compiles the programs anew, for what they counted.
    pub fn compile_hot(&mut self, options: Options) {
        let contexts = self.contexts.iter();
        let profiles: Vec<Profile> = contexts.map(|(context, _)| context.profile()).collect();
        self.compile_as(options, |program| Tier::Hot(&profiles[program]));
    }

    fn compile_as<'a>(&mut self, options: Options, tier: impl Fn(usize) -> Tier<'a>) {
        let programs = self.programs.iter().zip(&self.contexts).enumerate();
        self.compiled = programs
            .map(|(number, (program, (context, facts)))| {
                let compiled = compile_tier(program, facts, context, options, tier(number));
                compiled.expect("valid programs can be compiled")
            })
            .collect();
    }

    /// Runs program 0 interpreted.
    pub fn interpret(&mut self, packet: &[u8]) -> Ran {
        let _worker = self.env.reclaimer.register();
        let mut buffer = GuardedBuffer::new(packet);
        let mut frame = buffer.frame();
        let mut interp = Interp::new();
        let facts = self.programs.iter().map(|program| analyse(program).ok());
        if let Some(facts) = facts.collect::<Option<Vec<_>>>() {
            interp.check_facts(facts.into());
        }
        // SAFETY: the worker is registered and not paused.
        let result = unsafe { interp.run(&self.programs, 0, &mut self.run, &mut frame) };
        assert_eq!(interp.false_fact(), None);
        let end = |trap: Trap| End {
            reason: trap.reason,
            slot: trap.slot,
        };
        let ran = self.ran(result.map_err(end), &frame);
        buffer.check();
        ran
    }

    /// Runs program 0 compiled.
    pub fn run_compiled(&mut self, packet: &[u8]) -> Ran {
        let _worker = self.env.reclaimer.register();
        let mut buffer = GuardedBuffer::new(packet);
        let mut frame = buffer.frame();
        self.run.begin(frame.place());
        // SAFETY: environment and frame are live and ours; the worker is registered; `compile` made the
        // programs from their own facts.
        let value = unsafe { run_linked(&self.compiled, 0, &raw mut self.run) };
        frame.set_redirect(self.run.redirect);
        let result = match self.run.trap_reason() {
            None => Ok(value),
            Some(reason) => Err(End {
                reason,
                slot: self.run.trap_slot as usize,
            }),
        };
        let ran = self.ran(result, &frame);
        buffer.check();
        ran
    }

    fn ran(&self, result: Result<u64, End>, frame: &FrameRef<'_>) -> Ran {
        Ran {
            result,
            packet: frame.packet().to_vec(),
            metadata: frame.metadata().to_vec(),
            redirect: frame.redirect(),
            traces: self.run.trace.lines(),
        }
    }

    /// The programs as text.
    pub fn listing(&self) -> String {
        let mut listing = String::new();
        for program in &self.programs {
            let facts = analyse(program).map(|facts| facts.annotate(program));
            listing += &facts.unwrap_or_else(|error| error.to_string());
            listing += "\n";
        }
        listing
    }
}

fn make_maps(env: &MapEnv) -> Arc<[Arc<Map>]> {
    let defs = generate::maps();
    let maps: Arc<[Arc<Map>]> = defs
        .iter()
        .map(|def| Map::new(def, env).expect("the definitions are valid"))
        .collect();
    for map in &*maps {
        if let Some(inner) = &map.def().inner {
            let inner = Map::new(inner, env).expect("the definition is valid");
            let set = map.set_inner(&0u32.to_ne_bytes(), inner);
            set.expect("the inner map is of the right kind");
        }
    }
    // Program 0 may call itself, and program 1.
    for (index, program) in [(0, 1), (1, 0)] {
        let set = maps[7].set_program(index, Some(program));
        set.expect("the index is inside");
    }
    for (map, entry) in [(14, 7u32), (16, 64)] {
        let set = maps[map].sys_update(&1u32.to_ne_bytes(), &entry.to_ne_bytes(), UpdateFlags::ANY);
        set.expect("the entry is valid");
    }
    let device = [[3, 0, 0, 0], [0; 4]].concat();
    let set = maps[15].sys_update(&2u32.to_ne_bytes(), &device, UpdateFlags::ANY);
    set.expect("the entry is valid");
    let locked = [0u8; 16];
    let set = maps[18].sys_update(&0u32.to_ne_bytes(), &locked, UpdateFlags::ANY);
    set.expect("there is room");
    let value = [1, 2, 3, 4, 5, 6, 7, 8];
    for map in [1, 6] {
        let set = maps[map].sys_update(&0u32.to_ne_bytes(), &value, UpdateFlags::ANY);
        set.expect("there is room");
    }
    maps
}
