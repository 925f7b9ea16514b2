//! What programs write in several instructions because eBPF has none for it, and what comes close to that.

mod common;

use common::{agree, compile_all, link};
use proptest::prelude::*;
use squalus_isa::{Insn, MemSize, opcode as o};
use squalus_jit::Options;
use squalus_runtime::asm::{Asm, Label, R, Src};

/// A program that makes r0 of two words of the packet, r1 and r2, and leaves it in the packet. r6 is the packet, r3 to
/// r5 are free.
fn program(body: impl Fn(&mut Asm)) -> Vec<Insn> {
    let mut asm = Asm::new();
    let out = asm.label();
    asm.load(MemSize::W, 6, 1, 0)
        .load(MemSize::W, 3, 1, 4)
        .mov(0, 0)
        .mov(2, R(6))
        .add(2, 64)
        .jump_if(o::JGT, 2, R(3), out)
        .load(MemSize::Dw, 1, 6, 0)
        .load(MemSize::Dw, 2, 6, 8);
    body(&mut asm);
    asm.store(MemSize::Dw, 6, 16, R(0))
        .mov(0, 2)
        .bind(out)
        .exit();
    asm.finish()
}

/// An operation on 64 bits or on 32.
fn operate(asm: &mut Asm, wide: bool, op: u8, dst: u8, src: Src) {
    match wide {
        true => asm.alu(op, dst, src),
        false => asm.alu32(op, dst, src),
    };
}

/// Runs a program in all variants. Gives what it makes of two numbers.
fn run(program: &[Insn], a: u64, b: u64) -> u64 {
    let mut packet = [0; 80];
    packet[..8].copy_from_slice(&a.to_le_bytes());
    packet[8..16].copy_from_slice(&b.to_le_bytes());
    let ran = agree(&[program.to_vec()], &[], &packet);
    assert_eq!(ran.result, Ok(2));
    let word = ran.packet[16..24].try_into().expect("8 bytes");
    u64::from_le_bytes(word)
}

/// The code generator's text of a program.
fn text(program: &[Insn]) -> String {
    let options = Options {
        keep_text: true,
        ..Options::default()
    };
    let programs = compile_all(&link(&[program.to_vec()], &[]), options);
    programs[0].clif().expect("the text was kept").to_owned()
}

const NUMBERS: [u64; 6] = [
    0,
    0x8000_0000,
    0x1_0000_0000,
    u64::MAX,
    0x0123_4567_89ab_cdef,
    0x6d5a_56da_255b_0ec2,
];

/// A program becomes this operation, and gives what it should.
fn is(operation: &str, program: &[Insn], result: impl Fn(u64, u64) -> u64) {
    let text = text(program);
    assert!(text.contains(operation), "{text}");
    for (n, a) in NUMBERS.into_iter().enumerate() {
        let b = [a, 5, 64][n % 3];
        assert_eq!(run(program, a, b), result(a, b), "{a:#x}, {b:#x}");
    }
}

/// `x - (x >> 1 & 0x55..)` and so on, as compilers count bits.
fn count(asm: &mut Asm, wide: bool) {
    let alu = |asm: &mut Asm, op, dst, src: Src| operate(asm, wide, op, dst, src);
    let number = |asm: &mut Asm, dst: u8, byte: u64| {
        let all = u64::MAX / 0xff * byte;
        asm.imm64(dst, if wide { all } else { all & 0xffff_ffff });
    };
    alu(asm, o::MOV, 3, R(1).into());
    alu(asm, o::RSH, 3, 1.into());
    number(asm, 4, 0x55);
    alu(asm, o::AND, 3, R(4).into());
    alu(asm, o::SUB, 1, R(3).into());
    number(asm, 4, 0x33);
    alu(asm, o::MOV, 0, R(1).into());
    alu(asm, o::AND, 0, R(4).into());
    alu(asm, o::RSH, 1, 2.into());
    alu(asm, o::AND, 1, R(4).into());
    alu(asm, o::ADD, 0, R(1).into());
    alu(asm, o::MOV, 1, R(0).into());
    alu(asm, o::RSH, 1, 4.into());
    alu(asm, o::ADD, 0, R(1).into());
    number(asm, 4, 0x0f);
    alu(asm, o::AND, 0, R(4).into());
    number(asm, 4, 1);
    alu(asm, o::MUL, 0, R(4).into());
    alu(asm, o::RSH, 0, if wide { 56 } else { 24 }.into());
}

#[test]
fn bits_are_counted() {
    is("popcnt", &program(|asm| count(asm, true)), |a, _| {
        a.count_ones().into()
    });
    is("popcnt", &program(|asm| count(asm, false)), |a, _| {
        (a as u32).count_ones().into()
    });
}

#[test]
fn zeros_above_and_below_are_counted() {
    let above = |wide: bool| {
        program(|asm| {
            let alu = |asm: &mut Asm, op, dst, src: Src| operate(asm, wide, op, dst, src);
            for by in [1, 2, 4, 8, 16].into_iter().chain(wide.then_some(32)) {
                alu(asm, o::MOV, 3, R(1).into());
                alu(asm, o::RSH, 3, by.into());
                alu(asm, o::OR, 1, R(3).into());
            }
            alu(asm, o::XOR, 1, (-1).into());
            count(asm, wide);
        })
    };
    is("clz", &above(true), |a, _| a.leading_zeros().into());
    is("clz", &above(false), |a, _| {
        (a as u32).leading_zeros().into()
    });
    let below = program(|asm| {
        asm.mov(3, R(1))
            .add(3, -1)
            .alu(o::XOR, 1, -1)
            .alu(o::AND, 1, R(3));
        count(asm, true);
    });
    is("ctz", &below, |a, _| a.trailing_zeros().into());
}

#[test]
fn rotations_are_found() {
    let by_number = |op: u8, left: i32, right: i32| {
        program(|asm| {
            asm.mov(0, R(1))
                .alu(o::LSH, 0, left)
                .alu(o::RSH, 1, right)
                .alu(op, 0, R(1));
        })
    };
    for op in [o::OR, o::XOR, o::ADD] {
        is("rotl", &by_number(op, 13, 51), |a, _| a.rotate_left(13));
    }
    let near = by_number(o::OR, 13, 50);
    assert!(!text(&near).contains("rotl"));
    assert_eq!(
        run(&near, NUMBERS[4], 0),
        NUMBERS[4] << 13 | NUMBERS[4] >> 50
    );
    // Not turned at all, a sum is twice the value.
    let by_value = |op: u8, whole: i32, wide: bool| {
        program(|asm| {
            let alu = |asm: &mut Asm, op, dst, src: Src| operate(asm, wide, op, dst, src);
            alu(asm, o::MOV, 0, R(1).into());
            alu(asm, o::LSH, 0, R(2).into());
            alu(asm, o::MOV, 3, whole.into());
            alu(asm, o::SUB, 3, R(2).into());
            alu(asm, o::AND, 3, if wide { 63 } else { 31 }.into());
            alu(asm, o::RSH, 1, R(3).into());
            alu(asm, op, 0, R(1).into());
        })
    };
    is("rotl", &by_value(o::OR, 64, true), |a, b| {
        a.rotate_left((b % 64) as u32)
    });
    is("rotl", &by_value(o::OR, 0, true), |a, b| {
        a.rotate_left((b % 64) as u32)
    });
    is("rotl", &by_value(o::OR, 32, false), |a, b| {
        (a as u32).rotate_left((b % 32) as u32).into()
    });
    let sum = by_value(o::ADD, 64, true);
    assert!(!text(&sum).contains("rotl"));
    assert_eq!(run(&sum, 7, 64), 14);
}

/// `r0 = r1 * r2 >> 64` from products of halves, the cross product of `r1`'s upper half first or last.
fn high(asm: &mut Asm, turned: bool) {
    let half = |asm: &mut Asm, dst: u8, src: u8| {
        asm.mov(dst, R(src))
            .alu(o::LSH, dst, 32)
            .alu(o::RSH, dst, 32);
    };
    // r3, r1: halves of the one; r4, r2: of the other.
    half(asm, 3, 1);
    half(asm, 4, 2);
    asm.alu(o::RSH, 1, 32).alu(o::RSH, 2, 32);
    asm.mov(5, R(3)).alu(o::MUL, 5, R(4)).alu(o::RSH, 5, 32);
    let (first, second) = if turned {
        ((3, 2), (4, 1))
    } else {
        ((4, 1), (3, 2))
    };
    asm.alu(o::MUL, first.0, R(first.1)).add(first.0, R(5));
    asm.alu(o::MUL, second.0, R(second.1));
    half(asm, 5, first.0);
    asm.add(second.0, R(5)).mov(0, R(1)).alu(o::MUL, 0, R(2));
    for middle in [first.0, second.0] {
        asm.alu(o::RSH, middle, 32).add(0, R(middle));
    }
}

#[test]
fn high_halves_of_products_are_found() {
    for turned in [false, true] {
        let product = program(|asm| high(asm, turned));
        is("umulhi", &product, |a, b| {
            ((u128::from(a) * u128::from(b)) >> 64) as u64
        });
    }
    // With the lower half exclusively or'ed, and with bits set in a half.
    let folded = program(|asm| {
        asm.alu(o::OR, 2, 1).mov(7, R(1)).alu(o::MUL, 7, R(2));
        high(asm, false);
        asm.alu(o::XOR, 0, R(7));
    });
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b | 1);
        product as u64 ^ (product >> 64) as u64
    };
    assert!(!text(&folded).contains("ushr"), "{}", text(&folded));
    for a in NUMBERS {
        assert_eq!(run(&folded, a, NUMBERS[4]), fold(a, NUMBERS[4]));
    }
}

/// Searches the way for r1 among numbers, as compilers do: by halves. What is none of them goes to `none`.
fn search(asm: &mut Asm, numbers: &[i32], signed: bool, [done, none]: [Label; 2]) {
    if let [number] = *numbers {
        asm.jump_if32(o::JNE, 1, number, none)
            .mov(0, number * 3 + 1)
            .jump(done);
        return;
    }
    let (low, high) = numbers.split_at(numbers.len() / 2);
    let upper = asm.label();
    let more = if signed { o::JSGT } else { o::JGT };
    asm.jump_if32(more, 1, low[low.len() - 1], upper);
    search(asm, low, signed, [done, none]);
    asm.bind(upper);
    search(asm, high, signed, [done, none]);
}

#[test]
fn a_search_for_a_way_is_one_jump() {
    for (numbers, signed, table) in [
        ((0..24).collect::<Vec<i32>>(), true, true),
        ((100..130).step_by(2).collect(), false, true),
        ((-9..9).collect(), true, false),
        ((0..24).map(|n| n * 1000).collect(), false, false),
    ] {
        let code = program(|asm| {
            let labels @ [done, none] = [(); 2].map(|()| asm.label());
            search(asm, &numbers, signed, labels);
            asm.bind(none).mov(0, 7).add(0, R(2)).bind(done);
        });
        assert_eq!(text(&code).contains("br_table"), table, "{numbers:?}");
        let last = numbers.len() - 1;
        for number in [numbers[0], numbers[5], numbers[last]] {
            for near in [number - 1, number, number + 1] {
                let found = numbers.contains(&near).then(|| i64::from(near) * 3 + 1);
                let expected = found.unwrap_or(7 + 1000).cast_unsigned();
                assert_eq!(run(&code, (near as u32).into(), 1000), expected, "{near}");
            }
        }
    }
}

#[test]
fn what_is_asked_twice_is_decided_once() {
    let code = program(|asm| {
        let [first, second, end] = [(); 3].map(|()| asm.label());
        asm.mov(3, 0)
            .jump_if(o::JGT, 1, R(2), first)
            .mov(3, R(1))
            .add(3, 14)
            .bind(first)
            .mov(0, 5)
            .jump_if(o::JGT, 1, R(2), second)
            .mov(0, R(3))
            .jump(end)
            .bind(second)
            .mov(0, 9)
            .add(0, R(3))
            .bind(end);
    });
    for (a, b) in [(1, 2), (2, 1), (3, 3), (u64::MAX, 0)] {
        let expected = if a > b { 9 } else { a.wrapping_add(14) };
        assert_eq!(run(&code, a, b), expected);
    }
}

/// `r0` from bytes of the packet, each shifted so far.
fn put_together(parts: &[(i16, i32)]) -> Vec<Insn> {
    program(|asm| {
        asm.mov(0, 0);
        for &(off, by) in parts {
            asm.load(MemSize::B, 3, 6, off)
                .alu(o::LSH, 3, by)
                .alu(o::OR, 0, R(3));
        }
    })
}

#[test]
fn bytes_that_are_put_together_are_loaded_at_once() {
    let rising = [(0, 0), (1, 8), (2, 16), (3, 24)];
    let falling = rising.map(|(off, by)| (3 - off, by));
    for (parts, result) in [(rising, 0x89ab_cdef_u32), (falling, 0xefcd_ab89)] {
        for turned in [0, 1, 3] {
            let mut parts = parts;
            parts.rotate_left(turned);
            let code = put_together(&parts);
            assert!(!text(&code).contains("load8"), "{}", text(&code));
            assert_eq!(run(&code, NUMBERS[4], 0), result.into());
        }
    }
}

/// Steps of a loop whose numbers have 32 bits in some places and 64 in others.
fn steps() -> impl Strategy<Value = Vec<(bool, u8, u8, i32)>> {
    let ops = prop::sample::select(vec![
        o::ADD,
        o::SUB,
        o::MUL,
        o::XOR,
        o::OR,
        o::AND,
        o::LSH,
        o::RSH,
        o::MOV,
    ]);
    prop::collection::vec((any::<bool>(), ops, 0_u8..6, 0_i32..40), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn bytes_put_together_agree(parts in prop::collection::vec((0_i16..6, 0_i32..6), 2..8)) {
        let parts: Vec<(i16, i32)> = parts.iter().map(|(off, by)| (*off, by * 8)).collect();
        let expected = parts.iter().fold(0, |all, (off, by)| {
            all | u64::from(NUMBERS[4].to_le_bytes()[*off as usize]) << by
        });
        prop_assert_eq!(run(&put_together(&parts), NUMBERS[4], 0), expected);
    }

    #[test]
    fn loops_of_mixed_widths_agree(steps in steps(), a in any::<u64>(), b in any::<u64>()) {
        let code = program(|asm| {
            let again = asm.label();
            asm.mov(0, 1).mov(3, 2).mov(4, R(2)).alu32(o::MOV, 5, R(1)).mov(7, 6).bind(again);
            for &(wide, op, to, by) in &steps {
                let source = if by < 6 { R(by as u8).into() } else { (by - 6).into() };
                operate(asm, wide, op, to, source);
            }
            asm.add(7, -1).jump_if(o::JNE, 7, 0, again).alu(o::XOR, 0, R(3)).add(0, R(5));
        });
        run(&code, a, b);
    }
}
