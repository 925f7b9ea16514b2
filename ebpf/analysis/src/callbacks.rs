//! Helpers that call subprograms back.
//!
//! How often a callback runs is not known. What it may do to its caller is the same each time, and only
//! makes things forgotten: bytes of the caller's frame, packet pointers, records. So one application of it
//! holds for any number of rounds, also for none, and is what each round begins with too.

use squalus_isa::Reg;
use squalus_runtime::{Iterates, MAX_LOOPS};

use crate::machine::{Effect, FrameRead, Machine};
use crate::{FuncId, Interval, Scalar, State, Value};

impl Machine<'_> {
    /// Notes the calls that a helper makes, and does to `state` what they may do to the caller.
    pub(crate) fn call_back(
        &mut self,
        func: FuncId,
        state: &mut State,
        over: Iterates,
        effect: &mut Effect,
    ) {
        if matches!(state.reg(Reg::R3), Value::Stack { .. }) {
            effect.reads = match effect.reads {
                FrameRead::None => FrameRead::Lent,
                _ => FrameRead::AllFrames,
            };
        }
        let callbacks = self.callbacks(func, state.reg(Reg::R2));
        for &callback in &callbacks {
            self.called(func, state, callback, None);
        }
        let mut round = state.clone();
        for (n, arg) in self.round_args(state, over).into_iter().enumerate() {
            round.set_reg(super::calls::arg(n), arg);
        }
        for callback in callbacks {
            self.enter(Some(func), &round, callback);
        }
    }

    /// Notes what a timer will call, in a run of its own.
    pub(crate) fn call_later(&mut self, func: FuncId, state: &State) {
        let timer = state.reg(Reg::R1);
        let mut later = State::entry(func, Value::TOP);
        // Otherwise the timer is looked for by its address, and may be another map's.
        if let (true, Value::MapValue { map, .. }) = (self.is_field(timer, |f| f.timer), timer) {
            let off = Interval::at(0);
            let null = None;
            later.set_reg(Reg::R1, Value::Map { map, null });
            later.set_reg(Reg::R2, Value::MapKey { map, off });
            later.set_reg(Reg::R3, Value::MapValue { map, off, null });
        }
        for callback in self.callbacks(func, state.reg(Reg::R2)) {
            self.timer_callbacks.insert(callback);
            self.enter(None, &later, callback);
        }
    }

    /// Which functions a helper calls back that was given `pointer`.
    fn callbacks(&mut self, func: FuncId, pointer: Value) -> Vec<FuncId> {
        let known = self.cfg.callbacks(func);
        match pointer {
            Value::Function(callback) if known.contains(&callback) => vec![callback],
            _ => {
                self.strange_callback = true;
                known.to_vec()
            }
        }
    }

    fn round_args(&self, state: &State, over: Iterates) -> [Value; 5] {
        let (first, context) = (state.reg(Reg::R1), state.reg(Reg::R3));
        let top = Value::TOP;
        match over {
            Iterates::Numbers => {
                let rounds = first.scalar().truncate(32).umax.min(MAX_LOOPS.into());
                let last = rounds.saturating_sub(1).cast_signed();
                let number = Value::Scalar(Scalar::between_signed(0, last));
                [number, context, top, top, top]
            }
            Iterates::Elements => {
                let Value::Map { map, null: None } = first else {
                    return [first, top, top, context, top];
                };
                let off = Interval::at(0);
                let value = Value::MapValue {
                    map,
                    off,
                    null: None,
                };
                [first, Value::MapKey { map, off }, value, context, top]
            }
        }
    }
}
