//! Index, sets and entries of hashes, and what evicts in LRU maps.

use std::sync::Arc;

use squalus_isa::{MapType, UpdateFlags};

use super::{def, delete, explore, lookup, map, spawn, update};
use crate::Map;
use crate::entries::{Entries, Value};
use crate::index::{Index, Outcome, Writer};
use crate::key::Raw;

/// A value that says whose it is.
const fn value(key: u64, version: u64) -> u64 {
    key << 8 | version
}

/// A hash in which all that `keys` need was touched.
fn hash(kind: MapType, entries: u32, keys: &[u64]) -> Arc<Map> {
    let map = map(&def(kind, entries));
    for &key in keys.iter().cycle().take(2 * keys.len()) {
        update(&map, key, value(key, 0), UpdateFlags::ANY);
        lookup(&map, key);
        if keys.len() > entries as usize {
            delete(&map, key);
        }
    }
    for &key in keys {
        delete(&map, key);
    }
    assert_eq!(map.live(), Some(0));
    map
}

#[test]
fn a_slot_that_changes_hands_is_never_mistaken() {
    explore("hash: lookup against delete and insert", 2, || {
        let map = hash(MapType::Hash, 2, &[1, 2]);
        assert!(update(&map, 1, value(1, 0), UpdateFlags::ANY));
        let writer = Arc::clone(&map);
        let thread = spawn(move || {
            assert!(delete(&writer, 1));
            assert!(update(&writer, 2, value(2, 0), UpdateFlags::ANY));
        });
        assert!([None, Some(value(1, 0))].contains(&lookup(&map, 1)));
        assert!([None, Some(value(2, 0))].contains(&lookup(&map, 2)));
        thread.join().unwrap();
        assert_eq!(
            (lookup(&map, 1), lookup(&map, 2)),
            (None, Some(value(2, 0)))
        );
    });
}

#[test]
fn a_replaced_value_is_never_absent_and_never_goes_back() {
    explore("hash: lookup against replace", 2, || {
        let map = hash(MapType::Hash, 1, &[1]);
        assert!(update(&map, 1, value(1, 0), UpdateFlags::ANY));
        let writer = Arc::clone(&map);
        let thread = spawn(move || {
            for version in 1..3 {
                assert!(update(&writer, 1, value(1, version), UpdateFlags::EXIST));
            }
        });
        let first = lookup(&map, 1).unwrap();
        let second = lookup(&map, 1).unwrap();
        assert!((value(1, 0)..=value(1, 2)).contains(&first) && second >= first);
        thread.join().unwrap();
    });
}

#[test]
fn one_of_two_inserts_of_a_key_wins() {
    explore("hash: insert against insert of the same key", 2, || {
        let map = hash(MapType::Hash, 2, &[1, 2]);
        let other = Arc::clone(&map);
        let thread = spawn(move || update(&other, 1, value(1, 1), UpdateFlags::NOEXIST));
        let mine = update(&map, 1, value(1, 2), UpdateFlags::NOEXIST);
        let theirs = thread.join().unwrap();
        assert!(mine != theirs);
        assert_eq!(lookup(&map, 1), Some(value(1, if mine { 2 } else { 1 })));
        assert_eq!(map.live(), Some(1));
    });
}

#[test]
fn the_last_entry_goes_to_one() {
    explore("hash: two keys for one entry, with deletes", 2, || {
        let map = hash(MapType::Hash, 1, &[1, 2]);
        let other = Arc::clone(&map);
        let thread = spawn(move || {
            let inserted = update(&other, 1, value(1, 1), UpdateFlags::ANY);
            inserted && delete(&other, 1)
        });
        let inserted = update(&map, 2, value(2, 1), UpdateFlags::ANY);
        let theirs = thread.join().unwrap();
        assert!(inserted || theirs, "a map that is not full refused");
        assert_eq!(lookup(&map, 2).is_some(), inserted);
        assert_eq!(map.live(), Some(inserted.into()));
    });
}

#[test]
fn deletes_of_one_key_happen_once() {
    explore("hash: delete against delete and insert", 2, || {
        let map = hash(MapType::Hash, 2, &[1, 2]);
        assert!(update(&map, 1, value(1, 0), UpdateFlags::ANY));
        let other = Arc::clone(&map);
        let thread = spawn(move || delete(&other, 1));
        let mine = delete(&map, 1);
        assert!(update(&map, 2, value(2, 0), UpdateFlags::ANY));
        assert!(mine != thread.join().unwrap());
        assert_eq!((map.live(), lookup(&map, 2)), (Some(1), Some(value(2, 0))));
    });
}

#[test]
fn an_lru_map_evicts_into_place() {
    explore("lru: two inserts into one entry, and a lookup", 2, || {
        let map = hash(MapType::LruHash, 1, &[1, 2, 3]);
        assert!(update(&map, 1, value(1, 0), UpdateFlags::ANY));
        let other = Arc::clone(&map);
        let thread = spawn(move || update(&other, 2, value(2, 0), UpdateFlags::ANY));
        let found = lookup(&map, 1);
        assert!([None, Some(value(1, 0))].contains(&found));
        let found = lookup(&map, 2);
        assert!([None, Some(value(2, 0))].contains(&found));
        assert!(thread.join().unwrap());
        assert_eq!((map.live(), lookup(&map, 2)), (Some(1), Some(value(2, 0))));
    });
}

#[test]
fn lru_writers_share_one_entry() {
    explore("lru: insert against insert in a full map", 2, || {
        let map = hash(MapType::LruHash, 1, &[1, 2, 3]);
        assert!(update(&map, 1, value(1, 0), UpdateFlags::ANY));
        let other = Arc::clone(&map);
        let thread = spawn(move || update(&other, 2, value(2, 0), UpdateFlags::ANY));
        // A victim may be in the other writer's hands: then there is none for a moment.
        let mine = update(&map, 3, value(3, 0), UpdateFlags::ANY);
        let theirs = thread.join().unwrap();
        assert!(mine || theirs);
        let there = (1..=3).filter(|&key| lookup(&map, key).is_some()).count();
        assert_eq!((there, map.live()), (1, Some(1)));
    });
}

/// Sets without a stash behind them, and entries: what an insertion does with room made by a move.
struct Table {
    index: Index,
    entries: Entries,
}

impl Table {
    /// Puts `number`, as its own value, into `slot`, which nobody uses.
    fn insert(&self, number: u64, slot: u32) {
        let bytes = number.to_ne_bytes();
        // SAFETY: key and value have 8 bytes.
        unsafe {
            let key = Raw::new(bytes.as_ptr(), 8);
            let mut writer = Writer::new(&self.index, &self.entries, &key);
            let Outcome::Room(place) = writer.find_or_room() else {
                panic!("no room for {number}");
            };
            self.entries.fill(slot, &key, Value::Control(&bytes));
            writer.publish(place, slot, 0);
        }
    }

    fn find(&self, number: u64) -> Option<Vec<u8>> {
        let bytes = number.to_ne_bytes();
        // SAFETY: the key has 8 bytes.
        let key = unsafe { Raw::new(bytes.as_ptr(), 8) };
        let read = |_, slot| self.entries.value_bytes(slot, false);
        self.index.find(&self.entries, &key, read)
    }

    /// Numbers whose home and other set are as said.
    fn keys(&self, home: u32, other: u32) -> impl Iterator<Item = u64> + '_ {
        (0_u64..).filter(move |number| {
            let bytes = number.to_ne_bytes();
            // SAFETY: the key has 8 bytes.
            let at = self.index.hashed(&unsafe { Raw::new(bytes.as_ptr(), 8) });
            (at.home, at.other) == (home, other)
        })
    }

    /// Touches all cells of four sets.
    fn touch(&self) {
        for number in 0..4 {
            let set = self.index.set(number).lock();
            let _ = (set.seq(), set.has_displaced());
            for way in 0..8 {
                let _ = (set.way(way), set.slot(way));
            }
        }
        assert_eq!(self.index.slots().count(), 17);
    }
}

/// Two sets are full, and an insertion must move an entry on: a lookup finds it at any time.
#[test]
fn an_entry_that_moves_is_found() {
    explore("index: lookup against the move that makes room", 2, || {
        let table = Arc::new(Table {
            index: Index::with_sets(4, 0, 7, 0).unwrap(),
            entries: Entries::new(&def(MapType::Hash, 18), 18, 1, 0).unwrap(),
        });
        let here: Vec<_> = table.keys(0, 1).take(16).collect();
        let (moving, last) = (table.keys(0, 2).next().unwrap(), here[15]);
        let there = table.keys(2, 3).next().unwrap();
        table.insert(there, 0);
        table.insert(moving, 1);
        for (&key, slot) in here[..15].iter().zip(2..) {
            table.insert(key, slot);
        }
        // Touches the slot that the thread will use.
        let bytes = last.to_ne_bytes();
        // SAFETY: key and value have 8 bytes; nobody uses the slot.
        unsafe {
            let key = Raw::new(bytes.as_ptr(), 8);
            table.entries.fill(17, &key, Value::Control(&bytes));
        }
        table.touch();
        let other = Arc::clone(&table);
        let thread = spawn(move || other.insert(last, 17));
        assert_eq!(table.find(moving), Some(moving.to_ne_bytes().to_vec()));
        thread.join().unwrap();
        assert_eq!(table.find(last), Some(last.to_ne_bytes().to_vec()));
        assert_eq!(table.find(moving), Some(moving.to_ne_bytes().to_vec()));
    });
}
