//! What is known of a number: its bits, and its bounds read as unsigned and as signed.
//!
//! The three views are kept in step by [`Scalar::sync`]: a known high bit tightens the bounds, tight
//! bounds give known high bits. Arithmetic on known bits is that of Vishwanathan et al., "Sound,
//! Precise, and Fast Abstract Interpretation with Tristate Numbers" (CGO 2022).

use squalus_isa::{AluOp, Endian, Width};

const SIGN: u64 = 1 << 63;

/// A set of 64-bit values: those that agree with the known bits and lie within both bounds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Scalar {
    /// The known bits; zero where unknown.
    pub value: u64,
    /// One for each unknown bit.
    pub mask: u64,
    /// Least value, unsigned.
    pub umin: u64,
    /// Greatest value, unsigned.
    pub umax: u64,
    /// Least value, signed.
    pub smin: i64,
    /// Greatest value, signed.
    pub smax: i64,
}

impl Scalar {
    /// Every value.
    pub const TOP: Scalar = Scalar {
        value: 0,
        mask: u64::MAX,
        umin: 0,
        umax: u64::MAX,
        smin: i64::MIN,
        smax: i64::MAX,
    };

    /// One value.
    #[must_use]
    pub const fn constant(value: u64) -> Scalar {
        Scalar {
            value,
            mask: 0,
            umin: value,
            umax: value,
            smin: value.cast_signed(),
            smax: value.cast_signed(),
        }
    }

    /// All values between two bounds, both included, unsigned.
    #[must_use]
    pub fn between(umin: u64, umax: u64) -> Scalar {
        Scalar {
            umin,
            umax,
            ..Scalar::TOP
        }
        .sync()
        .unwrap_or(Scalar::TOP)
    }

    /// All values between two bounds, both included, signed.
    #[must_use]
    pub fn between_signed(smin: i64, smax: i64) -> Scalar {
        Scalar {
            smin,
            smax,
            ..Scalar::TOP
        }
        .sync()
        .unwrap_or(Scalar::TOP)
    }

    /// All values of a zero-extended load of `bytes` bytes.
    #[must_use]
    pub fn of_bytes(bytes: u32) -> Scalar {
        if bytes >= 8 {
            Scalar::TOP
        } else {
            Scalar::between(0, (1 << (bytes * 8)) - 1)
        }
    }

    fn from_bits(value: u64, mask: u64) -> Scalar {
        Scalar {
            value: value & !mask,
            mask,
            ..Scalar::TOP
        }
        .sync()
        .unwrap_or(Scalar::TOP)
    }

    /// The value, if there is only one.
    #[must_use]
    pub const fn as_constant(&self) -> Option<u64> {
        if self.umin == self.umax {
            Some(self.umin)
        } else {
            None
        }
    }

    /// Whether the set holds `x`.
    #[must_use]
    pub const fn contains(&self, x: u64) -> bool {
        let signed = x.cast_signed();
        x & !self.mask == self.value
            && self.umin <= x
            && x <= self.umax
            && self.smin <= signed
            && signed <= self.smax
    }

    /// Bits that can be one.
    const fn possible(&self) -> u64 {
        self.value | self.mask
    }

    /// Lets each view tighten the others; `None` if no value is left.
    #[must_use]
    pub fn sync(mut self) -> Option<Scalar> {
        for _ in 0..2 {
            self.umin = self.umin.max(self.value);
            self.umax = self.umax.min(self.possible());
            let least = (self.value | self.mask & SIGN).cast_signed();
            let greatest = (self.value | self.mask & !SIGN).cast_signed();
            self.smin = self.smin.max(least);
            self.smax = self.smax.min(greatest);
            if self.umin.cast_signed() <= self.umax.cast_signed() {
                self.smin = self.smin.max(self.umin.cast_signed());
                self.smax = self.smax.min(self.umax.cast_signed());
            }
            if self.smin.cast_unsigned() <= self.smax.cast_unsigned() {
                self.umin = self.umin.max(self.smin.cast_unsigned());
                self.umax = self.umax.min(self.smax.cast_unsigned());
            }
            if self.umin > self.umax || self.smin > self.smax {
                return None;
            }
            let (value, mask) = bits_of_range(self.umin, self.umax);
            if (value ^ self.value) & !mask & !self.mask != 0 {
                return None;
            }
            self.mask &= mask;
            self.value = (self.value | value) & !self.mask;
        }
        Some(self)
    }

    /// The values in both sets; `None` if there are none.
    #[must_use]
    pub fn intersect(&self, other: &Scalar) -> Option<Scalar> {
        if (self.value ^ other.value) & !self.mask & !other.mask != 0 {
            return None;
        }
        let mask = self.mask & other.mask;
        Scalar {
            value: (self.value | other.value) & !mask,
            mask,
            umin: self.umin.max(other.umin),
            umax: self.umax.min(other.umax),
            smin: self.smin.max(other.smin),
            smax: self.smax.min(other.smax),
        }
        .sync()
    }

    /// The smallest set of this kind with the values of both.
    #[must_use]
    pub fn join(&self, other: &Scalar) -> Scalar {
        let mask = self.mask | other.mask | (self.value ^ other.value);
        Scalar {
            value: self.value & !mask,
            mask,
            umin: self.umin.min(other.umin),
            umax: self.umax.max(other.umax),
            smin: self.smin.min(other.smin),
            smax: self.smax.max(other.smax),
        }
    }

    /// As [`Scalar::join`], but bounds that moved jump to the next of `steps`, so that chains of joins end.
    #[must_use]
    pub fn widen(&self, other: &Scalar, steps: &[u64]) -> Scalar {
        let joined = self.join(other);
        let mut wide = Scalar {
            mask: if joined.mask == self.mask {
                joined.mask
            } else {
                // Low bits that are known stay known: what moves by a multiple of four does.
                let next = steps.iter().find(|&&s| s >= joined.possible());
                low_ones(next.copied().unwrap_or(u64::MAX)) & !low_zeroes(joined.mask)
            },
            ..joined
        };
        wide.value &= !wide.mask;
        if joined.umin != self.umin {
            wide.umin = 0;
        }
        if joined.umax != self.umax {
            let next = steps.iter().find(|&&s| s >= joined.umax);
            wide.umax = next.copied().unwrap_or(u64::MAX);
        }
        if joined.smin != self.smin {
            wide.smin = if joined.smin >= 0 { 0 } else { i64::MIN };
        }
        if joined.smax != self.smax {
            let next = steps.iter().map(|s| s.cast_signed()).filter(|&s| s >= 0);
            let next = next.min_by_key(|&s| if s >= joined.smax { s } else { i64::MAX });
            wide.smax = next.filter(|&s| s >= joined.smax).unwrap_or(i64::MAX);
        }
        wide.sync().unwrap_or(Scalar::TOP)
    }

    /// The low `bits` bits, zero-extended.
    #[must_use]
    pub fn truncate(&self, bits: u32) -> Scalar {
        if bits >= 64 {
            return *self;
        }
        let ones = (1u64 << bits) - 1;
        if self.umax <= ones {
            return *self;
        }
        let low = Scalar::from_bits(self.value & ones, self.mask & ones);
        if self.umin >> bits == self.umax >> bits {
            let range = Scalar::between(self.umin & ones, self.umax & ones);
            return low.intersect(&range).unwrap_or(low);
        }
        low
    }

    /// The value shifted right by `bits`, which is less than 64; zeros come in.
    #[must_use]
    pub fn shifted_right(&self, bits: u32) -> Scalar {
        self.shr(&Scalar::constant(bits.into()), 63)
    }

    /// The value with `size` of its bytes, from byte `byte` on, replaced by the low bytes of `new`.
    #[must_use]
    pub fn with_bytes(&self, byte: u32, size: u32, new: &Scalar) -> Scalar {
        if size >= 8 {
            return *new;
        }
        let field = ((1u64 << (size * 8)) - 1) << (byte * 8);
        let rest = Scalar::from_bits(self.value & !field, self.mask & !field);
        let shift = Scalar::constant(u64::from(byte) * 8);
        rest.add(&new.truncate(size * 8).shl(&shift, 63))
    }

    /// The low `bits` bits, sign-extended.
    #[must_use]
    pub fn sign_extend(&self, bits: u32) -> Scalar {
        if bits >= 64 {
            return *self;
        }
        let half = 1u64 << (bits - 1);
        let low = self.truncate(bits);
        if low.umax < half {
            low
        } else if low.umin >= half {
            low.add(&Scalar::constant(u64::MAX << bits))
        } else {
            let half = half.cast_signed();
            Scalar::between_signed(-half, half - 1)
        }
    }

    /// The sum.
    #[must_use]
    pub fn add(&self, b: &Scalar) -> Scalar {
        let sum = self.value.wrapping_add(b.value);
        let sigma = sum.wrapping_add(self.mask).wrapping_add(b.mask);
        let mask = (sigma ^ sum) | self.mask | b.mask;
        let mut out = Scalar {
            value: sum & !mask,
            mask,
            ..Scalar::TOP
        };
        if let Some(umax) = self.umax.checked_add(b.umax) {
            (out.umin, out.umax) = (self.umin + b.umin, umax);
        } else if self.umin.checked_add(b.umin).is_none() {
            out.umin = self.umin.wrapping_add(b.umin);
            out.umax = self.umax.wrapping_add(b.umax);
        }
        if let (Some(smin), Some(smax)) =
            (self.smin.checked_add(b.smin), self.smax.checked_add(b.smax))
        {
            (out.smin, out.smax) = (smin, smax);
        }
        out.sync().unwrap_or(Scalar::TOP)
    }

    /// The difference.
    #[must_use]
    pub fn sub(&self, b: &Scalar) -> Scalar {
        let difference = self.value.wrapping_sub(b.value);
        let alpha = difference.wrapping_add(self.mask);
        let beta = difference.wrapping_sub(b.mask);
        let mask = (alpha ^ beta) | self.mask | b.mask;
        let mut out = Scalar {
            value: difference & !mask,
            mask,
            ..Scalar::TOP
        };
        if let Some(umin) = self.umin.checked_sub(b.umax) {
            (out.umin, out.umax) = (umin, self.umax - b.umin);
        }
        if let (Some(smin), Some(smax)) =
            (self.smin.checked_sub(b.smax), self.smax.checked_sub(b.smin))
        {
            (out.smin, out.smax) = (smin, smax);
        }
        out.sync().unwrap_or(Scalar::TOP)
    }

    fn mul(&self, b: &Scalar) -> Scalar {
        let zeros = self.trailing_zeros() + b.trailing_zeros();
        let low = if zeros >= 64 {
            Scalar::constant(0)
        } else {
            Scalar::from_bits(0, u64::MAX << zeros)
        };
        match self.umax.checked_mul(b.umax) {
            Some(umax) => low
                .intersect(&Scalar::between(self.umin * b.umin, umax))
                .unwrap_or(Scalar::TOP),
            None => low,
        }
    }

    fn trailing_zeros(&self) -> u32 {
        self.possible().trailing_zeros()
    }

    fn div(&self, b: &Scalar) -> Scalar {
        let least = if b.umin == 0 { 0 } else { self.umin / b.umax };
        Scalar::between(least, self.umax / b.umin.max(1))
    }

    fn rem(&self, b: &Scalar) -> Scalar {
        if b.umin > self.umax || b.umax == 0 {
            return *self;
        }
        let umax = if b.umin > 0 {
            self.umax.min(b.umax - 1)
        } else {
            self.umax
        };
        Scalar::between(0, umax)
    }

    fn and(&self, b: &Scalar) -> Scalar {
        let value = self.value & b.value;
        let mask = self.possible() & b.possible() & !value;
        let mut out = Scalar::from_bits(value, mask);
        out.umax = out.umax.min(self.umax).min(b.umax);
        out.sync().unwrap_or(Scalar::TOP)
    }

    fn or(&self, b: &Scalar) -> Scalar {
        let value = self.value | b.value;
        let mut out = Scalar::from_bits(value, (self.mask | b.mask) & !value);
        out.umin = out.umin.max(self.umin).max(b.umin);
        out.sync().unwrap_or(Scalar::TOP)
    }

    fn xor(&self, b: &Scalar) -> Scalar {
        Scalar::from_bits(self.value ^ b.value, self.mask | b.mask)
    }

    fn shl(&self, amount: &Scalar, limit: u64) -> Scalar {
        let Some(k) = masked(amount, limit) else {
            return self.shl_within(amount, limit).unwrap_or(Scalar::TOP);
        };
        let bits = Scalar::from_bits(self.value << k, self.mask << k);
        if self.umax <= u64::MAX >> k {
            let range = Scalar::between(self.umin << k, self.umax << k);
            return bits.intersect(&range).unwrap_or(bits);
        }
        bits
    }

    /// The number shifted left by an amount of which bounds are known.
    fn shl_within(&self, amount: &Scalar, limit: u64) -> Option<Scalar> {
        let (least, most) = in_limit(amount, limit)?;
        let zeros = u64::from(self.trailing_zeros()) + least;
        let low = Scalar::from_bits(0, u64::MAX.checked_shl(zeros as u32).unwrap_or(0));
        if self.umax > u64::MAX >> most {
            return Some(low);
        }
        low.intersect(&Scalar::between(self.umin << least, self.umax << most))
    }

    fn shr(&self, amount: &Scalar, limit: u64) -> Scalar {
        let Some(k) = masked(amount, limit) else {
            let range = in_limit(amount, limit);
            let (least, most) = range.unwrap_or((0, limit));
            return Scalar::between(self.umin >> most, self.umax >> least);
        };
        let bits = Scalar::from_bits(self.value >> k, self.mask >> k);
        let range = Scalar::between(self.umin >> k, self.umax >> k);
        bits.intersect(&range).unwrap_or(bits)
    }

    fn sar(&self, amount: &Scalar, limit: u64) -> Scalar {
        let Some(k) = masked(amount, limit) else {
            return Scalar::between_signed(self.smin.min(0), self.smax.max(-1));
        };
        let value = (self.value.cast_signed() >> k).cast_unsigned();
        let mask = (self.mask.cast_signed() >> k).cast_unsigned();
        let bits = Scalar::from_bits(value, mask);
        let range = Scalar::between_signed(self.smin >> k, self.smax >> k);
        bits.intersect(&range).unwrap_or(bits)
    }

    /// The result of a byte order conversion.
    #[must_use]
    pub fn endian(&self, kind: Endian, bits: u8) -> Scalar {
        let low = self.truncate(bits.into());
        if kind == Endian::ToLe {
            return low;
        }
        let shift = 64 - u32::from(bits);
        Scalar::from_bits(
            low.value.swap_bytes() >> shift,
            low.mask.swap_bytes() >> shift,
        )
    }

    /// The result of `self op b`; 32-bit results are zero-extended.
    #[must_use]
    pub fn alu(&self, width: Width, op: AluOp, b: &Scalar) -> Scalar {
        let (bits, limit) = match width {
            Width::W32 => (32, 31),
            Width::W64 => (64, 63),
        };
        let (a, b) = (self.truncate(bits), b.truncate(bits));
        if let (Some(a), Some(b)) = (a.as_constant(), b.as_constant())
            && let Some(result) = fold(width, op, a, b)
        {
            return Scalar::constant(result);
        }
        let out = match op {
            AluOp::Add => a.add(&b),
            AluOp::Sub => a.sub(&b),
            AluOp::Mul => a.mul(&b),
            AluOp::Div => a.div(&b),
            AluOp::Mod => a.rem(&b),
            AluOp::SDiv | AluOp::SMod => Scalar::TOP,
            AluOp::Or => a.or(&b),
            AluOp::And => a.and(&b),
            AluOp::Xor => a.xor(&b),
            AluOp::Lsh => a.shl(&b, limit),
            AluOp::Rsh => a.shr(&b, limit),
            AluOp::Arsh => a.sign_extend(bits).sar(&b, limit),
            AluOp::Neg => Scalar::constant(0).sub(&a),
            AluOp::Mov => b,
            AluOp::MovSx(from) => b.sign_extend(from.into()),
        };
        out.truncate(bits)
    }
}

/// Divisions and products of two known numbers, where sets know less. 32-bit operands are zero-extended.
fn fold(width: Width, op: AluOp, a: u64, b: u64) -> Option<u64> {
    let signed = |x: u64| match width {
        Width::W32 => i64::from(x as i32),
        Width::W64 => x.cast_signed(),
    };
    let result = match op {
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::Div => a.checked_div(b).unwrap_or(0),
        AluOp::Mod => a.checked_rem(b).unwrap_or(a),
        AluOp::SDiv if b == 0 => 0,
        AluOp::SMod if b == 0 => a,
        AluOp::SDiv => signed(a).wrapping_div(signed(b)).cast_unsigned(),
        AluOp::SMod => signed(a).wrapping_rem(signed(b)).cast_unsigned(),
        _ => return None,
    };
    Some(match width {
        Width::W32 => result & 0xffff_ffff,
        Width::W64 => result,
    })
}

/// A shift amount that is known, masked as the hardware masks it.
fn masked(amount: &Scalar, limit: u64) -> Option<u64> {
    (amount.mask & limit == 0).then_some(amount.value & limit)
}

/// Bounds of a shift amount that is not masked.
fn in_limit(amount: &Scalar, limit: u64) -> Option<(u64, u64)> {
    (amount.umax <= limit).then_some((amount.umin, amount.umax))
}

/// All ones up to the highest one of `x`.
const fn low_ones(x: u64) -> u64 {
    match x.leading_zeros() {
        64 => 0,
        zeros => u64::MAX >> zeros,
    }
}

/// Ones where `x` has zeroes below its lowest one.
const fn low_zeroes(x: u64) -> u64 {
    !x & x.wrapping_sub(1)
}

/// The bits that all values of a range share, and a mask of the others.
const fn bits_of_range(min: u64, max: u64) -> (u64, u64) {
    let mask = low_ones(min ^ max);
    (min & !mask, mask)
}

impl std::fmt::Debug for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(value) = self.as_constant() {
            return if value < 1 << 16 {
                write!(f, "{value}")
            } else {
                write!(f, "{value:#x}")
            };
        }
        if *self == Scalar::TOP {
            return f.write_str("?");
        }
        if self.smin < 0 && (self.umin == 0 || self.umax == u64::MAX) {
            write!(f, "{}..={}", self.smin, self.smax)?;
        } else {
            write!(f, "{}..={}", self.umin, self.umax)?;
        }
        let zeros = self.possible() & low_ones(self.umax) ^ low_ones(self.umax);
        if zeros != 0 || self.value & low_ones(self.umin ^ self.umax) != 0 {
            write!(f, " (bits {:#x}/{:#x})", self.value, self.mask)?;
        }
        Ok(())
    }
}
