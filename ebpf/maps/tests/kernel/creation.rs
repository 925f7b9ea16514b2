//! Creating maps of random types, sizes and flags succeeds or fails alike.

use MapType::*;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use squalus_isa::{MapDef, MapFlags, MapType, ValueFields};
use squalus_maps::{Map, MapEnv};

use crate::common::{self, def};
use crate::kernel_available;
use crate::sys::{KernelMap, cpus};

const KINDS: [MapType; 19] = [
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
    Queue,
    Stack,
    BloomFilter,
    DevMap,
    DevMapHash,
    CpuMap,
    XskMap,
    RingBuf,
    PerfEventArray,
];

/// All flags that have a meaning for some map, and one that has none.
const FLAGS: [u32; 16] = [
    0,
    0,
    0,
    1,
    1,
    1 << 1,
    1 << 2,
    1 << 3,
    1 << 4,
    1 << 6,
    1 << 7,
    1 << 8,
    1 << 10,
    1 << 11,
    1 << 12,
    1 << 20,
];

const SIZES: [u32; 14] = [
    0,
    1,
    3,
    4,
    5,
    8,
    12,
    260,
    261,
    32768,
    32769,
    4 << 20,
    (4 << 20) - 300,
    (4 << 20) - 400,
];

/// A map that can be an inner one, or cannot because of its type.
fn inner(kind: MapType) -> MapDef {
    match kind {
        LpmTrie => def(kind, 8, 4, 4),
        Queue | Stack | BloomFilter => def(kind, 0, 4, 4),
        RingBuf => def(kind, 0, 0, 4096),
        ArrayOfMaps | HashOfMaps => MapDef {
            inner: Some(Box::new(def(Array, 4, 4, 4))),
            ..def(kind, 4, 4, 4)
        },
        _ => def(kind, 4, 4, 4),
    }
}

fn sizes(kind: MapType) -> BoxedStrategy<(u32, u32, u32)> {
    let any = || prop_oneof![3 => Just(4_u32), 2 => select(&SIZES[..])];
    let none = || prop_oneof![9 => Just(0_u32), 1 => any()];
    let few = || prop_oneof![6 => 1..40_u32, 1 => Just(0)];
    match kind {
        Queue | Stack | BloomFilter => (none(), any(), few()).boxed(),
        RingBuf => {
            let lengths = prop_oneof![3 => (8..20_u32).prop_map(|bits| 1 << bits), 1 => few()];
            (none(), none(), lengths).boxed()
        }
        DevMap | XskMap => (any(), prop_oneof![Just(8), any()], few()).boxed(),
        // Of these the kernel refuses some lengths before it allocates anything.
        DevMapHash => {
            let many = Just((1_u32 << 31) + 1);
            (any(), any(), prop_oneof![8 => few(), 1 => many]).boxed()
        }
        CpuMap => {
            let many = Just(1_u32 << 20);
            let value = prop_oneof![Just(8), any()];
            (any(), value, prop_oneof![8 => few(), 1 => many]).boxed()
        }
        Hash | LruHash => {
            let many = Just((1_u32 << 27) + 1);
            (any(), any(), prop_oneof![20 => few(), 1 => many]).boxed()
        }
        _ => (any(), any(), few()).boxed(),
    }
}

fn attributes() -> impl Strategy<Value = MapDef> {
    select(&KINDS[..]).prop_flat_map(|kind| {
        let flags = (select(&FLAGS[..]), select(&FLAGS[..])).prop_map(|(a, b)| a | b);
        let holds = proptest::option::weighted(0.8, select(&KINDS[..]));
        let extra = if kind == BloomFilter {
            prop_oneof![4 => 0..17_u64, 1 => Just(1 << 32)].boxed()
        } else {
            prop_oneof![19 => Just(0_u64), 1 => Just(1)].boxed()
        };
        (sizes(kind), flags, holds, extra, 0..20_u8).prop_map(
            move |((key_size, value_size, max_entries), flags, holds, extra, fields)| {
                let holds = holds.filter(|_| kind.is_map_in_map());
                let plain = MapDef {
                    flags: MapFlags(flags),
                    inner: holds.map(|kind| Box::new(inner(kind))),
                    extra,
                    ..def(kind, key_size, value_size, max_entries)
                };
                with_fields(plain, fields)
            },
        )
    })
}

/// Some have a lock or a timer; then the type of keys has four bytes.
fn with_fields(def: MapDef, choice: u8) -> MapDef {
    let possible = matches!(
        def.kind,
        Array | PerCpuArray | Hash | PerCpuHash | LruHash | LruPerCpuHash
    );
    let (lock, timer) = (choice & 1 != 0, choice & 2 != 0);
    if !possible || choice > 3 {
        return def;
    }
    MapDef {
        key_size: 4,
        value_size: 32,
        fields: ValueFields {
            spin_lock: lock.then_some(4),
            timer: timer.then_some(16),
        },
        ..def
    }
}

#[test]
fn creation() {
    if !kernel_available() {
        return;
    }
    TestRunner::new(common::cases(4000))
        .run(&attributes(), |def| {
            let ours = Map::new(&def, &MapEnv::with_seed(cpus(), 7))
                .map(drop)
                .map_err(|error| error.errno);
            let theirs = KernelMap::new(&def).map(drop);
            prop_assert_eq!(ours, theirs, "{:?}", def);
            Ok(())
        })
        .unwrap();
}
