//! Maps of maps, and when removed objects are freed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool as Plain, Ordering::Relaxed};

use squalus_isa::{MapDef, MapType};

use super::{def, explore, spawn};
use crate::reclaim::Reclaimer;
use crate::refs;
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::{Map, MapEnv};

/// Says, outside of the model, that it was freed.
struct Object(Arc<Plain>);

impl Drop for Object {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn object() -> (Arc<Object>, Arc<Plain>) {
    let freed = Arc::new(Plain::new(false));
    (Arc::new(Object(Arc::clone(&freed))), freed)
}

/// A worker's burst: what it finds lives until it says that it holds nothing.
fn burst(cell: &AtomicPtr<Object>, freed: &[Arc<Plain>; 2]) {
    let found = cell.load(Ordering::Acquire);
    // SAFETY: the claim under test; a freed object's flags are looked at instead of itself.
    let is_first = found.is_null() || unsafe { Arc::as_ptr(&(*found).0) == Arc::as_ptr(&freed[0]) };
    let of = &freed[usize::from(!is_first)];
    assert!(found.is_null() || !of.load(Relaxed), "freed while in use");
    loom::thread::yield_now();
    assert!(found.is_null() || !of.load(Relaxed), "freed while in use");
}

#[test]
fn what_a_worker_holds_is_not_freed() {
    explore(
        "reclaimer: a worker's bursts against replace and collect",
        3,
        || {
            let reclaimer = Reclaimer::new();
            let ((first, first_freed), (second, second_freed)) = (object(), object());
            let cell = Arc::new(AtomicPtr::default());
            refs::replace(&cell, Some(first), &reclaimer);
            let worker = reclaimer.register();
            worker.quiescent();
            let freed = [Arc::clone(&first_freed), second_freed];
            let found = Arc::clone(&cell);
            let thread = spawn(move || {
                burst(&found, &freed);
                worker.quiescent();
                burst(&found, &freed);
                worker.pause();
                worker.resume();
                burst(&found, &freed);
            });
            refs::replace(&cell, Some(second), &reclaimer);
            reclaimer.collect();
            thread.join().unwrap();
            assert_eq!(reclaimer.collect(), 0, "the worker is gone");
            assert!(first_freed.load(Relaxed));
            refs::replace(&cell, None, &reclaimer);
        },
    );
}

#[test]
fn a_worker_that_wakes_up_is_waited_for() {
    explore("reclaimer: resume against replace and collect", 3, || {
        let reclaimer = Reclaimer::new();
        let ((first, first_freed), (second, second_freed)) = (object(), object());
        let cell = Arc::new(AtomicPtr::default());
        refs::replace(&cell, Some(first), &reclaimer);
        let worker = reclaimer.register();
        worker.pause();
        let freed = [first_freed, second_freed];
        let found = Arc::clone(&cell);
        let thread = spawn(move || {
            worker.resume();
            burst(&found, &freed);
            drop(worker);
        });
        refs::replace(&cell, Some(second), &reclaimer);
        reclaimer.collect();
        thread.join().unwrap();
        assert_eq!(reclaimer.collect(), 0);
        refs::replace(&cell, None, &reclaimer);
    });
}

fn outer(kind: MapType) -> MapDef {
    let inner = MapDef {
        key_size: 4,
        ..def(MapType::Array, 1)
    };
    MapDef {
        key_size: 4,
        value_size: 4,
        inner: Some(Box::new(inner)),
        ..def(kind, 1)
    }
}

/// A program uses the inner map it finds while the control side exchanges it, and removes it.
#[test]
fn inner_maps_live_while_programs_use_them() {
    for kind in [MapType::ArrayOfMaps, MapType::HashOfMaps] {
        explore(
            &format!("{kind}: lookup against exchange and delete"),
            2,
            move || {
                let env = MapEnv::with_seed(1, 7);
                let def = outer(kind);
                let map = Map::new(&def, &env).unwrap();
                let inner = |number: u64| {
                    let inner = Map::new(def.inner.as_deref().unwrap(), &env).unwrap();
                    let value = number.to_ne_bytes();
                    let any = squalus_isa::UpdateFlags::ANY;
                    inner.sys_update(&[0; 4], &value, any).unwrap();
                    inner
                };
                let first = inner(1);
                let watched = Arc::downgrade(&first);
                map.set_inner(&[0; 4], Arc::clone(&first)).unwrap();
                map.sys_delete(&[0; 4]).unwrap();
                map.set_inner(&[0; 4], first).unwrap();
                let worker = env.reclaimer.register();
                worker.quiescent();
                let program = Arc::clone(&map);
                let thread = spawn(move || {
                    // SAFETY: the key has 4 bytes; a worker may use what it finds.
                    let found =
                        unsafe { program.lookup([0; 4].as_ptr(), 0).cast::<Map>().as_ref() };
                    if let Some(found) = found {
                        let value = found.sys_lookup(&[0; 4]).unwrap().unwrap();
                        let value = u64::from_ne_bytes(value.try_into().unwrap());
                        assert!([1, 2].contains(&value), "{value} was never an inner map's");
                    }
                    worker.quiescent();
                });
                map.set_inner(&[0; 4], inner(2)).unwrap();
                map.sys_delete(&[0; 4]).unwrap();
                thread.join().unwrap();
                assert_eq!(env.reclaimer.collect(), 0);
                assert!(watched.upgrade().is_none(), "nobody holds it any more");
            },
        );
    }
}
