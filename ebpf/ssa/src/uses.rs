//! Which values instructions and the ends of blocks use, and what they do besides.

use crate::ir::{Op, Order, Target, Terminator, Value};

impl Terminator {
    /// Where it may lead.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let (first, second, more) = match self {
            Terminator::Jump(target) => (Some(target), None, &[][..]),
            Terminator::Branch { then, other, .. } => (Some(then), Some(other), &[][..]),
            Terminator::Switch { targets, rest, .. } => (Some(rest), None, &**targets),
            Terminator::Return(_) | Terminator::Trap(..) => (None, None, &[][..]),
        };
        first.into_iter().chain(second).chain(more)
    }

    /// Where it may lead, to change it.
    pub fn targets_mut(&mut self) -> impl Iterator<Item = &mut Target> {
        let (first, second, more) = match self {
            Terminator::Jump(target) => (Some(target), None, &mut [][..]),
            Terminator::Branch { then, other, .. } => (Some(then), Some(other), &mut [][..]),
            Terminator::Switch { targets, rest, .. } => (Some(rest), None, &mut **targets),
            Terminator::Return(_) | Terminator::Trap(..) => (None, None, &mut [][..]),
        };
        first.into_iter().chain(second).chain(more)
    }

    /// Replaces every value it uses.
    pub fn map_uses(&mut self, mut with: impl FnMut(Value) -> Value) {
        match self {
            Terminator::Branch {
                condition: value, ..
            }
            | Terminator::Switch { value, .. }
            | Terminator::Return(value) => {
                *value = with(*value);
            }
            Terminator::Jump(_) | Terminator::Trap(..) => {}
        }
        for target in self.targets_mut() {
            for arg in &mut target.args {
                *arg = with(*arg);
            }
        }
    }

    /// The values that decide where it leads or what is returned; not what it passes on.
    pub fn decides(&self, mut each: impl FnMut(Value)) {
        if let Terminator::Branch {
            condition: value, ..
        }
        | Terminator::Switch { value, .. }
        | Terminator::Return(value) = self
        {
            each(*value);
        }
    }

    /// Every value it uses.
    pub fn uses(&self, mut each: impl FnMut(Value)) {
        self.decides(&mut each);
        for target in self.targets() {
            target.args.iter().copied().for_each(&mut each);
        }
    }
}

impl Op {
    /// Replaces every value it uses.
    pub fn map_uses(&mut self, mut with: impl FnMut(Value) -> Value) {
        let mut one = |value: &mut Value| *value = with(*value);
        match self {
            Op::Fixed(_) | Op::Param => {}
            Op::Bin(_, a, b) | Op::Cmp(_, a, b) => [a, b].into_iter().for_each(one),
            Op::Un(_, a) => one(a),
            Op::Select(a, b, c) | Op::TailCall(a, b, c) => [a, b, c].into_iter().for_each(one),
            Op::Load { base, .. } => one(base),
            Op::Store { base, value, .. } => [base, value].into_iter().for_each(one),
            Op::Atomic {
                address,
                value,
                expected,
                ..
            } => {
                one(address);
                one(value);
                expected.iter_mut().for_each(one);
            }
            Op::Lookup { map, key, .. } => {
                one(map);
                key.iter_mut().for_each(one);
            }
            Op::Native { args, .. } | Op::Local { args, .. } => args.iter_mut().for_each(one),
            Op::TrapIf { condition, .. } => one(condition),
        }
    }

    /// Every value it uses.
    pub fn uses(&self, mut each: impl FnMut(Value)) {
        match self {
            Op::Fixed(_) | Op::Param => {}
            Op::Bin(_, a, b) | Op::Cmp(_, a, b) => [a, b].into_iter().for_each(|v| each(*v)),
            Op::Un(_, a) => each(*a),
            Op::Select(a, b, c) | Op::TailCall(a, b, c) => {
                [a, b, c].into_iter().for_each(|v| each(*v))
            }
            Op::Load { base, .. } => each(*base),
            Op::Store { base, value, .. } => [base, value].into_iter().for_each(|v| each(*v)),
            Op::Atomic {
                address,
                value,
                expected,
                ..
            } => {
                each(*address);
                each(*value);
                expected.iter().for_each(|v| each(*v));
            }
            Op::Lookup { map, key, .. } => {
                each(*map);
                key.iter().for_each(|v| each(*v));
            }
            Op::Native { args, .. } | Op::Local { args, .. } => args.iter().for_each(|v| each(*v)),
            Op::TrapIf { condition, .. } => each(*condition),
        }
    }

    /// Whether it does something besides giving a value, so that it must stay where it is even if nobody uses
    /// the value.
    #[must_use]
    pub fn has_effect(&self) -> bool {
        match self {
            Op::Store { .. }
            | Op::Atomic { .. }
            | Op::Local { .. }
            | Op::TailCall(..)
            | Op::TrapIf { .. } => true,
            // A lookup in an LRU map marks the entry as used.
            Op::Lookup { .. } => true,
            Op::Native { effect, .. } => !effect.pure,
            Op::Load { order, .. } => *order != Order::Plain,
            _ => false,
        }
    }
}
