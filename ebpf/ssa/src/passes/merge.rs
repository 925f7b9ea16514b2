//! Loads of neighbouring bytes that are put together are one load.

use super::place::{Place, place};
use crate::ir::{BinOp, Function, Op, Ty, UnOp, Value};

/// Goes over all blocks.
pub(super) fn run(function: &mut Function) {
    for block in function.reverse_postorder() {
        let insts = std::mem::take(&mut function.block_mut(block).insts);
        // Backwards: what is put together from most parts comes last.
        let mut out = Vec::with_capacity(insts.len());
        for (at, &inst) in insts.iter().enumerate().rev() {
            out.push(inst);
            if let Some(load) = merged(function, &insts[..at], inst) {
                load.stand_for(function, inst, &mut out);
            }
        }
        out.reverse();
        function.block_mut(block).insts = out;
    }
}

struct Merged {
    load: Op,
    ty: Ty,
    swapped: bool,
}

impl Merged {
    /// Makes an instruction give the merged value. What it needs is appended, last things first.
    fn stand_for(self, function: &mut Function, inst: Value, out: &mut Vec<Value>) {
        let (ty, slot) = (self.ty, function.value(inst).slot);
        let load = function.make(self.load, ty, slot);
        let mut value = load;
        if self.swapped {
            value = function.make(Op::Un(UnOp::ByteSwap, load), ty, slot);
            out.push(value);
        }
        out.push(load);
        function.values[inst.0 as usize].op = match ty == function.ty(inst) {
            true => Op::Bin(BinOp::Or, value, value),
            false => Op::Un(UnOp::ZeroExtend, value),
        };
    }
}

/// A part of a value that is put together: a load, and how far it is shifted.
#[derive(Clone, Copy)]
struct Part {
    load: Value,
    shift: u64,
}

/// The one load that the value of `inst` is, if it is put together from loads that are all in `before`, with
/// nothing between the first of them and `inst` that could change memory.
fn merged(function: &Function, before: &[Value], inst: Value) -> Option<Merged> {
    let mut parts = Vec::new();
    collect(function, inst, 0, &mut parts)?;
    if parts.len() < 2 {
        return None;
    }
    parts.sort_by_key(|part| part.shift);
    let (first, swapped) = lowest(function, &parts)?;
    let lowest = place(function, first)?;
    let ty = Ty::of_bytes(lowest.ty.bytes() * parts.len() as u32)?;
    let whole = Place { ty, ..lowest };
    if ty > function.ty(inst) || !is_undisturbed(function, before, &parts, &whole) {
        return None;
    }
    let load = function.value(first).op.clone();
    Some(Merged { load, ty, swapped })
}

/// The load at the lowest address, if all are side by side and none is shifted out of its place; and whether their
/// bytes are in the order of the network.
fn lowest(function: &Function, parts: &[Part]) -> Option<(Value, bool)> {
    let places = parts.iter().map(|part| place(function, part.load));
    let places: Vec<Place> = places.collect::<Option<_>>()?;
    let ty = places[0].ty;
    let step = u64::from(ty.bits());
    let mut shifts = parts.iter().zip(0..);
    let in_order = shifts.all(|(part, n)| part.shift == n * step);
    let rising = places
        .windows(2)
        .all(|pair| pair[0].is_followed_by(&pair[1]));
    let falling = places
        .windows(2)
        .all(|pair| pair[1].is_followed_by(&pair[0]));
    match (rising, falling) {
        _ if !in_order => None,
        (true, _) => Some((parts[0].load, false)),
        (_, true) if ty == Ty::I8 => Some((parts[parts.len() - 1].load, true)),
        _ => None,
    }
}

/// Whether the loads are all in `before`, and nothing there after the first of them changes what they read.
fn is_undisturbed(function: &Function, before: &[Value], parts: &[Part], bytes: &Place) -> bool {
    let is_part = |value: &Value| parts.iter().any(|part| part.load == *value);
    let Some(earliest) = before.iter().position(is_part) else {
        return false;
    };
    let since = &before[earliest..];
    let mut loads = parts.iter().map(|part| part.load);
    let mut rest = since.iter();
    loads.all(|load| since.contains(&load))
        && !rest.any(|&value| bytes.may_be_changed_by(function, value))
}

fn collect(function: &Function, value: Value, shift: u64, parts: &mut Vec<Part>) -> Option<()> {
    if parts.len() > 8 {
        return None;
    }
    match function.value(value).op {
        Op::Bin(BinOp::Or | BinOp::Add, a, b) if parts.len() < 8 => {
            collect(function, a, shift, parts)?;
            collect(function, b, shift, parts)
        }
        Op::Bin(BinOp::Shl, a, by) => {
            let by = function.constant(by)? % u64::from(function.ty(value).bits());
            collect(function, a, shift + by, parts)
        }
        Op::Un(UnOp::ZeroExtend, load) if matches!(function.value(load).op, Op::Load { .. }) => {
            parts.push(Part { load, shift });
            Some(())
        }
        _ => None,
    }
}
