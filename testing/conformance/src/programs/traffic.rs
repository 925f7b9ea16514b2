//! What random programs run on, and where: bursts of frames, with changes from the control side in between.
//!
//! The engines get the frames one by one. With compiled code goes a second machine, as `squalus serve` has it:
//! it runs whole bursts, counts what runs, is compiled anew for that and for what maps hold that the program only
//! reads, and must not show it.

use std::fmt;

use squalus_engine::{Engine, TestRun};
use squalus_isa::{UpdateFlags, Verdict};
use squalus_kernel::KernelEngine;
use squalus_runtime::FrameMemory;
use squalus_vm::{EngineKind, Pass, Tiering, Vm, VmBuilder, Worker};

use super::{
    ARRAYS, Agreed, DEEP, HASHES, NAME, OTHER, Program, constants, deep, disassembly, frame,
    inner_def, map_defs, other,
};
use crate::Rng;
use crate::case::{MapName, Outcome, Step};
use crate::compare::{Hex, Watch, compare_maps};
use crate::engines::{Kind, LoadError, cpus};
use crate::programs::Unit;

/// How many runs are counted before programs are compiled anew.
const COUNTED: u64 = 3;

/// Bursts of frames, and what happens between them.
#[derive(Clone, Debug)]
pub struct Traffic {
    events: Vec<Event>,
}

#[derive(Clone, Debug)]
enum Event {
    /// Frames that come together, to a CPU.
    Burst(u32, Vec<Vec<u8>>),
    /// The control side changes a map.
    Change(Step),
    /// Code is made for what ran, where that is done.
    Settle,
    /// What runs is counted again.
    Recount,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Burst(cpu, frames) => {
                write!(f, "burst on CPU {cpu}")?;
                frames
                    .iter()
                    .try_for_each(|frame| write!(f, "\n  frame {}", Hex(frame)))
            }
            Event::Change(step) => write!(f, "{step}"),
            Event::Settle => f.write_str("settle"),
            Event::Recount => f.write_str("recount"),
        }
    }
}

/// A program on which engines differ.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// The program; instructions that don't matter are gone.
    pub program: Program,
    /// What it ran on.
    pub traffic: Traffic,
    /// What each engine made of it.
    pub results: Vec<(&'static str, String)>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.program.assemble();
        writeln!(f, "{}", disassembly(&code))?;
        writeln!(f, "passes {}", self.program.passes)?;
        let mut events = self.traffic.events.iter();
        events.try_for_each(|event| writeln!(f, "{event}"))?;
        let mut results = self.results.iter();
        results.try_for_each(|(name, result)| writeln!(f, "{name:8} {result}"))
    }
}

impl Traffic {
    /// So many frames, in bursts, with changes of maps and compilations in between; of `inner` maps too.
    #[must_use]
    pub fn random(rng: &mut Rng, frames: usize, inner: bool) -> Traffic {
        let mut events = Vec::new();
        for _ in 0..rng.below(6) {
            events.push(change(rng, inner));
        }
        if inner {
            events.extend((0..5).map(|n| Event::Change(new_inner(rng, n))));
        }
        let cpus = squalus_kernel::usable_cpus();
        let cpus = if rng.percent(60) { &cpus[..1] } else { &cpus };
        let mut left = frames;
        while left != 0 {
            let most = match rng.below(3) {
                0 => left,
                1 => left.min(1),
                _ => left.min(5),
            };
            let burst = rng.between(1, most);
            let burst_frames = (0..burst).map(|_| frame(rng)).collect();
            events.push(Event::Burst(*rng.pick(cpus), burst_frames));
            left -= burst;
            match rng.below(10) {
                0..3 => events.push(Event::Settle),
                3 => events.push(Event::Recount),
                4..6 => events.extend((0..rng.between(1, 3)).map(|_| change(rng, inner))),
                _ => {}
            }
        }
        Traffic { events }
    }

    /// Without one event, or without one frame of it.
    fn without(&self, event: usize, frame: Option<usize>) -> Traffic {
        let mut events = self.events.clone();
        match (&mut events[event], frame) {
            (Event::Burst(_, frames), Some(frame)) => drop(frames.remove(frame)),
            _ => drop(events.remove(event)),
        }
        Traffic { events }
    }
}

/// A new inner map in one of the places.
fn new_inner(rng: &mut Rng, place: usize) -> Step {
    let outer = *rng.pick(&[ARRAYS, HASHES]);
    Step::CreateInner {
        outer: outer.to_owned(),
        key: (place as u32).to_ne_bytes().to_vec(),
        def: inner_def(outer, *rng.pick(&[8, 8, 2, 30])),
    }
}

/// A change of a map from the control side, often of one that the program only reads.
fn change(rng: &mut Rng, inner: bool) -> Event {
    let outer = match rng.below(if inner { 5 } else { 0 }) {
        1 => {
            let place = rng.below(6);
            return Event::Change(new_inner(rng, place));
        }
        2 => Some((*rng.pick(&[ARRAYS, HASHES]), rng.below(5) as u8)),
        3 => {
            let outer = *rng.pick(&[ARRAYS, HASHES]);
            let key = vec![rng.below(5) as u8, 0, 0, 0];
            return Event::Change(Step::Delete {
                map: outer.into(),
                key,
            });
        }
        _ => None,
    };
    let (map, key_len) = *rng.pick(&[
        ("settings", 4),
        ("table", 4),
        ("table", 4),
        ("hash", 4),
        ("array", 4),
        ("lru", 8),
    ]);
    let mut key = vec![0; key_len];
    key[0] = rng.below(9) as u8;
    let value = match rng.percent(40) {
        true => vec![rng.below(4) as u8; 8],
        false => rng.bytes(8),
    };
    let map = match outer {
        Some((outer, place)) => {
            key.truncate(4);
            MapName::Inner(outer.to_owned(), vec![place, 0, 0, 0])
        }
        None => map.into(),
    };
    Event::Change(match rng.percent(75) {
        true => Step::Update {
            map,
            key,
            value,
            flags: UpdateFlags::ANY,
        },
        false => Step::Delete { map, key },
    })
}

/// What a frame or a change came to.
#[derive(Clone, Debug)]
enum Ran {
    /// Verdict, bytes, and the whole number returned where that is known.
    Frame(Verdict, Vec<u8>, Option<u32>),
    Changed(Outcome),
    Failed(String),
}

impl Ran {
    fn differs(&self, other: &Ran) -> bool {
        match (self, other) {
            (Ran::Frame(verdict, bytes, value), Ran::Frame(v, b, other)) => {
                let values = value.zip(*other);
                verdict != v || bytes != b || values.is_some_and(|(a, b)| a != b)
            }
            (Ran::Changed(outcome), Ran::Changed(other)) => outcome != other,
            _ => true,
        }
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ran::Frame(_, bytes, Some(value)) => write!(f, "{value:#x} {}", Hex(bytes)),
            Ran::Frame(verdict, bytes, None) => write!(f, "{verdict} {}", Hex(bytes)),
            Ran::Changed(outcome) => write!(f, "{outcome}"),
            Ran::Failed(reason) => f.write_str(reason),
        }
    }
}

/// Something that has a program and maps of its own.
trait Machine {
    fn name(&self) -> &'static str;
    fn burst(&mut self, cpu: u32, frames: &[Vec<u8>]) -> Vec<Ran>;
    fn engine(&mut self) -> &mut dyn Engine;
    fn maps(&self) -> &dyn Engine;
    fn settle(&mut self, _again: bool) {}
}

impl Machine for Box<dyn Engine> {
    fn name(&self) -> &'static str {
        Engine::name(&**self)
    }

    fn burst(&mut self, cpu: u32, frames: &[Vec<u8>]) -> Vec<Ran> {
        let runs = frames.iter().map(|frame| TestRun {
            cpu,
            ..TestRun::once(frame)
        });
        runs.map(|run| match self.test_run(NAME, &run) {
            Ok(result) => {
                let verdict = Verdict::from_return(result.return_value.into());
                Ran::Frame(verdict, result.frame, Some(result.return_value))
            }
            Err(error) => Ran::Failed(error.to_string()),
        })
        .collect()
    }

    fn engine(&mut self) -> &mut dyn Engine {
        &mut **self
    }

    fn maps(&self) -> &dyn Engine {
        &**self
    }
}

/// A machine as `squalus serve` has it.
struct Served {
    vm: Vm,
    /// By CPU.
    workers: Vec<Worker>,
}

impl Machine for Served {
    fn name(&self) -> &'static str {
        "served"
    }

    fn burst(&mut self, cpu: u32, frames: &[Vec<u8>]) -> Vec<Ran> {
        let memory = |frame: &Vec<u8>| {
            let mut memory = FrameMemory::new();
            memory.set(frame).expect("frames are of valid lengths");
            memory
        };
        let mut memories: Vec<FrameMemory> = frames.iter().map(memory).collect();
        let frames = memories.iter_mut().map(FrameMemory::frame);
        let mut frames: Vec<_> = frames.map(|frame| frame.expect("it was set")).collect();
        let mut verdicts = vec![Verdict::Aborted; frames.len()];
        let worker = &mut self.workers[cpu as usize];
        worker.run_burst(&mut frames, &mut verdicts);
        worker.pause();
        let ran = frames.iter().zip(verdicts);
        ran.map(|(frame, verdict)| {
            let bytes = [frame.metadata(), frame.packet()].concat();
            Ran::Frame(verdict, bytes, None)
        })
        .collect()
    }

    fn engine(&mut self) -> &mut dyn Engine {
        &mut self.vm
    }

    fn maps(&self) -> &dyn Engine {
        &self.vm
    }

    fn settle(&mut self, again: bool) {
        match again {
            true => self.vm.recount(),
            false => self.vm.settle(),
        };
    }
}

impl Program {
    /// Runs it on the traffic in each engine and compares everything; the first disagreement, made small.
    ///
    /// # Errors
    /// If an engine refuses the program.
    pub fn compare(
        &self,
        kinds: &[Kind],
        traffic: &Traffic,
    ) -> Result<(Option<Disagreement>, Agreed), LoadError> {
        let mut kinds = kinds.to_vec();
        let mut result = self.results(&kinds, traffic);
        let without_kernel = result.as_ref().is_err_and(is_not_judged);
        if without_kernel {
            kinds.retain(|kind| *kind != Kind::Kernel);
            result = self.results(&kinds, traffic);
        }
        let disagreement = result?.map(|results| self.minimise(&kinds, traffic, results));
        Ok((disagreement, Agreed { without_kernel }))
    }

    /// What the engines made of the first event on which they differ, or of the maps.
    fn results(
        &self,
        kinds: &[Kind],
        traffic: &Traffic,
    ) -> Result<Option<Vec<(&'static str, String)>>, LoadError> {
        let mut machines = self.load(kinds)?;
        for event in &traffic.events {
            let results: Vec<Vec<Ran>> = machines
                .iter_mut()
                .map(|m| perform(&mut **m, event))
                .collect();
            let first = results.first().map_or(0, Vec::len);
            for at in 0..first {
                if results.iter().any(|ran| ran[at].differs(&results[0][at])) {
                    let names = machines.iter().map(|machine| machine.name());
                    let texts = results.iter().map(|ran| ran[at].to_string());
                    return Ok(Some(names.zip(texts).collect()));
                }
            }
        }
        let maps = differences_of_maps(&machines);
        let differ = maps.iter().any(|(_, differences)| !differences.is_empty());
        Ok(differ.then_some(maps))
    }

    fn load(&self, kinds: &[Kind]) -> Result<Vec<Box<dyn Machine>>, LoadError> {
        let mut machines: Vec<Box<dyn Machine>> = Vec::new();
        for kind in kinds {
            machines.push(Box::new(self.load_one(*kind)?));
        }
        if kinds.contains(&Kind::Jit) {
            machines.push(Box::new(self.served()?));
        }
        for machine in &mut machines {
            for (index, program) in [(0, NAME), (1, OTHER), (2, DEEP)] {
                let step = Step::SetProgram {
                    map: "programs".to_owned(),
                    index,
                    program: program.to_owned(),
                };
                step.perform(machine.engine());
            }
        }
        Ok(machines)
    }

    fn programs(&self) -> Vec<(String, Vec<squalus_isa::Insn>)> {
        vec![
            (NAME.to_owned(), self.assemble()),
            (OTHER.to_owned(), other()),
            (DEEP.to_owned(), deep()),
        ]
    }

    fn refused(&self, engine: Kind, error: &dyn std::error::Error) -> LoadError {
        let reason = format!("{error}\n{}", disassembly(&self.assemble()));
        LoadError { engine, reason }
    }

    fn builder(&self, kind: EngineKind) -> VmBuilder {
        let builder = VmBuilder::assembled(map_defs(), self.programs()).engine(kind);
        let builder = constants()
            .into_iter()
            .fold(builder, |builder, (map, value)| {
                builder.constant(map, value)
            });
        builder.cpus(cpus()).check_facts().passes(self.passes)
    }

    fn load_one(&self, kind: Kind) -> Result<Box<dyn Engine>, LoadError> {
        let vm = match kind {
            Kind::Kernel => {
                let (maps, programs) = (map_defs(), self.programs());
                let engine = KernelEngine::assembled_with(maps, &constants(), programs);
                return match engine {
                    Ok(engine) => Ok(Box::new(engine)),
                    Err(error) => Err(self.refused(kind, &error)),
                };
            }
            Kind::Interp => EngineKind::Interp,
            Kind::Jit => EngineKind::Jit,
        };
        let vm = self.builder(vm).build();
        let vm = vm.map_err(|error| self.refused(kind, &error))?;
        Ok(Box::new(vm))
    }

    fn served(&self) -> Result<Served, LoadError> {
        let builder = self.builder(EngineKind::Jit).specialise(true);
        let vm = builder
            .tiering(Tiering::Untimed)
            .counted_runs(COUNTED)
            .build();
        let vm = vm.map_err(|error| self.refused(Kind::Jit, &error))?;
        let worker = |cpu| {
            let mut worker = vm.worker(NAME, cpu).expect("program and CPU are there");
            worker.pause();
            worker
        };
        let workers = (0..cpus()).map(worker).collect();
        Ok(Served { vm, workers })
    }

    /// Leaves out events, frames, operations and passes while the engines still disagree.
    fn minimise(
        &self,
        kinds: &[Kind],
        traffic: &Traffic,
        results: Vec<(&'static str, String)>,
    ) -> Disagreement {
        let mut best = Disagreement {
            program: self.clone(),
            traffic: traffic.clone(),
            results,
        };
        for event in (0..traffic.events.len()).rev() {
            let shorter = best.traffic.without(event, None);
            if best.replace_if_worse(kinds, self.clone(), shorter) {
                continue;
            }
            if let Event::Burst(_, frames) = &traffic.events[event] {
                for frame in (0..frames.len()).rev() {
                    let shorter = best.traffic.without(event, Some(frame));
                    best.replace_if_worse(kinds, self.clone(), shorter);
                }
            }
        }
        for at in (0..self.body.len()).rev() {
            let mut program = best.program.clone();
            program.body[at] = Unit::Code(Vec::new());
            let traffic = best.traffic.clone();
            best.replace_if_worse(kinds, program, traffic);
        }
        for pass in Pass::ALL {
            let mut program = best.program.clone();
            program.passes = program.passes.without(pass);
            let traffic = best.traffic.clone();
            best.replace_if_worse(kinds, program, traffic);
        }
        best
    }
}

impl Disagreement {
    /// Takes a smaller case if the engines disagree on it too.
    fn replace_if_worse(&mut self, kinds: &[Kind], program: Program, traffic: Traffic) -> bool {
        match program.results(kinds, &traffic) {
            Ok(Some(results)) => {
                *self = Disagreement {
                    program,
                    traffic,
                    results,
                };
                true
            }
            _ => false,
        }
    }
}

fn perform(machine: &mut dyn Machine, event: &Event) -> Vec<Ran> {
    match event {
        Event::Burst(cpu, frames) => return machine.burst(*cpu, frames),
        Event::Change(step) => return vec![Ran::Changed(step.apply(machine.engine()))],
        Event::Settle => machine.settle(false),
        Event::Recount => machine.settle(true),
    }
    Vec::new()
}

/// Whether the kernel refuses a program that is valid: it would have too much to look at, or runs into a bug of its
/// own. Linux 6.18 at least does if a callback stands in code that it finds to be dead.
fn is_not_judged(error: &LoadError) -> bool {
    let reasons = ["is too large", "is too complex", "verifier bug"];
    error.engine == Kind::Kernel && reasons.iter().any(|text| error.reason.contains(text))
}

/// How what the maps hold differs from the first machine's, of each machine.
fn differences_of_maps(machines: &[Box<dyn Machine>]) -> Vec<(&'static str, String)> {
    let Some(first) = machines.first() else {
        return Vec::new();
    };
    let differences = |machine: &dyn Machine| {
        let differences = compare_maps(&[first.maps(), machine.maps()], &Watch::default());
        let texts: Vec<String> = differences.iter().map(ToString::to_string).collect();
        texts.join("\n")
    };
    let machines = machines.iter();
    machines
        .map(|machine| (machine.name(), differences(&**machine)))
        .collect()
}

/// What a program leaves of a frame, on the interpreter.
#[cfg(test)]
pub(super) fn after(program: &Program, frame: &[u8]) -> Vec<u8> {
    let mut engine = program.load_one(Kind::Interp).expect("it loads");
    let result = engine.test_run(NAME, &TestRun::once(frame));
    result.expect("it runs").frame
}

#[cfg(test)]
mod tests {
    use squalus_vm::Passes;

    use super::*;

    #[test]
    fn served_programs_are_compiled_anew() {
        let (mut hot, mut special) = (0, 0);
        for seed in 0..16 {
            let rng = &mut Rng::new(seed);
            let program = Program {
                passes: Passes::ALL,
                ..Program::random(rng, 20)
            };
            let mut served = program.served().expect("it loads");
            for event in Traffic::random(rng, 12, false).events {
                perform(&mut served, &event);
            }
            let code = served.vm.code().expect("it is compiled in the background");
            hot += u32::from(code.compiled != 0);
            special += u32::from(code.specialised != 0);
        }
        assert!(hot >= 4 && special >= 4, "{hot} and {special} of 16");
    }

    /// The passes that change something in a program.
    fn changing(program: &Program) -> Vec<&'static str> {
        let vm = program.builder(EngineKind::Jit).keep_text().build();
        let code = vm
            .expect("it loads")
            .machine_code()
            .expect("it is compiled");
        let stages = code.programs()[0].ssa().expect("it was kept");
        let names = Pass::ALL.map(Pass::name).into_iter();
        names
            .filter(|name| {
                let mut steps = stages.windows(2).filter(|step| step[1].0 == *name);
                steps.any(|step| step[0].1.to_string() != step[1].1.to_string())
            })
            .collect()
    }

    #[test]
    fn programs_are_what_passes_work_on() {
        const PROGRAMS: usize = 60;
        let mut counts = Pass::ALL.map(|pass| (pass.name(), 0));
        for seed in 0..PROGRAMS as u64 {
            let program = Program {
                passes: Passes::ALL,
                ..Program::random(&mut Rng::new(seed), 40)
            };
            let changing = changing(&program);
            for (name, count) in &mut counts {
                *count += usize::from(changing.contains(name));
            }
        }
        eprintln!("of {PROGRAMS} programs: {counts:?}");
        for (name, count) in counts {
            let least = match name {
                // Done while the function is built, or to code that knows what maps hold.
                "stack" | "helpers" | "hot" | "relax" | "special" => 0,
                // For lookups in big maps that always come.
                "prefetch" => 0,
                "vector" | "promote" | "merge" => PROGRAMS / 20,
                _ => PROGRAMS / 6,
            };
            assert!(count >= least, "{name} only in {count} of {PROGRAMS}");
        }
    }
}
