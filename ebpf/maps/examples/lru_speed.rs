//! How fast an LRU map of sessions (key 40, value 16) is, and what it evicts.
//!
//! `cargo run --release -p squalus-maps --example lru_speed [ENTRIES...]`
//!
//! Prints, for each size: nanoseconds per insertion into the empty map and into the full one, per lookup of
//! keys that are present (in random order, one after the other) and absent, entries lost while as many keys
//! as the map holds were inserted, memory, and the hit rate of a skewed workload against a strict LRU list.

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use squalus_isa::{MapDef, MapType};
use squalus_maps::{Map, MapEnv};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

fn main() {
    let sizes: Vec<u32> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let sizes = if sizes.is_empty() {
        vec![10, 1000, 100_000, 1_000_000, 8_000_000]
    } else {
        sizes
    };
    println!(
        "{:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>14}",
        "entries",
        "fill ns",
        "full ns",
        "hit ns",
        "hot ns",
        "miss ns",
        "early",
        "MiB",
        "hits/strict"
    );
    for entries in sizes {
        measure(entries);
    }
}

fn measure(entries: u32) {
    let before = resident_mib();
    let map = lru(entries);
    let rounds = u64::from(entries).max(200_000);
    let fill = time(entries.into(), |id| insert(&map, id));
    let lost =
        u64::from(entries) - (0..entries.into()).filter(|&id| present(&map, id)).count() as u64;
    let memory = resident_mib() - before;
    let mut random = Random(1);
    let hit = time(rounds, |_| {
        lookup(&map, random.next() % u64::from(entries));
    });
    let hot = time(rounds, |_| {
        lookup(&map, 0);
    });
    let miss = time(rounds, |id| {
        lookup(&map, id | 1 << 40);
    });
    let full = time(rounds, |id| insert(&map, id | 1 << 41));
    drop(map);
    println!(
        "{entries:>9} {fill:>8.1} {full:>8.1} {hit:>8.1} {hot:>8.1} {miss:>8.1} {lost:>8} {memory:>9.1} {:>14}",
        if entries <= 100_000 {
            hit_rates(entries)
        } else {
            "-".into()
        }
    );
}

fn lru(entries: u32) -> Arc<Map> {
    let def = MapDef::new("sessions", MapType::LruHash, (40, 16), entries);
    Map::new(&def, &MapEnv::with_seed(1, 1)).expect("memory for the map")
}

/// A session's key: addresses, ports, protocol.
fn key(id: u64) -> [u64; 5] {
    [0x0a00_0001, 0, 0x0a0a_0000 + (id >> 16), 0, id << 16 | 6]
}

fn insert(map: &Map, id: u64) {
    let value = [id, 0];
    // SAFETY: 40 and 16 bytes.
    let result = unsafe { map.update(key(id).as_ptr().cast(), value.as_ptr().cast(), 0, 0) };
    assert!(result.is_ok());
}

fn lookup(map: &Map, id: u64) -> bool {
    // SAFETY: 40 bytes; a value is readable while the map lives.
    unsafe {
        let value = map.lookup(key(id).as_ptr().cast(), 0).cast::<u64>();
        !value.is_null() && black_box(*value) == id
    }
}

fn present(map: &Map, id: u64) -> bool {
    let key: Vec<u8> = key(id).iter().flat_map(|word| word.to_ne_bytes()).collect();
    matches!(map.sys_lookup(&key), Ok(Some(_)))
}

fn time(rounds: u64, mut step: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    (0..rounds).for_each(&mut step);
    start.elapsed().as_nanos() as f64 / rounds as f64
}

/// Hit rates, ours and a strict LRU list's, of keys drawn from a set ten times as large, the low ones
/// more often (roughly Zipf's distribution).
fn hit_rates(entries: u32) -> String {
    let map = lru(entries);
    let (mut used, mut order, mut clock) = (HashMap::new(), BTreeMap::new(), 0_u64);
    let (mut ours, mut strict, mut random) = (0, 0, Random(5));
    let rounds = 20 * u64::from(entries).max(10_000);
    for _ in 0..rounds {
        let unit = (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let id = (f64::from(entries) * 10.0).powf(unit) as u64;
        if lookup(&map, id) {
            ours += 1;
        } else {
            insert(&map, id);
        }
        clock += 1;
        match used.insert(id, clock) {
            Some(before) => {
                strict += 1;
                order.remove(&before);
            }
            None if used.len() > entries as usize => {
                if let Some((_, oldest)) = order.pop_first() {
                    used.remove(&oldest);
                }
            }
            None => {}
        }
        order.insert(clock, id);
    }
    let percent = |hits: u64| hits as f64 * 100.0 / rounds as f64;
    format!("{:.2}/{:.2}%", percent(ours), percent(strict))
}

fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0.0);
    pages / 256.0
}
