//! SYN cookies: sizes and refusals are the kernel's, and each side accepts its own.

use squalus_isa::{HelperId, MemSize, opcode as o};
use squalus_runtime::asm::R;
use squalus_vm::EngineKind;

use crate::harness::{Arg, Program, frame, may_use_bpf, run};

fn tcp(options: &[u8]) -> Vec<u8> {
    let mut tcp = vec![
        0x12, 0x34, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0,
    ];
    tcp.extend(options);
    tcp.resize(tcp.len().next_multiple_of(4), 0);
    tcp[12] = (tcp.len() as u8 / 4) << 4;
    tcp
}

const V4: (HelperId, HelperId, usize) = (
    HelperId::TCP_RAW_GEN_SYNCOOKIE_IPV4,
    HelperId::TCP_RAW_CHECK_SYNCOOKIE_IPV4,
    20,
);
const V6: (HelperId, HelperId, usize) = (
    HelperId::TCP_RAW_GEN_SYNCOOKIE_IPV6,
    HelperId::TCP_RAW_CHECK_SYNCOOKIE_IPV6,
    40,
);

#[test]
fn segment_sizes_and_refusals_agree() {
    if !may_use_bpf() {
        return;
    }
    for (generate, _, len) in [V4, V6] {
        let mut program = Program::new();
        let ip: Vec<u8> = (0..len as u8).collect();
        let ip = program.input(&ip);
        for size in [0u16, 1, 536, 1219, 1300, 1439, 1440, 1460, 9000, u16::MAX] {
            let [high, low] = size.to_be_bytes();
            for options in [
                vec![2, 4, high, low],
                vec![1, 1, 2, 4, high, low],
                vec![3, 3, 7, 2, 4, high, low, 0],
                vec![2, 4, high, low, 2, 4, 5, 100],
                vec![0, 2, 4, high, low],
                vec![2, 3, high, low],
                vec![8, 0, 2, 4, high, low],
            ] {
                let tcp = tcp(&options);
                let at = program.input(&tcp);
                program.call(generate, &[ip, at, Arg::Num(tcp.len() as u64)]);
            }
        }
        let tcp = program.input(&tcp(&[2, 4, 5, 180]));
        for wrong in [0, 19, 20, 28] {
            program.call(generate, &[ip, tcp, Arg::Num(wrong)]);
        }
        let sizes = |results: Vec<i64>| -> Vec<i64> {
            // The cookie itself is each side's own secret.
            results
                .iter()
                .map(|r| if *r < 0 { *r } else { r >> 32 })
                .collect()
        };
        let want = sizes(run(&mut program.kernel(), &frame()).results());
        for kind in [EngineKind::Interp, EngineKind::Jit] {
            let got = sizes(run(&mut program.vm(kind), &frame()).results());
            assert_eq!(got, want, "{kind:?}");
        }
        assert!(want.contains(&-22) && want.contains(&1440));
    }
}

#[test]
fn each_side_accepts_its_own_cookies_and_no_others() {
    if !may_use_bpf() {
        return;
    }
    for (generate, check, len) in [V4, V6] {
        let mut program = Program::new();
        let ip: Vec<u8> = (0..len as u8).collect();
        let ip = program.input(&ip);
        let syn = program.input(&tcp(&[2, 4, 5, 180]));
        let ack = program.input(&tcp(&[]));
        let made = program.call(generate, &[ip, syn, Arg::Num(24)]);
        // The client's next sequence number, and the cookie plus one as what it acknowledges.
        program.set(1, ack);
        program.code.store(MemSize::W, 1, 4, 0x0503_0201);
        program.set(2, Arg::Result(made));
        program.code.add(2, 1).endian(o::ALU | o::X, 2, 32);
        program.code.store(MemSize::W, 1, 8, R(2));
        program.call(check, &[ip, ack]);
        program.set(1, ack);
        program.code.load(MemSize::W, 2, 1, 8).alu(o::XOR, 2, 0x100);
        program.code.store(MemSize::W, 1, 8, R(2));
        program.call(check, &[ip, ack]);
        let verdicts = |results: Vec<i64>| results[1..3].to_vec();
        assert_eq!(
            verdicts(run(&mut program.kernel(), &frame()).results()),
            [0, -13]
        );
        for kind in [EngineKind::Interp, EngineKind::Jit] {
            assert_eq!(
                verdicts(run(&mut program.vm(kind), &frame()).results()),
                [0, -13]
            );
        }
    }
}
