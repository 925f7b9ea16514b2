//! Register values that know what they point to.

use squalus_isa::{MapDef, MapFlags, ValueFields};
use squalus_runtime::touches_fields;

/// What a value is. Only values that the runtime gave out as pointers are pointers; numbers never become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Never written.
    Uninit,
    /// A number.
    Scalar,
    /// The context.
    Ctx,
    /// Into the packet, from before or after adjustment number `epoch`.
    Packet { epoch: u32 },
    /// Into the packet's metadata.
    Meta { epoch: u32 },
    /// The end of the packet: for comparisons only.
    PacketEnd,
    /// Into the stack of the call with this number.
    Stack { call: u64 },
    /// Into the map value at `base`.
    MapValue { base: u64, value: MapValue },
    /// A map.
    Map,
    /// A subprogram of the running program, by its slot.
    Function { slot: usize },
    /// Into a key of `len` bytes at `base`, lent to a callback: for reading only.
    MapKey { base: u64, len: u32 },
    /// Into the record number `id` that the run reserved in a ring buffer: `len` bytes at `base`.
    Record { base: u64, len: u64, id: u64 },
}

/// What a program may do with a map value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapValue {
    pub len: u32,
    pub readable: bool,
    pub writable: bool,
    pub fields: ValueFields,
}

impl MapValue {
    pub fn of(def: &MapDef) -> MapValue {
        MapValue {
            len: def.value_size,
            readable: !def.flags.contains(MapFlags::WRONLY_PROG),
            writable: !def.flags.contains(MapFlags::RDONLY_PROG),
            fields: def.fields,
        }
    }

    /// Whether `len` bytes at offset `off` touch what only helpers may use.
    pub fn is_special(&self, off: u64, len: usize) -> bool {
        let off = off.cast_signed();
        !self.fields.is_empty() && touches_fields(self.fields, off, off + len as i64)
    }
}

/// A register or a spilled register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub bits: u64,
    pub kind: Kind,
}

impl Value {
    pub const UNINIT: Value = Value {
        bits: 0,
        kind: Kind::Uninit,
    };

    pub const fn scalar(bits: u64) -> Value {
        Value {
            bits,
            kind: Kind::Scalar,
        }
    }

    pub const fn new(bits: u64, kind: Kind) -> Value {
        Value { bits, kind }
    }

    pub const fn is_scalar(self) -> bool {
        matches!(self.kind, Kind::Scalar)
    }

    /// Whether adding a number gives a pointer to the same object.
    const fn moves(self) -> bool {
        matches!(
            self.kind,
            Kind::Ctx
                | Kind::Packet { .. }
                | Kind::Meta { .. }
                | Kind::Stack { .. }
                | Kind::MapValue { .. }
                | Kind::MapKey { .. }
                | Kind::Record { .. }
        )
    }

    /// What `self + other` points to.
    pub const fn sum_kind(self, other: Value) -> Kind {
        if self.moves() && other.is_scalar() {
            self.kind
        } else if self.is_scalar() && other.moves() {
            other.kind
        } else {
            Kind::Scalar
        }
    }

    /// What `self - other` points to.
    pub const fn difference_kind(self, other: Value) -> Kind {
        if self.moves() && other.is_scalar() {
            self.kind
        } else {
            Kind::Scalar
        }
    }
}
