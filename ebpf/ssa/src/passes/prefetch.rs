//! What of a program finds out the keys that it will look up in LRU maps.
//!
//! Such a map is the table of sessions. If it is larger than the caches, a packet waits for memory, mostly for
//! nothing but its session. The function made here runs over a burst before the program does: it reads what the
//! program reads and branches as it does, up to the first lookup in an LRU map, and announces that
//! ([`squalus_maps::Map::look_ahead`]). It has no effects, so what it says may be wrong, and is not for frames
//! whose packet the program changes first.
//!
//! *Why it is safe.* It does a part of what the program does, in the same order. Checks and what they guard stay.
//! Left out are stores that others could see; what is read from such memory is never taken on trust, since others
//! may store there at any time. Whatever else has an effect ends the function.

use squalus_isa::MapType;
use squalus_runtime::Env;

use super::rewrite::predecessors;
use crate::ir::{
    Block, Effect, Fixed, Function, HashShape, Op, Order, Region, Terminator, Ty, Value,
};

/// The function that announces lookups by calling `look_ahead`; none if the program makes none that it could.
pub(super) fn slice(function: &Function, look_ahead: usize) -> Option<Function> {
    if function.params != 0 || look_ahead == 0 {
        return None;
    }
    let mut slice = function.clone();
    let mut announcing = Vec::new();
    for block in slice.reverse_postorder() {
        if cut(&mut slice, block, look_ahead) {
            announcing.push(block);
        }
    }
    let useful = leading_to(&slice, &announcing);
    for block in slice.reverse_postorder() {
        if !useful[block.0 as usize] {
            slice.block_mut(block).insts.clear();
            end(&mut slice, block);
        }
    }
    useful[Function::ENTRY.0 as usize].then_some(slice)
}

/// What becomes of an instruction.
enum Step {
    Keep,
    Leave,
    /// Only what an atomic operation would have found.
    Load,
    Announce,
    End,
}

fn step(slice: &Function, op: &Op) -> Step {
    match op {
        Op::Lookup { shape, .. } if is_plain(*shape) => Step::Keep,
        Op::Lookup { .. } => Step::Announce,
        Op::Store {
            region: Region::Frame | Region::Temp(_),
            ..
        } => Step::Keep,
        // Loops end for lack of budget here, too; each run begins with a new one.
        Op::Store {
            region: Region::Env,
            base,
            off,
            ..
        } => match (&slice.value(*base).op, *off as usize) {
            (Op::Fixed(Fixed::Env), Env::OFFSET_BUDGET) => Step::Keep,
            _ => Step::End,
        },
        Op::Store { .. } => Step::Leave,
        Op::Atomic { .. } => Step::Load,
        Op::Native { effect, .. } if effect.pure && effect.writes.is_empty() => Step::Keep,
        Op::Native { .. } | Op::Local { .. } | Op::TailCall(..) => Step::End,
        _ => Step::Keep,
    }
}

/// Whether a lookup in such a map has no effect.
fn is_plain(shape: HashShape) -> bool {
    matches!(shape.kind, Some(MapType::Hash | MapType::PerCpuHash))
}

/// Leaves out of a block what has effects. Says whether it announces a lookup.
fn cut(slice: &mut Function, block: Block, look_ahead: usize) -> bool {
    let insts = std::mem::take(&mut slice.block_mut(block).insts);
    for inst in insts {
        let data = slice.value(inst);
        let (op, slot) = (data.op.clone(), data.slot);
        match step(slice, &op) {
            Step::Keep => slice.block_mut(block).insts.push(inst),
            Step::Leave => {}
            Step::Load => {
                let Op::Atomic {
                    region, address, ..
                } = op
                else {
                    continue;
                };
                slice.values[inst.0 as usize].op = Op::Load {
                    region,
                    base: address,
                    off: 0,
                    order: Order::Plain,
                };
                slice.block_mut(block).insts.push(inst);
            }
            Step::Announce => {
                if let Op::Lookup { map, key, .. } = op {
                    announce(slice, block, look_ahead, (map, &key), slot);
                }
                end(slice, block);
                return true;
            }
            Step::End => {
                end(slice, block);
                return false;
            }
        }
    }
    false
}

/// Puts a call of `look_ahead` with a copy of the key at the end of a block.
fn announce(
    slice: &mut Function,
    block: Block,
    look_ahead: usize,
    (map, key): (Value, &[Value]),
    slot: u32,
) {
    let temp = slice.temps.len() as u32;
    slice.temps.push(key.len().max(1) as u32 * 8);
    let region = Region::Temp(temp);
    let base = slice.fixed(Fixed::Temp(temp));
    for (n, &value) in key.iter().enumerate() {
        let store = Op::Store {
            region,
            base,
            off: n as i32 * 8,
            value,
        };
        let store = slice.make(store, Ty::I64, slot);
        slice.block_mut(block).insts.push(store);
    }
    let len = slice.number(Ty::I64, key.len() as u64 * 8);
    let call = Op::Native {
        function: look_ahead,
        name: "look_ahead",
        args: vec![map, base, len],
        effect: Effect {
            reads: vec![region],
            writes: Vec::new(),
            pure: false,
        },
    };
    let call = slice.make(call, Ty::I64, slot);
    slice.block_mut(block).insts.push(call);
}

/// Has the function return at the end of a block.
fn end(slice: &mut Function, block: Block) {
    let zero = slice.number(Ty::I64, 0);
    slice.block_mut(block).end = Some(Terminator::Return(zero));
}

/// The blocks that some of these can be reached from.
fn leading_to(function: &Function, blocks: &[Block]) -> Vec<bool> {
    let before = predecessors(function);
    let mut leading = vec![false; function.blocks.len()];
    let mut pending = blocks.to_vec();
    while let Some(block) = pending.pop() {
        if !std::mem::replace(&mut leading[block.0 as usize], true) {
            pending.extend(&before[block.0 as usize]);
        }
    }
    leading
}
