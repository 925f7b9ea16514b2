//! What was stored or loaded before need not be loaded again.
//!
//! Along straight paths the pass keeps what is known of memory: which value is at which place. A load of
//! bytes that are known is the value itself, or a part of it, or is put together from several: then no load
//! waits for stores of other widths, which processors cannot forward. Where paths meet, nothing is kept; so
//! a loop that waits for another worker's store reads memory every time round.

use std::ops::Range;

use super::place::Place;
use super::rewrite::{Aliases, predecessors};
use crate::ir::{BinOp, Block, Effect, Function, Op, Order, Region, Ty, UnOp, Value};

/// Bytes whose content is known.
#[derive(Clone, Copy, Debug)]
struct Known {
    place: Place,
    value: Value,
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
                let place = Place::new(function, region, base, off, function.ty(inst));
                if let Some(value) = self.find(function, &place, inst) {
                    return self.aliases.set(inst, value);
                }
                self.keep(Known { place, value: inst });
            }
            Op::Store {
                region,
                base,
                off,
                value,
            } => {
                let place = Place::new(function, region, base, off, function.ty(value));
                self.known
                    .retain(|known| !known.place.may_overlap(function, &place));
                self.keep(Known { place, value });
            }
            Op::Load { .. } | Op::Atomic { .. } => {
                let kept = |region: Region| {
                    matches!(region, Region::Env | Region::Temp(_) | Region::Packet)
                        && !matches!(op, Op::Atomic { region: written, .. } if written.overlaps(region))
                };
                self.known.retain(|known| kept(known.place.region));
            }
            Op::Native { ref effect, .. } => self.written(effect),
            Op::Local { .. } | Op::TailCall(..) => self.known.clear(),
            _ => {}
        }
        self.out.push(inst);
    }

    fn written(&mut self, effect: &Effect) {
        let writes = &effect.writes;
        let kept = |place: &Place| !writes.iter().any(|region| region.overlaps(place.region));
        self.known.retain(|known| kept(&known.place));
    }

    fn keep(&mut self, known: Known) {
        if self.known.len() == MOST {
            self.known.remove(0);
        }
        self.known.push(known);
    }

    /// What a load would give, as a value, if all its bytes are known.
    fn find(&mut self, function: &mut Function, wanted: &Place, inst: Value) -> Option<Value> {
        let bytes = wanted.bytes();
        let mut beside = self.known.iter().rev();
        let whole = beside.find(|Known { place, .. }| {
            let known = place.bytes();
            place.is_beside(wanted) && known.start <= bytes.start && bytes.end <= known.end
        });
        if let Some(&whole) = whole {
            return Some(self.part(function, &whole, wanted, inst));
        }
        let parts = self.parts(wanted)?;
        Some(self.join(function, &parts, wanted, inst))
    }

    /// Known bytes that together are what is wanted, in order.
    fn parts(&self, wanted: &Place) -> Option<Vec<Known>> {
        let mut parts = Vec::new();
        let Range { start: mut at, end } = wanted.bytes();
        while at < end {
            let next = self.known.iter().rev().find(|Known { place, .. }| {
                place.is_beside(wanted) && place.off == at && place.bytes().end <= end
            })?;
            parts.push(*next);
            at = next.place.bytes().end;
        }
        Some(parts)
    }

    fn part(
        &mut self,
        function: &mut Function,
        whole: &Known,
        wanted: &Place,
        inst: Value,
    ) -> Value {
        let (slot, from) = (function.value(inst).slot, &whole.place);
        let mut value = whole.value;
        let shift = (wanted.off - from.off) as u64 * 8;
        if shift != 0 {
            let by = function.number(from.ty, shift);
            value = self.make(function, Op::Bin(BinOp::LShr, value, by), from.ty, slot);
        }
        if wanted.ty != from.ty {
            value = self.make(function, Op::Un(UnOp::Truncate, value), wanted.ty, slot);
        }
        value
    }

    fn join(
        &mut self,
        function: &mut Function,
        parts: &[Known],
        wanted: &Place,
        inst: Value,
    ) -> Value {
        let (slot, ty) = (function.value(inst).slot, wanted.ty);
        let mut joined = None;
        for part in parts {
            let mut value = self.make(function, Op::Un(UnOp::ZeroExtend, part.value), ty, slot);
            let shift = (part.place.off - wanted.off) as u64 * 8;
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
