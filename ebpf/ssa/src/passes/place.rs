//! Places in memory at a known distance from a base.

use std::ops::Range;

use super::fold::offset;
use crate::ir::{Function, Op, Order, Region, Ty, Value};

/// A range of bytes at a known distance from a base.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) region: Region,
    pub(super) base: Value,
    pub(super) off: i64,
    pub(super) ty: Ty,
}

impl Place {
    /// So many bytes at an address that an access gives.
    pub(super) fn new(function: &Function, region: Region, base: Value, off: i32, ty: Ty) -> Place {
        let (base, distance) = offset(function, base);
        Place {
            region,
            base,
            off: distance.cast_signed().wrapping_add(off.into()),
            ty,
        }
    }

    pub(super) fn bytes(&self) -> Range<i64> {
        self.off..self.off + i64::from(self.ty.bytes())
    }

    /// Whether both are in the same kind of memory, at known distances from each other.
    pub(super) fn is_beside(&self, other: &Place) -> bool {
        self.region == other.region && self.base == other.base
    }

    pub(super) fn may_overlap(&self, function: &Function, other: &Place) -> bool {
        if !self.region.overlaps(other.region) {
            return false;
        }
        let bases = (function.constant(self.base), function.constant(other.base));
        let distance = match bases {
            _ if self.base == other.base => 0,
            // Different numbers are different addresses.
            (Some(a), Some(b)) => b.wrapping_sub(a).cast_signed(),
            _ => return true,
        };
        let (bytes, start) = (self.bytes(), other.off.wrapping_add(distance));
        let end = start.wrapping_add(other.ty.bytes().into());
        bytes.start < end && start < bytes.end
    }

    /// Whether an instruction may change these bytes, or no access to them may be moved past it.
    pub(super) fn may_be_changed_by(&self, function: &Function, inst: Value) -> bool {
        match &function.value(inst).op {
            Op::Store {
                region,
                base,
                off,
                value,
            } => {
                let stored = Place::new(function, *region, *base, *off, function.ty(*value));
                stored.may_overlap(function, self)
            }
            Op::Native { effect, .. } => effect.writes.iter().any(|r| r.overlaps(self.region)),
            // What other threads wrote before may be seen from here on.
            Op::Load { order, .. } => *order != Order::Plain,
            Op::Atomic { .. } | Op::Local { .. } | Op::TailCall(..) => true,
            _ => false,
        }
    }

    pub(super) fn is_followed_by(&self, next: &Place) -> bool {
        self.is_beside(next) && self.ty == next.ty && self.bytes().end == next.off
    }
}

/// Where an ordinary load reads.
pub(super) fn place(function: &Function, load: Value) -> Option<Place> {
    let data = function.value(load);
    let Op::Load {
        region,
        base,
        off,
        order: Order::Plain,
    } = data.op
    else {
        return None;
    };
    Some(Place::new(function, region, base, off, data.ty))
}
