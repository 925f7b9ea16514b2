//! Elements of data maps: random steps of the control side.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use squalus_isa::{MapDef, MapFlags, MapType, ValueFields};

use crate::common::{self, Op, def};
use crate::kernel_available;
use crate::pair::{Pair, Step, step};

fn with(flags: MapFlags, def: MapDef) -> MapDef {
    MapDef { flags, ..def }
}

fn compare(defs: &[MapDef]) {
    if !kernel_available() {
        return;
    }
    for def in defs {
        let steps = proptest::collection::vec(step(def.kind, def.key_size), 1..80);
        run(def, 60, steps.boxed());
    }
}

fn run(def: &MapDef, cases: u32, steps: BoxedStrategy<Vec<Step>>) {
    TestRunner::new(common::cases(cases))
        .run(&steps, |steps| {
            let pair = Pair::new(def);
            steps.iter().for_each(|step| pair.run(step));
            pair.compare_all();
            Ok(())
        })
        .unwrap();
}

#[test]
fn arrays() {
    compare(&[
        def(MapType::Array, 4, 1, 5),
        def(MapType::Array, 4, 12, 8),
        with(MapFlags::MMAPABLE, def(MapType::Array, 4, 12, 8)),
        with(MapFlags::INNER_MAP, def(MapType::Array, 4, 12, 8)),
        with(MapFlags::NUMA_NODE, def(MapType::Array, 4, 8, 3)),
        def(MapType::PerCpuArray, 4, 12, 5),
        def(MapType::PerCpuArray, 4, 8, 1),
    ]);
}

#[test]
fn hashes() {
    compare(&[
        def(MapType::Hash, 1, 1, 5),
        def(MapType::Hash, 4, 8, 1),
        def(MapType::Hash, 20, 8, 30),
        def(MapType::Hash, 77, 5, 9),
        with(MapFlags::NO_PREALLOC, def(MapType::Hash, 12, 24, 7)),
        with(MapFlags::ZERO_SEED, def(MapType::Hash, 40, 16, 12)),
        with(MapFlags::NUMA_NODE, def(MapType::Hash, 4, 16, 12)),
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
    compare(&[
        def(MapType::LruHash, 40, 16, 1000),
        def(MapType::LruPerCpuHash, 4, 12, 1000),
        with(MapFlags::NO_COMMON_LRU, def(MapType::LruHash, 4, 4, 1000)),
        with(
            MapFlags::NO_COMMON_LRU,
            def(MapType::LruPerCpuHash, 8, 12, 1000),
        ),
    ]);
}

#[test]
fn queues_and_stacks() {
    compare(&[
        def(MapType::Queue, 0, 4, 1),
        def(MapType::Queue, 0, 12, 5),
        def(MapType::Stack, 0, 4, 1),
        def(MapType::Stack, 0, 13, 6),
    ]);
}

/// Values with spin locks and timers.
#[test]
fn fields() {
    let fields = |spin_lock, timer, def: MapDef| MapDef {
        fields: ValueFields { spin_lock, timer },
        ..def
    };
    compare(&[
        fields(Some(0), None, def(MapType::Array, 4, 4, 3)),
        fields(Some(4), None, def(MapType::Array, 4, 24, 3)),
        fields(Some(24), Some(8), def(MapType::Array, 4, 28, 3)),
        fields(Some(20), None, def(MapType::Hash, 4, 27, 3)),
        fields(None, Some(8), def(MapType::Hash, 4, 30, 3)),
        fields(
            Some(0),
            Some(16),
            with(MapFlags::NO_PREALLOC, def(MapType::Hash, 4, 32, 5)),
        ),
        fields(None, Some(0), def(MapType::LruHash, 4, 24, 1000)),
    ]);
}

/// What flags forbid the control side, and freezing.
#[test]
fn permissions() {
    if !kernel_available() {
        return;
    }
    let defs = [
        def(MapType::Array, 4, 8, 5),
        def(MapType::PerCpuArray, 4, 8, 5),
        def(MapType::Hash, 4, 8, 5),
        def(MapType::LruHash, 4, 8, 1000),
        def(MapType::LpmTrie, 8, 8, 5),
        def(MapType::Queue, 0, 8, 5),
        def(MapType::Stack, 0, 8, 5),
        def(MapType::DevMap, 4, 4, 5),
        def(MapType::DevMapHash, 4, 4, 5),
        def(MapType::XskMap, 4, 4, 5),
    ];
    let access = [
        MapFlags(0),
        MapFlags::RDONLY,
        MapFlags::WRONLY,
        MapFlags::RDONLY_PROG,
        MapFlags::WRONLY_PROG,
    ];
    for def in &defs {
        let redirection = matches!(
            def.kind,
            MapType::DevMap | MapType::DevMapHash | MapType::XskMap
        );
        for flags in access {
            if redirection && flags.0 & 0x180 != 0 {
                continue;
            }
            let def = with(MapFlags(flags.0 | def.flags.0), def.clone());
            let step = prop_oneof![
                8 => step(def.kind, def.key_size),
                1 => Just(Step::Freeze),
            ];
            // References and walks have their own tests; here the rest must not depend on the map's content.
            let step = step.prop_filter("elements", move |step| {
                let update = matches!(
                    step,
                    Step::Plain(Op::Update { .. }) | Step::UpdateBatch { .. }
                );
                let walk = matches!(step, Step::Plain(Op::Walk | Op::WalkDeleting));
                !(walk || redirection && update)
            });
            let steps = proptest::collection::vec(step, 1..20).boxed();
            run_unread(&def, steps);
        }
    }
}

/// Without the comparison at the end, for maps that may not be read.
fn run_unread(def: &MapDef, steps: BoxedStrategy<Vec<Step>>) {
    TestRunner::new(common::cases(20))
        .run(&steps, |steps| {
            let pair = Pair::new(def);
            steps.iter().for_each(|step| pair.run(step));
            Ok(())
        })
        .unwrap();
}

/// With the seed zero, the same values give the same answers, false ones included; else at least what was
/// pushed is found.
#[test]
fn bloom_filters() {
    if !kernel_available() {
        return;
    }
    for (value_size, entries, extra) in [
        (4, 3, 0),
        (1, 1, 1),
        (7, 20, 3),
        (12, 5, 15),
        (24, 30, 2),
        (64, 100, 0),
    ] {
        for flags in [MapFlags::ZERO_SEED, MapFlags(0)] {
            let def = MapDef {
                extra,
                ..with(flags, def(MapType::BloomFilter, 0, value_size, entries))
            };
            let step = (
                any::<u8>(),
                0..5_u8,
                prop_oneof![9 => Just(0_u64), 1 => 1..9_u64],
            );
            let steps = proptest::collection::vec(step, 1..200);
            TestRunner::new(common::cases(20))
                .run(&steps, |steps| {
                    let pair = Pair::new(&def);
                    bloom_steps(&pair, &steps, flags == MapFlags::ZERO_SEED);
                    Ok(())
                })
                .unwrap();
        }
    }
}

fn bloom_steps(pair: &Pair, steps: &[(u8, u8, u64)], same_hash: bool) {
    let size = pair.theirs.def.value_size as usize;
    let mut pushed = std::collections::HashSet::new();
    for &(seed, op, flags) in steps {
        let value = common::value(seed, 0, size);
        if op == 0 {
            let ours = pair
                .ours
                .sys_update(&[], &value, squalus_isa::UpdateFlags(flags));
            assert_eq!(ours, pair.theirs.update(&[], &value, flags));
            if ours.is_ok() {
                pushed.insert(seed);
            }
        }
        let (ours, theirs) = (pair.ours.sys_peek(&value), pair.theirs.peek(&value));
        if same_hash {
            assert_eq!(ours, theirs, "{value:?}");
        }
        if pushed.contains(&seed) {
            assert_eq!((ours, theirs), (Ok(true), Ok(true)));
        }
    }
    assert_eq!(pair.ours.sys_delete(&[]), pair.theirs.delete(&[]));
    assert_eq!(pair.ours.sys_next_key(None), pair.theirs.next_key(None));
}
