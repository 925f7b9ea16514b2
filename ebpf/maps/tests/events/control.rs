//! Creation, and what the control side gets of maps that have no elements for it.

use squalus_isa::{Errno, MapDef, MapFlags, MapType, UpdateFlags};
use squalus_maps::{Map, MapEnv};

use crate::common::def;
use crate::kernel_available;
use crate::sys::{KernelMap, cpus};

fn compare_creation(def: &MapDef) {
    let theirs = KernelMap::new(def).err();
    let ours = Map::new(def, &MapEnv::with_seed(cpus(), 7)).err();
    assert_eq!(ours.map(|error| error.errno), theirs, "{def:?}");
}

#[test]
fn sizes_and_flags_of_rings() {
    if !kernel_available() {
        return;
    }
    for entries in [
        0,
        1,
        8,
        2048,
        4096,
        4097,
        8192,
        12288,
        1 << 20,
        (1 << 20) + 4096,
    ] {
        compare_creation(&def(MapType::RingBuf, 0, 0, entries));
    }
    for (key, value) in [(4, 0), (0, 4), (4, 4)] {
        compare_creation(&def(MapType::RingBuf, key, value, 4096));
    }
    for flags in (0..18).map(|bit| 1 << bit) {
        // Bound to a node there always is, and a flag that newer kernels know.
        compare_creation(&MapDef {
            flags: MapFlags(flags),
            ..def(MapType::RingBuf, 0, 0, 4096)
        });
    }
}

#[test]
fn sizes_and_flags_of_perf_event_arrays() {
    if !kernel_available() {
        return;
    }
    for (key, value, entries) in [
        (4, 4, 0),
        (4, 4, 1),
        (4, 4, 1000),
        (8, 4, 1),
        (4, 8, 1),
        (0, 4, 1),
        (4, 0, 1),
        (2, 4, 1),
    ] {
        compare_creation(&def(MapType::PerfEventArray, key, value, entries));
    }
    for flags in (0..18).map(|bit| 1 << bit).chain([3 << 3, 3 << 7]) {
        compare_creation(&MapDef {
            flags: MapFlags(flags),
            ..def(MapType::PerfEventArray, 4, 4, 2)
        });
    }
}

#[test]
fn rings_have_no_elements() {
    if !kernel_available() {
        return;
    }
    let def = def(MapType::RingBuf, 0, 0, 4096);
    let ours = Map::new(&def, &MapEnv::with_seed(1, 7)).unwrap();
    let theirs = KernelMap::new(&def).unwrap();
    assert_eq!(ours.sys_lookup(&[]), theirs.lookup(&[], 0));
    assert_eq!(
        ours.sys_update(&[], &[], UpdateFlags::ANY),
        theirs.update(&[], &[], 0)
    );
    assert_eq!(ours.sys_delete(&[]), theirs.delete(&[]));
    assert_eq!(ours.sys_next_key(None), theirs.next_key(None));
}

#[test]
fn elements_of_perf_event_arrays() {
    if !kernel_available() {
        return;
    }
    let def = def(MapType::PerfEventArray, 4, 4, 2);
    let ours = Map::new(&def, &MapEnv::with_seed(2, 7)).unwrap();
    let theirs = KernelMap::new(&def).unwrap();
    for key in [0_u32, 1, 2, u32::MAX].map(u32::to_ne_bytes) {
        assert_eq!(ours.sys_lookup(&key), theirs.lookup(&key, 0));
        assert_eq!(ours.sys_delete(&key), theirs.delete(&key));
        assert_eq!(ours.sys_next_key(Some(&key)), theirs.next_key(Some(&key)));
    }
    assert_eq!(ours.sys_next_key(None), theirs.next_key(None));
    // No descriptors of ours stand for rings, as none of the kernel's stands for nothing.
    let value = 1_000_000_u32.to_ne_bytes();
    assert_eq!(theirs.update(&[0; 4], &value, 0), Err(Errno::EBADF));
    assert_eq!(
        ours.sys_update(&[0; 4], &value, UpdateFlags::ANY),
        Err(Errno::EOPNOTSUPP)
    );
}
