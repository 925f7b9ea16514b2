//! From raw slots to instructions that a `match` can exhaust.
//!
//! Decoding validates the encoding itself (opcodes, register numbers, reserved fields, jump targets
//! inside the program); it knows nothing of what a program may do.

use crate::opcode as o;
use crate::{
    AluOp, AtomicOp, CallTarget, Cond, Decoded, Endian, HelperId, ImmSource, Insn, Inst, MemSize,
    Operand, Reg, Width,
};

/// Why a slot is not an instruction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The opcode does not exist, or not with these fields.
    #[error(
        "instruction {slot}: unknown or malformed encoding (opcode {op:#04x}, src {src}, off {off}, imm {imm})"
    )]
    Invalid {
        /// Slot of the instruction.
        slot: usize,
        /// Its opcode.
        op: u8,
        /// Its source field.
        src: u8,
        /// Its offset field.
        off: i16,
        /// Its immediate field.
        imm: i32,
    },
    /// A register number above 10, or a write to the frame pointer.
    #[error("instruction {slot}: register r{reg} does not exist or is read-only")]
    Register {
        /// Slot of the instruction.
        slot: usize,
        /// The number.
        reg: u8,
    },
    /// A jump or call leaves the program or lands inside a two-slot instruction.
    #[error("instruction {slot}: target {target} is not an instruction of this program")]
    Target {
        /// Slot of the instruction.
        slot: usize,
        /// Where it points.
        target: i64,
    },
    /// Packet access instructions of classic BPF, deprecated by RFC 9669.
    #[error(
        "instruction {slot}: legacy packet loads (LD_ABS, LD_IND) are not available to XDP programs"
    )]
    LegacyPacket {
        /// Slot of the instruction.
        slot: usize,
    },
    /// Something that exists but not here.
    #[error("instruction {slot}: {what}")]
    Unavailable {
        /// Slot of the instruction.
        slot: usize,
        /// What it is, and what to do.
        what: &'static str,
    },
    /// The last slot is the first half of an `LD_IMM64`.
    #[error("instruction {slot}: the program ends inside a 64-bit immediate")]
    Truncated {
        /// Slot of the instruction.
        slot: usize,
    },
}

/// Decodes a whole program: instructions in order, every target checked.
///
/// # Errors
/// The first malformed instruction.
pub fn decode(slots: &[Insn]) -> Result<Vec<Decoded>, DecodeError> {
    let mut out = Vec::with_capacity(slots.len());
    let mut starts = vec![false; slots.len()];
    let mut slot = 0;
    while slot < slots.len() {
        let decoded = decode_one(slots, slot)?;
        starts[slot] = true;
        slot = decoded.next;
        out.push(decoded);
    }
    for decoded in &out {
        if let Some(target) = target_of(&decoded.inst)
            && !starts.get(target).copied().unwrap_or(false)
        {
            return Err(DecodeError::Target {
                slot: decoded.slot,
                target: target as i64,
            });
        }
    }
    Ok(out)
}

/// Decodes the instruction at `slot`. Targets are inside the program, but not yet known to be instruction starts.
///
/// # Errors
/// If it is malformed or `slot` is past the end.
pub fn decode_one(slots: &[Insn], slot: usize) -> Result<Decoded, DecodeError> {
    let insn = *slots.get(slot).ok_or(DecodeError::Truncated { slot })?;
    let at = At {
        slot,
        insn,
        len: slots.len(),
    };
    let inst = match insn.op & o::CLASS_MASK {
        o::ALU => at.alu(Width::W32)?,
        o::ALU64 => at.alu(Width::W64)?,
        o::JMP => at.jump(Width::W64)?,
        o::JMP32 => at.jump(Width::W32)?,
        o::LDX => at.load()?,
        o::ST | o::STX => at.store()?,
        _ => {
            let inst = at.load_imm(slots.get(slot + 1))?;
            return Ok(Decoded {
                slot,
                next: slot + 2,
                inst,
            });
        }
    };
    Ok(Decoded {
        slot,
        next: slot + 1,
        inst,
    })
}

fn target_of(inst: &Inst) -> Option<usize> {
    match *inst {
        Inst::Jump { target } | Inst::JumpIf { target, .. } | Inst::MayJump { target } => {
            Some(target)
        }
        Inst::Call(CallTarget::Local(target)) => Some(target),
        Inst::LoadImm {
            imm: ImmSource::Func(target),
            ..
        } => Some(target),
        _ => None,
    }
}

/// A slot under decoding, with what error messages need.
struct At {
    slot: usize,
    insn: Insn,
    len: usize,
}

impl At {
    fn unavailable(&self, what: &'static str) -> DecodeError {
        DecodeError::Unavailable {
            slot: self.slot,
            what,
        }
    }

    fn invalid(&self) -> DecodeError {
        let Insn {
            op, src, off, imm, ..
        } = self.insn;
        DecodeError::Invalid {
            slot: self.slot,
            op,
            src,
            off,
            imm,
        }
    }

    fn require(&self, condition: bool) -> Result<(), DecodeError> {
        if condition {
            Ok(())
        } else {
            Err(self.invalid())
        }
    }

    fn reg(&self, number: u8) -> Result<Reg, DecodeError> {
        Reg::new(number).ok_or(DecodeError::Register {
            slot: self.slot,
            reg: number,
        })
    }

    fn src(&self) -> Result<Reg, DecodeError> {
        self.reg(self.insn.src)
    }

    fn base(&self) -> Result<Reg, DecodeError> {
        self.reg(self.insn.dst)
    }

    fn writable(&self, number: u8) -> Result<Reg, DecodeError> {
        match self.reg(number)? {
            Reg::FP => Err(DecodeError::Register {
                slot: self.slot,
                reg: number,
            }),
            reg => Ok(reg),
        }
    }

    fn target(&self, offset: i64) -> Result<usize, DecodeError> {
        let target = self.slot as i64 + 1 + offset;
        match usize::try_from(target) {
            Ok(t) if t < self.len => Ok(t),
            _ => Err(DecodeError::Target {
                slot: self.slot,
                target,
            }),
        }
    }

    fn operand(&self) -> Result<Operand, DecodeError> {
        if self.insn.op & o::X == 0 {
            self.require(self.insn.src == 0)?;
            Ok(Operand::Imm(self.insn.imm))
        } else {
            self.require(self.insn.imm == 0)?;
            Ok(Operand::Reg(self.src()?))
        }
    }

    fn alu(&self, width: Width) -> Result<Inst, DecodeError> {
        let code = self.insn.op & o::OP_MASK;
        let dst = self.writable(self.insn.dst)?;
        if code == o::END {
            return self.endian(width, dst);
        }
        let off = self.insn.off;
        let op = match (code, off) {
            (o::ADD, 0) => AluOp::Add,
            (o::SUB, 0) => AluOp::Sub,
            (o::MUL, 0) => AluOp::Mul,
            (o::DIV, 0) => AluOp::Div,
            (o::DIV, 1) => AluOp::SDiv,
            (o::MOD, 0) => AluOp::Mod,
            (o::MOD, 1) => AluOp::SMod,
            (o::OR, 0) => AluOp::Or,
            (o::AND, 0) => AluOp::And,
            (o::XOR, 0) => AluOp::Xor,
            (o::LSH, 0) => AluOp::Lsh,
            (o::RSH, 0) => AluOp::Rsh,
            (o::ARSH, 0) => AluOp::Arsh,
            (o::MOV, 0) => AluOp::Mov,
            (o::MOV, 8 | 16) if self.insn.op & o::X != 0 => AluOp::MovSx(off as u8),
            (o::MOV, 32) if self.insn.op & o::X != 0 && width == Width::W64 => AluOp::MovSx(32),
            (o::MOV, 1) if self.insn.op & o::X != 0 && width == Width::W64 => {
                return Err(self.unavailable(
                    "casts between address spaces belong to arenas, which userspace has not: keep the data in maps",
                ));
            }
            (o::NEG, 0) => {
                self.require(self.insn.op & o::X == 0 && self.insn.src == 0 && self.insn.imm == 0)?;
                AluOp::Neg
            }
            _ => return Err(self.invalid()),
        };
        Ok(Inst::Alu {
            width,
            op,
            dst,
            src: self.operand()?,
        })
    }

    fn endian(&self, width: Width, dst: Reg) -> Result<Inst, DecodeError> {
        self.require(self.insn.off == 0 && self.insn.src == 0)?;
        let kind = match (width, self.insn.op & o::X != 0) {
            (Width::W32, false) => Endian::ToLe,
            (Width::W32, true) => Endian::ToBe,
            (Width::W64, false) => Endian::Swap,
            (Width::W64, true) => return Err(self.invalid()),
        };
        let bits = match self.insn.imm {
            16 => 16,
            32 => 32,
            64 => 64,
            _ => return Err(self.invalid()),
        };
        Ok(Inst::End { kind, bits, dst })
    }

    fn jump(&self, width: Width) -> Result<Inst, DecodeError> {
        let cond = match self.insn.op & o::OP_MASK {
            o::JA => return self.unconditional(width),
            o::CALL => return self.call(width),
            o::EXIT => {
                let Insn {
                    op,
                    dst,
                    src,
                    off,
                    imm,
                } = self.insn;
                self.require(
                    op == o::JMP | o::EXIT && dst == 0 && src == 0 && off == 0 && imm == 0,
                )?;
                return Ok(Inst::Exit);
            }
            o::JEQ => Cond::Eq,
            o::JNE => Cond::Ne,
            o::JGT => Cond::Gt,
            o::JGE => Cond::Ge,
            o::JLT => Cond::Lt,
            o::JLE => Cond::Le,
            o::JSET => Cond::Set,
            o::JSGT => Cond::SGt,
            o::JSGE => Cond::SGe,
            o::JSLT => Cond::SLt,
            o::JSLE => Cond::SLe,
            o::JCOND => return self.may_jump(),
            _ => return Err(self.invalid()),
        };
        let target = self.target(self.insn.off.into())?;
        Ok(Inst::JumpIf {
            width,
            cond,
            dst: self.reg(self.insn.dst)?,
            src: self.operand()?,
            target,
        })
    }

    fn may_jump(&self) -> Result<Inst, DecodeError> {
        let Insn {
            op, dst, src, imm, ..
        } = self.insn;
        self.require(op == o::JMP | o::JCOND && dst == 0 && src == 0 && imm == 0)?;
        Ok(Inst::MayJump {
            target: self.target(self.insn.off.into())?,
        })
    }

    fn unconditional(&self, width: Width) -> Result<Inst, DecodeError> {
        let Insn {
            op,
            dst,
            src,
            off,
            imm,
        } = self.insn;
        self.require(op & o::X == 0 && dst == 0 && src == 0)?;
        let offset = match width {
            Width::W64 if imm == 0 => i64::from(off),
            Width::W32 if off == 0 => i64::from(imm),
            _ => return Err(self.invalid()),
        };
        Ok(Inst::Jump {
            target: self.target(offset)?,
        })
    }

    fn call(&self, width: Width) -> Result<Inst, DecodeError> {
        let Insn {
            op,
            dst,
            src,
            off,
            imm,
        } = self.insn;
        if op == o::JMP | o::CALL | o::X {
            return Err(self.unavailable(
                "calls through a register (callx) are in no kernel: let the compiler inline the function or call it by name",
            ));
        }
        self.require(width == Width::W64 && op & o::X == 0 && dst == 0)?;
        let target = match src {
            0 => {
                self.require(off == 0)?;
                CallTarget::Helper(HelperId(imm.cast_unsigned()))
            }
            o::PSEUDO_CALL => {
                self.require(off == 0)?;
                CallTarget::Local(self.target(imm.into())?)
            }
            o::PSEUDO_KFUNC_CALL => CallTarget::Kfunc(imm),
            _ => return Err(self.invalid()),
        };
        Ok(Inst::Call(target))
    }

    fn size(&self) -> MemSize {
        match self.insn.op & o::SIZE_MASK {
            o::B => MemSize::B,
            o::H => MemSize::H,
            o::W => MemSize::W,
            _ => MemSize::Dw,
        }
    }

    fn load(&self) -> Result<Inst, DecodeError> {
        let size = self.size();
        let signed = match self.insn.op & o::MODE_MASK {
            o::MEM => false,
            o::MEMSX if size != MemSize::Dw => true,
            _ => return Err(self.invalid()),
        };
        self.require(self.insn.imm == 0)?;
        let dst = self.writable(self.insn.dst)?;
        Ok(Inst::Load {
            size,
            signed,
            dst,
            base: self.src()?,
            off: self.insn.off,
        })
    }

    fn store(&self) -> Result<Inst, DecodeError> {
        let register = self.insn.op & o::CLASS_MASK == o::STX;
        match self.insn.op & o::MODE_MASK {
            o::MEM => {}
            o::ATOMIC if register => return self.atomic(),
            _ => return Err(self.invalid()),
        }
        let src = if register {
            self.require(self.insn.imm == 0)?;
            Operand::Reg(self.src()?)
        } else {
            self.require(self.insn.src == 0)?;
            Operand::Imm(self.insn.imm)
        };
        Ok(Inst::Store {
            size: self.size(),
            base: self.base()?,
            off: self.insn.off,
            src,
        })
    }

    fn atomic(&self) -> Result<Inst, DecodeError> {
        let size = self.size();
        match self.insn.imm {
            o::ATOMIC_LOAD_ACQ => return self.ordered(AtomicOp::LoadAcquire),
            o::ATOMIC_STORE_REL => return self.ordered(AtomicOp::StoreRelease),
            _ => self.require(matches!(size, MemSize::W | MemSize::Dw))?,
        }
        let (op, fetch) = match self.insn.imm {
            o::ATOMIC_XCHG => (AtomicOp::Xchg, true),
            o::ATOMIC_CMPXCHG => (AtomicOp::CmpXchg, true),
            imm => {
                let op = match u8::try_from(imm & !o::ATOMIC_FETCH) {
                    Ok(o::ADD) => AtomicOp::Add,
                    Ok(o::OR) => AtomicOp::Or,
                    Ok(o::AND) => AtomicOp::And,
                    Ok(o::XOR) => AtomicOp::Xor,
                    _ => return Err(self.invalid()),
                };
                (op, imm & o::ATOMIC_FETCH != 0)
            }
        };
        let src = if fetch && op != AtomicOp::CmpXchg {
            self.writable(self.insn.src)?
        } else {
            self.src()?
        };
        Ok(Inst::Atomic {
            size,
            op,
            fetch,
            base: self.base()?,
            off: self.insn.off,
            src,
        })
    }

    /// A load or store that keeps an order. A load's destination and address registers are where other loads
    /// have them.
    fn ordered(&self, op: AtomicOp) -> Result<Inst, DecodeError> {
        let (base, src) = match op {
            AtomicOp::LoadAcquire => (self.src()?, self.writable(self.insn.dst)?),
            _ => (self.base()?, self.src()?),
        };
        Ok(Inst::Atomic {
            size: self.size(),
            op,
            fetch: op == AtomicOp::LoadAcquire,
            base,
            off: self.insn.off,
            src,
        })
    }

    fn load_imm(&self, second: Option<&Insn>) -> Result<Inst, DecodeError> {
        if matches!(self.insn.op & o::MODE_MASK, o::ABS | o::IND) {
            return Err(DecodeError::LegacyPacket { slot: self.slot });
        }
        self.require(self.insn.op == o::LD_IMM64 && self.insn.off == 0)?;
        let second = second.ok_or(DecodeError::Truncated { slot: self.slot })?;
        self.require(second.op == 0 && second.dst == 0 && second.src == 0 && second.off == 0)?;
        let (low, high) = (self.insn.imm.cast_unsigned(), second.imm.cast_unsigned());
        let imm = match self.insn.src {
            o::PSEUDO_IMM => ImmSource::Value(u64::from(low) | u64::from(high) << 32),
            o::PSEUDO_MAP_FD => {
                self.require(high == 0)?;
                ImmSource::Map(low)
            }
            o::PSEUDO_MAP_VALUE => ImmSource::MapValue {
                map: low,
                offset: high,
            },
            o::PSEUDO_FUNC => ImmSource::Func(self.target(self.insn.imm.into())?),
            _ => return Err(self.invalid()),
        };
        Ok(Inst::LoadImm {
            dst: self.writable(self.insn.dst)?,
            imm,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(op: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
        Insn {
            op,
            dst,
            src,
            off,
            imm,
        }
    }

    const EXIT: Insn = Insn {
        op: o::JMP | o::EXIT,
        dst: 0,
        src: 0,
        off: 0,
        imm: 0,
    };

    #[test]
    fn every_opcode_decodes_or_is_refused_without_panic() {
        for op in 0..=255u8 {
            for off in [-1, 0, 1, 8, 32] {
                for imm in [-1, 0, 1, 16, 0xe1, 0xf1] {
                    for regs in [(0, 0), (10, 0), (0, 1), (11, 0), (1, 15)] {
                        let slots = [insn(op, regs.0, regs.1, off, imm), Insn::default(), EXIT];
                        let _ = decode(&slots);
                    }
                }
            }
        }
    }

    #[test]
    fn jumps_into_a_wide_immediate_are_refused() {
        let slots = [
            insn(o::JMP | o::JA, 0, 0, 1, 0),
            insn(o::LD_IMM64, 0, 0, 0, 1),
            Insn::default(),
            EXIT,
        ];
        assert_eq!(
            decode(&slots),
            Err(DecodeError::Target { slot: 0, target: 2 })
        );
    }

    #[test]
    fn long_jumps_take_their_offset_from_imm() {
        let slots = [insn(o::JMP32 | o::JA, 0, 0, 0, 1), EXIT, EXIT];
        assert_eq!(decode(&slots).unwrap()[0].inst, Inst::Jump { target: 2 });
    }

    #[test]
    fn the_frame_pointer_is_read_only() {
        let slots = [insn(o::ALU64 | o::MOV, 10, 0, 0, 0), EXIT];
        assert_eq!(
            decode(&slots),
            Err(DecodeError::Register { slot: 0, reg: 10 })
        );
    }

    #[test]
    fn legacy_packet_loads_are_named() {
        assert_eq!(
            decode(&[insn(o::LD | o::ABS | o::W, 0, 0, 0, 0)]),
            Err(DecodeError::LegacyPacket { slot: 0 })
        );
    }

    #[test]
    fn ordered_accesses_have_any_size_and_loads_are_like_loads() {
        for size in [o::B, o::H, o::W, o::DW] {
            let load = insn(o::STX | o::ATOMIC | size, 3, 10, -8, o::ATOMIC_LOAD_ACQ);
            let Inst::Atomic { op, base, src, .. } = decode_one(&[load], 0).unwrap().inst else {
                panic!("not atomic");
            };
            assert_eq!((op, base, src), (AtomicOp::LoadAcquire, Reg::FP, Reg::R3));
            let store = insn(o::STX | o::ATOMIC | size, 10, 3, -8, o::ATOMIC_STORE_REL);
            let Inst::Atomic { op, base, src, .. } = decode_one(&[store], 0).unwrap().inst else {
                panic!("not atomic");
            };
            assert_eq!((op, base, src), (AtomicOp::StoreRelease, Reg::FP, Reg::R3));
        }
        let to_frame_pointer = insn(o::STX | o::ATOMIC | o::W, 10, 1, 0, o::ATOMIC_LOAD_ACQ);
        assert!(decode_one(&[to_frame_pointer], 0).is_err());
    }

    #[test]
    fn what_exists_elsewhere_is_refused_by_name() {
        for (insn, named) in [
            (insn(o::JMP | o::CALL | o::X, 3, 0, 0, 0), "callx"),
            (insn(o::ALU64 | o::MOV | o::X, 1, 2, 1, 1), "arenas"),
            (insn(o::LD | o::ABS | o::W, 0, 0, 0, 0), "LD_ABS"),
        ] {
            let error = decode_one(&[insn], 0).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn may_goto_is_a_jump_without_a_condition() {
        let jump = [insn(o::JMP | o::JCOND, 0, 0, 1, 0); 2];
        assert_eq!(
            decode_one(&jump, 0).map(|decoded| decoded.inst),
            Err(DecodeError::Target { slot: 0, target: 2 })
        );
        let jump = insn(o::JMP | o::JCOND, 0, 0, -1, 0);
        let decoded = decode_one(&[jump], 0).unwrap();
        assert_eq!(decoded.inst, Inst::MayJump { target: 0 });
        assert!(decode_one(&[insn(o::JMP | o::JCOND, 0, 1, -1, 0)], 0).is_err());
    }
}
