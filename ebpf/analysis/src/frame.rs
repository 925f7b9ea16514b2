//! The contents of a stack frame.
//!
//! States are copied at every branch, and most of them differ in few slots or none. So a frame is made of
//! parts that states share until one of them writes.

use std::sync::{Arc, LazyLock};

use squalus_runtime::STACK_SIZE;

use crate::{Interval, Scalar, Value};

/// Slots of eight bytes in a frame.
pub(crate) const SLOTS: usize = STACK_SIZE / 8;
/// Slots in a part.
pub(crate) const PART: usize = 8;
const PARTS: usize = SLOTS / PART;

/// A part of a frame.
pub(crate) type Part = [Value; PART];

static ZEROES: LazyLock<Arc<Part>> = LazyLock::new(|| Arc::new([Value::constant(0); PART]));
static UNKNOWN: LazyLock<Arc<Part>> = LazyLock::new(|| Arc::new([Value::TOP; PART]));
static EMPTY: LazyLock<Frame> = LazyLock::new(|| Frame::of(&ZEROES));
static FORGOTTEN: LazyLock<Frame> = LazyLock::new(|| Frame::of(&UNKNOWN));

/// What is known of the slots of a frame, from its lowest address on.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame(Arc<[Arc<Part>; PARTS]>);

impl Frame {
    fn of(part: &Arc<Part>) -> Frame {
        Frame(Arc::new(std::array::from_fn(|_| Arc::clone(part))))
    }

    /// All zeroes.
    pub(crate) fn zeroed() -> Frame {
        EMPTY.clone()
    }

    /// Nothing known.
    pub(crate) fn unknown() -> Frame {
        FORGOTTEN.clone()
    }

    /// Whether both are one and the same in memory.
    pub(crate) fn is(&self, other: &Frame) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// One slot.
    pub(crate) fn slot(&self, slot: usize) -> Value {
        self.0[slot / PART][slot % PART]
    }

    /// All slots.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().flat_map(|part| part.iter())
    }

    /// The slots of which more is known than that they are zero or anything, and perhaps others.
    pub(crate) fn notable(&self) -> impl Iterator<Item = (usize, &Value)> {
        let notable = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, part)| is_notable(part));
        notable.flat_map(|(n, part)| (n * PART..).zip(part.iter()))
    }

    /// Sets one slot.
    pub(crate) fn set(&mut self, slot: usize, value: Value) {
        if self.slot(slot) != value {
            Arc::make_mut(&mut Arc::make_mut(&mut self.0)[slot / PART])[slot % PART] = value;
        }
    }

    /// Changes the slots that pass a test.
    pub(crate) fn change(
        &mut self,
        test: impl Fn(&Value) -> bool,
        change: impl Fn(Value) -> Value,
    ) {
        for n in 0..PARTS {
            let part = &self.0[n];
            if is_notable(part) && part.iter().any(&test) {
                let part = Arc::make_mut(&mut Arc::make_mut(&mut self.0)[n]);
                part.iter_mut()
                    .filter(|slot| test(slot))
                    .for_each(|slot| *slot = change(*slot));
            }
        }
    }

    /// Whether all slots of `other` are included in those of this frame.
    pub(crate) fn includes(&self, other: &Frame) -> bool {
        let mut parts = self.0.iter().zip(other.0.iter());
        self.is(other)
            || parts.all(|(own, other)| {
                let mut slots = own.iter().zip(other.iter());
                Arc::ptr_eq(own, other) || slots.all(|(own, other)| own.includes(other))
            })
    }

    /// The slots of two frames joined by a function; slots of parts that both share only if they pass `test`.
    pub(crate) fn join(
        &self,
        other: &Frame,
        test: impl Fn(&Value) -> bool,
        mut join: impl FnMut(usize, Value, Value) -> Value,
    ) -> Frame {
        let mut joined = self.clone();
        for n in 0..PARTS {
            let (own, other) = (&self.0[n], &other.0[n]);
            if Arc::ptr_eq(own, other) && !(is_notable(own) && own.iter().any(&test)) {
                continue;
            }
            let part: Part =
                std::array::from_fn(|slot| join(n * PART + slot, own[slot], other[slot]));
            if part != **own {
                Arc::make_mut(&mut joined.0)[n] = Arc::new(part);
            }
        }
        joined
    }

    /// The slots that differ, and perhaps others.
    pub(crate) fn differing(&self, other: &Frame) -> impl Iterator<Item = usize> {
        let differ = (0..PARTS).filter(|&n| !Arc::ptr_eq(&self.0[n], &other.0[n]));
        differ.flat_map(|n| n * PART..(n + 1) * PART)
    }

    /// Reads `size` bytes at `off`, which must be inside.
    pub(crate) fn load(&self, off: i64, size: u32) -> Value {
        let (slot, byte) = (off as usize / 8, (off as usize % 8) as u32);
        match self.slot(slot) {
            value if size == 8 && byte == 0 => value,
            Value::Scalar(whole) if byte + size <= 8 => {
                Value::Scalar(whole.shifted_right(byte * 8).truncate(size * 8))
            }
            _ => Value::Scalar(Scalar::of_bytes(size)),
        }
    }

    /// Writes `size` bytes at `off`, which must be inside.
    pub(crate) fn store(&mut self, off: i64, size: u32, value: Value) {
        let (slot, byte) = (off as usize / 8, (off as usize % 8) as u32);
        if size == 8 && byte == 0 {
            self.set(slot, value);
        } else if byte + size <= 8 {
            let whole = self.slot(slot).scalar();
            let whole = whole.with_bytes(byte, size, &value.scalar());
            self.set(slot, Value::Scalar(whole));
        } else {
            let hi = off + i64::from(size) - 1;
            self.forget(Interval { lo: off, hi });
        }
    }

    /// Forgets the bytes from `bytes.lo` to `bytes.hi`, both included, as far as they are inside.
    pub(crate) fn forget(&mut self, bytes: Interval) {
        slots_of(bytes).for_each(|slot| self.set(slot, Value::TOP));
    }
}

/// Whether the part may hold more than zeroes, or than nothing that is known.
fn is_notable(part: &Arc<Part>) -> bool {
    !Arc::ptr_eq(part, &ZEROES) && !Arc::ptr_eq(part, &UNKNOWN)
}

/// The slots that some bytes are in, as far as they are in the frame.
pub(crate) fn slots_of(bytes: Interval) -> std::ops::Range<usize> {
    let first = bytes.lo.clamp(0, STACK_SIZE as i64) / 8;
    let after = bytes.hi.clamp(-1, STACK_SIZE as i64 - 1).div_euclid(8) + 1;
    first as usize..(after as usize).max(first as usize)
}
