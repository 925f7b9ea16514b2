//! Maps that hold maps or programs.

use std::collections::BTreeSet;

use squalus_isa::{MapDef, MapFlags, MapType};
use squalus_maps::{Map, MapEnv};

use crate::common::def;
use crate::kernel_available;
use crate::pair::{Pair, walk};
use crate::sys::{KernelMap, cpus};

/// Which inner maps a map of maps takes, and what it answers.
#[test]
fn maps_of_maps() {
    if !kernel_available() {
        return;
    }
    use MapType::*;
    let with = |flags, def: MapDef| MapDef { flags, ..def };
    let template = |kind| match kind {
        LpmTrie => def(kind, 8, 8, 4),
        _ => def(kind, 4, 8, 4),
    };
    for (outer, inner) in [ArrayOfMaps, HashOfMaps]
        .into_iter()
        .flat_map(|outer| [Array, PerCpuArray, Hash, LruHash, LpmTrie].map(|inner| (outer, inner)))
    {
        let inner = template(inner);
        let outer = MapDef {
            inner: Some(Box::new(inner.clone())),
            ..def(outer, 4, 4, 2)
        };
        let env = MapEnv::with_seed(cpus(), 7);
        let (ours, theirs) = (
            Map::new(&outer, &env).unwrap(),
            KernelMap::new(&outer).unwrap(),
        );
        let candidates = [
            inner.clone(),
            MapDef {
                max_entries: 9,
                ..inner.clone()
            },
            MapDef {
                value_size: 16,
                ..inner.clone()
            },
            def(Hash, 8, 8, 4),
            def(Array, 4, 8, 4),
            with(MapFlags::INNER_MAP, def(Array, 4, 8, 4)),
            with(MapFlags::NO_PREALLOC, def(Hash, 4, 8, 4)),
        ];
        for key in [0_u32, 1, 2, 0].map(u32::to_ne_bytes) {
            for candidate in &candidates {
                let kernel = KernelMap::new(candidate).unwrap();
                let result = ours.set_inner(&key, Map::new(candidate, &env).unwrap());
                assert_eq!(
                    result,
                    theirs.set_inner(&key, &kernel),
                    "{outer:?} {candidate:?}"
                );
            }
            let present = |value: Option<Vec<u8>>| value.map(|value| value.len());
            assert_eq!(
                ours.sys_lookup(&key).map(present),
                theirs.lookup(&key, 0).map(present)
            );
        }
        let keys = |keys: Vec<Vec<u8>>| keys.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(
            keys(walk(|key| ours.sys_next_key(key).unwrap())),
            keys(walk(|key| theirs.next_key(key).unwrap()))
        );
        for key in [0_u32, 0, 1, 2].map(u32::to_ne_bytes) {
            assert_eq!(ours.sys_delete(&key), theirs.delete(&key), "{outer:?}");
        }
    }
    // An array that may be of any length.
    let inner = with(MapFlags::INNER_MAP, def(Array, 4, 8, 4));
    let outer = MapDef {
        inner: Some(Box::new(inner.clone())),
        ..def(ArrayOfMaps, 4, 4, 2)
    };
    let longer = MapDef {
        max_entries: 9,
        ..inner
    };
    let env = MapEnv::with_seed(cpus(), 7);
    let ours = Map::new(&outer, &env)
        .unwrap()
        .set_inner(&[0; 4], Map::new(&longer, &env).unwrap());
    let theirs = KernelMap::new(&outer)
        .unwrap()
        .set_inner(&[0; 4], &KernelMap::new(&longer).unwrap());
    assert_eq!((ours, theirs), (Ok(()), Ok(())));
}

/// Clearing program arrays; setting needs programs.
#[test]
fn program_arrays() {
    if !kernel_available() {
        return;
    }
    let def = def(MapType::ProgArray, 4, 4, 3);
    let pair = Pair::new(&def);
    for key in [0_u32, 2, 3].map(u32::to_ne_bytes) {
        assert_eq!(pair.ours.sys_lookup(&key), pair.theirs.lookup(&key, 0));
        assert_eq!(pair.ours.sys_delete(&key), pair.theirs.delete(&key));
    }
    let (ours, theirs) = pair.keys();
    assert_eq!(ours, theirs);
}
