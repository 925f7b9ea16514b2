//! Simpler operations with the same result.

use std::collections::HashMap;

use crate::ir::{BinOp, Cmp, Fixed, Function, Op, Ty, UnOp, Value};

/// What an operation became.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Folded {
    /// A value that exists.
    Value(Value),
    /// Another operation of the same width.
    Op(Op),
}

/// Bits that are zero in parameters of blocks, as far as that is known.
pub(super) type Zeros = HashMap<Value, u64>;

/// A simpler operation than `op`, which gives `ty`, if one is known. New values that it needs are appended to
/// `extra`, to be placed before it.
pub(super) fn fold(
    function: &mut Function,
    zeros: &Zeros,
    op: &Op,
    (ty, slot): (Ty, u32),
    extra: &mut Vec<Value>,
) -> Option<Folded> {
    let mut fold = Fold {
        function,
        zeros,
        ty,
        slot,
        extra,
    };
    match *op {
        Op::Bin(op, a, b) => fold.bin(op, a, b),
        Op::Un(op, a) => fold.un(op, a),
        Op::Cmp(op, a, b) => fold.cmp(op, a, b),
        Op::Select(c, a, b) => fold.select(c, a, b),
        _ => None,
    }
}

pub(super) struct Fold<'a> {
    pub(super) function: &'a mut Function,
    zeros: &'a Zeros,
    pub(super) ty: Ty,
    slot: u32,
    extra: &'a mut Vec<Value>,
}

impl Fold<'_> {
    fn number(&mut self, number: u64) -> Option<Folded> {
        Some(Folded::Value(self.function.number(self.ty, number)))
    }

    pub(super) fn constant(&self, value: Value) -> Option<u64> {
        self.function.constant(value)
    }

    pub(super) fn op(&self, value: Value) -> &Op {
        &self.function.value(value).op
    }

    /// Bits that are zero in a value.
    fn zero(&self, value: Value) -> u64 {
        zero_bits(self.function, self.zeros, value, 0)
    }

    /// Whether a value's upper half is 0.
    fn is_half(&self, value: Value) -> bool {
        self.zero(value) >> 32 == u32::MAX.into()
    }

    fn make(&mut self, op: Op, ty: Ty) -> Value {
        let value = self.function.make(op, ty, self.slot);
        self.extra.push(value);
        value
    }

    fn bin(&mut self, op: BinOp, a: Value, b: Value) -> Option<Folded> {
        if self.ty == Ty::V128 {
            return None;
        }
        if let (Some(x), Some(y)) = (self.constant(a), self.constant(b)) {
            let result = calculate(op, self.ty, x, y);
            return self.number(result);
        }
        if commutes(op) && self.constant(a).is_some() {
            return Some(Folded::Op(Op::Bin(op, b, a)));
        }
        if let Some(number) = self.constant(b)
            && let Some(folded) = self.bin_with(op, a, number)
        {
            return Some(folded);
        }
        match op {
            BinOp::Shl | BinOp::LShr | BinOp::AShr | BinOp::RotL => {
                let by = self.counted(b);
                (by != b).then_some(Folded::Op(Op::Bin(op, a, by)))
            }
            BinOp::Sub | BinOp::Xor if a == b => self.number(0),
            BinOp::And | BinOp::Or if a == b => Some(Folded::Value(a)),
            BinOp::Sub => self.distance(a, b),
            BinOp::Or => self.rejoined(a, b).or_else(|| self.rotation(op, a, b)),
            BinOp::Xor => self
                .rotation(op, a, b)
                .or_else(|| self.folded_product(a, b)),
            BinOp::Add => self.rotation(op, a, b).or_else(|| self.high_product(a, b)),
            _ => None,
        }
    }

    /// `(x & c1) | (x & c2)` is `x & (c1 | c2)`: parts of a value put together again.
    fn rejoined(&mut self, a: Value, b: Value) -> Option<Folded> {
        let (Op::Bin(BinOp::And, x, c1), Op::Bin(BinOp::And, y, c2)) = (self.op(a), self.op(b))
        else {
            return None;
        };
        let (x, y, c1, c2) = (*x, *y, *c1, *c2);
        let kept = self.constant(c1)? | self.constant(c2)?;
        let kept = self.function.number(self.ty, kept);
        (x == y).then_some(Folded::Op(Op::Bin(BinOp::And, x, kept)))
    }

    /// `(base + x) - (base + y)`.
    fn distance(&mut self, a: Value, b: Value) -> Option<Folded> {
        let ((base_a, x), (base_b, y)) = (offset(self.function, a), offset(self.function, b));
        (base_a == base_b).then(|| self.number(x.wrapping_sub(y)))?
    }

    fn bin_with(&mut self, op: BinOp, a: Value, number: u64) -> Option<Folded> {
        let bits = u64::from(self.ty.bits());
        match op {
            BinOp::Add | BinOp::Sub | BinOp::Or | BinOp::Xor if number == 0 => {
                Some(Folded::Value(a))
            }
            BinOp::Shl | BinOp::LShr | BinOp::AShr | BinOp::RotL if number.is_multiple_of(bits) => {
                Some(Folded::Value(a))
            }
            BinOp::Mul | BinOp::And if number == 0 => self.number(0),
            BinOp::Mul | BinOp::UDiv if number == 1 => Some(Folded::Value(a)),
            BinOp::Mul if number.is_power_of_two() => {
                let by = self
                    .function
                    .number(self.ty, number.trailing_zeros().into());
                Some(Folded::Op(Op::Bin(BinOp::Shl, a, by)))
            }
            BinOp::UDiv if number.is_power_of_two() => {
                let by = self
                    .function
                    .number(self.ty, number.trailing_zeros().into());
                Some(Folded::Op(Op::Bin(BinOp::LShr, a, by)))
            }
            BinOp::URem if number.is_power_of_two() => {
                let mask = self.function.number(self.ty, number - 1);
                Some(Folded::Op(Op::Bin(BinOp::And, a, mask)))
            }
            // The mask takes away nothing that could be set.
            BinOp::And if self.zero(a) | number == u64::MAX => Some(Folded::Value(a)),
            BinOp::And => self.mask(a, number),
            BinOp::Sub => {
                let negative = self.function.number(self.ty, number.wrapping_neg());
                Some(Folded::Op(Op::Bin(BinOp::Add, a, negative)))
            }
            // What has no upper half stays without one.
            BinOp::Xor if self.ty == Ty::I64 && number == u32::MAX.into() && self.is_half(a) => {
                let low = self.make(Op::Un(UnOp::Truncate, a), Ty::I32);
                let ones = self.function.number(Ty::I32, number);
                let not = self.make(Op::Bin(BinOp::Xor, low, ones), Ty::I32);
                Some(Folded::Op(Op::Un(UnOp::ZeroExtend, not)))
            }
            BinOp::Add | BinOp::Or | BinOp::Xor => self.chain(op, a, number),
            BinOp::LShr => match self.counted_bits(a).filter(|_| number == bits - 8) {
                None => self.shift_right(a, number % bits),
                counted => counted,
            },
            BinOp::Shl => self.shift_left(a, number % bits),
            _ => None,
        }
    }

    /// `(x | y) & mask` is `x & mask` if the mask leaves nothing of `y`.
    fn mask(&mut self, a: Value, mask: u64) -> Option<Folded> {
        if let Op::Bin(BinOp::Or | BinOp::Xor, x, y) = *self.op(a) {
            for (kept, gone) in [(x, y), (y, x)] {
                if self.zero(gone) | !mask == u64::MAX {
                    let mask = self.function.number(self.ty, mask);
                    return Some(Folded::Op(Op::Bin(BinOp::And, kept, mask)));
                }
            }
        }
        self.chain(BinOp::And, a, mask)
    }

    /// `(x op c1) op c2` is `x op (c1 op c2)`.
    fn chain(&mut self, op: BinOp, a: Value, number: u64) -> Option<Folded> {
        let Op::Bin(inner, x, c) = *self.op(a) else {
            return None;
        };
        if inner != op {
            return None;
        }
        let first = self.constant(c)?;
        let both = calculate(op, self.ty, first, number);
        let both = self.function.number(self.ty, both);
        Some(Folded::Op(Op::Bin(op, x, both)))
    }

    /// Takes the upper part of values that were put together from parts.
    fn shift_right(&mut self, a: Value, by: u64) -> Option<Folded> {
        let bits = u64::from(self.ty.bits());
        if self.zero(a) | ((1 << by) - 1) == u64::MAX {
            return self.number(0);
        }
        match *self.op(a) {
            Op::Bin(BinOp::Shl, x, c) if self.constant(c) == Some(by) => {
                let kept = self.ty.mask() >> by;
                if self.zero(x) | kept == u64::MAX {
                    return Some(Folded::Value(x));
                }
                let kept = self.function.number(self.ty, kept);
                Some(Folded::Op(Op::Bin(BinOp::And, x, kept)))
            }
            Op::Bin(BinOp::Or, low, high) => {
                let gone = (1_u64 << by) - 1;
                for (low, high) in [(low, high), (high, low)] {
                    if self.zero(low) | gone == u64::MAX {
                        let by = self.function.number(self.ty, by);
                        return Some(Folded::Op(Op::Bin(BinOp::LShr, high, by)));
                    }
                }
                None
            }
            // What is masked away is shifted out.
            Op::Bin(BinOp::And, x, c) if self.constant(c)? | ((1 << by) - 1) == self.ty.mask() => {
                let by = self.function.number(self.ty, by);
                Some(Folded::Op(Op::Bin(BinOp::LShr, x, by)))
            }
            Op::Bin(BinOp::LShr, x, c) => {
                let sum = self.constant(c)? % bits + by;
                if sum >= bits {
                    return self.number(0);
                }
                let by = self.function.number(self.ty, sum);
                Some(Folded::Op(Op::Bin(BinOp::LShr, x, by)))
            }
            _ => None,
        }
    }

    fn shift_left(&mut self, a: Value, by: u64) -> Option<Folded> {
        let bits = u64::from(self.ty.bits());
        match *self.op(a) {
            // What goes in at the top is shifted out: only the low part counts.
            Op::Bin(BinOp::Shl, x, c) => {
                let sum = self.constant(c)? % bits + by;
                if sum >= bits {
                    return self.number(0);
                }
                let by = self.function.number(self.ty, sum);
                Some(Folded::Op(Op::Bin(BinOp::Shl, x, by)))
            }
            Op::Bin(BinOp::LShr, x, c) if self.constant(c) == Some(by) => {
                let mask = self.function.number(self.ty, u64::MAX << by);
                Some(Folded::Op(Op::Bin(BinOp::And, x, mask)))
            }
            _ => None,
        }
    }

    fn un(&mut self, op: UnOp, a: Value) -> Option<Folded> {
        let from = self.function.ty(a);
        if let Some(x) = self.constant(a) {
            let result = match op {
                UnOp::Neg => x.wrapping_neg(),
                UnOp::Not => !x,
                UnOp::ByteSwap => x.swap_bytes() >> (64 - from.bits()),
                UnOp::TrailingZeros => u64::from(x.trailing_zeros().min(from.bits())),
                UnOp::LeadingZeros => u64::from(x.leading_zeros() + from.bits() - 64),
                UnOp::PopCount => x.count_ones().into(),
                UnOp::ZeroExtend | UnOp::Truncate => x,
                UnOp::SignExtend => sign_extend(from, x),
                UnOp::Pair | UnOp::Sum => return None,
            };
            return self.number(result);
        }
        match (op, self.op(a).clone()) {
            (UnOp::ByteSwap, Op::Un(UnOp::ByteSwap, x)) | (UnOp::Neg, Op::Un(UnOp::Neg, x)) => {
                Some(Folded::Value(x))
            }
            (UnOp::ZeroExtend, Op::Un(UnOp::ZeroExtend, x)) => Some(Folded::Op(Op::Un(op, x))),
            (UnOp::SignExtend, Op::Un(inner @ (UnOp::SignExtend | UnOp::ZeroExtend), x)) => {
                Some(Folded::Op(Op::Un(inner, x)))
            }
            (UnOp::ZeroExtend, Op::Un(UnOp::Truncate, x)) if self.function.ty(x) == self.ty => {
                let mask = self.function.number(self.ty, from.mask());
                if self.zero(x) | from.mask() == u64::MAX {
                    return Some(Folded::Value(x));
                }
                Some(Folded::Op(Op::Bin(BinOp::And, x, mask)))
            }
            (UnOp::Truncate, inner) => self.truncate(&inner),
            (UnOp::PopCount, _) => self.counted_zeros(a),
            _ => None,
        }
    }

    fn truncate(&mut self, inner: &Op) -> Option<Folded> {
        match *inner {
            Op::Un(UnOp::Truncate, x) => Some(Folded::Op(Op::Un(UnOp::Truncate, x))),
            Op::Un(op @ (UnOp::ZeroExtend | UnOp::SignExtend), x) => {
                Some(match self.function.ty(x).cmp(&self.ty) {
                    std::cmp::Ordering::Equal => Folded::Value(x),
                    std::cmp::Ordering::Less => Folded::Op(Op::Un(op, x)),
                    std::cmp::Ordering::Greater => Folded::Op(Op::Un(UnOp::Truncate, x)),
                })
            }
            // A mask that leaves all that is kept.
            Op::Bin(BinOp::And, x, c) if self.keeps(c) => {
                Some(Folded::Op(Op::Un(UnOp::Truncate, x)))
            }
            Op::Bin(BinOp::Or, a, b) => {
                // A part put in above what is kept.
                for (low, high) in [(a, b), (b, a)] {
                    if self.zero(high) & self.ty.mask() == self.ty.mask() {
                        return Some(Folded::Op(Op::Un(UnOp::Truncate, low)));
                    }
                }
                self.narrow(BinOp::Or, a, b)
            }
            Op::Bin(
                op @ (BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::And | BinOp::Xor),
                a,
                b,
            ) => self.narrow(op, a, b),
            Op::Bin(BinOp::Shl, a, b) => {
                let by = self.constant(b)? % u64::from(self.function.ty(a).bits());
                if by >= self.ty.bits().into() {
                    return self.number(0);
                }
                let a = self.cut(a)?;
                let by = self.function.number(self.ty, by);
                Some(Folded::Op(Op::Bin(BinOp::Shl, a, by)))
            }
            Op::Select(c, a, b) => {
                let (a, b) = (self.cut(a)?, self.cut(b)?);
                Some(Folded::Op(Op::Select(c, a, b)))
            }
            _ => None,
        }
    }

    /// Whether a mask leaves all bits of the width.
    fn keeps(&self, mask: Value) -> bool {
        let all = self.ty.mask();
        self.constant(mask).is_some_and(|mask| mask & all == all)
    }

    /// The operation in the narrower width, if both operands are there for nothing.
    fn narrow(&mut self, op: BinOp, a: Value, b: Value) -> Option<Folded> {
        if !self.cuts(a) || !self.cuts(b) {
            return None;
        }
        let (a, b) = (self.cut(a)?, self.cut(b)?);
        Some(Folded::Op(Op::Bin(op, a, b)))
    }

    /// Whether the low part of a value costs nothing.
    fn cuts(&self, value: Value) -> bool {
        match *self.op(value) {
            Op::Fixed(_) => self.constant(value).is_some(),
            Op::Un(UnOp::ZeroExtend | UnOp::SignExtend, x) => self.function.ty(x) <= self.ty,
            _ => false,
        }
    }

    fn cut(&mut self, value: Value) -> Option<Value> {
        if !self.cuts(value) {
            return None;
        }
        match *self.op(value) {
            Op::Un(op, x) if self.function.ty(x) < self.ty => {
                Some(self.make(Op::Un(op, x), self.ty))
            }
            Op::Un(_, x) => Some(x),
            _ => {
                let number = self.constant(value)?;
                Some(self.function.number(self.ty, number))
            }
        }
    }

    fn cmp(&mut self, op: Cmp, a: Value, b: Value) -> Option<Folded> {
        let width = self.function.ty(a);
        if let (Some(x), Some(y)) = (self.constant(a), self.constant(b)) {
            return self.number(compare(op, width, x, y).into());
        }
        if a == b {
            let holds = matches!(op, Cmp::Eq | Cmp::ULe | Cmp::UGe | Cmp::SLe | Cmp::SGe);
            return self.number(holds.into());
        }
        if self.constant(a).is_some() {
            return Some(Folded::Op(Op::Cmp(swapped(op), b, a)));
        }
        if let Some(y) = self.constant(b) {
            return self.cmp_with(op, a, y, width);
        }
        if let (Op::Un(UnOp::ZeroExtend, x), Op::Un(UnOp::ZeroExtend, y)) = (self.op(a), self.op(b))
        {
            let (x, y) = (*x, *y);
            if self.function.ty(x) == self.function.ty(y) {
                return Some(Folded::Op(Op::Cmp(unsigned(op), x, y)));
            }
        }
        if let (Op::Un(UnOp::ByteSwap, x), Op::Un(UnOp::ByteSwap, y), Cmp::Eq | Cmp::Ne) =
            (self.op(a), self.op(b), op)
        {
            return Some(Folded::Op(Op::Cmp(op, *x, *y)));
        }
        None
    }

    fn cmp_with(&mut self, op: Cmp, a: Value, y: u64, width: Ty) -> Option<Folded> {
        // By the greatest value that `a` can have.
        let most = self.most(a);
        let never = match op {
            Cmp::Eq => most < y,
            Cmp::UGt => most <= y,
            Cmp::UGe => most < y,
            _ => false,
        };
        let always = match op {
            Cmp::Ne => most < y,
            Cmp::ULt => most < y,
            Cmp::ULe => most <= y,
            _ => false,
        };
        if never || always {
            return self.number(always.into());
        }
        let equality = matches!(op, Cmp::Eq | Cmp::Ne);
        if equality && y == 0 && self.is_never_zero(a) {
            return self.number((op == Cmp::Ne).into());
        }
        match *self.op(a) {
            // An address or null: the choice between them is asked for.
            Op::Select(c, x, z) if equality && y == 0 => {
                let other = if self.constant(z) == Some(0) && self.is_never_zero(x) {
                    op
                } else if self.constant(x) == Some(0) && self.is_never_zero(z) {
                    negated(op)
                } else {
                    return None;
                };
                let zero = self.function.number(self.function.ty(c), 0);
                Some(Folded::Op(Op::Cmp(other, c, zero)))
            }
            // A comparison of a comparison.
            Op::Cmp(inner, x, z) if equality && y <= 1 => {
                let same = (op == Cmp::Ne) == (y == 0);
                let inner = if same { inner } else { negated(inner) };
                Some(Folded::Op(Op::Cmp(inner, x, z)))
            }
            Op::Un(UnOp::ZeroExtend, x) => {
                let narrow = self.function.ty(x);
                (y <= narrow.mask()).then(|| {
                    let y = self.function.number(narrow, y);
                    Folded::Op(Op::Cmp(unsigned(op), x, y))
                })
            }
            Op::Un(UnOp::ByteSwap, x) if equality => {
                let y = y.swap_bytes() >> (64 - width.bits());
                let y = self.function.number(width, y);
                Some(Folded::Op(Op::Cmp(op, x, y)))
            }
            Op::Bin(BinOp::Sub | BinOp::Xor, x, z) if equality && y == 0 => {
                Some(Folded::Op(Op::Cmp(op, x, z)))
            }
            Op::Bin(BinOp::Add, x, c) if equality => {
                let c = self.constant(c)?;
                let y = self.function.number(width, y.wrapping_sub(c));
                Some(Folded::Op(Op::Cmp(op, x, y)))
            }
            _ => None,
        }
    }

    /// The greatest number a value can be.
    fn most(&self, value: Value) -> u64 {
        let by_bits = u64::MAX.checked_shr(self.zero(value).leading_ones());
        let by_bits = by_bits.unwrap_or(0);
        match *self.op(value) {
            Op::Bin(BinOp::Mul, a, b) => {
                let product = self.constant(b).and_then(|b| self.most(a).checked_mul(b));
                product.map_or(by_bits, |product| product.min(by_bits))
            }
            _ => by_bits,
        }
    }

    /// Whether a value is not 0 whatever happens: an address that is reckoned from a fixed one.
    fn is_never_zero(&self, value: Value) -> bool {
        match *self.op(value) {
            Op::Bin(BinOp::Add, a, b) => self.constant(b).is_some_and(|b| {
                let sum = self.most(a).checked_add(b);
                b != 0 && sum.is_some_and(|sum| sum <= self.function.ty(value).mask())
            }),
            Op::Fixed(fixed) => !matches!(fixed, Fixed::Number(_, 0)),
            _ => false,
        }
    }

    fn select(&mut self, c: Value, a: Value, b: Value) -> Option<Folded> {
        if a == b {
            return Some(Folded::Value(a));
        }
        let chosen = self.constant(c)?;
        Some(Folded::Value(if chosen != 0 { a } else { b }))
    }
}

/// A value as a base and a constant distance from it.
pub(super) fn offset(function: &Function, mut value: Value) -> (Value, u64) {
    let mut sum = 0_u64;
    while let Op::Bin(BinOp::Add, base, by) = function.value(value).op
        && let Some(by) = function.constant(by)
    {
        sum = sum.wrapping_add(by);
        value = base;
    }
    (value, sum)
}

/// Bits that are zero in a value; those above its width are.
pub(super) fn known_zero(function: &Function, value: Value, depth: u32) -> u64 {
    zero_bits(function, &Zeros::new(), value, depth)
}

/// As [`known_zero`], when something is known of parameters.
pub(super) fn zero_bits(function: &Function, zeros: &Zeros, value: Value, depth: u32) -> u64 {
    let ty = function.ty(value);
    let above = !ty.mask();
    if depth > 4 {
        return above;
    }
    let of = |value| zero_bits(function, zeros, value, depth + 1);
    above
        | match function.value(value).op {
            Op::Fixed(_) => function.constant(value).map_or(0, |number| !number),
            Op::Param => zeros.get(&value).copied().unwrap_or(0),
            Op::Cmp(..) => !1,
            Op::Un(UnOp::PopCount | UnOp::LeadingZeros | UnOp::TrailingZeros, _) => !0x7f,
            Op::Un(UnOp::ZeroExtend, x) => of(x),
            Op::Un(UnOp::Truncate, x) => of(x) & ty.mask(),
            Op::Bin(BinOp::And, a, b) => of(a) | of(b),
            Op::Bin(BinOp::Or | BinOp::Xor, a, b) => of(a) & of(b),
            Op::Bin(BinOp::LShr, a, b) => match function.constant(b) {
                Some(by) => {
                    let by = by % u64::from(ty.bits());
                    let shifted = (of(a) | above) >> by;
                    shifted | !(ty.mask() >> by)
                }
                None => 0,
            },
            Op::Bin(BinOp::Shl, a, b) => match function.constant(b) {
                Some(by) => {
                    let by = by % u64::from(ty.bits());
                    of(a) << by | ((1 << by) - 1)
                }
                None => 0,
            },
            Op::Select(_, a, b) => of(a) & of(b),
            _ => 0,
        }
}

fn commutes(op: BinOp) -> bool {
    matches!(
        op,
        BinOp::Add
            | BinOp::Mul
            | BinOp::MulHigh
            | BinOp::MulFold
            | BinOp::And
            | BinOp::Or
            | BinOp::Xor
    )
}

fn sign_extend(from: Ty, x: u64) -> u64 {
    let shift = 64 - from.bits();
    ((x << shift).cast_signed() >> shift).cast_unsigned()
}

/// The result of an operation on numbers, as RFC 9669 defines it.
pub(super) fn calculate(op: BinOp, ty: Ty, a: u64, b: u64) -> u64 {
    let (x, y) = (sign_extend(ty, a), sign_extend(ty, b));
    let (sx, sy) = (x.cast_signed(), y.cast_signed());
    let by = (b % u64::from(ty.bits())) as u32;
    let result = match op {
        BinOp::Add => a.wrapping_add(b),
        BinOp::Sub => a.wrapping_sub(b),
        BinOp::Mul => a.wrapping_mul(b),
        BinOp::MulHigh => ((u128::from(a) * u128::from(b)) >> 64) as u64,
        BinOp::MulFold => {
            let product = u128::from(a) * u128::from(b);
            product as u64 ^ (product >> 64) as u64
        }
        BinOp::And => a & b,
        BinOp::Or => a | b,
        BinOp::Xor => a ^ b,
        BinOp::Shl => a << by,
        BinOp::LShr => a >> by,
        BinOp::AShr => (sx >> by).cast_unsigned(),
        BinOp::RotL if by == 0 => a,
        BinOp::RotL => a << by | a >> (ty.bits() - by),
        BinOp::UDiv => a.checked_div(b).unwrap_or(0),
        BinOp::URem => a.checked_rem(b).unwrap_or(a),
        BinOp::SDiv if sy == 0 => 0,
        BinOp::SDiv => sx.wrapping_div(sy).cast_unsigned(),
        BinOp::SRem if sy == 0 => a,
        BinOp::SRem => sx.wrapping_rem(sy).cast_unsigned(),
    };
    result & ty.mask()
}

pub(super) fn compare(op: Cmp, ty: Ty, a: u64, b: u64) -> bool {
    let (x, y) = (
        sign_extend(ty, a).cast_signed(),
        sign_extend(ty, b).cast_signed(),
    );
    match op {
        Cmp::Eq => a == b,
        Cmp::Ne => a != b,
        Cmp::ULt => a < b,
        Cmp::ULe => a <= b,
        Cmp::UGt => a > b,
        Cmp::UGe => a >= b,
        Cmp::SLt => x < y,
        Cmp::SLe => x <= y,
        Cmp::SGt => x > y,
        Cmp::SGe => x >= y,
    }
}

fn swapped(op: Cmp) -> Cmp {
    match op {
        Cmp::Eq | Cmp::Ne => op,
        Cmp::ULt => Cmp::UGt,
        Cmp::ULe => Cmp::UGe,
        Cmp::UGt => Cmp::ULt,
        Cmp::UGe => Cmp::ULe,
        Cmp::SLt => Cmp::SGt,
        Cmp::SLe => Cmp::SGe,
        Cmp::SGt => Cmp::SLt,
        Cmp::SGe => Cmp::SLe,
    }
}

pub(super) fn negated(op: Cmp) -> Cmp {
    match op {
        Cmp::Eq => Cmp::Ne,
        Cmp::Ne => Cmp::Eq,
        Cmp::ULt => Cmp::UGe,
        Cmp::ULe => Cmp::UGt,
        Cmp::UGt => Cmp::ULe,
        Cmp::UGe => Cmp::ULt,
        Cmp::SLt => Cmp::SGe,
        Cmp::SLe => Cmp::SGt,
        Cmp::SGt => Cmp::SLe,
        Cmp::SGe => Cmp::SLt,
    }
}

/// The comparison of zero-extended values: none of them is negative.
fn unsigned(op: Cmp) -> Cmp {
    match op {
        Cmp::SLt => Cmp::ULt,
        Cmp::SLe => Cmp::ULe,
        Cmp::SGt => Cmp::UGt,
        Cmp::SGe => Cmp::UGe,
        other => other,
    }
}
