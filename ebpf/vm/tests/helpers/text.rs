//! Formatted text: random formats, good and bad, through `bpf_snprintf`; results of the printing helpers.

use squalus_isa::{HelperId, MemSize};
use squalus_runtime::Rng;
use squalus_runtime::asm::R;
use squalus_vm::EngineKind;

use crate::harness::{Arg, Program, frame, may_use_bpf, run};

/// Formats in one program.
const PER_PROGRAM: u32 = 8;
/// Room for each text.
const ROOM: u32 = 120;

struct Generator {
    rng: Rng,
    /// Whether formats may be such as are refused: of constant ones, the verifier refuses them already.
    wild: bool,
}

impl Generator {
    fn below(&mut self, n: u32) -> u32 {
        self.rng.next_u32() % n
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }

    fn format(&mut self) -> Vec<u8> {
        let mut format = Vec::new();
        for _ in 0..self.below(6) {
            match self.below(12) {
                0 => format.extend(b"%%"),
                1..=3 => format.extend(self.one(&[&b"a"[..], b" ", b"x=", b"\n", b":d", b" pI4"])),
                4 if self.wild && self.below(4) == 0 => {
                    format.extend(self.one(&[&b"%"[..], b"\x01", b"\xe9", b"% ", b"%5"]));
                }
                _ => self.conversion(&mut format),
            }
        }
        format
    }

    fn conversion(&mut self, format: &mut Vec<u8>) {
        format.push(b'%');
        for _ in 0..self.below(3) {
            format.push(self.one(b"0+- 0-"));
        }
        if self.below(2) == 0 {
            format.extend(self.below(24).to_string().bytes());
        }
        // Addresses differ from engine to engine, so of those only conversions that hide them or follow them.
        format.extend(self.one(&[
            &b"d"[..],
            b"i",
            b"u",
            b"x",
            b"X",
            b"ld",
            b"lli",
            b"lu",
            b"llx",
            b"lX",
            b"c",
            b"s",
            b"s",
            b"pI4",
            b"pi4",
            b"pI6",
            b"pi6",
            b"pI4abc",
            b"pks",
            b"pus",
            b"px",
            b"pB",
            b"pS",
            b"ps",
        ]));
        if !self.wild {
            format.extend(self.one(&[&b" "[..], b"|", b"%%", b", "]));
        } else if self.below(40) == 0 {
            format.extend(self.one(&[
                &b"%hd"[..],
                b"%pe",
                b"%lc",
                b"%lld%n",
                b"%.3d",
                b"%#x",
                b"%pI5",
            ]));
        }
    }
}

/// The conversions of a format that follow an address, in order: the letter after the width.
fn letters(format: &[u8]) -> Vec<u8> {
    let mut letters = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        rest = &rest[at + 1..];
        if rest.first() == Some(&b'%') {
            rest = &rest[1..];
            continue;
        }
        let width = rest
            .iter()
            .take_while(|b| b"0+- 123456789".contains(b))
            .count();
        rest = &rest[width..];
        let follows = rest.starts_with(b"s")
            || rest.starts_with(b"pk")
            || rest.starts_with(b"pI")
            || rest.starts_with(b"pi");
        // The kernel's user memory is nothing that a program there has an address of.
        letters.push(match rest.starts_with(b"pu") {
            true => b'0',
            false if follows => b's',
            false => b'd',
        });
    }
    letters
}

/// Stores the arguments of a format on the stack; returns their address and length.
fn arguments(generator: &mut Generator, program: &mut Program, format: &[u8]) -> (Arg, Arg) {
    let mut letters = letters(format);
    if generator.below(10) == 0 {
        letters.push(b'd');
    } else if generator.wild && generator.below(10) == 0 {
        letters.pop();
    }
    letters.truncate(12);
    let base = -8 * letters.len() as i16 - 64;
    for (n, letter) in letters.iter().enumerate() {
        let at = base + 8 * n as i16;
        match letter {
            b's' => {
                let len = generator.below(30);
                let text: Vec<u8> = (0..len).map(|_| generator.one(b"abc%\xff")).collect();
                let pointer = match generator.below(5) {
                    0 => Arg::Num(generator.one(&[0, 8, 1 << 63, u64::MAX])),
                    1 => {
                        let word = generator.rng.next_u32() as i32 & 0x00ff_ffff;
                        program.code.store(MemSize::Dw, 10, -16, word);
                        program.code.store(MemSize::Dw, 10, -8, 0);
                        Arg::Stack(-16)
                    }
                    _ => program.input(&[&text[..], &[0; 17]].concat()),
                };
                program.set(1, pointer);
            }
            b'0' => program.set(1, Arg::Num(0)),
            _ => {
                let small = u64::from(generator.below(300)).wrapping_sub(150);
                let any = u64::from(generator.rng.next_u32()) << 32 | 0x8000_1234;
                let number = generator.one(&[small, any, 0, 1 << 31, u64::MAX, 1 << 63]);
                program.set(1, Arg::Num(number));
            }
        }
        program.code.store(MemSize::Dw, 10, at, R(1));
    }
    let len = Arg::Num(8 * letters.len() as u64);
    match letters.len() {
        0 => (Arg::Num(0), len),
        _ => (Arg::Stack(base.into()), len),
    }
}

#[test]
fn random_formats_agree() {
    if !may_use_bpf() {
        return;
    }
    let mut generator = Generator {
        rng: Rng::seeded(17),
        wild: false,
    };
    let mut good = 0;
    for _ in 0..60 {
        let mut program = Program::new();
        for n in 0..PER_PROGRAM {
            let format = generator.format();
            let (args, len) = arguments(&mut generator, &mut program, &format);
            let text = program.constant(&format);
            // Where an address is cut off, the kernel goes on with what its buffer held before.
            let size = match format.contains(&b'p') {
                true => ROOM,
                false => generator.one(&[0, 1, 5, 20, ROOM]),
            };
            let out = Arg::Out(n * ROOM);
            let call = [out, Arg::Num(size.into()), text, args, len];
            let number = program.call(HelperId::SNPRINTF, &call);
            program.notes[number] += &format!(" {}", format.escape_ascii());
        }
        let results = program.compare().results();
        good += results.iter().filter(|result| **result > 1).count();
    }
    assert!(good > 200, "only {good} formats were good");
}

#[test]
fn printing_returns_the_same_and_leaves_the_line() {
    if !may_use_bpf() {
        return;
    }
    let mut generator = Generator {
        rng: Rng::seeded(5),
        wild: true,
    };
    for _ in 0..20 {
        let mut program = Program::new();
        for _ in 0..4 {
            let format = [&generator.format()[..], &[0; 2]].concat();
            let (args, len) = arguments(&mut generator, &mut program, &format);
            let text = program.input(&format);
            for cut in [0, 1, 2] {
                let size = Arg::Num((format.len() - cut).max(1) as u64);
                let number = program.call(HelperId::TRACE_VPRINTK, &[text, size, args, len]);
                program.notes[number] += &format!(" {}", format.escape_ascii());
            }
            let plain = program.input(b"%d %x %c\0");
            let args = [plain, Arg::Num(9), Arg::Num(7), Arg::Num(8), Arg::Num(65)];
            program.call(HelperId::TRACE_PRINTK, &args);
        }
        program.compare();
    }
}

#[test]
fn lines_wait_for_their_reader() {
    let mut program = Program::new();
    let text = program.input(b"%d is %d\0");
    let numbers = [Arg::Num(6), Arg::Num(7), Arg::Num(0)];
    let args = [&[text, Arg::Num(9)], &numbers[..]].concat();
    program.call(HelperId::TRACE_PRINTK, &args);
    for kind in [EngineKind::Interp, EngineKind::Jit] {
        let mut vm = program.vm(kind);
        assert_eq!(run(&mut vm, &frame()).results()[0], 6);
        let mut lines = Vec::new();
        let count = vm
            .handle()
            .trace(|cpu, line| lines.push((cpu, line.to_owned())));
        assert_eq!((count, lines), (1, vec![(0, "6 is 7".to_owned())]));
    }
}
