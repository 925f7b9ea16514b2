//! What one instruction does to a state.

use std::collections::BTreeSet;

use squalus_isa::{AtomicOp, CallTarget, Decoded, ImmSource, Inst, MapDef, MemSize, Operand, Reg};
use squalus_runtime::{CtxField, LinkedProgram, STACK_SIZE, ctx_field};

use crate::arithmetic::{alu, line_of};
use crate::shape::Shapes;
use crate::solve::{Refusal, Summary};
use crate::value::Base;
use crate::{Access, Area, Cfg, FuncId, Interval, MapRef, Name, Scalar, State, Value};

/// The program under analysis, and what is known so far of its functions.
pub(crate) struct Machine<'a> {
    pub(crate) program: &'a LinkedProgram,
    pub(crate) cfg: &'a Cfg,
    /// Contents of the maps that nobody can change any more.
    pub(crate) frozen: Vec<Option<Vec<u8>>>,
    pub(crate) summaries: Vec<Summary>,
    /// Which maps are alike.
    pub(crate) shapes: Shapes,
    /// Whether some function may be called back where the graph has no edge to it.
    pub(crate) strange_callback: bool,
    /// Instructions whose access is checked in different areas on different paths, so that on each of them
    /// the check must allow any.
    pub(crate) unlike: Vec<bool>,
    /// Index of the instruction.
    pub(crate) at: usize,
    /// What timers may call.
    pub(crate) timer_callbacks: BTreeSet<FuncId>,
}

/// What an instruction does besides changing the state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effect {
    /// Its access to memory.
    pub(crate) access: Option<Access>,
    /// Whether that is at a pointer into the packet's metadata.
    pub(crate) meta: bool,
    /// How many bytes are known to follow the packet pointer it uses.
    pub(crate) room: Option<i64>,
    /// Arguments of a helper that must be checked.
    pub(crate) unproved_args: u8,
    /// Whether execution ends here, or does not come back from a call as far as is known.
    pub(crate) ends: bool,
    /// What is known of the first four bytes of the key of a lookup.
    pub(crate) index: Option<Scalar>,
    /// Whether the function may return here: a tail call puts another program in its place, which returns
    /// what it likes to the function's caller.
    pub(crate) replaced: bool,
    /// What it reads of its own function's frame.
    pub(crate) reads: FrameRead,
    /// Bytes of other functions' frames that it touches and that are known.
    pub(crate) lent: [Option<(FuncId, Interval)>; 2],
    /// Bytes of its own function's frame that it may touch; checked accesses are not counted.
    pub(crate) frame: [Option<Interval>; 2],
}

/// Which bytes of its function's frame an instruction reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum FrameRead {
    /// None.
    #[default]
    None,
    /// Some within these bounds, both included.
    Bytes(Interval),
    /// Those that the functions it calls touch.
    Lent,
    /// Any of any frame of the run.
    AllFrames,
}

/// A memory access as its instruction states it.
#[derive(Clone, Copy)]
struct Place {
    pointer: Value,
    size: u32,
    write: bool,
    atomic: bool,
}

impl Machine<'_> {
    /// Runs the instruction on `state`, jumps aside.
    pub(crate) fn step(
        &mut self,
        func: FuncId,
        state: &mut State,
        decoded: &Decoded,
        n: usize,
    ) -> Result<Effect, Refusal> {
        self.at = n;
        let fresh = Name::Made(decoded.slot as u32);
        match decoded.inst {
            Inst::Alu {
                width,
                op,
                dst,
                src,
            } => alu(state, (width, op), dst, src, fresh),
            Inst::End { kind, bits, dst } => {
                let value = state.reg(dst).scalar().endian(kind, bits);
                state.set_reg(dst, Value::Scalar(value));
            }
            Inst::LoadImm { dst, imm } => state.set_reg(dst, self.immediate(imm)),
            Inst::Load {
                size,
                signed,
                dst,
                base,
                off,
            } => return self.load(func, state, (size, signed), dst, (base, off)),
            Inst::Store {
                size,
                base,
                off,
                src,
            } => return self.store(func, state, size, (base, off), src),
            Inst::Atomic {
                size,
                op,
                fetch,
                base,
                off,
                src,
            } => {
                let result = match op {
                    AtomicOp::CmpXchg => Some(Reg::R0),
                    _ => fetch.then_some(src),
                };
                let write = op != AtomicOp::LoadAcquire;
                return self.atomic(func, state, (size, write), (base, off), result);
            }
            Inst::Call(CallTarget::Helper(id)) => return Ok(self.helper(func, state, id, fresh)),
            Inst::Call(CallTarget::Local(target)) => {
                return Ok(self.local_call(func, state, target, fresh));
            }
            Inst::Call(CallTarget::Kfunc(_)) | Inst::Exit => {
                return Ok(Effect {
                    ends: true,
                    ..Effect::default()
                });
            }
            Inst::Jump { .. } | Inst::JumpIf { .. } | Inst::MayJump { .. } => {}
        }
        Ok(Effect::default())
    }

    /// The definition of a map, as far as it is known which.
    pub(crate) fn def(&self, map: MapRef) -> Option<&MapDef> {
        match map {
            MapRef::Direct(index) => Some(self.program.maps().get(index as usize)?.def()),
            MapRef::Inner(index) => {
                let outer = self.program.maps().get(index as usize)?.def();
                outer.inner.as_deref()
            }
            MapRef::Shaped(shape) => self.shapes.def(shape),
            MapRef::Values(_) => None,
        }
    }

    /// How an access to memory is known to be allowed.
    pub(crate) fn classify(
        &self,
        state: &State,
        pointer: &Value,
        size: i64,
        write: bool,
    ) -> Access {
        let (area, proved) = match pointer {
            Value::Stack { off, .. } => (Area::Stack, off.fits(size, STACK_SIZE as i64)),
            Value::Packet { .. } => (Area::Packet, state.packet_holds(pointer, size)),
            Value::MapValue {
                map,
                off,
                null: None,
            } => {
                let values = self.shapes.values(*map);
                let fits = values.is_some_and(|values| values.allows(*off, size, write));
                (Area::MapValue, fits)
            }
            Value::MapKey { map, off } => {
                let len = self.def(*map).map(|def| def.key_size.into());
                let fits = len.is_some_and(|len| off.fits(size, len));
                (Area::Key, fits && !write)
            }
            Value::Record {
                len,
                off,
                null: None,
            } => (Area::Record, off.fits(size, (*len).into())),
            _ => (Area::Any, false),
        };
        if proved {
            Access::Proved(area)
        } else {
            Access::Checked(area)
        }
    }

    fn immediate(&self, imm: ImmSource) -> Value {
        match imm {
            ImmSource::Value(value) => Value::constant(value),
            ImmSource::Map(map) => Value::Map {
                map: MapRef::Direct(map),
                null: None,
            },
            ImmSource::MapValue { map, offset } => Value::MapValue {
                map: MapRef::Direct(map),
                off: Interval::at(offset.into()),
                null: None,
            },
            ImmSource::Func(slot) => Value::Function(self.function_at(slot)),
        }
    }

    fn access(&self, state: &State, place: Place) -> Result<Access, Refusal> {
        Ok(match self.access_alone(state, place)? {
            Access::Checked(_) if self.unlike[self.at] => Access::Checked(Area::Any),
            access => access,
        })
    }

    /// How the access is known to be allowed on this path.
    fn access_alone(&self, state: &State, place: Place) -> Result<Access, Refusal> {
        if let Value::Ctx(off) = place.pointer {
            if place.write || place.atomic {
                return Err(Refusal::ContextStore);
            }
            let size = match place.size {
                4 => MemSize::W,
                _ => MemSize::Dw,
            };
            let field = (place.size == 4).then(|| ctx_field(off, size)).flatten();
            return field.map(Access::Context).ok_or(Refusal::ContextLoad {
                off,
                size: place.size,
            });
        }
        let (pointer, size) = (&place.pointer, place.size.into());
        let access = self.classify(state, pointer, size, place.write);
        if !place.atomic {
            return Ok(access);
        }
        let access = match access {
            Access::Proved(_) => self.classify(state, pointer, size, false),
            checked => checked,
        };
        let aligned = match place.pointer {
            Value::Stack { off, .. } | Value::MapValue { off, .. } | Value::Record { off, .. } => {
                off.as_constant()
                    .is_some_and(|off| off % i64::from(place.size) == 0)
            }
            _ => false,
        };
        Ok(match access {
            Access::Proved(area) if !aligned => Access::Checked(area),
            other => other,
        })
    }

    fn load(
        &self,
        func: FuncId,
        state: &mut State,
        (size, signed): (MemSize, bool),
        dst: Reg,
        (base, off): (Reg, i16),
    ) -> Result<Effect, Refusal> {
        let pointer = at(state, base, off);
        let bytes = size.bytes();
        let access = self.access(
            state,
            Place {
                pointer,
                size: bytes,
                write: false,
                atomic: false,
            },
        )?;
        // The register would hold a whole pointer, of which no part was sign-extended.
        if let (true, Access::Context(field), Value::Ctx(off)) = (signed, access, pointer)
            && field.is_pointer()
        {
            return Err(Refusal::ContextSign { off });
        }
        let value = self.loaded(func, state, (&pointer, access), (size, signed));
        let room = state.room(&pointer);
        let line = match (access, pointer) {
            (Access::Proved(Area::Stack), Value::Stack { func: owner, off }) if owner == func => {
                off.as_constant()
                    .and_then(|off| state.slot_line(off, bytes))
            }
            _ => None,
        };
        state.set_moving(dst, value, line);
        Ok(Effect {
            room,
            ..touch(func, &pointer, bytes, access)
        })
    }

    /// What a load finds.
    fn loaded(
        &self,
        func: FuncId,
        state: &State,
        (pointer, access): (&Value, Access),
        (size, signed): (MemSize, bool),
    ) -> Value {
        let bytes = size.bytes();
        let any = Value::Scalar(Scalar::of_bytes(bytes));
        let value = match (access, *pointer) {
            (Access::Context(field), _) => context(field),
            (Access::Proved(Area::Stack), Value::Stack { func: owner, off }) => {
                match off.as_constant() {
                    Some(off) if owner == func => state.load(off, bytes),
                    Some(off) => state.load_outer(owner, off, bytes).unwrap_or(any),
                    None => any,
                }
            }
            (Access::Proved(Area::MapValue), Value::MapValue { map, off, .. }) => {
                self.frozen_load(map, off, bytes)
            }
            // It may be the context after all, of which a pointer is read.
            (Access::Checked(Area::Any), _) if bytes == 4 && !signed => Value::TOP,
            _ => any,
        };
        if !signed {
            return value;
        }
        let bits = bytes * 8;
        Value::Scalar(value.scalar().truncate(bits).sign_extend(bits))
    }

    fn frozen_load(&self, map: MapRef, off: Interval, bytes: u32) -> Value {
        let any = Value::Scalar(Scalar::of_bytes(bytes));
        let (MapRef::Direct(map), Some(off)) = (map, off.as_constant()) else {
            return any;
        };
        let Some(Some(contents)) = self.frozen.get(map as usize) else {
            return any;
        };
        let Some(part) = contents.get(off as usize..off as usize + bytes as usize) else {
            return any;
        };
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        Value::constant(u64::from_le_bytes(word))
    }

    fn store(
        &mut self,
        func: FuncId,
        state: &mut State,
        size: MemSize,
        (base, off): (Reg, i16),
        src: Operand,
    ) -> Result<Effect, Refusal> {
        let pointer = at(state, base, off);
        let bytes = size.bytes();
        let access = self.access(
            state,
            Place {
                pointer,
                size: bytes,
                write: true,
                atomic: false,
            },
        )?;
        let value = state.operand(src);
        match (access, pointer) {
            (Access::Proved(Area::Stack), Value::Stack { func: owner, off })
                if owner == func && off.as_constant().is_some() =>
            {
                state.store(off.lo, bytes, value);
                state.set_slot_line(off.lo, bytes, line_of(state, src));
            }
            _ => self.wrote(func, state, &pointer, bytes.into(), access),
        }
        if let (Access::Proved(Area::Stack), Value::Stack { func: owner, off }) = (access, pointer)
            && let (true, Some(off)) = (owner != func, off.as_constant())
        {
            state.store_outer(owner, off, bytes, value);
        }
        let mut effect = touch(func, &pointer, bytes, access);
        effect.room = state.room(&pointer);
        effect.reads = FrameRead::None;
        Ok(effect)
    }

    fn atomic(
        &mut self,
        func: FuncId,
        state: &mut State,
        (size, write): (MemSize, bool),
        (base, off): (Reg, i16),
        result: Option<Reg>,
    ) -> Result<Effect, Refusal> {
        let pointer = at(state, base, off);
        let bytes = size.bytes();
        let access = self.access(
            state,
            Place {
                pointer,
                size: bytes,
                write,
                atomic: true,
            },
        )?;
        if write {
            self.wrote(func, state, &pointer, bytes.into(), access);
        }
        if let Some(reg) = result {
            state.set_reg(reg, Value::Scalar(Scalar::of_bytes(bytes)));
        }
        Ok(touch(func, &pointer, bytes, access))
    }

    /// Forgets what a store of unknown contents may have changed.
    pub(crate) fn wrote(
        &mut self,
        func: FuncId,
        state: &mut State,
        pointer: &Value,
        size: i64,
        access: Access,
    ) {
        match (access, pointer) {
            (Access::Proved(Area::Stack), Value::Stack { func: owner, off }) if *owner == func => {
                state.forget(off.bytes(size));
            }
            (Access::Proved(Area::Stack), Value::Stack { func: owner, off }) => {
                let bytes = off.bytes(size);
                self.summaries[func as usize].writes.add(*owner, bytes);
                state.forget_outer(*owner, bytes);
            }
            (Access::Checked(Area::Stack | Area::Any), _) => {
                self.summaries[func as usize].writes.wild = true;
                state.forget_frames();
            }
            _ => {}
        }
    }
}

/// The effect of an access on what is said of the function's frame.
fn touch(func: FuncId, pointer: &Value, size: u32, access: Access) -> Effect {
    let mut effect = Effect {
        access: Some(access),
        meta: matches!(
            pointer,
            Value::Packet {
                base: Base::Meta,
                ..
            }
        ),
        ..Effect::default()
    };
    match (access, pointer) {
        (Access::Proved(Area::Stack), Value::Stack { func: owner, off }) if *owner == func => {
            let bytes = off.bytes(size.into());
            effect.reads = FrameRead::Bytes(bytes);
            effect.frame[0] = Some(bytes);
        }
        (Access::Proved(Area::Stack), Value::Stack { func: owner, off }) => {
            effect.lent[0] = Some((*owner, off.bytes(size.into())));
        }
        (Access::Checked(Area::Any | Area::Stack), _) => {
            effect.reads = FrameRead::AllFrames;
        }
        _ => {}
    }
    effect
}

/// The address an access uses.
fn at(state: &State, base: Reg, off: i16) -> Value {
    let by = Interval::at(off.into());
    // A constant distance keeps names, so the fresh one is never used.
    state.reg(base).moved(by, Name::Made(u32::MAX))
}

fn context(field: CtxField) -> Value {
    let packet = |base| Value::Packet {
        base,
        off: Interval::at(0),
        name: None,
    };
    match field {
        CtxField::Data => packet(Base::Data),
        CtxField::DataMeta => packet(Base::Meta),
        CtxField::DataEnd => Value::PacketEnd,
        _ => Value::Scalar(Scalar::of_bytes(4)),
    }
}
