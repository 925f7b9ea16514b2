//! Which loops a block is in.

use squalus_isa::{Inst, Operand, Reg};
use squalus_runtime::{LinkedProgram, STACK_SIZE};

use crate::Cfg;
use crate::live::{Regs, effect};
use crate::motion::{Head, LoopTest};

/// A loop, as far as it matters where states meet at its head.
#[derive(Debug, Default)]
pub(crate) struct Loop {
    blocks: Vec<bool>,
    /// Registers that it writes.
    pub(crate) writes: Regs,
    /// Slots of the function's frame that it writes by the frame pointer, a bit each. By others it may write more.
    pub(crate) writes_slots: u64,
    /// Comparisons in it.
    pub(crate) tests: Vec<LoopTest>,
}

/// The loops of a program.
#[derive(Debug, Default)]
pub(crate) struct Nest {
    /// By block: the loop that it is the head of.
    loops: Vec<Option<Loop>>,
    /// By block: the heads of the loops that it is in.
    around: Vec<Vec<Head>>,
    /// By block: the number of a loop with this head.
    heads: Vec<Head>,
}

impl Nest {
    pub(crate) fn new(program: &LinkedProgram, cfg: &Cfg) -> Nest {
        let blocks = cfg.blocks();
        let slot = |n: usize| program.insts()[blocks[n].first].slot as Head;
        let mut nest = Nest {
            loops: blocks.iter().map(|_| None).collect(),
            around: vec![Vec::new(); blocks.len()],
            heads: (0..blocks.len()).map(slot).collect(),
        };
        let mut before = vec![Vec::new(); blocks.len()];
        for (n, block) in blocks.iter().enumerate() {
            for next in [block.fall, block.jump].into_iter().flatten() {
                before[next].push(n);
            }
        }
        for head in (0..blocks.len()).filter(|&n| blocks[n].loop_head) {
            let body = body(cfg, &before, head);
            for n in (0..blocks.len()).filter(|&n| body[n]) {
                nest.around[n].push(nest.heads[head]);
            }
            nest.loops[head] = Some(describe(program, cfg, body));
        }
        nest
    }

    /// The loop that a block is the head of.
    pub(crate) fn headed_by(&self, block: usize) -> Option<&Loop> {
        self.loops[block].as_ref()
    }

    /// The heads of the loops that a block is in.
    pub(crate) fn around(&self, block: usize) -> &[Head] {
        &self.around[block]
    }

    /// The number of the loop that a block is the head of.
    pub(crate) fn head(&self, block: usize) -> Head {
        self.heads[block]
    }
}

impl Loop {
    /// Whether a block is in the loop.
    pub(crate) fn contains(&self, block: usize) -> bool {
        self.blocks[block]
    }
}

/// The blocks from which control can come back to a loop's head without passing it.
fn body(cfg: &Cfg, before: &[Vec<usize>], head: usize) -> Vec<bool> {
    let mut body = vec![false; before.len()];
    body[head] = true;
    let latches = before[head].iter().copied();
    let mut open: Vec<usize> = latches.filter(|&n| cfg.is_back_edge(n, head)).collect();
    while let Some(n) = open.pop() {
        if !std::mem::replace(&mut body[n], true) {
            let after = |n: &usize| cfg.blocks()[*n].order > cfg.blocks()[head].order;
            open.extend(before[n].iter().copied().filter(after));
        }
    }
    body
}

fn describe(program: &LinkedProgram, cfg: &Cfg, blocks: Vec<bool>) -> Loop {
    let mut found = Loop {
        blocks,
        ..Loop::default()
    };
    for (n, block) in cfg.blocks().iter().enumerate() {
        if !found.blocks[n] {
            continue;
        }
        for decoded in &program.insts()[block.first..block.end] {
            found.writes |= effect(&decoded.inst).1;
            match decoded.inst {
                Inst::Store { base, off, .. } if base == Reg::FP => {
                    let slot = (i64::from(off) + STACK_SIZE as i64).div_euclid(8);
                    found.writes_slots |= u32::try_from(slot).map_or(0, |slot| 1 << (slot % 64));
                }
                // What it fetches goes there, or into `r0`.
                Inst::Atomic { src, .. } => found.writes |= 1 | 1 << src.index(),
                Inst::JumpIf { dst, src, .. } => {
                    found.tests.push(LoopTest {
                        reg: dst,
                        with: src,
                    });
                    if let Operand::Reg(src) = src {
                        let with = Operand::Reg(dst);
                        found.tests.push(LoopTest { reg: src, with });
                    }
                }
                _ => {}
            }
        }
    }
    found
}
