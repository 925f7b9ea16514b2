//! Arithmetic and comparisons, as RFC 9669 defines them.

use cranelift_codegen::ir::{
    InstBuilder, Type, Value as Ir,
    condcodes::IntCC,
    types::{I8, I16, I32, I64},
};
use squalus_analysis::InstFacts;
use squalus_isa::{AluOp, Cond, Endian, ImmSource, Inst, Operand, Reg, Width};

use squalus_runtime::{Env, function_address};

use crate::translate::Translator;

impl Translator<'_, '_> {
    pub(crate) fn alu(
        &mut self,
        known: &InstFacts,
        (width, op): (Width, AluOp),
        dst: Reg,
        src: Operand,
    ) {
        let b = self.operand(known, src);
        if (width, op) == (Width::W64, AluOp::Mov) {
            return self.set(dst, b);
        }
        let b = self.narrow(width, b);
        let a = match op {
            AluOp::Mov | AluOp::MovSx(_) => b,
            _ => {
                let a = self.reg(known, dst);
                self.narrow(width, a)
            }
        };
        let result = self.operation(width, op, a, b);
        let result = self.widen(result);
        self.set(dst, result);
    }

    fn operation(&mut self, width: Width, op: AluOp, a: Ir, b: Ir) -> Ir {
        let ins = self.b.ins();
        match op {
            AluOp::Add => ins.iadd(a, b),
            AluOp::Sub => ins.isub(a, b),
            AluOp::Mul => ins.imul(a, b),
            AluOp::Or => ins.bor(a, b),
            AluOp::And => ins.band(a, b),
            AluOp::Xor => ins.bxor(a, b),
            // Cranelift's shifts take their amount modulo the width, as eBPF's do.
            AluOp::Lsh => ins.ishl(a, b),
            AluOp::Rsh => ins.ushr(a, b),
            AluOp::Arsh => ins.sshr(a, b),
            AluOp::Neg => ins.ineg(a),
            AluOp::Mov => b,
            AluOp::MovSx(bits) => self.sign_extend(width, bits, b),
            AluOp::Div | AluOp::Mod => self.divide(width, op == AluOp::Mod, a, b),
            AluOp::SDiv | AluOp::SMod => self.divide_signed(width, op == AluOp::SMod, a, b),
        }
    }

    /// `x / 0` is 0, `x % 0` is `x`.
    fn divide(&mut self, width: Width, rest: bool, a: Ir, b: Ir) -> Ir {
        let by_zero = self.b.ins().icmp_imm_s(IntCC::Equal, b, 0);
        let one = self.b.ins().iconst(ty(width), 1);
        let divisor = self.b.ins().select(by_zero, one, b);
        if rest {
            let result = self.b.ins().urem(a, divisor);
            self.b.ins().select(by_zero, a, result)
        } else {
            let result = self.b.ins().udiv(a, divisor);
            self.b.ins().select(by_zero, b, result)
        }
    }

    /// As [`Translator::divide`]; the least number divided by -1 is itself, with rest 0.
    fn divide_signed(&mut self, width: Width, rest: bool, a: Ir, b: Ir) -> Ir {
        // 0 and -1 need care: they are the two values with `b + 1 <= 1`, unsigned.
        let next = self.b.ins().iadd_imm_s(b, 1);
        let special = self
            .b
            .ins()
            .icmp_imm_s(IntCC::UnsignedLessThanOrEqual, next, 1);
        let one = self.b.ins().iconst(ty(width), 1);
        let divisor = self.b.ins().select(special, one, b);
        if rest {
            // By zero the dividend remains, by -1 nothing.
            let result = self.b.ins().srem(a, divisor);
            let by_zero = self.b.ins().icmp_imm_s(IntCC::Equal, b, 0);
            self.b.ins().select(by_zero, a, result)
        } else {
            // `a * b` is 0 for 0 and `-a` for -1.
            let result = self.b.ins().sdiv(a, divisor);
            let product = self.b.ins().imul(a, b);
            self.b.ins().select(special, product, result)
        }
    }

    fn sign_extend(&mut self, width: Width, bits: u8, value: Ir) -> Ir {
        let from = match bits {
            8 => I8,
            16 => I16,
            _ => I32,
        };
        if from == ty(width) {
            return value;
        }
        let low = self.b.ins().ireduce(from, value);
        self.b.ins().sextend(ty(width), low)
    }

    pub(crate) fn endian(&mut self, known: &InstFacts, kind: Endian, bits: u8, dst: Reg) {
        let value = self.reg(known, dst);
        let narrow = match bits {
            16 => self.b.ins().ireduce(I16, value),
            32 => self.b.ins().ireduce(I32, value),
            _ => value,
        };
        // Memory and registers of the hosts we run on are little endian.
        let result = match kind {
            Endian::ToLe => narrow,
            Endian::ToBe | Endian::Swap => self.b.ins().bswap(narrow),
        };
        let result = self.widen(result);
        self.set(dst, result);
    }

    pub(crate) fn immediate(&mut self, imm: ImmSource) -> Ir {
        match imm {
            ImmSource::Value(value) => self.b.ins().iconst(I64, value.cast_signed()),
            ImmSource::Map(map) => self.map_address(map),
            ImmSource::MapValue { map, offset } => {
                let base = self.input.context.maps[map as usize].array_base();
                // Linking checked that the map is an array.
                let base = base.map_or(0, |array| array.base);
                let address = base as u64 + u64::from(offset);
                self.b.ins().iconst(I64, address.cast_signed())
            }
            ImmSource::Func(slot) => {
                let address = function_address(slot);
                self.b.ins().iconst(I64, address.cast_signed())
            }
        }
    }

    pub(crate) fn map_address(&mut self, map: u32) -> Ir {
        let map = std::sync::Arc::as_ptr(&self.input.context.maps[map as usize]);
        let address = map.expose_provenance() as i64;
        self.b.ins().iconst(I64, address)
    }

    pub(crate) fn condition(&mut self, known: &InstFacts, inst: &Inst) -> Ir {
        let Inst::JumpIf {
            width,
            cond,
            dst,
            src,
            ..
        } = *inst
        else {
            return self.is_budget_low();
        };
        let (a, b) = (self.reg(known, dst), self.operand(known, src));
        let (a, b) = (self.narrow(width, a), self.narrow(width, b));
        let code = match cond {
            Cond::Set => return self.b.ins().band(a, b),
            Cond::Eq => IntCC::Equal,
            Cond::Ne => IntCC::NotEqual,
            Cond::Gt => IntCC::UnsignedGreaterThan,
            Cond::Ge => IntCC::UnsignedGreaterThanOrEqual,
            Cond::Lt => IntCC::UnsignedLessThan,
            Cond::Le => IntCC::UnsignedLessThanOrEqual,
            Cond::SGt => IntCC::SignedGreaterThan,
            Cond::SGe => IntCC::SignedGreaterThanOrEqual,
            Cond::SLt => IntCC::SignedLessThan,
            Cond::SLe => IntCC::SignedLessThanOrEqual,
        };
        self.b.ins().icmp(code, a, b)
    }

    /// The condition of `may_goto`.
    fn is_budget_low(&mut self) -> Ir {
        let left = self.load_env(I64, Env::OFFSET_BUDGET);
        let all = self.load_env(I64, Env::OFFSET_BUDGET_PER_RUN);
        let shift = i64::from(Env::LOW_BUDGET_SHIFT);
        let low = self.b.ins().ushr_imm_u(all, shift);
        let code = IntCC::UnsignedLessThanOrEqual;
        self.b.ins().icmp(code, left, low)
    }

    fn narrow(&mut self, width: Width, value: Ir) -> Ir {
        match width {
            Width::W32 => self.b.ins().ireduce(I32, value),
            Width::W64 => value,
        }
    }

    /// A register's 64 bits of a narrower result.
    pub(crate) fn widen(&mut self, value: Ir) -> Ir {
        if self.b.func.dfg.value_type(value) == I64 {
            value
        } else {
            self.b.ins().uextend(I64, value)
        }
    }
}

fn ty(width: Width) -> Type {
    match width {
        Width::W32 => I32,
        Width::W64 => I64,
    }
}
