//! Random programs: arithmetic, jumps, loops, functions and callbacks, accesses to stack, packet and map values at
//! fixed and computed places, atomic operations, helpers with maps of many types (`elements`), helpers that follow
//! addresses in memory (`text`), chains of tail calls, also from functions, and what compilers make of common things
//! (`idioms`, `loops`). They run on several CPUs.
//!
//! Each is valid by construction (the kernel's verifier must accept it, unless it is too much for it): registers
//! start from the frame, jumps go forward but for loops that end, every access is inside its region. At the end all
//! registers, the whole stack and a map value go into the frame, so that a wrong bit anywhere shows; then the maps
//! are compared. See `traffic` for what runs.
//!
//! Atomic operations that fetch work on the map value only. On the stack the kernel is no judge: up to
//! Linux 6.18 at least its verifier does not follow such an instruction back to the stack slot when a
//! branch depends on what it fetched, takes the slot's content on one path for that on all, and drops code
//! that is live (fixed upstream in 2026: "bpf: Fix incorrect pruning due to atomic fetch precision
//! tracking"). And a 32-bit compare-and-exchange is followed by an explicit zero extension of `r0`, which
//! RFC 9669 (5.3) promises but Linux 6.18 on x86-64 sometimes omits where a branch lies between the
//! instruction and the use of the upper half. This generator ran into both; interpreter and compiled code
//! were right.

mod elements;
mod functions;
mod idioms;
mod loops;
mod text;
mod traffic;
mod units;

use squalus_isa::{HelperId, Insn, MapDef, MapFlags, MapType, MemSize, disassemble, opcode as o};
use squalus_runtime::asm::{Asm, R};
use squalus_vm::{Pass, Passes};

use crate::Rng;
use crate::engines::{Kind, LoadError};
pub use traffic::{Disagreement, Traffic};
use units::{Unit, unit};

/// Name of the program.
const NAME: &str = "random";
/// The programs that tail calls reach, besides the first.
const OTHER: &str = "other";
const DEEP: &str = "deep";
/// Scalars: everything but the map value, the packet and the frame pointer.
const REGISTERS: [u8; 8] = [0, 1, 2, 3, 4, 5, 8, 9];
/// The context at first, then the map value.
const VALUE: u8 = 6;
const PACKET: u8 = 7;
const FP: u8 = 10;
/// Bytes of stack, all written before the first instruction of interest.
const STACK: i16 = 64;
/// Where in the frame registers come from and go to, the stack after them, and the map value.
const WORDS: i16 = 16;
const STACK_AT: i16 = WORDS + 8 * REGISTERS.len() as i16;
const MAP_AT: i16 = STACK_AT + STACK;
/// Bytes of the map value.
const MAP: i16 = 32;
/// Bytes of the frame that are only data: enough for long loops.
const DATA_AT: i16 = MAP_AT + MAP;
const DATA: i16 = 1024;
/// Bytes that each program has checked for.
const FRAME: i16 = DATA_AT + DATA;
/// Below the stack that counts: where the context is kept for helpers.
const CONTEXT_AT: i16 = -STACK - 8;
/// More would make the verifier's work explode.
const MAX_JUMPS: usize = 9;
const MAX_LOOPS: usize = 2;

/// A program, in parts: the middle is what is generated, and what is cut when it is minimised.
#[derive(Clone, Debug)]
pub struct Program {
    body: Vec<Unit>,
    /// The functions that it may call.
    functions: Vec<Vec<Insn>>,
    /// The passes of the optimizer that it goes through.
    passes: Passes,
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
    pub(super) const LRU: i32 = 11;
    /// Those that programs only read.
    pub(super) const SETTINGS: i32 = 12;
    pub(super) const TABLE: i32 = 13;
    /// Constant text.
    pub(super) const TEXT: i32 = 14;
    /// Maps of maps.
    pub(super) const ARRAYS: i32 = 15;
    pub(super) const HASHES: i32 = 16;
    pub(super) const PER_CPU: i32 = 17;
}

fn map_defs() -> Vec<MapDef> {
    let map = |name: &str, kind, key_size, value_size: u32, max_entries| {
        MapDef::new(name, kind, (key_size, value_size), max_entries)
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
        // With hashes that are everywhere the same, since it errs now and then.
        MapDef {
            flags: MapFlags::ZERO_SEED,
            ..map("bloom", MapType::BloomFilter, 0, 8, 16)
        },
        map("programs", MapType::ProgArray, 4, 4, 4),
        map("devices", MapType::DevMap, 4, 4, 4),
        map("ring", MapType::RingBuf, 0, 0, 4096),
        map("lru", MapType::LruHash, 8, 8, 1024),
        map("settings", MapType::Array, 4, 8, 8),
        map("table", MapType::Hash, 4, 8, 8),
        MapDef {
            flags: MapFlags::RDONLY_PROG,
            ..map("text", MapType::Array, 4, text::constants().len() as u32, 1)
        },
        MapDef {
            inner: Some(Box::new(inner_def(ARRAYS, 8))),
            ..map(ARRAYS, MapType::ArrayOfMaps, 4, 4, 5)
        },
        MapDef {
            inner: Some(Box::new(inner_def(HASHES, 8))),
            ..map(HASHES, MapType::HashOfMaps, 4, 4, 5)
        },
        map("percpuarray", MapType::PerCpuArray, 4, 8, 4),
    ]
}

/// Names of the maps of maps.
const ARRAYS: &str = "arrays";
const HASHES: &str = "hashes";

/// What is in a map of maps: the number of entries is free in one of them.
fn inner_def(outer: &str, max_entries: u32) -> MapDef {
    match outer {
        ARRAYS => MapDef::new("inner", MapType::Array, (4, 8), 8),
        _ => MapDef::new("inner", MapType::Hash, (4, 8), max_entries),
    }
}

/// Maps whose values never change, by their numbers.
fn constants() -> Vec<(usize, Vec<u8>)> {
    vec![(maps::TEXT as usize, text::constants())]
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

/// All passes; or one, all but one, or any of them.
fn passes(rng: &mut Rng) -> Passes {
    let one = *rng.pick(&Pass::ALL);
    match rng.below(8) {
        0 => Passes::NONE.with(one),
        1 => Passes::ALL.without(one),
        2 | 3 => {
            let wanted = Pass::ALL.into_iter().filter(|_| rng.percent(50));
            wanted.fold(Passes::NONE, Passes::with)
        }
        _ => Passes::ALL,
    }
}

impl Program {
    /// A program of about `len` operations.
    #[must_use]
    pub fn random(rng: &mut Rng, len: usize) -> Program {
        let mut body = Vec::with_capacity(len);
        let (mut jumps, mut loops) = (0, 0);
        for at in 0..len {
            let left = len - at - 1;
            if jumps < MAX_JUMPS && left > 2 && rng.percent(12) {
                jumps += 1;
                body.push(jump(rng, left));
            } else if loops < MAX_LOOPS && rng.percent(5) {
                loops += 1;
                body.push(Unit::Code(loops::over_bytes(rng)));
            } else {
                body.push(unit(rng));
            }
        }
        Program {
            body,
            functions: functions::random(rng),
            passes: passes(rng),
        }
    }

    /// Whether it looks up inner maps.
    fn uses_inner(&self) -> bool {
        let names = |insn: &Insn| {
            insn.op == o::LD_IMM64
                && insn.src == o::PSEUDO_MAP_FD
                && [maps::ARRAYS, maps::HASHES].contains(&insn.imm)
        };
        let of_unit = |unit: &Unit| matches!(unit, Unit::Code(code) if code.iter().any(names));
        self.body.iter().any(of_unit)
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
        for (place, unit) in self.body.iter().enumerate() {
            match unit {
                Unit::Jump { insn, over } => {
                    let target = starts[(place + 1 + over).min(self.body.len())];
                    let off = (target - starts[place] - 1) as i16;
                    code.push(Insn { off, ..*insn });
                }
                Unit::Code(insns) => code.extend(insns),
            }
        }
        code.extend(epilogue());
        self.link(code)
    }

    /// Puts the functions that are needed behind the code, and their places where they are named.
    fn link(&self, mut code: Vec<Insn>) -> Vec<Insn> {
        // What nothing calls is refused.
        let mut places = vec![None; self.functions.len()];
        let mut at = 0;
        while at < code.len() {
            if let Some(number) = functions::named(&code[at])
                && places[number].is_none()
            {
                places[number] = Some(code.len());
                code.extend(&self.functions[number]);
            }
            at += 1;
        }
        for (at, insn) in code.iter_mut().enumerate() {
            if let Some(place) = functions::named(insn).and_then(|number| places[number]) {
                insn.imm = place as i32 - at as i32 - 1;
            }
        }
        code
    }
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

/// How a comparison went on which all agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Whether the kernel was left out: the program is too much for its verifier.
    pub without_kernel: bool,
}

/// Compares engines on the program that `rng` makes, and on `frames` frames.
///
/// # Errors
/// If they disagree, or one refuses the program.
pub fn compare_random(
    rng: &mut Rng,
    kinds: &[Kind],
    frames: usize,
) -> Result<Agreed, ProgramError> {
    let len = rng.between(5, 60);
    let program = Program::random(rng, len);
    let traffic = Traffic::random(&mut Rng::new(rng.word()), frames, program.uses_inner());
    let (disagreement, agreed) = program.compare(kinds, &traffic)?;
    match disagreement {
        None => Ok(agreed),
        Some(disagreement) => Err(ProgramError::Disagree(Box::new(disagreement))),
    }
}

/// Frames that programs start from: words of any value, and those at the edges of types.
#[must_use]
pub fn frame(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(40) {
        // Too short for the program.
        0 => rng.between(14, FRAME as usize - 1),
        _ => FRAME as usize + rng.below(65),
    };
    let mut frame = rng.bytes(len);
    let words = frame.get_mut(WORDS as usize..DATA_AT as usize);
    let words = words.unwrap_or_default().as_chunks_mut::<8>().0;
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
    for at in (0..STACK).step_by(8) {
        code.push(load(o::DW, 0, PACKET, STACK_AT + at));
        code.push(store(o::DW, FP, at - STACK, 0));
    }
    for at in (0..MAP).step_by(8) {
        code.push(load(o::DW, 0, PACKET, MAP_AT + at));
        code.push(store(o::DW, VALUE, at, 0));
    }
    for (place, register) in (0..).zip(REGISTERS) {
        code.push(load(o::DW, register, PACKET, WORDS + 8 * place));
    }
    code
}

/// A byte of the frame that [`deep`] counts in.
const COUNT_AT: i16 = DATA_AT + 100;

/// What tail calls reach as well: a program that calls another from a function in a function.
fn deep() -> Vec<Insn> {
    let mut c = Asm::new();
    let (outer, inner, out) = (c.label(), c.label(), c.label());
    c.mov(6, R(1)).load(MemSize::W, 7, 1, 0);
    c.load(MemSize::W, 2, 1, 4).mov(3, R(7));
    c.add(3, i32::from(COUNT_AT) + 1);
    c.jump_if(o::JGT, 3, R(2), out);
    c.load(MemSize::B, 2, 7, COUNT_AT).add(2, 1);
    c.store(MemSize::B, 7, COUNT_AT, R(2)).alu(o::AND, 2, 3);
    c.mov(1, R(6)).call_local(outer).add(0, 5).exit();
    c.bind(out).mov(0, 1).exit();
    c.bind(outer).mov(6, R(2)).store(MemSize::Dw, FP, -8, R(2));
    c.call_local(inner).load(MemSize::Dw, 1, FP, -8);
    c.alu(o::XOR, 0, R(1)).add(0, R(6)).exit();
    c.bind(inner).mov(3, R(2)).map(2, maps::PROGRAMS as u32);
    c.call(HelperId::TAIL_CALL).mov(0, 6).exit();
    c.finish()
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
    for at in (0..STACK).step_by(8) {
        code.push(load(o::DW, 1, FP, at - STACK));
        code.push(store(o::DW, PACKET, STACK_AT + at, 1));
    }
    for at in (0..MAP).step_by(8) {
        code.push(load(o::DW, 1, VALUE, at));
        code.push(store(o::DW, PACKET, MAP_AT + at, 1));
    }
    code.push(insn(o::JMP | o::EXIT, 0, 0, 0, 0));
    code
}

/// Takes a number through the frame. The kernel's verifier loses track of it there: if it knew it on each path,
/// it would look at all that follows once for each.
fn forget(asm: &mut Asm, register: u8) {
    asm.store(MemSize::Dw, PACKET, DATA_AT, R(register)).load(
        MemSize::Dw,
        register,
        PACKET,
        DATA_AT,
    );
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
            functions: Vec::new(),
            passes: Passes::ALL,
        };
        traffic::after(&program, frame)
    }

    #[test]
    fn every_register_and_the_stack_show_in_the_frame() {
        let before = Rng::new(1).bytes(FRAME as usize);
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
        let end = MAP_AT as usize;
        expected[end - 8..end].fill(0xff);
        assert_eq!(after(vec![top], &before), expected);
        let last = insn(o::ST | o::MEM | o::DW, VALUE, 0, MAP - 8, -1);
        let mut expected = before.clone();
        expected[DATA_AT as usize - 8..DATA_AT as usize].fill(0xff);
        assert_eq!(after(vec![last], &before), expected);
    }
}
