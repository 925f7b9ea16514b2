//! A small assembler for hand-made programs: tests, drivers of measurements, examples.
//!
//! One call is one instruction; labels stand for jump targets. Registers are plain numbers; a source is a
//! number (immediate) or [`R`] (register).

use squalus_isa::{HelperId, Insn, MemSize, opcode as o};

/// A source register.
#[derive(Clone, Copy, Debug)]
pub struct R(pub u8);

/// A second operand.
#[derive(Clone, Copy, Debug)]
pub enum Src {
    /// A register.
    Reg(u8),
    /// An immediate.
    Imm(i32),
}

impl From<R> for Src {
    fn from(reg: R) -> Src {
        Src::Reg(reg.0)
    }
}

impl From<i32> for Src {
    fn from(imm: i32) -> Src {
        Src::Imm(imm)
    }
}

/// A place in the code, bound now or later.
#[derive(Clone, Copy, Debug)]
pub struct Label(usize);

/// Code under construction.
#[derive(Clone, Debug, Default)]
pub struct Asm {
    slots: Vec<Insn>,
    labels: Vec<Option<usize>>,
    /// Slots that refer to labels; whether in `imm` (else in `off`).
    uses: Vec<(usize, Label, bool)>,
}

fn size_bits(size: MemSize) -> u8 {
    match size {
        MemSize::B => o::B,
        MemSize::H => o::H,
        MemSize::W => o::W,
        MemSize::Dw => o::DW,
    }
}

impl Asm {
    /// No code.
    #[must_use]
    pub fn new() -> Asm {
        Asm::default()
    }

    /// The finished code.
    ///
    /// # Panics
    /// If a label was used but never bound, or is too far away for a 16-bit offset.
    #[must_use]
    pub fn finish(&self) -> Vec<Insn> {
        let mut slots = self.slots.clone();
        for (slot, label, in_imm) in &self.uses {
            let target = self.labels[label.0].expect("every used label is bound");
            let distance = target as i32 - *slot as i32 - 1;
            if *in_imm {
                slots[*slot].imm = distance;
            } else {
                slots[*slot].off = distance.try_into().expect("the target is near");
            }
        }
        slots
    }

    /// A new label.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Binds a label to the next instruction.
    pub fn bind(&mut self, label: Label) -> &mut Asm {
        self.labels[label.0] = Some(self.slots.len());
        self
    }

    /// Any instruction slot, as it is.
    pub fn raw(&mut self, insn: Insn) -> &mut Asm {
        self.slots.push(insn);
        self
    }

    fn with_src(&mut self, op: u8, dst: u8, src: impl Into<Src>, off: i16) -> &mut Asm {
        let (op, src, imm) = match src.into() {
            Src::Reg(reg) => (op | o::X, reg, 0),
            Src::Imm(imm) => (op, 0, imm),
        };
        self.raw(Insn {
            op,
            dst,
            src,
            off,
            imm,
        })
    }

    /// 64-bit arithmetic; `op` is one of the ALU codes of [`squalus_isa::opcode`].
    pub fn alu(&mut self, op: u8, dst: u8, src: impl Into<Src>) -> &mut Asm {
        self.with_src(o::ALU64 | op, dst, src, 0)
    }

    /// 32-bit arithmetic.
    pub fn alu32(&mut self, op: u8, dst: u8, src: impl Into<Src>) -> &mut Asm {
        self.with_src(o::ALU | op, dst, src, 0)
    }

    /// 64-bit arithmetic with an offset: 1 makes division signed, 8, 16 and 32 make moves extend signs.
    pub fn alu_off(&mut self, op: u8, dst: u8, src: impl Into<Src>, off: i16) -> &mut Asm {
        self.with_src(o::ALU64 | op, dst, src, off)
    }

    /// As [`Asm::alu_off`] with 32 bits.
    pub fn alu32_off(&mut self, op: u8, dst: u8, src: impl Into<Src>, off: i16) -> &mut Asm {
        self.with_src(o::ALU | op, dst, src, off)
    }

    /// `dst = src`.
    pub fn mov(&mut self, dst: u8, src: impl Into<Src>) -> &mut Asm {
        self.alu(o::MOV, dst, src)
    }

    /// `dst += src`.
    pub fn add(&mut self, dst: u8, src: impl Into<Src>) -> &mut Asm {
        self.alu(o::ADD, dst, src)
    }

    /// Byte order conversion: `op` is `ALU | END`, with [`squalus_isa::opcode::X`] to big endian, or
    /// `ALU64 | END` to swap.
    pub fn endian(&mut self, op: u8, dst: u8, bits: i32) -> &mut Asm {
        self.raw(Insn {
            op: op | o::END,
            dst,
            src: 0,
            off: 0,
            imm: bits,
        })
    }

    fn wide(&mut self, dst: u8, pseudo: u8, low: u32, high: u32) -> &mut Asm {
        self.raw(Insn {
            op: o::LD_IMM64,
            dst,
            src: pseudo,
            off: 0,
            imm: low.cast_signed(),
        });
        self.raw(Insn {
            imm: high.cast_signed(),
            ..Insn::default()
        })
    }

    /// `dst = value`, in two slots.
    pub fn imm64(&mut self, dst: u8, value: u64) -> &mut Asm {
        self.wide(dst, o::PSEUDO_IMM, value as u32, (value >> 32) as u32)
    }

    /// `dst` = the map with this index.
    pub fn map(&mut self, dst: u8, index: u32) -> &mut Asm {
        self.wide(dst, o::PSEUDO_MAP_FD, index, 0)
    }

    /// `dst` = address of byte `offset` of the first value of the map with this index.
    pub fn map_value(&mut self, dst: u8, index: u32, offset: u32) -> &mut Asm {
        self.wide(dst, o::PSEUDO_MAP_VALUE, index, offset)
    }

    /// `dst = *(size *)(base + off)`.
    pub fn load(&mut self, size: MemSize, dst: u8, base: u8, off: i16) -> &mut Asm {
        self.raw(Insn {
            op: o::LDX | o::MEM | size_bits(size),
            dst,
            src: base,
            off,
            imm: 0,
        })
    }

    /// As [`Asm::load`], sign-extended.
    pub fn load_signed(&mut self, size: MemSize, dst: u8, base: u8, off: i16) -> &mut Asm {
        self.raw(Insn {
            op: o::LDX | o::MEMSX | size_bits(size),
            dst,
            src: base,
            off,
            imm: 0,
        })
    }

    /// `*(size *)(base + off) = src`.
    pub fn store(&mut self, size: MemSize, base: u8, off: i16, src: impl Into<Src>) -> &mut Asm {
        let (class, src, imm) = match src.into() {
            Src::Reg(reg) => (o::STX, reg, 0),
            Src::Imm(imm) => (o::ST, 0, imm),
        };
        self.raw(Insn {
            op: class | o::MEM | size_bits(size),
            dst: base,
            src,
            off,
            imm,
        })
    }

    /// Atomic operation on `*(size *)(base + off)` with `src`; `op` is the instruction's immediate.
    pub fn atomic(&mut self, size: MemSize, op: i32, base: u8, off: i16, src: u8) -> &mut Asm {
        self.raw(Insn {
            op: o::STX | o::ATOMIC | size_bits(size),
            dst: base,
            src,
            off,
            imm: op,
        })
    }

    fn refer(&mut self, label: Label, in_imm: bool) {
        self.uses.push((self.slots.len(), label, in_imm));
    }

    /// `goto label`.
    pub fn jump(&mut self, label: Label) -> &mut Asm {
        self.refer(label, false);
        self.with_src(o::JMP | o::JA, 0, 0, 0)
    }

    /// `goto label` with a 32-bit distance.
    pub fn jump_long(&mut self, label: Label) -> &mut Asm {
        self.refer(label, true);
        self.with_src(o::JMP32 | o::JA, 0, 0, 0)
    }

    /// `if dst cond src goto label`; `cond` is one of the jump codes of [`squalus_isa::opcode`].
    pub fn jump_if(&mut self, cond: u8, dst: u8, src: impl Into<Src>, label: Label) -> &mut Asm {
        self.refer(label, false);
        self.with_src(o::JMP | cond, dst, src, 0)
    }

    /// Leaves a loop that has gone round too often, for `label`.
    pub fn may_goto(&mut self, label: Label) -> &mut Asm {
        self.refer(label, false);
        self.with_src(o::JMP | o::JCOND, 0, 0, 0)
    }

    /// `dst = *(size *)(base + off)`, before all accesses that follow.
    pub fn load_acquire(&mut self, size: MemSize, dst: u8, base: u8, off: i16) -> &mut Asm {
        self.atomic(size, o::ATOMIC_LOAD_ACQ, dst, off, base)
    }

    /// As [`Asm::jump_if`], comparing the low 32 bits.
    pub fn jump_if32(&mut self, cond: u8, dst: u8, src: impl Into<Src>, label: Label) -> &mut Asm {
        self.refer(label, false);
        self.with_src(o::JMP32 | cond, dst, src, 0)
    }

    /// `if dst == src goto label`.
    pub fn jump_eq(&mut self, dst: u8, src: impl Into<Src>, label: Label) -> &mut Asm {
        self.jump_if(o::JEQ, dst, src, label)
    }

    /// Calls a helper.
    pub fn call(&mut self, helper: HelperId) -> &mut Asm {
        self.with_src(o::JMP | o::CALL, 0, helper.0.cast_signed(), 0)
    }

    /// Calls the subprogram at `label`.
    pub fn call_local(&mut self, label: Label) -> &mut Asm {
        self.refer(label, true);
        self.raw(Insn {
            op: o::JMP | o::CALL,
            dst: 0,
            src: o::PSEUDO_CALL,
            off: 0,
            imm: 0,
        })
    }

    /// `dst` = the address of the subprogram at `label`.
    pub fn function(&mut self, dst: u8, label: Label) -> &mut Asm {
        self.refer(label, true);
        self.wide(dst, o::PSEUDO_FUNC, 0, 0)
    }

    /// Returns.
    pub fn exit(&mut self) -> &mut Asm {
        self.with_src(o::JMP | o::EXIT, 0, 0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squalus_isa::disassemble;

    #[test]
    fn code_reads_back_as_written() {
        let mut code = Asm::new();
        let (sub, out) = (code.label(), code.label());
        code.imm64(1, u64::MAX - 1)
            .map(2, 7)
            .store(MemSize::H, 10, -2, R(1))
            .load_signed(MemSize::B, 3, 10, -1)
            .alu_off(o::MOV, 4, R(3), 16)
            .endian(o::ALU | o::X, 1, 32)
            .atomic(MemSize::Dw, o::ATOMIC_XCHG, 10, -8, 1)
            .jump_if32(o::JSGT, 3, -5, out)
            .call_local(sub)
            .bind(out)
            .exit()
            .bind(sub)
            .mov(0, 2)
            .exit();
        let text = disassemble(&code.finish()).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| &line[7..]).collect();
        assert_eq!(
            lines,
            [
                "r1 = 0xfffffffffffffffe ll",
                "r2 = map[7] ll",
                "*(u16 *)(r10 - 2) = r1",
                "r3 = *(s8 *)(r10 - 1)",
                "r4 = (s16)r3",
                "r1 = be32 r1",
                "r1 = xchg((u64 *)(r10 - 8), r1)",
                "if w3 s> -5 goto 11",
                "call 12",
                "exit",
                "r0 = 2",
                "exit",
            ]
        );
    }
}
