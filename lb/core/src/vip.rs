//! One VIP: its reals and its ring.

use std::collections::BTreeMap;
use std::sync::Arc;

use squalus_abi::maps::name;
use squalus_maglev::{Endpoint, HashFunction, RingSize, ring};

use crate::op::MapOp;
use crate::types::{RealNum, VipNum};

/// What a VIP keeps of a real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VipReal {
    pub weight: u32,
    pub hash: u64,
}

/// A VIP. Cloning shares the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vip {
    pub num: VipNum,
    pub flags: u32,
    pub function: HashFunction,
    pub reals: BTreeMap<RealNum, VipReal>,
    /// What this VIP last had written to `ch_rings`; `None` before the first usable real.
    pub ring: Option<Arc<[u32]>>,
}

impl Vip {
    pub fn new(num: VipNum, flags: u32, function: HashFunction) -> Self {
        Vip {
            num,
            flags,
            function,
            reals: BTreeMap::new(),
            ring: None,
        }
    }

    /// The reals in the order of their hashes, which is katran's order for listing and for taking turns.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = self
            .reals
            .iter()
            .map(|(num, real)| Endpoint {
                num: num.0,
                weight: real.weight,
                hash: real.hash,
            })
            .collect();
        endpoints.sort_unstable_by_key(|e| (e.hash, e.num));
        endpoints
    }

    /// Computes the ring anew and returns the write of the slots that changed.
    ///
    /// Without a usable real the old ring stays, in the program too.
    pub fn refill(&mut self, size: RingSize) -> Option<MapOp> {
        let new = ring(self.function, &self.endpoints(), size)?;
        let changed = changed_slots(self.ring.as_deref(), &new);
        let op = ring_write(self.num, size, changed);
        self.ring = Some(new.into());
        op
    }

    /// The write that brings the ring in the program from `self`'s back to `before`'s.
    pub fn restore_ring(&self, before: &Vip, size: RingSize) -> Option<MapOp> {
        let old = before.ring.as_deref()?;
        ring_write(self.num, size, changed_slots(self.ring.as_deref(), old))
    }
}

/// Slots of `new` that differ from `old`, with what they hold.
fn changed_slots<'a>(
    old: Option<&'a [u32]>,
    new: &'a [u32],
) -> impl Iterator<Item = (u32, u32)> + use<'a> {
    let same = move |slot: usize, num: u32| old.is_some_and(|old| old[slot] == num);
    let slots = new.iter().enumerate();
    slots
        .filter(move |&(slot, &num)| !same(slot, num))
        .map(|(slot, &num)| (slot as u32, num))
}

fn ring_write(
    vip: VipNum,
    size: RingSize,
    slots: impl Iterator<Item = (u32, u32)>,
) -> Option<MapOp> {
    let first = vip.0 * size.get();
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for (slot, num) in slots {
        keys.extend_from_slice(&(first + slot).to_ne_bytes());
        values.extend_from_slice(&num.to_ne_bytes());
    }
    (!keys.is_empty()).then_some(MapOp::UpdateBatch {
        map: name::CH_RINGS,
        keys,
        values,
    })
}
