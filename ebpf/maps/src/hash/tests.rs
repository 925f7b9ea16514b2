//! Hashes whose index is far too small, so that chance has no say in what the rare paths see: entries away
//! from home, moves between sets, the stash.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::set::WAYS;

const ENTRIES: u32 = 64;

fn definition(kind: MapType) -> MapDef {
    MapDef::new("crowded", kind, (8, 16), ENTRIES)
}

fn crowded(kind: MapType, sets: u32) -> Hash {
    let def = definition(kind);
    let mut hash = Hash::new(&def, 2, 1, 0, &Reclaimer::new()).unwrap();
    let stash = if hash.lru.is_some() {
        0
    } else {
        ENTRIES / WAYS as u32 + 1
    };
    hash.index = Index::with_sets(sets, stash, 1, 0).unwrap();
    hash
}

/// The value of a key's `version`: both words say which.
fn value(key: u64, version: u64) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&(key << 32 | version).to_ne_bytes());
    value[8..].copy_from_slice(&(!(key << 32 | version)).to_ne_bytes());
    value
}

fn put(hash: &Hash, key: u64, version: u64, flags: u64) -> Result<(), Errno> {
    hash.sys_update(&key.to_ne_bytes(), &value(key, version), flags)
}

fn get(hash: &Hash, key: u64) -> Option<Vec<u8>> {
    hash.sys_lookup(&key.to_ne_bytes(), false)
}

fn delete(hash: &Hash, key: u64) -> Result<(), Errno> {
    hash.sys_delete(&key.to_ne_bytes())
}

fn keys(hash: &Hash) -> Vec<u64> {
    let mut keys = Vec::new();
    let mut last = None;
    while let Some(key) = hash.sys_next_key(last.as_deref()) {
        keys.push(u64::from_ne_bytes(key[..].try_into().unwrap()));
        last = Some(key);
    }
    keys
}

/// No entry is away, and no set's count of displaced entries is left over.
fn assert_empty(hash: &Hash) {
    assert_eq!((hash.len(), keys(hash)), (0, vec![]));
    for set in 0..hash.index.sets() {
        assert!(!hash.index.set(set).has_displaced(), "set {set}");
    }
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, range: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % range
    }
}

#[test]
fn crowded_hashes_hold_all_they_were_made_for() {
    for sets in [1, 2, 3, 7, 9] {
        let hash = crowded(MapType::Hash, sets);
        let mut model = HashMap::new();
        let mut random = Random(sets.into());
        for version in 0..20_000 {
            let key = random.below(u64::from(ENTRIES) * 3 / 2);
            if random.below(3) == 0 {
                let expected = model.remove(&key).map(drop).ok_or(Errno::ENOENT);
                assert_eq!(delete(&hash, key), expected);
            } else {
                let room = model.contains_key(&key) || model.len() < ENTRIES as usize;
                let expected = if room { Ok(()) } else { Err(Errno::E2BIG) };
                assert_eq!(put(&hash, key, version, 0), expected);
                if room {
                    model.insert(key, version);
                }
            }
            let key = random.below(u64::from(ENTRIES) * 3 / 2);
            let expected = model.get(&key).map(|&version| value(key, version).to_vec());
            assert_eq!(get(&hash, key), expected);
        }
        let mut all = keys(&hash);
        all.sort_unstable();
        let mut expected: Vec<_> = model.keys().copied().collect();
        expected.sort_unstable();
        assert_eq!(all, expected, "{sets} sets");
        all.iter().for_each(|&key| delete(&hash, key).unwrap());
        assert_empty(&hash);
    }
}

/// An LRU map has no stash: it evicts where its index has no room, and keeps what it says it has.
#[test]
fn crowded_lru_maps_evict() {
    for sets in [1, 2, 5] {
        let hash = crowded(MapType::LruHash, sets);
        for key in 0..1000 {
            put(&hash, key, 1, 0).unwrap();
            assert_eq!(get(&hash, key), Some(value(key, 1).to_vec()));
            assert_eq!(keys(&hash).len() as u32, hash.len());
        }
        assert!(hash.len() > sets * WAYS as u32 * 3 / 4 && hash.len() <= sets * WAYS as u32);
        keys(&hash)
            .iter()
            .for_each(|&key| delete(&hash, key).unwrap());
        assert_empty(&hash);
        assert_eq!(hash.len(), 0);
    }
}

/// A victim in another set is no help where the key's own sets have no way free: one of theirs must go,
/// although it is in use, and no slot may get lost.
#[test]
fn crowded_lru_maps_evict_where_there_is_no_room() {
    for sets in [3, 5, 7] {
        let hash = crowded(MapType::LruHash, sets);
        for key in 0..3000_u64 {
            assert_eq!(put(&hash, key, 1, 0), Ok(()), "{sets} sets, key {key}");
            assert_eq!(get(&hash, key), Some(value(key, 1).to_vec()));
            if key % 4 != 0 {
                // SAFETY: the key has its size.
                unsafe { hash.lookup(key.to_ne_bytes().as_ptr(), 0) };
            }
            assert_eq!(keys(&hash).len() as u32, hash.len());
        }
    }
}

/// When a key's own sets hold nothing, a victim is found elsewhere.
#[test]
fn full_lru_maps_find_victims_in_other_sets() {
    let hash = crowded(MapType::LruHash, 4096);
    for key in 0..2000 {
        put(&hash, key, 1, 0).unwrap();
        assert_eq!(u64::from(hash.len()), u64::from(ENTRIES).min(key + 1));
    }
    assert_eq!(keys(&hash).len() as u32, ENTRIES);
}

/// Entries that are never deleted are found by every lookup, however others come, go and move around
/// them; and what the control side reads is a whole value of that key.
#[test]
fn lookups_never_miss_an_entry_that_stays() {
    for sets in [2, 6, 11] {
        let hash = crowded(MapType::Hash, sets);
        let (stay, all) = (16, 60);
        (0..stay).for_each(|key| put(&hash, key, 0, 0).unwrap());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..2_u64 {
                let (hash, stop) = (&hash, &stop);
                scope.spawn(move || {
                    let mut random = Random(thread + 1);
                    for version in 0..50_000 {
                        let key = random.below(all);
                        if key >= stay && random.below(2) == 0 {
                            let _ = delete(hash, key);
                        } else {
                            let _ = put(hash, key, version, 0);
                        }
                    }
                    stop.store(true, Ordering::Relaxed);
                });
            }
            scope.spawn(|| {
                let mut random = Random(99);
                while !stop.load(Ordering::Relaxed) {
                    check_key(&hash, random.below(all), stay);
                }
            });
        });
        keys(&hash)
            .iter()
            .for_each(|&key| delete(&hash, key).unwrap());
        assert_empty(&hash);
    }
}

/// Nor do walks, which may see one twice.
#[test]
fn walks_never_miss_an_entry_that_stays() {
    for sets in [3, 6, 11] {
        let hash = crowded(MapType::Hash, sets);
        let (stay, all) = (16, 60);
        (0..stay).for_each(|key| put(&hash, key, 0, 0).unwrap());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random(sets.into());
                for version in 0..100_000 {
                    let key = stay + random.below(all - stay);
                    if random.below(2) == 0 {
                        let _ = delete(&hash, key);
                    } else {
                        let _ = put(&hash, key, version, 0);
                    }
                }
                stop.store(true, Ordering::Relaxed);
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seen = walk(&hash);
                    let missed: Vec<_> = (0..stay).filter(|key| !seen.contains(key)).collect();
                    assert!(missed.is_empty(), "{sets} sets: missed {missed:?}");
                }
            });
        });
    }
}

fn walk(hash: &Hash) -> Vec<u64> {
    let (mut from, mut seen) = (Place::FIRST, Vec::new());
    let mut key = [0; 8];
    // SAFETY: the key has its size.
    while let Some((place, _)) = unsafe { hash.entry_from(from, key.as_mut_ptr(), 0) } {
        seen.push(u64::from_ne_bytes(key));
        from = place.next();
    }
    seen
}

fn check_key(hash: &Hash, key: u64, stay: u64) {
    match get(hash, key) {
        Some(bytes) => {
            let first = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
            assert_eq!(first >> 32, key);
            assert_eq!(bytes, value(key, first & 0xffff_ffff));
        }
        None => assert!(key >= stay, "lookup missed key {key}"),
    }
    // SAFETY: the key has its size.
    let found = unsafe { hash.lookup(key.to_ne_bytes().as_ptr(), 0) };
    assert!(key >= stay || !found.is_null(), "lookup missed key {key}");
}

/// Entries that can only move forward find room nearly always: the stash, which lookups of absent keys may
/// have to search, stays small.
#[test]
fn a_full_hash_hardly_needs_its_stash() {
    const FULL: u32 = 200_000;
    let def = MapDef {
        max_entries: FULL,
        ..definition(MapType::Hash)
    };
    let hash = Hash::new(&def, 2, 1, 0, &Reclaimer::new()).unwrap();
    (0..FULL.into()).for_each(|key| put(&hash, key, 0, 0).unwrap());
    for key in 0..u64::from(FULL) {
        delete(&hash, key).unwrap();
        put(&hash, key + u64::from(FULL), 0, 0).unwrap();
    }
    let mut from = Place {
        set: hash.index.sets(),
        way: 0,
    };
    let mut stashed = 0;
    while let Some((place, _)) = hash.key_from(from) {
        stashed += 1;
        from = place.next();
    }
    assert!(stashed < FULL / 5000, "{stashed} entries");
}

/// More memory than there are addresses is refused: it must not become less by wrapping around.
#[test]
fn sizes_beyond_all_memory_are_refused() {
    let def = MapDef::new("huge", MapType::PerCpuHash, (8, 32 << 10), 1 << 27);
    assert!(Hash::new(&def, 1 << 22, 1, 0, &Reclaimer::new()).is_err());
}
