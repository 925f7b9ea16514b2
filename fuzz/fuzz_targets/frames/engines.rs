//! The object in both engines, with the same maps, clock and random numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use squalus_conformance::balancer::{self, Generator};
use squalus_engine::{Engine, MapAccess, MapRef};
use squalus_fuzz::GuardedBuffer;
use squalus_interp::Interp;
use squalus_isa::{MapDef, MapType};
use squalus_object::Object;
use squalus_runtime::{Clock, Env, FrameRef, Rng, TrapReason};
use squalus_vm::{EngineKind, Vm, VmBuilder, Worker};

const OBJECT: &[u8] = include_bytes!("../../../bpf/objects/balancer.bpf.o");
const CPUS: u32 = 2;
const SEED: u64 = 7;
/// Maps with more entries are not compared: programs don't write them.
const MAX_COMPARED: u32 = 100_000;

const VISITS_LEN: usize = 1 << 14;
/// libFuzzer finds these counters by their section.
#[unsafe(link_section = "__libfuzzer_extra_counters")]
static VISITS: [AtomicU8; VISITS_LEN] = [const { AtomicU8::new(0) }; VISITS_LEN];

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Returned {
        value: u64,
        packet: Vec<u8>,
        metadata: Vec<u8>,
        redirect: squalus_runtime::Redirect,
    },
    Trapped(TrapReason),
}

pub struct Engines {
    clock: Arc<AtomicU64>,
    interp: Interpreted,
    jit: Compiled,
}

struct Interpreted {
    vm: Vm,
    interp: Interp,
    entry: usize,
    envs: Vec<Env>,
}

struct Compiled {
    vm: Vm,
    workers: Vec<Worker>,
}

impl Engines {
    pub fn new() -> Engines {
        let clock = Arc::new(AtomicU64::new(1 << 40));
        Engines {
            interp: Interpreted::new(vm(EngineKind::Interp, &clock), &clock),
            jit: Compiled::new(vm(EngineKind::Jit, &clock)),
            clock,
        }
    }

    /// Runs a frame in both, `nanos` nanoseconds after the last one.
    pub fn run(&mut self, cpu: usize, nanos: u64, frame: &[u8]) -> [Outcome; 2] {
        self.clock.fetch_add(nanos, Relaxed);
        [self.interp.run(cpu, frame), self.jit.run(cpu, frame)]
    }

    /// The first map whose contents differ.
    pub fn map_difference(&self) -> Option<String> {
        let (interp, jit) = (&self.interp.vm, &self.jit.vm);
        for def in interp.maps() {
            let (a, b) = (contents(interp, &def), contents(jit, &def));
            if a != b {
                let differ = a.iter().zip(&b).find(|(a, b)| a != b);
                return Some(format!(
                    "map {}: {} entries interpreted, {} compiled, {differ:02x?}",
                    def.name,
                    a.len(),
                    b.len(),
                ));
            }
        }
        None
    }
}

fn vm(kind: EngineKind, clock: &Arc<AtomicU64>) -> Vm {
    let file = std::env::var_os("SQUALUS_FUZZ_OBJECT");
    let file = file.map(|path| std::fs::read(path).expect("the object can be read"));
    let subject = balancer::subject(file.as_deref().unwrap_or(OBJECT), &[]);
    let mut object = Object::parse(&subject.object).expect("the object is well-formed");
    for map in &mut object.maps {
        let inner = subject.inner.iter().find(|(name, _)| *name == map.def.name);
        if let Some((_, inner)) = inner {
            map.def.inner = Some(Box::new(inner.clone()));
        }
    }
    let builder = VmBuilder::new(object).engine(kind).cpus(CPUS).seed(SEED);
    let vm = builder.clock(Clock::Manual(Arc::clone(clock))).build();
    let mut vm = vm.expect("the object loads");
    for step in Generator::new(SEED).setup() {
        step.perform(&mut vm);
    }
    vm
}

impl Interpreted {
    fn new(vm: Vm, clock: &Arc<AtomicU64>) -> Interpreted {
        let env = |cpu: u32| {
            // As the machine's own workers'.
            let rng = Rng::seeded(SEED ^ u64::from(cpu) << 32);
            Env::new(cpu, Clock::Manual(Arc::clone(clock)), rng)
        };
        let mut interp = Interp::new();
        interp.count_visits(&VISITS);
        Interpreted {
            entry: entry(&vm),
            interp,
            envs: (0..CPUS).map(env).collect(),
            vm,
        }
    }

    fn run(&mut self, cpu: usize, frame: &[u8]) -> Outcome {
        let mut buffer = GuardedBuffer::new(frame);
        let mut frame = buffer.frame();
        let (programs, env) = (self.vm.linked(), &mut self.envs[cpu]);
        // SAFETY: nobody removes an inner map: maps are changed before the first run only.
        let result = unsafe { self.interp.run(programs, self.entry, env, &mut frame) };
        let outcome = match result {
            Ok(value) => returned(value, &frame),
            Err(trap) => Outcome::Trapped(trap.reason),
        };
        buffer.check();
        outcome
    }
}

impl Compiled {
    fn new(vm: Vm) -> Compiled {
        let program = vm.programs().swap_remove(entry(&vm));
        let worker = |cpu| vm.worker(&program, cpu).expect("program and CPU exist");
        Compiled {
            workers: (0..CPUS).map(worker).collect(),
            vm,
        }
    }

    fn run(&mut self, cpu: usize, frame: &[u8]) -> Outcome {
        let mut buffer = GuardedBuffer::new(frame);
        let mut frame = buffer.frame();
        let worker = &mut self.workers[cpu];
        let value = worker.run(&mut frame);
        let outcome = match worker.last_trap() {
            Some(trap) => Outcome::Trapped(trap.reason),
            None => returned(value, &frame),
        };
        buffer.check();
        outcome
    }
}

/// The program's number.
fn entry(vm: &Vm) -> usize {
    let programs = vm.programs();
    let entry = programs.iter().position(|name| name == balancer::PROGRAM);
    entry.expect("the object is a balancer")
}

fn returned(value: u64, frame: &FrameRef<'_>) -> Outcome {
    Outcome::Returned {
        value,
        packet: frame.packet().to_vec(),
        metadata: frame.metadata().to_vec(),
        redirect: frame.redirect(),
    }
}

type Contents = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// What a map holds, in the map's own order, which is the same in both engines.
fn contents(vm: &Vm, def: &MapDef) -> Contents {
    if def.max_entries > MAX_COMPARED || def.kind == MapType::ProgArray {
        return Contents::new();
    }
    if def.kind.is_map_in_map() {
        let inner = |key| MapRef::Inner {
            outer: &def.name,
            key,
        };
        // Those for CPUs; others hold what the control plane put there.
        let keys = [0u32, 1].map(u32::to_ne_bytes);
        return keys
            .iter()
            .flat_map(|key| entries(vm, inner(key)))
            .collect();
    }
    entries(vm, MapRef::Name(&def.name))
}

fn entries(vm: &Vm, map: MapRef<'_>) -> Contents {
    let mut contents = Contents::new();
    let mut key = vm.next_key(map, None).ok().flatten();
    while let Some(current) = key {
        key = vm.next_key(map, Some(&current)).ok().flatten();
        let value = vm.lookup(map, &current).ok().flatten();
        contents.push((current, value));
    }
    contents
}
