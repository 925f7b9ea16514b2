//! Values with a spin lock, from several threads: who takes the lock sees whole values only.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::def;
use squalus_isa::{MapDef, MapType, UpdateFlags, ValueFields};
use squalus_maps::{Cursor, Map, MapEnv, spin_lock, spin_unlock};

const WORDS: usize = 30;
const LOCK: usize = 8;

fn map(kind: MapType) -> std::sync::Arc<Map> {
    let def = MapDef {
        fields: ValueFields {
            spin_lock: Some(LOCK as u32),
            timer: None,
        },
        ..def(kind, 4, WORDS as u32 * 8, 2)
    };
    Map::new(&def, &MapEnv::with_seed(2, 1)).unwrap()
}

/// All words but the lock's say the same.
fn value(seed: u64) -> Vec<u8> {
    [seed; WORDS].map(u64::to_ne_bytes).concat()
}

fn check(value: &[u8]) {
    let words: Vec<u64> = value
        .chunks(8)
        .enumerate()
        .filter(|(at, _)| *at != LOCK / 8)
        .map(|(_, word)| u64::from_ne_bytes(word.try_into().unwrap()))
        .collect();
    assert!(words.iter().all(|word| *word == words[0]), "{words:?}");
    assert_eq!(value[LOCK..LOCK + 4], [0; 4]);
}

#[test]
fn values_under_a_lock_are_whole() {
    for kind in [MapType::Array, MapType::Hash] {
        let map = map(kind);
        let key = [1, 0, 0, 0];
        map.sys_update(&key, &value(0), UpdateFlags::ANY).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for seed in 1..20_000 {
                    map.sys_update(&key, &value(seed), UpdateFlags::LOCK)
                        .unwrap();
                }
                stop.store(true, Ordering::Relaxed);
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    add_one(&map, &key);
                }
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let read = map.sys_lookup_with(&key, UpdateFlags::LOCK);
                    check(&read.unwrap().unwrap());
                }
            });
        });
        check(&map.sys_lookup(&key).unwrap().unwrap());
    }
}

/// As a program does it.
fn add_one(map: &Map, key: &[u8; 4]) {
    // SAFETY: the key has its size; the value stays memory, and is only changed with the lock held. The
    // control side uses it as words, so do we.
    unsafe {
        let value = map.lookup(key.as_ptr(), 0);
        spin_lock(value.add(LOCK));
        for at in (0..WORDS).filter(|at| *at != LOCK / 8) {
            let word = &*value.cast::<std::sync::atomic::AtomicU64>().add(at);
            word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        spin_unlock(value.add(LOCK));
    }
}

/// The timer of an element that goes away, or is replaced, is stopped: its field becomes zero.
#[test]
fn timers_end_with_their_element() {
    for kind in [MapType::Array, MapType::Hash, MapType::LruHash] {
        let def = MapDef {
            fields: ValueFields {
                spin_lock: None,
                timer: Some(8),
            },
            ..def(kind, 4, 24, 2)
        };
        let map = Map::new(&def, &MapEnv::with_seed(1, 1)).unwrap();
        let key = [1, 0, 0, 0];
        let arm = || {
            map.sys_update(&key, &[7; 24], UpdateFlags::ANY).unwrap();
            // SAFETY: the key has its size, the value 24 bytes.
            unsafe {
                let timer = map.lookup(key.as_ptr(), 0).add(8).cast::<[u64; 2]>();
                assert_eq!(*timer, [0; 2], "an update does not write it");
                *timer = [1, 2];
                timer
            }
        };
        let timer = arm();
        map.sys_update(&key, &[8; 24], UpdateFlags::ANY).unwrap();
        // SAFETY: values stay memory while the map lives.
        assert_eq!(unsafe { *timer }, [0; 2], "{kind}: replaced");
        let timer = arm();
        if kind != MapType::Array {
            map.sys_delete(&key).unwrap();
            // SAFETY: as above.
            assert_eq!(unsafe { *timer }, [0; 2], "{kind}: deleted");
        }
    }
}

#[test]
fn fields_have_their_alignment_and_a_place_of_their_own() {
    for (spin_lock, timer, expected) in [
        (Some(16), Some(0), true),
        (Some(2), None, false),
        (None, Some(4), false),
        (Some(12), Some(0), false),
        (Some(8), Some(8), false),
        (Some(u32::MAX), None, false),
    ] {
        let def = MapDef {
            fields: ValueFields { spin_lock, timer },
            ..def(MapType::Hash, 4, 24, 2)
        };
        let made = Map::new(&def, &MapEnv::with_seed(1, 1));
        assert_eq!(made.is_ok(), expected, "{spin_lock:?} {timer:?}");
    }
}

/// Nothing of the size of the map is touched before it is used.
#[test]
fn maps_of_references_are_as_large_as_objects_say() {
    let env = MapEnv::with_seed(1, 1);
    let inner = def(MapType::Hash, 4, 8, 1);
    for kind in [
        MapType::ProgArray,
        MapType::PerfEventArray,
        MapType::ArrayOfMaps,
    ] {
        let def = MapDef {
            inner: Some(Box::new(inner.clone())),
            ..def(kind, 4, 4, u32::MAX)
        };
        let map = Map::new(&def, &env).unwrap();
        if kind == MapType::ProgArray {
            map.set_program(u32::MAX - 1, Some(3)).unwrap();
            assert_eq!(map.program(u32::MAX - 1), Some(3));
        }
        let worker = env.reclaimer.register();
        // SAFETY: the worker is registered and not paused.
        assert_eq!(unsafe { map.find_inner(|_| Some(())) }, None);
        drop(worker);
    }
    let map = Map::new(&def(MapType::DevMap, 4, 4, u32::MAX), &env).unwrap();
    for _ in 0..1000 {
        assert_eq!(map.next_device(&mut Cursor::default()), None);
    }
    let interface = 5_u32.to_ne_bytes();
    map.sys_update(&70_u32.to_ne_bytes(), &interface, UpdateFlags::ANY)
        .unwrap();
    let mut cursor = Cursor::default();
    assert!(map.next_device(&mut cursor).is_some());
    assert_eq!(map.next_device(&mut cursor), None);
}
