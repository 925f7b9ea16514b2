//! What calls of helpers and subprograms do to a state.

use squalus_isa::{HelperId, MapType, Reg, ValueFields};
use squalus_runtime::{ArgKind, ArgLen, ArgMemory, Proto, RetKind, STACK_SIZE, Usage, proto};

use crate::machine::{Effect, FrameRead, Machine};
use crate::{Access, Area, FuncId, Interval, MapRef, Name, Scalar, State, Value};

/// The register of argument `n`, from 0.
pub(crate) fn arg(n: usize) -> Reg {
    Reg::new(n as u8 + 1).expect("helpers take five arguments at most")
}

/// Memory that a helper reads or writes.
struct Memory {
    pointer: Value,
    len: i64,
    access: Access,
    usage: Usage,
}

impl Machine<'_> {
    pub(crate) fn helper(
        &mut self,
        func: FuncId,
        state: &mut State,
        id: HelperId,
        fresh: Name,
    ) -> Effect {
        let Some(proto) = proto(id) else {
            return Effect {
                ends: true,
                ..Effect::default()
            };
        };
        let mut effect = Effect::default();
        for (n, kind) in proto.args.iter().enumerate() {
            if !self.argument_proved(state, proto, n, *kind) {
                effect.unproved_args |= 1 << n;
            }
            if let ArgKind::Memory(memory) = kind
                && let Some(memory) = self.memory(state, n, *memory)
            {
                self.touch_memory(func, state, &memory, &mut effect);
            }
        }
        if proto.follows_pointers() {
            effect.reads = FrameRead::AllFrames;
        }
        if proto.ret == RetKind::TailCall && func != 0 {
            effect.replaced = true;
            self.summaries[func as usize].writes.wild = true;
        }
        if proto.id == HelperId::MAP_LOOKUP_ELEM {
            effect.index = key_on_stack(state);
        }
        if let Some(over) = proto.iterates() {
            self.call_back(func, state, over, &mut effect);
        }
        if id == HelperId::TIMER_SET_CALLBACK {
            self.call_later(func, state);
        }
        let result = self.result(state, proto, fresh);
        if proto.changes_packet {
            state.packet_moved();
        }
        if proto.args.contains(&ArgKind::RingRecord) {
            state.records_released();
        }
        state.retire(fresh);
        state.set_reg(Reg::R0, result);
        for n in 0..5 {
            state.set_reg(arg(n), Value::TOP);
        }
        effect
    }

    /// Whether the helper may use the map: its type and its flags allow it.
    fn map_allowed(&self, proto: &Proto, map: MapRef) -> bool {
        if proto.id == HelperId::MAP_LOOKUP_PERCPU_ELEM && matches!(map, MapRef::Shaped(_)) {
            return false;
        }
        self.def(map).is_some_and(|def| proto.may_use(def).is_ok())
    }

    fn argument_proved(&self, state: &State, proto: &Proto, n: usize, kind: ArgKind) -> bool {
        let value = state.reg(arg(n));
        match kind {
            ArgKind::Anything | ArgKind::Vararg => true,
            ArgKind::Ctx => value == Value::Ctx(0),
            ArgKind::ConstMapPtr => matches!(value, Value::Map { map, null: None }
                if self.map_allowed(proto, map)),
            ArgKind::Size { zero } => zero || value.scalar().umin > 0,
            ArgKind::Memory(memory) if memory.nullable && value == Value::constant(0) => {
                state.reg(arg(n + 1)).scalar().as_constant() == Some(0)
            }
            ArgKind::Memory(memory) => self
                .memory(state, n, memory)
                .is_some_and(|memory| memory.access.is_proved()),
            ArgKind::CallbackCtx | ArgKind::ConstAllocSize => true,
            ArgKind::SpinLock => self.is_field(value, |fields| fields.spin_lock),
            ArgKind::Timer => self.is_field(value, |fields| fields.timer),
            ArgKind::ConstStr => self.is_const_str(value),
            // Compiled code looks at the address when it calls back.
            ArgKind::Callback => true,
            ArgKind::RingRecord => matches!(value, Value::Record { off, null: None, .. }
                if off == Interval::at(0)),
        }
    }

    /// Whether a pointer is that of a special field of a map value.
    pub(crate) fn is_field(
        &self,
        pointer: Value,
        field: impl Fn(ValueFields) -> Option<u32>,
    ) -> bool {
        let Value::MapValue {
            map,
            off,
            null: None,
        } = pointer
        else {
            return false;
        };
        let def = self.def(map);
        let at = def.and_then(|def| field(def.fields)).map(i64::from);
        at.is_some_and(|at| off.as_constant() == Some(at))
    }

    /// Whether a pointer is that of a string in a map that nobody can change any more.
    fn is_const_str(&self, pointer: Value) -> bool {
        let Value::MapValue {
            map: MapRef::Direct(map),
            off,
            null: None,
        } = pointer
        else {
            return false;
        };
        let contents = self.frozen.get(map as usize).and_then(Option::as_ref);
        let (Some(contents), Some(off)) = (contents, off.as_constant()) else {
            return false;
        };
        let rest = usize::try_from(off)
            .ok()
            .and_then(|off| contents.get(off..));
        rest.is_some_and(|rest| rest.contains(&0))
    }

    /// The memory that argument `n` names, unless it is known to be null.
    fn memory(&self, state: &State, n: usize, kind: ArgMemory) -> Option<Memory> {
        let (pointer, usage) = (state.reg(arg(n)), kind.usage);
        if kind.nullable && pointer == Value::constant(0) {
            return None;
        }
        let map = match state.reg(Reg::R1) {
            Value::Map { map, .. } => self.def(map),
            _ => None,
        };
        let len = match kind.len {
            ArgLen::Key => map.map(|def| def.key_size),
            ArgLen::Value => map.map(|def| def.value_size),
            ArgLen::Next => u32::try_from(state.reg(arg(n + 1)).scalar().umax).ok(),
            ArgLen::Bytes(len) => Some(len),
        };
        let access = match len {
            Some(len) => self.reach(state, &pointer, len.into(), usage),
            None => Access::Checked(Area::Any),
        };
        Some(Memory {
            pointer,
            len: len.unwrap_or(0).into(),
            access,
            usage,
        })
    }

    /// How an access that reads, writes or both is known to be allowed.
    fn reach(&self, state: &State, pointer: &Value, len: i64, usage: Usage) -> Access {
        let access = self.classify(state, pointer, len, usage.writes());
        if usage == Usage::Updates && access.is_proved() {
            return self.classify(state, pointer, len, false);
        }
        access
    }

    fn touch_memory(
        &mut self,
        func: FuncId,
        state: &mut State,
        memory: &Memory,
        effect: &mut Effect,
    ) {
        // An argument that is not proved is checked by address alone: it may be in any area.
        let access = match memory.access {
            Access::Checked(_) => Access::Checked(Area::Any),
            proved => proved,
        };
        let own = match memory.pointer {
            Value::Stack { func: owner, off } if owner == func => Some(off),
            _ => None,
        };
        if let (Some(off), true) = (own, access.is_proved()) {
            let free = usize::from(effect.frame[0].is_some());
            effect.frame[free] = Some(off.bytes(memory.len));
        }
        if let (Value::Stack { func: owner, off }, None) = (memory.pointer, own) {
            let free = usize::from(effect.lent[0].is_some());
            effect.lent[free] = Some((owner, off.bytes(memory.len)));
        }
        if memory.usage.writes() {
            self.wrote(func, state, &memory.pointer, memory.len, access);
        }
        if !memory.usage.reads() {
            return;
        }
        if !access.is_proved() {
            effect.reads = FrameRead::AllFrames;
        } else if let (Some(off), FrameRead::None | FrameRead::Bytes(_)) = (own, effect.reads) {
            let bytes = off.bytes(memory.len);
            effect.reads = FrameRead::Bytes(match effect.reads {
                FrameRead::Bytes(before) => before.hull(bytes),
                _ => bytes,
            });
        }
    }

    fn result(&self, state: &State, proto: &Proto, fresh: Name) -> Value {
        match proto.ret {
            RetKind::MapValueOrNull => self.looked_up(state, proto.id, fresh),
            RetKind::Scalar => match proto.id {
                HelperId::GET_SMP_PROCESSOR_ID | HelperId::GET_PRANDOM_U32 => {
                    Value::Scalar(Scalar::of_bytes(4))
                }
                _ => Value::TOP,
            },
            RetKind::TailCall => Value::TOP,
            RetKind::RingRecordOrNull => reserved(state, proto, fresh),
        }
    }

    fn looked_up(&self, state: &State, id: HelperId, fresh: Name) -> Value {
        let Value::Map { map, null: None } = state.reg(Reg::R1) else {
            return Value::TOP;
        };
        let Some(def) = self.def(map) else {
            return Value::TOP;
        };
        if def.kind.is_map_in_map() {
            return match map {
                MapRef::Direct(outer) => Value::Map {
                    map: MapRef::Inner(outer),
                    null: Some(fresh),
                },
                _ => Value::TOP,
            };
        }
        let present = id == HelperId::MAP_LOOKUP_ELEM
            && matches!(map, MapRef::Direct(_))
            && matches!(def.kind, MapType::Array | MapType::PerCpuArray)
            && key_on_stack(state).is_some_and(|key| key.umax < def.max_entries.into());
        Value::MapValue {
            map,
            off: Interval::at(0),
            null: (!present).then_some(fresh),
        }
    }

    pub(crate) fn local_call(
        &mut self,
        func: FuncId,
        state: &mut State,
        target: usize,
        fresh: Name,
    ) -> Effect {
        let callee = self.function_at(target);
        let args = (0..5).map(|n| state.reg(arg(n)));
        let passes_stack = args.into_iter().any(|v| matches!(v, Value::Stack { .. }));
        let mut effect = Effect {
            reads: if passes_stack {
                FrameRead::Lent
            } else {
                FrameRead::None
            },
            ..Effect::default()
        };
        self.enter(Some(func), state, callee);
        let Some(exit) = self.summaries[callee as usize].exit.clone() else {
            effect.ends = true;
            return effect;
        };
        self.called(func, state, callee, Some(&exit));
        state.learn_bounds_of(&exit);
        state.retire(fresh);
        state.set_reg(Reg::R0, exit.reg(Reg::R0).renamed(Some(fresh)));
        for n in 0..5 {
            state.set_reg(arg(n), Value::TOP);
        }
        effect
    }

    /// Notes that `callee` is called in `state`, with the arguments in its registers; by `caller`, if it is called
    /// once and returns to that function.
    pub(crate) fn enter(&mut self, caller: Option<FuncId>, state: &State, callee: FuncId) {
        // The frame of a function that has several at once is not known.
        let recursive = |func: FuncId| self.cfg.is_recursive(func);
        let caller = caller.filter(|&caller| !recursive(caller) && !recursive(callee));
        let mut entry = state.callee(callee, caller);
        if self.cfg.is_recursive(callee) {
            for n in 0..5 {
                entry.set_reg(arg(n), Value::TOP);
            }
        }
        self.summaries[callee as usize].calls.push(entry);
    }

    /// Does to the caller's state what `callee` may do, but for its result.
    /// `exit` is the state in which it returned, if it was called once.
    pub(crate) fn called(
        &mut self,
        func: FuncId,
        state: &mut State,
        callee: FuncId,
        exit: Option<&State>,
    ) {
        let summary = &self.summaries[callee as usize];
        if summary.moves_packet {
            state.packet_moved();
        }
        if summary.releases_records {
            state.records_released();
        }
        let writes = summary.writes.clone();
        let own = &mut self.summaries[func as usize].writes;
        if writes.wild {
            own.wild = true;
            state.forget_frames();
        }
        for (owner, (lo, hi)) in writes.known {
            let bytes = Interval { lo, hi };
            state.take_frame(func, owner, bytes, exit);
            if owner != func {
                own.add(owner, bytes);
            }
        }
    }

    pub(crate) fn function_at(&self, slot: usize) -> FuncId {
        let subs = self.program.subprograms();
        (subs.partition_point(|sub| sub.start <= slot) - 1) as FuncId
    }
}

/// What a reservation in a ring buffer gives, if its length is known.
fn reserved(state: &State, proto: &Proto, fresh: Name) -> Value {
    let size = proto
        .args
        .iter()
        .position(|kind| *kind == ArgKind::ConstAllocSize);
    let size = size.map(|n| state.reg(arg(n)).scalar());
    let len = size.and_then(|size| u32::try_from(size.as_constant()?).ok());
    len.map_or(Value::TOP, |len| Value::Record {
        len,
        off: Interval::at(0),
        null: Some(fresh),
    })
}

/// The four-byte key that a lookup's second argument points to, if it is on the function's own stack.
fn key_on_stack(state: &State) -> Option<Scalar> {
    let (Value::Stack { func, off }, Value::Stack { func: own, .. }) =
        (state.reg(Reg::R2), state.reg(Reg::FP))
    else {
        return None;
    };
    let off = off.as_constant()?;
    (func == own && Interval::at(off).fits(4, STACK_SIZE as i64))
        .then(|| state.load(off, 4).scalar())
}
