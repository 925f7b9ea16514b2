//! Functions that random programs call, and that are called back.
//!
//! A call names its function by number until the program is assembled ([`call`]); so does a pointer to one
//! ([`address`]).

use squalus_isa::{HelperId, Insn, MemSize, opcode as o};
use squalus_runtime::asm::{Asm, R};

use super::units::{SIZES, alu};
use super::{
    CONTEXT_AT, DATA, DATA_AT, FP, PACKET, STACK, WORDS, immediate, insn, load, maps, register,
};
use crate::Rng;

/// What functions get and may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Five numbers.
    Numbers,
    /// The address of some bytes of the caller's stack, and four numbers.
    Bytes,
    /// The context, a number, and the address of some bytes of a caller's stack; looks up.
    Context,
    /// A number and the address of some bytes of the caller's stack: called back by `bpf_loop`.
    Callback,
}

/// The functions of each program, by number.
pub(super) const FUNCTIONS: [Kind; 4] = [Kind::Numbers, Kind::Bytes, Kind::Context, Kind::Callback];
/// Bytes that functions get the address of.
const BYTES: i16 = 24;

/// A call of function `number`.
fn call(number: usize) -> Insn {
    insn(o::JMP | o::CALL, 0, o::PSEUDO_CALL, 0, number as i32)
}

/// `register` = the address of function `number`.
fn address(register: u8, number: usize) -> [Insn; 2] {
    [
        insn(o::LD_IMM64, register, o::PSEUDO_FUNC, 0, number as i32),
        insn(0, 0, 0, 0, 0),
    ]
}

/// The number of the function that this instruction names.
pub(super) fn named(insn: &Insn) -> Option<usize> {
    let call = insn.op == o::JMP | o::CALL && insn.src == o::PSEUDO_CALL;
    let address = insn.op == o::LD_IMM64 && insn.src == o::PSEUDO_FUNC;
    (call || address).then_some(insn.imm as usize)
}

/// All functions.
pub(super) fn random(rng: &mut Rng) -> Vec<Vec<Insn>> {
    FUNCTIONS.into_iter().map(|kind| body(rng, kind)).collect()
}

/// A call of some function. `r1` to `r5` hold nothing afterwards.
pub(super) fn some_call(rng: &mut Rng, code: &mut Vec<Insn>) {
    match *rng.pick(&FUNCTIONS) {
        Kind::Numbers => code.push(call(0)),
        Kind::Bytes => {
            code.extend(some_bytes(rng, 1));
            code.push(call(1));
        }
        Kind::Context => {
            code.push(load(o::DW, 1, FP, CONTEXT_AT));
            code.extend(some_bytes(rng, 3));
            code.push(call(2));
        }
        Kind::Callback => {
            code.extend(some_bytes(rng, 3));
            code.extend(rounds(rng));
            code.extend(address(2, 3));
            code.push(insn(o::ALU64 | o::MOV | o::K, 4, 0, 0, 0));
            let helper = HelperId::LOOP.0 as i32;
            code.push(insn(o::JMP | o::CALL, 0, 0, 0, helper));
        }
    }
}

/// `r1` = how often.
fn rounds(rng: &mut Rng) -> Vec<Insn> {
    let set = |rounds: usize| insn(o::ALU64 | o::MOV | o::K, 1, 0, 0, rounds as i32);
    match rng.below(4) {
        0 => vec![
            load(o::B, 1, PACKET, DATA_AT + rng.below(DATA as usize) as i16),
            insn(o::ALU64 | o::AND | o::K, 1, 0, 0, 15),
        ],
        1 => vec![set(rng.between(4, 200))],
        _ => vec![set(rng.between(1, 20))],
    }
}

/// `register` = the address of an aligned place on the stack with so many bytes behind it.
fn some_bytes(rng: &mut Rng, register: u8) -> [Insn; 2] {
    let off = 8 * rng.below(((STACK - BYTES) / 8) as usize + 1) as i16 - STACK;
    [
        insn(o::ALU64 | o::MOV | o::X, register, FP, 0, 0),
        insn(o::ALU64 | o::ADD | o::K, register, 0, 0, off.into()),
    ]
}

fn body(rng: &mut Rng, kind: Kind) -> Vec<Insn> {
    let mut code = Vec::new();
    match kind {
        Kind::Numbers => {
            code.push(insn(o::ALU64 | o::MOV | o::X, 0, 1, 0, 0));
            numbers(rng, &mut code, 8);
        }
        Kind::Bytes => {
            code.push(insn(o::ALU64 | o::MOV | o::X, 6, 1, 0, 0));
            code.push(insn(o::ALU64 | o::MOV | o::X, 0, 2, 0, 0));
            code.push(insn(o::ALU64 | o::MOV | o::X, 1, 3, 0, 0));
            bytes(rng, &mut code, true);
        }
        Kind::Context => with_context(rng, &mut code),
        Kind::Callback => {
            code.push(insn(o::ALU64 | o::MOV | o::X, 6, 2, 0, 0));
            for register in [0, 2, 3, 4, 5] {
                code.push(insn(o::ALU64 | o::MOV | o::X, register, 1, 0, 0));
            }
            bytes(rng, &mut code, false);
            // Mostly it goes on. 0 and 1 are the answers there are.
            match rng.below(3) {
                0 => code.push(insn(o::ALU64 | o::AND | o::K, 0, 0, 0, 1)),
                _ => code.push(insn(o::ALU64 | o::MOV | o::K, 0, 0, 0, 0)),
            }
        }
    }
    code.push(insn(o::JMP | o::EXIT, 0, 0, 0, 0));
    code
}

/// Arithmetic on `r0` to `r5`.
fn numbers(rng: &mut Rng, code: &mut Vec<Insn>, most: usize) {
    for _ in 0..rng.between(1, most) {
        let mut insn = alu(rng);
        insn.dst %= 6;
        insn.src %= 6;
        code.push(insn);
    }
}

/// Works on the bytes at `r6` and on a stack of its own.
fn bytes(rng: &mut Rng, code: &mut Vec<Insn>, calls: bool) {
    let own = [-8, -16];
    for at in own {
        code.push(insn(o::STX | o::MEM | o::DW, FP, rng.below(6) as u8, at, 0));
    }
    for _ in 0..rng.between(1, 6) {
        let (size, len) = *rng.pick(&SIZES);
        let (base, off) = match rng.percent(70) {
            true => (6, rng.below((BYTES / len) as usize) as i16 * len),
            false => (FP, rng.below((16 / len) as usize) as i16 * len - 16),
        };
        let register = rng.below(6) as u8;
        code.push(match rng.below(5) {
            0 | 1 => load(size, register, base, off),
            2 | 3 => insn(o::STX | o::MEM | size, base, register, off, 0),
            _ => insn(o::ST | o::MEM | size, base, 0, off, immediate(rng)),
        });
        numbers(rng, code, 2);
    }
    if calls && rng.percent(50) {
        code.push(call(0));
        code.push(insn(o::STX | o::MEM | o::DW, 6, 0, 8, 0));
    }
    let own = load(o::DW, 1, FP, *rng.pick(&own));
    code.push(own);
    code.push(insn(o::ALU64 | o::XOR | o::X, 0, 1, 0, 0));
}

/// Looks up a number from the packet, whose limits it checks itself, and passes the bytes on.
fn with_context(rng: &mut Rng, code: &mut Vec<Insn>) {
    let map = *rng.pick(&[
        maps::ARRAY,
        maps::HASH,
        maps::LRU,
        maps::SETTINGS,
        maps::TABLE,
    ]);
    let mut c = Asm::new();
    let none = c.label();
    c.mov(6, R(3))
        .mov(8, R(2))
        .load(MemSize::W, 7, 1, 0)
        .load(MemSize::W, 2, 1, 4)
        .mov(3, R(7))
        .add(3, i32::from(WORDS) + 16)
        .jump_if(o::JGT, 3, R(2), none)
        .load(MemSize::B, 1, PACKET, WORDS + rng.below(8) as i16)
        .alu(o::AND, 1, 7)
        .store(MemSize::Dw, FP, -8, R(1))
        .mov(2, R(FP))
        .add(2, -8)
        .map(1, map as u32)
        .call(HelperId::MAP_LOOKUP_ELEM)
        .jump_eq(0, 0, none)
        .load(MemSize::W, 1, 0, 4)
        .store(MemSize::W, 6, *rng.pick(&[0, 4, 16, 20]), R(1))
        .bind(none);
    code.extend(c.finish());
    let mut rest = vec![insn(o::ALU64 | o::MOV | o::X, 0, 8, 0, 0)];
    if rng.percent(60) {
        rest = vec![
            insn(o::ALU64 | o::MOV | o::X, 1, 6, 0, 0),
            insn(o::ALU64 | o::MOV | o::X, 2, 8, 0, 0),
            insn(o::ALU64 | o::MOV | o::K, 3, 0, 0, immediate(rng)),
            insn(o::ALU64 | o::MOV | o::K, 4, 0, 0, i32::from(register(rng))),
            insn(o::ALU64 | o::MOV | o::K, 5, 0, 0, immediate(rng)),
            call(1),
        ];
    }
    code.extend(rest);
}
