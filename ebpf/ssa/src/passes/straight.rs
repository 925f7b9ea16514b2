//! Blocks that follow only one other, and only they follow it, are a part of it.
//!
//! Passes that look at one block at a time then see more, and the code generator makes numbers and addresses once.

use super::rewrite::predecessors;
use crate::ir::{Block, Function, Terminator};

/// Goes over all blocks.
pub(super) fn run(function: &mut Function) {
    let before = predecessors(function);
    for block in function.reverse_postorder() {
        while let Some(next) = follower(function, &before, block) {
            let next = std::mem::take(function.block_mut(next));
            let data = function.block_mut(block);
            data.insts.extend(next.insts);
            (data.end, data.end_slot) = (next.end, next.end_slot);
        }
    }
}

/// The block that becomes a part of this one.
fn follower(function: &Function, before: &[Vec<Block>], block: Block) -> Option<Block> {
    let data = function.block(block);
    let Some(Terminator::Jump(to)) = &data.end else {
        return None;
    };
    let next = function.block(to.block);
    let other = to.block != block && to.block != Function::ENTRY;
    let alone = other && before[to.block.0 as usize].len() == 1;
    (alone && next.params.is_empty() && next.cold == data.cold).then_some(to.block)
}
