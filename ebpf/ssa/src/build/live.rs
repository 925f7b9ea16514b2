//! Which variables are read later on.

use squalus_analysis::{Facts, FuncId, InstFacts};
use squalus_isa::{AluOp, AtomicOp, CallTarget, Inst, Operand, Reg};
use squalus_runtime::LinkedProgram;

use super::cells::{Cells, accessed, argument};

/// For each block, the variables that may be read after its start before they are written.
pub(super) struct Live {
    words: usize,
    /// Of all blocks of the program, one after the other.
    sets: Vec<u64>,
}

impl Live {
    pub(super) fn find(
        program: &LinkedProgram,
        facts: &Facts,
        func: FuncId,
        cells: &Cells,
    ) -> Live {
        let count = Reg::COUNT + cells.all().len();
        let words = count.div_ceil(64);
        let blocks = facts.cfg().blocks();
        let mut live = Live {
            words,
            sets: vec![0; blocks.len() * words],
        };
        let mut own: Vec<usize> = (0..blocks.len())
            .filter(|&n| blocks[n].func == func && facts.entry(n).is_some())
            .collect();
        own.sort_by_key(|&n| std::cmp::Reverse(blocks[n].order));
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for &n in &own {
                let mut set = vec![0; words];
                for next in [blocks[n].fall, blocks[n].jump].into_iter().flatten() {
                    let next = &live.sets[next * words..(next + 1) * words];
                    set.iter_mut()
                        .zip(next)
                        .for_each(|(word, next)| *word |= next);
                }
                for at in (blocks[n].first..blocks[n].end).rev() {
                    if let Some(known) = facts.inst(at) {
                        let inst = &program.insts()[at].inst;
                        Step {
                            set: &mut set,
                            cells,
                            known,
                            func,
                        }
                        .back(inst);
                    }
                }
                let old = &mut live.sets[n * words..(n + 1) * words];
                changed |= *old != *set;
                old.copy_from_slice(&set);
            }
        }
        live
    }

    /// All variables, everywhere.
    pub(super) fn all(facts: &Facts, cells: &Cells) -> Live {
        let count = Reg::COUNT + cells.all().len();
        let words = count.div_ceil(64);
        let mut one = vec![0; words];
        (0..count).for_each(|var| one[var / 64] |= 1 << (var % 64));
        Live {
            words,
            sets: one.repeat(facts.cfg().blocks().len()),
        }
    }

    /// The variables that are live at the start of a block.
    pub(super) fn at(&self, block: usize) -> impl Iterator<Item = usize> + use<> {
        let set = self.sets[block * self.words..(block + 1) * self.words].to_vec();
        (0..set.len() * 64).filter(move |var| set[var / 64] & 1 << (var % 64) != 0)
    }
}

struct Step<'a> {
    set: &'a mut [u64],
    cells: &'a Cells,
    known: &'a InstFacts,
    func: FuncId,
}

impl Step<'_> {
    /// From what is live after an instruction to what is live before it.
    fn back(&mut self, inst: &Inst) {
        match *inst {
            Inst::Alu { op, dst, src, .. } => {
                self.kill(dst);
                if !matches!(op, AluOp::Mov | AluOp::MovSx(_)) {
                    self.gen_(dst);
                }
                self.operand(src);
            }
            Inst::End { dst, .. } => self.gen_(dst),
            Inst::LoadImm { dst, .. } => self.kill(dst),
            Inst::Load { dst, base, .. } => {
                self.kill(dst);
                match self.own_cells(inst) {
                    Some(cells) => self.gen_cells(cells),
                    None => self.gen_(base),
                }
            }
            Inst::Store { base, src, .. } => {
                match self.own_cells(inst) {
                    Some(cells) => self.kill_cells(cells),
                    None => self.gen_(base),
                }
                self.operand(src);
            }
            Inst::Atomic {
                op,
                fetch,
                base,
                src,
                ..
            } => {
                if fetch && op != AtomicOp::CmpXchg || op == AtomicOp::LoadAcquire {
                    self.kill(src);
                }
                if op != AtomicOp::LoadAcquire {
                    self.gen_(src);
                }
                self.gen_(base);
                if op == AtomicOp::CmpXchg {
                    self.gen_(Reg::R0);
                }
            }
            Inst::Call(target) => self.call(target),
            Inst::JumpIf { dst, src, .. } => {
                self.gen_(dst);
                self.operand(src);
            }
            Inst::Exit => {
                self.set.fill(0);
                self.gen_(Reg::R0);
            }
            Inst::Jump { .. } | Inst::MayJump { .. } => {}
        }
    }

    fn call(&mut self, target: CallTarget) {
        self.kill(Reg::R0);
        for n in 0..5 {
            self.gen_(super::cells::arg(n));
        }
        if let CallTarget::Helper(_) = target {
            // What a helper writes it may also leave alone: it is not killed.
            for n in 0..5 {
                if let Some(bytes) = argument(self.known, n, self.func) {
                    self.gen_cells(self.cells.within(bytes));
                }
            }
        }
    }

    fn own_cells(&self, inst: &Inst) -> Option<std::ops::Range<usize>> {
        let cells = self.cells.within(accessed(self.known, inst, self.func)?);
        (!cells.is_empty()).then_some(cells)
    }

    fn operand(&mut self, operand: Operand) {
        if let Operand::Reg(reg) = operand {
            self.gen_(reg);
        }
    }

    fn gen_(&mut self, reg: Reg) {
        self.set[0] |= 1 << reg.index();
    }

    fn kill(&mut self, reg: Reg) {
        self.set[0] &= !(1 << reg.index());
    }

    fn gen_cells(&mut self, cells: std::ops::Range<usize>) {
        for var in cells.map(|cell| Reg::COUNT + cell) {
            self.set[var / 64] |= 1 << (var % 64);
        }
    }

    fn kill_cells(&mut self, cells: std::ops::Range<usize>) {
        for var in cells.map(|cell| Reg::COUNT + cell) {
            self.set[var / 64] &= !(1 << (var % 64));
        }
    }
}
