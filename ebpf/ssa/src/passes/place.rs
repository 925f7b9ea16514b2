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

    pub(super) fn may_overlap(&self, other: &Place) -> bool {
        let apart = || {
            let (a, b) = (self.bytes(), other.bytes());
            self.base == other.base && (a.end <= b.start || b.end <= a.start)
        };
        self.region.overlaps(other.region) && !apart()
    }

    pub(super) fn is_followed_by(&self, next: &Place) -> bool {
        self.region == next.region
            && self.base == next.base
            && self.ty == next.ty
            && self.bytes().end == next.off
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
