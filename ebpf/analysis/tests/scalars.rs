//! Whatever is computed with sets of numbers holds every number computed with their members.

use proptest::prelude::*;
use squalus_analysis::{Scalar, Test, refine};
use squalus_isa::{AluOp, Cond, Endian, Width};

/// A number of a kind that arithmetic trips over.
fn number() -> impl Strategy<Value = u64> {
    let special = vec![
        0,
        1,
        2,
        u64::MAX,
        1 << 63,
        (1 << 63) - 1,
        1 << 31,
        (1 << 31) - 1,
        0xffff_ffff,
        1 << 32,
        0xffff_ffff_8000_0000,
    ];
    prop_oneof![
        any::<u64>(),
        0..300u64,
        prop::sample::select(special),
        (any::<u32>(), 0..33u32).prop_map(|(x, shift)| u64::from(x) << shift),
        (0..300i64).prop_map(|x| (-x).cast_unsigned()),
    ]
}

/// A set and one of its members.
fn set() -> impl Strategy<Value = (Scalar, u64)> {
    let members = (
        prop::collection::vec(number(), 1..4),
        any::<prop::sample::Index>(),
    );
    let joined = members.prop_map(|(numbers, pick)| {
        let sets = numbers.iter().map(|&n| Scalar::constant(n));
        let set = sets.reduce(|a, b| a.join(&b)).unwrap_or(Scalar::TOP);
        (set, numbers[pick.index(numbers.len())])
    });
    let range = (number(), number(), number()).prop_map(|(a, b, pick)| {
        let (min, max) = (a.min(b), a.max(b));
        let member = match (max - min).checked_add(1) {
            Some(len) => min + pick % len,
            None => pick,
        };
        (Scalar::between(min, max), member)
    });
    prop_oneof![joined, range, number().prop_map(|n| (Scalar::TOP, n))]
}

fn concrete(op: AluOp, width: Width, a: u64, b: u64) -> u64 {
    match width {
        Width::W64 => concrete64(op, a, b),
        Width::W32 => concrete32(op, a as u32, b as u32).into(),
    }
}

fn concrete64(op: AluOp, a: u64, b: u64) -> u64 {
    let (sa, sb) = (a.cast_signed(), b.cast_signed());
    match op {
        AluOp::Add => a.wrapping_add(b),
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::Div => a.checked_div(b).unwrap_or(0),
        AluOp::Mod => a.checked_rem(b).unwrap_or(a),
        AluOp::SDiv if b == 0 => 0,
        AluOp::SMod if b == 0 => a,
        AluOp::SDiv => sa.wrapping_div(sb).cast_unsigned(),
        AluOp::SMod => sa.wrapping_rem(sb).cast_unsigned(),
        AluOp::Or => a | b,
        AluOp::And => a & b,
        AluOp::Xor => a ^ b,
        AluOp::Lsh => a << (b & 63),
        AluOp::Rsh => a >> (b & 63),
        AluOp::Arsh => (sa >> (b & 63)).cast_unsigned(),
        AluOp::Neg => a.wrapping_neg(),
        AluOp::Mov => b,
        AluOp::MovSx(8) => i64::from(b as i8).cast_unsigned(),
        AluOp::MovSx(16) => i64::from(b as i16).cast_unsigned(),
        AluOp::MovSx(_) => i64::from(b as i32).cast_unsigned(),
    }
}

fn concrete32(op: AluOp, a: u32, b: u32) -> u32 {
    let (sa, sb) = (a.cast_signed(), b.cast_signed());
    match op {
        AluOp::Div => a.checked_div(b).unwrap_or(0),
        AluOp::Mod => a.checked_rem(b).unwrap_or(a),
        AluOp::SDiv if b == 0 => 0,
        AluOp::SMod if b == 0 => a,
        AluOp::SDiv => sa.wrapping_div(sb).cast_unsigned(),
        AluOp::SMod => sa.wrapping_rem(sb).cast_unsigned(),
        AluOp::Lsh => a << (b & 31),
        AluOp::Rsh => a >> (b & 31),
        AluOp::Arsh => (sa >> (b & 31)).cast_unsigned(),
        other => concrete64(other, a.into(), b.into()) as u32,
    }
}

fn holds(cond: Cond, width: Width, a: u64, b: u64) -> bool {
    let (a, b, sa, sb) = match width {
        Width::W64 => (a, b, a.cast_signed(), b.cast_signed()),
        Width::W32 => (
            a & 0xffff_ffff,
            b & 0xffff_ffff,
            i64::from(a as i32),
            i64::from(b as i32),
        ),
    };
    match cond {
        Cond::Eq => a == b,
        Cond::Ne => a != b,
        Cond::Gt => a > b,
        Cond::Ge => a >= b,
        Cond::Lt => a < b,
        Cond::Le => a <= b,
        Cond::Set => a & b != 0,
        Cond::SGt => sa > sb,
        Cond::SGe => sa >= sb,
        Cond::SLt => sa < sb,
        Cond::SLe => sa <= sb,
    }
}

const OPS: [AluOp; 18] = [
    AluOp::Add,
    AluOp::Sub,
    AluOp::Mul,
    AluOp::Div,
    AluOp::SDiv,
    AluOp::Mod,
    AluOp::SMod,
    AluOp::Or,
    AluOp::And,
    AluOp::Xor,
    AluOp::Lsh,
    AluOp::Rsh,
    AluOp::Arsh,
    AluOp::Neg,
    AluOp::Mov,
    AluOp::MovSx(8),
    AluOp::MovSx(16),
    AluOp::MovSx(32),
];
const CONDS: [Cond; 11] = [
    Cond::Eq,
    Cond::Ne,
    Cond::Gt,
    Cond::Ge,
    Cond::Lt,
    Cond::Le,
    Cond::Set,
    Cond::SGt,
    Cond::SGe,
    Cond::SLt,
    Cond::SLe,
];
const WIDTHS: [Width; 2] = [Width::W32, Width::W64];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn arithmetic_is_sound((sa, a) in set(), (sb, b) in set()) {
        prop_assert!(sa.contains(a) && sb.contains(b));
        for op in OPS {
            for width in WIDTHS {
                if op == AluOp::MovSx(32) && width == Width::W32 {
                    continue;
                }
                let (set, x) = (sa.alu(width, op, &sb), concrete(op, width, a, b));
                prop_assert!(set.contains(x), "{a:#x} {op:?} {b:#x} ({width:?}) = {x:#x}: {sa:?} {sb:?} {set:?}");
            }
        }
    }

    #[test]
    fn known_operands_give_known_results(a in number(), b in number()) {
        for op in OPS {
            for width in WIDTHS {
                if op == AluOp::MovSx(32) && width == Width::W32 {
                    continue;
                }
                let set = Scalar::constant(a).alu(width, op, &Scalar::constant(b));
                prop_assert_eq!(set.as_constant(), Some(concrete(op, width, a, b)), "{:?}", op);
            }
        }
    }

    #[test]
    fn comparisons_keep_what_satisfies_them((sa, a) in set(), (sb, b) in set()) {
        for cond in CONDS {
            for width in WIDTHS {
                let test = Test::of(cond, holds(cond, width, a, b));
                let refined = refine(test, width, sa, sb);
                let ok = refined.is_some_and(|(ra, rb)| ra.contains(a) && rb.contains(b));
                prop_assert!(ok, "{a:#x} {test:?} {b:#x} ({width:?}): {sa:?} {sb:?} {refined:?}");
            }
        }
    }

    #[test]
    fn joins_and_parts_are_sound((sa, a) in set(), (sb, b) in set(), byte in 0..8u32, size in 1..8u32) {
        let join = sa.join(&sb);
        prop_assert!(join.contains(a) && join.contains(b));
        let wide = sa.widen(&sb, &[0xff, 0xffff, u64::MAX]);
        prop_assert!(wide.contains(a) && wide.contains(b));
        for (kind, bits) in [(Endian::ToLe, 16), (Endian::ToBe, 16), (Endian::ToBe, 32), (Endian::Swap, 64)] {
            let low = a & u64::MAX >> (64 - bits);
            let x = if kind == Endian::ToLe { low } else { low.swap_bytes() >> (64 - bits) };
            prop_assert!(sa.endian(kind, bits).contains(x), "{kind:?}{bits} {a:#x}");
        }
        prop_assert!(sa.shifted_right(byte * 8).contains(a >> (byte * 8)));
        if byte + size <= 8 {
            let ones = (1u64 << (size * 8 - 1)) * 2 - 1;
            let field = ones << (byte * 8);
            let x = a & !field | (b & ones) << (byte * 8);
            prop_assert!(sa.with_bytes(byte, size, &sb).contains(x), "{a:#x} {b:#x} {byte} {size}");
        }
    }
}
