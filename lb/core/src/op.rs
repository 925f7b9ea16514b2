//! What a change asks of the maps.

use squalus_abi::{Layout, maps::MapSpec};

/// One operation on a map of the balancer's program. Keys and values are the bytes of `squalus-abi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Create or replace an element.
    Update {
        /// Name of the map.
        map: &'static str,
        /// Key.
        key: Vec<u8>,
        /// Value.
        value: Vec<u8>,
    },
    /// Create or replace many elements.
    UpdateBatch {
        /// Name of the map.
        map: &'static str,
        /// Keys, one after the other.
        keys: Vec<u8>,
        /// Values, one after the other.
        values: Vec<u8>,
    },
    /// Remove an element that is there.
    Delete {
        /// Name of the map.
        map: &'static str,
        /// Key.
        key: Vec<u8>,
    },
    /// Set the values that all CPUs have under the keys from 0 on to zero.
    ZeroPerCpu {
        /// Name of the map, a per-CPU array.
        map: &'static str,
        /// How many keys.
        entries: u32,
    },
    /// Create a map and store it in a map of maps.
    CreateInner {
        /// Name of the map of maps.
        map: &'static str,
        /// Key in the map of maps.
        key: Vec<u8>,
        /// What to create.
        spec: MapSpec,
    },
    /// Create or replace an element of an inner map.
    UpdateInner {
        /// Name of the map of maps.
        map: &'static str,
        /// Key in the map of maps.
        outer_key: Vec<u8>,
        /// Key in the inner map.
        key: Vec<u8>,
        /// Value.
        value: Vec<u8>,
    },
    /// Remove an element of an inner map that is there.
    DeleteInner {
        /// Name of the map of maps.
        map: &'static str,
        /// Key in the map of maps.
        outer_key: Vec<u8>,
        /// Key in the inner map.
        key: Vec<u8>,
    },
}

impl MapOp {
    /// Name of the map, of the outer one for inner maps.
    #[must_use]
    pub const fn map(&self) -> &'static str {
        match self {
            MapOp::Update { map, .. }
            | MapOp::UpdateBatch { map, .. }
            | MapOp::Delete { map, .. }
            | MapOp::ZeroPerCpu { map, .. }
            | MapOp::CreateInner { map, .. }
            | MapOp::UpdateInner { map, .. }
            | MapOp::DeleteInner { map, .. } => map,
        }
    }

    pub(crate) fn update<K: Layout, V: Layout>(map: &'static str, key: &K, value: &V) -> Self {
        MapOp::Update {
            map,
            key: bytes(key),
            value: bytes(value),
        }
    }
}

/// A key's or value's bytes.
pub(crate) fn bytes<T: Layout>(value: &T) -> Vec<u8> {
    let mut out = vec![0; T::SIZE];
    value.write_to(&mut out);
    out
}
