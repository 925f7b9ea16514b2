//! Which blocks are taken to be rare as long as nothing was counted.
//!
//! Programs are there for packets that they let pass or send on; what ends in `XDP_DROP` or `XDP_ABORTED` without
//! a choice is malformed, or not meant for them. Where that is wrong the code is as right, and hardly slower.

use squalus_analysis::{Facts, InstFacts, Value as Known};
use squalus_isa::{AluOp, Inst, Operand, Reg, Verdict};
use squalus_runtime::LinkedProgram;

use super::edges::blocks_of;

/// For each block of the bytecode, whether every way from it ends badly. None are if all do.
pub(super) fn rare(
    program: &LinkedProgram,
    facts: &Facts,
    successors: impl Fn(usize) -> Vec<usize>,
) -> Vec<bool> {
    let blocks = facts.cfg().blocks();
    let guess = Guess { program, facts };
    let mut own = blocks_of(facts, 0);
    own.sort_by_key(|&n| std::cmp::Reverse(blocks[n].order));
    let mut rare = vec![false; blocks.len()];
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for &block in own.iter() {
            if rare[block] {
                continue;
            }
            let next = successors(block);
            let all = !next.is_empty() && next.iter().all(|&next| rare[next]);
            rare[block] = all || guess.ends_badly(block);
            changed |= rare[block];
        }
    }
    if rare[facts.cfg().entry(0)] {
        rare.fill(false);
    }
    rare
}

struct Guess<'a> {
    program: &'a LinkedProgram,
    facts: &'a Facts,
}

impl Guess<'_> {
    fn inst(&self, n: usize) -> &Inst {
        &self.program.insts()[n].inst
    }

    /// Whether the program ends with the block, or with a block behind it that only returns, and drops the packet.
    fn ends_badly(&self, block: usize) -> bool {
        let data = &self.facts.cfg().blocks()[block];
        let last = data.end - 1;
        let Some(known) = self.facts.inst(last) else {
            return false;
        };
        match *self.inst(last) {
            Inst::Exit => drops(known, Reg::R0),
            Inst::Jump { .. } => data.jump.is_some_and(|to| {
                let returned = self.returned(to);
                returned.is_some_and(|reg| drops(known, reg))
            }),
            Inst::Alu {
                op: AluOp::Mov,
                dst,
                src: Operand::Imm(imm),
                ..
            } => {
                let returned = data.fall.and_then(|to| self.returned(to));
                returned == Some(dst) && is_drop(i64::from(imm).cast_unsigned())
            }
            _ => false,
        }
    }

    /// The register that a block returns, if it does nothing else.
    fn returned(&self, block: usize) -> Option<Reg> {
        let data = &self.facts.cfg().blocks()[block];
        match (data.end - data.first, self.inst(data.end - 1)) {
            (1, Inst::Exit) => Some(Reg::R0),
            (2, Inst::Exit) => match *self.inst(data.first) {
                Inst::Alu {
                    op: AluOp::Mov,
                    dst: Reg::R0,
                    src: Operand::Reg(reg),
                    ..
                } => Some(reg),
                _ => None,
            },
            _ => None,
        }
    }
}

fn drops(known: &InstFacts, reg: Reg) -> bool {
    match known.reg(reg) {
        Known::Scalar(scalar) => scalar.as_constant().is_some_and(is_drop),
        _ => false,
    }
}

fn is_drop(value: u64) -> bool {
    matches!(
        Verdict::from_return(value),
        Verdict::Drop | Verdict::Aborted
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use squalus_analysis::analyse;
    use squalus_isa::{MemSize, opcode as o};
    use squalus_runtime::asm::{Asm, R};

    use super::*;

    /// The first slots of rare blocks.
    fn rare_slots(asm: &Asm) -> Vec<usize> {
        let linked = LinkedProgram::new("test", &asm.finish(), Arc::new([]), Vec::new());
        let program = linked.expect("it links");
        let facts = analyse(&program).expect("it can be right");
        let blocks = facts.cfg().blocks();
        let successors = |block: usize| -> Vec<usize> {
            let block = &blocks[block];
            block.fall.into_iter().chain(block.jump).collect()
        };
        let rare = rare(&program, &facts, successors);
        let slots = (0..blocks.len()).filter(|&block| rare[block]);
        let mut slots: Vec<usize> = slots
            .map(|block| program.insts()[blocks[block].first].slot)
            .collect();
        slots.sort_unstable();
        slots
    }

    /// Too short, or of another protocol, is dropped by way of a common end.
    #[test]
    fn what_can_only_be_dropped_is_rare() {
        let mut asm = Asm::new();
        let (short, other, end) = (asm.label(), asm.label(), asm.label());
        asm.load(MemSize::W, 2, 1, 0)
            .load(MemSize::W, 3, 1, 4)
            .mov(4, R(2))
            .add(4, 14)
            .jump_if(o::JGT, 4, R(3), short)
            .load(MemSize::H, 5, 2, 12)
            .jump_if(o::JNE, 5, 8, other)
            .mov(7, 3)
            .jump(end)
            .bind(short)
            .mov(7, 0)
            .jump(end)
            .bind(other)
            .jump_if(o::JEQ, 5, 9, short)
            .mov(7, 1)
            .bind(end)
            .mov(0, R(7))
            .exit();
        assert_eq!(rare_slots(&asm), [9, 11, 12]);
    }

    #[test]
    fn a_program_that_only_drops_has_no_rare_blocks() {
        let mut asm = Asm::new();
        let out = asm.label();
        asm.load(MemSize::W, 2, 1, 0)
            .load(MemSize::W, 3, 1, 4)
            .mov(0, 1)
            .jump_if(o::JEQ, 2, R(3), out)
            .bind(out)
            .exit();
        assert!(rare_slots(&asm).is_empty());
    }
}
