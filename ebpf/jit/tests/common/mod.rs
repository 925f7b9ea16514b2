//! What the tests share: object files to linked programs with maps.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;

use squalus_analysis::{Facts, analyse};
use squalus_interp::Interp;
use squalus_isa::{Insn, MapDef, UpdateFlags};
use squalus_jit::{
    CompiledProgram, Context, Options, Profile, Tier, compile_tier, compile_with, run_linked,
};
use squalus_maps::{Map, MapEnv};
use squalus_object::{InitialTarget, Object, ProgramKind};
use squalus_runtime::{
    Clock, Env, FrameMemory, LinkedProgram, Redirect, Rng, SourceLine, TrapReason,
};
use squalus_ssa::{Pass, Passes};

/// All maps of an object, and its XDP programs linked to them.
pub struct Loaded {
    pub maps: Arc<[Arc<Map>]>,
    pub programs: Vec<Arc<LinkedProgram>>,
    pub env: MapEnv,
    /// What analysis says of each program; none if it refuses one.
    pub facts: Arc<[Facts]>,
}

fn facts(programs: &[Arc<LinkedProgram>]) -> Arc<[Facts]> {
    let facts: Result<Vec<Facts>, _> = programs.iter().map(|program| analyse(program)).collect();
    facts.unwrap_or_default().into()
}

/// Loads an object file's bytes for `cpus` workers.
pub fn load(bytes: &[u8], cpus: u32) -> Loaded {
    let object = Object::parse(bytes).expect("the object is well-formed");
    let env = MapEnv::with_seed(cpus, 7);
    let maps: Arc<[Arc<Map>]> = object
        .maps
        .iter()
        .map(|spec| Map::new(&spec.def, &env).expect("the map's definition is valid"))
        .collect();
    let programs: Vec<_> = object
        .programs
        .iter()
        .filter(|program| matches!(program.kind, ProgramKind::Xdp { .. }))
        .collect();
    for (spec, map) in object.maps.iter().zip(&*maps) {
        if let Some(bytes) = &spec.initial {
            map.sys_update(&0u32.to_ne_bytes(), bytes, UpdateFlags::ANY)
                .expect("a data section fits its map");
        }
        for value in &spec.values {
            let key = value.index.to_ne_bytes();
            match &value.target {
                InitialTarget::Map(name) => {
                    let inner = object.maps.iter().position(|m| m.def.name == *name);
                    let inner = Arc::clone(&maps[inner.expect("the inner map exists")]);
                    map.set_inner(&key, inner).expect("the inner map fits");
                }
                InitialTarget::Program(name) => {
                    let id = programs.iter().position(|p| p.name == *name);
                    map.set_program(value.index, id.map(|id| id as u32))
                        .expect("the index is inside");
                }
            }
        }
        if spec.frozen {
            map.freeze();
        }
    }
    let programs = programs
        .iter()
        .map(|program| {
            let lines = program.lines.iter().map(|line| SourceLine {
                slot: line.slot,
                file: Arc::clone(&line.file),
                line: line.line,
                text: Arc::clone(&line.text),
            });
            let linked = LinkedProgram::new(
                &program.name,
                &program.insns,
                Arc::clone(&maps),
                lines.collect(),
            );
            Arc::new(linked.expect("the program links"))
        })
        .collect::<Vec<_>>();
    Loaded {
        facts: facts(&programs),
        maps,
        programs,
        env,
    }
}

/// What a run left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// `r0`, or why the run was ended.
    pub result: Result<u64, TrapReason>,
    /// Slot of the instruction that ended it.
    pub slot: Option<usize>,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Where it would be redirected to.
    pub redirect: Redirect,
}

/// Links hand-made programs; tail calls reach them by their place in the list.
pub fn link(codes: &[Vec<Insn>], defs: &[MapDef]) -> Loaded {
    let env = MapEnv::with_seed(2, 7);
    let maps: Arc<[Arc<Map>]> = defs
        .iter()
        .map(|def| Map::new(def, &env).expect("the map's definition is valid"))
        .collect();
    let programs = codes.iter().map(|code| {
        let linked = LinkedProgram::new("test", code, Arc::clone(&maps), Vec::new());
        Arc::new(linked.expect("the program links"))
    });
    let programs: Vec<_> = programs.collect();
    Loaded {
        facts: facts(&programs),
        programs,
        maps,
        env,
    }
}

/// Compiles all programs of a set.
pub fn compile_all(loaded: &Loaded, options: Options) -> Vec<CompiledProgram> {
    let compile = |program: &Arc<LinkedProgram>| {
        let facts = analyse(program).expect("the program can be right");
        compile_with(program, &facts, options).expect("the program compiles")
    };
    loaded.programs.iter().map(compile).collect()
}

fn new_env(budget: u64) -> Env {
    let mut env = Env::new(0, Clock::Fixed(1_000), Rng::seeded(1));
    env.budget_per_run = budget;
    env
}

/// Runs program 0 compiled.
pub fn run_jit(loaded: &Loaded, programs: &[CompiledProgram], packet: &[u8]) -> Ran {
    let _worker = loaded.env.reclaimer.register();
    let mut memory = FrameMemory::new();
    memory.set(packet).expect("the packet has a valid length");
    let mut frame = memory.frame().expect("a packet was set");
    let mut env = new_env(100_000);
    env.begin(frame.place());
    // SAFETY: environment and frame are live and ours; the worker is registered; `compile_all` made the
    // programs from their own facts.
    let value = unsafe { run_linked(programs, 0, &raw mut env) };
    Ran {
        result: env.trap_reason().map_or(Ok(value), Err),
        slot: env.trap_reason().map(|_| env.trap_slot as usize),
        packet: frame.packet().to_vec(),
        redirect: env.redirect,
    }
}

/// Runs program 0 interpreted, and compares all facts with what is the case.
pub fn run_interp(loaded: &Loaded, packet: &[u8]) -> Ran {
    let _worker = loaded.env.reclaimer.register();
    let mut memory = FrameMemory::new();
    memory.set(packet).expect("the packet has a valid length");
    let mut frame = memory.frame().expect("a packet was set");
    let mut env = new_env(1_000_000);
    let mut interp = Interp::new();
    interp.check_facts(Arc::clone(&loaded.facts));
    // SAFETY: the worker is registered and not paused.
    let result = unsafe { interp.run(&loaded.programs, 0, &mut env, &mut frame) };
    assert_eq!(interp.false_fact(), None, "{packet:02x?}");
    Ran {
        slot: result.as_ref().err().map(|trap| trap.slot),
        result: result.map_err(|trap| trap.reason),
        packet: frame.packet().to_vec(),
        redirect: env.redirect,
    }
}

/// Compiles all programs of a set once more.
pub fn compile_tier_all(
    loaded: &Loaded,
    contexts: &[Arc<Context>],
    options: Options,
    tiers: &[Tier<'_>],
) -> Vec<CompiledProgram> {
    let compile = |n: usize| {
        let (program, context) = (&loaded.programs[n], &contexts[n]);
        let facts = analyse(program).expect("the program can be right");
        compile_tier(program, &facts, context, options, tiers[n]).expect("the program compiles")
    };
    (0..loaded.programs.len()).map(compile).collect()
}

pub fn contexts(loaded: &Loaded) -> Vec<Arc<Context>> {
    let new = |program: &Arc<LinkedProgram>| {
        let facts = analyse(program).expect("the program can be right");
        Context::new(program, &facts, 2)
    };
    loaded.programs.iter().map(new).collect()
}

/// Hot blocks of a program: those that ran when blocks were counted, and such as some number says.
fn profiles(loaded: &Loaded, packet: &[u8]) -> [Vec<Profile>; 3] {
    let contexts = contexts(loaded);
    let tiers = vec![Tier::Counted; contexts.len()];
    let programs = compile_tier_all(loaded, &contexts, Options::default(), &tiers);
    let _ = run_jit(loaded, &programs, packet);
    let seen: Vec<Profile> = contexts.iter().map(|context| context.profile()).collect();
    let some = |seed: u64| {
        let chosen = seen.iter().map(|profile| {
            let chance = |n: usize| (n as u64 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63;
            let count = |n| if n == 0 { 1 } else { chance(n) };
            let counts = (0..profile.counts().len()).map(count).collect();
            Profile::new(counts, &[])
        });
        chosen.collect()
    };
    let (one, other) = (some(1), some(2));
    [seen, one, other]
}

/// How programs are compiled.
#[derive(Clone, Copy, Debug, Default)]
struct Variant {
    check_facts: bool,
    passes: Passes,
    counted: bool,
    /// Which profile is used.
    profile: Option<usize>,
}

/// With all facts checked, with all passes, with none, with each one missing and each one alone; counting; and
/// with hot blocks.
fn variants() -> impl Iterator<Item = Variant> {
    let missing = Pass::ALL.into_iter().map(|pass| Passes::ALL.without(pass));
    let alone = Pass::ALL.into_iter().map(|pass| Passes::NONE.with(pass));
    let passes = [Passes::ALL, Passes::NONE].into_iter();
    let passes = passes.chain(missing).chain(alone);
    let plain = passes.map(|passes| Variant {
        passes,
        ..Variant::default()
    });
    let hot = [Passes::ALL, Passes::NONE.with(Pass::Hot)].into_iter();
    let hot = hot.flat_map(|passes| {
        (0..3).map(move |n| Variant {
            passes,
            profile: Some(n),
            ..Variant::default()
        })
    });
    let counted = Variant {
        counted: true,
        ..Variant::default()
    };
    let checked = Variant {
        check_facts: true,
        ..Variant::default()
    };
    plain.chain(hot).chain([counted, checked])
}

/// Runs program 0 in both engines, compiled in all ways, and requires that all agree.
pub fn agree(codes: &[Vec<Insn>], defs: &[MapDef], packet: &[u8]) -> Ran {
    agree_after(codes, defs, packet, &|_| {})
}

/// As [`agree`], with maps that `prepare` filled.
pub fn agree_after(
    codes: &[Vec<Insn>],
    defs: &[MapDef],
    packet: &[u8],
    prepare: &dyn Fn(&Loaded),
) -> Ran {
    let link = || {
        let loaded = link(codes, defs);
        prepare(&loaded);
        loaded
    };
    let interp = run_interp(&link(), packet);
    let profiles = profiles(&link(), packet);
    for variant in variants() {
        let loaded = link();
        let compile = |keep_text: bool| {
            let options = Options {
                keep_text,
                check_facts: variant.check_facts,
                passes: variant.passes,
                ..Options::default()
            };
            let tier = |n: usize| match variant.profile {
                Some(profile) => Tier::Hot(&profiles[profile][n]),
                None if variant.counted => Tier::Counted,
                None => Tier::Plain,
            };
            let tiers: Vec<Tier<'_>> = (0..codes.len()).map(tier).collect();
            compile_tier_all(&loaded, &contexts(&loaded), options, &tiers)
        };
        let jit = run_jit(&loaded, &compile(false), packet);
        if jit != interp {
            for (program, compiled) in loaded.programs.iter().zip(compile(true)) {
                let facts = analyse(program).expect("it was analysed before");
                eprintln!("{}", facts.annotate(program));
                eprintln!("{}", compiled.clif().unwrap_or_default());
            }
        }
        assert_eq!(jit, interp, "compiled ({variant:?}), interpreted");
    }
    interp
}
