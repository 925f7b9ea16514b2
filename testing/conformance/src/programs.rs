//! Random programs: arithmetic, jumps, stack and packet accesses, atomic operations.
//!
//! Each is valid by construction (the kernel's verifier must accept it): registers start from the frame, all
//! jumps go forward, every access is inside its region. At the end all registers, the whole stack and a map
//! value go into the frame, so that a wrong bit anywhere shows.
//!
//! Atomic operations that fetch work on the map value only. On the stack the kernel is no judge: up to
//! Linux 6.18 at least its verifier does not follow such an instruction back to the stack slot when a
//! branch depends on what it fetched, takes the slot's content on one path for that on all, and drops code
//! that is live (fixed upstream in 2026: "bpf: Fix incorrect pruning due to atomic fetch precision
//! tracking"). And a 32-bit compare-and-exchange is followed by an explicit zero extension of `r0`, which
//! RFC 9669 (5.3) promises but Linux 6.18 on x86-64 sometimes omits where a branch lies between the
//! instruction and the use of the upper half. This generator ran into both; interpreter and compiled code
//! were right.

use squalus_engine::{Engine, TestRun};
use squalus_isa::{Insn, MapDef, MapFlags, MapType, disassemble, opcode as o};
use squalus_kernel::KernelEngine;
use squalus_vm::{EngineKind, VmBuilder};

use crate::Rng;
use crate::engines::{Kind, LoadError};

/// Name of the program.
const NAME: &str = "random";
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
/// More would make the verifier's work explode.
const MAX_JUMPS: usize = 9;

/// A program, in parts: the middle is what is generated, and what is cut when it is minimised.
#[derive(Clone, Debug)]
pub struct Program {
    body: Vec<Insn>,
}

/// A program on which engines differ.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// The program; instructions that don't matter are gone.
    pub program: Program,
    /// The frame it ran on.
    pub frame: Vec<u8>,
    /// What each engine made of it.
    pub results: Vec<(&'static str, String)>,
}

impl std::fmt::Display for Disagreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.program.assemble();
        writeln!(f, "{}", disassembly(&code))?;
        writeln!(f, "frame {}", crate::compare::Hex(&self.frame))?;
        let results = self.results.iter();
        results
            .into_iter()
            .try_for_each(|(name, result)| writeln!(f, "{name:8} {result}"))
    }
}

fn disassembly(code: &[Insn]) -> String {
    disassemble(code).unwrap_or_else(|error| error.to_string())
}

fn map() -> MapDef {
    MapDef {
        name: "value".to_owned(),
        kind: MapType::Array,
        key_size: 4,
        value_size: MAP as u32,
        max_entries: 1,
        flags: MapFlags::default(),
        inner: None,
        extra: 0,
        fields: Default::default(),
    }
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

impl Program {
    /// A program of about `len` instructions.
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
                let insn = straight(rng);
                body.push(insn);
                if is_narrow_exchange(&insn) {
                    body.push(zero_extend());
                }
            }
        }
        Program { body }
    }

    /// The whole program.
    #[must_use]
    pub fn assemble(&self) -> Vec<Insn> {
        let mut code = prologue();
        code.extend(&self.body);
        code.extend(epilogue());
        code
    }

    /// Loads it into each engine.
    ///
    /// # Errors
    /// If one refuses it.
    pub fn load(&self, kinds: &[Kind]) -> Result<Vec<Box<dyn Engine>>, LoadError> {
        let load = |kind: &Kind| self.load_one(*kind);
        kinds.iter().map(load).collect()
    }

    fn load_one(&self, kind: Kind) -> Result<Box<dyn Engine>, LoadError> {
        let programs = vec![(NAME.to_owned(), self.assemble())];
        let maps = vec![map()];
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
        let engine = VmBuilder::assembled(maps, programs).engine(vm).build();
        engine
            .map(|e| Box::new(e) as _)
            .map_err(|error| failed(&error))
    }

    /// Runs it on each frame in each engine; the first disagreement, made small.
    ///
    /// # Errors
    /// If an engine refuses the program.
    pub fn compare(
        &self,
        kinds: &[Kind],
        frames: &[Vec<u8>],
    ) -> Result<Option<Disagreement>, LoadError> {
        let mut engines = self.load(kinds)?;
        for frame in frames {
            let results = run(&mut engines, frame);
            if differ(&results) {
                return Ok(Some(self.minimise(kinds, frame, results)));
            }
        }
        Ok(None)
    }

    /// Replaces instructions by nothing (`goto +0`) while the engines still disagree.
    fn minimise(
        &self,
        kinds: &[Kind],
        frame: &[u8],
        results: Vec<(&'static str, String)>,
    ) -> Disagreement {
        let nothing = insn(o::JMP | o::JA, 0, 0, 0, 0);
        let mut best = Disagreement {
            program: self.clone(),
            frame: frame.to_vec(),
            results,
        };
        for at in (0..self.body.len()).rev() {
            let mut program = best.program.clone();
            program.body[at] = nothing;
            let Ok(mut engines) = program.load(kinds) else {
                continue;
            };
            let results = run(&mut engines, frame);
            if differ(&results) {
                best.program = program;
                best.results = results;
            }
        }
        best
    }
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

/// A conditional jump over at most `left` instructions.
fn jump(rng: &mut Rng, left: usize) -> Insn {
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
    let off = rng.between(1, left.min(8)) as i16;
    let dst = register(rng);
    if rng.percent(50) {
        insn(class | condition | o::X, dst, register(rng), off, 0)
    } else {
        insn(class | condition | o::K, dst, 0, off, immediate(rng))
    }
}

fn straight(rng: &mut Rng) -> Insn {
    match rng.below(20) {
        0..10 => alu(rng),
        10 => extension(rng),
        11 => byte_swap(rng),
        12..16 => memory(rng),
        16 | 17 => atomic(rng),
        _ => packet(rng),
    }
}

fn alu(rng: &mut Rng) -> Insn {
    let class = *rng.pick(&[o::ALU, o::ALU64]);
    let op = *rng.pick(&[
        o::ADD,
        o::SUB,
        o::MUL,
        o::DIV,
        o::OR,
        o::AND,
        o::LSH,
        o::RSH,
        o::NEG,
        o::MOD,
        o::XOR,
        o::MOV,
        o::ARSH,
    ]);
    let dst = register(rng);
    // Signed division and remainder.
    let signed = matches!(op, o::DIV | o::MOD) && rng.percent(50);
    let off = i16::from(signed);
    if op == o::NEG {
        return insn(class | op, dst, 0, 0, 0);
    }
    if rng.percent(60) {
        return insn(class | op | o::X, dst, register(rng), off, 0);
    }
    let imm = match op {
        o::LSH | o::RSH | o::ARSH => {
            let bits = if class == o::ALU { 32 } else { 64 };
            rng.below(bits) as i32
        }
        o::DIV | o::MOD => match immediate(rng) {
            0 => 7,
            other => other,
        },
        _ => immediate(rng),
    };
    insn(class | op | o::K, dst, 0, off, imm)
}

/// Moves with sign extension.
fn extension(rng: &mut Rng) -> Insn {
    let (class, bits) = *rng.pick(&[
        (o::ALU, 8),
        (o::ALU, 16),
        (o::ALU64, 8),
        (o::ALU64, 16),
        (o::ALU64, 32),
    ]);
    insn(class | o::MOV | o::X, register(rng), register(rng), bits, 0)
}

fn byte_swap(rng: &mut Rng) -> Insn {
    let op = *rng.pick(&[o::ALU | o::END, o::ALU | o::END | o::X, o::ALU64 | o::END]);
    let bits = *rng.pick(&[16, 32, 64]);
    insn(op, register(rng), 0, 0, bits)
}

const SIZES: [(u8, i16); 4] = [(o::B, 1), (o::H, 2), (o::W, 4), (o::DW, 8)];

/// An aligned slot of `size` bytes: on the stack or, if `fetch`, always in the map value.
fn slot(rng: &mut Rng, size: i16, fetch: bool) -> (u8, i16) {
    if fetch || rng.percent(30) {
        (VALUE, rng.below((MAP / size) as usize) as i16 * size)
    } else {
        (FP, rng.below((STACK / size) as usize) as i16 * size - STACK)
    }
}

/// Loads from stack and map value, and stores to them.
fn memory(rng: &mut Rng) -> Insn {
    let (code, size) = *rng.pick(&SIZES);
    let (base, off) = slot(rng, size, false);
    match rng.below(4) {
        0 => store(code, base, off, register(rng)),
        1 => insn(o::ST | o::MEM | code, base, 0, off, immediate(rng)),
        2 if size < 8 => insn(o::LDX | o::MEMSX | code, register(rng), base, off, 0),
        _ => load(code, register(rng), base, off),
    }
}

fn atomic(rng: &mut Rng) -> Insn {
    let (code, size) = *rng.pick(&SIZES[2..]);
    let fetch = o::ATOMIC_FETCH;
    let operation = *rng.pick(&[
        o::ADD.into(),
        o::OR.into(),
        o::AND.into(),
        o::XOR.into(),
        i32::from(o::ADD) | fetch,
        i32::from(o::OR) | fetch,
        i32::from(o::AND) | fetch,
        i32::from(o::XOR) | fetch,
        o::ATOMIC_XCHG,
        o::ATOMIC_CMPXCHG,
    ]);
    let (base, off) = slot(rng, size, operation & fetch != 0);
    insn(
        o::STX | o::ATOMIC | code,
        base,
        register(rng),
        off,
        operation,
    )
}

fn is_narrow_exchange(insn: &Insn) -> bool {
    insn.op == o::STX | o::ATOMIC | o::W && insn.imm == o::ATOMIC_CMPXCHG
}

/// `w0 = w0`.
fn zero_extend() -> Insn {
    insn(o::ALU | o::MOV | o::X, 0, 0, 0, 0)
}

/// Loads from the frame and stores to it, at any alignment.
fn packet(rng: &mut Rng) -> Insn {
    let (code, size) = *rng.pick(&SIZES);
    let off = rng.between(0, (FRAME - size) as usize) as i16;
    match rng.below(4) {
        0 => store(code, PACKET, off, register(rng)),
        1 => insn(o::ST | o::MEM | code, PACKET, 0, off, immediate(rng)),
        2 if size < 8 => insn(o::LDX | o::MEMSX | code, register(rng), PACKET, off, 0),
        _ => load(code, register(rng), PACKET, off),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `body` leaves in the frame, on the interpreter.
    fn after(body: Vec<Insn>, frame: &[u8]) -> Vec<u8> {
        let mut engines = Program { body }.load(&[Kind::Interp]).expect("it loads");
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
