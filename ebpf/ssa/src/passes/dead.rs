//! What nobody reads and does nothing is left out, and so are blocks that only lead on.

use super::params::drop_params;
use crate::ir::{Function, Op, Value};

/// Removes values without use, and parameters of blocks that only feed each other.
pub(super) fn run(function: &mut Function) {
    let order = function.reverse_postorder();
    let mut live = vec![false; function.values.len()];
    let mut pending = Vec::new();
    // What has an effect is live; what a live value uses is live.
    for &block in &order {
        let data = function.block(block);
        pending.extend(
            data.insts
                .iter()
                .copied()
                .filter(|&i| function.value(i).op.has_effect()),
        );
        if let Some(end) = &data.end {
            end.decides(|value| pending.push(value));
        }
    }
    let mut home = vec![None; function.values.len()];
    for &block in &order {
        for (n, &param) in function.block(block).params.iter().enumerate() {
            home[param.0 as usize] = Some((block, n));
        }
    }
    let before = super::rewrite::predecessors(function);
    while let Some(value) = pending.pop() {
        if std::mem::replace(&mut live[value.0 as usize], true) {
            continue;
        }
        if let (Op::Param, Some((block, n))) = (&function.value(value).op, home[value.0 as usize]) {
            for &from in &before[block.0 as usize] {
                for target in super::rewrite::edges(function, from, block) {
                    pending.push(target.args[n]);
                }
            }
        }
        function.value(value).op.uses(|used| pending.push(used));
    }
    for &block in &order {
        let mut insts = std::mem::take(&mut function.block_mut(block).insts);
        insts.retain(|inst| live[inst.0 as usize]);
        function.block_mut(block).insts = insts;
    }
    drop_params(function, &order, |param: Value| !live[param.0 as usize]);
}
