//! RFC 9669's operations as pure functions, and all engines compared with them.
//!
//! Each [`Group`] is one instruction in one form. Its program takes two numbers from the frame, applies the
//! instruction and puts what came of it into the frame; [`Group::check`] runs it on all pairs of
//! [`NUMBERS`].

use squalus_engine::TestRun;
use squalus_isa::Insn;

use crate::assemble::assemble;
use crate::engines::Kind;

use super::{load, map};

/// Operands: the edges of all types, shift amounts around the widths, and any.
pub const NUMBERS: [u64; 30] = [
    0,
    1,
    2,
    3,
    7,
    31,
    32,
    33,
    63,
    64,
    65,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_fff9,
    0xffff_ffff_8000_0000,
    0xffff_ffff_7fff_ffff,
    0x0123_4567_89ab_cdef,
    0xfedc_ba98_7654_3210,
];

/// Immediate operands.
const IMMEDIATES: [i32; 16] = [
    1,
    2,
    3,
    7,
    31,
    63,
    -1,
    -2,
    -7,
    0x7f,
    0x80,
    0xffff,
    0x0123_4567,
    i32::MAX,
    i32::MIN,
    i32::MIN + 1,
];

/// Where in the frame results go: behind the two operands.
const RESULTS: usize = 16;

/// What an instruction does to two numbers, as bits.
type Meaning = Box<dyn Fn(u64, u64) -> Vec<u64>>;

/// One instruction in one form.
pub struct Group {
    /// Its text.
    pub name: String,
    program: String,
    /// What goes into the frame behind the operands.
    meaning: Meaning,
}

/// An operation of two numbers of one width, which are given and returned as 64 bits.
type Operation = fn(u64, u64) -> u64;

/// Arithmetic: sign, meaning in 64 bits, meaning in 32 bits (of which the lower half counts).
const ARITHMETIC: [(&str, Operation, Operation); 14] = [
    ("+=", u64::wrapping_add, u64::wrapping_add),
    ("-=", u64::wrapping_sub, u64::wrapping_sub),
    ("*=", u64::wrapping_mul, u64::wrapping_mul),
    (
        "/=",
        |a, b| a.checked_div(b).unwrap_or(0),
        |a, b| low(a).checked_div(low(b)).unwrap_or(0),
    ),
    (
        "%=",
        |a, b| a.checked_rem(b).unwrap_or(a),
        |a, b| low(a).checked_rem(low(b)).unwrap_or(a),
    ),
    ("s/=", sdiv64, sdiv32),
    ("s%=", smod64, smod32),
    ("|=", |a, b| a | b, |a, b| a | b),
    ("&=", |a, b| a & b, |a, b| a & b),
    ("^=", |a, b| a ^ b, |a, b| a ^ b),
    ("<<=", |a, b| a << (b & 63), |a, b| low(a) << (b & 31)),
    (">>=", |a, b| a >> (b & 63), |a, b| low(a) >> (b & 31)),
    (
        "s>>=",
        |a, b| ((a as i64) >> (b & 63)) as u64,
        |a, b| ((a as i32) >> (b & 31)) as u64,
    ),
    ("=", |_, b| b, |_, b| b),
];

/// The lower half.
const fn low(number: u64) -> u64 {
    number as u32 as u64
}

// The quotient goes towards zero; by zero it is zero; the overflow wraps (RFC 9669, 4.1).
fn sdiv64(a: u64, b: u64) -> u64 {
    match b {
        0 => 0,
        b => (a as i64).wrapping_div(b as i64) as u64,
    }
}

fn sdiv32(a: u64, b: u64) -> u64 {
    match b as i32 {
        0 => 0,
        b => (a as i32).wrapping_div(b) as u64,
    }
}

// The remainder has the sign of the dividend, which it is itself if the divisor is zero.
fn smod64(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        b => (a as i64).wrapping_rem(b as i64) as u64,
    }
}

fn smod32(a: u64, b: u64) -> u64 {
    match b as i32 {
        0 => a,
        b => (a as i32).wrapping_rem(b) as u64,
    }
}

/// An operation of one number.
type Change = fn(u64) -> u64;

/// A condition on two numbers.
type Condition = fn(u64, u64) -> bool;

/// Conditions: sign, meaning in 64 bits, meaning in 32 bits.
const CONDITIONS: [(&str, Condition, Condition); 11] = [
    ("==", |a, b| a == b, |a, b| low(a) == low(b)),
    ("!=", |a, b| a != b, |a, b| low(a) != low(b)),
    (">", |a, b| a > b, |a, b| low(a) > low(b)),
    (">=", |a, b| a >= b, |a, b| low(a) >= low(b)),
    ("<", |a, b| a < b, |a, b| low(a) < low(b)),
    ("<=", |a, b| a <= b, |a, b| low(a) <= low(b)),
    ("&", |a, b| a & b != 0, |a, b| low(a & b) != 0),
    ("s>", |a, b| a as i64 > b as i64, |a, b| a as i32 > b as i32),
    (
        "s>=",
        |a, b| a as i64 >= b as i64,
        |a, b| a as i32 >= b as i32,
    ),
    (
        "s<",
        |a, b| (a as i64) < b as i64,
        |a, b| (a as i32) < b as i32,
    ),
    (
        "s<=",
        |a, b| a as i64 <= b as i64,
        |a, b| a as i32 <= b as i32,
    ),
];

/// A program that has the operands in `r3` and `r4` and the map value's address in `r5` before `body`, which
/// puts results into `r6` (the frame) from [`RESULTS`] on.
fn program(body: &str, results: usize) -> String {
    let end = RESULTS + 8 * results;
    format!(
        "r6 = *(u32 *)(r1 + 0); r7 = *(u32 *)(r1 + 4)
         r2 = r6; r2 += {end}
         if r2 > r7 goto out
         r3 = *(u64 *)(r6 + 0); r4 = *(u64 *)(r6 + 8)
         r5 = map[0][0]+0 ll
         {body}
         out: r0 = 2; exit"
    )
}

/// `*(u64 *)(r6 + ...) = r0` for the result with this number.
fn keep(register: &str, result: usize) -> String {
    format!("*(u64 *)(r6 + {}) = {register}\n", RESULTS + 8 * result)
}

/// All instructions of two numbers, and of one.
#[must_use]
pub fn groups() -> Vec<Group> {
    let mut groups = Vec::new();
    for (sign, wide, narrow) in ARITHMETIC {
        groups.extend(arithmetic(sign, 'r', wide));
        // The upper half of the result is zero.
        groups.extend(arithmetic(sign, 'w', move |a, b| low(narrow(a, b))));
    }
    for (sign, wide, narrow) in CONDITIONS {
        groups.extend(condition(sign, 'r', wide));
        groups.extend(condition(sign, 'w', narrow));
    }
    groups.extend(unary());
    groups.extend(memory());
    groups.extend(atomics());
    groups
}

/// An operation with a register, and with all immediates.
fn arithmetic(
    sign: &'static str,
    letter: char,
    meaning: impl Fn(u64, u64) -> u64 + Copy + 'static,
) -> [Group; 2] {
    let by_register = format!("r0 = r3; {letter}0 {sign} {letter}4\n{}", keep("r0", 0));
    // Shifts by the width or more are malformed.
    let bits = if letter == 'r' { 64 } else { 32 };
    let shift = sign.contains("<<") || sign.contains(">>");
    let immediates = IMMEDIATES.iter().copied();
    let immediates: Vec<i32> = immediates
        .filter(|imm| !shift || (0..bits).contains(imm))
        .collect();
    let by_immediate = immediates.iter().enumerate();
    let by_immediate: String = by_immediate
        .map(|(at, imm)| format!("r0 = r3; {letter}0 {sign} {imm}\n{}", keep("r0", at)))
        .collect();
    [
        Group {
            name: format!("{letter}0 {sign} {letter}4"),
            program: program(&by_register, 1),
            meaning: Box::new(move |a, b| vec![meaning(a, b)]),
        },
        Group {
            name: format!("{letter}0 {sign} K"),
            program: program(&by_immediate, immediates.len()),
            meaning: Box::new(move |a, _| {
                let immediates = immediates.iter();
                immediates
                    .map(|imm| meaning(a, i64::from(*imm) as u64))
                    .collect()
            }),
        },
    ]
}

/// A jump on two registers, and on a register and all immediates.
fn condition(sign: &'static str, letter: char, meaning: Condition) -> [Group; 2] {
    let jump = |operand: &str, result: usize| {
        format!(
            "r0 = 1; if {letter}3 {sign} {operand} goto yes{result}; r0 = 0; yes{result}: {}",
            keep("r0", result)
        )
    };
    let by_immediate = IMMEDIATES.iter().enumerate();
    let by_immediate: String = by_immediate
        .map(|(at, imm)| jump(&imm.to_string(), at))
        .collect();
    [
        Group {
            name: format!("if {letter}3 {sign} {letter}4"),
            program: program(&jump(&format!("{letter}4"), 0), 1),
            meaning: Box::new(move |a, b| vec![meaning(a, b).into()]),
        },
        Group {
            name: format!("if {letter}3 {sign} K"),
            program: program(&by_immediate, IMMEDIATES.len()),
            meaning: Box::new(move |a, _| {
                let immediates = IMMEDIATES.iter();
                let taken = immediates.map(|imm| meaning(a, i64::from(*imm) as u64));
                taken.map(u64::from).collect()
            }),
        },
    ]
}

/// Negation, byte order, moves with sign extension.
fn unary() -> Vec<Group> {
    let cases: [(&str, Change); 16] = [
        ("r0 = -r0", |a| a.wrapping_neg()),
        ("w0 = -w0", |a| low(a.wrapping_neg())),
        ("r0 = le16 r0", |a| a as u16 as u64),
        ("r0 = le32 r0", low),
        ("r0 = le64 r0", |a| a),
        ("r0 = be16 r0", |a| (a as u16).swap_bytes() as u64),
        ("r0 = be32 r0", |a| (a as u32).swap_bytes() as u64),
        ("r0 = be64 r0", u64::swap_bytes),
        ("r0 = bswap16 r0", |a| (a as u16).swap_bytes() as u64),
        ("r0 = bswap32 r0", |a| (a as u32).swap_bytes() as u64),
        ("r0 = bswap64 r0", u64::swap_bytes),
        ("r0 = (s8)r0", |a| a as i8 as u64),
        ("r0 = (s16)r0", |a| a as i16 as u64),
        ("r0 = (s32)r0", |a| a as i32 as u64),
        ("w0 = (s8)w0", |a| a as i8 as u32 as u64),
        ("w0 = (s16)w0", |a| a as i16 as u32 as u64),
    ];
    let group = |(text, meaning): (&str, Change)| Group {
        name: text.to_owned(),
        program: program(&format!("r0 = r3; {text}\n{}", keep("r0", 0)), 1),
        meaning: Box::new(move |a, _| vec![meaning(a)]),
    };
    cases.into_iter().map(group).collect()
}

/// Loads of every width, signed and not, and stores, on stack, map value and frame; frame accesses are unaligned
/// too.
fn memory() -> Vec<Group> {
    let widths: [(&str, Change, u64); 7] = [
        ("u8", |a| a as u8 as u64, 0xff),
        ("u16", |a| a as u16 as u64, 0xffff),
        ("u32", low, 0xffff_ffff),
        ("u64", |a| a, u64::MAX),
        ("s8", |a| a as i8 as u64, 0),
        ("s16", |a| a as i16 as u64, 0),
        ("s32", |a| a as i32 as u64, 0),
    ];
    let mut groups = Vec::new();
    for (size, extend, mask) in widths {
        for place in ["r10 - 8", "r5 + 0"] {
            let body = format!(
                "*(u64 *)({place}) = r3; r0 = *({size} *)({place})\n{}",
                keep("r0", 0)
            );
            groups.push(Group {
                name: format!("r0 = *({size} *)({place})"),
                program: program(&body, 1),
                meaning: Box::new(move |a, _| vec![extend(a)]),
            });
            if mask == 0 {
                continue;
            }
            // Neighbouring bytes stay; immediates are sign-extended to 64 bits.
            let body = format!(
                "*(u64 *)({place}) = r3; *({size} *)({place}) = r4; r0 = *(u64 *)({place})
                 {}*({size} *)({place}) = -2; r0 = *(u64 *)({place})
                 {}",
                keep("r0", 0),
                keep("r0", 1)
            );
            groups.push(Group {
                name: format!("*({size} *)({place}) = r4 and K"),
                program: program(&body, 2),
                meaning: Box::new(move |a, b| {
                    let stored = a & !mask | b & mask;
                    vec![stored, a & !mask | (-2i64 as u64) & mask]
                }),
            });
        }
        // From the second byte on: the frame's first 16 bytes are the operands.
        let body = format!("r0 = *({size} *)(r6 + 1)\n{}", keep("r0", 0));
        groups.push(Group {
            name: format!("r0 = *({size} *)(r6 + 1)"),
            program: program(&body, 1),
            meaning: Box::new(move |a, b| vec![extend(a >> 8 | b << 56)]),
        });
    }
    groups
}

/// Atomic operations on a map value: memory afterwards, the source register, `r0`.
fn atomics() -> Vec<Group> {
    let mut groups = Vec::new();
    for (size, mask) in [("u64", u64::MAX), ("u32", 0xffff_ffff)] {
        let place = format!("({size} *)(r5 + 0)");
        let set = move |memory: u64, new: u64| memory & !mask | new & mask;
        let operations: [(&str, Operation); 4] = [
            ("add", u64::wrapping_add),
            ("or", |a, b| a | b),
            ("and", |a, b| a & b),
            ("xor", |a, b| a ^ b),
        ];
        for (name, operation) in operations {
            let after = move |a, b| set(a, operation(a, b));
            groups.push(atomic(
                &format!("lock *{place} {name}= r4"),
                Box::new(move |a, b| vec![after(a, b), b, 5]),
            ));
            groups.push(atomic(
                &format!("r4 = atomic_fetch_{name}({place}, r4)"),
                Box::new(move |a, b| vec![after(a, b), a & mask, 5]),
            ));
        }
        groups.push(atomic(
            &format!("r4 = xchg({place}, r4)"),
            Box::new(move |a, b| vec![set(a, b), a & mask, 5]),
        ));
        // `r0` is 5, so the exchange happens where the memory is.
        groups.push(atomic(
            &format!("r0 = cmpxchg({place}, r0, r4)"),
            Box::new(move |a, b| {
                let memory = if a & mask == 5 { set(a, b) } else { a };
                vec![memory, b, a & mask]
            }),
        ));
        // And where it is compared with itself it always happens.
        let exchanged = format!("r0 = r3; r0 = cmpxchg({place}, r0, r4)");
        groups.push(atomic(
            &exchanged,
            Box::new(move |a, b| vec![set(a, b), b, a & mask]),
        ));
    }
    groups
}

fn atomic(text: &str, meaning: Meaning) -> Group {
    let body = format!(
        "*(u64 *)(r5 + 0) = r3; r0 = 5
         {text}
         r1 = *(u64 *)(r5 + 0)
         {}{}{}",
        keep("r1", 0),
        keep("r4", 1),
        keep("r0", 2)
    );
    Group {
        name: text.to_owned(),
        program: program(&body, 3),
        meaning,
    }
}

impl Group {
    fn code(&self) -> Vec<Insn> {
        let code = assemble(&self.program);
        code.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Runs the instruction on all pairs of numbers in one engine; the first wrong result, in words.
    ///
    /// # Errors
    /// As above, or why the engine refuses the program.
    ///
    /// # Panics
    /// If the engine does not run a frame of usual length.
    pub fn check(&self, kind: Kind) -> Result<usize, String> {
        let maps = vec![map("memory", squalus_isa::MapType::Array, 64, 1)];
        let code = self.code();
        let mut engine = load(kind, maps, vec![("group".to_owned(), code)])?;
        let mut runs = 0;
        for a in NUMBERS {
            for b in NUMBERS {
                let want: Vec<u8> = (self.meaning)(a, b)
                    .into_iter()
                    .flat_map(u64::to_le_bytes)
                    .collect();
                let mut frame = [a, b].map(u64::to_le_bytes).concat();
                frame.resize(RESULTS + want.len().max(48), 0);
                let run = engine.test_run("group", &TestRun::once(&frame));
                let run = run.expect("frames of this length are run");
                let got = &run.frame[RESULTS..RESULTS + want.len()];
                if run.return_value != 2 || got != want {
                    return Err(format!(
                        "{}, a = {a:#x}, b = {b:#x}: expected {}, {kind} returned {} and has {}",
                        self.name,
                        words(&want),
                        run.return_value,
                        words(got),
                    ));
                }
                runs += 1;
            }
        }
        Ok(runs)
    }
}

fn words(bytes: &[u8]) -> String {
    let words = bytes.as_chunks::<8>().0.iter();
    let words: Vec<_> = words
        .map(|word| format!("{:#x}", u64::from_le_bytes(*word)))
        .collect();
    words.join(" ")
}
