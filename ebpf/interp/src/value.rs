//! Register values that know what they point to.

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
    /// Into a map value of `len` bytes at `base`.
    MapValue { base: u64, len: u32, writable: bool },
    /// A map.
    Map,
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
