//! The packet's limits, and checksums.

use squalus_isa::HelperId;
use squalus_runtime::Rng;

use crate::harness::{Arg, Program, may_use_bpf};

fn number(offset: i32) -> Arg {
    Arg::Num(i64::from(offset).cast_unsigned())
}

#[test]
fn limits_move_alike() {
    if !may_use_bpf() {
        return;
    }
    let offsets = [
        0,
        1,
        -1,
        14,
        -14,
        20,
        -20,
        49,
        50,
        51,
        -50,
        64,
        -212,
        -216,
        -217,
        -256,
        4,
        -4,
        300,
        3456,
        3457,
        i32::MAX,
        i32::MIN,
    ];
    let moves = [HelperId::XDP_ADJUST_HEAD, HelperId::XDP_ADJUST_TAIL];
    for helper in moves {
        for offset in offsets {
            for meta in [0, -4, -32] {
                let mut program = Program::new();
                program.call(HelperId::XDP_ADJUST_META, &[Arg::Ctx, number(meta)]);
                program.call(helper, &[Arg::Ctx, number(offset)]);
                program.call(HelperId::XDP_GET_BUFF_LEN, &[Arg::Ctx]);
                program.compare();
            }
        }
    }
    // One after the other, far past both limits.
    let mut rng = Rng::seeded(5);
    for _ in 0..20 {
        let mut program = Program::new();
        for _ in 0..12 {
            let helper = moves[rng.next_u32() as usize % 2];
            let offset = rng.next_u32() as i32 % 160;
            program.call(helper, &[Arg::Ctx, number(offset)]);
        }
        program.call(HelperId::XDP_GET_BUFF_LEN, &[Arg::Ctx]);
        program.compare();
    }
}

#[test]
fn checksums_differ_alike() {
    if !may_use_bpf() {
        return;
    }
    let mut rng = Rng::seeded(9);
    for fill in [0, 0xff, 1] {
        let mut program = Program::new();
        let bytes: Vec<u8> = (0..160)
            .map(|_| {
                if fill == 1 {
                    rng.next_u32() as u8
                } else {
                    fill
                }
            })
            .collect();
        program.input(&bytes);
        for (from, to) in [
            (0, 4),
            (4, 0),
            (4, 4),
            (8, 20),
            (20, 20),
            (40, 64),
            (64, 64),
            (68, 4),
            (16, 0),
        ] {
            for seed in [0, 1, 0xffff, 0xffff_ffff, 0xffff_fffe] {
                let lengths = [Arg::Num(from), Arg::Num(to)];
                let args = [
                    Arg::In(0),
                    lengths[0],
                    Arg::In(80),
                    lengths[1],
                    Arg::Num(seed),
                ];
                program.call(HelperId::CSUM_DIFF, &args);
            }
        }
        program.compare();
    }
}
