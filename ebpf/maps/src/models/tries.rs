//! Readers of tries.

use std::sync::Arc;

use squalus_isa::{MapType, UpdateFlags};

use super::{def, explore, map, spawn};
use crate::Map;

fn key(len: u32, data: u32) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&len.to_ne_bytes());
    key[4..].copy_from_slice(&data.to_be_bytes());
    key
}

/// A value that says whose it is.
fn insert(map: &Map, len: u32, data: u32) {
    let value = (u64::from(len) << 32 | u64::from(data)).to_ne_bytes();
    map.sys_update(&key(len, data), &value, UpdateFlags::ANY)
        .unwrap();
}

fn remove(map: &Map, len: u32, data: u32) {
    map.sys_delete(&key(len, data)).unwrap();
}

/// The prefix that an address matches.
fn longest(map: &Map, data: u32) -> Option<(u32, u32)> {
    let value = map.sys_lookup(&key(32, data)).unwrap()?;
    let value = u64::from_ne_bytes(value.try_into().unwrap());
    Some(((value >> 32) as u32, value as u32))
}

const HIGH: u32 = 0x8000_0000;

/// A trie with a root, in which three more nodes were in use once.
fn trie() -> Arc<Map> {
    let map = map(&def(MapType::LpmTrie, 4));
    insert(&map, 0, 0);
    insert(&map, 8, 0);
    insert(&map, 8, HIGH);
    // Another value for the same prefix, so that a fifth node was used.
    insert(&map, 8, HIGH);
    insert(&map, 8, 0x0100_0000);
    // The nodes used next held other prefixes.
    for data in [HIGH, 0x0100_0000, 0] {
        remove(&map, 8, data);
    }
    longest(&map, 0);
    map
}

#[test]
fn a_reader_never_loses_the_root() {
    explore("trie: lookup against insert and delete", 3, || {
        let map = trie();
        let other = Arc::clone(&map);
        let thread = spawn(move || {
            insert(&other, 8, HIGH);
            remove(&other, 8, HIGH);
            // Takes the node just freed.
            insert(&other, 8, 0);
        });
        let found = longest(&map, HIGH | 1);
        assert!(
            [Some((0, 0)), Some((8, HIGH))].contains(&found),
            "{found:?}"
        );
        thread.join().unwrap();
        assert_eq!(longest(&map, 1), Some((8, 0)));
        assert_eq!(longest(&map, HIGH), Some((0, 0)));
    });
}

#[test]
fn a_prefix_that_stays_is_found_while_nodes_around_it_go() {
    explore(
        "trie: lookup against a joint that comes and goes",
        3,
        || {
            let map = trie();
            insert(&map, 8, 0);
            let other = Arc::clone(&map);
            let thread = spawn(move || {
                // Needs a node that joins the two, and gives it back.
                insert(&other, 8, 0x0100_0000);
                remove(&other, 8, 0x0100_0000);
                insert(&other, 8, HIGH);
            });
            assert_eq!(longest(&map, 1), Some((8, 0)));
            assert_eq!(longest(&map, 2), Some((8, 0)));
            thread.join().unwrap();
        },
    );
}
