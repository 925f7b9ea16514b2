//! Which loops are seen to end.
//!
//! A loop is taken to end if what was found of its values bounds its rounds, or if every round passes a comparison
//! that leaves it, of a register that only moves by constants with something that stays the same. Others may end
//! too; the budget of a run ends them at last.

use squalus_isa::{AluOp, Cond, Inst, Operand, Reg, Width};
use squalus_runtime::LinkedProgram;

use crate::compare::Test;
use crate::live::{Regs, effect};
use crate::{Cfg, Facts};

impl Facts {
    /// Slots of the first instructions of loops of which it is not known that they end.
    #[must_use]
    pub fn unbounded_loops(&self, program: &LinkedProgram) -> Vec<usize> {
        let slot = |n: usize| program.insts()[self.cfg.blocks()[n].first].slot as u32;
        let blocks = self.cfg.blocks().iter().enumerate();
        let heads = blocks.filter(|(n, block)| block.loop_head && self.entry(*n).is_some());
        let unknown = heads.filter(|(n, _)| {
            let body = Loop::new(self, *n);
            let bounded = || {
                self.entry(*n)
                    .is_some_and(|state| state.most_rounds(slot(*n)).is_some())
            };
            !body.latches.is_empty() && !bounded() && !body.ends(self, program)
        });
        unknown
            .map(|(_, block)| program.insts()[block.first].slot)
            .collect()
    }

    /// The blocks that can follow a block.
    fn next(&self, block: usize) -> impl Iterator<Item = usize> {
        let Some(last) = self.cfg.blocks().get(block) else {
            return [None, None].into_iter().flatten();
        };
        let known = self.inst(last.end - 1);
        let falls = known.is_some_and(|known| known.can_fall);
        let jumps = known.is_some_and(|known| known.can_jump);
        let next = [last.fall.filter(|_| falls), last.jump.filter(|_| jumps)];
        next.into_iter().flatten()
    }
}

/// The blocks from which execution can come back to a loop's head.
struct Loop {
    head: usize,
    blocks: Vec<bool>,
    latches: Vec<usize>,
}

impl Loop {
    fn new(facts: &Facts, head: usize) -> Loop {
        let cfg: &Cfg = &facts.cfg;
        let count = cfg.blocks().len();
        let after = |n: usize| cfg.blocks()[n].order >= cfg.blocks()[head].order;
        let closes = |n: usize| facts.next(n).any(|next| next == head) && after(n);
        let latches: Vec<usize> = (0..count).filter(|&n| closes(n)).collect();
        let mut before = vec![Vec::new(); count];
        for n in 0..count {
            for next in facts.next(n) {
                before[next].push(n);
            }
        }
        let mut blocks = vec![false; count];
        blocks[head] = true;
        let mut open = latches.clone();
        while let Some(n) = open.pop() {
            if !std::mem::replace(&mut blocks[n], true) {
                open.extend(before[n].iter().copied().filter(|&n| after(n)));
            }
        }
        Loop {
            head,
            blocks,
            latches,
        }
    }

    fn ends(&self, facts: &Facts, program: &LinkedProgram) -> bool {
        let mut counters = Counters::default();
        for (n, block) in facts.cfg.blocks().iter().enumerate() {
            if self.blocks[n] {
                let sure = self.always_passes(facts, n);
                let insts = &program.insts()[block.first..block.end];
                counters.note(insts.iter().map(|decoded| &decoded.inst), sure);
            }
        }
        let counters = counters.find();
        let mut inside = (0..self.blocks.len()).filter(|&n| self.blocks[n]);
        inside.any(|n| {
            let block = &facts.cfg.blocks()[n];
            let last = &program.insts()[block.end - 1].inst;
            let leaves = |to: Option<usize>| to.is_some_and(|to| !self.blocks[to]);
            let stops = |taken| counters.stops(last, taken) && self.always_passes(facts, n);
            leaves(block.jump) && stops(true) || leaves(block.fall) && stops(false)
        })
    }

    /// Whether every way from the head to the end of a round leads through a block.
    fn always_passes(&self, facts: &Facts, through: usize) -> bool {
        let mut seen = vec![false; self.blocks.len()];
        let mut open = vec![self.head];
        while let Some(n) = open.pop() {
            if n == through || !self.blocks[n] || std::mem::replace(&mut seen[n], true) {
                continue;
            }
            if self.latches.contains(&n) {
                return false;
            }
            open.extend(facts.next(n));
        }
        true
    }
}

/// What a loop does to registers.
#[derive(Debug, Default)]
struct Counters {
    /// Written in some other way than those that follow.
    spoilt: Regs,
    written: Regs,
    /// Moved up by a constant in every round.
    stepped: Regs,
    /// Moved up by more than one.
    leaps: bool,
    /// Copies: to, from.
    copies: Vec<(Regs, Regs)>,
    /// Registers that only move up, and do so in every round.
    counters: Regs,
}

impl Counters {
    fn note<'a>(&mut self, insts: impl Iterator<Item = &'a Inst>, sure: bool) {
        let bit = |reg: Reg| 1 << reg.index();
        for inst in insts {
            let written = effect(inst).1;
            self.written |= written;
            match *inst {
                Inst::Alu {
                    op: AluOp::Add,
                    src: Operand::Imm(imm),
                    ..
                } if imm > 0 => {
                    self.leaps |= imm > 1;
                    self.stepped |= if sure { written } else { 0 };
                }
                Inst::Alu {
                    width: Width::W64,
                    op: AluOp::Mov,
                    src: Operand::Reg(src),
                    ..
                } => self.copies.push((written, bit(src))),
                _ => self.spoilt |= written,
            }
        }
    }

    fn find(mut self) -> Counters {
        self.counters = self.without(self.written & !self.spoilt);
        // Registers that are only copied round are no counters.
        let mut stuck = self.counters & !self.stepped;
        let from = |stuck: Regs, to: Regs| {
            let mut copies = self.copies.iter();
            copies.any(|(copy, from)| copy & to != 0 && from & stuck != 0)
        };
        loop {
            let kept = (0..10).map(|n| 1 << n).filter(|&reg| stuck & reg != 0);
            let kept = kept.filter(|&reg| from(stuck, reg));
            let kept = kept.fold(0, |all, reg| all | reg);
            if kept == stuck {
                break;
            }
            stuck = kept;
        }
        self.counters = self.without(self.counters & !stuck);
        self
    }

    /// Of some registers those that are copied from such registers only.
    fn without(&self, mut among: Regs) -> Regs {
        loop {
            let bad = self.copies.iter().filter(|(_, from)| from & among == 0);
            let bad = bad.fold(0, |all, (to, _)| all | to);
            if among & bad == 0 {
                return among;
            }
            among &= !bad;
        }
    }

    /// Whether a counter that goes on growing makes a jump leave the loop at last.
    fn stops(&self, inst: &Inst, taken: bool) -> bool {
        let Inst::JumpIf { cond, dst, src, .. } = *inst else {
            return false;
        };
        let is = |set: Regs, reg: Reg| set & (1 << reg.index()) != 0;
        let up = match Test::of(cond, taken) {
            Test::Is(Cond::Gt | Cond::Ge | Cond::SGt | Cond::SGe) => true,
            Test::Is(Cond::Lt | Cond::Le | Cond::SLt | Cond::SLe) => false,
            Test::Is(Cond::Eq) if !self.leaps => {
                return is(self.counters, dst) && matches!(src, Operand::Imm(_));
            }
            _ => return false,
        };
        match src {
            Operand::Imm(_) => up && is(self.counters, dst),
            Operand::Reg(src) if up => is(self.counters, dst) && !is(self.written, src),
            Operand::Reg(src) => is(self.counters, src) && !is(self.written, dst),
        }
    }
}
