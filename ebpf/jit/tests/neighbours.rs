//! Stores and loads of neighbouring bytes, in orders in which they may become one and in which they may not.

mod common;

use common::agree;
use proptest::prelude::*;
use squalus_isa::{MemSize, opcode as o};
use squalus_runtime::asm::{Asm, R};

/// One step of a program: something is stored in the packet.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many bytes, from one place to another.
    Copy(MemSize, i16, i16),
    /// A number.
    Number(MemSize, i16, i32),
    /// A part of a word that was loaded first, shifted so far.
    Part(MemSize, i16, i32),
    /// A byte through a pointer that is not known to be beside others.
    Elsewhere(i16),
}

fn sizes() -> impl Strategy<Value = MemSize> {
    prop_oneof![
        3 => Just(MemSize::B),
        3 => Just(MemSize::H),
        1 => Just(MemSize::W),
        1 => Just(MemSize::Dw),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let off = || 0_i16..14;
    let step = prop_oneof![
        4 => (sizes(), off(), off()).prop_map(|(s, a, b)| Step::Copy(s, a, b)),
        2 => (sizes(), off(), any::<i32>()).prop_map(|(s, a, n)| Step::Number(s, a, n)),
        2 => (sizes(), off(), 0_i32..8).prop_map(|(s, a, n)| Step::Part(s, a, n * 8)),
        1 => off().prop_map(Step::Elsewhere),
    ];
    prop::collection::vec(step, 1..14)
}

/// Runs of neighbouring bytes, as compilers copy addresses and headers.
fn runs() -> impl Strategy<Value = Vec<Step>> {
    let run = (sizes(), 0_i16..20, 0_i16..20, 2_i16..7, any::<bool>());
    let run = run.prop_map(|(size, from, to, count, falling)| {
        let width = size.bytes() as i16;
        let mut steps: Vec<Step> = (0..count)
            .map(|n| Step::Copy(size, from + n * width, to + n * width))
            .collect();
        if falling {
            steps.reverse();
        }
        steps
    });
    prop::collection::vec(run, 1..4).prop_map(|runs| runs.concat())
}

fn check(steps: &[Step]) {
    let packet: Vec<u8> = (0..100_u8).map(|n| n.wrapping_mul(37)).collect();
    let mut asm = Asm::new();
    let out = asm.label();
    // r6 is the packet, r7 a word of it, r8 another place in it.
    asm.load(MemSize::W, 6, 1, 0)
        .load(MemSize::W, 3, 1, 4)
        .mov(0, 0)
        .mov(2, R(6))
        .add(2, 96)
        .jump_if(o::JGT, 2, R(3), out)
        .load(MemSize::Dw, 7, 6, 72)
        .load(MemSize::B, 8, 6, 80)
        .alu(o::AND, 8, 7)
        .add(8, R(6));
    for step in steps {
        match *step {
            Step::Copy(size, from, to) => {
                asm.load(size, 4, 6, from).store(size, 6, to, R(4));
            }
            Step::Number(size, to, number) => {
                asm.store(size, 6, to, number);
            }
            Step::Part(size, to, by) => {
                asm.mov(4, R(7)).alu(o::RSH, 4, by).store(size, 6, to, R(4));
            }
            Step::Elsewhere(to) => {
                asm.store(MemSize::B, 8, to, 0x5a);
            }
        }
    }
    asm.mov(0, 2).bind(out).exit();
    agree(&[asm.finish()], &[], &packet);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn stores_in_any_order_agree(steps in steps()) {
        check(&steps);
    }

    #[test]
    fn runs_of_copies_agree(steps in runs()) {
        check(&steps);
    }
}
