//! Which maps a helper may be called on.

use squalus_isa::{HelperId, MapDef, MapFlags, MapType, ValueFields};
use squalus_maps::Map;

use crate::{Proto, TrapReason};

impl Proto {
    /// Whether the helper may be called on a map so defined: its type serves the helper, and it is not one
    /// that programs may only read if the helper changes it (`check_map_func_compatibility` and
    /// `record_func_map` of the kernel's verifier). A map that programs may only write can be looked up in:
    /// what is refused is the load through the pointer to its value.
    ///
    /// # Errors
    /// [`TrapReason::HelperMap`] for a type, [`TrapReason::ReadOnly`] for a flag.
    pub fn may_use(&self, def: &MapDef) -> Result<(), TrapReason> {
        if !serves(self.id, def.kind) {
            return Err(TrapReason::HelperMap);
        }
        if changes(self.id) && def.flags.contains(MapFlags::RDONLY_PROG) {
            return Err(TrapReason::ReadOnly);
        }
        Ok(())
    }
}

/// Whether bytes of a map value, from offset `first` up to `end`, touch a field that programs may only use
/// through helpers.
#[must_use]
pub fn touches_fields(fields: ValueFields, first: i64, end: i64) -> bool {
    let touches = |off: Option<u32>, size: u32| {
        off.is_some_and(|off| first < i64::from(off + size) && end > i64::from(off))
    };
    touches(fields.spin_lock, ValueFields::SPIN_LOCK_SIZE)
        || touches(fields.timer, ValueFields::TIMER_SIZE)
}

/// Whether a NUL-terminated string is at `address`, in the value of `map`, which nobody can change any more
/// (`check_reg_const_str`).
///
/// A frozen map stays so, hence what is found stays true.
#[must_use]
pub fn holds_const_str(map: &Map, address: u64) -> bool {
    let def = map.def();
    let constant =
        def.kind == MapType::Array && def.flags.contains(MapFlags::RDONLY_PROG) && map.is_frozen();
    if !constant || !map.contains(address as usize, 1) {
        return false;
    }
    // What fits behind the address, found by halves.
    let (mut fits, mut beyond) = (1, def.value_size as usize + 1);
    while beyond - fits > 1 {
        let len = usize::midpoint(fits, beyond);
        if map.contains(address as usize, len) {
            fits = len;
        } else {
            beyond = len;
        }
    }
    // SAFETY: the map says that so many bytes are inside one of its values.
    let bytes = unsafe {
        let text = std::ptr::with_exposed_provenance::<u8>(address as usize);
        std::slice::from_raw_parts(text, fits)
    };
    bytes.contains(&0)
}

/// Whether a helper changes the map it is called on, as far as the kernel forbids it for read-only maps.
const fn changes(id: HelperId) -> bool {
    matches!(
        id,
        HelperId::MAP_UPDATE_ELEM
            | HelperId::MAP_DELETE_ELEM
            | HelperId::MAP_PUSH_ELEM
            | HelperId::MAP_POP_ELEM
    )
}

fn serves(id: HelperId, kind: MapType) -> bool {
    match id {
        HelperId::TAIL_CALL => kind == MapType::ProgArray,
        HelperId::MAP_LOOKUP_ELEM => is_data(kind) || is_lookup_only(kind),
        HelperId::MAP_UPDATE_ELEM | HelperId::MAP_DELETE_ELEM => is_data(kind),
        HelperId::MAP_LOOKUP_PERCPU_ELEM => kind.is_per_cpu(),
        HelperId::FOR_EACH_MAP_ELEM => is_data(kind) && kind != MapType::LpmTrie,
        HelperId::MAP_POP_ELEM => matches!(kind, MapType::Queue | MapType::Stack),
        HelperId::MAP_PUSH_ELEM | HelperId::MAP_PEEK_ELEM => {
            matches!(kind, MapType::Queue | MapType::Stack | MapType::BloomFilter)
        }
        HelperId::REDIRECT_MAP => matches!(
            kind,
            MapType::DevMap | MapType::DevMapHash | MapType::CpuMap | MapType::XskMap
        ),
        HelperId::PERF_EVENT_OUTPUT => kind == MapType::PerfEventArray,
        HelperId::RINGBUF_OUTPUT | HelperId::RINGBUF_RESERVE | HelperId::RINGBUF_QUERY => {
            kind == MapType::RingBuf
        }
        // Timers are given their own map beside the value they lie in.
        HelperId::TIMER_INIT => is_data(kind) && kind != MapType::LpmTrie,
        _ => false,
    }
}

/// Whether programs look up, update and delete elements of such maps.
const fn is_data(kind: MapType) -> bool {
    matches!(
        kind,
        MapType::Hash
            | MapType::Array
            | MapType::PerCpuHash
            | MapType::PerCpuArray
            | MapType::LruHash
            | MapType::LruPerCpuHash
            | MapType::LpmTrie
    )
}

/// Maps of references that programs may look up in, but not change.
const fn is_lookup_only(kind: MapType) -> bool {
    kind.is_map_in_map()
        || matches!(
            kind,
            MapType::DevMap | MapType::DevMapHash | MapType::XskMap
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn def(kind: MapType, flags: MapFlags) -> MapDef {
        MapDef {
            flags,
            ..MapDef::new("m", kind, (4, 4), 1)
        }
    }

    fn asked(id: HelperId, kind: MapType, flags: MapFlags) -> Result<(), TrapReason> {
        crate::proto(id).unwrap().may_use(&def(kind, flags))
    }

    #[test]
    fn map_types_are_limited_as_in_the_kernel() {
        let free = MapFlags::default();
        for (id, kind, expected) in [
            (HelperId::MAP_UPDATE_ELEM, MapType::LruHash, true),
            (HelperId::MAP_UPDATE_ELEM, MapType::ArrayOfMaps, false),
            (HelperId::MAP_UPDATE_ELEM, MapType::ProgArray, false),
            (HelperId::MAP_LOOKUP_ELEM, MapType::HashOfMaps, true),
            (HelperId::MAP_LOOKUP_ELEM, MapType::Queue, false),
            (HelperId::MAP_LOOKUP_PERCPU_ELEM, MapType::Hash, false),
            (HelperId::TAIL_CALL, MapType::Array, false),
        ] {
            assert_eq!(asked(id, kind, free).is_ok(), expected, "{id} {kind}");
        }
    }

    #[test]
    fn read_only_maps_are_not_changed_but_write_only_maps_are_looked_up_in() {
        let kind = MapType::Hash;
        let update = asked(HelperId::MAP_UPDATE_ELEM, kind, MapFlags::RDONLY_PROG);
        assert_eq!(update, Err(TrapReason::ReadOnly));
        for id in [HelperId::MAP_LOOKUP_ELEM, HelperId::MAP_UPDATE_ELEM] {
            assert_eq!(asked(id, kind, MapFlags::WRONLY_PROG), Ok(()), "{id}");
        }
    }

    #[test]
    fn fields_are_touched_by_overlap_only() {
        let fields = ValueFields {
            spin_lock: Some(8),
            timer: None,
        };
        for (first, end, expected) in [(0, 8, false), (4, 9, true), (11, 12, true), (12, 16, false)]
        {
            assert_eq!(touches_fields(fields, first, end), expected);
        }
    }
}
