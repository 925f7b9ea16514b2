//! Maps of maps, program arrays and maps for redirection: what is found was set.

use std::sync::Arc;

use squalus_isa::{MapDef, MapType, UpdateFlags};
use squalus_maps::{Cursor, Map, MapEnv, Target};

use crate::common::def;
use crate::{CPUS, Random, Step, soak, word};

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
        let (map, env_of, inner) = (&*map, &env, &inner);
        let programs = (0..2).map(|_| -> Step<'_> {
            let worker = env_of.reclaimer.register();
            Box::new(move |random: &mut Random, round| {
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
                if round.is_multiple_of(16) {
                    worker.quiescent();
                }
                if round.is_multiple_of(1024) {
                    worker.pause();
                    std::thread::yield_now();
                    worker.resume();
                }
            })
        });
        let control: Step<'_> = Box::new(move |random: &mut Random, round| {
            let number = round as u32 % 4;
            let key = number.to_ne_bytes();
            if random.below(7) == 0 {
                let _ = map.sys_delete(&key);
                return;
            }
            let new: Arc<Map> = Map::new(inner, env_of).unwrap();
            let value = word(number.into(), 1).to_ne_bytes();
            new.sys_update(&[0; 4], &value, UpdateFlags::ANY).unwrap();
            map.set_inner(&key, new).unwrap();
        });
        soak(kind.name(), 200_000, programs.collect(), vec![control]);
        assert_eq!(env.reclaimer.collect(), 0);
    }
}

#[test]
fn program_arrays() {
    let map = Map::new(&def(MapType::ProgArray, 4, 4, 8), &MapEnv::with_seed(1, 5)).unwrap();
    let map = &*map;
    let read: Step<'_> = Box::new(move |random: &mut Random, _| {
        let index = random.below(9) as u32;
        assert!(
            map.program(index)
                .is_none_or(|program| program % 100 == index)
        );
    });
    let write: Step<'_> = Box::new(move |random: &mut Random, _| {
        let index = random.below(8) as u32;
        let program = (random.below(4) != 0).then(|| random.below(1000) as u32 * 100 + index);
        let _ = map.set_program(index, program);
    });
    soak("program array", 200_000, vec![read], vec![write]);
}

/// Both halves of an entry belong together.
#[test]
fn redirection() {
    for kind in [
        MapType::DevMap,
        MapType::DevMapHash,
        MapType::CpuMap,
        MapType::XskMap,
    ] {
        let size = if kind == MapType::XskMap { 4 } else { 8 };
        let map = Map::new(&def(kind, 4, size, CPUS), &MapEnv::with_seed(CPUS, 5)).unwrap();
        let map = &*map;
        let check = |target: Target| match target {
            Target::Device { ifindex, program } => assert_eq!(program, Some(ifindex - 1)),
            Target::Cpu {
                cpu,
                qsize,
                program,
            } => {
                assert!(cpu < CPUS);
                assert_eq!(program, Some(qsize - 1));
            }
            Target::Socket { id } => assert!((1..=1000).contains(&id)),
        };
        let programs = (0..2).map(|_| -> Step<'_> {
            Box::new(move |random: &mut Random, _| {
                map.redirect(random.below(4) as u32)
                    .into_iter()
                    .for_each(check);
                let mut cursor = Cursor::default();
                let devices = std::iter::from_fn(|| map.next_device(&mut cursor));
                assert!(devices.take(100).map(check).count() < 100);
            })
        });
        let control: Step<'_> = Box::new(move |random: &mut Random, _| {
            let key = (random.below(CPUS.into()) as u32).to_ne_bytes();
            let number = 1 + random.below(1000) as u32;
            let value = number.to_ne_bytes().repeat(size as usize / 4);
            if random.below(4) == 0 {
                let _ = map.sys_delete(&key);
            } else {
                map.sys_update(&key, &value, UpdateFlags::ANY).unwrap();
            }
            let _ = map.sys_lookup(&key);
        });
        soak(kind.name(), 50_000, programs.collect(), vec![control]);
    }
}
