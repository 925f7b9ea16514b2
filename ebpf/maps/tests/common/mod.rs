//! What the tests of maps share: definitions, and random operations.
#![allow(dead_code, reason = "not every test file uses everything")]

use proptest::prelude::*;
use squalus_isa::{MapDef, MapFlags, MapType};

/// So many random cases, times `SQUALUS_CASES`. Failures are printed whole, so none is kept in a file.
pub fn cases(cases: u32) -> ProptestConfig {
    let times = std::env::var("SQUALUS_CASES").map_or(1, |times| times.parse().unwrap());
    let cases = cases * times;
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

pub fn def(kind: MapType, key_size: u32, value_size: u32, max_entries: u32) -> MapDef {
    MapDef {
        flags: if kind == MapType::LpmTrie {
            MapFlags::NO_PREALLOC
        } else {
            MapFlags(0)
        },
        ..MapDef::new(kind.name(), kind, (key_size, value_size), max_entries)
    }
}

/// An operation on a map: on the program side with a CPU, or on the control side.
#[derive(Clone, Debug)]
pub enum Op {
    Update {
        key: Vec<u8>,
        seed: u8,
        flags: u64,
        program: Option<u32>,
    },
    Delete {
        key: Vec<u8>,
        program: bool,
    },
    Lookup {
        key: Vec<u8>,
        program: Option<u32>,
    },
    /// Lists all keys.
    Walk,
    /// Lists all keys and deletes every second one on the way.
    WalkDeleting,
}

pub const CPUS: u32 = 3;

/// Keys of a small domain, so that operations meet.
pub fn key(kind: MapType, size: u32) -> BoxedStrategy<Vec<u8>> {
    let size = size as usize;
    if size == 0 {
        return Just(Vec::new()).boxed();
    }
    match kind {
        MapType::Array
        | MapType::PerCpuArray
        | MapType::ArrayOfMaps
        | MapType::DevMap
        | MapType::CpuMap
        | MapType::XskMap => (0..12_u32)
            .prop_map(|index| index.to_ne_bytes().to_vec())
            .boxed(),
        MapType::LpmTrie => (
            0..=(size as u32 * 8 - 28),
            proptest::collection::vec(0..4_u8, size - 4),
        )
            .prop_map(|(len, data)| {
                let data = data
                    .into_iter()
                    .map(|bits| [0, 0x80, 0x81, 0xff][bits as usize]);
                len.to_ne_bytes().into_iter().chain(data).collect()
            })
            .boxed(),
        // Keys that differ in one place only, at either end.
        _ => (0..12_u8, any::<bool>())
            .prop_map(move |(id, end)| {
                let mut key = vec![0x5a; size];
                key[if end { size - 1 } else { 0 }] = id;
                key
            })
            .boxed(),
    }
}

pub fn op(kind: MapType, key_size: u32, program_side: bool) -> BoxedStrategy<Op> {
    let key = move || key(kind, key_size);
    let cpu = move || {
        if program_side {
            proptest::option::of(0..CPUS).boxed()
        } else {
            Just(None).boxed()
        }
    };
    let flags = prop_oneof![6 => Just(0_u64), 2 => Just(1), 2 => Just(2), 1 => 3..8_u64, 1 => Just(1 << 40)];
    prop_oneof![
        8 => (key(), any::<u8>(), flags, cpu())
            .prop_map(|(key, seed, flags, program)| Op::Update { key, seed, flags, program }),
        4 => (key(), any::<bool>())
            .prop_map(move |(key, program)| Op::Delete { key, program: program && program_side }),
        4 => (key(), cpu()).prop_map(|(key, program)| Op::Lookup { key, program }),
        1 => Just(Op::Walk),
        1 => Just(Op::WalkDeleting),
    ]
    .boxed()
}

/// A value of one CPU.
pub fn value(seed: u8, cpu: u32, size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| {
            seed.wrapping_mul(31)
                .wrapping_add(at as u8)
                .wrapping_add(cpu as u8 * 97)
        })
        .collect()
}

/// The value of a control-side update: of all CPUs, each padded.
pub fn control_value(kind: MapType, seed: u8, size: usize, cpus: u32) -> Vec<u8> {
    if !kind.is_per_cpu() {
        return value(seed, 0, size);
    }
    (0..cpus)
        .flat_map(|cpu| {
            let mut value = value(seed, cpu, size);
            value.resize(size.next_multiple_of(8), 0);
            value
        })
        .collect()
}
