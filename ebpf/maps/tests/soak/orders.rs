//! Queues, stacks and bloom filters.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use squalus_isa::{MapType, UpdateFlags};
use squalus_maps::{Map, MapEnv};

use crate::common::def;
use crate::{CPUS, Random, Step, parse, soak, word};

/// Values come out that were pushed; in a queue, those of one producer in their order. Two words each: none
/// comes out in halves.
#[test]
fn queues_and_stacks() {
    for kind in [MapType::Queue, MapType::Stack] {
        let map = Map::new(&def(kind, 0, 16, 50), &MapEnv::with_seed(CPUS, 5)).unwrap();
        let (map, inside) = (&*map, &AtomicI64::new(0));
        let workers = (0..CPUS).map(|cpu| -> Step<'_> {
            let mut pushed = 0;
            let mut last = [0_u64; CPUS as usize];
            Box::new(move |random: &mut Random, _| {
                let mut value = [word(cpu.into(), pushed); 2];
                let bytes = value.as_mut_ptr().cast::<u8>();
                // SAFETY: the value has 16 bytes.
                unsafe {
                    if random.below(2) == 0 {
                        if map.push(bytes, 0).is_ok() {
                            pushed += 1;
                            inside.fetch_add(1, Relaxed);
                        }
                        return;
                    }
                    if random.below(8) == 0 {
                        let _ = map.peek(bytes);
                        return;
                    }
                    if map.pop(bytes).is_err() {
                        return;
                    }
                }
                inside.fetch_sub(1, Relaxed);
                let (of, version) = parse(value[0]);
                assert_eq!(value[0], value[1], "halves of two values");
                if kind == MapType::Queue {
                    // Versions wrap around.
                    let step = (version as u32).wrapping_sub(last[of as usize] as u32);
                    assert!(step < 1 << 31, "out of order");
                    last[of as usize] = version;
                }
            })
        });
        let control: Step<'_> = Box::new(move |_, _| {
            for found in map
                .sys_lookup(&[])
                .unwrap()
                .iter()
                .flat_map(|value| crate::words(value))
            {
                parse(found);
            }
        });
        soak(kind.name(), 100_000, workers.collect(), vec![control]);
        assert_eq!(map.live().map(i64::from), Some(inside.load(Relaxed)));
    }
}

/// What was pushed is found, whoever else pushes.
#[test]
fn bloom_filters() {
    let map = Map::new(
        &def(MapType::BloomFilter, 0, 8, 5_000),
        &MapEnv::with_seed(CPUS, 5),
    );
    let map = map.unwrap();
    let map = &*map;
    let workers = (0..CPUS).map(|cpu| -> Step<'_> {
        Box::new(move |random: &mut Random, _| {
            let value = word(cpu.into(), random.below(2_000));
            let mut bytes = value.to_ne_bytes();
            // SAFETY: the value has 8 bytes.
            unsafe {
                map.push(bytes.as_ptr(), 0).unwrap();
                assert_eq!(map.peek(bytes.as_mut_ptr()), Ok(()));
            }
        })
    });
    let control: Step<'_> = Box::new(move |random: &mut Random, _| {
        let value = word(77, random.below(100)).to_ne_bytes();
        map.sys_update(&[], &value, UpdateFlags::ANY).unwrap();
        assert_eq!(map.sys_peek(&value), Ok(true));
    });
    soak("bloom filter", 50_000, workers.collect(), vec![control]);
}
