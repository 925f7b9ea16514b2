//! The same operations on our maps and on the kernel's, through the bpf(2) system call: results and error
//! numbers must be equal.
//!
//! Needs root (CAP_BPF); says so and passes where it has none.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use common::{Op, control_value, def};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use squalus_isa::{Errno, MapDef, MapFlags, MapType, UpdateFlags};
use squalus_maps::{Map, MapEnv};

const MAP_CREATE: i32 = 0;
const LOOKUP: i32 = 1;
const UPDATE: i32 = 2;
const DELETE: i32 = 3;
const NEXT_KEY: i32 = 4;

/// What we need of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

/// And for the element commands.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn bpf<T>(command: i32, attr: &mut T) -> Result<i32, Errno> {
    // SAFETY: `attr` is one of the structs above, whose pointers cover what the kernel uses.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        // 524 (ENOTSUPP) leaks to userspace unchanged.
        return Err(Errno(
            std::io::Error::last_os_error().raw_os_error().unwrap(),
        ));
    }
    Ok(result as i32)
}

struct KernelMap {
    fd: OwnedFd,
    def: MapDef,
    value_len: usize,
}

impl KernelMap {
    fn new(def: &MapDef) -> Result<KernelMap, Errno> {
        let inner = def.inner.as_deref().map(KernelMap::new).transpose()?;
        let fd = bpf(
            MAP_CREATE,
            &mut Create {
                map_type: def.kind as u32,
                key_size: def.key_size,
                value_size: def.value_size,
                max_entries: def.max_entries,
                map_flags: def.flags.0,
                inner_map_fd: inner
                    .as_ref()
                    .map_or(u32::MAX, |inner| inner.fd.as_raw_fd() as u32),
                ..Create::default()
            },
        )?;
        let value = def.value_size as usize;
        Ok(KernelMap {
            // SAFETY: a new descriptor that nobody else owns.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            def: def.clone(),
            value_len: if def.kind.is_per_cpu() {
                value.next_multiple_of(8) * cpus() as usize
            } else {
                value
            },
        })
    }

    fn element(&self, key: *const u8, value: *const u8, flags: u64) -> Element {
        Element {
            map_fd: self.fd.as_raw_fd() as u32,
            key: key as u64,
            value: value as u64,
            flags,
            ..Element::default()
        }
    }

    fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let mut value = vec![0; self.value_len];
        let mut attr = self.element(key.as_ptr(), value.as_mut_ptr(), 0);
        match bpf(LOOKUP, &mut attr) {
            Ok(_) => Ok(Some(value)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        bpf(
            UPDATE,
            &mut self.element(key.as_ptr(), value.as_ptr(), flags),
        )
        .map(drop)
    }

    fn set_inner(&self, key: &[u8], inner: &KernelMap) -> Result<(), Errno> {
        self.update(key, &inner.fd.as_raw_fd().to_ne_bytes(), 0)
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        bpf(DELETE, &mut self.element(key.as_ptr(), std::ptr::null(), 0)).map(drop)
    }

    fn next_key(&self, key: Option<&[u8]>) -> Result<Option<Vec<u8>>, Errno> {
        let mut next = vec![0; self.def.key_size as usize];
        let key = key.map_or(std::ptr::null(), <[u8]>::as_ptr);
        match bpf(NEXT_KEY, &mut self.element(key, next.as_mut_ptr(), 0)) {
            Ok(_) => Ok(Some(next)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

/// Possible CPUs: how many values the kernel's per-CPU maps have.
fn cpus() -> u32 {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    possible
        .trim()
        .rsplit(['-', ','])
        .next()
        .unwrap()
        .parse::<u32>()
        .unwrap()
        + 1
}

fn kernel_available() -> bool {
    let available = KernelMap::new(&def(MapType::Array, 4, 4, 1)).is_ok();
    if !available {
        eprintln!(
            "SKIPPED: cannot create kernel maps (needs root and bpf(2)); nothing was compared"
        );
    }
    available
}

/// Both sides of one map.
struct Pair {
    ours: Arc<Map>,
    theirs: KernelMap,
}

impl Pair {
    fn new(def: &MapDef) -> Pair {
        Pair {
            ours: Map::new(def, &MapEnv::with_seed(cpus(), 7)).unwrap(),
            theirs: KernelMap::new(def).unwrap(),
        }
    }

    fn run(&self, op: &Op) {
        let kind = self.theirs.def.kind;
        match op {
            Op::Update {
                key, seed, flags, ..
            } => {
                let value = control_value(kind, *seed, self.theirs.def.value_size as usize, cpus());
                assert_eq!(
                    self.ours.sys_update(key, &value, UpdateFlags(*flags)),
                    self.theirs.update(key, &value, *flags),
                );
            }
            Op::Delete { key, .. } => {
                assert_eq!(self.ours.sys_delete(key), self.theirs.delete(key))
            }
            Op::Lookup { key, .. } => {
                assert_eq!(self.ours.sys_lookup(key), self.theirs.lookup(key))
            }
            Op::Walk => self.compare_all(),
            Op::WalkDeleting => self.walk_deleting(),
        }
    }

    fn keys(&self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        (
            walk(|key| self.ours.sys_next_key(key).unwrap()),
            walk(|key| self.theirs.next_key(key).unwrap()),
        )
    }

    fn compare_all(&self) {
        let (ours, theirs) = self.keys();
        if matches!(
            self.theirs.def.kind,
            MapType::LpmTrie | MapType::Array | MapType::PerCpuArray
        ) {
            assert_eq!(ours, theirs, "order of keys");
        }
        let set: BTreeSet<_> = ours.iter().collect();
        assert_eq!(set.len(), ours.len(), "each key once");
        assert_eq!(set, theirs.iter().collect());
        for key in &ours {
            assert_eq!(self.ours.sys_lookup(key), self.theirs.lookup(key));
        }
    }

    fn walk_deleting(&self) {
        let (mut key, mut count) = (None, 0);
        while let Some(next) = self.ours.sys_next_key(key.as_deref()).unwrap() {
            count += 1;
            assert!(count < 100, "the walk does not end");
            if count % 2 == 0 {
                let before = key.take();
                assert_eq!(self.ours.sys_delete(&next), self.theirs.delete(&next));
                // Go on from the key before, which is still there.
                key = before;
                if self.ours.sys_lookup(&next).unwrap().is_some() {
                    // Arrays don't delete.
                    key = Some(next);
                }
            } else {
                key = Some(next);
            }
        }
        self.compare_all();
    }
}

fn walk(next: impl Fn(Option<&[u8]>) -> Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    while let Some(key) = next(keys.last().map(Vec::as_slice)) {
        keys.push(key);
        assert!(keys.len() < 1000, "the walk does not end");
    }
    keys
}

fn compare(defs: &[MapDef]) {
    if !kernel_available() {
        return;
    }
    for def in defs {
        let ops = proptest::collection::vec(common::op(def.kind, def.key_size, false), 1..80);
        let mut runner = TestRunner::new(common::cases(60));
        runner
            .run(&ops, |ops| {
                let pair = Pair::new(def);
                ops.iter().for_each(|op| pair.run(op));
                pair.compare_all();
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn arrays() {
    compare(&[
        def(MapType::Array, 4, 1, 5),
        def(MapType::Array, 4, 12, 8),
        def(MapType::PerCpuArray, 4, 12, 5),
        def(MapType::PerCpuArray, 4, 8, 1),
    ]);
}

#[test]
fn hashes() {
    let with = |flags, def: MapDef| MapDef { flags, ..def };
    compare(&[
        def(MapType::Hash, 1, 1, 5),
        def(MapType::Hash, 4, 8, 1),
        def(MapType::Hash, 20, 8, 30),
        def(MapType::Hash, 77, 5, 9),
        with(MapFlags::NO_PREALLOC, def(MapType::Hash, 12, 24, 7)),
        with(MapFlags::ZERO_SEED, def(MapType::Hash, 40, 16, 12)),
        def(MapType::PerCpuHash, 13, 12, 6),
        with(MapFlags::NO_PREALLOC, def(MapType::PerCpuHash, 8, 4, 3)),
    ]);
}

#[test]
fn tries() {
    compare(&[
        def(MapType::LpmTrie, 5, 1, 6),
        def(MapType::LpmTrie, 8, 4, 200),
        def(MapType::LpmTrie, 20, 12, 10),
        def(MapType::LpmTrie, 24, 8, 3),
    ]);
}

/// In an LRU map that never fills up, nothing is evicted, so it must equal the kernel's.
#[test]
fn lru_maps_with_room() {
    let with = |flags, def: MapDef| MapDef { flags, ..def };
    compare(&[
        def(MapType::LruHash, 40, 16, 1000),
        def(MapType::LruPerCpuHash, 4, 12, 1000),
        with(MapFlags::NO_COMMON_LRU, def(MapType::LruHash, 4, 4, 1000)),
    ]);
}

/// Creating maps of random types, sizes and flags succeeds or fails alike.
#[test]
fn creation() {
    if !kernel_available() {
        return;
    }
    use MapType::*;
    let kinds = [
        Array,
        PerCpuArray,
        Hash,
        PerCpuHash,
        LruHash,
        LruPerCpuHash,
        LpmTrie,
        ArrayOfMaps,
        HashOfMaps,
        ProgArray,
    ];
    let sizes = [
        0,
        1,
        3,
        4,
        5,
        8,
        260,
        261,
        32768,
        32769,
        4 << 20,
        (4 << 20) - 300,
        (4 << 20) - 400,
    ];
    let size = || prop_oneof![3 => Just(4_u32), 2 => proptest::sample::select(sizes.to_vec())];
    let flag = proptest::sample::select(
        &[
            0_u32,
            0,
            0,
            1,
            1,
            1,
            2,
            4,
            8,
            16,
            64,
            128,
            256,
            1024,
            4096,
            1 << 20,
        ][..],
    );
    let inner = proptest::option::weighted(
        0.8,
        proptest::sample::select(&[Array, Hash, LruHash, ProgArray, LpmTrie][..]),
    );
    let strategy = (
        proptest::sample::select(kinds.to_vec()),
        size(),
        size(),
        prop_oneof![6 => 1..40_u32, 1 => Just(0)],
        (flag.clone(), flag),
        inner,
    );
    let mut runner = TestRunner::new(common::cases(2000));
    runner
        .run(
            &strategy,
            |(kind, key_size, value_size, max_entries, flags, inner)| {
                let mut def = def(kind, key_size, value_size, max_entries);
                def.flags = MapFlags(flags.0 | flags.1);
                if kind.is_map_in_map() {
                    let size = if inner == Some(LpmTrie) { 8 } else { 4 };
                    def.inner = inner.map(|kind| Box::new(common::def(kind, size, 4, 4)));
                }
                let ours = Map::new(&def, &MapEnv::with_seed(cpus(), 7))
                    .map(drop)
                    .map_err(|e| e.errno);
                let theirs = KernelMap::new(&def).map(drop);
                prop_assert_eq!(ours, theirs, "{:?}", def);
                Ok(())
            },
        )
        .unwrap();
}

/// Which inner maps a map of maps takes, and what it answers.
#[test]
fn maps_of_maps() {
    if !kernel_available() {
        return;
    }
    use MapType::*;
    let with = |flags, def: MapDef| MapDef { flags, ..def };
    let template = |kind| match kind {
        LpmTrie => def(kind, 8, 8, 4),
        _ => def(kind, 4, 8, 4),
    };
    for (outer, inner) in [ArrayOfMaps, HashOfMaps]
        .into_iter()
        .flat_map(|outer| [Array, PerCpuArray, Hash, LruHash, LpmTrie].map(|inner| (outer, inner)))
    {
        let inner = template(inner);
        let outer = MapDef {
            inner: Some(Box::new(inner.clone())),
            ..def(outer, 4, 4, 2)
        };
        let env = MapEnv::with_seed(cpus(), 7);
        let (ours, theirs) = (
            Map::new(&outer, &env).unwrap(),
            KernelMap::new(&outer).unwrap(),
        );
        let candidates = [
            inner.clone(),
            MapDef {
                max_entries: 9,
                ..inner.clone()
            },
            MapDef {
                value_size: 16,
                ..inner.clone()
            },
            def(Hash, 8, 8, 4),
            def(Array, 4, 8, 4),
            with(MapFlags::INNER_MAP, def(Array, 4, 8, 4)),
            with(MapFlags::NO_PREALLOC, def(Hash, 4, 8, 4)),
        ];
        for key in [0_u32, 1, 2, 0].map(u32::to_ne_bytes) {
            for candidate in &candidates {
                let kernel = KernelMap::new(candidate).unwrap();
                let result = ours.set_inner(&key, Map::new(candidate, &env).unwrap());
                assert_eq!(
                    result,
                    theirs.set_inner(&key, &kernel),
                    "{outer:?} {candidate:?}"
                );
            }
            let present = |value: Option<Vec<u8>>| value.map(|value| value.len());
            assert_eq!(
                ours.sys_lookup(&key).map(present),
                theirs.lookup(&key).map(present)
            );
        }
        let keys = |keys: Vec<Vec<u8>>| keys.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(
            keys(walk(|key| ours.sys_next_key(key).unwrap())),
            keys(walk(|key| theirs.next_key(key).unwrap()))
        );
        for key in [0_u32, 0, 1, 2].map(u32::to_ne_bytes) {
            assert_eq!(ours.sys_delete(&key), theirs.delete(&key), "{outer:?}");
        }
    }
    // An array that may be of any length.
    let inner = with(MapFlags::INNER_MAP, def(Array, 4, 8, 4));
    let outer = MapDef {
        inner: Some(Box::new(inner.clone())),
        ..def(ArrayOfMaps, 4, 4, 2)
    };
    let longer = MapDef {
        max_entries: 9,
        ..inner
    };
    let env = MapEnv::with_seed(cpus(), 7);
    let ours = Map::new(&outer, &env)
        .unwrap()
        .set_inner(&[0; 4], Map::new(&longer, &env).unwrap());
    let theirs = KernelMap::new(&outer)
        .unwrap()
        .set_inner(&[0; 4], &KernelMap::new(&longer).unwrap());
    assert_eq!((ours, theirs), (Ok(()), Ok(())));
}

/// Clearing program arrays; setting needs programs.
#[test]
fn program_arrays() {
    if !kernel_available() {
        return;
    }
    let def = def(MapType::ProgArray, 4, 4, 3);
    let pair = Pair::new(&def);
    for key in [0_u32, 2, 3].map(u32::to_ne_bytes) {
        assert_eq!(pair.ours.sys_lookup(&key), pair.theirs.lookup(&key));
        assert_eq!(pair.ours.sys_delete(&key), pair.theirs.delete(&key));
    }
    let (ours, theirs) = pair.keys();
    assert_eq!(ours, theirs);
}

/// What flags and lengths forbid the control side.
#[test]
fn permissions() {
    if !kernel_available() {
        return;
    }
    for flags in [
        MapFlags::RDONLY,
        MapFlags::WRONLY,
        MapFlags::RDONLY_PROG,
        MapFlags::WRONLY_PROG,
    ] {
        let pair = Pair::new(&MapDef {
            flags,
            ..def(MapType::Hash, 4, 4, 3)
        });
        let key = [1; 4];
        assert_eq!(
            pair.ours.sys_update(&key, &[2; 4], UpdateFlags::ANY),
            pair.theirs.update(&key, &[2; 4], 0)
        );
        assert_eq!(pair.ours.sys_lookup(&key), pair.theirs.lookup(&key));
        assert_eq!(pair.ours.sys_next_key(None), pair.theirs.next_key(None));
        assert_eq!(pair.ours.sys_delete(&key), pair.theirs.delete(&key));
    }
}
