//! What a conditional jump tells of the state after it.

use squalus_isa::{Cond, Inst, Operand, Reg, Width};

use crate::compare::{Test, refine};
use crate::value::Base;
use crate::{Interval, Scalar, State, Value};

/// Makes `state` the one after a conditional jump that was or was not taken; false if that cannot be.
#[must_use]
pub(crate) fn branch(state: &mut State, inst: &Inst, taken: bool) -> bool {
    let Inst::JumpIf {
        width,
        cond,
        dst,
        src,
        ..
    } = *inst
    else {
        return true;
    };
    let test = Test::of(cond, taken);
    let (a, b) = (state.reg(dst), state.operand(src));
    match (a, b) {
        (Value::Scalar(a), Value::Scalar(b)) => {
            let Some((a, b)) = refine(test, width, a, b) else {
                return false;
            };
            let learned = state.learn_reg(dst, Value::Scalar(a));
            match src {
                Operand::Reg(src) if src != dst => {
                    learned && state.learn_reg(src, Value::Scalar(b))
                }
                _ => learned,
            }
        }
        _ if width == Width::W32 => true,
        (pointer @ Value::Packet { .. }, end) if is_end(&pointer, &end) => {
            learn_packet(state, &pointer, test)
        }
        (end, pointer @ Value::Packet { .. }) if is_end(&pointer, &end) => {
            learn_packet(state, &pointer, mirrored(test))
        }
        (pointer, Value::Scalar(zero)) if zero.as_constant() == Some(0) => {
            learn_null(state, &pointer, test).is_some()
        }
        _ => match src {
            Operand::Reg(src) => learn_places(state, (dst, a), (src, b), test),
            Operand::Imm(_) => true,
        },
    }
}

/// Learns from a comparison of two pointers into one thing where they can be; false if nowhere.
fn learn_places(
    state: &mut State,
    (dst, a): (Reg, Value),
    (src, b): (Reg, Value),
    test: Test,
) -> bool {
    let beside = match (a, b) {
        (Value::Stack { func: a, .. }, Value::Stack { func: b, .. }) => a == b,
        (Value::Packet { base: a, .. }, Value::Packet { base: b, .. }) => a == b,
        _ => false,
    };
    let (Some(x), Some(y), true) = (a.extent(), b.extent(), beside) else {
        return true;
    };
    // What they point into lies anywhere but where addresses wrap around.
    let test = match test {
        Test::Is(Cond::Gt) => Test::Is(Cond::SGt),
        Test::Is(Cond::Ge) => Test::Is(Cond::SGe),
        Test::Is(Cond::Lt) => Test::Is(Cond::SLt),
        Test::Is(Cond::Le) => Test::Is(Cond::SLe),
        Test::Is(Cond::Eq | Cond::Ne) => test,
        _ => return true,
    };
    let range = |off: Interval| Scalar::between_signed(off.lo, off.hi);
    let Some((x, y)) = refine(test, Width::W64, range(x), range(y)) else {
        return false;
    };
    let within = |value: Value, scalar: Scalar| {
        value.within(Interval {
            lo: scalar.smin,
            hi: scalar.smax,
        })
    };
    match (within(a, x), within(b, y)) {
        (Some(a), Some(b)) => state.learn_reg(dst, a) && (dst == src || state.learn_reg(src, b)),
        _ => false,
    }
}

/// Whether `end` is where the pointer's area ends.
fn is_end(pointer: &Value, end: &Value) -> bool {
    match pointer {
        Value::Packet {
            base: Base::Data, ..
        } => *end == Value::PacketEnd,
        _ => {
            matches!(end, Value::Packet { base: Base::Data, off, name: None } if *off == Interval::at(0))
        }
    }
}

fn learn_packet(state: &mut State, pointer: &Value, test: Test) -> bool {
    match test {
        Test::Is(Cond::Le) => state.learn_room(pointer, 0),
        Test::Is(Cond::Lt) => state.learn_room(pointer, 1),
        Test::Is(Cond::Gt) => state.learn_end(pointer, -1),
        Test::Is(Cond::Ge) => state.learn_end(pointer, 0),
        Test::Is(Cond::Eq) => {
            state.learn_room(pointer, 0);
            state.learn_end(pointer, 0);
        }
        _ => {}
    }
    state.is_possible()
}

/// The test with its operands exchanged.
fn mirrored(test: Test) -> Test {
    match test {
        Test::Is(Cond::Gt) => Test::Is(Cond::Lt),
        Test::Is(Cond::Ge) => Test::Is(Cond::Le),
        Test::Is(Cond::Lt) => Test::Is(Cond::Gt),
        Test::Is(Cond::Le) => Test::Is(Cond::Ge),
        other => other,
    }
}

/// Learns from a comparison with zero; `None` if its outcome cannot be.
fn learn_null(state: &mut State, pointer: &Value, test: Test) -> Option<()> {
    let is_null = match test {
        Test::Is(Cond::Eq) => true,
        Test::Is(Cond::Ne) => false,
        _ => return Some(()),
    };
    match pointer.null_name() {
        Some(name) => state.learn_null(name, is_null),
        None if pointer.is_present() && is_null => return None,
        None => {}
    }
    Some(())
}
