//! Loads of neighbouring bytes that are put together are one load.

use super::place::{Place, place};
use crate::ir::{BinOp, Function, Op, Order, Region, Ty, UnOp, Value};

/// Goes over all blocks.
pub(super) fn run(function: &mut Function) {
    for block in function.reverse_postorder() {
        let insts = std::mem::take(&mut function.block_mut(block).insts);
        let mut out = Vec::with_capacity(insts.len());
        for (at, &inst) in insts.iter().enumerate() {
            if let Some(load) = merged(function, &insts[..at], inst) {
                let Merged { load, ty, swapped } = load;
                let slot = function.value(inst).slot;
                let mut value = function.make(load, ty, slot);
                out.push(value);
                if swapped {
                    value = function.make(Op::Un(UnOp::ByteSwap, value), ty, slot);
                    out.push(value);
                }
                let wide = function.ty(inst);
                function.values[inst.0 as usize].op = if ty == wide {
                    // Stands for the merged value.
                    Op::Bin(BinOp::Or, value, value)
                } else {
                    Op::Un(UnOp::ZeroExtend, value)
                };
            }
            out.push(inst);
        }
        function.block_mut(block).insts = out;
    }
}

struct Merged {
    load: Op,
    ty: Ty,
    swapped: bool,
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
    let places: Option<Vec<Place>> = parts
        .iter()
        .map(|part| place(function, part.load))
        .collect();
    let places = places?;
    let ty = places[0].ty;
    let size = i64::from(ty.bytes());
    let whole = Ty::of_bytes(ty.bytes() * parts.len() as u32)?;
    if whole > function.ty(inst) {
        return None;
    }
    let step = u64::from(ty.bits());
    let in_order = parts
        .iter()
        .enumerate()
        .all(|(n, part)| part.shift == n as u64 * step);
    let alike = places
        .iter()
        .all(|p| p.ty == ty && p.base == places[0].base && p.region == places[0].region);
    if !in_order || !alike {
        return None;
    }
    let rising = places
        .windows(2)
        .all(|pair| pair[1].off - pair[0].off == size);
    let falling = places
        .windows(2)
        .all(|pair| pair[0].off - pair[1].off == size);
    let first = match (rising, falling) {
        (true, _) => 0,
        (_, true) if ty == Ty::I8 => parts.len() - 1,
        _ => return None,
    };
    let earliest = before
        .iter()
        .position(|value| parts.iter().any(|part| part.load == *value))?;
    let all_here = parts
        .iter()
        .all(|part| before[earliest..].contains(&part.load));
    let disturbed = before[earliest..]
        .iter()
        .any(|&value| changes_memory(function, value, places[first].region));
    if !all_here || disturbed {
        return None;
    }
    let Op::Load {
        region, base, off, ..
    } = function.value(parts[first].load).op
    else {
        return None;
    };
    Some(Merged {
        load: Op::Load {
            region,
            base,
            off,
            order: Order::Plain,
        },
        ty: whole,
        swapped: !rising,
    })
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

fn changes_memory(function: &Function, value: Value, region: Region) -> bool {
    match &function.value(value).op {
        Op::Store {
            region: written, ..
        }
        | Op::Atomic {
            region: written, ..
        } => written.overlaps(region),
        Op::Native { effect, .. } => effect.writes.iter().any(|written| written.overlaps(region)),
        Op::Local { .. } | Op::TailCall(..) => true,
        Op::Load { order, .. } => *order != Order::Plain,
        _ => false,
    }
}
