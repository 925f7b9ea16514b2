//! What arithmetic does to a state: numbers, pointers that move, and how both go on in loops.

use squalus_isa::{AluOp, Operand, Reg, Width};

use crate::motion::{Line, SLOW_STEP};
use crate::{Interval, Name, Scalar, State, Value};

/// Runs an instruction of arithmetic; `fresh` names what it makes.
pub(crate) fn alu(
    state: &mut State,
    (width, op): (Width, AluOp),
    dst: Reg,
    src: Operand,
    fresh: Name,
) {
    let (a, b) = (state.reg(dst), state.operand(src));
    let scalar = || Value::Scalar(a.scalar().alu(width, op, &b.scalar()));
    let moved = |state: &mut State, pointer, by: Option<Interval>| match by {
        Some(by) => state.moved(pointer, by, fresh),
        None => Value::TOP,
    };
    let value = match (width, op) {
        (Width::W64, AluOp::Mov) => b,
        (Width::W64, AluOp::Add) => match (a, b) {
            (Value::Scalar(_), Value::Scalar(_)) => scalar(),
            (Value::Scalar(by), pointer) | (pointer, Value::Scalar(by)) => {
                moved(state, pointer, Interval::of_scalar(&by))
            }
            _ => Value::TOP,
        },
        (Width::W64, AluOp::Sub) => match (a, b) {
            (Value::Scalar(_), Value::Scalar(_)) => scalar(),
            (pointer, Value::Scalar(by)) => {
                let by = Interval::of_scalar(&by).map(Interval::negated);
                moved(state, pointer, by)
            }
            _ => distance(&a, &b),
        },
        _ => scalar(),
    };
    let line = match state.motion.is_empty() {
        true => None,
        false => moved_line(state, (width, op), dst, src, (a, b, value)),
    };
    state.set_moving(dst, value, line);
}

/// The difference of two pointers.
fn distance(a: &Value, b: &Value) -> Value {
    let between =
        |a: Interval, b: Interval| Value::Scalar(Scalar::between_signed(a.lo - b.hi, a.hi - b.lo));
    match (a, b) {
        (Value::Stack { func, off: a }, Value::Stack { func: f, off: b }) if func == f => {
            between(*a, *b)
        }
        (
            Value::Packet {
                base,
                off: a,
                name: na,
            },
            Value::Packet {
                base: b_base,
                off: b,
                name: nb,
            },
        ) if base == b_base => match (na, nb) {
            (Some((na, da)), Some((nb, db))) if na == nb => {
                Value::constant((da - db).cast_unsigned())
            }
            _ => between(*a, *b),
        },
        _ => Value::TOP,
    }
}

/// How the result of an operation on `a` and `b`, which is `value`, moves in the loops around.
fn moved_line(
    state: &State,
    (width, op): (Width, AluOp),
    dst: Reg,
    src: Operand,
    (a, b, value): (Value, Value, Value),
) -> Option<Line> {
    if op == AluOp::Mov {
        // A number that has 32 bits stays itself.
        let whole = width == Width::W64 || matches!(b, Value::Scalar(_)) && b == value;
        return line_of(state, src).filter(|_| whole);
    }
    let Some(by) = b.scalar().as_constant() else {
        return sum_line(state, (width, op), dst, src, (a, b, value));
    };
    let by = match (width, op) {
        (Width::W64, AluOp::Add) => by.cast_signed(),
        (Width::W64, AluOp::Sub) => by.cast_signed().checked_neg()?,
        (Width::W32, AluOp::Add) => i64::from(by as i32),
        (Width::W32, AluOp::Sub) => i64::from(by as i32).checked_neg()?,
        _ => return None,
    };
    if width == Width::W32 {
        let Value::Scalar(a) = a else { return None };
        let exact = |x: u64| x.checked_add_signed(by).is_some_and(|x| x >> 32 == 0);
        if a.umax >> 32 != 0 || !exact(a.umin) || !exact(a.umax) {
            return None;
        }
    } else if std::mem::discriminant(&a) != std::mem::discriminant(&value) {
        return None;
    }
    let line = state.motion.shifted(dst.index(), by)?;
    let range = a.extent()?;
    let exact = |x: i64| x.checked_add(by).is_some();
    (line.is_slow() && by.abs() <= SLOW_STEP || exact(range.lo) && exact(range.hi)).then_some(line)
}

/// How the sum of two registers moves.
fn sum_line(
    state: &State,
    (width, op): (Width, AluOp),
    dst: Reg,
    src: Operand,
    (a, b, value): (Value, Value, Value),
) -> Option<Line> {
    let (Width::W64, AluOp::Add, Operand::Reg(src)) = (width, op, src) else {
        return None;
    };
    let (x, y) = (a.extent()?, b.extent()?);
    // A pointer that is tracked is where the sum says; numbers must not wrap around.
    let pointer = !matches!(value, Value::Scalar(_));
    let exact = x.lo.checked_add(y.lo).is_some() && x.hi.checked_add(y.hi).is_some();
    let numbers = matches!((a, b), (Value::Scalar(_), Value::Scalar(_)));
    let exact = pointer || numbers && exact;
    exact
        .then(|| state.motion.sum((dst.index(), x), (src.index(), y)))
        .flatten()
}

/// How the number in an operand moves in the loops around.
pub(crate) fn line_of(state: &State, operand: Operand) -> Option<Line> {
    match operand {
        Operand::Reg(reg) => state.motion.line(reg.index()),
        Operand::Imm(_) => None,
    }
}
