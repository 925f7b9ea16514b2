//! Prefixes come and go below one that stays: a lookup always finds a prefix of its key.

use squalus_isa::{MapType, UpdateFlags};
use squalus_maps::{Map, MapEnv};

use crate::common::def;
use crate::{Random, Step, soak};

fn key(len: u32, data: u32) -> Vec<u8> {
    [len.to_ne_bytes(), data.to_be_bytes()].concat()
}

fn value(len: u32, data: u32) -> [u8; 8] {
    (u64::from(len) << 32 | u64::from(data)).to_ne_bytes()
}

/// The first bits of an address.
fn cut(len: u32, data: u32) -> u32 {
    if len == 0 {
        0
    } else {
        data & u32::MAX << (32 - len)
    }
}

/// Few bits, so that prefixes meet.
fn address(random: &mut Random) -> u32 {
    random.below(1 << 32) as u32 & 0xc180_8083
}

fn change(map: &Map, random: &mut Random) {
    let len = 1 + random.below(32) as u32;
    let data = cut(len, address(random));
    if random.below(2) == 0 {
        let _ = map.sys_update(&key(len, data), &value(len, data), UpdateFlags::ANY);
    } else {
        let _ = map.sys_delete(&key(len, data));
    }
}

fn look(map: &Map, random: &mut Random) {
    let data = address(random);
    let found = map.sys_lookup(&key(32, data)).unwrap();
    let found = found.expect("the root stays");
    let found = u64::from_ne_bytes(found.try_into().unwrap());
    let len = (found >> 32) as u32;
    assert_eq!(found as u32, cut(len, data), "/{len} for {data:x}");
    // SAFETY: the key has its size.
    assert!(!unsafe { map.lookup(key(32, data).as_ptr(), 0) }.is_null());
    if random.below(16) == 0 {
        let next = map.sys_next_key(Some(&key(32, data))).unwrap();
        assert_eq!(next.expect("the root stays").len(), 8);
    }
}

#[test]
fn tries() {
    let map = Map::new(&def(MapType::LpmTrie, 8, 8, 300), &MapEnv::with_seed(1, 5)).unwrap();
    map.sys_update(&key(0, 0), &value(0, 0), UpdateFlags::ANY)
        .unwrap();
    let map = &*map;
    let workers = (0..2).map(|_| -> Step<'_> { Box::new(move |random, _| change(map, random)) });
    let readers = (0..2).map(|_| -> Step<'_> { Box::new(move |random, _| look(map, random)) });
    soak("trie", 60_000, workers.collect(), readers.collect());
}
