//! What was stored or loaded before need not be loaded again.
//!
//! Along straight paths the pass keeps what is known of memory: which value is at which place. A load of
//! bytes that are known is the value itself, or a part of it, or is put together from several: then no load
//! waits for stores of other widths, which processors cannot forward. Where paths meet, nothing is kept; so
//! a loop that waits for another worker's store reads memory every time round.

use std::ops::Range;

use super::fold::offset;
use super::rewrite::{Aliases, predecessors};
use crate::ir::{BinOp, Block, Effect, Function, Op, Order, Region, Ty, UnOp, Value};

/// Bytes whose content is known.
#[derive(Clone, Copy, Debug)]
struct Known {
    region: Region,
    base: Value,
    off: i64,
    value: Value,
    ty: Ty,
}

impl Known {
    fn bytes(&self) -> Range<i64> {
        self.off..self.off + i64::from(self.ty.bytes())
    }
}

/// How much is kept in mind at once: more is rarely used, and costs time.
const MOST: usize = 64;

/// Goes over all blocks.
pub(super) fn run(function: &mut Function) {
    let before = predecessors(function);
    let mut pass = Forward {
        aliases: Aliases::new(function),
        known: Vec::new(),
        out: Vec::new(),
    };
    let mut at_end: Vec<Option<Vec<Known>>> = vec![None; function.blocks.len()];
    for block in function.reverse_postorder() {
        pass.known = match *before[block.0 as usize] {
            [only] => at_end[only.0 as usize].clone().unwrap_or_default(),
            _ => Vec::new(),
        };
        pass.block(function, block);
        at_end[block.0 as usize] = Some(std::mem::take(&mut pass.known));
    }
    pass.aliases.apply(function);
}

struct Forward {
    aliases: Aliases,
    known: Vec<Known>,
    out: Vec<Value>,
}

impl Forward {
    fn block(&mut self, function: &mut Function, block: Block) {
        let insts = std::mem::take(&mut function.block_mut(block).insts);
        self.out = Vec::with_capacity(insts.len());
        for inst in insts {
            let mut op = std::mem::replace(&mut function.values[inst.0 as usize].op, Op::Param);
            op.map_uses(|value| self.aliases.resolve(value));
            self.inst(function, inst, &op);
            function.values[inst.0 as usize].op = op;
        }
        function.block_mut(block).insts = std::mem::take(&mut self.out);
    }

    fn inst(&mut self, function: &mut Function, inst: Value, op: &Op) {
        match *op {
            Op::Load {
                region,
                base,
                off,
                order: Order::Plain,
            } => {
                let ty = function.ty(inst);
                let (base, off) = place(function, base, off);
                if let Some(value) = self.find(function, region, base, off, ty, inst) {
                    return self.aliases.set(inst, value);
                }
                self.keep(Known {
                    region,
                    base,
                    off,
                    value: inst,
                    ty,
                });
            }
            Op::Store {
                region,
                base,
                off,
                value,
            } => {
                let ty = function.ty(value);
                let (base, off) = place(function, base, off);
                let new = Known {
                    region,
                    base,
                    off,
                    value,
                    ty,
                };
                self.known
                    .retain(|known| !may_overlap(function, known, &new));
                self.keep(new);
            }
            Op::Load { .. } | Op::Atomic { .. } => {
                let kept = |region: Region| {
                    matches!(region, Region::Env | Region::Temp(_) | Region::Packet)
                        && !matches!(op, Op::Atomic { region: written, .. } if written.overlaps(region))
                };
                self.known.retain(|known| kept(known.region));
            }
            Op::Native { ref effect, .. } => self.written(effect),
            Op::Local { .. } | Op::TailCall(..) => self.known.clear(),
            _ => {}
        }
        self.out.push(inst);
    }

    fn written(&mut self, effect: &Effect) {
        let writes = &effect.writes;
        self.known
            .retain(|known| !writes.iter().any(|region| region.overlaps(known.region)));
    }

    fn keep(&mut self, known: Known) {
        if self.known.len() == MOST {
            self.known.remove(0);
        }
        self.known.push(known);
    }

    /// What a load would give, as a value, if all its bytes are known.
    fn find(
        &mut self,
        function: &mut Function,
        region: Region,
        base: Value,
        off: i64,
        ty: Ty,
        inst: Value,
    ) -> Option<Value> {
        let wanted = off..off + i64::from(ty.bytes());
        let same = |known: &&Known| known.region == region && known.base == base;
        let whole = self.known.iter().rev().filter(same).find(|known| {
            let bytes = known.bytes();
            bytes.start <= wanted.start && wanted.end <= bytes.end
        });
        if let Some(&whole) = whole {
            return Some(self.part(function, &whole, off, ty, inst));
        }
        let parts = self.parts(region, base, &wanted)?;
        Some(self.join(function, &parts, off, ty, inst))
    }

    /// Known bytes that together are what is wanted, in order.
    fn parts(&self, region: Region, base: Value, wanted: &Range<i64>) -> Option<Vec<Known>> {
        let mut parts = Vec::new();
        let mut at = wanted.start;
        while at < wanted.end {
            let next = self.known.iter().rev().find(|known| {
                known.region == region
                    && known.base == base
                    && known.off == at
                    && known.bytes().end <= wanted.end
            })?;
            parts.push(*next);
            at = next.bytes().end;
        }
        Some(parts)
    }

    fn part(
        &mut self,
        function: &mut Function,
        whole: &Known,
        off: i64,
        ty: Ty,
        inst: Value,
    ) -> Value {
        let slot = function.value(inst).slot;
        let mut value = whole.value;
        let shift = (off - whole.off) as u64 * 8;
        if shift != 0 {
            let by = function.number(whole.ty, shift);
            value = self.make(function, Op::Bin(BinOp::LShr, value, by), whole.ty, slot);
        }
        if ty != whole.ty {
            value = self.make(function, Op::Un(UnOp::Truncate, value), ty, slot);
        }
        value
    }

    fn join(
        &mut self,
        function: &mut Function,
        parts: &[Known],
        off: i64,
        ty: Ty,
        inst: Value,
    ) -> Value {
        let slot = function.value(inst).slot;
        let mut joined = None;
        for part in parts {
            let mut value = self.make(function, Op::Un(UnOp::ZeroExtend, part.value), ty, slot);
            let shift = (part.off - off) as u64 * 8;
            if shift != 0 {
                let by = function.number(ty, shift);
                value = self.make(function, Op::Bin(BinOp::Shl, value, by), ty, slot);
            }
            joined = Some(match joined {
                None => value,
                Some(low) => self.make(function, Op::Bin(BinOp::Or, low, value), ty, slot),
            });
        }
        joined.expect("a load has bytes")
    }

    fn make(&mut self, function: &mut Function, op: Op, ty: Ty, slot: u32) -> Value {
        let value = function.make(op, ty, slot);
        self.out.push(value);
        value
    }
}

/// An address as a base and a distance.
fn place(function: &Function, base: Value, off: i32) -> (Value, i64) {
    let (base, distance) = offset(function, base);
    (base, distance.cast_signed().wrapping_add(off.into()))
}

/// Whether a store may change known bytes.
fn may_overlap(function: &Function, known: &Known, stored: &Known) -> bool {
    if !known.region.overlaps(stored.region) {
        return false;
    }
    let apart = |a: Range<i64>, b: Range<i64>| a.end <= b.start || b.end <= a.start;
    if known.base == stored.base {
        return !apart(known.bytes(), stored.bytes());
    }
    // Different numbers are different addresses.
    match (
        function.constant(known.base),
        function.constant(stored.base),
    ) {
        (Some(a), Some(b)) => {
            let distance = b.wrapping_sub(a).cast_signed();
            let at = stored.off.wrapping_add(distance);
            !apart(known.bytes(), at..at.wrapping_add(stored.ty.bytes().into()))
        }
        _ => true,
    }
}
