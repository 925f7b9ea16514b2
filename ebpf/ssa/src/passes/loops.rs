//! The loops of a function.

use super::rewrite::predecessors;
use crate::dominators::Dominators;
use crate::ir::{Block, Function};

/// A loop that is entered only by its head.
pub(super) struct Loop {
    /// The block that it is entered by.
    pub(super) head: Block,
    /// Its blocks, the head among them.
    pub(super) blocks: Vec<Block>,
}

impl Loop {
    pub(super) fn has(&self, block: Block) -> bool {
        self.blocks.contains(&block)
    }
}

/// All loops, inner ones before those around them.
pub(super) fn loops(function: &Function) -> Vec<Loop> {
    let dominators = Dominators::new(function);
    let before = predecessors(function);
    let mut found = Vec::new();
    for &head in dominators.order() {
        let latches = before[head.0 as usize].iter().copied();
        let open: Vec<Block> = latches.filter(|&b| dominators.dominates(head, b)).collect();
        if !open.is_empty() && head != Function::ENTRY {
            found.push(body(head, open, &before));
        }
    }
    found.sort_by_key(|l: &Loop| l.blocks.len());
    found
}

/// The loop of the blocks from which `latches` can be reached without its head.
fn body(head: Block, latches: Vec<Block>, before: &[Vec<Block>]) -> Loop {
    let mut inside = vec![false; before.len()];
    inside[head.0 as usize] = true;
    let mut blocks = vec![head];
    let mut open = latches;
    while let Some(block) = open.pop() {
        if !std::mem::replace(&mut inside[block.0 as usize], true) {
            blocks.push(block);
            open.extend(&before[block.0 as usize]);
        }
    }
    Loop { head, blocks }
}
