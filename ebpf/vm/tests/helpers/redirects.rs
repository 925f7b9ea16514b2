//! Redirects: results for every kind of map, entries present and absent, all flags.

use squalus_engine::MapAccess;
use squalus_isa::{HelperId, MapType, UpdateFlags};

use crate::harness::{Arg, Program, frame, may_use_bpf, plain};

const FLAGS: [u64; 12] = [0, 1, 2, 3, 4, 8, 9, 16, 24, 26, 32, 1 << 33];

fn all_flags(kind: MapType, value_size: u32, value: Option<&[u8]>) -> Vec<i64> {
    let mut program = Program::new();
    let map = program.map(plain("targets", kind, (4, value_size), 4));
    for key in [0, 1, 9, 1 << 32] {
        for flags in FLAGS {
            program.call(
                HelperId::REDIRECT_MAP,
                &[map, Arg::Num(key), Arg::Num(flags)],
            );
        }
    }
    let prepare = |engine: &dyn MapAccess| {
        if let Some(value) = value {
            let any = UpdateFlags::ANY;
            engine
                .update("targets".into(), &[0; 4], value, any)
                .unwrap();
        }
    };
    program.compare_after(&frame(), &prepare).results()
}

#[test]
fn entries_redirect_and_their_absence_gives_the_flags_verdict() {
    if !may_use_bpf() {
        return;
    }
    // Interface 1 is the loopback everywhere.
    let lo = 1u32.to_ne_bytes();
    let with_program = [1u32.to_ne_bytes(), [0; 4]].concat();
    for kind in [MapType::DevMap, MapType::DevMapHash] {
        let results = all_flags(kind, 4, Some(&lo));
        assert_eq!(results[..6], [4, 4, 4, 4, 0, 4]);
        all_flags(kind, 8, Some(&with_program));
        all_flags(kind, 4, None);
    }
    let results = all_flags(MapType::CpuMap, 4, Some(&64u32.to_ne_bytes()));
    assert_eq!(results[..6], [4, 4, 4, 4, 0, 0]);
    all_flags(MapType::XskMap, 4, None);
}

#[test]
fn plain_redirects_take_no_flags() {
    if !may_use_bpf() {
        return;
    }
    let mut program = Program::new();
    for ifindex in [0, 1, 1 << 32] {
        for flags in FLAGS {
            program.call(HelperId::REDIRECT, &[Arg::Num(ifindex), Arg::Num(flags)]);
        }
    }
    program.compare();
}
