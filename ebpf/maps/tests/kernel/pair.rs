//! One map on both sides, and random steps for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use squalus_isa::{Errno, MapDef, MapType, UpdateFlags};
use squalus_maps::{Batch, Map, MapEnv};

use crate::common::{self, Op, control_value};
use crate::sys::{self, KernelMap, cpus};

/// What both sides are asked to do.
#[derive(Clone, Debug)]
pub enum Step {
    /// One that the model knows, too.
    Plain(Op),
    Lookup {
        key: Vec<u8>,
        flags: u64,
    },
    LookupAndDelete {
        key: Vec<u8>,
        flags: u64,
    },
    UpdateBatch {
        elements: Vec<(Vec<u8>, u8)>,
        flags: u64,
    },
    DeleteBatch {
        keys: Vec<Vec<u8>>,
        flags: u64,
    },
    /// All elements, in batches of so many.
    LookupBatches {
        count: u32,
        flags: u64,
    },
    /// The same, deleting them.
    TakeBatches {
        count: u32,
    },
    Freeze,
}

/// A step for a map of this type. Maps without keys have empty ones.
pub fn step(kind: MapType, key_size: u32) -> BoxedStrategy<Step> {
    let key = move || common::key(kind, key_size);
    let flags = || prop_oneof![6 => Just(0_u64), 1 => Just(4), 1 => Just(1), 1 => Just(1 << 40)];
    let elements = proptest::collection::vec((key(), any::<u8>()), 0..6);
    let keys = proptest::collection::vec(key(), 0..6);
    prop_oneof![
        18 => common::op(kind, key_size, false).prop_map(Step::Plain),
        2 => (key(), flags()).prop_map(|(key, flags)| Step::Lookup { key, flags }),
        2 => (key(), flags()).prop_map(|(key, flags)| Step::LookupAndDelete { key, flags }),
        2 => (elements, flags()).prop_map(|(elements, flags)| Step::UpdateBatch { elements, flags }),
        2 => (keys, flags()).prop_map(|(keys, flags)| Step::DeleteBatch { keys, flags }),
        1 => (0..20_u32, flags()).prop_map(|(count, flags)| Step::LookupBatches { count, flags }),
        1 => (1..20_u32).prop_map(|count| Step::TakeBatches { count }),
    ]
    .boxed()
}

pub struct Pair {
    pub ours: Arc<Map>,
    pub theirs: KernelMap,
}

/// Keys and values, the same number of each.
type Elements = BTreeMap<Vec<u8>, Vec<u8>>;

impl Pair {
    pub fn new(def: &MapDef) -> Pair {
        Pair {
            ours: Map::new(def, &MapEnv::with_seed(cpus(), 7)).unwrap(),
            theirs: KernelMap::new(def).unwrap(),
        }
    }

    fn kind(&self) -> MapType {
        self.theirs.def.kind
    }

    fn value(&self, seed: u8) -> Vec<u8> {
        let size = self.theirs.def.value_size as usize;
        control_value(self.kind(), seed, size, cpus())
    }

    pub fn run(&self, step: &Step) {
        match step {
            Step::Plain(op) => self.plain(op),
            Step::Lookup { key, flags } => assert_eq!(
                self.ours.sys_lookup_with(key, UpdateFlags(*flags)),
                self.theirs.lookup(key, *flags),
            ),
            Step::LookupAndDelete { key, flags } => assert_eq!(
                self.ours.sys_lookup_and_delete(key, UpdateFlags(*flags)),
                self.theirs.lookup_and_delete(key, *flags),
            ),
            Step::UpdateBatch { elements, flags } => self.update_batch(elements, *flags),
            Step::DeleteBatch { keys, flags } => {
                let keys = keys.concat();
                let ours = self.ours.sys_delete_batch(&keys, UpdateFlags(*flags));
                let ours = ours.map_err(|error| (error.done, error.errno));
                assert_eq!(ours, self.theirs.delete_batch(&keys, *flags));
            }
            Step::LookupBatches { count, flags } => self.batches(*count, *flags, false),
            Step::TakeBatches { count } => self.batches(*count, 0, true),
            Step::Freeze => assert_eq!(self.ours.sys_freeze(), self.theirs.freeze()),
        }
    }

    fn plain(&self, op: &Op) {
        match op {
            Op::Update {
                key, seed, flags, ..
            } => {
                let value = self.value(*seed);
                assert_eq!(
                    self.ours.sys_update(key, &value, UpdateFlags(*flags)),
                    self.theirs.update(key, &value, *flags),
                );
            }
            Op::Delete { key, .. } => {
                assert_eq!(self.ours.sys_delete(key), self.theirs.delete(key));
            }
            Op::Lookup { key, .. } => {
                assert_eq!(self.ours.sys_lookup(key), self.theirs.lookup(key, 0));
            }
            Op::Walk => self.compare_all(),
            Op::WalkDeleting => self.walk_deleting(),
        }
    }

    fn update_batch(&self, elements: &[(Vec<u8>, u8)], flags: u64) {
        let keys: Vec<u8> = elements.iter().flat_map(|(key, _)| key.clone()).collect();
        let values: Vec<u8> = elements
            .iter()
            .flat_map(|&(_, seed)| self.value(seed))
            .collect();
        let ours = self
            .ours
            .sys_update_batch(&keys, &values, UpdateFlags(flags));
        let ours = ours.map_err(|error| (error.done, error.errno));
        assert_eq!(ours, self.theirs.update_batch(&keys, &values, flags));
    }

    pub fn keys(&self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        (
            walk(|key| self.ours.sys_next_key(key).unwrap()),
            walk(|key| self.theirs.next_key(key).unwrap()),
        )
    }

    fn is_ordered(&self) -> bool {
        matches!(
            self.kind(),
            MapType::LpmTrie
                | MapType::Array
                | MapType::PerCpuArray
                | MapType::ArrayOfMaps
                | MapType::DevMap
                | MapType::CpuMap
                | MapType::XskMap
        )
    }

    pub fn compare_all(&self) {
        let (first_of_ours, first_of_theirs) =
            (self.ours.sys_next_key(None), self.theirs.next_key(None));
        if first_of_ours.is_err() || first_of_theirs.is_err() {
            assert_eq!(first_of_ours, first_of_theirs);
            return;
        }
        let (ours, theirs) = self.keys();
        if self.is_ordered() {
            assert_eq!(ours, theirs, "order of keys");
        }
        let set: BTreeSet<_> = ours.iter().collect();
        assert_eq!(set.len(), ours.len(), "each key once");
        assert_eq!(set, theirs.iter().collect());
        for key in &ours {
            assert_eq!(self.ours.sys_lookup(key), self.theirs.lookup(key, 0));
        }
    }

    fn walk_deleting(&self) {
        if self.ours.sys_next_key(None).is_err() {
            return;
        }
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

    /// Walks both sides in batches. Where the order is ours, only the elements must be equal.
    fn batches(&self, count: u32, flags: u64, take: bool) {
        let ours = |cursor: Option<&[u8]>| {
            let flags = UpdateFlags(flags);
            if take {
                self.ours.sys_lookup_and_delete_batch(cursor, count, flags)
            } else {
                self.ours.sys_lookup_batch(cursor, count, flags)
            }
        };
        let first = ours(None);
        let command = if take {
            sys::LOOKUP_AND_DELETE_BATCH
        } else {
            sys::LOOKUP_BATCH
        };
        let theirs =
            |cursor: Option<&[u8]>, count| self.theirs.read_batch(command, cursor, count, flags);
        let errno = match first {
            Err(errno) => Err(errno),
            Ok(_) => Ok(()),
        };
        if errno.is_err() || count == 0 {
            assert_eq!(errno, theirs(None, count).result);
        } else if self.is_ordered() {
            same_batches(
                first.unwrap(),
                |cursor| ours(cursor).unwrap(),
                |cursor| theirs(cursor, count),
            );
        } else {
            let ours = all_of_ours(first.unwrap(), |cursor| ours(cursor).unwrap());
            assert_eq!(ours, self.all_of_theirs(theirs));
        }
        if take {
            self.compare_all();
        }
    }

    fn all_of_theirs(&self, batch: impl Fn(Option<&[u8]>, u32) -> sys::Batch) -> Elements {
        let mut all = Elements::new();
        // A bucket must fit into a batch: of at least as many as the map can hold.
        let count = self.theirs.def.max_entries.max(16).next_multiple_of(cpus());
        let mut cursor: Option<Vec<u8>> = None;
        loop {
            let batch = batch(cursor.as_deref(), count);
            collect(&mut all, batch.count, &batch.keys, &batch.values);
            match batch.result {
                Ok(()) => cursor = Some(batch.cursor),
                Err(Errno::ENOENT) => return all,
                Err(errno) => panic!("{errno}"),
            }
        }
    }
}

fn all_of_ours(first: Batch, batch: impl Fn(Option<&[u8]>) -> Batch) -> Elements {
    let mut all = Elements::new();
    let mut next = first;
    loop {
        collect(&mut all, next.count, &next.keys, &next.values);
        if next.at_end {
            return all;
        }
        next = batch(next.cursor.as_deref());
    }
}

fn collect(all: &mut Elements, count: u32, keys: &[u8], values: &[u8]) {
    if count == 0 {
        return;
    }
    let (key, value) = (keys.len() / count as usize, values.len() / count as usize);
    for (key, value) in keys.chunks(key).zip(values.chunks(value)) {
        let twice = all.insert(key.to_vec(), value.to_vec());
        assert_eq!(twice, None, "each key once");
    }
}

/// Step by step the same, cursors included.
fn same_batches(
    first: Batch,
    ours: impl Fn(Option<&[u8]>) -> Batch,
    theirs: impl Fn(Option<&[u8]>) -> sys::Batch,
) {
    let (mut next, mut cursor) = (first, None);
    loop {
        let kernel = theirs(cursor.as_deref());
        assert_eq!(
            (next.count, &next.keys, &next.values),
            (kernel.count, &kernel.keys, &kernel.values)
        );
        let end = if next.at_end {
            Err(Errno::ENOENT)
        } else {
            Ok(())
        };
        assert_eq!(end, kernel.result);
        if next.at_end {
            return;
        }
        assert_eq!(next.cursor.as_deref(), Some(&kernel.cursor[..]));
        cursor = Some(kernel.cursor);
        next = ours(cursor.as_deref());
    }
}

pub fn walk(next: impl Fn(Option<&[u8]>) -> Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    while let Some(key) = next(keys.last().map(Vec::as_slice)) {
        keys.push(key);
        assert!(keys.len() < 1000, "the walk does not end");
    }
    keys
}
