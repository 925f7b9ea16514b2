//! Functions that random programs call, and that are called back.
//!
//! A call names its function by number until the program is assembled ([`call`]); so does a pointer to one
//! ([`address`]).

use squalus_isa::{HelperId, Insn, MemSize, opcode as o};
use squalus_runtime::asm::{Asm, R};

use super::text;
use super::units::{SIZES, alu, packet_again};
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
    /// What [`Kind::Context`] gets; calls another program in its tail.
    Tail,
    /// The map, key, value, and the address of some bytes of the caller's stack: called back for elements.
    Element(Walk),
}

/// What a walk may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// The order of elements is the same everywhere.
    Ordered,
    /// It is not.
    Unordered,
    /// It is not, and nothing may be changed.
    Reading,
}

/// The functions of each program, by number.
const FUNCTIONS: [Kind; 8] = [
    Kind::Numbers,
    Kind::Bytes,
    Kind::Context,
    Kind::Callback,
    Kind::Tail,
    Kind::Element(Walk::Ordered),
    Kind::Element(Walk::Unordered),
    Kind::Element(Walk::Reading),
];
/// Bytes that functions get the address of.
const BYTES: i16 = text::OWN;

/// The number of a function.
fn number(kind: Kind) -> usize {
    let place = FUNCTIONS.iter().position(|known| *known == kind);
    place.expect("each kind of function is there once")
}

/// `r2` = the address of a function for a walk.
pub(super) fn of_walk(walk: Walk) -> [Insn; 2] {
    address(2, number(Kind::Element(walk)))
}

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
    match *rng.pick(&FUNCTIONS[..5]) {
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
        Kind::Tail | Kind::Element(_) => {
            code.push(load(o::DW, 1, FP, CONTEXT_AT));
            code.extend(some_bytes(rng, 3));
            code.push(call(number(Kind::Tail)));
            // The next program may have moved the packet.
            code.extend(packet_again());
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
        Kind::Tail => tail(rng, &mut code),
        Kind::Element(walk) => element(rng, &mut code, walk),
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
    let own = [-8, -16, -24];
    for at in own {
        code.push(insn(o::STX | o::MEM | o::DW, FP, rng.below(6) as u8, at, 0));
    }
    let lines = rng.percent(20);
    for _ in 0..rng.between(1, 6) {
        if lines && rng.percent(40) {
            text::in_function(rng, code);
            let set = |register| insn(o::ALU64 | o::MOV | o::K, register, 0, 0, 7);
            code.extend((1..=5).map(set));
        }
        let (size, len) = *rng.pick(&SIZES);
        let (base, off) = match rng.percent(70) {
            true => (6, rng.below((BYTES / len) as usize) as i16 * len),
            false => (FP, rng.below((BYTES / len) as usize) as i16 * len - BYTES),
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

/// Works on the bytes, then puts another program in its place.
fn tail(rng: &mut Rng, code: &mut Vec<Insn>) {
    let copy = |to, from| insn(o::ALU64 | o::MOV | o::X, to, from, 0, 0);
    code.extend([copy(9, 1), copy(6, 3)]);
    code.extend([0, 1, 3, 4, 5].map(|register| copy(register, 2)));
    bytes(rng, code, true);
    let mut c = Asm::new();
    c.store(MemSize::Dw, 6, 16, R(0)).mov(1, R(9));
    c.map(2, maps::PROGRAMS as u32);
    match rng.percent(50) {
        true => c.load(MemSize::B, 3, 6, 0).alu(o::AND, 3, 3),
        false => c.mov(3, *rng.pick(&[0, 1, 2, 3, 4, -1])),
    };
    c.call(HelperId::TAIL_CALL).load(MemSize::Dw, 0, 6, 8);
    code.extend(c.finish());
}

/// Takes key and value into the bytes, perhaps changes the value.
fn element(rng: &mut Rng, code: &mut Vec<Insn>, walk: Walk) {
    let mut asm = Asm::new();
    let c = &mut asm;
    c.mov(6, R(1)).mov(7, R(2)).mov(8, R(4));
    c.load(MemSize::W, 0, 7, 0).load(MemSize::Dw, 1, 3, 0);
    c.alu(o::MUL, 1, immediate(rng) | 1).alu(o::XOR, 1, R(0));
    c.load(MemSize::Dw, 2, 8, 0);
    if walk == Walk::Ordered {
        c.alu(o::MUL, 2, 31);
    }
    c.alu(*rng.pick(&[o::ADD, o::XOR]), 2, R(1));
    c.store(MemSize::Dw, 8, 0, R(2));
    let (smaller, stay) = (c.label(), c.label());
    c.load(MemSize::Dw, 2, 8, 16);
    c.jump_if(*rng.pick(&[o::JLE, o::JSLE]), 1, R(2), smaller);
    c.store(MemSize::Dw, 8, 16, R(1)).bind(smaller);
    if walk != Walk::Reading && rng.percent(50) {
        let size = *rng.pick(&[MemSize::W, MemSize::Dw]);
        c.store(size, 3, 0, R(1));
    }
    if walk == Walk::Unordered && rng.percent(40) {
        c.jump_if(o::JSET, 0, 6, stay);
        c.mov(1, R(6)).mov(2, R(7)).call(HelperId::MAP_DELETE_ELEM);
        c.load(MemSize::Dw, 1, 8, 8).add(1, R(0));
        c.store(MemSize::Dw, 8, 8, R(1));
    }
    c.bind(stay).mov(0, 0);
    if walk == Walk::Ordered && rng.percent(40) {
        let on = c.label();
        c.load(MemSize::B, 1, 8, 1).jump_if(o::JSET, 1, 3, on);
        c.mov(0, 1).bind(on);
    }
    code.extend(asm.finish());
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
