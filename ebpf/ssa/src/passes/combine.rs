//! Stores of neighbouring bytes become one.
//!
//! Programs write addresses byte by byte, and headers field by field. Two stores side by side become one of
//! twice the width, up to 16 bytes, if their values are parts of one thing: numbers, neighbouring bytes that were
//! loaded, in their order or the opposite one, halves of a value, or the same operation on such parts. The first
//! store waits for the second, so nothing in between may look at its bytes. Only memory that nobody else sees is
//! treated so.

use super::place::{Place, place};
use crate::ir::{BinOp, Function, Op, Order, Region, Ty, UnOp, Value};

/// How many stores wait at once at most.
const MOST: usize = 32;
/// How many operations lie between loads and a store at most.
const DEPTH: u32 = 4;

/// Goes over all blocks, from narrow stores to wide ones.
pub(super) fn run(function: &mut Function) {
    for block in function.reverse_postorder() {
        for ty in [Ty::I8, Ty::I16, Ty::I32, Ty::I64] {
            let insts = std::mem::take(&mut function.block_mut(block).insts);
            let mut pass = Combine {
                function: &mut *function,
                ty,
                out: Vec::with_capacity(insts.len()),
                waiting: Vec::new(),
            };
            insts.into_iter().for_each(|inst| pass.inst(inst));
            function.block_mut(block).insts = pass.out;
        }
    }
}

/// A store that may still be done later.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    inst: Value,
    place: Place,
    value: Value,
}

struct Combine<'a> {
    function: &'a mut Function,
    /// Width of the stores that are combined.
    ty: Ty,
    out: Vec<Value>,
    waiting: Vec<Waiting>,
}

impl Combine<'_> {
    fn inst(&mut self, inst: Value) {
        let op = self.function.value(inst).op.clone();
        match op {
            Op::Store {
                region,
                base,
                off,
                value,
            } => return self.store(inst, region, base, off, value),
            Op::Load { order, .. } => match place(self.function, inst) {
                Some(read) if order == Order::Plain => {
                    self.waiting
                        .retain(|store| !store.place.may_overlap(self.function, &read));
                }
                _ => self.waiting.clear(),
            },
            Op::Native { ref effect, .. } => {
                let touched = effect.reads.iter().chain(&effect.writes);
                let touched: Vec<Region> = touched.copied().collect();
                self.waiting
                    .retain(|store| !touched.iter().any(|r| r.overlaps(store.place.region)));
            }
            Op::Atomic { .. } | Op::Local { .. } | Op::TailCall(..) | Op::TrapIf { .. } => {
                self.waiting.clear();
            }
            _ => {}
        }
        self.out.push(inst);
    }

    fn store(&mut self, inst: Value, region: Region, base: Value, off: i32, value: Value) {
        let ty = self.function.ty(value);
        let place = Place::new(self.function, region, base, off, ty);
        let off = place.off;
        if let Some(earlier) = self.neighbour(&place) {
            let low = off.min(earlier.place.off);
            let halves = if low == off {
                (value, earlier.value)
            } else {
                (earlier.value, value)
            };
            if let Some(whole) = self.whole(halves, DEPTH) {
                self.out.retain(|&inst| inst != earlier.inst);
                let overtaken = |store: &Waiting| store.place.may_overlap(self.function, &place);
                self.waiting
                    .retain(|store| store.inst != earlier.inst && !overtaken(store));
                return self.put(inst, region, (place.base, low), whole);
            }
        }
        self.waiting
            .retain(|store| !store.place.may_overlap(self.function, &place));
        let private = matches!(region, Region::Packet | Region::Frame | Region::Temp(_));
        if ty == self.ty && private {
            if self.waiting.len() == MOST {
                self.waiting.remove(0);
            }
            self.waiting.push(Waiting { inst, place, value });
        }
        self.out.push(inst);
    }

    /// An earlier store beside this one. Bytes pair up from even distances, as fields do.
    fn neighbour(&self, place: &Place) -> Option<Waiting> {
        let beside = |store: &&Waiting| {
            let low = place.off.min(store.place.off);
            (store.place.is_followed_by(place) || place.is_followed_by(&store.place))
                && (self.ty != Ty::I8 || low % 2 == 0)
        };
        self.waiting.iter().rev().find(beside).copied()
    }

    /// Both stores as one, in the place of the later one.
    fn put(&mut self, inst: Value, region: Region, (root, low): (Value, i64), value: Value) {
        let slot = self.function.value(inst).slot;
        let (base, off) = match i32::try_from(low) {
            Ok(off) => (root, off),
            Err(_) => {
                let by = self.function.number(Ty::I64, low.cast_unsigned());
                (self.make(Op::Bin(BinOp::Add, root, by), Ty::I64, slot), 0)
            }
        };
        let op = Op::Store {
            region,
            base,
            off,
            value,
        };
        self.function.values[inst.0 as usize].op = op;
        self.out.push(inst);
    }

    fn make(&mut self, op: Op, ty: Ty, slot: u32) -> Value {
        let value = self.function.make(op, ty, slot);
        self.out.push(value);
        value
    }

    /// The value that has these as its low and high halves, if it costs nothing.
    fn whole(&mut self, (low, high): (Value, Value), depth: u32) -> Option<Value> {
        let wide = Ty::of_bytes(self.ty.bytes() * 2)?;
        if wide == Ty::V128 {
            return self.vector(low, high);
        }
        let bits = self.ty.bits();
        let numbers = (self.function.constant(low), self.function.constant(high));
        if let (Some(low), Some(high)) = numbers {
            return Some(self.function.number(wide, low | high << bits));
        }
        if let Some(value) = self.halves_of(low, high, wide) {
            return Some(value);
        }
        if let Some(value) = self.loaded(low, high, wide) {
            return Some(value);
        }
        let depth = depth.checked_sub(1)?;
        let slot = self.function.value(low).slot;
        let ops = (&self.function.value(low).op, &self.function.value(high).op);
        match ops {
            (&Op::Bin(op, a, b), &Op::Bin(other, c, d))
                if op == other && matches!(op, BinOp::And | BinOp::Or | BinOp::Xor) =>
            {
                let (a, b) = (self.whole((a, c), depth)?, self.whole((b, d), depth)?);
                Some(self.make(Op::Bin(op, a, b), wide, slot))
            }
            (&Op::Un(UnOp::ByteSwap, a), &Op::Un(UnOp::ByteSwap, b)) => {
                let value = self.whole((b, a), depth)?;
                Some(self.make(Op::Un(UnOp::ByteSwap, value), wide, slot))
            }
            _ if self.ty == Ty::I8 => {
                let value = self.loaded(high, low, wide)?;
                Some(self.make(Op::Un(UnOp::ByteSwap, value), wide, slot))
            }
            _ => None,
        }
    }

    /// Two numbers in one register, if they come from memory that way or are the same.
    fn vector(&mut self, low: Value, high: Value) -> Option<Value> {
        if let Some(number) = self.function.constant(low) {
            return (low == high).then(|| self.function.number(Ty::V128, number));
        }
        // Only from the packet: words of maps must not be torn apart, and those of the stack were often stored just
        // before, where processors forward no two stores to one load.
        match self.function.value(low).op {
            Op::Load {
                region: Region::Packet,
                ..
            } => self.loaded(low, high, Ty::V128),
            _ => None,
        }
    }

    /// The value of which these are the low part and the one above it.
    fn halves_of(&mut self, low: Value, high: Value, wide: Ty) -> Option<Value> {
        let (a, by_a) = self.part(low)?;
        let (b, by_b) = self.part(high)?;
        let from = self.function.ty(a);
        let fits = by_a + u64::from(wide.bits()) <= from.bits().into();
        if a != b || by_b != by_a + u64::from(self.ty.bits()) || !fits {
            return None;
        }
        let slot = self.function.value(low).slot;
        let mut value = a;
        if by_a != 0 {
            let by = self.function.number(from, by_a);
            value = self.make(Op::Bin(BinOp::LShr, value, by), from, slot);
        }
        if from != wide {
            value = self.make(Op::Un(UnOp::Truncate, value), wide, slot);
        }
        Some(value)
    }

    /// A value that this is a part of, and how far up.
    fn part(&self, value: Value) -> Option<(Value, u64)> {
        let Op::Un(UnOp::Truncate, from) = self.function.value(value).op else {
            return None;
        };
        match self.function.value(from).op {
            Op::Bin(BinOp::LShr, whole, by) => {
                let bits = u64::from(self.function.ty(whole).bits());
                Some((whole, self.function.constant(by)? % bits))
            }
            _ => Some((from, 0)),
        }
    }

    /// One load for two that are side by side, in the place of the first of them.
    fn loaded(&mut self, low: Value, high: Value, wide: Ty) -> Option<Value> {
        let (first, second) = (place(self.function, low)?, place(self.function, high)?);
        // A part of the environment stands elsewhere, for the code generator, and is named by its address as it is.
        if !first.is_followed_by(&second) || first.region == Region::Env {
            return None;
        }
        let find = |load: Value| self.out.iter().position(|inst| *inst == load);
        let (a, b) = (find(low)?, find(high)?);
        let (at, later) = if a < b { (a, &second) } else { (b, &first) };
        let mut between = self.out[at..a.max(b)].iter();
        // A load that is made earlier may not pass its check. The first one stays where it is.
        let kept_apart = |inst| {
            matches!(self.function.value(inst).op, Op::TrapIf { .. })
                || later.may_be_changed_by(self.function, inst)
        };
        if between.any(|&inst| kept_apart(inst)) {
            return None;
        }
        // What the distance is from must be there before the upper one, if that was made first.
        if self.out[at..].contains(&first.base) {
            return None;
        }
        let load = Op::Load {
            region: first.region,
            base: first.base,
            off: i32::try_from(first.off).ok()?,
            order: Order::Plain,
        };
        let slot = self.function.value(low).slot;
        let value = self.function.make(load, wide, slot);
        self.out.insert(at, value);
        Some(value)
    }
}
