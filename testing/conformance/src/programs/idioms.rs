//! What compilers and programmers write for things that have no instruction: rotations, counting bits, byte
//! orders, sums that fold, choices.
//!
//! Optimizers look for these patterns. So each comes as it should be, and sometimes with a number in it that is
//! slightly wrong, for which nothing may be taken for what it is not.

use squalus_isa::{Insn, MemSize, opcode as o};
use squalus_runtime::asm::{Asm, R};

use super::{DATA, DATA_AT, FP, PACKET, REGISTERS, STACK, forget, immediate};
use crate::Rng;

/// Registers that an idiom may use besides its own; they hold numbers afterwards.
const A: u8 = 4;
const B: u8 = 5;

/// A sequence of instructions for one purpose.
pub(super) fn idiom(rng: &mut Rng) -> Vec<Insn> {
    let mut asm = Asm::new();
    let c = &mut asm;
    let x = *rng.pick(&[0, 1, 2, 3, 8, 9]);
    let y = *rng.pick(&REGISTERS);
    let which = rng.below(18);
    match which {
        0 | 1 => rotate(rng, c, x),
        2 => population(rng, c, x),
        3 => swap_bytes(rng, c, x),
        4 | 5 => bytes_together(rng, c, x),
        6 => bytes_apart(rng, c, x),
        7 => fold(rng, c, x),
        8 => extend(rng, c, x),
        9 => choose(rng, c, x, y),
        10 => highest_bit(rng, c, x),
        11 => bit_field(rng, c, x, y),
        12 => mix(rng, c, x, y),
        13 => zero_byte(rng, c, x),
        14 | 15 => words_added_up(rng, c, x),
        _ => ladder(rng, c, x, y),
    }
    if matches!(which, 9 | 10 | 16..) {
        // These have jumps.
        forget(c, x);
    }
    c.mov(A, 4).mov(B, R(x));
    asm.finish()
}

/// A constant, sometimes another.
fn about(rng: &mut Rng, value: u64) -> u64 {
    match rng.below(24) {
        0 => value ^ (1 << rng.below(64)),
        1 => value >> 1,
        _ => value,
    }
}

/// A shift distance, sometimes another.
fn about_bits(rng: &mut Rng, bits: i32, width: i32) -> i32 {
    match rng.percent(94) {
        true => bits,
        false => rng.below(width as usize) as i32,
    }
}

fn shift(c: &mut Asm, wide: bool, op: u8, dst: u8, by: i32) {
    match wide {
        true => c.alu(op, dst, by),
        false => c.alu32(op, dst, by),
    };
}

/// `x` rotated, by a number that is known or is not.
fn rotate(rng: &mut Rng, c: &mut Asm, x: u8) {
    let wide = rng.percent(50);
    let width = if wide { 64 } else { 32 };
    let join = *rng.pick(&[o::OR, o::OR, o::OR, o::XOR, o::ADD]);
    if rng.percent(65) {
        let left = rng.between(1, width as usize - 1) as i32;
        let right = about_bits(rng, width - left, width);
        c.mov(A, R(x)).mov(B, R(x));
        shift(c, wide, o::LSH, A, left);
        shift(
            c,
            wide,
            *rng.pick(&[o::RSH, o::RSH, o::RSH, o::ARSH]),
            B,
            right,
        );
    } else {
        // By the low bits of the number itself or another.
        c.mov(A, R(x)).mov(B, R(*rng.pick(&[x, 8, 9])));
        let mask = *rng.pick(&[width - 1, width - 1, 0x1f, 7]);
        c.alu(o::AND, B, mask);
        let (first, second) = *rng.pick(&[(o::LSH, o::RSH), (o::RSH, o::LSH)]);
        match wide {
            true => c.alu(first, A, R(B)),
            false => c.alu32(first, A, R(B)),
        };
        // -n as distance: shifts take it modulo their width.
        c.alu(o::XOR, B, -1).add(B, 1);
        let bits = about_bits(rng, width - 1, width);
        if bits != 0 {
            c.alu(o::AND, B, bits);
        }
        match wide {
            true => c.alu(second, x, R(B)),
            false => c.alu32(second, x, R(B)),
        };
        c.mov(B, R(x));
    }
    match wide {
        true => c.alu(join, A, R(B)),
        false => c.alu32(join, A, R(B)),
    };
    c.mov(x, R(A));
}

/// How many bits are set, without loops.
fn population(rng: &mut Rng, c: &mut Asm, x: u8) {
    let wide = rng.percent(60);
    let (mut last, masks) = (24, [0x5555_5555_5555_5555, 0x3333_3333_3333_3333u64]);
    let narrow = |value: u64| if wide { value } else { value & 0xffff_ffff };
    if !wide {
        c.alu32(o::MOV, x, R(x));
    } else {
        last = 56;
    }
    // x -= x >> 1 & 5...
    let mask = narrow(about(rng, masks[0]));
    c.mov(A, R(x)).alu(o::RSH, A, 1).imm64(B, mask);
    c.alu(o::AND, A, R(B)).alu(o::SUB, x, R(A));
    // x = (x & 3...) + (x >> 2 & 3...)
    let mask = narrow(about(rng, masks[1]));
    c.mov(A, R(x)).alu(o::RSH, A, 2).imm64(B, mask);
    c.alu(o::AND, A, R(B)).alu(o::AND, x, R(B)).add(x, R(A));
    // x = x + (x >> 4) & f...
    let mask = narrow(about(rng, 0x0f0f_0f0f_0f0f_0f0f));
    c.mov(A, R(x)).alu(o::RSH, A, 4).add(x, R(A)).imm64(B, mask);
    c.alu(o::AND, x, R(B));
    if rng.percent(70) {
        let ones = narrow(about(rng, 0x0101_0101_0101_0101));
        c.imm64(B, ones);
        let by = about_bits(rng, last, last + 8);
        match wide {
            true => c.alu(o::MUL, x, R(B)).alu(o::RSH, x, by),
            false => c.alu32(o::MUL, x, R(B)).alu32(o::RSH, x, by),
        };
    } else {
        for by in [8, 16, 32] {
            c.mov(A, R(x)).alu(o::RSH, A, by).add(x, R(A));
        }
        c.alu(o::AND, x, *rng.pick(&[0x7f, 0xff]));
    }
}

/// The bytes of `x` the other way around, by shifts and masks.
fn swap_bytes(rng: &mut Rng, c: &mut Asm, x: u8) {
    let parts: &[(i32, u64)] = match rng.below(3) {
        0 => &[(8, 0x00ff)],
        1 => &[(24, 0xff), (8, 0xff00)],
        _ => &[(56, 0xff), (40, 0xff00), (24, 0xff_0000), (8, 0xff00_0000)],
    };
    c.mov(B, 0);
    for &(by, mask) in parts {
        let (low, high) = (about(rng, mask), about(rng, mask << by));
        c.mov(A, R(x)).imm64(y_of(x), low);
        c.alu(o::AND, A, R(y_of(x))).alu(o::LSH, A, by);
        c.alu(o::OR, B, R(A));
        c.mov(A, R(x)).imm64(y_of(x), high);
        c.alu(o::AND, A, R(y_of(x))).alu(o::RSH, A, by);
        c.alu(o::OR, B, R(A));
    }
    c.mov(x, R(B)).mov(y_of(x), R(A));
}

/// Another register.
fn y_of(x: u8) -> u8 {
    if x == 1 { 2 } else { 1 }
}

/// Neighbouring pieces of the frame that are one number.
struct Parts {
    part: MemSize,
    /// Bits of a piece.
    bits: i32,
    parts: i32,
    at: i16,
    /// Whether the highest comes first.
    big: bool,
}

impl Parts {
    fn some(rng: &mut Rng) -> Parts {
        let (part, bits) = *rng.pick(&[
            (MemSize::B, 8),
            (MemSize::B, 8),
            (MemSize::H, 16),
            (MemSize::W, 32),
        ]);
        Parts {
            part,
            bits,
            parts: *rng.pick(&[2, 4, 8]).min(&(64 / bits)),
            at: DATA_AT + rng.below((DATA - 16) as usize) as i16,
            big: rng.percent(50),
        }
    }

    /// Where the piece with this number is in the frame, now and then another's place, and how far its bits are
    /// from the lowest of the number.
    fn place(&self, n: i32, rng: &mut Rng) -> (i16, i32) {
        let place = match rng.percent(96) {
            true => n,
            false => rng.below(self.parts as usize) as i32,
        };
        let by = self.bits * if self.big { self.parts - 1 - n } else { n };
        (self.at + (place * self.bits / 8) as i16, by)
    }
}

/// A number from bytes of the frame in either order, one of them now and then another.
fn bytes_together(rng: &mut Rng, c: &mut Asm, x: u8) {
    let pieces = Parts::some(rng);
    let join = *rng.pick(&[o::OR, o::OR, o::ADD, o::XOR]);
    for n in 0..pieces.parts {
        let (place, by) = pieces.place(n, rng);
        let into = if n == 0 { x } else { A };
        c.load(pieces.part, into, PACKET, place);
        match rng.percent(10) {
            true => c.alu32(o::LSH, into, by & 31),
            false => c.alu(o::LSH, into, by),
        };
        if n != 0 {
            c.alu(join, x, R(A));
        }
    }
    if rng.percent(40) {
        c.endian(o::ALU | o::X, x, *rng.pick(&[16, 32, 64]));
    }
}

/// A number to bytes of the frame, one after the other.
fn bytes_apart(rng: &mut Rng, c: &mut Asm, x: u8) {
    let pieces = Parts::some(rng);
    for n in 0..pieces.parts {
        let (place, by) = pieces.place(n, rng);
        c.mov(A, R(x)).alu(o::RSH, A, by);
        c.store(pieces.part, PACKET, place, R(A));
    }
}

/// The sum of words that lie side by side, but for some; now and then one is written in between.
fn words_added_up(rng: &mut Rng, c: &mut Asm, x: u8) {
    let words = rng.between(8, 16) as i16;
    let (base, from) = match rng.percent(70) {
        true => (PACKET, DATA_AT + rng.below((DATA - 64) as usize) as i16),
        false => (FP, -STACK),
    };
    let (back, strange) = (rng.percent(20), rng.percent(40));
    match rng.percent(50) {
        true => c.mov(B, 0),
        false => c.mov(B, R(x)),
    };
    for n in 0..words {
        let n = if back { words - 1 - n } else { n };
        let n = match strange && rng.percent(8) {
            true => rng.below(words as usize) as i16,
            false => n,
        };
        let size = match strange && rng.percent(5) {
            true => MemSize::H,
            false => MemSize::W,
        };
        c.load(size, A, base, from + 4 * n);
        match strange && rng.percent(5) {
            true => c.alu32(o::ADD, B, R(A)),
            false => c.add(B, R(A)),
        };
        if strange && rng.percent(5) {
            let at = from + 4 * rng.below(words as usize) as i16;
            c.store(MemSize::W, base, at, R(*rng.pick(&[A, B])));
        }
    }
    c.mov(x, R(B));
}

/// A sum of 16-bit words as one word.
fn fold(rng: &mut Rng, c: &mut Asm, x: u8) {
    if rng.percent(50) {
        c.mov(A, R(x))
            .alu(o::RSH, A, 32)
            .alu32(o::MOV, x, R(x))
            .add(x, R(A));
    }
    for _ in 0..rng.between(1, 3) {
        let by = about_bits(rng, 16, 32);
        c.mov(A, R(x)).alu(o::RSH, A, by);
        c.alu(o::AND, x, 0xffff).add(x, R(A));
    }
    if rng.percent(60) {
        c.alu(o::XOR, x, -1);
    }
    match rng.below(3) {
        0 => c.alu(o::AND, x, 0xffff),
        1 => c.endian(o::ALU | o::X, x, 16),
        _ => c,
    };
}

/// Signs or zeros extended by two shifts, or by a mask and a comparison.
fn extend(rng: &mut Rng, c: &mut Asm, x: u8) {
    let wide = rng.percent(60);
    let width = if wide { 64 } else { 32 };
    let by = *rng.pick(&[8, 16, 24, 32, 48, 56, 63]) % width;
    let back = about_bits(rng, by, width);
    shift(c, wide, o::LSH, x, by);
    shift(c, wide, *rng.pick(&[o::ARSH, o::ARSH, o::RSH]), x, back);
}

/// The smaller, the larger, the absolute value, one of two by a mask.
fn choose(rng: &mut Rng, c: &mut Asm, x: u8, y: u8) {
    let condition = *rng.pick(&[
        o::JLT,
        o::JLE,
        o::JGT,
        o::JGE,
        o::JSLT,
        o::JSLE,
        o::JSGT,
        o::JSGE,
        o::JEQ,
        o::JNE,
    ]);
    let over = c.label();
    let narrow = rng.percent(40);
    match rng.below(4) {
        0 => {
            c.mov(A, R(x));
            match narrow {
                true => c.jump_if32(condition, x, R(y), over),
                false => c.jump_if(condition, x, R(y), over),
            };
            c.mov(A, R(y)).bind(over).mov(x, R(A));
        }
        1 => {
            // A condition as number, then as mask.
            c.mov(A, 1).jump_if(condition, x, R(y), over).mov(A, 0);
            c.bind(over).mov(B, 0).alu(o::SUB, B, R(A));
            c.mov(A, R(x)).alu(o::XOR, A, R(y)).alu(o::AND, A, R(B));
            c.alu(o::XOR, x, R(A));
        }
        2 => {
            // |x|
            c.mov(A, R(x));
            shift(c, !narrow, o::ARSH, A, if narrow { 31 } else { 63 });
            c.alu(o::XOR, x, R(A)).alu(o::SUB, x, R(A));
        }
        _ => {
            // Within limits.
            let (low, high) = (immediate(rng), immediate(rng));
            let under = c.label();
            c.jump_if(o::JSGE, x, low, over).mov(x, low).bind(over);
            c.jump_if(o::JSLE, x, high, under).mov(x, high).bind(under);
        }
    }
}

/// Which bit is the highest, by halves.
fn highest_bit(rng: &mut Rng, c: &mut Asm, x: u8) {
    c.mov(A, 0);
    for by in [32, 16, 8, 4, 2, 1] {
        let low = c.label();
        let by = about_bits(rng, by, 64);
        c.mov(B, R(x)).alu(o::RSH, B, by);
        c.jump_eq(B, 0, low).add(A, by).mov(x, R(B)).bind(low);
    }
    c.mov(x, R(A));
}

/// Bits of one number in another.
fn bit_field(rng: &mut Rng, c: &mut Asm, x: u8, y: u8) {
    let (at, bits) = (rng.below(40), rng.between(1, 24));
    let mask = (1i64 << bits) as i32 - 1;
    c.mov(A, R(y))
        .alu(o::AND, A, mask)
        .alu(o::LSH, A, at as i32);
    c.imm64(B, !about(rng, (mask as u64) << at));
    c.alu(o::AND, x, R(B)).alu(o::OR, x, R(A));
    if rng.percent(50) {
        c.alu(o::RSH, x, at as i32).alu(o::AND, x, mask);
    }
}

/// A round of a hash.
fn mix(rng: &mut Rng, c: &mut Asm, x: u8, y: u8) {
    for _ in 0..rng.between(1, 3) {
        let left = rng.between(1, 31) as i32;
        c.alu32(o::SUB, x, R(y)).alu32(o::MOV, A, R(x));
        c.alu32(o::LSH, A, left).alu32(o::MOV, B, R(x));
        c.alu32(o::RSH, B, about_bits(rng, 32 - left, 32));
        c.alu32(o::OR, A, R(B)).alu32(o::XOR, x, R(A));
        if rng.percent(40) {
            c.alu32(o::MUL, x, 0x85eb_ca6bu32 as i32);
        }
    }
}

/// Whether a byte is zero, in all eight at once.
fn zero_byte(rng: &mut Rng, c: &mut Asm, x: u8) {
    c.imm64(A, about(rng, 0x0101_0101_0101_0101));
    c.mov(B, R(x)).alu(o::SUB, B, R(A)).alu(o::XOR, x, -1);
    c.imm64(A, about(rng, 0x8080_8080_8080_8080));
    c.alu(o::AND, x, R(B)).alu(o::AND, x, R(A));
}

/// One of several results, by a number that is compared with one constant after the other.
fn ladder(rng: &mut Rng, c: &mut Asm, x: u8, y: u8) {
    let (out, cases) = (c.label(), rng.between(2, 12));
    let known = rng.percent(70);
    if known {
        let at = DATA_AT + rng.below(DATA as usize) as i16;
        c.load(MemSize::B, A, PACKET, at);
        c.alu(o::AND, A, *rng.pick(&[3, 7, 15, 0xff]));
    } else {
        c.mov(A, R(y));
    }
    let narrow = rng.percent(40);
    let (first, step) = (rng.below(4) as i32, *rng.pick(&[1, 1, 1, 2, 16, -1]));
    let results: Vec<_> = (0..cases)
        .map(|n| (first + n as i32 * step, c.label()))
        .collect();
    for &(value, label) in &results {
        let value = if rng.percent(6) {
            immediate(rng)
        } else {
            value
        };
        let condition = match rng.below(12) {
            0 => o::JGT,
            1 => o::JSLT,
            _ => o::JEQ,
        };
        match narrow {
            true => c.jump_if32(condition, A, value, label),
            false => c.jump_if(condition, A, value, label),
        };
    }
    c.mov(x, immediate(rng)).jump(out);
    let plain = rng.percent(50);
    for (n, (_, label)) in results.into_iter().enumerate() {
        c.bind(label);
        match plain {
            true => c.mov(x, immediate(rng)),
            false => match n % 4 {
                0 => c.add(x, R(A)),
                1 => c.alu(o::XOR, x, immediate(rng)),
                2 => c.load(MemSize::W, x, PACKET, DATA_AT + 4 * n as i16),
                _ => c.mov(x, R(A)).alu(o::LSH, x, n as i32),
            },
        };
        // Sometimes on to the next.
        if rng.percent(85) {
            c.jump(out);
        }
    }
    c.bind(out);
}
