//! Calls of helpers and subprograms. Small helpers become a few instructions; others get copies of the
//! stack bytes they use, so that the stack itself needs no memory.

use std::mem::offset_of;
use std::ops::Range;

use squalus_analysis::{FuncId, InstFacts, MapRef, Value as Known};
use squalus_isa::{CallTarget, HelperId, MapType, Reg};
use squalus_maps::{ArrayBase, HashLayout, Map};
use squalus_runtime::{ArgKind, Env, Proto, RetKind, STACK_SIZE, TrapReason, proto, protos};

use super::Builder;
use super::cells::{arg, argument};
use super::emit::target;
use crate::ir::{BinOp, Cmp, Effect, Fixed, HashShape, Op, Order, Region, Terminator, Ty, Value};

/// A copy of stack bytes that a helper gets.
struct Copy {
    temp: u32,
    bytes: Range<i32>,
    cells: Range<usize>,
    /// Whether the helper writes there.
    written: bool,
}

impl Builder<'_> {
    pub(super) fn call(&mut self, known: &InstFacts, target: CallTarget) {
        match target {
            CallTarget::Helper(id) => self.helper(known, id),
            CallTarget::Local(target) => self.local_call(known, target),
            // The analysis ends here, and so does the code.
            CallTarget::Kfunc(_) => {}
        }
    }

    fn helper(&mut self, known: &InstFacts, id: HelperId) {
        let Some(proto) = proto(id) else {
            // A call that CO-RE could not resolve: the analysis ends here, and so does the code.
            return;
        };
        if self.input.facts.takes_locks() && id != HelperId::SPIN_UNLOCK {
            let lock = self.emit.load_env(Ty::I64, Env::OFFSET_LOCK);
            let held = self.emit.cmp_with(Cmp::Ne, lock, 0);
            self.emit.trap_if(held, TrapReason::SpinLock);
        }
        if known.unproved_args != 0 {
            self.check_args(known, proto);
        }
        if proto.ret == RetKind::TailCall {
            return self.tail_call(known);
        }
        if let Some(over) = proto.iterates() {
            return self.iterate(known, over);
        }
        let result = match self.inline(known, proto) {
            Some(result) => result,
            None if id == HelperId::TIMER_SET_CALLBACK => self.set_timer_callback(known, proto),
            None => self.call_helper(known, proto),
        };
        if proto.may_trap {
            let reason = self.emit.load_env(Ty::I32, Env::OFFSET_TRAP);
            let reason = self.emit.resize(reason, Ty::I64);
            self.emit.trap_by(reason);
        }
        self.set(Reg::R0, result);
    }

    /// The helper learns what this program is known by.
    fn set_timer_callback(&mut self, known: &InstFacts, proto: &'static Proto) -> Value {
        let mut args = self.args(known, 2);
        args[2] = self.emit.number(Ty::I64, self.input.support.context as u64);
        let effect = self.effect(known, proto, &[]);
        let function = ("timer_set_callback", proto.function as usize);
        self.emit.native(function, args, effect)
    }

    pub(super) fn args(&mut self, known: &InstFacts, count: usize) -> Vec<Value> {
        let arg_of = |n| {
            if n < count {
                self.reg(known, arg(n))
            } else {
                self.undefined
            }
        };
        (0..5).map(arg_of).collect()
    }

    /// Calls the helper's function, with copies in place of stack bytes that are values.
    pub(super) fn call_helper(&mut self, known: &InstFacts, proto: &'static Proto) -> Value {
        let mut args = self.args(known, proto.args.len());
        let mut copies = Vec::new();
        for (n, kind) in proto.args.iter().enumerate() {
            if let Some(copy) = self.copy_in(known, n, kind.writes_through()) {
                args[n] = self.emit.function.fixed(Fixed::Temp(copy.temp));
                copies.push(copy);
            }
        }
        let effect = self.effect(known, proto, &copies);
        let name = squalus_isa::helper::name(proto.id).unwrap_or("helper");
        let result = self
            .emit
            .native((name, proto.function as usize), args, effect);
        for copy in copies.iter().filter(|copy| copy.written) {
            self.copy_out(copy);
        }
        result
    }

    fn copy_in(&mut self, known: &InstFacts, n: usize, written: bool) -> Option<Copy> {
        let bytes = argument(known, n, self.func)?;
        let cells = self.cells.within(bytes.clone());
        if cells.is_empty() {
            return None;
        }
        let temps = &mut self.emit.function.temps;
        temps.push((bytes.end - bytes.start) as u32);
        let temp = temps.len() as u32 - 1;
        let address = self.emit.function.fixed(Fixed::Temp(temp));
        for n in cells.clone() {
            let off = self.cells.all()[n].off - bytes.start;
            let value = self.vars[Reg::COUNT + n];
            self.emit.store(Region::Temp(temp), address, off, value);
        }
        Some(Copy {
            temp,
            bytes,
            cells,
            written,
        })
    }

    fn copy_out(&mut self, copy: &Copy) {
        let address = self.emit.function.fixed(Fixed::Temp(copy.temp));
        for n in copy.cells.clone() {
            let cell = self.cells.all()[n];
            let off = cell.off - copy.bytes.start;
            let value = self
                .emit
                .load(cell.ty, Region::Temp(copy.temp), address, off);
            self.vars[Reg::COUNT + n] = value;
        }
    }

    /// What the helper may do to memory that the program sees.
    fn effect(&self, known: &InstFacts, proto: &Proto, copies: &[Copy]) -> Effect {
        if proto.args.is_empty() {
            return Effect {
                reads: vec![Region::Env],
                writes: vec![Region::Env],
                pure: false,
            };
        }
        let mut reads = vec![Region::Env, Region::MapIndex];
        let mut writes = vec![Region::Env, Region::MapIndex];
        for copy in copies {
            reads.push(Region::Temp(copy.temp));
            if copy.written {
                writes.push(Region::Temp(copy.temp));
            }
        }
        let changes_values = !proto.pure && proto.id != HelperId::MAP_LOOKUP_ELEM;
        if changes_values {
            writes.extend([Region::MapValue(None), Region::Lent]);
        }
        if proto.changes_packet || proto.id == HelperId::XDP_STORE_BYTES {
            writes.push(Region::Packet);
        }
        for (n, kind) in proto.args.iter().enumerate() {
            if copies
                .iter()
                .any(|copy| argument(known, n, self.func).as_ref() == Some(&copy.bytes))
            {
                continue;
            }
            if let Some(region) = pointed(&known.reg(arg(n)), *kind) {
                reads.push(region);
                if kind.writes_through() || known.unproved_args != 0 {
                    writes.push(region);
                }
            }
        }
        if changes_values {
            reads.extend([Region::MapValue(None), Region::Packet, Region::Lent]);
        }
        Effect {
            reads,
            writes,
            pure: proto.pure,
        }
    }

    /// Has the arguments checked that are not proved.
    fn check_args(&mut self, known: &InstFacts, proto: &'static Proto) {
        self.emit.function.temps.push(40);
        let temp = self.emit.function.temps.len() as u32 - 1;
        let place = self.emit.function.fixed(Fixed::Temp(temp));
        for (n, arg) in self.args(known, 5).into_iter().enumerate() {
            self.emit
                .store(Region::Temp(temp), place, n as i32 * 8, arg);
        }
        let number = protos()
            .iter()
            .position(|p| p.id == proto.id)
            .unwrap_or_default();
        let number = self.emit.number(Ty::I64, number as u64);
        let mask = self.emit.number(Ty::I64, known.unproved_args.into());
        let context = self.emit.number(Ty::I64, self.input.support.context as u64);
        let effect = Effect {
            reads: vec![Region::Env, Region::MapIndex, Region::Temp(temp)],
            writes: Vec::new(),
            pure: false,
        };
        let function = ("check_args", self.input.support.check_args);
        let reason = self
            .emit
            .native(function, vec![place, mask, number, context], effect);
        self.emit.trap_by(reason);
    }

    /// The helper as instructions, if it is small enough.
    fn inline(&mut self, known: &InstFacts, proto: &'static Proto) -> Option<Value> {
        if known.unproved_args != 0 {
            return None;
        }
        if proto.id == HelperId::MAP_LOOKUP_ELEM {
            return self.map_lookup(known);
        }
        self.input
            .helpers
            .then(|| self.small_helper(known, proto))
            .flatten()
    }

    fn map_lookup(&mut self, known: &InstFacts) -> Option<Value> {
        let Known::Map { map, null: None } = known.reg(Reg::R1) else {
            return None;
        };
        if let MapRef::Direct(index) = map {
            let map = &self.input.program.maps()[index as usize];
            if let Some(array) = map.array_base() {
                let (copies, kind) = (map.copies(), map.def().kind);
                return Some(self.array_lookup(known, array, copies, kind));
            }
        }
        let (family, key_size) = self.shapes.family(map)?;
        if self.input.check_facts {
            return None;
        }
        if family == MapType::Array {
            return self.array_of_shape(known, map);
        }
        if family != MapType::Hash {
            return None;
        }
        let shape = HashShape {
            kind: self.shapes.kind(map),
            key_size,
            value_size: self.shapes.value_size(map)?,
        };
        let map = self.reg(known, Reg::R1);
        let key = self.key(known, key_size);
        Some(self.emit.ins(Op::Lookup { map, shape, key }, Ty::I64))
    }

    /// The key of a lookup as words of 8 bytes, the last one filled up with zeros.
    fn key(&mut self, known: &InstFacts, len: u32) -> Vec<Value> {
        let len = len as i32;
        let words = (0..len).step_by(8);
        words
            .map(|at| self.argument_word(known, 1, at..(at + 8).min(len)))
            .collect()
    }

    /// Up to 8 bytes of the memory that argument `n` points to, as a word.
    pub(super) fn argument_word(
        &mut self,
        known: &InstFacts,
        n: usize,
        bytes: Range<i32>,
    ) -> Value {
        if let Some(own) = argument(known, n, self.func) {
            let cells = self.cells.within(own.clone());
            if !cells.is_empty() {
                let bytes = own.start + bytes.start..own.start + bytes.end;
                return self.word_of_cells(cells, bytes);
            }
        }
        self.word_of_memory(known, n, bytes)
    }

    fn word_of_cells(&mut self, cells: Range<usize>, bytes: Range<i32>) -> Value {
        let (mut word, mut end) = (None, bytes.end);
        for n in cells {
            let cell = self.cells.all()[n];
            if cell.end() <= bytes.start || cell.off >= bytes.end {
                continue;
            }
            end = end.max(cell.end());
            let mut part = self.emit.resize(self.vars[Reg::COUNT + n], Ty::I64);
            let shift = (cell.off - bytes.start) * 8;
            if shift != 0 {
                let op = if shift > 0 { BinOp::Shl } else { BinOp::LShr };
                part = self.emit.bin_with(op, part, shift.unsigned_abs().into());
            }
            word = Some(match word {
                None => part,
                Some(low) => self.emit.bin(BinOp::Or, low, part),
            });
        }
        let word = word.unwrap_or(self.undefined);
        let bits = (bytes.end - bytes.start) as u32 * 8;
        if end == bytes.end || bits == 64 {
            return word;
        }
        self.emit.bin_with(BinOp::And, word, (1 << bits) - 1)
    }

    fn word_of_memory(&mut self, known: &InstFacts, n: usize, bytes: Range<i32>) -> Value {
        let pointer = known.reg(arg(n));
        let base = self.reg(known, arg(n));
        let region = region_of(&pointer);
        let (mut at, mut word) = (bytes.start, None);
        while at < bytes.end {
            let mut widths = [Ty::I64, Ty::I32, Ty::I16].into_iter();
            let ty = widths
                .find(|ty| ty.bytes() as i32 <= bytes.end - at)
                .unwrap_or(Ty::I8);
            let part = self.emit.load(ty, region, base, at);
            let part = self.emit.resize(part, Ty::I64);
            let shift = (at - bytes.start) as u64 * 8;
            word = Some(match word {
                None => part,
                Some(low) => {
                    let part = self.emit.bin_with(BinOp::Shl, part, shift);
                    self.emit.bin(BinOp::Or, low, part)
                }
            });
            at += ty.bytes() as i32;
        }
        word.unwrap_or(self.undefined)
    }

    /// An array's element is at a computed address; a map of maps holds the inner map's address there.
    fn array_lookup(
        &mut self,
        known: &InstFacts,
        array: ArrayBase,
        copies: u32,
        kind: MapType,
    ) -> Value {
        let entries = u64::from(array.entries);
        let facts = known.index.filter(|_| !self.input.check_facts);
        let index = match facts.and_then(|index| index.as_constant()) {
            Some(index) => self.emit.number(Ty::I64, index),
            None => self.key(known, 4)[0],
        };
        let base = self.emit.number(Ty::I64, array.base as u64);
        let offset = self.emit.bin_with(BinOp::Mul, index, array.stride as u64);
        let mut address = self.emit.bin(BinOp::Add, base, offset);
        if copies > 1 {
            let plane = self.cpu_offset(copies, array.cpu_stride);
            address = self.emit.bin(BinOp::Add, address, plane);
        }
        let inside = match facts {
            Some(index) if index.umax < entries => None,
            _ => Some(self.emit.cmp_with(Cmp::ULt, index, entries)),
        };
        if kind.is_map_in_map() {
            return self.load_if(inside, address);
        }
        match inside {
            None => address,
            Some(inside) => {
                let zero = self.emit.number(Ty::I64, 0);
                self.emit.select(inside, address, zero)
            }
        }
    }

    /// An element of an array that is found at run time.
    fn array_of_shape(&mut self, known: &InstFacts, map: MapRef) -> Option<Value> {
        let stride = self.shapes.value_size(map)?.next_multiple_of(8);
        let one_copy = self.shapes.kind(map) == Some(MapType::Array);
        let map = self.reg(known, Reg::R1);
        let index = self.key(known, 4)[0];
        let layout = |this: &mut Self, offset: usize| {
            let at = (Map::OFFSET_LAYOUT + offset) as i32;
            this.emit.load(Ty::I64, Region::MapIndex, map, at)
        };
        let entries = layout(self, offset_of!(HashLayout, set_count));
        let inside = self.emit.cmp(Cmp::ULt, index, entries);
        let values = layout(self, offset_of!(HashLayout, values));
        let offset = self.emit.bin_with(BinOp::Mul, index, stride.into());
        let mut address = self.emit.bin(BinOp::Add, values, offset);
        let zero = self.emit.number(Ty::I64, 0);
        if !one_copy {
            let cpu = self.emit.load_env(Ty::I32, Env::OFFSET_CPU);
            let cpu = self.emit.resize(cpu, Ty::I64);
            let copies = layout(self, offset_of!(HashLayout, copies));
            let has = self.emit.cmp(Cmp::ULt, cpu, copies);
            let cpu = self.emit.select(has, cpu, zero);
            let plane = layout(self, offset_of!(HashLayout, plane));
            let plane = self.emit.bin(BinOp::Mul, cpu, plane);
            address = self.emit.bin(BinOp::Add, address, plane);
        }
        Some(self.emit.select(inside, address, zero))
    }

    /// The distance of this CPU's values from CPU 0's. A CPU the map has no values for gets the first.
    pub(super) fn cpu_offset(&mut self, copies: u32, stride: usize) -> Value {
        let cpu = self.emit.load_env(Ty::I32, Env::OFFSET_CPU);
        let has = self.emit.cmp_with(Cmp::ULt, cpu, copies.into());
        let zero = self.emit.number(Ty::I32, 0);
        let cpu = self.emit.select(has, cpu, zero);
        let cpu = self.emit.resize(cpu, Ty::I64);
        self.emit.bin_with(BinOp::Mul, cpu, stride as u64)
    }

    /// The inner map's address at `address`, or 0 if it is not inside.
    fn load_if(&mut self, inside: Option<Value>, address: Value) -> Value {
        // The control plane may replace the inner map at any time; the order of what is reached through it
        // matters.
        let load = |base| Op::Load {
            region: Region::MapIndex,
            base,
            off: 0,
            order: Order::Acquire,
        };
        let Some(inside) = inside else {
            return self.emit.ins(load(address), Ty::I64);
        };
        let (then, other, on) = (
            self.emit.function.make_block(),
            self.emit.function.make_block(),
            self.emit.function.make_block(),
        );
        let result = self.emit.function.make(Op::Param, Ty::I64, self.emit.slot);
        self.emit.function.block_mut(on).params.push(result);
        self.emit.end(Terminator::Branch {
            condition: inside,
            then: target(then),
            other: target(other),
        });
        self.emit.block = then;
        let word = self.emit.ins(load(address), Ty::I64);
        self.jump_with(on, word);
        self.emit.block = other;
        let zero = self.emit.number(Ty::I64, 0);
        self.jump_with(on, zero);
        self.emit.block = on;
        result
    }

    pub(super) fn jump_with(&mut self, block: crate::ir::Block, arg: Value) {
        let mut to = target(block);
        to.args.push(arg);
        self.emit.end(Terminator::Jump(to));
    }

    fn tail_call(&mut self, known: &InstFacts) {
        let args = self.args(known, 3);
        self.emit
            .ins(Op::TailCall(args[0], args[1], args[2]), Ty::I64);
        let zero = self.emit.number(Ty::I64, 0);
        self.set(Reg::R0, zero);
    }

    fn local_call(&mut self, known: &InstFacts, target: usize) {
        let subs = self.input.program.subprograms();
        let callee = subs.partition_point(|sub| sub.start <= target) - 1;
        if callee == 0 {
            // The program calling itself, which the kernel never lets happen.
            return self.emit.trap(TrapReason::CallDepth);
        }
        self.open_frame();
        let (func, args, paid) = (callee as FuncId, self.args(known, 5), false);
        let value = self.emit.ins(Op::Local { func, args, paid }, Ty::I64);
        self.close_frame();
        self.set(Reg::R0, value);
    }

    /// Notes one more call; the run ends if there are too many. Returns the number of the new frame, if anybody
    /// wants to know it.
    pub(super) fn open_frame(&mut self) -> Value {
        if !self.input.counts_depth {
            return self.undefined;
        }
        let (depth_at, frames_at, deepest_at) = (
            self.input.support.depth_offset,
            self.input.support.frames_offset,
            self.input.support.deepest_offset,
        );
        let state = self.emit.load_env(Ty::I64, Env::OFFSET_SCRATCH);
        let depth = self.emit.load(Ty::I64, Region::Env, state, depth_at);
        let deepest = self.emit.load(Ty::I64, Region::Env, state, deepest_at);
        let full = self.emit.cmp(Cmp::UGe, depth, deepest);
        self.emit.trap_if(full, TrapReason::CallDepth);
        let inner = self.emit.moved(depth, 1);
        self.emit.store(Region::Env, state, depth_at, inner);
        let offset = self.emit.bin_with(BinOp::Shl, inner, 3);
        let place = self.emit.bin(BinOp::Add, state, offset);
        let zero = self.emit.number(Ty::I64, 0);
        self.emit.store(Region::Env, place, frames_at, zero);
        inner
    }

    /// Notes that a call returned.
    pub(super) fn close_frame(&mut self) {
        if !self.input.counts_depth {
            return;
        }
        let at = self.input.support.depth_offset;
        let state = self.emit.load_env(Ty::I64, Env::OFFSET_SCRATCH);
        let inner = self.emit.load(Ty::I64, Region::Env, state, at);
        let depth = self.emit.moved(inner, -1);
        self.emit.store(Region::Env, state, at, depth);
    }
}

/// The memory that an argument of a helper points into, if it is memory.
fn pointed(pointer: &Known, kind: ArgKind) -> Option<Region> {
    let is_memory = !matches!(
        kind,
        ArgKind::Ctx
            | ArgKind::ConstMapPtr
            | ArgKind::Size { .. }
            | ArgKind::Anything
            | ArgKind::Callback
    );
    is_memory.then(|| region_of(pointer))
}

/// The memory that a pointer leads into.
fn region_of(pointer: &Known) -> Region {
    match pointer {
        Known::Stack { .. } => Region::Frame,
        Known::Packet { .. } => Region::Packet,
        Known::MapValue { .. } => Region::MapValue(None),
        Known::MapKey { .. } | Known::Record { .. } => Region::Lent,
        _ => Region::Any,
    }
}

const _: () = assert!(STACK_SIZE == 512);
