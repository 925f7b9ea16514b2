//! Arithmetic and comparisons as RFC 9669 defines them: total functions, no case undefined.

use squalus_isa::{AluOp, Cond, Endian, Width};

/// `a op b` at `width`. Results of 32-bit operations are zero-extended.
pub(crate) const fn alu(op: AluOp, width: Width, a: u64, b: u64) -> u64 {
    match width {
        Width::W64 => alu64(op, a, b),
        Width::W32 => alu32(op, a as u32, b as u32) as u64,
    }
}

macro_rules! operations {
    ($name:ident, $word:ty) => {
        const fn $name(op: AluOp, a: $word, b: $word) -> $word {
            let (sa, sb) = (a.cast_signed(), b.cast_signed());
            let shift = b as u32 % <$word>::BITS;
            match op {
                AluOp::Add => a.wrapping_add(b),
                AluOp::Sub => a.wrapping_sub(b),
                AluOp::Mul => a.wrapping_mul(b),
                AluOp::Div if b == 0 => 0,
                AluOp::Div => a / b,
                AluOp::SDiv if b == 0 => 0,
                AluOp::SDiv => sa.wrapping_div(sb).cast_unsigned(),
                AluOp::Mod if b == 0 => a,
                AluOp::Mod => a % b,
                AluOp::SMod if b == 0 => a,
                AluOp::SMod => sa.wrapping_rem(sb).cast_unsigned(),
                AluOp::Or => a | b,
                AluOp::And => a & b,
                AluOp::Xor => a ^ b,
                AluOp::Lsh => a << shift,
                AluOp::Rsh => a >> shift,
                AluOp::Arsh => (sa >> shift).cast_unsigned(),
                AluOp::Neg => sa.wrapping_neg().cast_unsigned(),
                AluOp::Mov => b,
                AluOp::MovSx(bits) => sign_extend(b as u64, bits) as $word,
            }
        }
    };
}

operations!(alu64, u64);
operations!(alu32, u32);

/// The low `bits` bits of `value` as a signed number, in 64 bits.
pub(crate) const fn sign_extend(value: u64, bits: u8) -> u64 {
    match bits {
        8 => value as u8 as i8 as i64 as u64,
        16 => value as u16 as i16 as i64 as u64,
        32 => value as u32 as i32 as i64 as u64,
        _ => value,
    }
}

/// Byte order conversion of the low `bits` bits; the others become zero.
pub(crate) const fn endian(kind: Endian, bits: u8, value: u64) -> u64 {
    let swap = !matches!(kind, Endian::ToLe);
    match (bits, swap) {
        (16, true) => (value as u16).swap_bytes() as u64,
        (32, true) => (value as u32).swap_bytes() as u64,
        (16, false) => value as u16 as u64,
        (32, false) => value as u32 as u64,
        (_, true) => value.swap_bytes(),
        (_, false) => value,
    }
}

/// Whether `a cond b` holds at `width`.
pub(crate) const fn compare(cond: Cond, width: Width, a: u64, b: u64) -> bool {
    let (a, b, sa, sb) = match width {
        Width::W64 => (a, b, a.cast_signed(), b.cast_signed()),
        Width::W32 => (
            a as u32 as u64,
            b as u32 as u64,
            a as i32 as i64,
            b as i32 as i64,
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

#[cfg(test)]
mod tests {
    use super::*;

    const MIN64: u64 = 1 << 63;
    const MIN32: u64 = 1 << 31;

    #[test]
    fn division_is_total() {
        for width in [Width::W32, Width::W64] {
            assert_eq!(alu(AluOp::Div, width, 7, 0), 0);
            assert_eq!(alu(AluOp::SDiv, width, 7, 0), 0);
            assert_eq!(alu(AluOp::Mod, width, 7, 0), 7);
            assert_eq!(alu(AluOp::SMod, width, 7, 0), 7);
        }
        assert_eq!(alu(AluOp::Mod, Width::W32, 0xf_0000_0007, 0), 7);
        assert_eq!(alu(AluOp::SDiv, Width::W64, MIN64, u64::MAX), MIN64);
        assert_eq!(alu(AluOp::SMod, Width::W64, MIN64, u64::MAX), 0);
        assert_eq!(alu(AluOp::SDiv, Width::W32, MIN32, u64::MAX), MIN32);
        assert_eq!(alu(AluOp::SMod, Width::W32, MIN32, u64::MAX), 0);
    }

    #[test]
    fn signed_division_truncates_toward_zero() {
        let minus = |n: i64| n.cast_unsigned();
        assert_eq!(alu(AluOp::SDiv, Width::W64, minus(-13), 3), minus(-4));
        assert_eq!(alu(AluOp::SMod, Width::W64, minus(-13), 3), minus(-1));
        assert_eq!(alu(AluOp::SMod, Width::W64, 13, minus(-3)), 1);
        assert_eq!(alu(AluOp::SDiv, Width::W32, minus(-13), 3), 0xffff_fffc);
        assert_eq!(
            alu(AluOp::Div, Width::W64, minus(-13), 3),
            (u64::MAX - 12) / 3
        );
    }

    #[test]
    fn narrow_operations_zero_the_upper_half() {
        assert_eq!(alu(AluOp::Add, Width::W32, u64::MAX, 1), 0);
        assert_eq!(alu(AluOp::Mov, Width::W32, 0, u64::MAX), 0xffff_ffff);
        assert_eq!(alu(AluOp::Neg, Width::W32, 1, 0), 0xffff_ffff);
        assert_eq!(alu(AluOp::Neg, Width::W64, 1, 0), u64::MAX);
        assert_eq!(alu(AluOp::Neg, Width::W64, MIN64, 0), MIN64);
        assert_eq!(alu(AluOp::MovSx(8), Width::W32, 0, 0x80), 0xffff_ff80);
        assert_eq!(
            alu(AluOp::MovSx(8), Width::W64, 0, 0x80),
            0xffff_ffff_ffff_ff80
        );
        assert_eq!(alu(AluOp::MovSx(16), Width::W64, 0, 0x1_7fff), 0x7fff);
        assert_eq!(
            alu(AluOp::MovSx(32), Width::W64, 0, MIN32),
            0xffff_ffff_8000_0000
        );
    }

    #[test]
    fn shifts_mask_their_amount() {
        assert_eq!(alu(AluOp::Lsh, Width::W64, 1, 64), 1);
        assert_eq!(alu(AluOp::Lsh, Width::W64, 1, 127), MIN64);
        assert_eq!(alu(AluOp::Lsh, Width::W32, 1, 32), 1);
        assert_eq!(alu(AluOp::Lsh, Width::W32, 1, 63), MIN32);
        assert_eq!(alu(AluOp::Arsh, Width::W64, MIN64, 63), u64::MAX);
        assert_eq!(alu(AluOp::Arsh, Width::W32, MIN32, 31), 0xffff_ffff);
        assert_eq!(alu(AluOp::Rsh, Width::W32, u64::MAX, 4), 0x0fff_ffff);
    }

    #[test]
    fn byte_orders() {
        let v = 0x1122_3344_5566_7788;
        assert_eq!(endian(Endian::ToBe, 16, v), 0x8877);
        assert_eq!(endian(Endian::ToBe, 32, v), 0x8877_6655);
        assert_eq!(endian(Endian::Swap, 64, v), 0x8877_6655_4433_2211);
        assert_eq!(endian(Endian::ToLe, 16, v), 0x7788);
        assert_eq!(endian(Endian::ToLe, 32, v), 0x5566_7788);
        assert_eq!(endian(Endian::ToLe, 64, v), v);
    }

    #[test]
    fn comparisons_look_at_their_width_only() {
        assert!(compare(Cond::Eq, Width::W32, 0x1_0000_0001, 1));
        assert!(!compare(Cond::Eq, Width::W64, 0x1_0000_0001, 1));
        assert!(compare(Cond::SLt, Width::W32, 0xffff_ffff, 0));
        assert!(!compare(Cond::SLt, Width::W64, 0xffff_ffff, 0));
        assert!(compare(Cond::Gt, Width::W64, u64::MAX, 0));
        assert!(compare(Cond::SLe, Width::W64, u64::MAX, 0));
        assert!(compare(Cond::Set, Width::W32, 0x1_0000_0002, 2));
        assert!(!compare(
            Cond::Set,
            Width::W32,
            0x1_0000_0000,
            0x1_0000_0000
        ));
    }
}
