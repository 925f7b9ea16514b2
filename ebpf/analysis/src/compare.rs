//! What a comparison tells about its operands.

use squalus_isa::{Cond, Width};

use crate::Scalar;

/// A condition or its opposite; the opposite of a bit test has no condition of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// The condition holds.
    Is(Cond),
    /// No bit is set in both operands.
    Disjoint,
}

impl Test {
    /// What holds where a jump on `cond` is taken, or where it is not.
    #[must_use]
    pub const fn of(cond: Cond, taken: bool) -> Test {
        if taken {
            return Test::Is(cond);
        }
        match cond {
            Cond::Eq => Test::Is(Cond::Ne),
            Cond::Ne => Test::Is(Cond::Eq),
            Cond::Gt => Test::Is(Cond::Le),
            Cond::Ge => Test::Is(Cond::Lt),
            Cond::Lt => Test::Is(Cond::Ge),
            Cond::Le => Test::Is(Cond::Gt),
            Cond::Set => Test::Disjoint,
            Cond::SGt => Test::Is(Cond::SLe),
            Cond::SGe => Test::Is(Cond::SLt),
            Cond::SLt => Test::Is(Cond::SGe),
            Cond::SLe => Test::Is(Cond::SGt),
        }
    }
}

/// Both operands, given that `test` holds between them; `None` if it cannot.
#[must_use]
pub fn refine(test: Test, width: Width, a: Scalar, b: Scalar) -> Option<(Scalar, Scalar)> {
    match width {
        Width::W64 => refine64(test, a, b),
        Width::W32 => refine32(test, a, b),
    }
}

/// A 32-bit comparison says something of the whole registers only where these are extensions of their low halves.
fn refine32(test: Test, a: Scalar, b: Scalar) -> Option<(Scalar, Scalar)> {
    let signed = matches!(
        test,
        Test::Is(Cond::SGt | Cond::SGe | Cond::SLt | Cond::SLe)
    );
    let low = |s: &Scalar| {
        if signed {
            s.sign_extend(32)
        } else {
            s.truncate(32)
        }
    };
    let (la, lb) = (low(&a), low(&b));
    let (ra, rb) = refine64(test, la, lb)?;
    Some((lift(a, la, ra), lift(b, lb, rb)))
}

/// Takes what was learned of the low half back to the register.
fn lift(whole: Scalar, low: Scalar, refined: Scalar) -> Scalar {
    if whole == low {
        return refined;
    }
    let bits = Scalar {
        value: refined.value & 0xffff_ffff,
        mask: refined.mask | !0xffff_ffff,
        ..Scalar::TOP
    };
    whole.intersect(&bits).unwrap_or(whole)
}

fn refine64(test: Test, a: Scalar, b: Scalar) -> Option<(Scalar, Scalar)> {
    let swap = |(b, a): (Scalar, Scalar)| (a, b);
    match test {
        Test::Is(Cond::Eq) => a.intersect(&b).map(|both| (both, both)),
        Test::Is(Cond::Ne) => Some((without(a, b)?, without(b, a)?)),
        Test::Is(Cond::Gt) => greater(a, b, 1),
        Test::Is(Cond::Ge) => greater(a, b, 0),
        Test::Is(Cond::Lt) => greater(b, a, 1).map(swap),
        Test::Is(Cond::Le) => greater(b, a, 0).map(swap),
        Test::Is(Cond::SGt) => greater_signed(a, b, 1),
        Test::Is(Cond::SGe) => greater_signed(a, b, 0),
        Test::Is(Cond::SLt) => greater_signed(b, a, 1).map(swap),
        Test::Is(Cond::SLe) => greater_signed(b, a, 0).map(swap),
        Test::Is(Cond::Set) => {
            ((a.value | a.mask) & (b.value | b.mask) != 0).then_some(())?;
            Some((with_bit(a, b)?, with_bit(b, a)?))
        }
        Test::Disjoint => Some((clear(a, b)?, clear(b, a)?)),
    }
}

/// `a >= b + by`.
fn greater(mut a: Scalar, mut b: Scalar, by: u64) -> Option<(Scalar, Scalar)> {
    a.umin = a.umin.max(b.umin.checked_add(by)?);
    b.umax = b.umax.min(a.umax.checked_sub(by)?);
    Some((a.sync()?, b.sync()?))
}

/// `a >= b + by`, signed.
fn greater_signed(mut a: Scalar, mut b: Scalar, by: i64) -> Option<(Scalar, Scalar)> {
    a.smin = a.smin.max(b.smin.checked_add(by)?);
    b.smax = b.smax.min(a.smax.checked_sub(by)?);
    Some((a.sync()?, b.sync()?))
}

/// `a` without the one value of `b`.
fn without(mut a: Scalar, b: Scalar) -> Option<Scalar> {
    let Some(x) = b.as_constant() else {
        return Some(a);
    };
    if a.umin == x {
        a.umin = a.umin.checked_add(1)?;
    }
    if a.umax == x {
        a.umax = a.umax.checked_sub(1)?;
    }
    if a.smin == x.cast_signed() {
        a.smin = a.smin.checked_add(1)?;
    }
    if a.smax == x.cast_signed() {
        a.smax = a.smax.checked_sub(1)?;
    }
    a.sync()
}

/// `a`, known to share a one with `b`.
fn with_bit(mut a: Scalar, b: Scalar) -> Option<Scalar> {
    let possible = b.value | b.mask;
    if possible.is_power_of_two() {
        a.value |= possible;
        a.mask &= !possible;
    }
    a.sync()
}

/// `a`, known to share no one with `b`.
fn clear(mut a: Scalar, b: Scalar) -> Option<Scalar> {
    if a.value & b.value != 0 {
        return None;
    }
    a.mask &= !b.value;
    a.sync()
}
