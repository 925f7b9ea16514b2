//! Loads, stores and atomic operations, with the checks that facts leave necessary.

use squalus_analysis::{Access, Area, Base, InstFacts, MapRef, Value as Known};
use squalus_isa::{AtomicOp, Decoded, Inst, MemSize, Operand, Reg};
use squalus_runtime::{CtxField, Env, STACK_SIZE, TrapReason};

use super::Builder;
use super::cells::accessed;
use crate::ir::{BinOp, Cmp, Effect, Fixed, Op, Order, Region, Terminator, Ty, Value};
use crate::support::{CONTEXT_SIZE, Request};

/// An access as far as its address and check are concerned.
#[derive(Clone, Copy)]
struct Target {
    ty: Ty,
    base: Reg,
    off: i32,
    write: bool,
    atomic: bool,
}

impl Target {
    fn new(size: MemSize, base: Reg, off: i16, write: bool) -> Target {
        Target {
            ty: ty(size),
            base,
            off: off.into(),
            write,
            atomic: false,
        }
    }
}

/// Where an access goes.
#[derive(Clone, Copy)]
struct Address {
    region: Region,
    base: Value,
    off: i32,
}

impl Builder<'_> {
    pub(super) fn memory(&mut self, known: &InstFacts, decoded: &Decoded) {
        if let Some(bytes) = accessed(known, &decoded.inst, self.func) {
            let cells = self.cells.within(bytes.clone());
            if !cells.is_empty() {
                return self.cell_access(known, bytes.start, cells, &decoded.inst);
            }
        }
        match decoded.inst {
            Inst::Load {
                size,
                signed,
                dst,
                base,
                off,
            } => {
                let target = Target::new(size, base, off, false);
                if (known.access, size) == (Some(Access::Checked(Area::Any)), MemSize::W) {
                    return self.load_anywhere(known, target, dst, signed);
                }
                let value = self.load(known, target);
                self.set_loaded(dst, value, signed);
            }
            Inst::Store {
                size,
                base,
                off,
                src,
            } => {
                let value = self.operand(known, src);
                let value = self.emit.resize(value, ty(size));
                let to = self.address(known, Target::new(size, base, off, true));
                self.emit.store(to.region, to.base, to.off, value);
            }
            Inst::Atomic {
                size,
                op,
                fetch,
                base,
                off,
                src,
            } => {
                let mut target = Target::new(size, base, off, op != AtomicOp::LoadAcquire);
                target.atomic = true;
                self.atomic(known, target, (op, fetch), src);
            }
            _ => {}
        }
    }

    fn set_loaded(&mut self, dst: Reg, value: Value, signed: bool) {
        let wide = if signed {
            self.emit.resize_signed(value, Ty::I64)
        } else {
            self.emit.resize(value, Ty::I64)
        };
        self.set(dst, wide);
    }

    /// A load or store of stack bytes that are values.
    fn cell_access(
        &mut self,
        known: &InstFacts,
        at: i32,
        cells: std::ops::Range<usize>,
        inst: &Inst,
    ) {
        match *inst {
            Inst::Load {
                size, signed, dst, ..
            } => {
                let value = self.join_cells(at, cells, ty(size));
                self.set_loaded(dst, value, signed);
            }
            Inst::Store { src, .. } => {
                let value = self.operand(known, src);
                self.split_to_cells(at, cells, value);
            }
            _ => {}
        }
    }

    /// The bytes from `at` on, which are these cells, as one value.
    pub(super) fn join_cells(&mut self, at: i32, cells: std::ops::Range<usize>, ty: Ty) -> Value {
        let mut joined = None;
        for n in cells {
            let cell = self.cells.all()[n];
            let value = self.vars[Reg::COUNT + n];
            let value = self.emit.resize(value, ty);
            let shift = (cell.off - at) as u64 * 8;
            let value = if shift == 0 {
                value
            } else {
                self.emit.bin_with(BinOp::Shl, value, shift)
            };
            joined = Some(match joined {
                None => value,
                Some(low) => self.emit.bin(BinOp::Or, low, value),
            });
        }
        joined.unwrap_or(self.undefined)
    }

    /// Makes these cells, the bytes from `at` on, hold the low bytes of `value`.
    fn split_to_cells(&mut self, at: i32, cells: std::ops::Range<usize>, value: Value) {
        for n in cells {
            let cell = self.cells.all()[n];
            let shift = (cell.off - at) as u64 * 8;
            let part = if shift == 0 {
                value
            } else {
                self.emit.bin_with(BinOp::LShr, value, shift)
            };
            self.vars[Reg::COUNT + n] = self.emit.resize(part, cell.ty);
        }
    }

    fn load(&mut self, known: &InstFacts, target: Target) -> Value {
        if let Some(Access::Context(field)) = known.access {
            return self.context_field(field);
        }
        let from = self.address(known, target);
        self.emit.load(target.ty, from.region, from.base, from.off)
    }

    /// A load of four bytes that may turn out to be one of the context: programs keep pointers to it where
    /// the analysis does not follow them.
    fn load_anywhere(&mut self, known: &InstFacts, target: Target, dst: Reg, signed: bool) {
        let (context, memory, on) = (
            self.emit.function.make_block(),
            self.emit.function.make_block(),
            self.emit.function.make_block(),
        );
        let result = self.emit.function.make(Op::Param, Ty::I64, self.emit.slot);
        self.emit.function.block_mut(on).params.push(result);
        let base = self.reg(known, target.base);
        let address = self.emit.moved(base, target.off.into());
        let off = self.emit.bin(BinOp::Sub, address, self.emit.env);
        let inside = self.emit.cmp_with(Cmp::ULt, off, CONTEXT_SIZE);
        self.emit.function.block_mut(context).cold = true;
        self.emit.end(Terminator::Branch {
            condition: inside,
            then: super::target(context),
            other: super::target(memory),
        });
        self.emit.block = context;
        let wants_sign = self.emit.number(Ty::I64, signed.into());
        let effect = Effect {
            reads: vec![Region::Env],
            writes: vec![Region::Env],
            pure: false,
        };
        let function = ("load_context", self.input.support.load_context);
        let loaded = self.emit.native(function, vec![off, wants_sign], effect);
        let reason = self.emit.load_env(Ty::I32, Env::OFFSET_TRAP);
        let reason = self.emit.resize(reason, Ty::I64);
        self.emit.trap_by(reason);
        self.jump_with(on, loaded);
        self.emit.block = memory;
        let value = self.load(known, target);
        let value = if signed {
            self.emit.resize_signed(value, Ty::I64)
        } else {
            self.emit.resize(value, Ty::I64)
        };
        self.jump_with(on, value);
        self.emit.block = on;
        self.set(dst, result);
    }

    fn context_field(&mut self, field: CtxField) -> Value {
        let ty = if field.is_pointer() { Ty::I64 } else { Ty::I32 };
        self.emit.load_env(ty, field.env_offset())
    }

    /// The address of an access, checked if it is not proved.
    fn address(&mut self, known: &InstFacts, target: Target) -> Address {
        let pointer = known.reg(target.base);
        let area = match known.access {
            Some(Access::Proved(area) | Access::Checked(area)) => area,
            _ => Area::Any,
        };
        let address = Address {
            region: region(area, &pointer),
            base: self.reg(known, target.base),
            off: target.off,
        };
        if matches!(known.access, Some(Access::Proved(_))) {
            return address;
        }
        if area == Area::Packet && !target.atomic {
            self.check_packet(&pointer, address, target);
        } else {
            self.check(area, address, target);
        }
        address
    }

    /// Compares a packet pointer with the ends of its area.
    fn check_packet(&mut self, pointer: &Known, address: Address, target: Target) {
        let (first, end) = match pointer {
            Known::Packet {
                base: Base::Meta, ..
            } => (Env::OFFSET_DATA_META, Env::OFFSET_DATA),
            _ => (Env::OFFSET_DATA, Env::OFFSET_DATA_END),
        };
        let first = self.emit.load_env(Ty::I64, first);
        let end = self.emit.load_env(Ty::I64, end);
        let start = self.emit.moved(address.base, address.off.into());
        // Not `start + size` is compared, which may wrap around: a packet is longer than any access.
        let last = self.emit.moved(end, -i64::from(target.ty.bytes()));
        let before = self.emit.cmp(Cmp::ULt, start, first);
        self.emit.trap_if(before, TrapReason::Packet);
        let behind = self.emit.cmp(Cmp::UGt, start, last);
        self.emit.trap_if(behind, TrapReason::Packet);
    }

    /// Has an address looked up in what the program may touch.
    fn check(&mut self, area: Area, address: Address, target: Target) {
        let request = Request::new(area, target.ty.bytes(), target.write, target.atomic);
        let start = self.emit.moved(address.base, address.off.into());
        let request = self.emit.number(Ty::I64, request.0);
        let context = self.emit.number(Ty::I64, self.input.support.context as u64);
        let function = ("check", self.input.support.check);
        let effect = Effect {
            reads: vec![Region::Env, Region::MapIndex],
            writes: Vec::new(),
            pure: false,
        };
        let reason = self
            .emit
            .native(function, vec![start, request, context], effect);
        self.emit.trap_by(reason);
    }

    fn atomic(
        &mut self,
        known: &InstFacts,
        target: Target,
        (op, fetch): (AtomicOp, bool),
        src: Reg,
    ) {
        let value = self.operand(known, Operand::Reg(src));
        let value = self.emit.resize(value, target.ty);
        let expected = (op == AtomicOp::CmpXchg).then(|| {
            let expected = self.reg(known, Reg::R0);
            self.emit.resize(expected, target.ty)
        });
        let at = self.address(known, target);
        if op == AtomicOp::LoadAcquire {
            let load = Op::Load {
                region: at.region,
                base: at.base,
                off: at.off,
                order: Order::Acquire,
            };
            let value = self.emit.ins(load, target.ty);
            return self.set_loaded(src, value, false);
        }
        let address = self.emit.moved(at.base, at.off.into());
        let op_ = Op::Atomic {
            op,
            region: at.region,
            address,
            value,
            expected,
        };
        let old = self.emit.ins(op_, target.ty);
        if op == AtomicOp::CmpXchg {
            self.set_loaded(Reg::R0, old, false);
        } else if fetch {
            self.set_loaded(src, old, false);
        }
    }

    /// The address of a byte of the frame, which then is memory.
    pub(super) fn frame_address(&mut self, off: i32) -> Value {
        self.emit.function.frames = 1;
        self.emit.function.fixed(Fixed::Frame(off))
    }

    /// Zeroes the bytes of the frame's memory that may be read before they are written.
    pub(super) fn zero_frame(&mut self) {
        let read = self.input.facts.function(self.func).read_unwritten;
        let is_read = |byte: i32| read[byte as usize / 64] & 1 << (byte % 64) != 0;
        for slot in (0..STACK_SIZE as i32).step_by(8) {
            let in_cell = |byte: i32| {
                let cells = self.cells.all();
                cells
                    .iter()
                    .any(|cell| (cell.off..cell.end()).contains(&byte))
            };
            if (slot..slot + 8).any(|byte| is_read(byte) && !in_cell(byte)) {
                let address = self.frame_address(slot);
                let zero = self.emit.number(Ty::I64, 0);
                self.emit.store(Region::Frame, address, 0, zero);
            }
        }
    }

    /// Tells the checks where this function's frame is.
    pub(super) fn register_frame(&mut self) {
        let address = self.frame_address(0);
        let state = self.emit.load_env(Ty::I64, Env::OFFSET_SCRATCH);
        let (depth, frames) = (
            self.input.support.depth_offset,
            self.input.support.frames_offset,
        );
        let depth = self.emit.load(Ty::I64, Region::Env, state, depth);
        let offset = self.emit.bin_with(BinOp::Shl, depth, 3);
        let place = self.emit.bin(BinOp::Add, state, offset);
        self.emit.store(Region::Env, place, frames, address);
    }
}

/// Where an access to an area goes.
fn region(area: Area, pointer: &Known) -> Region {
    match area {
        Area::Packet => Region::Packet,
        Area::MapValue => Region::MapValue(match *pointer {
            Known::MapValue {
                map: MapRef::Direct(map),
                ..
            } => Some(map),
            _ => None,
        }),
        Area::Stack => Region::Frame,
        Area::Key | Area::Record => Region::Lent,
        Area::Any => Region::Any,
    }
}

fn ty(size: MemSize) -> Ty {
    match size {
        MemSize::B => Ty::I8,
        MemSize::H => Ty::I16,
        MemSize::W => Ty::I32,
        MemSize::Dw => Ty::I64,
    }
}
