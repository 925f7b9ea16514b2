//! What passes that replace values have in common.

use crate::ir::{Block, Function, Target, Value};

/// Values that stand for others.
#[derive(Clone, Debug)]
pub(crate) struct Aliases {
    to: Vec<Value>,
}

impl Aliases {
    pub(crate) fn new(function: &Function) -> Aliases {
        Aliases {
            to: (0..function.values.len() as u32).map(Value).collect(),
        }
    }

    /// The value that `value` stands for in the end.
    pub(crate) fn resolve(&mut self, value: Value) -> Value {
        let mut end = value;
        while let Some(&next) = self.to.get(end.0 as usize)
            && next != end
        {
            end = next;
        }
        // Values that are older than the table stand for themselves.
        let mut at = value;
        while at != end {
            let next = self.to[at.0 as usize];
            self.to[at.0 as usize] = end;
            at = next;
        }
        end
    }

    /// From now on `value` stands for `other`.
    pub(crate) fn set(&mut self, value: Value, other: Value) {
        while self.to.len() <= value.0 as usize {
            self.to.push(Value(self.to.len() as u32));
        }
        self.to[value.0 as usize] = other;
    }

    /// Replaces what stands for something else in the whole function, and drops it.
    pub(crate) fn apply(&mut self, function: &mut Function) {
        for block in function.reverse_postorder() {
            let data = std::mem::take(function.block_mut(block));
            let mut data = data;
            data.insts.retain(|&inst| self.resolve(inst) == inst);
            for &inst in &data.insts {
                let op = &mut function.values[inst.0 as usize].op;
                op.map_uses(|value| self.resolve(value));
            }
            if let Some(end) = &mut data.end {
                end.map_uses(|value| self.resolve(value));
            }
            *function.block_mut(block) = data;
        }
    }
}

/// Calls `each` with every value that a block's instructions and its end use, once for each use.
pub(super) fn each_use(function: &Function, block: Block, mut each: impl FnMut(Value)) {
    let data = function.block(block);
    for &inst in &data.insts {
        function.value(inst).op.uses(&mut each);
    }
    data.end.iter().for_each(|end| end.uses(&mut each));
}

/// For each block, the blocks that lead to it, once for each edge.
pub(super) fn predecessors(function: &Function) -> Vec<Vec<Block>> {
    let mut before = vec![Vec::new(); function.blocks.len()];
    for block in function.reverse_postorder() {
        for target in function
            .block(block)
            .end
            .iter()
            .flat_map(|end| end.targets())
        {
            before[target.block.0 as usize].push(block);
        }
    }
    before
}

/// The targets by which `from` leads to `to`.
pub(super) fn edges(function: &Function, from: Block, to: Block) -> impl Iterator<Item = &Target> {
    let targets = function
        .block(from)
        .end
        .iter()
        .flat_map(|end| end.targets());
    targets.filter(move |target| target.block == to)
}
