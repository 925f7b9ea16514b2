//! Random operations from both sides, against a simple model.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{CPUS, Op, control_value, def, value};
use proptest::test_runner::TestRunner;
use squalus_isa::{Errno, MapDef, MapType, UpdateFlags};
use squalus_maps::{Cursor, Map, MapEnv};

/// What a map holds: for each key all CPUs' values.
struct Model {
    def: MapDef,
    entries: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
}

impl Model {
    fn new(def: &MapDef) -> Model {
        let mut model = Model {
            def: def.clone(),
            entries: BTreeMap::new(),
        };
        if model.is_array() {
            for index in 0..def.max_entries {
                model
                    .entries
                    .insert(index.to_ne_bytes().to_vec(), model.zero());
            }
        }
        model
    }

    fn is_array(&self) -> bool {
        matches!(self.def.kind, MapType::Array | MapType::PerCpuArray)
    }

    fn is_lru(&self) -> bool {
        matches!(self.def.kind, MapType::LruHash | MapType::LruPerCpuHash)
    }

    fn copies(&self) -> u32 {
        if self.def.kind.is_per_cpu() { CPUS } else { 1 }
    }

    fn zero(&self) -> Vec<Vec<u8>> {
        vec![vec![0; self.def.value_size as usize]; self.copies() as usize]
    }

    /// A trie's key names a prefix: the bits behind it don't count.
    fn canonical(&self, key: &[u8]) -> Vec<u8> {
        if self.def.kind != MapType::LpmTrie {
            return key.to_vec();
        }
        let len = prefix_len(key).min(key.len() * 8 - 32);
        let bit = |at: usize| key[4 + at / 8] >> (7 - at % 8) & 1;
        (0..len).map(bit).collect()
    }

    fn is_too_long(&self, key: &[u8]) -> bool {
        self.def.kind == MapType::LpmTrie && prefix_len(key) > key.len() * 8 - 32
    }

    fn find(&self, key: &[u8]) -> Option<&Vec<Vec<u8>>> {
        if self.is_too_long(key) {
            return None;
        }
        let key = self.canonical(key);
        if self.def.kind == MapType::LpmTrie {
            return (0..=key.len())
                .rev()
                .find_map(|len| self.entries.get(&key[..len]));
        }
        self.entries.get(&key)
    }

    fn update(&mut self, key: &[u8], seed: u8, flags: u64, cpu: Option<u32>) -> Result<(), Errno> {
        // That there is no lock an array tells a program last.
        let late = self.is_array() && cpu.is_some() && flags & 4 != 0;
        let flags = if late { flags & !4 } else { flags };
        if flags > 2 || self.is_too_long(key) {
            return Err(Errno::EINVAL);
        }
        let key = self.canonical(key);
        let present = self.entries.contains_key(&key);
        if self.is_array() && !present {
            return Err(Errno::E2BIG);
        }
        match (flags, present) {
            (1, true) => return Err(Errno::EEXIST),
            (2, false) => return Err(Errno::ENOENT),
            _ if late => return Err(Errno::EINVAL),
            _ => {}
        }
        if !present && !self.is_lru() && self.entries.len() as u32 == self.def.max_entries {
            let trie = self.def.kind == MapType::LpmTrie;
            return Err(if trie { Errno::ENOSPC } else { Errno::E2BIG });
        }
        let size = self.def.value_size as usize;
        let zero = self.zero();
        let entry = self.entries.entry(key).or_insert(zero);
        for (at, copy) in (0..).zip(entry.iter_mut()) {
            match cpu {
                Some(cpu) if self.def.kind.is_per_cpu() && cpu != at => {}
                Some(_) => *copy = value(seed, 0, size),
                None => *copy = value(seed, at, size),
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Errno> {
        if self.is_array() || self.is_too_long(key) {
            return Err(Errno::EINVAL);
        }
        let key = self.canonical(key);
        self.entries.remove(&key).map(drop).ok_or(Errno::ENOENT)
    }
}

fn prefix_len(key: &[u8]) -> usize {
    u32::from_ne_bytes(key[..4].try_into().unwrap()) as usize
}

struct Subject {
    map: Arc<Map>,
    model: Model,
}

impl Subject {
    fn new(def: &MapDef) -> Subject {
        let map = Map::new(def, &MapEnv::with_seed(CPUS, 42)).unwrap();
        Subject {
            map,
            model: Model::new(def),
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Update {
                key,
                seed,
                flags,
                program,
            } => self.update(key, *seed, *flags, *program),
            Op::Delete { key, program } => {
                let result = if *program {
                    // SAFETY: the key has its size.
                    unsafe { self.map.delete(key.as_ptr()) }
                } else {
                    self.map.sys_delete(key)
                };
                assert_eq!(result, self.model.delete(key));
            }
            Op::Lookup { key, program } => self.lookup(key, *program),
            Op::Walk => self.compare_all(),
            Op::WalkDeleting => self.walk_deleting(),
        }
    }

    fn update(&mut self, key: &[u8], seed: u8, flags: u64, program: Option<u32>) {
        let size = self.map.def().value_size as usize;
        let before = self.model.entries.len();
        let result = match program {
            Some(cpu) => {
                let value = value(seed, 0, size);
                // SAFETY: key and value have their sizes.
                unsafe { self.map.update(key.as_ptr(), value.as_ptr(), flags, cpu) }
            }
            None => {
                let value = control_value(self.map.def().kind, seed, size, CPUS);
                self.map.sys_update(key, &value, UpdateFlags(flags))
            }
        };
        assert_eq!(result, self.model.update(key, seed, flags, program));
        if self.model.is_lru() {
            self.expect_eviction(key, before);
        }
    }

    /// A full LRU map evicts exactly one entry for a new one; others none.
    fn expect_eviction(&mut self, key: &[u8], before: usize) {
        let now = self.keys();
        let gone: Vec<_> = self
            .model
            .entries
            .keys()
            .filter(|key| !now.contains(key))
            .cloned()
            .collect();
        assert!(
            !gone.iter().any(|gone| gone == key),
            "the new entry itself was evicted"
        );
        let full = before as u32 == self.map.def().max_entries;
        let was_new = self.model.entries.len() > before;
        assert_eq!(gone.len(), usize::from(full && was_new));
        for key in gone {
            self.model.entries.remove(&key);
        }
    }

    fn lookup(&self, key: &[u8], program: Option<u32>) {
        let expected = self.model.find(key);
        let Some(cpu) = program else {
            let expected = expected.map(|values| self.concatenated(values));
            assert_eq!(self.map.sys_lookup(key).unwrap(), expected);
            return;
        };
        // SAFETY: the key has its size.
        let found = unsafe { self.map.lookup(key.as_ptr(), cpu) };
        let copy = if self.model.copies() > 1 {
            cpu as usize
        } else {
            0
        };
        let size = self.map.def().value_size as usize;
        // SAFETY: lookups return a value of the value size; nobody else writes.
        let bytes = (!found.is_null()).then(|| unsafe { std::slice::from_raw_parts(found, size) });
        assert_eq!(bytes, expected.map(|values| &values[copy][..]));
        // SAFETY: the key has its size.
        let percpu = unsafe { self.map.lookup_percpu(key.as_ptr(), cpu) };
        let expected = if self.model.copies() > 1 {
            found
        } else {
            std::ptr::null_mut()
        };
        assert_eq!(percpu, expected);
        if !found.is_null() {
            self.check_bounds(found as usize, size);
        }
    }

    fn check_bounds(&self, addr: usize, size: usize) {
        assert_eq!(addr % 8, 0);
        for (from, len, inside) in [
            (addr, size, true),
            (addr, 0, true),
            (addr + size - 1, 1, true),
            (addr, size + 1, false),
            (addr + 1, size, false),
            (addr, usize::MAX, false),
        ] {
            assert_eq!(
                self.map.contains(from, len),
                inside,
                "{} {len}",
                from - addr
            );
        }
        // Before the value is a key, or the end of another element's value.
        assert!(!self.map.contains(addr - 1, 2));
    }

    fn concatenated(&self, values: &[Vec<u8>]) -> Vec<u8> {
        if self.model.copies() == 1 {
            return values[0].clone();
        }
        let padded = |value: &Vec<u8>| {
            let mut value = value.clone();
            value.resize(value.len().next_multiple_of(8), 0);
            value
        };
        values.iter().flat_map(padded).collect()
    }

    fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while let Some(key) = self
            .map
            .sys_next_key(keys.last().map(Vec::as_slice))
            .unwrap()
        {
            keys.push(key);
            assert!(keys.len() < 1000, "the walk does not end");
        }
        keys
    }

    fn compare_all(&self) {
        let keys = self.keys();
        let mut names: Vec<_> = keys.iter().map(|key| self.model.canonical(key)).collect();
        names.sort();
        assert_eq!(
            names,
            self.model.entries.keys().cloned().collect::<Vec<_>>()
        );
        for key in &keys {
            self.lookup(key, None);
            (0..CPUS).for_each(|cpu| self.lookup(key, Some(cpu)));
        }
        if let Some(live) = self.map.live() {
            assert_eq!(live as usize, keys.len());
        }
        if self.map.def().kind != MapType::LpmTrie {
            (0..CPUS).for_each(|cpu| self.walk(&keys, cpu));
        }
        self.batches(&keys);
    }

    /// A program's walk sees what the control side lists, in its order.
    fn walk(&self, keys: &[Vec<u8>], cpu: u32) {
        let mut cursor = Cursor::default();
        let mut key = vec![0; self.map.def().key_size as usize];
        for expected in keys {
            // SAFETY: keys have the key size.
            let (value, found) = unsafe {
                let value = self.map.for_each(&mut cursor, key.as_mut_ptr(), cpu);
                let mut key = expected.clone();
                (value, self.map.lookup(key.as_mut_ptr(), cpu))
            };
            assert_eq!((&key, value), (expected, Some(found)));
        }
        // SAFETY: as above.
        let after = unsafe { self.map.for_each(&mut cursor, key.as_mut_ptr(), cpu) };
        assert_eq!(after, None);
    }

    /// Batches of any length give the same elements.
    fn batches(&self, keys: &[Vec<u8>]) {
        for count in [1, 3, 1000] {
            let (mut cursor, mut found) = (None, Vec::new());
            loop {
                let batch = self
                    .map
                    .sys_lookup_batch(cursor.as_deref(), count, UpdateFlags::ANY)
                    .unwrap();
                assert!(batch.count <= count);
                found.extend(batch.keys);
                cursor = batch.cursor;
                if batch.at_end {
                    break;
                }
            }
            assert_eq!(found, keys.concat());
        }
    }

    /// Deleting the key one stands on starts again from the first.
    fn walk_deleting(&mut self) {
        if self.model.is_array() {
            return;
        }
        while let Some(first) = self.map.sys_next_key(None).unwrap() {
            assert_eq!(self.map.sys_delete(&first), Ok(()));
            assert_eq!(self.model.delete(&first), Ok(()));
            let next = self.map.sys_next_key(Some(&first)).unwrap();
            assert_eq!(next, self.map.sys_next_key(None).unwrap());
            if self.model.entries.len() < 3 {
                break;
            }
        }
        self.compare_all();
    }
}

fn check(defs: &[MapDef]) {
    for def in defs {
        let ops = proptest::collection::vec(common::op(def.kind, def.key_size, true), 1..100);
        TestRunner::new(common::cases(100))
            .run(&ops, |ops| {
                let mut subject = Subject::new(def);
                ops.iter().for_each(|op| subject.run(op));
                subject.compare_all();
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn arrays() {
    check(&[
        def(MapType::Array, 4, 3, 5),
        def(MapType::Array, 4, 8, 9),
        def(MapType::Array, 4, 100, 1),
        def(MapType::PerCpuArray, 4, 12, 9),
        def(MapType::PerCpuArray, 4, 32, 2),
    ]);
}

#[test]
fn hashes() {
    check(&[
        def(MapType::Hash, 1, 3, 4),
        def(MapType::Hash, 4, 4, 1),
        def(MapType::Hash, 8, 16, 20),
        def(MapType::Hash, 20, 8, 9),
        def(MapType::Hash, 40, 16, 11),
        def(MapType::Hash, 99, 7, 5),
        def(MapType::PerCpuHash, 4, 4, 5),
        def(MapType::PerCpuHash, 13, 20, 20),
    ]);
}

#[test]
fn lru_maps() {
    check(&[
        def(MapType::LruHash, 40, 16, 1),
        def(MapType::LruHash, 40, 16, 4),
        def(MapType::LruHash, 40, 4, 20),
        def(MapType::LruHash, 7, 9, 11),
        def(MapType::LruPerCpuHash, 5, 4, 3),
    ]);
}

#[test]
fn tries() {
    check(&[
        def(MapType::LpmTrie, 5, 3, 4),
        def(MapType::LpmTrie, 8, 4, 100),
        def(MapType::LpmTrie, 20, 8, 7),
        def(MapType::LpmTrie, 24, 24, 2),
    ]);
}

/// Sizes other than the map's, which no kernel interface can even express.
#[test]
fn wrong_lengths() {
    let map = Map::new(&def(MapType::Hash, 4, 8, 2), &MapEnv::new(1)).unwrap();
    assert_eq!(map.sys_lookup(&[0; 3]), Err(Errno::EINVAL));
    assert_eq!(map.sys_delete(&[0; 5]), Err(Errno::EINVAL));
    assert_eq!(map.sys_next_key(Some(&[])), Err(Errno::EINVAL));
    assert_eq!(
        map.sys_update(&[0; 4], &[0; 7], UpdateFlags::ANY),
        Err(Errno::EINVAL)
    );
}

#[test]
fn unsupported_types_say_so() {
    let error = Map::new(&def(MapType::StackTrace, 4, 8, 16), &MapEnv::new(1)).unwrap_err();
    assert_eq!(error.errno, Errno::ENOTSUPP);
    assert!(error.to_string().contains("stack_trace"), "{error}");
}

#[test]
fn frozen_maps_take_programs_writes_only() {
    let map = Map::new(&def(MapType::Array, 4, 8, 2), &MapEnv::new(1)).unwrap();
    map.freeze();
    assert_eq!(
        map.sys_update(&[0; 4], &[1; 8], UpdateFlags::ANY),
        Err(Errno::EPERM)
    );
    // SAFETY: key and value have their sizes.
    let result = unsafe { map.update([0; 4].as_ptr(), [1; 8].as_ptr(), 0, 0) };
    assert_eq!(result, Ok(()));
    assert_eq!(map.sys_lookup(&[0; 4]), Ok(Some(vec![1; 8])));
}

#[test]
fn program_arrays_hold_numbers() {
    let map = Map::new(&def(MapType::ProgArray, 4, 4, 3), &MapEnv::new(1)).unwrap();
    assert_eq!(map.program(2), None);
    assert_eq!(map.set_program(2, Some(0)), Ok(()));
    assert_eq!(map.set_program(3, Some(0)), Err(Errno::E2BIG));
    assert_eq!(
        (map.program(2), map.program(1), map.program(3)),
        (Some(0), None, None)
    );
    assert_eq!(map.set_program(2, None), Ok(()));
    assert_eq!(map.set_program(2, None), Err(Errno::ENOENT));
}

#[test]
fn array_bases_lead_to_the_elements() {
    let env = MapEnv::new(4);
    for kind in [MapType::Array, MapType::PerCpuArray] {
        let map = Map::new(&def(kind, 4, 12, 7), &env).unwrap();
        let base = map.array_base().unwrap();
        assert_eq!((base.stride, base.entries), (16, 7));
        for (cpu, index) in (0..4_u32).flat_map(|cpu| (0..7_u32).map(move |index| (cpu, index))) {
            // SAFETY: the key has its size.
            let addr = unsafe { map.lookup(index.to_ne_bytes().as_ptr(), cpu) } as usize;
            let expected =
                base.base + cpu as usize * base.cpu_stride + index as usize * base.stride;
            assert_eq!(addr, expected);
        }
    }
}

/// As in the kernel, whoever holds the old value of a hash reads it unchanged after an update.
#[test]
fn a_replaced_value_stays_readable() {
    for kind in [MapType::Hash, MapType::LruHash, MapType::LpmTrie] {
        let map = Map::new(&def(kind, 8, 8, 4), &MapEnv::new(1)).unwrap();
        let key = 32_u64.to_ne_bytes();
        map.sys_update(&key, &[1; 8], UpdateFlags::ANY).unwrap();
        // SAFETY: the key has its size; the value 8 bytes.
        unsafe {
            let old = map.lookup(key.as_ptr(), 0);
            map.sys_update(&key, &[2; 8], UpdateFlags::ANY).unwrap();
            let new = map.lookup(key.as_ptr(), 0);
            assert_eq!(
                (*old.cast::<[u8; 8]>(), *new.cast::<[u8; 8]>()),
                ([1; 8], [2; 8])
            );
        }
    }
}

/// Inner maps are freed when they were removed, and not before the workers are done with them.
#[test]
fn inner_maps_outlive_their_removal() {
    for kind in [MapType::ArrayOfMaps, MapType::HashOfMaps] {
        let inner = def(MapType::Array, 4, 8, 1);
        let outer = MapDef {
            inner: Some(Box::new(inner.clone())),
            ..def(kind, 4, 4, 2)
        };
        let env = MapEnv::new(1);
        let worker = env.reclaimer.register();
        let (map, key) = (Map::new(&outer, &env).unwrap(), [1, 0, 0, 0]);
        let first = Map::new(&inner, &env).unwrap();
        let weak = Arc::downgrade(&first);
        map.set_inner(&key, first).unwrap();
        // SAFETY: the key has its size; the worker holds inner maps alive.
        let found = unsafe { &*map.lookup(key.as_ptr(), 0).cast::<Map>() };
        map.set_inner(&key, Map::new(&inner, &env).unwrap())
            .unwrap();
        assert_eq!(weak.strong_count(), 1);
        assert_eq!(found.def(), &inner);
        worker.quiescent();
        env.reclaimer.collect();
        assert_eq!(weak.strong_count(), 0);

        let second = Arc::downgrade(&map.get_inner(&key).unwrap().unwrap());
        map.sys_delete(&key).unwrap();
        assert_eq!(map.get_inner(&key).unwrap().map(drop), None);
        worker.pause();
        env.reclaimer.collect();
        assert_eq!(second.strong_count(), 0);

        let third = Map::new(&inner, &env).unwrap();
        let weak = Arc::downgrade(&third);
        map.set_inner(&key, third).unwrap();
        drop(map);
        env.reclaimer.collect();
        assert_eq!(weak.strong_count(), 0, "{kind}");
    }
}

#[test]
fn inner_maps_are_asked_until_one_answers() {
    for kind in [MapType::ArrayOfMaps, MapType::HashOfMaps] {
        let inner = def(MapType::Array, 4, 8, 1);
        let outer = MapDef {
            inner: Some(Box::new(inner.clone())),
            ..def(kind, 4, 4, 20)
        };
        let env = MapEnv::new(1);
        let _worker = env.reclaimer.register();
        let map = Map::new(&outer, &env).unwrap();
        let mut ids = Vec::new();
        for key in [3_u32, 4, 11, 19] {
            let inner = Map::new(&inner, &env).unwrap();
            ids.push(inner.id());
            map.set_inner(&key.to_ne_bytes(), inner).unwrap();
        }
        map.sys_delete(&4_u32.to_ne_bytes()).unwrap();
        ids.remove(1);
        let mut asked = Vec::new();
        // SAFETY: this thread is a worker.
        let answer: Option<()> = unsafe {
            map.find_inner(|inner| {
                asked.push(inner.id());
                None
            })
        };
        assert_eq!(answer, None);
        asked.sort_unstable();
        assert_eq!(asked, ids, "{kind}");
        // SAFETY: as above.
        let answer = unsafe { map.find_inner(|inner| (inner.id() == ids[1]).then_some(7)) };
        assert_eq!(answer, Some(7));
        let array = Map::new(&inner, &env).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { array.find_inner(|_| Some(())) }, None);
    }
}
