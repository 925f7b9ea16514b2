//! Arithmetic and comparisons, as RFC 9669 defines them.

use squalus_analysis::InstFacts;
use squalus_isa::{AluOp, Cond, Endian, Inst, Operand, Reg, Width};
use squalus_runtime::Env;

use super::Builder;
use crate::ir::{BinOp, Cmp, Ty, UnOp, Value};

impl Builder<'_> {
    pub(super) fn alu(
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
        let ty = ty(width);
        let b = self.emit.resize(b, ty);
        let result = match op {
            AluOp::Mov => b,
            AluOp::MovSx(bits) => {
                let from = Ty::of_bytes(u32::from(bits) / 8).unwrap_or(Ty::I64);
                let low = self.emit.resize(b, from);
                self.emit.resize_signed(low, ty)
            }
            _ => {
                let a = self.reg(known, dst);
                let a = self.emit.resize(a, ty);
                match binary(op) {
                    Some(op) => self.emit.bin(op, a, b),
                    None => self.emit.un(UnOp::Neg, a),
                }
            }
        };
        let result = self.emit.resize(result, Ty::I64);
        self.set(dst, result);
    }

    pub(super) fn endian(&mut self, known: &InstFacts, kind: Endian, bits: u8, dst: Reg) {
        let value = self.reg(known, dst);
        let narrow = self
            .emit
            .resize(value, Ty::of_bytes(u32::from(bits) / 8).unwrap_or(Ty::I64));
        // Memory and registers of the hosts we run on are little endian.
        let result = match kind {
            Endian::ToLe => narrow,
            Endian::ToBe | Endian::Swap => self.emit.un(UnOp::ByteSwap, narrow),
        };
        let result = self.emit.resize(result, Ty::I64);
        self.set(dst, result);
    }

    /// The condition of a jump: not zero if it is taken.
    pub(super) fn condition(&mut self, known: &InstFacts, inst: &Inst) -> Value {
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
        let (a, b) = (
            self.emit.resize(a, ty(width)),
            self.emit.resize(b, ty(width)),
        );
        let op = match cond {
            Cond::Set => {
                let both = self.emit.bin(BinOp::And, a, b);
                return self.emit.cmp_with(Cmp::Ne, both, 0);
            }
            Cond::Eq => Cmp::Eq,
            Cond::Ne => Cmp::Ne,
            Cond::Gt => Cmp::UGt,
            Cond::Ge => Cmp::UGe,
            Cond::Lt => Cmp::ULt,
            Cond::Le => Cmp::ULe,
            Cond::SGt => Cmp::SGt,
            Cond::SGe => Cmp::SGe,
            Cond::SLt => Cmp::SLt,
            Cond::SLe => Cmp::SLe,
        };
        self.emit.cmp(op, a, b)
    }
}

impl Builder<'_> {
    /// The condition of `may_goto`.
    fn is_budget_low(&mut self) -> Value {
        let left = self.emit.load_env(Ty::I64, Env::OFFSET_BUDGET);
        let all = self.emit.load_env(Ty::I64, Env::OFFSET_BUDGET_PER_RUN);
        let low = self
            .emit
            .bin_with(BinOp::LShr, all, Env::LOW_BUDGET_SHIFT.into());
        self.emit.cmp(Cmp::ULe, left, low)
    }
}

/// The operation on two values; none for what has one operand.
fn binary(op: AluOp) -> Option<BinOp> {
    Some(match op {
        AluOp::Add => BinOp::Add,
        AluOp::Sub => BinOp::Sub,
        AluOp::Mul => BinOp::Mul,
        AluOp::Div => BinOp::UDiv,
        AluOp::SDiv => BinOp::SDiv,
        AluOp::Mod => BinOp::URem,
        AluOp::SMod => BinOp::SRem,
        AluOp::Or => BinOp::Or,
        AluOp::And => BinOp::And,
        AluOp::Xor => BinOp::Xor,
        AluOp::Lsh => BinOp::Shl,
        AluOp::Rsh => BinOp::LShr,
        AluOp::Arsh => BinOp::AShr,
        AluOp::Neg | AluOp::Mov | AluOp::MovSx(_) => return None,
    })
}

fn ty(width: Width) -> Ty {
    match width {
        Width::W32 => Ty::I32,
        Width::W64 => Ty::I64,
    }
}
