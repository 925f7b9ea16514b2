//! Checks of a helper's arguments against its prototype.

use squalus_isa::ValueFields;
use squalus_maps::Map;
use squalus_runtime::{
    ArgKind, ArgLen, ArgMemory, MAX_ARG_SIZE, Proto, TrapReason, holds_const_str,
};

use crate::machine::{Checked, Machine};
use crate::value::{Kind, Value};

impl Machine<'_> {
    /// Checks all arguments; returns the map among them. Stack memory that the helper writes holds numbers
    /// from now on.
    pub(crate) fn check_args<'m>(&mut self, proto: &Proto) -> Checked<Option<&'m Map>> {
        let mut map = None;
        for (n, kind) in proto.args.iter().enumerate() {
            let value = self.regs[n + 1];
            if value.kind == Kind::Uninit && *kind != ArgKind::Vararg {
                return Err(TrapReason::Uninitialised);
            }
            self.check_arg(proto, *kind, n, &mut map)?;
        }
        Ok(map)
    }

    fn check_arg(
        &mut self,
        proto: &Proto,
        kind: ArgKind,
        n: usize,
        map: &mut Option<&Map>,
    ) -> Checked<()> {
        let value = self.regs[n + 1];
        let require = |ok: bool| ok.then_some(()).ok_or(TrapReason::Argument);
        match kind {
            ArgKind::Anything | ArgKind::CallbackCtx | ArgKind::Vararg => Ok(()),
            ArgKind::Ctx => require(value == self.ctx()),
            ArgKind::ConstMapPtr => {
                *map = Some(check_map(proto, value)?);
                Ok(())
            }
            ArgKind::Memory(memory) => self.give(memory, n, *map),
            ArgKind::Size { zero } => {
                require(value.is_scalar() && value.bits < MAX_ARG_SIZE && (value.bits != 0 || zero))
            }
            ArgKind::ConstAllocSize => require(value.is_scalar()),
            ArgKind::Callback => require(matches!(value.kind, Kind::Function { .. })),
            ArgKind::SpinLock => require(is_field(value, |fields| fields.spin_lock)),
            ArgKind::Timer => require(is_field(value, |fields| fields.timer)),
            ArgKind::RingRecord => require(self.is_record(value)),
            ArgKind::ConstStr => require(self.is_const_str(value)),
        }
    }

    /// The length that the argument after argument `n` states.
    fn size_after(&self, n: usize) -> Checked<u64> {
        let size = self.regs.get(n + 2).copied().unwrap_or(Value::UNINIT);
        if size.is_scalar() && size.bits < MAX_ARG_SIZE {
            Ok(size.bits)
        } else {
            Err(TrapReason::Argument)
        }
    }

    /// Lets the helper have the memory of argument `n`. Stack memory that it writes holds numbers from now on.
    fn give(&mut self, memory: ArgMemory, n: usize, map: Option<&Map>) -> Checked<()> {
        let value = self.regs[n + 1];
        let def = || map.map(Map::def).ok_or(TrapReason::Argument);
        let len = match memory.len {
            ArgLen::Key => def()?.key_size.into(),
            ArgLen::Value => def()?.value_size.into(),
            ArgLen::Next => self.size_after(n)?,
            ArgLen::Bytes(len) => len.into(),
        };
        if memory.nullable && value == Value::scalar(0) {
            return if len == 0 {
                Ok(())
            } else {
                Err(TrapReason::Argument)
            };
        }
        let len = len as usize;
        if memory.usage.reads() {
            self.place(value, 0, len, false)?;
        }
        if memory.usage.writes() {
            let place = self.place(value, 0, len, true)?;
            if let Some(stack) = place.stack {
                self.stacks.mark(stack, len, Kind::Scalar);
            }
        }
        Ok(())
    }

    fn is_record(&self, value: Value) -> bool {
        let Kind::Record { base, id, .. } = value.kind else {
            return false;
        };
        let held = self.env.held.record(base);
        value.bits == base && held.is_some_and(|record| record.id == id)
    }

    fn is_const_str(&self, value: Value) -> bool {
        let mut maps = self.maps().iter();
        matches!(value.kind, Kind::MapValue { .. })
            && maps.any(|map| holds_const_str(map, value.bits))
    }
}

/// Whether a pointer is that of a special field of a map value.
fn is_field(pointer: Value, field: impl Fn(ValueFields) -> Option<u32>) -> bool {
    match pointer.kind {
        Kind::MapValue { base, value } => {
            field(value.fields).is_some_and(|off| pointer.bits == base + u64::from(off))
        }
        _ => false,
    }
}

fn check_map<'m>(proto: &Proto, value: Value) -> Checked<&'m Map> {
    if value.kind != Kind::Map {
        return Err(TrapReason::Argument);
    }
    // SAFETY: only immediates and lookups in maps of maps make such values. The program keeps its maps
    // alive; the reclaimer keeps inner maps alive until this worker's next quiescent point.
    let map = unsafe { &*std::ptr::with_exposed_provenance::<Map>(value.bits as usize) };
    proto.may_use(map.def())?;
    Ok(map)
}
