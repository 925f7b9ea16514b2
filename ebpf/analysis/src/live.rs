//! Which registers are still read.
//!
//! What a dead register holds says nothing about what follows, but would keep apart paths that are alike.

use squalus_isa::{AluOp, AtomicOp, CallTarget, Decoded, Inst, Operand, Reg};
use squalus_runtime::proto;

use crate::Cfg;

/// A set of registers, a bit each.
pub(crate) type Regs = u16;

const ARGUMENTS: Regs = 0b11_1110;
const CALLED: Regs = ARGUMENTS | 1;
const FRAME: Regs = 1 << 10;

/// The registers that each block, or what follows it, reads before it writes them.
pub(crate) fn live(insts: &[Decoded], cfg: &Cfg) -> Vec<Regs> {
    let blocks = cfg.blocks();
    let effects: Vec<(Regs, Regs)> = blocks
        .iter()
        .map(|block| {
            let insts = insts[block.first..block.end].iter().rev();
            insts.fold((0, 0), |(reads, writes), decoded| {
                let (own_reads, own_writes) = effect(&decoded.inst);
                (reads & !own_writes | own_reads, writes | own_writes)
            })
        })
        .collect();
    let mut live = vec![FRAME; blocks.len()];
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_unstable_by_key(|&n| std::cmp::Reverse(blocks[n].order));
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for &n in &order {
            let next = [blocks[n].fall, blocks[n].jump].into_iter().flatten();
            let after = next.fold(FRAME, |all, next| all | live[next]);
            let (reads, writes) = effects[n];
            let before = after & !writes | reads | FRAME;
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
