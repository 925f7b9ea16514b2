//! Lookups announced before they are made.
//!
//! A lookup in a table larger than the caches waits twice for memory, one time after the other: for the key's set,
//! and for the entry that the set names. Who knows several keys beforehand asks for all sets, then for all entries,
//! and so waits about as long as for one. All of this is hints: it changes nothing and may be wrong.

use squalus_isa::MapType;

use crate::set::Set;
use crate::{Kind, Map};

/// A lookup that was announced.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// Address of the key's set.
    set: usize,
    tag: u8,
    /// Address of the first slot, and bytes between slots.
    slots: (usize, usize),
}

impl Map {
    /// Asks the processor for the set of `key` in an LRU map; does nothing for other maps, and for keys of another
    /// size.
    ///
    /// # Safety
    /// `key` must be readable for `len` bytes.
    pub unsafe fn look_ahead(&self, key: *const u8, len: usize) -> Option<Ahead> {
        let Kind::Hash(hash) = &self.kind else {
            return None;
        };
        let lru = matches!(self.def.kind, MapType::LruHash | MapType::LruPerCpuHash);
        if !lru || (self.def.key_size as usize).next_multiple_of(8) != len {
            return None;
        }
        // SAFETY: the key is readable for its size, by the check above and the caller's promise.
        let (set, tag) = unsafe { hash.home(key) };
        let set = std::ptr::from_ref(set).expose_provenance();
        prefetch(set);
        Some(Ahead {
            set,
            tag,
            slots: hash.slots(),
        })
    }
}

impl Ahead {
    /// Asks the processor for the entry of the key, if it seems to be there.
    ///
    /// # Safety
    /// The map must still be there.
    pub unsafe fn follow(self) {
        // SAFETY: sets live as long as their map, which the caller promises.
        let set = unsafe { &*std::ptr::with_exposed_provenance::<Set>(self.set) };
        let (first, stride) = self.slots;
        if let Some((_, slot)) = set.find(self.tag, |_| true) {
            let entry = first + slot as usize * stride;
            prefetch(entry);
            // The value may have a line of its own.
            prefetch(entry + stride - 1);
        }
    }
}

/// Asks the processor for the cache line at an address, whatever is there.
#[inline]
fn prefetch(address: usize) {
    let line = std::ptr::without_provenance::<u8>(address);
    // SAFETY: a hint, which reads nothing that anybody could see, whatever the address.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch(line.cast(), _MM_HINT_T0);
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(test)]
mod tests {
    use squalus_isa::{MapDef, MapType, UpdateFlags};

    use super::*;
    use crate::MapEnv;

    fn map(kind: MapType) -> std::sync::Arc<Map> {
        let def = MapDef::new("map", kind, (12, 100), 64);
        Map::new(&def, &MapEnv::with_seed(1, 7)).unwrap()
    }

    #[test]
    fn announcing_changes_nothing_and_takes_any_key() {
        let map = map(MapType::LruHash);
        map.sys_update(&[1; 12], &[2; 100], UpdateFlags::ANY)
            .unwrap();
        for byte in 0..50 {
            let mut key = [0; 16];
            key[..12].fill(byte);
            // SAFETY: the key is as long as said, and the map is alive.
            unsafe { map.look_ahead(key.as_ptr(), 16).unwrap().follow() };
        }
        assert_eq!(map.sys_lookup(&[1; 12]), Ok(Some(vec![2; 100])));
        assert_eq!(map.sys_lookup(&[2; 12]), Ok(None));
    }

    #[test]
    fn only_lru_maps_and_whole_keys_are_looked_at() {
        let key = [0; 16];
        // SAFETY: the key is at least as long as said.
        unsafe {
            assert!(map(MapType::Hash).look_ahead(key.as_ptr(), 16).is_none());
            assert!(map(MapType::LruHash).look_ahead(key.as_ptr(), 8).is_none());
        }
    }
}
