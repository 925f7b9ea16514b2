//! Helper calls: arguments checked against the prototype, then the runtime's own function.

use std::sync::Arc;

use squalus_isa::{HelperId, Reg};
use squalus_maps::Map;
use squalus_runtime::{Env, LinkedProgram, Proto, RetKind, TrapReason, helpers, proto};

use crate::machine::{Checked, Flow, Machine};
use crate::value::{Kind, MapValue, Value};

/// What timers know a program by.
pub(crate) fn owner(program: &Arc<LinkedProgram>) -> u64 {
    Arc::as_ptr(program).addr() as u64
}

impl Machine<'_> {
    pub(crate) fn helper(&mut self, id: HelperId) -> Checked<Flow> {
        let proto = proto(id).ok_or(TrapReason::Unsupported)?;
        if self.env.held.is_locked() && id != HelperId::SPIN_UNLOCK {
            return Err(TrapReason::SpinLock);
        }
        let map = self.check_args(proto)?;
        let mut args = self.args();
        if id == HelperId::TIMER_SET_CALLBACK {
            args[2] = owner(&self.programs[self.program]);
        }
        if proto.ret == RetKind::TailCall {
            return Ok(self.tail_call(args));
        }
        if let Some(over) = proto.iterates() {
            return self.iterate(over, map);
        }
        let env: *mut Env = self.env;
        // SAFETY: the environment is this run's; every argument was checked against the prototype.
        let result = unsafe { (proto.function)(env, args[0], args[1], args[2], args[3], args[4]) };
        if let Some(reason) = self.env.trap_reason() {
            return Err(reason);
        }
        let value = self.returned(proto, map, result);
        if proto.changes_packet {
            self.epoch += 1;
        }
        self.after_call(value);
        Ok(Flow::Next)
    }

    pub(crate) fn args(&self) -> [u64; 5] {
        std::array::from_fn(|n| self.regs[n + 1].bits)
    }

    pub(crate) fn after_call(&mut self, r0: Value) {
        self.regs[..6].fill(Value::UNINIT);
        self.write(Reg::R0, r0);
    }

    fn tail_call(&mut self, [ctx, map, index, ..]: [u64; 5]) -> Flow {
        let env: *mut Env = self.env;
        // SAFETY: the environment is this run's; the prototype's check found a program array.
        if unsafe { helpers::resolve_tail_call(env, ctx, map, index, 0, 0) } == 0 {
            self.after_call(Value::UNINIT);
            return Flow::Next;
        }
        Flow::Program(self.env.next_program as usize)
    }

    /// What a helper's result is.
    fn returned(&self, proto: &Proto, map: Option<&Map>, bits: u64) -> Value {
        match (proto.ret, map) {
            (RetKind::MapValueOrNull, Some(map)) if bits != 0 => {
                let def = map.def();
                if def.kind.is_map_in_map() {
                    return Value::new(bits, Kind::Map);
                }
                let value = MapValue::of(def);
                Value::new(bits, Kind::MapValue { base: bits, value })
            }
            (RetKind::RingRecordOrNull, _) if bits != 0 => match self.env.held.record(bits) {
                Some(record) => {
                    let (base, len, id) = (record.address, record.len, record.id);
                    Value::new(bits, Kind::Record { base, len, id })
                }
                None => Value::scalar(bits),
            },
            _ => Value::scalar(bits),
        }
    }
}
