//! A map's contents, for whoever puts them into code.
//!
//! Nothing here keeps writers away: what is read may change, or be half of a write that is going on. A
//! [`WriteHook`](crate::WriteHook) tells whether there was one.

use std::sync::Arc;

use squalus_isa::MapType;

use crate::sync::atomic::{AtomicU8, Ordering};
use crate::{HashLayout, Kind, Map};

/// Contents of arrays, hashes (neither LRU nor per-CPU) and arrays of maps: they are the same for all CPUs, and
/// lookups leave them as they are.
impl Map {
    /// Whether there can be an answer to the questions below.
    #[must_use]
    pub const fn shows_contents(&self) -> bool {
        matches!(
            self.def.kind,
            MapType::Array | MapType::Hash | MapType::ArrayOfMaps
        )
    }

    /// The value at an address, 1 to 8 bytes long, if it lies in one value of an array or a hash.
    #[must_use]
    pub fn peek_value(&self, address: usize, len: usize) -> Option<u64> {
        let holds = matches!(self.kind, Kind::Array(_) | Kind::Hash(_));
        if !holds || len > 8 || !self.contains(address, len) {
            return None;
        }
        let mut bytes = [0; 8];
        for (n, byte) in bytes.iter_mut().take(len).enumerate() {
            let at = std::ptr::with_exposed_provenance::<AtomicU8>(address + n);
            // SAFETY: the byte lies in a value, which is memory as long as the map lives; others change it
            // atomically.
            *byte = unsafe { &*at }.load(Ordering::Relaxed);
        }
        Some(u64::from_ne_bytes(bytes))
    }

    /// Where the values of all elements begin, of an array or a hash with at most so many elements.
    #[must_use]
    pub fn value_addresses(&self, most: usize) -> Option<Vec<usize>> {
        match &self.kind {
            Kind::Array(array) if self.def.max_entries as usize <= most => {
                let place = array.base();
                let address = |n: u32| place.base + n as usize * place.stride;
                Some((0..place.entries).map(address).collect())
            }
            Kind::Hash(_) => {
                let entries = self.hash_entries(most)?;
                Some(entries.into_iter().map(|(_, value)| value).collect())
            }
            _ => None,
        }
    }

    /// The keys of a hash with at most so many elements, as words of 8 bytes, the last one filled up with zeros,
    /// and where their values begin.
    #[must_use]
    pub fn hash_entries(&self, most: usize) -> Option<Vec<(Vec<u64>, usize)>> {
        let Kind::Hash(hash) = &self.kind else {
            return None;
        };
        if hash.len() as usize > most {
            return None;
        }
        hash.places(most)
    }

    /// The inner map whose reference an array of maps keeps at an address.
    #[must_use]
    pub fn inner_at(&self, address: usize) -> Option<Arc<Map>> {
        let Kind::MapArray(maps) = &self.kind else {
            return None;
        };
        let place = maps.base();
        let offset = address.checked_sub(place.base)?;
        if !offset.is_multiple_of(place.stride) {
            return None;
        }
        maps.get(u32::try_from(offset / place.stride).ok()?)
    }

    /// What compiled code would load from the map's [`HashLayout`], of a hash.
    #[must_use]
    pub fn layout_word(&self, offset: usize) -> Option<u64> {
        let layout = std::ptr::from_ref(self.hash_layout()?).cast::<u64>();
        let inside = offset.is_multiple_of(8) && offset < size_of::<HashLayout>();
        // SAFETY: the layout is words only, and the offset that of one of them.
        inside.then(|| unsafe { layout.add(offset / 8).read() })
    }
}

#[cfg(test)]
mod tests {
    use squalus_isa::{MapDef, UpdateFlags};

    use super::*;
    use crate::MapEnv;

    fn map(kind: MapType, key_size: u32, value_size: u32) -> Arc<Map> {
        let inner = MapDef::new("inner", MapType::Hash, (4, 4), 4);
        let def = MapDef {
            name: "m".to_owned(),
            kind,
            key_size,
            value_size,
            max_entries: 4,
            inner: (kind == MapType::ArrayOfMaps).then(|| Box::new(inner.clone())),
            ..inner
        };
        Map::new(&def, &MapEnv::with_seed(2, 1)).unwrap()
    }

    #[test]
    fn values_are_read_where_lookups_say() {
        let array = map(MapType::Array, 4, 12);
        let value: Vec<u8> = (1..=12).collect();
        array
            .sys_update(&2u32.to_ne_bytes(), &value, UpdateFlags::ANY)
            .unwrap();
        let all = array.value_addresses(4).unwrap();
        assert_eq!(all.len(), 4);
        // SAFETY: the key has 4 bytes.
        let found = unsafe { array.lookup(2u32.to_ne_bytes().as_ptr(), 0) };
        assert_eq!(all[2], found as usize);
        assert_eq!(array.peek_value(all[2] + 3, 2), Some(0x0504));
        assert_eq!(array.peek_value(all[2] + 8, 4), Some(0x0c0b_0a09));
        // Beyond the value, and beyond the map.
        assert_eq!(array.peek_value(all[2] + 8, 8), None);
        assert_eq!(array.peek_value(all[0] - 8, 4), None);
        assert_eq!(array.value_addresses(3), None);
    }

    #[test]
    fn a_hash_lists_what_it_holds() {
        let hash = map(MapType::Hash, 12, 4);
        let key: Vec<u8> = (1..=12).collect();
        assert_eq!(hash.hash_entries(4), Some(Vec::new()));
        hash.sys_update(&key, &[7; 4], UpdateFlags::ANY).unwrap();
        hash.sys_update(&[0; 12], &[8; 4], UpdateFlags::ANY)
            .unwrap();
        let mut entries = hash.hash_entries(2).unwrap();
        entries.sort();
        assert_eq!(entries[0].0, [0, 0]);
        assert_eq!(entries[1].0, [0x0807_0605_0403_0201, 0x0c0b_0a09]);
        assert_eq!(hash.peek_value(entries[1].1, 4), Some(0x0707_0707));
        assert_eq!(hash.hash_entries(1), None);
    }

    #[test]
    fn inner_maps_are_found_at_their_cells() {
        let outer = map(MapType::ArrayOfMaps, 4, 4);
        let inner = map(MapType::Hash, 4, 4);
        outer
            .set_inner(&1u32.to_ne_bytes(), Arc::clone(&inner))
            .unwrap();
        let place = outer.array_base().unwrap();
        assert!(outer.inner_at(place.base).is_none());
        let found = outer.inner_at(place.base + place.stride).unwrap();
        assert!(Arc::ptr_eq(&found, &inner));
        assert!(outer.inner_at(place.base + 1).is_none());
        assert!(outer.inner_at(place.base + 4 * place.stride).is_none());
    }

    #[test]
    fn maps_with_values_of_each_cpu_show_nothing() {
        for kind in [MapType::PerCpuArray, MapType::LruHash, MapType::PerCpuHash] {
            assert!(!map(kind, 4, 8).shows_contents());
        }
        assert!(map(MapType::Hash, 4, 8).shows_contents());
    }
}
