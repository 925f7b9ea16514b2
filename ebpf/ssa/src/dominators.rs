//! Which blocks come before which on every path (Cooper, Harvey, Kennedy).

use crate::ir::{Block, Function};

/// The dominator tree of the blocks that can be reached.
#[derive(Debug)]
pub struct Dominators {
    order: Vec<Block>,
    number: Vec<u32>,
    above: Vec<u32>,
}

const NEVER: u32 = u32::MAX;

impl Dominators {
    /// Finds them.
    #[must_use]
    pub fn new(function: &Function) -> Dominators {
        let order = function.reverse_postorder();
        let mut number = vec![NEVER; function.blocks.len()];
        for (n, block) in order.iter().enumerate() {
            number[block.0 as usize] = n as u32;
        }
        let mut before = vec![Vec::new(); order.len()];
        for (n, &block) in order.iter().enumerate() {
            for target in function
                .block(block)
                .end
                .iter()
                .flat_map(|end| end.targets())
            {
                before[number[target.block.0 as usize] as usize].push(n as u32);
            }
        }
        let mut above = vec![NEVER; order.len()];
        above[0] = 0;
        let mut changed = true;
        while std::mem::take(&mut changed) {
            for n in 1..order.len() {
                let known = before[n]
                    .iter()
                    .copied()
                    .filter(|&p| above[p as usize] != NEVER);
                let new = known.reduce(|a, b| meet(&above, a, b)).unwrap_or(0);
                changed |= std::mem::replace(&mut above[n], new) != new;
            }
        }
        Dominators {
            order,
            number,
            above,
        }
    }

    /// The blocks, each after those that dominate it.
    #[must_use]
    pub fn order(&self) -> &[Block] {
        &self.order
    }

    /// The nearest block that dominates another one; none for the entry.
    #[must_use]
    pub fn above(&self, block: Block) -> Option<Block> {
        let n = self.number[block.0 as usize];
        (n != 0).then(|| self.order[self.above[n as usize] as usize])
    }

    /// Whether every path to `block` goes through `first`.
    #[must_use]
    pub fn dominates(&self, first: Block, block: Block) -> bool {
        let (first, mut n) = (self.number[first.0 as usize], self.number[block.0 as usize]);
        while n > first {
            n = self.above[n as usize];
        }
        n == first
    }
}

fn meet(above: &[u32], mut a: u32, mut b: u32) -> u32 {
    while a != b {
        while a > b {
            a = above[a as usize];
        }
        while b > a {
            b = above[b as usize];
        }
    }
    a
}
