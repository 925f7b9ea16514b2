//! What an LRU map promises, checked on both sides: which entry goes is each side's own business.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use squalus_isa::{Errno, MapDef, MapFlags, MapType, UpdateFlags};
use squalus_maps::{Map, MapEnv};

use crate::common::{self, control_value, def};
use crate::kernel_available;
use crate::sys::{KernelMap, cpus};

/// The operations of the control side.
trait Side {
    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno>;
    fn lookup(&self, key: &[u8]) -> Option<Vec<u8>>;
    fn delete(&self, key: &[u8]) -> Result<(), Errno>;
    fn next_key(&self, key: Option<&[u8]>) -> Option<Vec<u8>>;
    /// Whether an update makes room before it looks for its key.
    fn evicts_first(&self) -> bool;
}

impl Side for Map {
    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        self.sys_update(key, value, UpdateFlags(flags))
    }

    fn lookup(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.sys_lookup(key).unwrap()
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.sys_delete(key)
    }

    fn next_key(&self, key: Option<&[u8]>) -> Option<Vec<u8>> {
        self.sys_next_key(key).unwrap()
    }

    fn evicts_first(&self) -> bool {
        false
    }
}

impl Side for KernelMap {
    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        KernelMap::update(self, key, value, flags)
    }

    fn lookup(&self, key: &[u8]) -> Option<Vec<u8>> {
        KernelMap::lookup(self, key, 0).unwrap()
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        KernelMap::delete(self, key)
    }

    fn next_key(&self, key: Option<&[u8]>) -> Option<Vec<u8>> {
        KernelMap::next_key(self, key).unwrap()
    }

    fn evicts_first(&self) -> bool {
        true
    }
}

/// Key, what is done, seed of the value, flags.
type Step = (u16, u8, u8, u64);

/// Whatever goes, what is there is what was put there last.
fn check(side: &dyn Side, def: &MapDef, steps: &[Step]) {
    let mut written: HashMap<u16, Vec<u8>> = HashMap::new();
    for &(id, op, seed, flags) in steps {
        let key = u32::from(id).to_ne_bytes();
        let before = side.lookup(&key);
        if let Some(value) = &before {
            assert_eq!(Some(value), written.get(&id), "key {id}");
        }
        if op == 0 {
            let expected = before.is_some().then_some(()).ok_or(Errno::ENOENT);
            assert_eq!(side.delete(&key), expected);
            written.remove(&id);
            continue;
        }
        let value = control_value(def.kind, seed, def.value_size as usize, cpus());
        let result = side.update(&key, &value, flags);
        // The kernel may evict the very entry that it is about to update: then it is as if absent.
        let allowed = [before.is_some(), before.is_some() && !side.evicts_first()];
        let expected = allowed.map(|present| expected(flags, present));
        assert!(
            expected.contains(&result),
            "key {id}, flags {flags}: {result:?}"
        );
        if result.is_ok() {
            assert_eq!(
                side.lookup(&key),
                Some(value.clone()),
                "what was just written"
            );
            written.insert(id, value);
        }
    }
    let capacity = match def.flags.contains(MapFlags::NO_COMMON_LRU) {
        true => def.max_entries.next_multiple_of(cpus()),
        false => def.max_entries,
    };
    assert!(count(side) <= capacity);
}

fn expected(flags: u64, present: bool) -> Result<(), Errno> {
    match (flags, present) {
        (3.., _) => Err(Errno::EINVAL),
        (1, true) => Err(Errno::EEXIST),
        (2, false) => Err(Errno::ENOENT),
        _ => Ok(()),
    }
}

fn count(side: &dyn Side) -> u32 {
    let (mut key, mut count) = (None, 0);
    while let Some(next) = side.next_key(key.as_deref()) {
        count += 1;
        key = Some(next);
    }
    count
}

#[test]
fn full_lru_maps_keep_their_promises() {
    if !kernel_available() {
        return;
    }
    let flags = prop_oneof![8 => Just(0_u64), 1 => 1..5_u64];
    let step = (0..600_u16, 0..8_u8, any::<u8>(), flags);
    let steps = proptest::collection::vec(step, 1..600);
    for kind in [MapType::LruHash, MapType::LruPerCpuHash] {
        for flags in [MapFlags(0), MapFlags::NO_COMMON_LRU] {
            for entries in [1, 2, 5, 100] {
                let def = MapDef {
                    flags,
                    ..def(kind, 4, 12, entries)
                };
                TestRunner::new(common::cases(3))
                    .run(&steps, |steps| {
                        let ours = Map::new(&def, &MapEnv::with_seed(cpus(), 7)).unwrap();
                        check(&*ours, &def, &steps);
                        check(&KernelMap::new(&def).unwrap(), &def, &steps);
                        Ok(())
                    })
                    .unwrap();
            }
        }
    }
}

/// With `BPF_F_NO_COMMON_LRU` a CPU's insertions evict only entries that it inserted. In the kernel the CPU is
/// the one that makes the system call.
#[test]
fn each_cpu_evicts_its_own() {
    if !kernel_available() {
        return;
    }
    if cpus() < 2 {
        eprintln!("SKIPPED: one CPU evicts nobody else's entries; nothing was compared");
        return;
    }
    let share = 50;
    let def = MapDef {
        flags: MapFlags::NO_COMMON_LRU,
        ..def(MapType::LruHash, 4, 8, share * cpus())
    };
    let theirs = KernelMap::new(&def).unwrap();
    let ours = Map::new(&def, &MapEnv::with_seed(cpus(), 7)).unwrap();
    let insert = |cpu: u32, id: u32| {
        let (key, value) = (id.to_ne_bytes(), u64::from(id).to_ne_bytes());
        theirs.update(&key, &value, 0).unwrap();
        // SAFETY: key and value have their sizes.
        unsafe { ours.update(key.as_ptr(), value.as_ptr(), 0, cpu) }.unwrap();
    };
    pinned(0, || (0..share).for_each(|id| insert(0, id)));
    pinned(1, || (1000..3000).for_each(|id| insert(1, id)));
    for id in 0..share {
        let value = Some(u64::from(id).to_ne_bytes().to_vec());
        let key = id.to_ne_bytes();
        assert_eq!(Side::lookup(&theirs, &key), value, "kernel, {id}");
        assert_eq!(Side::lookup(&*ours, &key), value, "ours, {id}");
    }
    assert_eq!(count(&*ours), 2 * share);
    assert!(count(&theirs) <= 2 * share);
}

/// Runs `work` in a thread on one CPU.
fn pinned(cpu: u32, work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: a set of CPUs on the stack, of this thread only.
            let result = unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(cpu as usize, &mut set);
                libc::sched_setaffinity(0, size_of_val(&set), &set)
            };
            assert_eq!(result, 0, "the test needs CPU {cpu}");
            work();
        });
    });
}
