//! Opcode bits, named as RFC 9669 and `linux/bpf.h` name them.
#![allow(
    missing_docs,
    reason = "the names are the documentation: each is the RFC's own"
)]

pub const CLASS_MASK: u8 = 0x07;
pub const LD: u8 = 0x00;
pub const LDX: u8 = 0x01;
pub const ST: u8 = 0x02;
pub const STX: u8 = 0x03;
pub const ALU: u8 = 0x04;
pub const JMP: u8 = 0x05;
pub const JMP32: u8 = 0x06;
pub const ALU64: u8 = 0x07;

/// Source bit of ALU and jump classes: set for a register operand.
pub const X: u8 = 0x08;
pub const K: u8 = 0x00;

pub const SIZE_MASK: u8 = 0x18;
pub const W: u8 = 0x00;
pub const H: u8 = 0x08;
pub const B: u8 = 0x10;
pub const DW: u8 = 0x18;

pub const MODE_MASK: u8 = 0xe0;
pub const IMM: u8 = 0x00;
pub const ABS: u8 = 0x20;
pub const IND: u8 = 0x40;
pub const MEM: u8 = 0x60;
pub const MEMSX: u8 = 0x80;
pub const ATOMIC: u8 = 0xc0;

pub const OP_MASK: u8 = 0xf0;
pub const ADD: u8 = 0x00;
pub const SUB: u8 = 0x10;
pub const MUL: u8 = 0x20;
pub const DIV: u8 = 0x30;
pub const OR: u8 = 0x40;
pub const AND: u8 = 0x50;
pub const LSH: u8 = 0x60;
pub const RSH: u8 = 0x70;
pub const NEG: u8 = 0x80;
pub const MOD: u8 = 0x90;
pub const XOR: u8 = 0xa0;
pub const MOV: u8 = 0xb0;
pub const ARSH: u8 = 0xc0;
pub const END: u8 = 0xd0;

pub const JA: u8 = 0x00;
pub const JEQ: u8 = 0x10;
pub const JGT: u8 = 0x20;
pub const JGE: u8 = 0x30;
pub const JSET: u8 = 0x40;
pub const JNE: u8 = 0x50;
pub const JSGT: u8 = 0x60;
pub const JSGE: u8 = 0x70;
pub const CALL: u8 = 0x80;
pub const EXIT: u8 = 0x90;
pub const JLT: u8 = 0xa0;
pub const JLE: u8 = 0xb0;
pub const JSLT: u8 = 0xc0;
pub const JSLE: u8 = 0xd0;
pub const JCOND: u8 = 0xe0;

/// Operations on two numbers, with the `offset` that makes divisions and remainders signed.
pub const ARITHMETIC: [(u8, i16); 14] = [
    (ADD, 0),
    (SUB, 0),
    (MUL, 0),
    (DIV, 0),
    (DIV, 1),
    (MOD, 0),
    (MOD, 1),
    (OR, 0),
    (AND, 0),
    (XOR, 0),
    (LSH, 0),
    (RSH, 0),
    (ARSH, 0),
    (MOV, 0),
];
/// Conditions of jumps.
pub const CONDITIONS: [u8; 11] = [JEQ, JNE, JGT, JGE, JLT, JLE, JSET, JSGT, JSGE, JSLT, JSLE];

/// `LD | IMM | DW`: the two-slot 64-bit immediate.
pub const LD_IMM64: u8 = LD | IMM | DW;

/// `src` of `LD_IMM64`: a plain number.
pub const PSEUDO_IMM: u8 = 0;
/// `src` of `LD_IMM64`: a map by descriptor.
pub const PSEUDO_MAP_FD: u8 = 1;
/// `src` of `LD_IMM64`: an address inside a map's first value.
pub const PSEUDO_MAP_VALUE: u8 = 2;
/// `src` of `LD_IMM64`: a kernel symbol by BTF id.
pub const PSEUDO_BTF_ID: u8 = 3;
/// `src` of `LD_IMM64`: the address of a subprogram, for callbacks.
pub const PSEUDO_FUNC: u8 = 4;
/// `src` of `CALL`: a subprogram relative to the next instruction.
pub const PSEUDO_CALL: u8 = 1;
/// `src` of `CALL`: a kernel function by BTF id.
pub const PSEUDO_KFUNC_CALL: u8 = 2;

pub const ATOMIC_FETCH: i32 = 0x01;
pub const ATOMIC_XCHG: i32 = 0xe0 | ATOMIC_FETCH;
pub const ATOMIC_CMPXCHG: i32 = 0xf0 | ATOMIC_FETCH;
pub const ATOMIC_LOAD_ACQ: i32 = 0x100;
pub const ATOMIC_STORE_REL: i32 = 0x110;
