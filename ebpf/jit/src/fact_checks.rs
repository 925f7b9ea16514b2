//! Code that compares facts with what registers really hold.

use cranelift_codegen::ir::condcodes::{CondCode, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value as Ir, types::I64};
use squalus_analysis::{Base, InstFacts, Interval, Scalar, Value};
use squalus_isa::Reg;
use squalus_runtime::{Env, TrapReason, function_address};

use crate::translate::Translator;

impl Translator<'_, '_> {
    /// Ends the run if a fact about a register is false.
    pub(crate) fn check_facts(&mut self, known: &InstFacts, slot: usize) {
        for n in 0..Reg::COUNT {
            let Some(reg) = Reg::new(n as u8) else {
                continue;
            };
            match known.reg(reg) {
                Value::Scalar(scalar) => self.check_scalar(reg, &scalar, slot),
                Value::Ctx(off) => {
                    let env = self.env;
                    self.check_offset(reg, env, Interval::at(off), slot);
                }
                Value::Stack { func, off } if func == self.input.func => {
                    let frame = self.frame();
                    let base = self.b.ins().stack_addr(I64, frame, 0);
                    self.check_offset(reg, base, off, slot);
                }
                Value::Packet { base, off, .. } => {
                    let base = match base {
                        Base::Data => Env::OFFSET_DATA,
                        Base::Meta => Env::OFFSET_DATA_META,
                    };
                    let base = self.load_env(I64, base);
                    self.check_offset(reg, base, off, slot);
                }
                Value::PacketEnd => {
                    let end = self.load_env(I64, Env::OFFSET_DATA_END);
                    self.check_offset(reg, end, Interval::at(0), slot);
                }
                value @ (Value::Map { .. }
                | Value::MapValue { .. }
                | Value::MapKey { .. }
                | Value::Record { .. }) => {
                    if value.null_name().is_none() {
                        let value = self.raw_reg(reg);
                        self.must(IntCC::NotEqual, value, 0, slot);
                    }
                }
                Value::Function(func) => {
                    let start = self.input.program.subprograms()[func as usize].start;
                    let value = self.raw_reg(reg);
                    let address = function_address(start).cast_signed();
                    self.must(IntCC::Equal, value, address, slot);
                }
                Value::Stack { .. } => {}
            }
        }
    }

    fn check_scalar(&mut self, reg: Reg, scalar: &Scalar, slot: usize) {
        if *scalar == Scalar::TOP {
            return;
        }
        let value = self.raw_reg(reg);
        let known = self.b.ins().iconst(I64, (!scalar.mask).cast_signed());
        let bits = self.b.ins().band(value, known);
        self.must(IntCC::Equal, bits, scalar.value.cast_signed(), slot);
        for (code, bound) in [
            (IntCC::UnsignedGreaterThanOrEqual, scalar.umin.cast_signed()),
            (IntCC::UnsignedLessThanOrEqual, scalar.umax.cast_signed()),
            (IntCC::SignedGreaterThanOrEqual, scalar.smin),
            (IntCC::SignedLessThanOrEqual, scalar.smax),
        ] {
            self.must(code, value, bound, slot);
        }
    }

    fn check_offset(&mut self, reg: Reg, base: Ir, off: Interval, slot: usize) {
        let value = self.raw_reg(reg);
        let offset = self.b.ins().isub(value, base);
        self.must(IntCC::SignedGreaterThanOrEqual, offset, off.lo, slot);
        self.must(IntCC::SignedLessThanOrEqual, offset, off.hi, slot);
    }

    fn must(&mut self, code: IntCC, value: Ir, bound: i64, slot: usize) {
        let bound = self.b.ins().iconst(I64, bound);
        let holds = self.b.ins().icmp(code.complement(), value, bound);
        self.trap_if(holds, TrapReason::Unsupported, slot);
    }
}
