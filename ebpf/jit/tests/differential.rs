//! Generated programs give the same result compiled and interpreted, and no fact about them is false.

mod common;

use proptest::prelude::*;
use squalus_isa::{Insn, MemSize, opcode as o};
use squalus_runtime::asm::{Asm, Label, R, Src};

/// Bytes of stack that generated programs use.
const STACK: i16 = 48;
/// Bytes of the packet that they have checked for.
const PACKET: i16 = 40;

/// One step of a generated program. Registers are r0 to r5, r7 and r8; r6 points to the packet.
#[derive(Clone, Debug)]
enum Op {
    Alu {
        wide: bool,
        op: u8,
        off: i16,
        dst: u8,
        src: Operand,
    },
    MovSx {
        wide: bool,
        bits: i16,
        dst: u8,
        src: u8,
    },
    Neg {
        wide: bool,
        dst: u8,
    },
    Endian {
        op: u8,
        bits: i32,
        dst: u8,
    },
    Imm64 {
        dst: u8,
        value: u64,
    },
    Jump {
        wide: bool,
        cond: u8,
        dst: u8,
        src: Operand,
        skip: usize,
    },
    Load {
        size: MemSize,
        signed: bool,
        dst: u8,
        place: Place,
    },
    Store {
        size: MemSize,
        src: Operand,
        place: Place,
    },
    Atomic {
        wide: bool,
        op: i32,
        src: u8,
        slot: i16,
    },
    /// A pointer into the packet at a masked offset, and a load there.
    Index {
        dst: u8,
        by: u8,
    },
    /// A call of the subprogram.
    Call,
}

#[derive(Clone, Copy, Debug)]
enum Operand {
    Reg(u8),
    Imm(i32),
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Stack(i16),
    Packet(i16),
}

impl From<Operand> for Src {
    fn from(operand: Operand) -> Src {
        match operand {
            Operand::Reg(reg) => Src::Reg(reg),
            Operand::Imm(imm) => Src::Imm(imm),
        }
    }
}

fn reg() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![0u8, 1, 2, 3, 4, 5, 7, 8])
}

fn imm() -> impl Strategy<Value = i32> {
    prop_oneof![
        -4i32..20,
        any::<i32>(),
        prop::sample::select(vec![
            0,
            1,
            -1,
            i32::MIN,
            i32::MAX,
            255,
            0xffff,
            31,
            32,
            63,
            64
        ])
    ]
}

fn operand() -> impl Strategy<Value = Operand> {
    prop_oneof![reg().prop_map(Operand::Reg), imm().prop_map(Operand::Imm)]
}

fn size() -> impl Strategy<Value = MemSize> {
    prop::sample::select(vec![MemSize::B, MemSize::H, MemSize::W, MemSize::Dw])
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        (0..STACK / 8).prop_map(|slot| Place::Stack(-8 - 8 * slot)),
        (8..=STACK).prop_map(|off| Place::Stack(-off)),
        (0..=PACKET - 8).prop_map(Place::Packet),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let atomics = vec![
        i32::from(o::ADD),
        i32::from(o::OR),
        i32::from(o::AND),
        i32::from(o::XOR),
        i32::from(o::ADD) | o::ATOMIC_FETCH,
        i32::from(o::OR) | o::ATOMIC_FETCH,
        i32::from(o::AND) | o::ATOMIC_FETCH,
        i32::from(o::XOR) | o::ATOMIC_FETCH,
        o::ATOMIC_XCHG,
        o::ATOMIC_CMPXCHG,
    ];
    prop_oneof![
        8 => (any::<bool>(), prop::sample::select(&o::ARITHMETIC[..]), reg(), operand())
            .prop_map(|(wide, (op, off), dst, src)| Op::Alu { wide, op, off, dst, src }),
        1 => (any::<bool>(), prop::sample::select(vec![8i16, 16, 32]), reg(), reg())
            .prop_map(|(wide, bits, dst, src)| Op::MovSx { wide: wide || bits == 32, bits, dst, src }),
        1 => (any::<bool>(), reg()).prop_map(|(wide, dst)| Op::Neg { wide, dst }),
        1 => (
            prop::sample::select(vec![o::ALU | o::END, o::ALU | o::END | o::X, o::ALU64 | o::END]),
            prop::sample::select(vec![16, 32, 64]),
            reg(),
        )
            .prop_map(|(op, bits, dst)| Op::Endian { op, bits, dst }),
        1 => (reg(), any::<u64>()).prop_map(|(dst, value)| Op::Imm64 { dst, value }),
        4 => (any::<bool>(), prop::sample::select(&o::CONDITIONS[..]), reg(), operand(), 0..6usize)
            .prop_map(|(wide, cond, dst, src, skip)| Op::Jump { wide, cond, dst, src, skip }),
        3 => (size(), any::<bool>(), reg(), place())
            .prop_map(|(size, signed, dst, place)| Op::Load { size, signed, dst, place }),
        3 => (size(), operand(), place()).prop_map(|(size, src, place)| Op::Store { size, src, place }),
        1 => (any::<bool>(), prop::sample::select(atomics), reg(), 0..STACK / 8)
            .prop_map(|(wide, op, src, slot)| Op::Atomic { wide, op, src, slot: -8 - 8 * slot }),
        1 => (reg(), reg()).prop_map(|(dst, by)| Op::Index { dst, by }),
        1 => Just(Op::Call),
    ]
}

fn emit(asm: &mut Asm, op: &Op, target: Label, callee: Option<Label>) {
    match *op {
        Op::Alu {
            wide,
            op,
            off,
            dst,
            src,
        } if wide => asm.alu_off(op, dst, src, off),
        Op::Alu {
            op, off, dst, src, ..
        } => asm.alu32_off(op, dst, src, off),
        Op::MovSx {
            wide: true,
            bits,
            dst,
            src,
        } => asm.alu_off(o::MOV, dst, R(src), bits),
        Op::MovSx { bits, dst, src, .. } => asm.alu32_off(o::MOV, dst, R(src), bits),
        Op::Neg { wide, dst } => asm.raw(Insn {
            op: if wide { o::ALU64 } else { o::ALU } | o::NEG,
            dst,
            ..Insn::default()
        }),
        Op::Endian { op, bits, dst } => asm.endian(op, dst, bits),
        Op::Imm64 { dst, value } => asm.imm64(dst, value),
        Op::Jump {
            wide,
            cond,
            dst,
            src,
            ..
        } if wide => asm.jump_if(cond, dst, src, target),
        Op::Jump { cond, dst, src, .. } => asm.jump_if32(cond, dst, src, target),
        Op::Load {
            size,
            signed,
            dst,
            place,
        } => {
            let (base, off) = at(place, size);
            if signed && size != MemSize::Dw {
                asm.load_signed(size, dst, base, off)
            } else {
                asm.load(size, dst, base, off)
            }
        }
        Op::Store { size, src, place } => {
            let (base, off) = at(place, size);
            asm.store(size, base, off, src)
        }
        Op::Atomic {
            wide,
            op,
            src,
            slot,
        } => {
            let size = if wide { MemSize::Dw } else { MemSize::W };
            asm.atomic(size, op, 10, slot, src)
        }
        Op::Index { dst, by } => asm
            .mov(dst, R(by))
            .alu(o::AND, dst, 0x1f)
            .add(dst, R(6))
            .load(MemSize::Dw, dst, dst, 0),
        Op::Call => {
            if let Some(callee) = callee {
                asm.call_local(callee);
                for reg in 1..=5u8 {
                    asm.mov(reg, R(0)).alu(o::LSH, reg, i32::from(reg));
                }
            }
            asm
        }
    };
}

/// Where an access goes. Stack accesses stay inside the frame.
fn at(place: Place, size: MemSize) -> (u8, i16) {
    match place {
        Place::Stack(off) => (10, off.min(-(size.bytes() as i16))),
        Place::Packet(off) => (6, off),
    }
}

fn emit_all(asm: &mut Asm, ops: &[Op], callee: Option<Label>) {
    let labels: Vec<Label> = (0..=ops.len()).map(|_| asm.label()).collect();
    for (n, op) in ops.iter().enumerate() {
        asm.bind(labels[n]);
        let skip = match op {
            Op::Jump { skip, .. } => *skip,
            _ => 0,
        };
        emit(asm, op, labels[(n + 1 + skip).min(ops.len())], callee);
    }
    asm.bind(labels[ops.len()]);
}

/// Mixes all registers into r0.
fn finish(asm: &mut Asm) {
    for reg in [1, 2, 3, 4, 5, 7, 8u8] {
        asm.alu(o::MUL, 0, 31).alu(o::XOR, 0, R(reg));
    }
    asm.exit();
}

/// The ops, run `rounds` times, with all registers, the stack and a subprogram at their disposal.
fn program(seeds: &[u64], ops: &[Op], rounds: i32, sub: &[Op]) -> Vec<Insn> {
    let mut asm = Asm::new();
    let (short, callee, again) = (asm.label(), asm.label(), asm.label());
    asm.load(MemSize::W, 6, 1, 0)
        .load(MemSize::W, 2, 1, 4)
        .mov(3, R(6))
        .add(3, i32::from(PACKET))
        .jump_if(o::JGT, 3, R(2), short);
    for (reg, seed) in [0, 1, 2, 3, 4, 5, 7, 8u8].into_iter().zip(seeds) {
        asm.imm64(reg, *seed);
    }
    asm.mov(9, rounds).bind(again);
    emit_all(&mut asm, ops, Some(callee));
    asm.add(9, -1).jump_if(o::JNE, 9, 0, again);
    finish(&mut asm);
    asm.bind(short).mov(0, 1).exit();
    asm.bind(callee);
    // A subprogram starts with r1 to r5 alone.
    asm.mov(0, R(1)).mov(6, R(2)).mov(7, R(3)).mov(8, R(4));
    emit_all(&mut asm, sub, None);
    finish(&mut asm);
    asm.finish()
}

fn in_subprogram(op: &Op) -> bool {
    !matches!(
        op,
        Op::Index { .. }
            | Op::Load {
                place: Place::Packet(_),
                ..
            }
            | Op::Store {
                place: Place::Packet(_),
                ..
            }
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn generated_programs_agree(
        seeds in prop::collection::vec(prop_oneof![any::<u64>(), 0..100u64, imm().prop_map(|i| i as u64)], 8),
        ops in prop::collection::vec(op(), 0..40),
        rounds in prop_oneof![3 => Just(1), 1 => 2..20i32],
        sub in prop::collection::vec(op().prop_filter("no packet in subprograms", in_subprogram), 0..10),
        packet in prop::collection::vec(any::<u8>(), PACKET as usize..80),
    ) {
        let code = program(&seeds, &ops, rounds, &sub);
        let ran = common::agree(&[code], &[], &packet);
        prop_assert!(ran.result.is_ok(), "{ran:?}");
    }
}
