//! What LRU maps keep and what they evict.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;

use common::def;
use squalus_isa::{MapDef, MapFlags, MapType, UpdateFlags};
use squalus_maps::{Map, MapEnv};

fn lru(max_entries: u32, seed: u64) -> Arc<Map> {
    Map::new(
        &def(MapType::LruHash, 40, 16, max_entries),
        &MapEnv::with_seed(1, seed),
    )
    .unwrap()
}

fn key(id: u64) -> [u8; 40] {
    let mut key = [0; 40];
    key[16..24].copy_from_slice(&id.to_ne_bytes());
    key
}

fn insert(map: &Map, id: u64) {
    // SAFETY: key and value have their sizes.
    unsafe {
        map.update(key(id).as_ptr(), [7; 16].as_ptr(), 0, 0)
            .unwrap()
    }
}

fn used(map: &Map, id: u64) -> bool {
    // SAFETY: the key has its size.
    !unsafe { map.lookup(key(id).as_ptr(), 0) }.is_null()
}

fn present(map: &Map, id: u64) -> bool {
    map.sys_lookup(&key(id)).unwrap().is_some()
}

fn missing(map: &Map, ids: std::ops::Range<u64>) -> usize {
    ids.filter(|&id| !present(map, id)).count()
}

/// As many keys as the map was made for: none is evicted, whatever the seed.
#[test]
fn nothing_is_evicted_before_the_map_is_full() {
    for (max, seeds) in [
        (1, 100),
        (2, 100),
        (10, 1000),
        (100, 300),
        (1000, 100),
        (100_000, 3),
    ] {
        for seed in 0..seeds {
            let map = lru(max, seed);
            (0..u64::from(max)).for_each(|id| insert(&map, id));
            assert_eq!(
                missing(&map, 0..u64::from(max)),
                0,
                "{max} entries, seed {seed}"
            );
            assert_eq!(map.live(), Some(max));
        }
    }
}

#[test]
fn the_map_never_holds_more_than_it_was_made_for() {
    let map = lru(1000, 3);
    for id in 0..20_000 {
        insert(&map, id);
        assert!(present(&map, id));
    }
    assert_eq!(map.live(), Some(1000));
    assert_eq!(missing(&map, 0..20_000), 19_000);
}

/// A map of up to eight entries is one set, and so exact.
#[test]
fn small_maps_evict_the_oldest() {
    let map = lru(4, 1);
    (0..4).for_each(|id| insert(&map, id));
    assert!(used(&map, 0));
    insert(&map, 4);
    insert(&map, 5);
    assert_eq!(
        [0, 1, 2, 3, 4, 5].map(|id| present(&map, id)),
        [true, false, false, true, true, true]
    );
}

#[test]
fn control_side_lookups_do_not_count_as_use() {
    let map = lru(4, 1);
    (0..4).for_each(|id| insert(&map, id));
    assert!(present(&map, 0));
    insert(&map, 4);
    assert!(!present(&map, 0));
}

/// Sessions that are looked up now and then survive a flood of flows seen once, even where strictly the
/// least recently used entry would always be a session (more keys come between its uses than fit).
#[test]
fn sessions_in_use_survive_a_flood() {
    let (max, live) = (10_000_u64, 5_000);
    let map = lru(max as u32, 9);
    (0..live).for_each(|id| insert(&map, id));
    assert!((0..live).all(|id| used(&map, id)));
    let mut lost = 0;
    for flow in 0..10 * max {
        insert(&map, 1_000_000 + flow);
        // Each session is used once in as many insertions as the map has entries.
        if flow % 2 == 0 {
            let id = flow / 2 % live;
            if !used(&map, id) {
                lost += 1;
                insert(&map, id);
            }
        }
    }
    let uses = 10 * max / 2;
    assert!(
        lost * 100 < uses,
        "{lost} of {uses} uses found their session evicted"
    );
}

#[test]
fn deleted_entries_make_room() {
    let map = lru(100, 5);
    (0..100).for_each(|id| insert(&map, id));
    (0..50).for_each(|id| map.sys_delete(&key(id)).unwrap());
    (100..150).for_each(|id| insert(&map, id));
    assert_eq!(missing(&map, 50..150), 0);
    map.sys_update(&key(7), &[1; 16], UpdateFlags::ANY).unwrap();
    assert_eq!(missing(&map, 50..150), 1);
}

/// With `BPF_F_NO_COMMON_LRU` each CPU has its share of the entries, and its insertions cost nobody else one.
#[test]
fn each_cpu_evicts_its_own() {
    const CPUS: u32 = 4;
    const SHARE: u64 = 100;
    for seed in 0..20 {
        let def = MapDef {
            flags: MapFlags::NO_COMMON_LRU,
            ..def(MapType::LruHash, 40, 16, SHARE as u32 * CPUS - 3)
        };
        let map = Map::new(&def, &MapEnv::with_seed(CPUS, seed)).unwrap();
        let insert = |id, cpu| {
            // SAFETY: key and value have their sizes.
            unsafe {
                map.update(key(id).as_ptr(), [7; 16].as_ptr(), 0, cpu)
                    .unwrap()
            }
        };
        (0..SHARE).for_each(|id| insert(id, 1));
        for id in 1000..10_000 {
            insert(id, 2);
            assert!(present(&map, id));
        }
        assert_eq!(missing(&map, 0..SHARE), 0, "seed {seed}");
        assert_eq!(map.live(), Some(2 * SHARE as u32));
        // An update leaves an entry with whom it was.
        (0..SHARE).for_each(|id| insert(id, 2));
        assert_eq!(missing(&map, 1000..10_000), 9000 - SHARE as usize);
        // The control plane takes what is left.
        (20_000..20_000 + 2 * SHARE).for_each(|id| {
            map.sys_update(&key(id), &[1; 16], UpdateFlags::ANY)
                .unwrap()
        });
        assert_eq!(map.live(), Some(4 * SHARE as u32));
        assert_eq!(missing(&map, 0..SHARE), 0);
        (30_000..40_000).for_each(|id| insert(id, (id % 4) as u32));
        assert_eq!(map.live(), Some(4 * SHARE as u32));
    }
}
