//! What is known of a register or a stack slot: a number, or a pointer into a region.

use crate::Scalar;
use crate::nest::Loop;
use crate::shape::Shapes;

/// A function of the program: 0 is the program itself, others are its subprograms.
pub type FuncId = u32;

/// Greatest distance from a region's base that is tracked. No frame or map value is as long, and no
/// address plus twice this distance wraps around.
pub const MAX_OFFSET: i64 = 1 << 40;

/// A range of offsets in bytes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Least offset.
    pub lo: i64,
    /// Greatest offset.
    pub hi: i64,
}

impl Interval {
    /// One offset.
    #[must_use]
    pub const fn at(offset: i64) -> Interval {
        Interval {
            lo: offset,
            hi: offset,
        }
    }

    /// The offset, if there is only one.
    #[must_use]
    pub const fn as_constant(self) -> Option<i64> {
        if self.lo == self.hi {
            Some(self.lo)
        } else {
            None
        }
    }

    /// Both moved; `None` if that leaves what is tracked.
    #[must_use]
    pub fn shift(self, by: Interval) -> Option<Interval> {
        let lo = self.lo.checked_add(by.lo)?;
        let hi = self.hi.checked_add(by.hi)?;
        (lo >= -MAX_OFFSET && hi <= MAX_OFFSET).then_some(Interval { lo, hi })
    }

    /// The offset moved backwards.
    #[must_use]
    pub fn negated(self) -> Interval {
        Interval {
            lo: -self.hi,
            hi: -self.lo,
        }
    }

    /// The smallest range that holds both.
    #[must_use]
    pub fn hull(self, other: Interval) -> Interval {
        Interval {
            lo: self.lo.min(other.lo),
            hi: self.hi.max(other.hi),
        }
    }

    /// The bytes that an access to `size` bytes at one of the offsets may touch.
    pub(crate) const fn bytes(self, size: i64) -> Interval {
        Interval {
            lo: self.lo,
            hi: self.hi + size - 1,
        }
    }

    /// Whether `size` bytes at any of the offsets lie in `0..len`.
    #[must_use]
    pub const fn fits(self, size: i64, len: i64) -> bool {
        self.lo >= 0 && size <= len && self.hi <= len - size
    }

    /// A hull whose moved ends jump far, so that chains of joins end.
    fn widened(self, other: Interval) -> Interval {
        const STEPS: [i64; 3] = [0xff, 0xffff, 1 << 32];
        let hull = self.hull(other);
        let out = |x: i64| STEPS.into_iter().find(|&s| s >= x).unwrap_or(MAX_OFFSET);
        Interval {
            lo: match hull.lo {
                lo if lo == self.lo => lo,
                0.. => 0,
                lo => -out(-lo),
            },
            hi: if hull.hi == self.hi {
                hull.hi
            } else {
                out(hull.hi)
            },
        }
    }

    /// The offsets a number can be, if it is small enough to be one.
    #[must_use]
    pub fn of_scalar(scalar: &Scalar) -> Option<Interval> {
        let (lo, hi) = (scalar.smin, scalar.smax);
        (lo >= -MAX_OFFSET && hi <= MAX_OFFSET).then_some(Interval { lo, hi })
    }
}

/// Names a value that several pointers share, so that what is learned of one is known of all.
///
/// In any one state all holders of a name share the same value. Where the named value is made anew,
/// old holders lose the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// Made by the instruction at this slot.
    Made(u32),
    /// Made where paths meet: the value that location `at` has on entry of block `block`.
    Met {
        /// Slot of the block's first instruction.
        block: u32,
        /// Register or stack slot, see [`crate::State`].
        at: u16,
    },
}

/// A map as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapRef {
    /// The map with this index.
    Direct(u32),
    /// Some inner map of the map of maps with this index.
    Inner(u32),
    /// A map of the class with this number: key and value size are known, and whether it is an array, a hash
    /// or something else.
    Shaped(u32),
    /// Some map whose values have at least so many bytes, which programs may read and write.
    Values(u32),
}

/// What a packet pointer is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Start of the packet.
    Data,
    /// Start of the metadata.
    Meta,
}

/// How states are joined.
#[derive(Clone, Copy)]
pub(crate) struct Joining<'a> {
    /// Bounds to widen to, if bounds that moved are to be widened.
    pub(crate) steps: Option<&'a [u64]>,
    /// The loop whose head they are joined at.
    pub(crate) around: Option<&'a Loop>,
    /// Whether to widen also what that loop does not write.
    pub(crate) all: bool,
    /// Which maps are alike.
    pub(crate) shapes: &'a Shapes,
}

impl Joining<'_> {
    /// Offsets from two states.
    fn hull(&self, a: Interval, b: Interval) -> Interval {
        match self.steps {
            Some(_) => a.widened(b),
            None => a.hull(b),
        }
    }
}

/// What is known of a 64-bit value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// A number, or anything at all.
    Scalar(Scalar),
    /// The context, plus an offset.
    Ctx(i64),
    /// The start of a function's stack frame plus an offset; the frame pointer is at offset 512.
    Stack {
        /// Whose frame. Not recursive: it has one frame at most.
        func: FuncId,
        /// Offset from the lowest byte.
        off: Interval,
    },
    /// A pointer into the packet or its metadata.
    Packet {
        /// What it is relative to.
        base: Base,
        /// Offset from the base.
        off: Interval,
        /// Named pointer it is also relative to, and the constant distance from it.
        name: Option<(Name, i64)>,
    },
    /// The end of the packet.
    PacketEnd,
    /// A map.
    Map {
        /// Which.
        map: MapRef,
        /// Set if it can be null instead; pointers of one name are null together.
        null: Option<Name>,
    },
    /// An address inside a value of a map.
    MapValue {
        /// Which map.
        map: MapRef,
        /// Offset into the value.
        off: Interval,
        /// Set if it can be null instead (the offset is 0 then); pointers of one name are null together.
        null: Option<Name>,
    },
    /// The address of a subprogram.
    Function(FuncId),
    /// An address inside a key that a callback was lent; it can only be read.
    MapKey {
        /// Which map.
        map: MapRef,
        /// Offset into the key.
        off: Interval,
    },
    /// An address inside a record that was reserved in a ring buffer and not given back.
    Record {
        /// How many bytes were reserved.
        len: u32,
        /// Offset into the record.
        off: Interval,
        /// Set if it can be null instead (the offset is 0 then); pointers of one name are null together.
        null: Option<Name>,
    },
}

impl Value {
    /// Anything.
    pub const TOP: Value = Value::Scalar(Scalar::TOP);

    /// A known number.
    #[must_use]
    pub const fn constant(value: u64) -> Value {
        Value::Scalar(Scalar::constant(value))
    }

    /// Stands for the kind of value.
    pub(crate) const fn kind(&self) -> u64 {
        let null = self.null_name().is_some() as u64;
        null << 4
            | match self {
                Value::Scalar(_) => 0,
                Value::Ctx(_) => 1,
                Value::Stack { .. } => 2,
                Value::Packet { .. } => 3,
                Value::PacketEnd => 4,
                Value::Map { .. } => 5,
                Value::MapValue { .. } => 6,
                Value::Function(_) => 7,
                Value::MapKey { .. } => 8,
                Value::Record { .. } => 9,
            }
    }

    /// As a number: anything, for pointers.
    #[must_use]
    pub const fn scalar(&self) -> Scalar {
        match self {
            Value::Scalar(scalar) => *scalar,
            _ => Scalar::TOP,
        }
    }

    /// Whether this is a packet pointer of some kind, which an adjustment of the packet makes stale.
    #[must_use]
    pub const fn is_packet(&self) -> bool {
        matches!(self, Value::Packet { .. } | Value::PacketEnd)
    }

    /// Whether the value depends on `name`.
    #[must_use]
    pub fn has_name(&self, name: Name) -> bool {
        match self {
            Value::Packet { name: own, .. } => own.is_some_and(|(own, _)| own == name),
            _ => self.null_name() == Some(name),
        }
    }

    /// The name of a pointer that can be null.
    #[must_use]
    pub const fn null_name(&self) -> Option<Name> {
        match self {
            Value::Map { null, .. } | Value::MapValue { null, .. } | Value::Record { null, .. } => {
                *null
            }
            _ => None,
        }
    }

    /// The value with another name, if it is a pointer that can be null.
    #[must_use]
    pub(crate) const fn with_null(mut self, name: Option<Name>) -> Value {
        if let Value::Map { null, .. } | Value::MapValue { null, .. } | Value::Record { null, .. } =
            &mut self
        {
            *null = name;
        }
        self
    }

    /// Whether this is a pointer that is never null, as long as it is inside what it points into.
    #[must_use]
    pub(crate) fn is_present(&self) -> bool {
        match *self {
            Value::Map { null, .. } => null.is_none(),
            Value::MapValue { null, off, .. } | Value::Record { null, off, .. } => {
                null.is_none() && off.lo >= 0
            }
            Value::MapKey { off, .. } => off.lo >= 0,
            Value::Function(_) => true,
            _ => false,
        }
    }

    /// The value without its name; what needs one (a pointer that can be null) takes `fresh`, or is
    /// forgotten if there is none.
    #[must_use]
    pub fn renamed(self, fresh: Option<Name>) -> Value {
        match self {
            Value::Packet { base, off, .. } => Value::Packet {
                base,
                off,
                name: None,
            },
            _ if self.null_name().is_none() => self,
            _ if fresh.is_none() => Value::TOP,
            _ => self.with_null(fresh),
        }
    }

    /// The pointer moved by `by` bytes: a constant distance keeps its name, another gets `fresh`.
    /// A result outside what is tracked is anything.
    #[must_use]
    pub fn moved(self, by: Interval, fresh: Name) -> Value {
        let constant = by.as_constant();
        let moved = match self {
            Value::Ctx(off) => constant
                .and_then(|c| Interval::at(off).shift(Interval::at(c)))
                .map(|off| Value::Ctx(off.lo)),
            Value::Stack { func, off } => off.shift(by).map(|off| Value::Stack { func, off }),
            Value::Packet { base, off, name } => off.shift(by).map(|off| Value::Packet {
                base,
                off,
                name: match constant {
                    Some(c) => name.map(|(name, delta)| (name, delta + c)),
                    None => (base == Base::Data).then_some((fresh, 0)),
                },
            }),
            Value::MapValue {
                map,
                off,
                null: None,
            } => off.shift(by).map(|off| Value::MapValue {
                map,
                off,
                null: None,
            }),
            Value::MapKey { map, off } => off.shift(by).map(|off| Value::MapKey { map, off }),
            Value::Record {
                len,
                off,
                null: None,
            } => off.shift(by).map(|off| Value::Record {
                len,
                off,
                null: None,
            }),
            Value::MapValue { .. } | Value::Record { .. } if constant == Some(0) => Some(self),
            _ => None,
        };
        moved.unwrap_or(Value::TOP)
    }

    /// Where the number lies, or how far the pointer from what it points into.
    #[must_use]
    pub(crate) fn extent(&self) -> Option<Interval> {
        match *self {
            Value::Scalar(s) => Some(Interval {
                lo: s.smin,
                hi: s.smax,
            }),
            Value::Stack { off, .. }
            | Value::Packet { off, .. }
            | Value::MapKey { off, .. }
            | Value::MapValue {
                off, null: None, ..
            }
            | Value::Record {
                off, null: None, ..
            } => Some(off),
            _ => None,
        }
    }

    /// The value with the extent it has, given that it lies in a range; `None` if it cannot.
    #[must_use]
    pub(crate) fn within(mut self, range: Interval) -> Option<Value> {
        match &mut self {
            Value::Scalar(scalar) => {
                let range = Scalar {
                    smin: range.lo,
                    smax: range.hi,
                    ..Scalar::TOP
                };
                *scalar = scalar.intersect(&range)?;
            }
            Value::Stack { off, .. }
            | Value::Packet { off, .. }
            | Value::MapKey { off, .. }
            | Value::MapValue {
                off, null: None, ..
            }
            | Value::Record {
                off, null: None, ..
            } => {
                off.lo = off.lo.max(range.lo);
                off.hi = off.hi.min(range.hi);
                if off.lo > off.hi {
                    return None;
                }
            }
            _ => {}
        }
        Some(self)
    }

    /// The pointer, anywhere in a range; `None` if that is longer than what is tracked.
    #[must_use]
    pub(crate) fn anywhere_in(mut self, range: Interval) -> Option<Value> {
        if let Value::Stack { off, .. }
        | Value::Packet { off, .. }
        | Value::MapKey { off, .. }
        | Value::MapValue { off, .. }
        | Value::Record { off, .. } = &mut self
        {
            *off = range;
        }
        (-MAX_OFFSET <= range.lo && range.hi <= MAX_OFFSET).then_some(self)
    }

    /// Whether every value in `other` is known to be in this set too, with the same names.
    pub(crate) fn includes(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Scalar(a), _) if *a == Scalar::TOP => true,
            (Value::Scalar(a), Value::Scalar(b)) => a.join(b) == *a,
            (
                Value::Packet { base, off, name },
                Value::Packet {
                    base: other_base,
                    off: other,
                    name: other_name,
                },
            ) => {
                base == other_base
                    && off.hull(*other) == *off
                    && (name.is_none() || name == other_name)
            }
            (
                Value::Stack { func, off },
                Value::Stack {
                    func: f,
                    off: other,
                },
            ) => func == f && off.hull(*other) == *off,
            (
                Value::MapValue {
                    map,
                    off,
                    null: None,
                },
                Value::MapValue {
                    map: other_map,
                    off: other,
                    null: None,
                },
            ) => map == other_map && off.hull(*other) == *off,
            (a, b) => a == b,
        }
    }

    /// What holds of both, apart from names, which [`crate::State`] joins; `at` names what needs a name.
    #[must_use]
    pub(crate) fn join(&self, other: &Value, at: Name, how: &Joining<'_>) -> Value {
        match (*self, *other) {
            (a, b) if a == b => a,
            (Value::Scalar(a), Value::Scalar(b)) => Value::Scalar(match how.steps {
                Some(steps) => a.widen(&b, steps),
                None => a.join(&b),
            }),
            (
                pointer @ (Value::MapValue { off, .. } | Value::Record { off, .. }),
                Value::Scalar(s),
            )
            | (
                Value::Scalar(s),
                pointer @ (Value::MapValue { off, .. } | Value::Record { off, .. }),
            ) if s.as_constant() == Some(0) && off == Interval::at(0) => {
                pointer.with_null(Some(at))
            }
            (a, b) => {
                let joined = join_places(a, b, how).or_else(|| join_nullable(a, b, at, how));
                joined.unwrap_or(Value::TOP)
            }
        }
    }
}

/// Pointers that are never null, into the same memory.
fn join_places(a: Value, b: Value, how: &Joining<'_>) -> Option<Value> {
    Some(match (a, b) {
        (Value::Stack { func, off: a }, Value::Stack { func: f, off: b }) if func == f => {
            Value::Stack {
                func,
                off: how.hull(a, b),
            }
        }
        (
            Value::Packet {
                base,
                off: a,
                name: na,
            },
            Value::Packet {
                base: b_base,
                off: b,
                name: nb,
            },
        ) if base == b_base => Value::Packet {
            base,
            off: how.hull(a, b),
            name: if na == nb { na } else { None },
        },
        (Value::MapKey { map: ma, off: a }, Value::MapKey { map: mb, off: b }) => Value::MapKey {
            map: how.shapes.join(ma, mb)?,
            off: how.hull(a, b),
        },
        _ => return None,
    })
}

/// Pointers that may be null, of the same kind. Two that differ in their offset must both be known not to be.
fn join_nullable(a: Value, b: Value, at: Name, how: &Joining<'_>) -> Option<Value> {
    Some(match (a, b) {
        (Value::Map { map: a, null: na }, Value::Map { map: b, null: nb }) => Value::Map {
            map: how.shapes.join(a, b)?,
            null: join_null(na, nb, at),
        },
        (
            Value::MapValue {
                map: ma,
                off: a,
                null: na,
            },
            Value::MapValue {
                map: mb,
                off: b,
                null: nb,
            },
        ) if a == b || na.is_none() && nb.is_none() => Value::MapValue {
            map: how.shapes.join_values(ma, mb)?,
            off: how.hull(a, b),
            null: join_null(na, nb, at),
        },
        (
            Value::Record {
                len: la,
                off: a,
                null: na,
            },
            Value::Record {
                len: lb,
                off: b,
                null: nb,
            },
        ) if a == b || na.is_none() && nb.is_none() => Value::Record {
            len: la.min(lb),
            off: how.hull(a, b),
            null: join_null(na, nb, at),
        },
        _ => return None,
    })
}

fn join_null(a: Option<Name>, b: Option<Name>, at: Name) -> Option<Name> {
    match (a, b) {
        (None, None) => None,
        (a, b) if a == b => a,
        _ => Some(at),
    }
}

/// An interval as the tail of an address.
struct Tail<'a>(&'a Interval);

impl std::fmt::Debug for Tail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_constant() {
            Some(off) => write!(f, "{off:+}"),
            None => write!(f, "+({}..={})", self.0.lo, self.0.hi),
        }
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let null = |null: &Option<Name>| if null.is_some() { "?" } else { "" };
        match self {
            Value::Scalar(scalar) => scalar.fmt(f),
            Value::Ctx(off) => write!(f, "ctx{off:+}"),
            Value::Stack { func, off } => write!(f, "stack{func}{:?}", Tail(off)),
            Value::Packet { base, off, name } => {
                let base = match base {
                    Base::Data => "data",
                    Base::Meta => "meta",
                };
                write!(f, "{base}{:?}", Tail(off))?;
                match name {
                    Some((name, delta)) => write!(f, " = {name:?}{delta:+}"),
                    None => Ok(()),
                }
            }
            Value::PacketEnd => f.write_str("data_end"),
            Value::Map { map, null: n } => write!(f, "map{} {map:?}", null(n)),
            Value::MapValue { map, off, null: n } => {
                write!(f, "value{} {map:?}{:?}", null(n), Tail(off))
            }
            Value::Function(func) => write!(f, "function{func}"),
            Value::MapKey { map, off } => write!(f, "key {map:?}{:?}", Tail(off)),
            Value::Record { len, off, null: n } => {
                write!(f, "record{} of {len}{:?}", null(n), Tail(off))
            }
        }
    }
}
