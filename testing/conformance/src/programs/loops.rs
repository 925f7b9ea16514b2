//! Loops over bytes: copies, sums, searches, fills, in all the forms in which compilers write them.
//!
//! What an optimizer makes of a loop depends on details, so all of them vary: how far source and destination lie
//! from each other (they may overlap), widths, strides, alignment, whether the number of rounds is known, how the
//! loop counts and where it tests. Every third is as plain as programmers write it, which is what is written out and
//! made with vectors; some stand in another.

use squalus_isa::{Insn, MemSize, opcode as o};
use squalus_runtime::asm::{Asm, Label, R, Src};

use super::{DATA, DATA_AT, FP, MAP, PACKET, REGISTERS, STACK, VALUE, forget, immediate};
use crate::Rng;

/// Registers of a loop.
const SRC: u8 = 1;
const DST: u8 = 2;
const ITEM: u8 = 3;
const ACC: u8 = 4;
const COUNTER: u8 = 5;
const SPARE: u8 = 0;
/// Counts in a loop around another.
const OUTER: u8 = 8;
const LIMIT: u8 = 9;

const SIZES: [(MemSize, i16); 4] = [
    (MemSize::B, 1),
    (MemSize::H, 2),
    (MemSize::W, 4),
    (MemSize::Dw, 8),
];

/// Rounds at most.
const ROUNDS: usize = 200;

/// Memory that a loop walks over: a base, and the bytes behind it that may be used.
#[derive(Clone, Copy)]
struct Area {
    base: u8,
    start: i16,
    len: i16,
    /// Whether accesses must be aligned.
    aligned: bool,
}

const FRAME_AREA: Area = Area {
    base: PACKET,
    start: DATA_AT,
    len: DATA,
    aligned: false,
};

const AREAS: [Area; 6] = [
    FRAME_AREA,
    FRAME_AREA,
    FRAME_AREA,
    FRAME_AREA,
    Area {
        base: FP,
        start: -STACK,
        len: STACK,
        aligned: true,
    },
    Area {
        base: VALUE,
        start: 0,
        len: MAP,
        aligned: false,
    },
];

/// What a loop does in each round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Copy,
    CopyChanged,
    Fill,
    Sum,
    Hash,
    Dot,
    Compare,
    Search,
    Count,
    CopyAndSum,
}

const ALL: [Body; 13] = [
    Body::Copy,
    Body::Copy,
    Body::CopyChanged,
    Body::CopyChanged,
    Body::Fill,
    Body::Sum,
    Body::Sum,
    Body::Hash,
    Body::Dot,
    Body::Compare,
    Body::Search,
    Body::Count,
    Body::CopyAndSum,
];

/// A loop, as it was chosen.
struct Plan {
    body: Body,
    width: (MemSize, i16),
    /// Bytes that the source moves by in a round, and the destination: back for a reversal.
    steps: (i16, i16),
    src: (Area, i16),
    dst: (Area, i16),
    rounds: usize,
    /// How many times the body stands in the loop.
    copies: i16,
    up: bool,
    known: bool,
    tested_first: bool,
    narrow: bool,
    signed: bool,
    /// Whether sums are of 64 bits, and of what was loaded.
    plain: bool,
    /// How often the whole loop is done, each time further on in memory.
    outer: usize,
}

/// A loop over bytes of the frame, the stack or the map value; a result in some register.
pub(super) fn over_bytes(rng: &mut Rng) -> Vec<Insn> {
    let plan = Plan::random(rng);
    let mut asm = Asm::new();
    plan.emit(rng, &mut asm);
    asm.finish()
}

impl Plan {
    fn random(rng: &mut Rng) -> Plan {
        let plain = rng.percent(35);
        let all: &[Body] = match plain {
            true => &[
                Body::Copy,
                Body::Fill,
                Body::Sum,
                Body::Sum,
                Body::Sum,
                Body::CopyAndSum,
            ],
            false => &ALL,
        };
        let body = *rng.pick(all);
        let width = match plain && body == Body::Sum {
            true => *rng.pick(&[SIZES[2], SIZES[2], SIZES[2], SIZES[1], SIZES[0]]),
            false => *rng.pick(&SIZES),
        };
        let step = match rng.below(10) {
            _ if plain => width.1,
            0 => width.1 * 2,
            1 => 1,
            _ => width.1,
        };
        let from = *rng.pick(&AREAS);
        let to = match body {
            // These have one place only.
            Body::Fill | Body::Sum | Body::Hash | Body::Search | Body::Count => from,
            _ => *rng.pick(&AREAS),
        };
        let step = match from.aligned || to.aligned {
            true => step.max(width.1),
            false => step,
        };
        let room = from.len.min(to.len);
        let mut copies = *rng.pick(&[1, 1, 1, 1, 2, 4]);
        let known = plain || rng.percent(55);
        let outer = match rng.below(10) {
            0 if known => rng.between(2, 4),
            _ => 1,
        };
        let room = room / outer as i16;
        if plain || step * (copies - 1) + width.1 > room {
            copies = 1;
        }
        let in_round = step * copies;
        // The next one begins behind the last round.
        let outer = if in_round > room { 1 } else { outer };
        let most = ((room - width.1 - step * (copies - 1)) / in_round + 1) as usize;
        let rounds = match rng.below(4) {
            0 => rng.between(1, most.min(9)),
            1 if plain => most.min(ROUNDS),
            _ => rng.between(1, most.min(ROUNDS)),
        };
        let used = in_round * (rounds as i16 - 1) + step * (copies - 1) + width.1;
        let used = used + in_round * (rounds * (outer - 1)) as i16;
        let src = (from, place(rng, from, used, width.1));
        let mut dst = (to, place(rng, to, used, width.1));
        let back = !plain && rng.percent(12);
        if back {
            dst.1 += used - width.1;
        }
        Plan {
            body,
            width,
            steps: (step, if back { -step } else { step }),
            src,
            dst,
            rounds,
            copies,
            up: rng.percent(60),
            known,
            tested_first: rng.percent(50),
            narrow: rng.percent(40),
            signed: rng.percent(20),
            plain,
            outer,
        }
    }

    fn emit(&self, rng: &mut Rng, asm: &mut Asm) {
        let (head, test, out) = (asm.label(), asm.label(), asm.label());
        self.begin(rng, asm);
        let again = asm.label();
        if self.outer > 1 {
            asm.mov(OUTER, self.outer as i32).bind(again);
        }
        self.count(rng, asm, out);
        if self.tested_first {
            asm.jump(test);
        }
        asm.bind(head);
        for copy in 0..self.copies {
            let places = (copy * self.steps.0, copy * self.steps.1);
            self.round(rng, asm, places, out);
        }
        asm.add(SRC, i32::from(self.steps.0 * self.copies))
            .add(DST, i32::from(self.steps.1 * self.copies));
        self.step(asm);
        asm.bind(test);
        self.again(asm, head);
        if self.outer > 1 {
            asm.add(OUTER, -1).jump_if(o::JNE, OUTER, 0, again);
        }
        asm.bind(out);
        finish(rng, asm, self.outer > 1);
    }

    fn begin(&self, rng: &mut Rng, asm: &mut Asm) {
        for (register, (area, at)) in [(SRC, self.src), (DST, self.dst)] {
            asm.mov(register, R(area.base))
                .add(register, i32::from(area.start + at));
        }
        match rng.percent(70) {
            true => asm.mov(ACC, *rng.pick(&[0, 0, 0, 1, -1, 5381])),
            false => asm.mov(ACC, R(*rng.pick(&[8, 9]))),
        };
    }

    /// The number of rounds, or where counting starts.
    fn count(&self, rng: &mut Rng, asm: &mut Asm, out: Label) {
        let rounds = self.rounds as i32;
        if self.known {
            asm.mov(COUNTER, if self.up { 0 } else { rounds });
            return;
        }
        // A number below it from the frame, and 0 as well.
        let at = DATA_AT + rng.below(DATA as usize) as i16;
        asm.load(MemSize::B, SPARE, PACKET, at);
        match rng.below(3) {
            0 => {
                asm.alu(o::AND, SPARE, floor_mask(rounds));
            }
            way => {
                let fits = asm.label();
                if way == 1 {
                    // The kernel does not know that the remainder is below, we do.
                    asm.alu(o::MOD, SPARE, rounds + 1);
                }
                asm.jump_if(o::JLE, SPARE, rounds, fits)
                    .mov(SPARE, rounds)
                    .bind(fits);
            }
        }
        if !self.tested_first {
            asm.jump_eq(SPARE, 0, out);
        }
        match self.up {
            true => asm.mov(LIMIT, R(SPARE)).mov(COUNTER, 0),
            false => asm.mov(COUNTER, R(SPARE)),
        };
    }

    fn step(&self, asm: &mut Asm) {
        let by = if self.up { 1 } else { -1 };
        match self.narrow {
            true => asm.alu32(o::ADD, COUNTER, by),
            false => asm.add(COUNTER, by),
        };
    }

    /// Back to the head if there is another round.
    fn again(&self, asm: &mut Asm, head: Label) {
        let (condition, with): (u8, Src) = match (self.up, self.known) {
            (true, known) => {
                let condition = match self.signed {
                    true => o::JSLT,
                    false => o::JLT,
                };
                let limit = match known {
                    true => Src::Imm(self.rounds as i32),
                    false => Src::Reg(LIMIT),
                };
                (condition, limit)
            }
            (false, _) if self.signed => (o::JSGT, Src::Imm(0)),
            (false, _) => (o::JNE, Src::Imm(0)),
        };
        match self.narrow {
            true => asm.jump_if32(condition, COUNTER, with, head),
            false => asm.jump_if(condition, COUNTER, with, head),
        };
    }

    fn round(&self, rng: &mut Rng, asm: &mut Asm, (from, to): (i16, i16), out: Label) {
        let size = self.width.0;
        match self.body {
            Body::Copy => {
                asm.load(size, ITEM, SRC, from)
                    .store(size, DST, to, R(ITEM));
            }
            Body::CopyChanged => {
                asm.load(size, ITEM, SRC, from);
                change(rng, asm, ITEM);
                asm.store(size, DST, to, R(ITEM));
            }
            Body::Fill => {
                let what = match rng.below(3) {
                    0 => Src::Imm(immediate(rng)),
                    1 => Src::Reg(ACC),
                    _ => Src::Reg(COUNTER),
                };
                asm.store(size, DST, to, what);
            }
            Body::Sum => {
                self.load(rng, asm, from);
                if !self.plain && rng.percent(25) {
                    change(rng, asm, ITEM);
                }
                self.accumulate(rng, asm);
            }
            Body::Hash => {
                self.load(rng, asm, from);
                let by = *rng.pick(&[31, 33, 0x0100_0193, 5, -1]);
                asm.alu(o::XOR, ACC, R(ITEM));
                arithmetic(rng, asm, o::MUL, ACC, Src::Imm(by));
            }
            Body::Dot => self.dot(rng, asm, (from, to)),
            Body::Compare => {
                let same = asm.label();
                self.load(rng, asm, from);
                asm.load(size, SPARE, DST, to)
                    .jump_if(o::JEQ, ITEM, R(SPARE), same)
                    .add(ACC, 1)
                    .bind(same);
            }
            Body::Search => {
                self.load(rng, asm, from);
                asm.add(ACC, 1)
                    .jump_if(o::JEQ, ITEM, rng.below(12) as i32, out);
            }
            Body::Count => {
                let (on, over) = (
                    *rng.pick(&[o::JGT, o::JLT, o::JSGT, o::JEQ, o::JSET]),
                    asm.label(),
                );
                self.load(rng, asm, from);
                asm.jump_if(on, ITEM, rng.below(128) as i32, over)
                    .add(ACC, 1)
                    .bind(over);
            }
            Body::CopyAndSum => {
                asm.load(size, ITEM, SRC, from)
                    .store(size, DST, to, R(ITEM));
                self.accumulate(rng, asm);
            }
        }
    }

    fn load(&self, rng: &mut Rng, asm: &mut Asm, from: i16) {
        match self.width.1 < 8 && !self.plain && rng.percent(15) {
            true => asm.load_signed(self.width.0, ITEM, SRC, from),
            false => asm.load(self.width.0, ITEM, SRC, from),
        };
    }

    fn accumulate(&self, rng: &mut Rng, asm: &mut Asm) {
        match self.plain && rng.percent(85) {
            true => drop(asm.add(ACC, R(ITEM))),
            false => accumulate(rng, asm),
        }
    }

    /// The product of two, added up.
    fn dot(&self, rng: &mut Rng, asm: &mut Asm, (from, to): (i16, i16)) {
        self.load(rng, asm, from);
        asm.load(self.width.0, SPARE, DST, to);
        arithmetic(rng, asm, o::MUL, ITEM, Src::Reg(SPARE));
        arithmetic(rng, asm, o::ADD, ACC, Src::Reg(ITEM));
    }
}

/// Where `used` bytes begin in an area.
fn place(rng: &mut Rng, area: Area, used: i16, width: i16) -> i16 {
    let at = rng.below((area.len - used).max(0) as usize + 1) as i16;
    match area.aligned || rng.percent(40) {
        true => at & -width,
        false => at,
    }
}

/// The largest number of the form 2^n - 1 that is not above `rounds`.
fn floor_mask(rounds: i32) -> i32 {
    (((rounds + 1) as u32).next_power_of_two() as i32 / if is_mask(rounds) { 1 } else { 2 }) - 1
}

fn is_mask(number: i32) -> bool {
    (number + 1).count_ones() == 1
}

/// An operation of either width.
fn arithmetic(rng: &mut Rng, asm: &mut Asm, op: u8, dst: u8, src: Src) {
    match rng.percent(50) {
        true => asm.alu(op, dst, src),
        false => asm.alu32(op, dst, src),
    };
}

/// Does something to what was loaded.
fn change(rng: &mut Rng, asm: &mut Asm, item: u8) {
    match rng.below(7) {
        0 => asm.alu(o::XOR, item, immediate(rng)),
        1 => asm.alu32(o::ADD, item, immediate(rng)),
        2 => asm.alu(o::AND, item, immediate(rng)),
        3 => asm.endian(o::ALU | o::X, item, *rng.pick(&[16, 32, 64])),
        4 => asm.alu(o::RSH, item, rng.below(16) as i32),
        5 => asm.alu32(o::LSH, item, rng.below(9) as i32),
        _ => asm.alu(o::ADD, item, R(ACC)),
    };
}

/// Takes what was loaded into the sum.
fn accumulate(rng: &mut Rng, asm: &mut Asm) {
    match rng.below(9) {
        0..4 => arithmetic(rng, asm, o::ADD, ACC, Src::Reg(ITEM)),
        4 => arithmetic(rng, asm, o::SUB, ACC, Src::Reg(ITEM)),
        5 => arithmetic(rng, asm, o::XOR, ACC, Src::Reg(ITEM)),
        6 => {
            let op = *rng.pick(&[o::OR, o::AND]);
            arithmetic(rng, asm, op, ACC, Src::Reg(ITEM));
        }
        7 => {
            // The carry goes around.
            let none = asm.label();
            asm.add(ACC, R(ITEM))
                .jump_if(o::JGE, ACC, R(ITEM), none)
                .add(ACC, 1)
                .bind(none);
        }
        _ => {
            let (keep, condition) = (asm.label(), *rng.pick(&[o::JGE, o::JLE, o::JSGE, o::JSLE]));
            asm.jump_if(condition, ACC, R(ITEM), keep)
                .mov(ACC, R(ITEM))
                .bind(keep);
        }
    }
}

/// The sum into some register, and numbers into those that were used.
fn finish(rng: &mut Rng, asm: &mut Asm, nested: bool) {
    let result = *rng.pick(&REGISTERS);
    asm.mov(result, R(ACC));
    forget(asm, result);
    for register in [SPARE, SRC, DST, ITEM, ACC, COUNTER, LIMIT, OUTER] {
        if register != result && (nested || register != OUTER) {
            asm.mov(register, i32::from(register) * 3);
        }
    }
}
