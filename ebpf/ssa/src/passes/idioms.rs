//! What eBPF has no instruction for, so that programs write it in several: rotations, counting bits, the high half of
//! a product.
//!
//! Compilers write these in one way each, wherever the source has the operation or a text that they take for it;
//! those ways are known here. What is written otherwise stays as it is.

use super::fold::{Fold, Folded};
use crate::ir::{BinOp, Op, Ty, UnOp, Value};

impl Fold<'_> {
    /// `x << n | x >> (width - n)`.
    pub(super) fn rotation(&self, op: BinOp, a: Value, b: Value) -> Option<Folded> {
        let ways = [(a, b), (b, a)];
        ways.into_iter().find_map(|(left, right)| {
            let Op::Bin(BinOp::Shl, x, by) = *self.op(left) else {
                return None;
            };
            let Op::Bin(BinOp::LShr, same, rest) = *self.op(right) else {
                return None;
            };
            // Not shifted at all, both are the value itself: added, that is not the value.
            let whole = op == BinOp::Or || self.amount(by).is_some_and(|by| by != 0);
            let turns = x == same && whole && self.is_rest(by, rest);
            turns.then_some(Folded::Op(Op::Bin(BinOp::RotL, x, by)))
        })
    }

    /// How far a shift by a number goes.
    fn amount(&self, by: Value) -> Option<u64> {
        let by = self.constant(by)?;
        Some(by % u64::from(self.ty.bits()))
    }

    /// Whether shifts by two values go as far as the width together, or nowhere.
    fn is_rest(&self, by: Value, rest: Value) -> bool {
        let bits = u64::from(self.ty.bits());
        if let (Some(by), Some(rest)) = (self.amount(by), self.amount(rest)) {
            return (by + rest) % bits == 0;
        }
        let by = self.counted(by);
        match *self.op(self.counted(rest)) {
            Op::Un(UnOp::Neg, x) => self.counted(x) == by,
            Op::Bin(BinOp::Sub, whole, x) => self.amount(whole) == Some(0) && self.counted(x) == by,
            _ => false,
        }
    }

    /// A shift's amount without what doesn't matter, since amounts count modulo the width.
    pub(super) fn counted(&self, mut by: Value) -> Value {
        let low = u64::from(self.ty.bits()) - 1;
        loop {
            by = match *self.op(by) {
                Op::Un(UnOp::ZeroExtend | UnOp::SignExtend | UnOp::Truncate, x) => x,
                Op::Bin(BinOp::And, x, c) if self.constant(c).is_some_and(|c| c & low == low) => x,
                _ => return by,
            }
        }
    }

    /// A number with this byte in every place.
    fn bytes(&self, byte: u64) -> u64 {
        (u64::MAX / 0xff * byte) & self.ty.mask()
    }

    /// What is masked with this byte in every place.
    fn masked(&self, value: Value, byte: u64) -> Option<Value> {
        match *self.op(value) {
            Op::Bin(BinOp::And, x, c) if self.constant(c) == Some(self.bytes(byte)) => Some(x),
            _ => None,
        }
    }

    /// What is shifted right so far.
    fn shifted(&self, value: Value, by: u64) -> Option<Value> {
        match *self.op(value) {
            Op::Bin(BinOp::LShr, x, c) if self.constant(c) == Some(by) => Some(x),
            _ => None,
        }
    }

    /// The operands in the order for which `found` finds something.
    fn either<T>(
        &self,
        value: Value,
        op: BinOp,
        found: impl Fn(Value, Value) -> Option<T>,
    ) -> Option<T> {
        match *self.op(value) {
            Op::Bin(own, a, b) if own == op => found(a, b).or_else(|| found(b, a)),
            _ => None,
        }
    }

    /// `product >> (width - 8)`: the number of bits that are set, as sums of ever more neighbours.
    pub(super) fn counted_bits(&self, product: Value) -> Option<Folded> {
        if !matches!(self.ty, Ty::I32 | Ty::I64) {
            return None;
        }
        let Op::Bin(BinOp::Mul, sums, ones) = *self.op(product) else {
            return None;
        };
        if self.constant(ones) != Some(self.bytes(1)) {
            return None;
        }
        let bytes = self.masked(sums, 0x0f)?;
        let fours = self.either(bytes, BinOp::Add, |sum, upper| {
            (self.shifted(upper, 4)? == sum).then_some(sum)
        })?;
        let pairs = self.either(fours, BinOp::Add, |low, high| {
            let pairs = self.masked(low, 0x33)?;
            let upper = self.shifted(self.masked(high, 0x33)?, 2)?;
            (pairs == upper).then_some(pairs)
        })?;
        let Op::Bin(BinOp::Sub, x, odd) = *self.op(pairs) else {
            return None;
        };
        let all = self.shifted(self.masked(odd, 0x55)?, 1)? == x;
        all.then_some(Folded::Op(Op::Un(UnOp::PopCount, x)))
    }

    /// The number of bits that are set in `a`, if these are the zeros above the highest or below the lowest one of
    /// something.
    pub(super) fn counted_zeros(&self, a: Value) -> Option<Folded> {
        if let Some(spread) = self.inverted(a) {
            let x = self.spread(spread)?;
            return Some(Folded::Op(Op::Un(UnOp::LeadingZeros, x)));
        }
        let x = self.either(a, BinOp::And, |not, less| {
            let x = self.inverted(not)?;
            let Op::Bin(BinOp::Add, same, c) = *self.op(less) else {
                return None;
            };
            (same == x && self.constant(c) == Some(self.ty.mask())).then_some(x)
        })?;
        Some(Folded::Op(Op::Un(UnOp::TrailingZeros, x)))
    }

    /// What a value is the inverse of.
    fn inverted(&self, value: Value) -> Option<Value> {
        match *self.op(value) {
            Op::Un(UnOp::Not, x) => Some(x),
            Op::Bin(BinOp::Xor, x, c) if self.constant(c) == Some(self.ty.mask()) => Some(x),
            _ => None,
        }
    }

    /// The value whose highest bit was spread to all below it, by ever longer shifts.
    fn spread(&self, mut value: Value) -> Option<Value> {
        let mut by = u64::from(self.ty.bits()) / 2;
        while by != 0 {
            value = self.either(value, BinOp::Or, |x, shifted| {
                (self.shifted(shifted, by)? == x).then_some(x)
            })?;
            by /= 2;
        }
        Some(value)
    }

    /// `a + b`: the high half of a product of 64 bits each, from products of their halves.
    pub(super) fn high_product(&mut self, a: Value, b: Value) -> Option<Folded> {
        if self.ty != Ty::I64 {
            return None;
        }
        let mut terms = Vec::with_capacity(4);
        for part in [a, b] {
            match *self.op(part) {
                Op::Bin(BinOp::Add, x, y) => terms.extend([x, y]),
                _ => terms.push(part),
            }
        }
        let carry = |term: &Value| self.shifted(*term, 32);
        let products: Vec<Value> = terms
            .iter()
            .copied()
            .filter(|t| carry(t).is_none())
            .collect();
        let carries: Vec<Value> = terms.iter().filter_map(carry).collect();
        let (&[high], &[m, n]) = (&*products, &*carries) else {
            return None;
        };
        let upper = self.factors(high)?;
        let factors = self
            .carried(m, n, upper)
            .or_else(|| self.carried(n, m, upper))?;
        let [x, y] = [self.whole(factors[0])?, self.whole(factors[1])?];
        Some(Folded::Op(Op::Bin(BinOp::MulHigh, x, y)))
    }

    /// For the sum in the middle that was made first, and the one that has its lower half: the halves of the two
    /// factors, lower ones first. `upper` are the upper ones.
    fn carried(&self, first: Value, second: Value, upper: [Value; 2]) -> Option<[[Value; 2]; 2]> {
        let second = self.either(second, BinOp::Add, |product, rest| {
            (self.lower(rest)? == first).then(|| self.factors(product))?
        })?;
        let (first, lower) = self.either(first, BinOp::Add, |product, rest| {
            let low = self.shifted(rest, 32)?;
            Some((self.factors(product)?, self.factors(low)?))
        })?;
        let turned = |[a, b]: [Value; 2]| [[a, b], [b, a]];
        let is = |pair, own| turned(own).contains(&pair);
        // Each of the four products has the halves that it should have.
        turned(lower).into_iter().find_map(|[al, bl]| {
            let [ah, bh] = turned(upper)
                .into_iter()
                .find(|[ah, bh]| is(first, [*ah, bl]) && is(second, [al, *bh]))?;
            Some([[al, ah], [bl, bh]])
        })
    }

    fn factors(&self, product: Value) -> Option<[Value; 2]> {
        match *self.op(product) {
            Op::Bin(BinOp::Mul, a, b) => Some([a, b]),
            _ => None,
        }
    }

    /// The value whose lower half this is.
    fn lower(&self, value: Value) -> Option<Value> {
        match *self.op(value) {
            Op::Bin(BinOp::And, x, c) if self.constant(c) == Some(u32::MAX.into()) => Some(x),
            _ => None,
        }
    }

    /// The value that two halves are of.
    fn whole(&mut self, [low, high]: [Value; 2]) -> Option<Value> {
        if let (Some(low), Some(high)) = (self.constant(low), self.constant(high)) {
            let halves = low <= u32::MAX.into() && high <= u32::MAX.into();
            return halves.then(|| self.function.number(Ty::I64, high << 32 | low));
        }
        let whole = self.lower(low)?;
        let from = self.shifted(high, 32)?;
        (self.upper(whole) == self.upper(from)).then_some(whole)
    }

    /// A value with the same upper half, before what was done to the lower one.
    fn upper(&self, mut value: Value) -> Value {
        while let Op::Bin(BinOp::Or | BinOp::Xor, x, c) = *self.op(value)
            && self.constant(c).is_some_and(|c| c <= u32::MAX.into())
        {
            value = x;
        }
        value
    }

    /// `x ^ y` for both halves of a product.
    pub(super) fn folded_product(&self, x: Value, y: Value) -> Option<Folded> {
        let ways = [(x, y), (y, x)];
        ways.into_iter().find_map(|(high, low)| {
            let Op::Bin(BinOp::MulHigh, a, b) = *self.op(high) else {
                return None;
            };
            let [c, d] = self.factors(low)?;
            ([c, d] == [a, b] || [c, d] == [b, a]).then_some(Folded::Op(Op::Bin(
                BinOp::MulFold,
                a,
                b,
            )))
        })
    }
}
