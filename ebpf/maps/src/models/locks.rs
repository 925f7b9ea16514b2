//! What has a lock of its own or needs none: queues and stacks, values with a spin lock, bloom filters,
//! redirect targets, program arrays.

use std::sync::Arc;

use squalus_isa::{MapDef, MapType, UpdateFlags};

use super::{def, explore, map, spawn};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::{Map, Target, spin_lock, spin_unlock};

fn push(map: &Map, value: u64) -> bool {
    // SAFETY: 8 bytes.
    unsafe { map.push(value.to_ne_bytes().as_ptr(), 0) }.is_ok()
}

fn pop(map: &Map) -> Option<u64> {
    let mut value = [0; 8];
    // SAFETY: 8 bytes.
    let popped = unsafe { map.pop(value.as_mut_ptr()) };
    popped.ok().map(|()| u64::from_ne_bytes(value))
}

#[test]
fn queues_and_stacks_lose_and_double_nothing() {
    for kind in [MapType::Queue, MapType::Stack] {
        explore(
            &format!("{kind}: push and pop against push and pop"),
            2,
            move || {
                let map = map(&MapDef {
                    key_size: 0,
                    ..def(kind, 2)
                });
                assert!(push(&map, 9) && push(&map, 9) && !push(&map, 9));
                assert!(pop(&map) == Some(9) && pop(&map) == Some(9) && pop(&map).is_none());
                let other = Arc::clone(&map);
                let thread = spawn(move || (push(&other, 1), pop(&other)));
                let mine = (push(&map, 2), pop(&map));
                let theirs = thread.join().unwrap();
                assert!(mine.0 && theirs.0, "there is room for both");
                let mut all = [mine.1.unwrap(), theirs.1.unwrap()];
                all.sort_unstable();
                assert_eq!((all, pop(&map)), ([1, 2], None));
            },
        );
    }
}

#[test]
fn a_spin_lock_keeps_a_value_whole() {
    explore("spin lock: two programs change one value", 3, || {
        let map = map(&MapDef {
            key_size: 4,
            value_size: 16,
            ..def(MapType::Array, 1)
        });
        let value = move |map: &Map| {
            // SAFETY: the key has 4 bytes; the lock and the number behind it lie in the value.
            unsafe {
                let value = map.lookup([0; 4].as_ptr(), 0);
                (value, &*value.add(8).cast::<AtomicU64>())
            }
        };
        let add = move |map: &Map| {
            let (lock, number) = value(map);
            // SAFETY: the lock is the first word of a value of a live map.
            unsafe {
                spin_lock(lock);
                number.store(number.load(Relaxed) + 1, Relaxed);
                spin_unlock(lock);
            }
        };
        add(&map);
        let other = Arc::clone(&map);
        let thread = spawn(move || add(&other));
        add(&map);
        thread.join().unwrap();
        assert_eq!(value(&map).1.load(Relaxed), 3);
    });
}

#[test]
fn a_bloom_filter_forgets_nothing() {
    explore("bloom filter: push against push", 3, || {
        let map = map(&MapDef {
            key_size: 0,
            extra: 2,
            ..def(MapType::BloomFilter, 1)
        });
        let holds = |value: u64| {
            let mut value = value.to_ne_bytes();
            // SAFETY: 8 bytes.
            unsafe { map.peek(value.as_mut_ptr()) }.is_ok()
        };
        // All bits that will be used are touched.
        let _ = (holds(1), holds(2));
        let other = Arc::clone(&map);
        let thread = spawn(move || push(&other, 1));
        assert!(push(&map, 2) && holds(2));
        assert!(thread.join().unwrap());
        assert!(holds(1) && holds(2));
    });
}

#[test]
fn redirect_targets_and_programs_are_whole() {
    explore("devmap and program array: read against replace", 3, || {
        let devices = map(&MapDef {
            key_size: 4,
            ..def(MapType::DevMap, 1)
        });
        let programs = map(&MapDef {
            key_size: 4,
            value_size: 4,
            ..def(MapType::ProgArray, 1)
        });
        // A device has a program with its number, or none.
        let device =
            |index: u32, program: u32| [index.to_ne_bytes(), program.to_ne_bytes()].concat();
        devices
            .sys_update(&[0; 4], &device(1, 0), UpdateFlags::ANY)
            .unwrap();
        programs.set_program(0, Some(1)).unwrap();
        let (devices_too, programs_too) = (Arc::clone(&devices), Arc::clone(&programs));
        let thread = spawn(move || {
            devices_too
                .sys_update(&[0; 4], &device(2, 0), UpdateFlags::ANY)
                .unwrap();
            devices_too.sys_delete(&[0; 4]).unwrap();
            programs_too.set_program(0, Some(2)).unwrap();
        });
        match devices.redirect(0) {
            None
            | Some(Target::Device {
                ifindex: 1 | 2,
                program: None,
            }) => {}
            other => panic!("{other:?} was never set"),
        }
        assert!([Some(1), Some(2)].contains(&programs.program(0)));
        thread.join().unwrap();
    });
}
