//! Text made by helpers that follow addresses given as numbers in memory: what they read is no argument of theirs.

use squalus_isa::{HelperId, Insn, MemSize};
use squalus_runtime::asm::{Asm, R};

use super::{CONTEXT_AT, DATA, DATA_AT, FP, MAP, PACKET, STACK, VALUE, maps};
use crate::Rng;

/// Formats, none of which shows an address.
const FORMATS: [&[u8]; 12] = [
    b"%pI4",
    b"%pI6",
    b"%pi4 %d",
    b"%s|%pi6",
    b"%pI4 %pI4 %pI4",
    b"%s%s",
    b"%u %s %x",
    b"%pI6 %pI4 %lx %c",
    b"%lld %08x",
    b"%-20s|",
    b"%pI4%%%s %pi4 %i",
    b"nothing",
];
/// Bytes of each format in the constant map.
const ROOM: usize = 24;
/// Longest text that a format takes in.
const LONGEST: i16 = 64;
/// Most arguments of a format.
const MOST: i16 = 4;

/// Value of the constant map.
pub(super) fn constants() -> Vec<u8> {
    let mut bytes = Vec::new();
    for format in FORMATS {
        bytes.extend(format);
        bytes.resize(bytes.len().next_multiple_of(ROOM), 0);
    }
    bytes
}

/// What an argument of a format is, apart from numbers: the address of so many bytes, or of a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Bytes(i16),
    Text,
}

fn arguments(format: &[u8]) -> Vec<Kind> {
    let text = String::from_utf8_lossy(format).replace("%%", "");
    let of = |conversion: &str| {
        let kind = conversion.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit());
        match kind.as_bytes() {
            [b'p', _, b'4', ..] => Kind::Bytes(4),
            [b'p', _, b'6', ..] => Kind::Bytes(16),
            [b's', ..] => Kind::Text,
            _ => Kind::Number,
        }
    };
    text.split('%').skip(1).map(of).collect()
}

/// Memory that arguments may lead to, behind a register.
#[derive(Clone, Copy)]
struct Area {
    base: u8,
    start: i16,
    len: i16,
}

const fn area(base: u8, start: i16, len: i16) -> Area {
    Area { base, start, len }
}

/// Where text comes from and goes to, and where the array of arguments lies: on the stack below all that is used
/// otherwise, or perhaps in the map value.
struct Places {
    from: &'static [Area],
    to: &'static [Area],
    array: Area,
    other: Option<Area>,
}

const OF_PROGRAM: Places = Places {
    from: &[
        area(FP, -STACK, STACK),
        area(FP, -STACK, STACK),
        area(VALUE, 0, MAP),
        area(PACKET, DATA_AT, DATA),
    ],
    to: &[
        area(FP, -STACK, STACK),
        area(FP, -STACK, STACK),
        area(VALUE, 0, MAP),
    ],
    array: area(FP, CONTEXT_AT - 8 * MOST, 8 * MOST),
    other: Some(area(VALUE, 0, MAP)),
};

/// Bytes of a function's own stack that text uses; the array lies below.
pub(super) const OWN: i16 = 24;

/// A function has the address of `OWN` bytes of its caller's in `r6`.
const OF_FUNCTION: Places = Places {
    from: &[area(6, 0, OWN), area(FP, -OWN, OWN)],
    to: &[area(6, 0, OWN), area(FP, -OWN, OWN)],
    array: area(FP, -OWN - 8 * MOST, 8 * MOST),
    other: None,
};

/// Text in a program. `r1` to `r5` hold nothing afterwards.
pub(super) fn in_program(rng: &mut Rng, code: &mut Vec<Insn>) {
    OF_PROGRAM.emit(rng, code);
}

/// Text in a function, whose lowest bytes of stack that are used are the [`OWN`] highest.
pub(super) fn in_function(rng: &mut Rng, code: &mut Vec<Insn>) {
    OF_FUNCTION.emit(rng, code);
}

impl Places {
    fn emit(&self, rng: &mut Rng, code: &mut Vec<Insn>) {
        let which = rng.below(FORMATS.len());
        let kinds = arguments(FORMATS[which]);
        let to = *rng.pick(self.to);
        let array = match self.other.filter(|_| to.base == FP && rng.percent(30)) {
            Some(other) => other,
            None => self.array,
        };
        let mut asm = Asm::new();
        let c = &mut asm;
        for (n, kind) in (0..).zip(&kinds) {
            let from = loop {
                // Not from where addresses lie.
                let from = *rng.pick(self.from);
                if from.base == FP || from.base != array.base {
                    break from;
                }
            };
            argument(rng, c, *kind, from);
            c.store(MemSize::Dw, array.base, array.start + 8 * n, R(1));
        }
        call(rng, c, (which, kinds.len()), array, to);
        if array.base != FP {
            // Addresses are nobody's business.
            for at in (0..8 * kinds.len() as i16).step_by(8) {
                c.store(MemSize::Dw, array.base, at, i32::from(at));
            }
        }
        code.extend(asm.finish());
    }
}

/// `r1` = the argument.
fn argument(rng: &mut Rng, c: &mut Asm, kind: Kind, from: Area) {
    let at = |rng: &mut Rng, size: i16| {
        let place = rng.below((from.len - size) as usize + 1) as i16;
        from.start + place
    };
    match kind {
        Kind::Number => {
            let size = *rng.pick(&[MemSize::B, MemSize::H, MemSize::W, MemSize::Dw]);
            // The kernel wants accesses to the stack aligned.
            let at = at(rng, 8) & -8;
            c.load(size, 1, from.base, at.max(from.start));
        }
        Kind::Bytes(size) => {
            let at = at(rng, size);
            c.mov(1, R(from.base)).add(1, i32::from(at));
        }
        Kind::Text => {
            // It ends somewhere inside, and soon: where more than there is room for goes before an address, Linux 6.18
            // at least writes beyond its buffer and takes what it finds there for an argument.
            let (a, b) = (at(rng, 1), at(rng, 1));
            let (start, end) = (a.min(b), a.max(b));
            let end = end.min(start + LONGEST);
            c.store(MemSize::B, from.base, end, 0);
            c.mov(1, R(from.base)).add(1, i32::from(start));
        }
    }
}

/// Formats in memory, or as a line.
fn call(rng: &mut Rng, c: &mut Asm, (which, args): (usize, usize), array: Area, to: Area) {
    let helper = *rng.pick(&[
        HelperId::SNPRINTF,
        HelperId::SNPRINTF,
        HelperId::SNPRINTF,
        HelperId::TRACE_VPRINTK,
        HelperId::TRACE_PRINTK,
    ]);
    let (format, size) = ((which * ROOM) as u32, 8 * args as i32);
    match helper {
        HelperId::TRACE_PRINTK if args <= 3 => {
            for n in 0..args as u8 {
                let at = array.start + 8 * i16::from(n);
                c.load(MemSize::Dw, 3 + n, array.base, at);
            }
            c.map_value(1, maps::TEXT as u32, format);
            c.mov(2, FORMATS[which].len() as i32 + 1);
            c.call(HelperId::TRACE_PRINTK);
        }
        HelperId::TRACE_VPRINTK => {
            c.map_value(1, maps::TEXT as u32, format);
            c.mov(2, FORMATS[which].len() as i32 + 1);
            address_of_array(c, 3, array, size);
            c.mov(4, size).call(HelperId::TRACE_VPRINTK);
        }
        _ => {
            let room = rng.between(1, to.len as usize / 8) as i16 * 8;
            let at = rng.below(((to.len - room) / 8) as usize + 1) as i16 * 8;
            let len = i32::from(room) - rng.below(8) as i32;
            c.mov(1, R(to.base)).add(1, i32::from(to.start + at));
            c.mov(2, len).map_value(3, maps::TEXT as u32, format);
            address_of_array(c, 4, array, size);
            c.mov(5, size).call(HelperId::SNPRINTF);
        }
    }
}

/// `register` = the address of the array, or 0 if there are no arguments.
fn address_of_array(c: &mut Asm, register: u8, array: Area, size: i32) {
    match size {
        0 => c.mov(register, 0),
        _ => c
            .mov(register, R(array.base))
            .add(register, i32::from(array.start)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_fit_and_their_arguments_are_known() {
        assert!(FORMATS.iter().all(|format| format.len() < ROOM));
        let kinds = arguments(b"%pI4%%%s %pi6 %08x");
        let expected = [Kind::Bytes(4), Kind::Text, Kind::Bytes(16), Kind::Number];
        assert!(kinds == expected);
        let most = FORMATS.map(|format| arguments(format).len());
        assert!(most.into_iter().max() == Some(MOST as usize));
    }
}
