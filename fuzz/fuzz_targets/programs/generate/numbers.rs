//! Operations on numbers, and jumps on them.

use squalus_isa::{Insn, opcode as o};
use squalus_runtime::asm::{R, Src};

use super::*;

impl Generator<'_, '_> {
    pub(super) fn alu(&mut self) {
        let (op, off) = self.bytes.pick(&[
            (o::ADD, 0),
            (o::SUB, 0),
            (o::MUL, 0),
            (o::DIV, 0),
            (o::DIV, 1),
            (o::MOD, 0),
            (o::MOD, 1),
            (o::OR, 0),
            (o::AND, 0),
            (o::AND, 0),
            (o::XOR, 0),
            (o::LSH, 0),
            (o::RSH, 0),
            (o::ARSH, 0),
            (o::MOV, 0),
        ]);
        let wide = self.bytes.one_in(2);
        let dst = if op == o::MOV {
            self.any()
        } else {
            self.number()
        };
        let mut src = self.operand();
        if let Src::Imm(imm) = &mut src {
            // The decoder refuses others, as the kernel does.
            match op {
                o::LSH | o::RSH | o::ARSH => *imm &= if wide { 63 } else { 31 },
                o::DIV | o::MOD if *imm == 0 => *imm = 3,
                _ => {}
            }
        }
        if wide {
            self.asm.alu_off(op, dst, src, off);
        } else {
            self.asm.alu32_off(op, dst, src, off);
        }
        self.set(dst, Kind::Number);
    }

    pub(super) fn unary(&mut self) {
        let reg = self.number();
        match self.bytes.below(8) {
            0 | 1 => {
                let class = self.bytes.pick(&[o::ALU, o::ALU64]);
                self.asm.raw(Insn {
                    op: class | o::NEG,
                    dst: reg,
                    ..Insn::default()
                });
            }
            2..5 => {
                let op = self.bytes.pick(&[o::ALU, o::ALU | o::X, o::ALU64]);
                let bits = self.bytes.pick(&[16, 32, 64]);
                self.asm.endian(op, reg, bits);
            }
            5 => {
                let (dst, bits) = (self.any(), self.bytes.pick(&[8, 16]));
                self.asm.alu32_off(o::MOV, dst, R(reg), bits);
                self.set(dst, Kind::Number);
            }
            _ => {
                let (dst, bits) = (self.any(), self.bytes.pick(&[8, 16, 32]));
                self.asm.alu_off(o::MOV, dst, R(reg), bits);
                self.set(dst, Kind::Number);
            }
        }
    }

    pub(super) fn constant(&mut self) {
        let reg = self.any();
        let kind = match self.bytes.below(6) {
            0 => {
                let map = self.bytes.below(maps().len()) as u32;
                self.asm.map(reg, map);
                Kind::Map(map)
            }
            1 => {
                let off = self.bytes.below(16) as u8;
                self.asm.map_value(reg, ARRAY, u32::from(off));
                Kind::Buffer(16 - off)
            }
            2 => {
                self.asm.map_value(reg, READ_ONLY, 0);
                // Stores there are refused; let it be a number's address for loads.
                Kind::Buffer(8)
            }
            3 => {
                self.asm.mov(reg, R(FP)).add(reg, i32::from(SCRATCH_AT));
                Kind::Buffer(SCRATCH as u8)
            }
            _ => {
                let value = self.bytes.number();
                self.asm.imm64(reg, value);
                Kind::Number
            }
        };
        self.set(reg, kind);
    }

    /// A jump over the next few operations. What the comparison says of numbers is for the analysis.
    pub(super) fn jump(&mut self) {
        let cond = self.bytes.pick(&[
            o::JEQ,
            o::JNE,
            o::JGT,
            o::JGE,
            o::JLT,
            o::JLE,
            o::JSET,
            o::JSGT,
            o::JSGE,
            o::JSLT,
            o::JSLE,
        ]);
        let wide = self.bytes.one_in(2);
        let (dst, src) = (self.number(), self.operand());
        let label = if self.bytes.one_in(8) {
            self.out
        } else {
            let label = self.asm.label();
            let skip = 2 + self.bytes.below(5);
            self.pending.push((label, skip, self.state));
            label
        };
        if wide {
            self.asm.jump_if(cond, dst, src, label);
        } else {
            self.asm.jump_if32(cond, dst, src, label);
        }
    }
}
