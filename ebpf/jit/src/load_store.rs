//! Loads, stores and atomic operations, with the checks that facts leave necessary.

use cranelift_codegen::ir::{
    AtomicRmwOp, InstBuilder, MemFlagsData, Type, Value as Ir,
    condcodes::IntCC,
    types::{I8, I16, I32, I64},
};
use squalus_analysis::{Access, Area, Base, InstFacts, Value};
use squalus_isa::{AtomicOp, Decoded, Inst, MemSize, Operand, Reg};
use squalus_runtime::{CtxField, Env, TrapReason};

use crate::checks::{self, Request};
use crate::stack;
use crate::translate::{Region, Translator};

/// An access as far as its address and check are concerned.
struct Target {
    size: MemSize,
    base: Reg,
    off: i16,
    write: bool,
    atomic: bool,
    slot: usize,
}

/// Where an access goes: a base and an offset that the instruction can hold.
#[derive(Clone, Copy)]
struct Address {
    base: Ir,
    off: i32,
    flags: MemFlagsData,
}

impl Translator<'_, '_> {
    pub(crate) fn memory(&mut self, n: usize, known: &InstFacts, decoded: &Decoded) {
        let facts = self.input.facts;
        if let Some(cell) = stack::cell_of(facts, n, &decoded.inst, self.input.func)
            && let Some((_, variable)) = self.cells.iter().find(|(own, _)| *own == cell)
        {
            return self.cell(known, *variable, &decoded.inst);
        }
        let slot = decoded.slot;
        match decoded.inst {
            Inst::Load {
                size,
                signed,
                dst,
                base,
                off,
            } => self.load(known, (size, signed), dst, (base, off), slot),
            Inst::Store {
                size,
                base,
                off,
                src,
            } => {
                let target = Target {
                    size,
                    base,
                    off,
                    write: true,
                    atomic: false,
                    slot,
                };
                let value = self.operand(known, src);
                let value = self.low(size, value);
                let to = self.address(known, &target);
                self.b.ins().store(to.flags, value, to.base, to.off);
            }
            Inst::Atomic {
                size,
                op,
                fetch,
                base,
                off,
                src,
            } => {
                let target = Target {
                    size,
                    base,
                    off,
                    write: op != AtomicOp::LoadAcquire,
                    atomic: true,
                    slot,
                };
                self.atomic(known, &target, (op, fetch), src);
            }
            _ => {}
        }
    }

    /// A load or store of stack bytes that are a variable. It holds them zero-extended.
    fn cell(&mut self, known: &InstFacts, variable: cranelift_frontend::Variable, inst: &Inst) {
        match *inst {
            Inst::Load {
                size, signed, dst, ..
            } => {
                let value = self.b.use_var(variable);
                let value = if signed {
                    let low = self.low(size, value);
                    self.b.ins().sextend(I64, low)
                } else {
                    value
                };
                self.set(dst, value);
            }
            Inst::Store { size, src, .. } => {
                let value = self.operand(known, src);
                let value = self.low(size, value);
                let value = self.widen(value);
                self.b.def_var(variable, value);
            }
            _ => {}
        }
    }

    fn load(
        &mut self,
        known: &InstFacts,
        (size, signed): (MemSize, bool),
        dst: Reg,
        (base, off): (Reg, i16),
        slot: usize,
    ) {
        if let Some(Access::Context(field)) = known.access {
            let value = self.context_field(field);
            let value = if signed {
                let low = self.low(size, value);
                self.b.ins().sextend(I64, low)
            } else {
                value
            };
            return self.set(dst, value);
        }
        let target = Target {
            size,
            base,
            off,
            write: false,
            atomic: false,
            slot,
        };
        let value = match (known.access, size) {
            (Some(Access::Checked(Area::Any)), MemSize::W) => {
                self.load_anywhere(known, &target, signed)
            }
            _ => self.load_memory(known, &target, signed),
        };
        self.set(dst, value);
    }

    /// A load of four bytes that may turn out to be one of the context: programs keep pointers to it where
    /// the analysis does not follow them.
    fn load_anywhere(&mut self, known: &InstFacts, target: &Target, signed: bool) -> Ir {
        let (context, memory) = (self.b.create_block(), self.b.create_block());
        let on = self.b.create_block();
        let result = self.b.append_block_param(on, I64);
        let base = self.reg(known, target.base);
        let address = self.b.ins().iadd_imm_s(base, i64::from(target.off));
        let off = self.b.ins().isub(address, self.env);
        let below = IntCC::UnsignedLessThan;
        let inside = self.b.ins().icmp_imm_s(below, off, checks::CONTEXT_SIZE);
        self.b.set_cold_block(context);
        self.b.ins().brif(inside, context, &[], memory, &[]);
        self.b.switch_to_block(context);
        let wants_sign = self.b.ins().iconst(I64, i64::from(signed));
        let load = checks::load_context as unsafe extern "C" fn(_, _, _) -> _;
        let loaded = self.call_native(load as usize, &[self.env, off, wants_sign], 2);
        self.trap_with(loaded[1], loaded[1], target.slot);
        self.b.ins().jump(on, &[loaded[0].into()]);
        self.b.switch_to_block(memory);
        let value = self.load_memory(known, target, signed);
        self.b.ins().jump(on, &[value.into()]);
        self.b.switch_to_block(on);
        result
    }

    fn load_memory(&mut self, known: &InstFacts, target: &Target, signed: bool) -> Ir {
        let from = self.address(known, target);
        let ins = self.b.ins();
        match (target.size, signed) {
            (MemSize::B, false) => ins.uload8(I64, from.flags, from.base, from.off),
            (MemSize::H, false) => ins.uload16(I64, from.flags, from.base, from.off),
            (MemSize::W, false) => ins.uload32(from.flags, from.base, from.off),
            (MemSize::B, true) => ins.sload8(I64, from.flags, from.base, from.off),
            (MemSize::H, true) => ins.sload16(I64, from.flags, from.base, from.off),
            (MemSize::W, true) => ins.sload32(from.flags, from.base, from.off),
            (MemSize::Dw, _) => ins.load(I64, from.flags, from.base, from.off),
        }
    }

    fn context_field(&mut self, field: CtxField) -> Ir {
        let offset = field.env_offset();
        if field.is_pointer() {
            return self.load_env(I64, offset);
        }
        let flags = self.flags(Region::Env);
        self.b.ins().uload32(flags, self.env, offset as i32)
    }

    /// The address of an access, checked if it is not proved.
    fn address(&mut self, known: &InstFacts, target: &Target) -> Address {
        let pointer = known.reg(target.base);
        let area = match known.access {
            Some(Access::Proved(area) | Access::Checked(area)) => area,
            _ => Area::Any,
        };
        let address = Address {
            base: self.reg(known, target.base),
            off: target.off.into(),
            flags: self.area_flags(area),
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

    fn area_flags(&self, area: Area) -> MemFlagsData {
        match area {
            Area::Packet => self.flags(Region::Packet),
            Area::MapValue => self.flags(Region::MapValue),
            Area::Stack => self.flags(Region::Stack),
            Area::Key | Area::Record => self.flags(Region::Lent),
            Area::Any => MemFlagsData::new().with_notrap(),
        }
    }

    /// Compares a packet pointer with the ends of its area.
    fn check_packet(&mut self, pointer: &Value, address: Address, target: &Target) {
        let (first, end) = match pointer {
            Value::Packet {
                base: Base::Meta, ..
            } => (Env::OFFSET_DATA_META, Env::OFFSET_DATA),
            _ => (Env::OFFSET_DATA, Env::OFFSET_DATA_END),
        };
        let first = self.load_env(I64, first);
        let end = self.load_env(I64, end);
        let start = self
            .b
            .ins()
            .iadd_imm_s(address.base, i64::from(address.off));
        // Not `start + size` is compared, which may wrap around: a packet is longer than any access.
        let last = self
            .b
            .ins()
            .iadd_imm_s(end, -i64::from(target.size.bytes()));
        let before = self.b.ins().icmp(IntCC::UnsignedLessThan, start, first);
        self.trap_if(before, TrapReason::Packet, target.slot);
        let behind = self.b.ins().icmp(IntCC::UnsignedGreaterThan, start, last);
        self.trap_if(behind, TrapReason::Packet, target.slot);
    }

    /// Has an address looked up in what the program may touch.
    fn check(&mut self, area: Area, address: Address, target: &Target) {
        let request = Request::new(area, target.size.bytes(), target.write, target.atomic);
        let start = self
            .b
            .ins()
            .iadd_imm_s(address.base, i64::from(address.off));
        let request = self.b.ins().iconst(I64, request.0.cast_signed());
        let context = self.context_address();
        let check = checks::check as unsafe extern "C" fn(_, _, _, _) -> _;
        let args = [self.env, start, request, context];
        let reason = self.call_native(check as usize, &args, 1)[0];
        self.trap_with(reason, reason, target.slot);
    }

    pub(crate) fn context_address(&mut self) -> Ir {
        let context = std::ptr::from_ref(self.input.context).expose_provenance();
        self.b.ins().iconst(I64, context as i64)
    }

    fn atomic(
        &mut self,
        known: &InstFacts,
        target: &Target,
        (op, fetch): (AtomicOp, bool),
        src: Reg,
    ) {
        let ty = ty(target.size);
        let value = self.operand(known, Operand::Reg(src));
        let value = self.low(target.size, value);
        let at = self.address(known, target);
        let address = self.b.ins().iadd_imm_s(at.base, i64::from(at.off));
        let flags = at.flags.with_aligned();
        let op = match op {
            AtomicOp::LoadAcquire => {
                let loaded = self.b.ins().atomic_load(ty, flags, address);
                let loaded = self.widen(loaded);
                return self.set(src, loaded);
            }
            AtomicOp::StoreRelease => {
                self.b.ins().atomic_store(flags, value, address);
                return;
            }
            AtomicOp::Add => AtomicRmwOp::Add,
            AtomicOp::Or => AtomicRmwOp::Or,
            AtomicOp::And => AtomicRmwOp::And,
            AtomicOp::Xor => AtomicRmwOp::Xor,
            AtomicOp::Xchg => AtomicRmwOp::Xchg,
            AtomicOp::CmpXchg => {
                let expected = self.reg(known, Reg::R0);
                let expected = self.low(target.size, expected);
                let old = self.b.ins().atomic_cas(flags, address, expected, value);
                let old = self.widen(old);
                return self.set(Reg::R0, old);
            }
        };
        let old = self.b.ins().atomic_rmw(ty, flags, op, address, value);
        if fetch {
            let old = self.widen(old);
            self.set(src, old);
        }
    }

    /// The low bytes of a register, as a value of their own size.
    fn low(&mut self, size: MemSize, value: Ir) -> Ir {
        match size {
            MemSize::Dw => value,
            _ => self.b.ins().ireduce(ty(size), value),
        }
    }
}

fn ty(size: MemSize) -> Type {
    match size {
        MemSize::B => I8,
        MemSize::H => I16,
        MemSize::W => I32,
        MemSize::Dw => I64,
    }
}
