//! Threads hammer one map from both sides. Whatever is read must have been written.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use common::def;
use squalus_isa::{MapDef, MapType, UpdateFlags};
use squalus_maps::{Map, MapEnv};

const CPUS: u32 = 3;
const ROUNDS: u64 = 30_000;
const KEYS: u64 = 40;

/// A word that says what it is: a key and a version, and a check over both.
fn word(key: u64, version: u64) -> u64 {
    let plain = key << 16 | version & 0xffff;
    (plain.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 << 32) | plain
}

/// The key in a word, which must be one that was written.
fn key_of(found: u64) -> u64 {
    let plain = found & 0xffff_ffff;
    assert_eq!(
        word(plain >> 16, plain & 0xffff),
        found,
        "{found:x} was never written"
    );
    plain >> 16
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes
        .chunks(8)
        .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
}

struct Random(u64);

impl Random {
    fn below(&mut self, range: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % range
    }
}

fn key_bytes(map: &Map, key: u64) -> Vec<u8> {
    let mut bytes = vec![0; map.def().key_size as usize];
    bytes[..4].copy_from_slice(&(key as u32).to_ne_bytes());
    bytes
}

/// A worker: updates, deletes, looks up and writes in place, as programs do.
fn program(map: &Map, cpu: u32, can_delete: bool) {
    let mut random = Random(u64::from(cpu) + 1);
    for version in 0..ROUNDS {
        let key = random.below(KEYS);
        let bytes = key_bytes(map, key);
        // SAFETY: key and value have their sizes; values are two words, read and written atomically.
        unsafe {
            match random.below(8) {
                0 | 1 => {
                    let value = [word(key, version); 2];
                    let _ = map.update(bytes.as_ptr(), value.as_ptr().cast(), 0, cpu);
                }
                2 if can_delete => drop(map.delete(bytes.as_ptr())),
                _ => {
                    let value = map.lookup(bytes.as_ptr(), cpu).cast::<[AtomicU64; 2]>();
                    if let Some(value) = value.as_ref() {
                        // The slot may have become another key's since, as in the kernel.
                        assert!(value.iter().all(|word| key_of(word.load(Relaxed)) < KEYS));
                    }
                }
            }
        }
    }
}

/// The control plane: all its operations; values must be of the key it asked for.
fn control(map: &Map, stop: &AtomicBool, can_delete: bool) {
    let mut random = Random(77);
    while !stop.load(Relaxed) {
        let key = random.below(KEYS);
        let bytes = key_bytes(map, key);
        match random.below(6) {
            0 => {
                let value = word(key, 1).to_ne_bytes().repeat(map.sys_value_len() / 8);
                let _ = map.sys_update(&bytes, &value, UpdateFlags::ANY);
            }
            1 if can_delete => drop(map.sys_delete(&bytes)),
            2 => {
                let next = map.sys_next_key(Some(&bytes)).unwrap();
                assert!(next.is_none_or(|next| next.len() == bytes.len()));
            }
            _ => {
                let value = map.sys_lookup(&bytes).unwrap();
                for found in words(&value.unwrap_or_default()).filter(|&word| word != 0) {
                    assert_eq!(key_of(found), key);
                }
            }
        }
    }
}

fn soak(def: &MapDef) {
    let map = Map::new(def, &MapEnv::with_seed(CPUS, 5)).unwrap();
    let array = matches!(def.kind, MapType::Array | MapType::PerCpuArray);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| control(&map, &stop, !array));
        let workers: Vec<_> = (0..CPUS)
            .map(|cpu| {
                let map = &map;
                scope.spawn(move || program(map, cpu, !array))
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    let mut keys = 0;
    let mut last = None;
    while let Some(key) = map.sys_next_key(last.as_deref()).unwrap() {
        keys += 1;
        last = Some(key);
    }
    assert_eq!(map.live().unwrap_or(keys), keys);
    assert!(keys <= def.max_entries);
}

#[test]
fn arrays() {
    soak(&def(MapType::Array, 4, 16, KEYS as u32));
    soak(&def(MapType::PerCpuArray, 4, 16, KEYS as u32));
}

#[test]
fn hashes() {
    soak(&def(MapType::Hash, 40, 16, KEYS as u32));
    soak(&def(MapType::Hash, 4, 16, 10));
    soak(&def(MapType::PerCpuHash, 4, 16, 30));
}

#[test]
fn lru_maps() {
    soak(&def(MapType::LruHash, 40, 16, 30));
    soak(&def(MapType::LruHash, 40, 16, 3));
    soak(&def(MapType::LruPerCpuHash, 8, 16, 20));
}

/// Prefixes come and go below one that stays: a lookup always finds a prefix of its key.
#[test]
fn tries() {
    let map = Map::new(&def(MapType::LpmTrie, 8, 8, 300), &MapEnv::with_seed(1, 5)).unwrap();
    let key = |len: u32, data: u32| [len.to_ne_bytes(), data.to_be_bytes()].concat();
    let value = |len: u32, data: u32| (u64::from(len) << 32 | u64::from(data)).to_ne_bytes();
    let cut = |len: u32, data: u32| {
        if len == 0 {
            0
        } else {
            data & u32::MAX << (32 - len)
        }
    };
    map.sys_update(&key(0, 0), &value(0, 0), UpdateFlags::ANY)
        .unwrap();
    let stop = AtomicBool::new(false);
    let random_prefix = |random: &mut Random| {
        let len = 1 + random.below(32) as u32;
        (len, cut(len, random.below(1 << 32) as u32 & 0xc180_8083))
    };
    std::thread::scope(|scope| {
        for seed in [3, 4] {
            let (map, stop) = (&map, &stop);
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..60_000 {
                    let (len, data) = random_prefix(&mut random);
                    if random.below(2) == 0 {
                        let _ =
                            map.sys_update(&key(len, data), &value(len, data), UpdateFlags::ANY);
                    } else {
                        let _ = map.sys_delete(&key(len, data));
                    }
                }
                stop.store(true, Relaxed);
            });
        }
        scope.spawn(|| {
            let mut random = Random(9);
            while !stop.load(Relaxed) {
                let data = random.below(1 << 32) as u32 & 0xc180_8083;
                let found = map
                    .sys_lookup(&key(32, data))
                    .unwrap()
                    .expect("the root stays");
                let found = u64::from_ne_bytes(found.try_into().unwrap());
                let len = (found >> 32) as u32;
                assert_eq!(found as u32, cut(len, data), "/{len} for {data:x}");
                // SAFETY: the key has its size.
                assert!(!unsafe { map.lookup(key(32, data).as_ptr(), 0) }.is_null());
            }
        });
    });
}

/// Inner maps are exchanged while workers use them.
#[test]
fn inner_maps() {
    for kind in [MapType::ArrayOfMaps, MapType::HashOfMaps] {
        let inner = def(MapType::Array, 4, 8, 1);
        let outer = MapDef {
            inner: Some(Box::new(inner.clone())),
            ..def(kind, 4, 4, 4)
        };
        let env = MapEnv::with_seed(2, 5);
        let map = Map::new(&outer, &env).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let worker = env.reclaimer.register();
                    let mut random = Random(6);
                    while !stop.load(Relaxed) {
                        for _ in 0..16 {
                            let key = random.below(5) as u32;
                            // SAFETY: the key has its size; a registered worker may use inner maps.
                            let found = unsafe {
                                map.lookup(key.to_ne_bytes().as_ptr(), 0)
                                    .cast::<Map>()
                                    .as_ref()
                            };
                            if let Some(found) = found {
                                let value = found.sys_lookup(&[0; 4]).unwrap().unwrap();
                                assert_eq!(value, word(key.into(), 1).to_ne_bytes());
                            }
                        }
                        worker.quiescent();
                    }
                });
            }
            for round in 0..5_000_u32 {
                let key = (round % 4).to_ne_bytes();
                if round % 7 == 0 {
                    let _ = map.sys_delete(&key);
                    continue;
                }
                let new: Arc<Map> = Map::new(&inner, &env).unwrap();
                let value = word((round % 4).into(), 1).to_ne_bytes();
                new.sys_update(&[0; 4], &value, UpdateFlags::ANY).unwrap();
                map.set_inner(&key, new).unwrap();
            }
            stop.store(true, Relaxed);
        });
        assert_eq!(env.reclaimer.collect(), 0);
    }
}
