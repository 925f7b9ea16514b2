//! Arrays and hashes: keys and values.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use squalus_isa::{MapDef, MapFlags, MapType, UpdateFlags, ValueFields};
use squalus_maps::{Map, MapEnv, spin_lock, spin_unlock};

use crate::common::def;
use crate::{CPUS, Random, Step, key_bytes, parse, soak, word, words};

const ROUNDS: u64 = 30_000;

/// What the maps of one soak are like.
#[derive(Clone, Copy)]
struct Shape {
    /// Keys are below.
    keys: u64,
    deletes: bool,
    /// Whether a value is exchanged as a whole.
    whole: bool,
}

/// A worker: updates, deletes, looks up, as programs do.
fn program(map: &Map, cpu: u32, shape: Shape, random: &mut Random, version: u64) {
    let key = random.below(shape.keys);
    let bytes = key_bytes(map, key);
    // SAFETY: key and value have their sizes; values are two words, read and written atomically.
    unsafe {
        match random.below(8) {
            0 | 1 => {
                let value = [word(key, version); 2];
                let _ = map.update(bytes.as_ptr(), value.as_ptr().cast(), 0, cpu);
            }
            2 if shape.deletes => drop(map.delete(bytes.as_ptr())),
            _ => {
                let value = map.lookup(bytes.as_ptr(), cpu).cast::<[AtomicU64; 2]>();
                if let Some(value) = value.as_ref() {
                    // The slot may have become another key's since, as in the kernel.
                    for word in value {
                        let found = word.load(Relaxed);
                        assert!(found == 0 || parse(found).0 < shape.keys);
                    }
                }
            }
        }
    }
}

/// A value of the control side must be of the key it asked for.
fn check(key: u64, value: &[u8], shape: Shape) {
    for found in words(value).filter(|&word| word != 0) {
        assert_eq!(parse(found).0, key);
    }
    if shape.whole {
        let mut words = words(value);
        assert_eq!(words.next(), words.next(), "halves of two values");
    }
}

fn check_batch(map: &Map, batch: &squalus_maps::Batch, shape: Shape) {
    let keys = batch.keys.chunks(map.def().key_size as usize);
    let values = batch.values.chunks(map.sys_value_len());
    assert_eq!(
        (keys.len(), values.len()),
        (batch.count as usize, keys.len())
    );
    for (key, value) in keys.zip(values) {
        let key = u32::from_ne_bytes(key[..4].try_into().unwrap());
        check(key.into(), value, shape);
    }
}

/// The control plane: all its operations.
fn control(map: &Map, shape: Shape, random: &mut Random) {
    let key = random.below(shape.keys);
    let bytes = key_bytes(map, key);
    let any = UpdateFlags::ANY;
    match random.below(16) {
        0..3 => {
            let value = word(key, 1).to_ne_bytes().repeat(map.sys_value_len() / 8);
            let _ = map.sys_update(&bytes, &value, any);
        }
        3..6 if shape.deletes => drop(map.sys_delete(&bytes)),
        6 if shape.deletes => {
            if let Ok(Some(value)) = map.sys_lookup_and_delete(&bytes, any) {
                check(key, &value, shape);
            }
        }
        7 => {
            if let Ok(batch) = map.sys_lookup_batch(None, 64, any) {
                check_batch(map, &batch, shape);
            }
        }
        8 if shape.deletes => {
            if let Ok(batch) = map.sys_lookup_and_delete_batch(None, 3, any) {
                check_batch(map, &batch, shape);
            }
        }
        9 => {
            let next = map.sys_next_key(Some(&bytes)).unwrap();
            assert!(next.is_none_or(|next| next.len() == bytes.len()));
        }
        _ => {
            let value = map.sys_lookup(&bytes).unwrap();
            check(key, &value.unwrap_or_default(), shape);
        }
    }
}

fn run(name: &str, def: &MapDef, keys: u64) {
    let map = Map::new(def, &MapEnv::with_seed(CPUS, 5)).unwrap();
    let shape = Shape {
        keys,
        deletes: !matches!(def.kind, MapType::Array | MapType::PerCpuArray),
        whole: matches!(def.kind, MapType::Hash | MapType::LruHash),
    };
    let map = &*map;
    let workers = (0..CPUS).map(|cpu| -> Step<'_> {
        Box::new(move |random, round| program(map, cpu, shape, random, round))
    });
    let controls =
        (0..2).map(|_| -> Step<'_> { Box::new(move |random, _| control(map, shape, random)) });
    soak(name, ROUNDS, workers.collect(), controls.collect());
    let mut there = 0;
    let mut last = None;
    while let Some(key) = map.sys_next_key(last.as_deref()).unwrap() {
        there += 1;
        last = Some(key);
    }
    assert_eq!(map.live().unwrap_or(there), there);
    // Each CPU's share is rounded up.
    assert!(there <= def.max_entries.next_multiple_of(CPUS));
}

#[test]
fn arrays() {
    run("array", &def(MapType::Array, 4, 16, 40), 40);
    run("percpu array", &def(MapType::PerCpuArray, 4, 16, 40), 40);
}

#[test]
fn hashes() {
    run("hash", &def(MapType::Hash, 40, 16, 40), 40);
    run("hash, full", &def(MapType::Hash, 4, 16, 10), 40);
    run("percpu hash", &def(MapType::PerCpuHash, 4, 16, 30), 40);
}

/// So many keys that entries move to their other sets, and some into the stash.
#[test]
fn large_hashes() {
    run("hash of 20000", &def(MapType::Hash, 8, 16, 20_000), 22_000);
    run("lru of 5000", &def(MapType::LruHash, 8, 16, 5_000), 22_000);
}

#[test]
fn lru_maps() {
    run("lru", &def(MapType::LruHash, 40, 16, 30), 40);
    run("lru, full", &def(MapType::LruHash, 40, 16, 3), 40);
    run("percpu lru", &def(MapType::LruPerCpuHash, 8, 16, 20), 40);
    let own = MapDef {
        flags: MapFlags::NO_COMMON_LRU,
        ..def(MapType::LruHash, 8, 16, 30)
    };
    run("lru with shares", &own, 40);
}

/// Programs and the control plane change values of three words under their lock: nobody who takes it sees
/// words of two values.
#[test]
fn values_with_locks() {
    for kind in [MapType::Array, MapType::Hash] {
        let map = Map::new(
            &MapDef {
                fields: ValueFields {
                    spin_lock: Some(0),
                    timer: None,
                },
                ..def(kind, 4, 32, 4)
            },
            &MapEnv::with_seed(CPUS, 5),
        )
        .unwrap();
        let value = |key: u64, version: u64| {
            let mut value = [0; 8].to_vec();
            value.extend(word(key, version).to_ne_bytes().repeat(3));
            value
        };
        for key in 0..4 {
            map.sys_update(&key_bytes(&map, key), &value(key, 0), UpdateFlags::ANY)
                .unwrap();
        }
        let map = &*map;
        let program = |random: &mut Random, round: u64| {
            let key = random.below(4);
            // SAFETY: the key has its size; the value is a lock and three words, used atomically. Nobody
            // deletes.
            unsafe {
                let at = map.lookup(key_bytes(map, key).as_ptr(), 0);
                let value = &*at.cast::<[AtomicU64; 4]>();
                spin_lock(at);
                let before = value[1].load(Relaxed);
                assert!(value[1..].iter().all(|word| word.load(Relaxed) == before));
                assert_eq!(parse(before).0, key);
                for word_of in &value[1..] {
                    word_of.store(word(key, round), Relaxed);
                }
                spin_unlock(at);
            }
        };
        let control = |random: &mut Random, round: u64| {
            let key = random.below(4);
            let bytes = key_bytes(map, key);
            if random.below(2) == 0 {
                map.sys_update(&bytes, &value(key, round), UpdateFlags::LOCK)
                    .unwrap();
            } else {
                let found = map.sys_lookup_with(&bytes, UpdateFlags::LOCK).unwrap();
                let found: Vec<u64> = words(&found.unwrap()).collect();
                assert!(found[0] == 0 && found[1..].iter().all(|&word| word == found[1]));
                assert_eq!(parse(found[1]).0, key);
            }
        };
        soak(
            &format!("{kind} with locks"),
            ROUNDS,
            vec![Box::new(program), Box::new(program)],
            vec![Box::new(control)],
        );
    }
}
