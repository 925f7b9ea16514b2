//! What random programs are made of.

use squalus_isa::{HelperId, Insn, opcode as o};

use super::{
    CONTEXT_AT, DATA_AT, FP, FRAME, MAP, PACKET, REGISTERS, STACK, VALUE, WORDS, elements,
    functions, idioms, immediate, insn, load, maps, register, store, text,
};
use crate::Rng;

/// An operation; nothing jumps into the middle of one.
#[derive(Clone, Debug)]
pub(super) enum Unit {
    /// Instructions one after the other. Functions are named by their numbers until the program is assembled.
    Code(Vec<Insn>),
    /// A jump over the next so many operations.
    Jump { insn: Insn, over: usize },
}

impl Unit {
    pub(super) fn len(&self) -> usize {
        match self {
            Unit::Code(insns) => insns.len(),
            Unit::Jump { .. } => 1,
        }
    }
}

/// Any operation but a jump over others, and loops.
pub(super) fn unit(rng: &mut Rng) -> Unit {
    Unit::Code(match rng.below(32) {
        0..4 => computed_place(rng),
        4..8 => call(rng),
        8..13 => idioms::idiom(rng),
        13 => move_packet(rng),
        _ => {
            let insn = straight(rng);
            match is_narrow_exchange(&insn) {
                true => vec![insn, zero_extend()],
                false => vec![insn],
            }
        }
    })
}

/// A load from or a store to stack, frame or map value at an offset from a register. Uses `r4` and `r5`.
fn computed_place(rng: &mut Rng) -> Vec<Insn> {
    let (base, start, mask, (code, size)) = *rng.pick(&[
        (FP, -STACK, 0x38, SIZES[3]),
        (FP, -STACK, 0x30, SIZES[2]),
        (PACKET, WORDS, 0x3f, SIZES[3]),
        (PACKET, WORDS, 0x7f, SIZES[0]),
        (PACKET, DATA_AT, 0xff, SIZES[0]),
        (VALUE, 0, 0x18, SIZES[3]),
        (VALUE, 0, 0x1f, SIZES[0]),
    ]);
    let end = start + size;
    let mut out = vec![
        insn(o::ALU64 | o::MOV | o::X, 4, register(rng), 0, 0),
        insn(o::ALU64 | o::AND | o::K, 4, 0, 0, mask),
        insn(o::ALU64 | o::MOV | o::X, 5, base, 0, 0),
        insn(o::ALU64 | o::ADD | o::X, 5, 4, 0, 0),
        insn(o::ALU64 | o::ADD | o::K, 5, 0, 0, end.into()),
    ];
    if base == PACKET {
        // The verifier wants each such pointer compared with the end.
        out.push(load(o::DW, 4, FP, CONTEXT_AT));
        out.push(load(o::W, 4, 4, 4));
        out.push(insn(o::JMP | o::JGT | o::X, 5, 4, 1, 0));
    }
    let number = *rng.pick(&[0, 1, 2, 3, 8, 9]);
    out.push(match rng.percent(50) {
        true => load(code, number, 5, -size),
        false => store(code, 5, -size, number),
    });
    out.extend([set(4, 4), set(5, 5)]);
    out
}

fn helper(id: HelperId) -> Insn {
    insn(o::JMP | o::CALL, 0, 0, 0, id.0 as i32)
}

fn set(register: u8, value: i32) -> Insn {
    insn(o::ALU64 | o::MOV | o::K, register, 0, 0, value)
}

/// `register` = the address of an aligned place on the stack with `size` bytes behind it.
fn stack_address(rng: &mut Rng, register: u8, size: i16) -> [Insn; 2] {
    // Not even of length 0 may it be at the top.
    let places = (STACK - size.max(8)) / 8 + 1;
    let off = 8 * rng.below(places as usize) as i32 - i32::from(STACK);
    [
        insn(o::ALU64 | o::MOV | o::X, register, FP, 0, 0),
        insn(o::ALU64 | o::ADD | o::K, register, 0, 0, off),
    ]
}

fn map_address(register: u8, map: i32) -> [Insn; 2] {
    [
        insn(o::LD_IMM64, register, o::PSEUDO_MAP_FD, 0, map),
        insn(0, 0, 0, 0, 0),
    ]
}

/// A call, after which `r0` to `r5` are numbers again.
fn call(rng: &mut Rng) -> Vec<Insn> {
    let mut code = Vec::new();
    match rng.below(24) {
        0..3 => change(rng, &mut code),
        3..5 => look_up(rng, &mut code),
        5..7 => queue(rng, &mut code),
        7 => checksum(rng, &mut code),
        8 => load_bytes(rng, &mut code),
        9 => text_to_number(rng, &mut code),
        10 => redirect(rng, &mut code),
        11 => ring(rng, &mut code),
        12 => tail_call(rng, &mut code),
        13 | 14 => text::in_program(rng, &mut code),
        15 | 16 => elements::inner(rng, &mut code),
        17 => elements::walk(rng, &mut code),
        18 => elements::per_cpu(rng, &mut code),
        19 => elements::record(rng, &mut code),
        _ => functions::some_call(rng, &mut code),
    }
    for register in 1..=5 {
        let at = 8 * rng.below(REGISTERS.len()) as i16;
        code.push(load(o::DW, register, PACKET, WORDS + at));
    }
    code
}

/// Writes a small number as key, so that entries are found again.
fn key(rng: &mut Rng, code: &mut Vec<Insn>) {
    if rng.percent(70) {
        let number = rng.below(10) as i32;
        let off = 8 * rng.below((STACK / 8) as usize) as i16 - STACK;
        code.push(insn(o::ST | o::MEM | o::DW, FP, 0, off, number));
        code.push(insn(o::ALU64 | o::MOV | o::X, 2, FP, 0, 0));
        code.push(insn(o::ALU64 | o::ADD | o::K, 2, 0, 0, off.into()));
    } else {
        code.extend(stack_address(rng, 2, 8));
    }
}

const TABLES: [i32; 5] = [
    maps::HASH,
    maps::PER_CPU_HASH,
    maps::TRIE,
    maps::ARRAY,
    maps::LRU,
];

/// An update or a deletion.
fn change(rng: &mut Rng, code: &mut Vec<Insn>) {
    let map = *rng.pick(&TABLES);
    key(rng, code);
    code.extend(map_address(1, map));
    if rng.percent(30) {
        code.push(helper(HelperId::MAP_DELETE_ELEM));
        return;
    }
    code.extend(stack_address(rng, 3, 8));
    code.push(set(4, *rng.pick(&[0, 0, 1, 2, 3])));
    code.push(helper(HelperId::MAP_UPDATE_ELEM));
}

/// A lookup; what is found is read, and sometimes changed.
fn look_up(rng: &mut Rng, code: &mut Vec<Insn>) {
    key(rng, code);
    let map = match rng.percent(60) {
        true => *rng.pick(&TABLES),
        false => *rng.pick(&[maps::SETTINGS, maps::TABLE]),
    };
    code.extend(map_address(1, map));
    code.push(helper(HelperId::MAP_LOOKUP_ELEM));
    let found: Vec<Insn> = if rng.percent(50) || !TABLES.contains(&map) {
        vec![load(o::DW, 0, 0, 0)]
    } else {
        vec![store(o::W, 0, 4, *rng.pick(&[8, 9])), load(o::DW, 0, 0, 0)]
    };
    let none = insn(o::JMP | o::JEQ | o::K, 0, 0, found.len() as i16, 0);
    code.push(none);
    code.extend(found);
}

fn queue(rng: &mut Rng, code: &mut Vec<Insn>) {
    let map = *rng.pick(&[
        maps::QUEUE,
        maps::QUEUE,
        maps::STACK,
        maps::STACK,
        maps::BLOOM,
    ]);
    code.extend(stack_address(rng, 2, 8));
    code.extend(map_address(1, map));
    let takes = if map == maps::BLOOM {
        HelperId::MAP_PEEK_ELEM
    } else {
        *rng.pick(&[HelperId::MAP_POP_ELEM, HelperId::MAP_PEEK_ELEM])
    };
    if rng.percent(50) {
        code.push(set(3, *rng.pick(&[0, 0, 2])));
        code.push(helper(HelperId::MAP_PUSH_ELEM));
    } else {
        code.push(helper(takes));
    }
}

fn checksum(rng: &mut Rng, code: &mut Vec<Insn>) {
    for register in [1, 3] {
        let words = rng.below(9) as i16;
        code.extend(stack_address(rng, register, 4 * words));
        code.push(set(register + 1, (4 * words).into()));
    }
    code.push(set(5, immediate(rng)));
    code.push(helper(HelperId::CSUM_DIFF));
}

/// The context is the first argument.
fn context() -> Insn {
    load(o::DW, 1, FP, CONTEXT_AT)
}

fn load_bytes(rng: &mut Rng, code: &mut Vec<Insn>) {
    let len = rng.between(1, 32) as i16;
    code.push(context());
    code.push(set(2, rng.below(FRAME as usize + 8) as i32));
    code.extend(stack_address(rng, 3, 32));
    code.push(set(4, len.into()));
    code.push(helper(HelperId::XDP_LOAD_BYTES));
}

fn text_to_number(rng: &mut Rng, code: &mut Vec<Insn>) {
    let texts: [&[u8; 4]; 6] = [b"-123", b" 0x1", b"0777", b"99z9", b"+7  ", b"--1 "];
    let off = -STACK;
    for at in [0, 4] {
        let text = i32::from_le_bytes(**rng.pick(&texts));
        code.push(insn(o::ST | o::MEM | o::W, FP, 0, off + at, text));
    }
    code.push(insn(o::ALU64 | o::MOV | o::X, 1, FP, 0, 0));
    code.push(insn(o::ALU64 | o::ADD | o::K, 1, 0, 0, off.into()));
    code.push(set(2, rng.between(1, 8) as i32));
    code.push(set(3, *rng.pick(&[0, 8, 10, 16, 7])));
    code.extend(stack_address(rng, 4, 8));
    code.push(helper(*rng.pick(&[HelperId::STRTOL, HelperId::STRTOUL])));
}

fn redirect(rng: &mut Rng, code: &mut Vec<Insn>) {
    code.extend(map_address(1, maps::DEVICES));
    code.push(set(2, rng.below(6) as i32));
    code.push(set(3, *rng.pick(&[0, 1, 2, 3, 4, 8])));
    code.push(helper(HelperId::REDIRECT_MAP));
}

/// Nobody reads the ring, so it gets full.
fn ring(rng: &mut Rng, code: &mut Vec<Insn>) {
    if rng.percent(20) {
        code.extend(map_address(1, maps::RING));
        code.push(set(2, rng.below(5) as i32));
        code.push(helper(HelperId::RINGBUF_QUERY));
        return;
    }
    code.extend(stack_address(rng, 2, 32));
    code.extend(map_address(1, maps::RING));
    code.push(set(3, rng.between(1, 32) as i32));
    code.push(set(4, *rng.pick(&[0, 1, 2, 4])));
    code.push(helper(HelperId::RINGBUF_OUTPUT));
}

fn tail_call(rng: &mut Rng, code: &mut Vec<Insn>) {
    code.push(context());
    code.extend(map_address(2, maps::PROGRAMS));
    code.push(set(3, *rng.pick(&[0, 1, 2, 3, 4, -1])));
    code.push(helper(HelperId::TAIL_CALL));
    code.push(set(0, 7));
}

/// The packet's pointer, if there is as much as before behind it.
pub(super) fn packet_again() -> [Insn; 8] {
    [
        context(),
        load(o::W, PACKET, 1, 0),
        load(o::W, 2, 1, 4),
        insn(o::ALU64 | o::MOV | o::X, 3, PACKET, 0, 0),
        insn(o::ALU64 | o::ADD | o::K, 3, 0, 0, FRAME.into()),
        insn(o::JMP | o::JLE | o::X, 3, 2, 2, 0),
        set(0, 4),
        insn(o::JMP | o::EXIT, 0, 0, 0, 0),
    ]
}

/// Moves the packet's begin or end, and sees to it that there is as much as before behind the pointer.
fn move_packet(rng: &mut Rng) -> Vec<Insn> {
    let mut code = vec![
        context(),
        set(2, *rng.pick(&[-32, -16, -14, -8, -4, -1, 0, 1, 4, 8, 16])),
        helper(*rng.pick(&[
            HelperId::XDP_ADJUST_HEAD,
            HelperId::XDP_ADJUST_HEAD,
            HelperId::XDP_ADJUST_TAIL,
            HelperId::XDP_ADJUST_META,
        ])),
    ];
    code.extend(packet_again());
    code.extend((1..=5).map(|register| set(register, i32::from(register))));
    code
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

pub(super) fn alu(rng: &mut Rng) -> Insn {
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

pub(super) const SIZES: [(u8, i16); 4] = [(o::B, 1), (o::H, 2), (o::W, 4), (o::DW, 8)];

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
