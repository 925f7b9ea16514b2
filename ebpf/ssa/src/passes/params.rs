//! Block parameters that always have the same value stand for it, and of those that are always equal one is enough.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::rewrite::{Aliases, edges, predecessors};
use crate::ir::{Block, Function, Value};

/// Removes parameters that get one value from everywhere, or the same as another of their block.
pub(super) fn run(function: &mut Function) {
    let mut aliases = Aliases::new(function);
    let order = function.reverse_postorder();
    let before = predecessors(function);
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for &block in order.iter().filter(|&&block| block != Function::ENTRY) {
            for n in 0..function.block(block).params.len() {
                let param = function.block(block).params[n];
                if aliases.resolve(param) == param
                    && let Some(value) = only(function, &before, &mut aliases, block, n)
                {
                    aliases.set(param, value);
                    changed = true;
                }
            }
            changed |= merge(function, &before, &mut aliases, block);
        }
    }
    aliases.apply(function);
    drop_params(function, &order, |param| aliases.resolve(param) != param);
}

/// The value that a parameter has in all cases, if there is one.
fn only(
    function: &Function,
    before: &[Vec<Block>],
    aliases: &mut Aliases,
    block: Block,
    n: usize,
) -> Option<Value> {
    let param = function.block(block).params[n];
    let mut found = None;
    for &from in &before[block.0 as usize] {
        for target in edges(function, from, block) {
            let value = aliases.resolve(target.args[n]);
            if value == param || Some(value) == found {
                continue;
            }
            if found.is_some() {
                return None;
            }
            found = Some(value);
        }
    }
    found
}

/// Has parameters of a block stand for the first one that gets the same values from everywhere.
fn merge(function: &Function, before: &[Vec<Block>], aliases: &mut Aliases, block: Block) -> bool {
    let mut changed = false;
    let mut firsts = HashMap::new();
    for (n, &param) in function.block(block).params.iter().enumerate() {
        if aliases.resolve(param) != param {
            continue;
        }
        let mut given = Vec::new();
        for &from in &before[block.0 as usize] {
            for target in edges(function, from, block) {
                let value = aliases.resolve(target.args[n]);
                // Itself again: so two of them may be given for each other.
                given.push(Some(value).filter(|value| *value != param));
            }
        }
        match firsts.entry((function.ty(param), given)) {
            Entry::Occupied(first) => {
                aliases.set(param, *first.get());
                changed = true;
            }
            Entry::Vacant(free) => {
                free.insert(param);
            }
        }
    }
    changed
}

/// Removes the parameters that `gone` names, with what edges give for them.
pub(super) fn drop_params(
    function: &mut Function,
    order: &[Block],
    mut gone: impl FnMut(Value) -> bool,
) {
    let mut keep: Vec<Option<Vec<bool>>> = vec![None; function.blocks.len()];
    for &block in order.iter().filter(|&&block| block != Function::ENTRY) {
        let kept: Vec<bool> = function
            .block(block)
            .params
            .iter()
            .map(|&p| !gone(p))
            .collect();
        if kept.contains(&false) {
            let mut kept_now = kept.iter();
            function
                .block_mut(block)
                .params
                .retain(|_| kept_now.next() == Some(&true));
            keep[block.0 as usize] = Some(kept);
        }
    }
    for &block in order {
        let Some(end) = &mut function.block_mut(block).end else {
            continue;
        };
        for target in end.targets_mut() {
            if let Some(kept) = &keep[target.block.0 as usize] {
                let mut kept = kept.iter();
                target.args.retain(|_| kept.next() == Some(&true));
            }
        }
    }
}
