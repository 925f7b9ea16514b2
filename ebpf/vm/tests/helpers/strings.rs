//! Numbers in text, comparisons.

use squalus_isa::HelperId;
use squalus_runtime::Rng;

use crate::harness::{Arg, Program, may_use_bpf};

/// Texts are as long as a call says; many calls share a program.
const PER_PROGRAM: usize = 16;

fn random_number(rng: &mut Rng) -> Vec<u8> {
    let mut below = |n: u32| rng.next_u32() % n;
    let mut text = Vec::new();
    for _ in 0..below(3) {
        text.push([b' ', b'\t', b'\n', 0xa0][below(4) as usize]);
    }
    if below(3) == 0 {
        text.push(b"-+"[below(2) as usize]);
    }
    text.extend(match below(5) {
        0 => &b"0x"[..],
        1 => b"0X",
        2 => b"0",
        _ => b"",
    });
    let digits: &[u8] =
        [&b"01234567"[..], b"0123456789", b"0123456789abcdefABCDEF"][below(3) as usize];
    for _ in 0..[1, 5, 16, 20, 21, 70][below(6) as usize] {
        text.push(digits[below(digits.len() as u32) as usize]);
    }
    text.extend([&b""[..], b"g", b"\0", b" 1"][below(4) as usize]);
    text
}

#[test]
fn numbers_are_parsed_alike() {
    if !may_use_bpf() {
        return;
    }
    let mut rng = Rng::seeded(3);
    let edges: Vec<Vec<u8>> = [
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
        "18446744073709551615",
        "18446744073709551616",
        "-0",
        "-",
        " ",
        "0x",
        "0xg",
        "08",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    let random = (0..180).map(|_| random_number(&mut rng));
    let texts: Vec<Vec<u8>> = edges.into_iter().chain(random).collect();
    for (n, texts) in texts.chunks(PER_PROGRAM).enumerate() {
        for helper in [HelperId::STRTOL, HelperId::STRTOUL] {
            let mut program = Program::new();
            for (m, text) in texts.iter().enumerate() {
                let base = [0, 8, 10, 16, 7, 32, 1 << 40][(n + m) % 7];
                let at = program.input(text);
                let len = Arg::Num(text.len() as u64);
                let out = Arg::Out(8 * m as u32);
                program.call(helper, &[at, len, Arg::Num(base), out]);
            }
            program.compare();
        }
    }
}

#[test]
fn comparisons_agree() {
    if !may_use_bpf() {
        return;
    }
    let mut program = Program::new();
    let texts: [&[u8]; 7] = [b"abc", b"abd", b"ab", b"ab\0x", b"\xffz", b"", b"abcdef"];
    for constant in [&b"abc"[..], b"", b"\xff", b"ab"] {
        let constant = program.constant(constant);
        for text in texts.iter().filter(|text| !text.is_empty()) {
            let at = program.input(text);
            program.call(
                HelperId::STRNCMP,
                &[at, Arg::Num(text.len() as u64), constant],
            );
        }
    }
    let results = program.compare().results();
    assert!([-1, 0, 1].iter().all(|result| results.contains(result)));
}
