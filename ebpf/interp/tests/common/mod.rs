//! Runs hand-made programs on the interpreter.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;

use squalus_interp::Interp;
use squalus_isa::{Insn, MapDef, MapType};
use squalus_maps::{Map, MapEnv};
use squalus_runtime::asm::Asm;
use squalus_runtime::{Clock, Env, FrameMemory, LinkedProgram, Rng, Trap, TrapReason};

pub struct Machine {
    pub maps: Vec<Arc<Map>>,
    pub map_env: MapEnv,
    pub env: Env,
    programs: Vec<Arc<LinkedProgram>>,
    /// The packet before and after the run.
    pub packet: Vec<u8>,
    pub metadata: Vec<u8>,
    pub trap: Option<Trap>,
}

impl Machine {
    pub fn new(defs: &[MapDef]) -> Machine {
        let map_env = MapEnv::with_seed(2, 1);
        let maps = defs.iter().map(|def| Map::new(def, &map_env).unwrap());
        Machine {
            maps: maps.collect(),
            map_env,
            env: Env::new(0, Clock::Fixed(1_000), Rng::seeded(3)),
            programs: Vec::new(),
            packet: (0..64).collect(),
            metadata: Vec::new(),
            trap: None,
        }
    }

    pub fn add(&mut self, code: &[Insn]) -> usize {
        let maps: Arc<[Arc<Map>]> = self.maps.clone().into();
        let program = LinkedProgram::new("test", code, maps, Vec::new()).unwrap();
        self.programs.push(Arc::new(program));
        self.programs.len() - 1
    }

    /// Runs the first program.
    pub fn run(&mut self) -> Result<u64, TrapReason> {
        let _worker = self.map_env.reclaimer.register();
        let mut memory = FrameMemory::new();
        memory.set(&self.packet).unwrap();
        let mut frame = memory.frame().unwrap();
        // SAFETY: this thread is registered with the maps' reclaimer.
        let result = unsafe { Interp::new().run(&self.programs, 0, &mut self.env, &mut frame) };
        self.packet = frame.packet().to_vec();
        self.metadata = frame.metadata().to_vec();
        result.map_err(|trap| {
            assert_eq!(self.env.trap_reason(), Some(trap.reason));
            let reason = trap.reason;
            self.trap = Some(trap);
            reason
        })
    }
}

/// Runs a program that needs no maps.
pub fn run(build: impl FnOnce(&mut Asm)) -> Result<u64, TrapReason> {
    run_with(&[], build)
}

/// Runs a program on fresh maps.
pub fn run_with(defs: &[MapDef], build: impl FnOnce(&mut Asm)) -> Result<u64, TrapReason> {
    let mut machine = Machine::new(defs);
    let mut code = Asm::new();
    build(&mut code);
    machine.add(&code.finish());
    machine.run()
}

pub fn map(kind: MapType, key_size: u32, value_size: u32, max_entries: u32) -> MapDef {
    MapDef::new(kind.name(), kind, (key_size, value_size), max_entries)
}
