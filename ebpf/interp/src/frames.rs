//! Calls of subprograms: by the program, and by helpers with callbacks.

use squalus_isa::Reg;
use squalus_maps::Map;
use squalus_runtime::{Iterates, TrapReason, Walk, loop_rounds};

use crate::machine::{Checked, Flow, Machine};
use crate::value::{Kind, MapValue, Value};

/// Where a call goes on when it returns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    program: usize,
    /// The level at which that program began.
    base: usize,
    at: usize,
    saved: [Value; 4],
    /// Set if a helper made the call.
    rounds: Option<Rounds>,
}

/// A helper on its way through its rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    over: Over,
    /// Slot of the callback.
    callback: usize,
    context: Value,
    /// How many rounds have begun.
    begun: u64,
}

/// What the rounds go over.
#[derive(Clone, Copy, Debug)]
enum Over {
    Numbers { count: u32 },
    Elements { map: Value, walk: Walk },
}

impl Machine<'_> {
    fn caller(&self, rounds: Option<Rounds>) -> Caller {
        Caller {
            program: self.program,
            base: self.stacks.base_level(),
            at: self.at + 1,
            saved: [self.regs[6], self.regs[7], self.regs[8], self.regs[9]],
            rounds,
        }
    }

    /// Calls the subprogram at `target`.
    pub(crate) fn call(&mut self, target: usize) -> Checked<Flow> {
        let caller = self.caller(None);
        if !self.stacks.push() {
            return Err(TrapReason::CallDepth);
        }
        *self.stacks.caller() = Some(caller);
        self.regs[0] = Value::UNINIT;
        self.regs[6..10].fill(Value::UNINIT);
        self.regs[Reg::FP.index()] = self.stacks.frame_pointer();
        Ok(Flow::Jump(target))
    }

    /// Returns from a subprogram, or ends the run.
    pub(crate) fn exit(&mut self) -> Checked<Flow> {
        let Some(caller) = self.stacks.caller().take() else {
            let value = self.read(Reg::R0)?;
            return if value.is_scalar() {
                Ok(Flow::Done(value.bits))
            } else {
                Err(TrapReason::Return)
            };
        };
        if let Some(rounds) = caller.rounds {
            return self.round_done(caller, rounds);
        }
        self.leave(caller);
        Ok(caller.flow())
    }

    /// Restores what the caller's registers were.
    fn leave(&mut self, caller: Caller) {
        self.stacks.pop();
        self.stacks.resume_program(caller.base);
        self.regs[1..6].fill(Value::UNINIT);
        self.regs[6..10].copy_from_slice(&caller.saved);
        self.regs[Reg::FP.index()] = self.stacks.frame_pointer();
    }

    /// Calls a helper that calls a subprogram back; its other arguments were checked.
    pub(crate) fn iterate(&mut self, over: Iterates, map: Option<&Map>) -> Checked<Flow> {
        let [_, first, callback, context, flags, ..] = self.regs;
        let Kind::Function { slot } = callback.kind else {
            return Err(TrapReason::Argument);
        };
        let over = match (over, map) {
            (Iterates::Numbers, _) => {
                loop_rounds(first.bits, flags.bits).map(|count| Over::Numbers { count })
            }
            (Iterates::Elements, Some(map)) => {
                Walk::new(map, flags.bits).map(|walk| Over::Elements { map: first, walk })
            }
            (Iterates::Elements, None) => return Err(TrapReason::Argument),
        };
        let over = match over {
            Ok(over) => over,
            Err(errno) => {
                self.after_call(Value::scalar(errno.as_return()));
                return Ok(Flow::Next);
            }
        };
        let caller = self.caller(None);
        if !self.stacks.push() {
            return Err(TrapReason::CallDepth);
        }
        let rounds = Rounds {
            over,
            callback: slot,
            context,
            begun: 0,
        };
        Ok(self.next_round(caller, rounds))
    }

    /// After a round: goes on unless the callback said to stop.
    fn round_done(&mut self, caller: Caller, rounds: Rounds) -> Checked<Flow> {
        let result = self.read(Reg::R0)?;
        if !result.is_scalar() {
            return Err(TrapReason::Return);
        }
        if result.bits != 0 {
            return Ok(self.rounds_over(caller, rounds.begun));
        }
        // A tail call may have put another program in the callback's place.
        self.program = caller.program;
        self.stacks.resume_program(caller.base);
        self.stacks.renew();
        Ok(self.next_round(caller, rounds))
    }

    /// Begins the next round, if there is one. The callback's frame is open and fresh.
    fn next_round(&mut self, caller: Caller, mut rounds: Rounds) -> Flow {
        let mut args = [Value::UNINIT; 5];
        match &mut rounds.over {
            Over::Numbers { count } if rounds.begun < u64::from(*count) => {
                args[..2].copy_from_slice(&[Value::scalar(rounds.begun), rounds.context]);
            }
            Over::Numbers { .. } => return self.rounds_over(caller, rounds.begun),
            Over::Elements { map, walk } => {
                let Some([key, value]) = self.element(*map, walk) else {
                    return self.rounds_over(caller, rounds.begun);
                };
                args[..4].copy_from_slice(&[*map, key, value, rounds.context]);
            }
        }
        rounds.begun += 1;
        let rounds = Some(rounds);
        *self.stacks.caller() = Some(Caller { rounds, ..caller });
        self.regs = [Value::UNINIT; Reg::COUNT];
        self.regs[1..6].copy_from_slice(&args);
        self.regs[Reg::FP.index()] = self.stacks.frame_pointer();
        Flow::Jump(rounds.map_or(0, |rounds| rounds.callback))
    }

    /// The next element's key and value.
    fn element(&mut self, map: Value, walk: &mut Walk) -> Option<[Value; 2]> {
        // SAFETY: the helper's arguments were checked: this is a map's address, and the map lives as long as
        // the run.
        let map = unsafe { &*std::ptr::with_exposed_provenance::<Map>(map.bits as usize) };
        if !walk.next(map, self.env, self.stacks.depth()) {
            return None;
        }
        Some(pair(map, walk.key, walk.value))
    }

    /// The arguments of a callback that gets one element.
    pub(crate) fn element_args(&self, map: u64, key: u64, value: u64) -> [Value; 3] {
        // SAFETY: timers give the address of one of the machine's maps, which the programs keep alive.
        let known = unsafe { &*std::ptr::with_exposed_provenance::<Map>(map as usize) };
        let [key, value] = pair(known, key, value);
        [Value::new(map, Kind::Map), key, value]
    }

    fn rounds_over(&mut self, caller: Caller, begun: u64) -> Flow {
        self.leave(caller);
        self.write(Reg::R0, Value::scalar(begun));
        caller.flow()
    }
}

/// A key that is lent, and the value under it.
fn pair(map: &Map, key: u64, base: u64) -> [Value; 2] {
    let len = map.def().key_size;
    let value = MapValue::of(map.def());
    [
        Value::new(key, Kind::MapKey { base: key, len }),
        Value::new(base, Kind::MapValue { base, value }),
    ]
}

impl Caller {
    fn flow(self) -> Flow {
        Flow::Return {
            program: self.program,
            at: self.at,
        }
    }
}
