//! Random programs: arithmetic, jumps, accesses to stack, packet and map values at fixed and computed places,
//! atomic operations, helpers with maps of several types, a function, tail calls.
//!
//! Each is valid by construction (the kernel's verifier must accept it): registers start from the frame, all
//! jumps go forward, every access is inside its region. At the end all registers, the whole stack and a map
//! value go into the frame, so that a wrong bit anywhere shows; then the maps are compared.
//!
//! Callbacks are missing, because the kernel wants BTF for them, which hand-made programs don't have.
//!
//! Atomic operations that fetch work on the map value only. On the stack the kernel is no judge: up to
//! Linux 6.18 at least its verifier does not follow such an instruction back to the stack slot when a
//! branch depends on what it fetched, takes the slot's content on one path for that on all, and drops code
//! that is live (fixed upstream in 2026: "bpf: Fix incorrect pruning due to atomic fetch precision
//! tracking"). And a 32-bit compare-and-exchange is followed by an explicit zero extension of `r0`, which
//! RFC 9669 (5.3) promises but Linux 6.18 on x86-64 sometimes omits where a branch lies between the
//! instruction and the use of the upper half. This generator ran into both; interpreter and compiled code
//! were right.

mod units;

use squalus_engine::{Engine, TestRun};
use squalus_isa::{Insn, MapDef, MapFlags, MapType, ValueFields, disassemble, opcode as o};
use squalus_kernel::KernelEngine;
use squalus_vm::{EngineKind, Pass, Passes, VmBuilder};

use crate::compare::{Watch, compare_maps};
use crate::engines::{Kind, LoadError, cpus};
use crate::{Rng, Step};
use units::{Unit, unit};

/// Name of the program.
const NAME: &str = "random";
/// The program that tail calls reach, besides the first.
const OTHER: &str = "other";
/// Scalars: everything but the map value, the packet and the frame pointer.
const REGISTERS: [u8; 8] = [0, 1, 2, 3, 4, 5, 8, 9];
/// The context at first, then the map value.
const VALUE: u8 = 6;
const PACKET: u8 = 7;
const FP: u8 = 10;
/// Bytes of stack, all written before the first instruction of interest.
const STACK: i16 = 64;
/// Where in the frame registers come from and go to, and the stack after them.
const WORDS: i16 = 16;
const FRAME: i16 = WORDS + 8 * REGISTERS.len() as i16 + STACK + MAP;
/// Bytes of the map value.
const MAP: i16 = 32;
/// Below the stack that counts: where the context is kept for helpers.
const CONTEXT_AT: i16 = -STACK - 8;
/// More would make the verifier's work explode.
const MAX_JUMPS: usize = 9;

/// A program, in parts: the middle is what is generated, and what is cut when it is minimised.
#[derive(Clone, Debug)]
pub struct Program {
    body: Vec<Unit>,
    /// The function that it may call.
    function: Vec<Insn>,
    /// The passes of the optimizer that it goes through.
    passes: Passes,
}

/// A program on which engines differ.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// The program; instructions that don't matter are gone.
    pub program: Program,
    /// The frames it ran on.
    pub frames: Vec<Vec<u8>>,
    /// What each engine made of it.
    pub results: Vec<(&'static str, String)>,
}

impl std::fmt::Display for Disagreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.program.assemble();
        writeln!(f, "{}", disassembly(&code))?;
        let passes = Pass::ALL.into_iter();
        let passes = passes.filter(|pass| self.program.passes.has(*pass));
        let passes: Vec<&str> = passes.map(Pass::name).collect();
        writeln!(f, "passes {}", passes.join(","))?;
        for frame in &self.frames {
            writeln!(f, "frame {}", crate::compare::Hex(frame))?;
        }
        let results = self.results.iter();
        results
            .into_iter()
            .try_for_each(|(name, result)| writeln!(f, "{name:8} {result}"))
    }
}

fn disassembly(code: &[Insn]) -> String {
    disassemble(code).unwrap_or_else(|error| error.to_string())
}

/// The maps, by their numbers; 0 is the one of the map value.
mod maps {
    pub(super) const HASH: i32 = 1;
    pub(super) const PER_CPU_HASH: i32 = 2;
    pub(super) const TRIE: i32 = 3;
    pub(super) const ARRAY: i32 = 4;
    pub(super) const QUEUE: i32 = 5;
    pub(super) const STACK: i32 = 6;
    pub(super) const BLOOM: i32 = 7;
    pub(super) const PROGRAMS: i32 = 8;
    pub(super) const DEVICES: i32 = 9;
    pub(super) const RING: i32 = 10;
}

fn map_defs() -> Vec<MapDef> {
    let map = |name: &str, kind, key_size, value_size: u32, max_entries| MapDef {
        name: name.to_owned(),
        kind,
        key_size,
        value_size,
        max_entries,
        flags: MapFlags::default(),
        inner: None,
        extra: 0,
        fields: ValueFields::default(),
    };
    vec![
        map("value", MapType::Array, 4, MAP as u32, 1),
        map("hash", MapType::Hash, 4, 8, 8),
        map("percpu", MapType::PerCpuHash, 8, 8, 8),
        MapDef {
            flags: MapFlags::NO_PREALLOC,
            ..map("trie", MapType::LpmTrie, 8, 8, 8)
        },
        map("array", MapType::Array, 4, 8, 8),
        map("queue", MapType::Queue, 0, 8, 4),
        map("stack", MapType::Stack, 0, 8, 4),
        map("bloom", MapType::BloomFilter, 0, 8, 16),
        map("programs", MapType::ProgArray, 4, 4, 4),
        map("devices", MapType::DevMap, 4, 4, 4),
        map("ring", MapType::RingBuf, 0, 0, 4096),
    ]
}

fn insn(op: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        op,
        dst,
        src,
        off,
        imm,
    }
}

/// All passes, or any of them.
fn passes(rng: &mut Rng) -> Passes {
    if rng.percent(50) {
        return Passes::ALL;
    }
    let wanted = Pass::ALL.into_iter().filter(|_| rng.percent(50));
    wanted.fold(Passes::NONE, Passes::with)
}

impl Program {
    /// A program of about `len` operations.
    #[must_use]
    pub fn random(rng: &mut Rng, len: usize) -> Program {
        let mut body = Vec::with_capacity(len);
        let mut jumps = 0;
        for at in 0..len {
            let left = len - at - 1;
            if jumps < MAX_JUMPS && left > 2 && rng.percent(12) {
                jumps += 1;
                body.push(jump(rng, left));
            } else {
                body.push(unit(rng));
            }
        }
        Program {
            body,
            function: units::function(rng),
            passes: passes(rng),
        }
    }

    /// The whole program.
    #[must_use]
    pub fn assemble(&self) -> Vec<Insn> {
        let mut code = prologue();
        let mut starts = Vec::with_capacity(self.body.len() + 1);
        let mut at = code.len();
        for unit in &self.body {
            starts.push(at);
            at += unit.len();
        }
        starts.push(at);
        let function = at + epilogue().len();
        let mut calls = false;
        for (place, unit) in self.body.iter().enumerate() {
            match unit {
                Unit::Jump { insn, over } => {
                    let target = starts[(place + 1 + over).min(self.body.len())];
                    let off = (target - starts[place] - 1) as i16;
                    code.push(Insn { off, ..*insn });
                }
                Unit::Code(insns) => {
                    for insn in insns {
                        let mut insn = *insn;
                        if insn.op == o::JMP | o::CALL && insn.src == o::PSEUDO_CALL {
                            calls = true;
                            insn.imm = (function - code.len() - 1) as i32;
                        }
                        code.push(insn);
                    }
                }
            }
        }
        code.extend(epilogue());
        // What nothing calls is refused.
        if calls {
            code.extend(&self.function);
        }
        code
    }

    /// Loads it into each engine.
    ///
    /// # Errors
    /// If one refuses it.
    pub fn load(&self, kinds: &[Kind]) -> Result<Vec<Box<dyn Engine>>, LoadError> {
        let load = |kind: &Kind| {
            let mut engine = self.load_one(*kind)?;
            for (index, program) in [(0, NAME), (1, OTHER)] {
                let step = Step::SetProgram {
                    map: "programs".to_owned(),
                    index,
                    program: program.to_owned(),
                };
                step.perform(&mut *engine);
            }
            Ok(engine)
        };
        kinds.iter().map(load).collect()
    }

    fn load_one(&self, kind: Kind) -> Result<Box<dyn Engine>, LoadError> {
        let programs = vec![
            (NAME.to_owned(), self.assemble()),
            (OTHER.to_owned(), other()),
        ];
        let maps = map_defs();
        let failed = |error: &dyn std::error::Error| LoadError {
            engine: kind,
            reason: format!("{error}\n{}", disassembly(&self.assemble())),
        };
        let vm = match kind {
            Kind::Kernel => {
                let engine = KernelEngine::assembled(maps, programs);
                return engine
                    .map(|e| Box::new(e) as _)
                    .map_err(|error| failed(&error));
            }
            Kind::Interp => EngineKind::Interp,
            Kind::Jit => EngineKind::Jit,
        };
        let engine = VmBuilder::assembled(maps, programs)
            .engine(vm)
            .cpus(cpus())
            .check_facts()
            .passes(self.passes)
            .build();
        engine
            .map(|e| Box::new(e) as _)
            .map_err(|error| failed(&error))
    }

    /// Runs it on each frame in each engine, then compares the maps; the first disagreement, made small.
    ///
    /// # Errors
    /// If an engine refuses the program.
    pub fn compare(
        &self,
        kinds: &[Kind],
        frames: &[Vec<u8>],
    ) -> Result<Option<Disagreement>, LoadError> {
        let mut engines = self.load(kinds)?;
        for (at, frame) in frames.iter().enumerate() {
            let results = run(&mut engines, frame);
            if differ(&results) {
                return Ok(Some(self.minimise(kinds, &frames[..=at], results)));
            }
        }
        let results = maps_of(&engines);
        Ok(differ(&results).then(|| self.minimise(kinds, frames, results)))
    }

    /// What the engines make of these frames, one after the other: of the last one, or of the maps.
    fn results(&self, kinds: &[Kind], frames: &[Vec<u8>]) -> Option<Vec<(&'static str, String)>> {
        let mut engines = self.load(kinds).ok()?;
        let mut last = None;
        for frame in frames {
            let results = run(&mut engines, frame);
            if differ(&results) {
                return Some(results);
            }
            last = Some(results);
        }
        let maps = maps_of(&engines);
        if differ(&maps) { Some(maps) } else { last }
    }

    /// Leaves out frames and operations while the engines still disagree.
    fn minimise(
        &self,
        kinds: &[Kind],
        frames: &[Vec<u8>],
        results: Vec<(&'static str, String)>,
    ) -> Disagreement {
        let mut best = Disagreement {
            program: self.clone(),
            frames: frames.to_vec(),
            results,
        };
        if let Some(last) = frames.last() {
            let alone = vec![last.clone()];
            best.replace_if_worse(kinds, self.clone(), alone);
        }
        for at in (0..self.body.len()).rev() {
            let mut program = best.program.clone();
            program.body[at] = Unit::Code(Vec::new());
            let frames = best.frames.clone();
            best.replace_if_worse(kinds, program, frames);
        }
        best
    }
}

impl Disagreement {
    /// Takes a smaller case if the engines disagree on it too.
    fn replace_if_worse(&mut self, kinds: &[Kind], program: Program, frames: Vec<Vec<u8>>) {
        if let Some(results) = program.results(kinds, &frames)
            && differ(&results)
        {
            *self = Disagreement {
                program,
                frames,
                results,
            };
        }
    }
}

/// How what the maps hold differs from the first engine's, of each engine.
fn maps_of(engines: &[Box<dyn Engine>]) -> Vec<(&'static str, String)> {
    let Some(first) = engines.first() else {
        return Vec::new();
    };
    let differences = |engine: &dyn Engine| {
        let differences = compare_maps(&[&**first, engine], &Watch::default());
        let texts: Vec<String> = differences.iter().map(ToString::to_string).collect();
        texts.join("\n")
    };
    let engines = engines.iter();
    engines
        .map(|engine| (engine.name(), differences(&**engine)))
        .collect()
}

fn run(engines: &mut [Box<dyn Engine>], frame: &[u8]) -> Vec<(&'static str, String)> {
    let engines = engines.iter_mut();
    engines
        .map(|engine| {
            let result = match engine.test_run(NAME, &TestRun::once(frame)) {
                Ok(result) => {
                    let bytes = crate::compare::Hex(&result.frame);
                    format!("{:#x} {bytes}", result.return_value)
                }
                Err(error) => error.to_string(),
            };
            (engine.name(), result)
        })
        .collect()
}

fn differ(results: &[(&'static str, String)]) -> bool {
    results.windows(2).any(|pair| pair[0].1 != pair[1].1)
}

/// Engines disagree, or one refuses a program that all must take.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// An engine refuses it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// They disagree.
    #[error("engines disagree\n{0}")]
    Disagree(Box<Disagreement>),
}

/// Compares engines on the program that `rng` makes, and on `frames` frames.
///
/// # Errors
/// If they disagree, or one refuses the program.
pub fn compare_random(rng: &mut Rng, kinds: &[Kind], frames: usize) -> Result<(), ProgramError> {
    let len = rng.between(5, 60);
    let program = Program::random(rng, len);
    let frames: Vec<Vec<u8>> = (0..frames).map(|_| frame(rng)).collect();
    match program.compare(kinds, &frames)? {
        None => Ok(()),
        Some(disagreement) => Err(ProgramError::Disagree(Box::new(disagreement))),
    }
}

/// Frames that programs start from: words of any value, and those at the edges of types.
#[must_use]
pub fn frame(rng: &mut Rng) -> Vec<u8> {
    let mut frame = rng.bytes(FRAME as usize);
    let words = frame[WORDS as usize..].as_chunks_mut::<8>().0;
    for word in words {
        let edge = *rng.pick(&[
            0,
            1,
            u64::MAX,
            i64::MIN as u64,
            i64::MAX as u64,
            0x8000_0000,
            0x7fff_ffff,
            0xffff_ffff,
            0xffff_ffff_8000_0000,
            0x1_0000_0000,
            31,
            63,
            64,
            0x80,
            0x8000,
        ]);
        if rng.percent(60) {
            *word = edge.to_le_bytes();
        }
    }
    frame
}

fn load(size: u8, dst: u8, base: u8, off: i16) -> Insn {
    insn(o::LDX | o::MEM | size, dst, base, off, 0)
}

fn store(size: u8, base: u8, off: i16, src: u8) -> Insn {
    insn(o::STX | o::MEM | size, base, src, off, 0)
}

/// Checks the frame's length, fills stack and registers from it.
fn prologue() -> Vec<Insn> {
    let mut code = vec![
        store(o::DW, FP, CONTEXT_AT, 1),
        insn(o::ALU64 | o::MOV | o::X, VALUE, 1, 0, 0),
        load(o::W, PACKET, VALUE, 0),
        load(o::W, 2, VALUE, 4),
        insn(o::ALU64 | o::MOV | o::X, 3, PACKET, 0, 0),
        insn(o::ALU64 | o::ADD | o::K, 3, 0, 0, FRAME.into()),
        insn(o::JMP | o::JLE | o::X, 3, 2, 2, 0),
        insn(o::ALU64 | o::MOV | o::K, 0, 0, 0, 1),
        insn(o::JMP | o::EXIT, 0, 0, 0, 0),
        insn(o::LD_IMM64, VALUE, o::PSEUDO_MAP_VALUE, 0, 0),
        insn(0, 0, 0, 0, 0),
    ];
    let registers = 8 * REGISTERS.len() as i16;
    for at in (0..STACK).step_by(8) {
        code.push(load(o::DW, 0, PACKET, WORDS + registers + at));
        code.push(store(o::DW, FP, at - STACK, 0));
    }
    for at in (0..MAP).step_by(8) {
        code.push(load(o::DW, 0, PACKET, FRAME - MAP + at));
        code.push(store(o::DW, VALUE, at, 0));
    }
    for (place, register) in (0..).zip(REGISTERS) {
        code.push(load(o::DW, register, PACKET, WORDS + 8 * place));
    }
    code
}

/// What tail calls reach.
fn other() -> Vec<Insn> {
    vec![
        insn(o::ALU64 | o::MOV | o::K, 0, 0, 0, 3),
        insn(o::JMP | o::EXIT, 0, 0, 0, 0),
    ]
}

/// All that the program computed goes into the frame.
fn epilogue() -> Vec<Insn> {
    let mut code = Vec::new();
    for (place, register) in (0..).zip(REGISTERS) {
        code.push(store(o::DW, PACKET, WORDS + 8 * place, register));
    }
    let registers = 8 * REGISTERS.len() as i16;
    for at in (0..STACK).step_by(8) {
        code.push(load(o::DW, 1, FP, at - STACK));
        code.push(store(o::DW, PACKET, WORDS + registers + at, 1));
    }
    for at in (0..MAP).step_by(8) {
        code.push(load(o::DW, 1, VALUE, at));
        code.push(store(o::DW, PACKET, FRAME - MAP + at, 1));
    }
    code.push(insn(o::JMP | o::EXIT, 0, 0, 0, 0));
    code
}

fn register(rng: &mut Rng) -> u8 {
    *rng.pick(&REGISTERS)
}

fn immediate(rng: &mut Rng) -> i32 {
    match rng.below(4) {
        0 => rng.word() as i32,
        1 => *rng.pick(&[0, 1, -1, i32::MIN, i32::MAX, 0xff, 0xffff, 0x8000]),
        _ => rng.between(0, 64) as i32 - 16,
    }
}

/// A conditional jump over at most `left` operations.
fn jump(rng: &mut Rng, left: usize) -> Unit {
    let conditions = [
        o::JEQ,
        o::JNE,
        o::JGT,
        o::JGE,
        o::JLT,
        o::JLE,
        o::JSET,
        o::JSGT,
        o::JSGE,
        o::JSLT,
        o::JSLE,
    ];
    let class = *rng.pick(&[o::JMP, o::JMP32]);
    let condition = *rng.pick(&conditions);
    let over = rng.between(1, left.min(8));
    let dst = register(rng);
    let insn = if rng.percent(50) {
        insn(class | condition | o::X, dst, register(rng), 0, 0)
    } else {
        insn(class | condition | o::K, dst, 0, 0, immediate(rng))
    };
    Unit::Jump { insn, over }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `body` leaves in the frame, on the interpreter.
    fn after(body: Vec<Insn>, frame: &[u8]) -> Vec<u8> {
        let program = Program {
            body: vec![Unit::Code(body)],
            function: Vec::new(),
            passes: Passes::ALL,
        };
        let mut engines = program.load(&[Kind::Interp]).expect("it loads");
        let result = engines[0].test_run(NAME, &TestRun::once(frame));
        result.expect("it runs").frame
    }

    #[test]
    fn every_register_and_the_stack_show_in_the_frame() {
        let before = frame(&mut Rng::new(1));
        assert_eq!(after(Vec::new(), &before), before);
        for (place, register) in REGISTERS.into_iter().enumerate() {
            let set = insn(o::ALU64 | o::MOV | o::K, register, 0, 0, 0x1234_5678);
            let mut expected = before.clone();
            let at = WORDS as usize + 8 * place;
            expected[at..at + 8].copy_from_slice(&0x1234_5678u64.to_le_bytes());
            assert_eq!(after(vec![set], &before), expected);
        }
        let top = insn(o::ST | o::MEM | o::DW, FP, 0, -8, -1);
        let mut expected = before.clone();
        let end = (FRAME - MAP) as usize;
        expected[end - 8..end].fill(0xff);
        assert_eq!(after(vec![top], &before), expected);
        let last = insn(o::ST | o::MEM | o::DW, VALUE, 0, MAP - 8, -1);
        let mut expected = before.clone();
        expected[FRAME as usize - 8..].fill(0xff);
        assert_eq!(after(vec![last], &before), expected);
    }
}
