//! Which registers are still read.
//!
//! What a dead register holds says nothing about what follows, but would keep apart paths that are alike.

use squalus_isa::{AluOp, AtomicOp, CallTarget, Decoded, Inst, MemSize, Operand, Reg};
use squalus_runtime::{STACK_SIZE, proto};

use crate::frame::slots_of;
use crate::{Cfg, Interval};

/// A set of registers, a bit each.
pub(crate) type Regs = u16;

const ARGUMENTS: Regs = 0b11_1110;
const CALLED: Regs = ARGUMENTS | 1;
const FRAME: Regs = 1 << 10;

/// The registers that each block, or what follows it, reads before it writes them.
pub(crate) fn live(insts: &[Decoded], cfg: &Cfg) -> Vec<Regs> {
    let effect = |decoded: &Decoded| {
        let (reads, writes) = effect(&decoded.inst);
        (reads.into(), writes.into())
    };
    let live = live_by(insts, cfg, FRAME.into(), effect);
    live.into_iter().map(|regs| regs as Regs).collect()
}

/// The slots of the function's frame that each block, or what follows it, reads by the frame pointer before it
/// writes them. What is read by other pointers is not counted.
pub(crate) fn live_slots(insts: &[Decoded], cfg: &Cfg) -> Vec<u64> {
    live_by(insts, cfg, 0, |decoded| match decoded.inst {
        Inst::Load {
            size, base, off, ..
        } if base == Reg::FP => (slots(off, size), 0),
        Inst::Store {
            size: MemSize::Dw,
            base,
            off,
            ..
        } if base == Reg::FP && off % 8 == 0 => (0, slots(off, MemSize::Dw)),
        _ => (0, 0),
    })
}

/// The slots in which some bytes of the frame lie.
fn slots(off: i16, size: MemSize) -> u64 {
    let lo = i64::from(off) + STACK_SIZE as i64;
    let hi = lo + i64::from(size.bytes()) - 1;
    slots_of(Interval { lo, hi }).fold(0, |all, slot| all | 1 << slot)
}

/// What each block, or what follows it, reads before it writes it; `always` is read at the end of all.
fn live_by(
    insts: &[Decoded],
    cfg: &Cfg,
    always: u64,
    effect: impl Fn(&Decoded) -> (u64, u64),
) -> Vec<u64> {
    let blocks = cfg.blocks();
    let effects: Vec<(u64, u64)> = blocks
        .iter()
        .map(|block| {
            let insts = insts[block.first..block.end].iter().rev();
            insts.fold((0, 0), |(reads, writes), decoded| {
                let (own_reads, own_writes) = effect(decoded);
                (reads & !own_writes | own_reads, writes | own_writes)
            })
        })
        .collect();
    let mut live = vec![always; blocks.len()];
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_unstable_by_key(|&n| std::cmp::Reverse(blocks[n].order));
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for &n in &order {
            let next = [blocks[n].fall, blocks[n].jump].into_iter().flatten();
            let after = next.fold(always, |all, next| all | live[next]);
            let (reads, writes) = effects[n];
            let before = after & !writes | reads | always;
            changed |= before != live[n];
            live[n] = before;
        }
    }
    live
}

const fn bit(reg: Reg) -> Regs {
    1 << reg.index()
}

const fn of(operand: Operand) -> Regs {
    match operand {
        Operand::Reg(reg) => bit(reg),
        Operand::Imm(_) => 0,
    }
}

/// What an instruction reads and what it writes.
pub(crate) fn effect(inst: &Inst) -> (Regs, Regs) {
    match *inst {
        Inst::Alu { op, dst, src, .. } => match op {
            AluOp::Mov | AluOp::MovSx(_) => (of(src), bit(dst)),
            _ => (of(src) | bit(dst), bit(dst)),
        },
        Inst::End { dst, .. } => (bit(dst), bit(dst)),
        Inst::LoadImm { dst, .. } => (0, bit(dst)),
        Inst::Load { dst, base, .. } => (bit(base), bit(dst)),
        Inst::Store { base, src, .. } => (bit(base) | of(src), 0),
        Inst::Atomic { op, base, src, .. } => {
            let compared = match op {
                AtomicOp::CmpXchg => 1,
                _ => 0,
            };
            (bit(base) | bit(src) | compared, 0)
        }
        Inst::JumpIf { dst, src, .. } => (bit(dst) | of(src), 0),
        Inst::Jump { .. } | Inst::MayJump { .. } => (0, 0),
        Inst::Call(CallTarget::Helper(id)) => {
            let count = proto(id).map_or(5, |proto| proto.args.len());
            (ARGUMENTS & ((1 << (count + 1)) - 1), CALLED)
        }
        Inst::Call(_) => (ARGUMENTS, CALLED),
        Inst::Exit => (1, 0),
    }
}
