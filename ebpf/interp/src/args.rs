//! Checks of a helper's arguments against its prototype.

use squalus_isa::ValueFields;
use squalus_maps::Map;
use squalus_runtime::{ArgKind, Proto, TrapReason, holds_const_str};

use crate::machine::{Checked, Machine};
use crate::value::{Kind, Value};

/// The longest memory a helper may be given (`BPF_MAX_VAR_SIZ`).
const MAX_SIZE: u64 = 1 << 29;

/// How a helper uses memory it is given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Reads,
    Writes,
    Updates,
}

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
            ArgKind::MapKey => {
                let map = map.ok_or(TrapReason::Argument)?;
                self.give(value, map.def().key_size.into(), Use::Reads)
            }
            ArgKind::MapValue | ArgKind::MapValueOut | ArgKind::MapValueUpdate => {
                let map = map.ok_or(TrapReason::Argument)?;
                let how = match kind {
                    ArgKind::MapValue => Use::Reads,
                    ArgKind::MapValueUpdate => Use::Updates,
                    _ => Use::Writes,
                };
                self.give(value, map.def().value_size.into(), how)
            }
            ArgKind::MemRead { nullable: true } if value == Value::scalar(0) => {
                require(self.size_after(n)? == 0)
            }
            ArgKind::MemRead { .. } => self.give(value, self.size_after(n)?, Use::Reads),
            ArgKind::MemWrite => self.give(value, self.size_after(n)?, Use::Writes),
            ArgKind::MemUpdate => self.give(value, self.size_after(n)?, Use::Updates),
            ArgKind::FixedIn { size } => self.give(value, size.into(), Use::Reads),
            ArgKind::FixedOut { size } => self.give(value, size.into(), Use::Writes),
            ArgKind::FixedUpdate { size } => self.give(value, size.into(), Use::Updates),
            ArgKind::Size { zero } => {
                require(value.is_scalar() && value.bits < MAX_SIZE && (value.bits != 0 || zero))
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
        if size.is_scalar() && size.bits < MAX_SIZE {
            Ok(size.bits)
        } else {
            Err(TrapReason::Argument)
        }
    }

    fn give(&mut self, value: Value, len: u64, how: Use) -> Checked<()> {
        let len = len as usize;
        if how != Use::Writes {
            self.place(value, 0, len, false)?;
        }
        if how != Use::Reads {
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
