//! Instructions as text, in the notation of the kernel's verifier and of llvm-objdump.

use std::fmt::Write;

use crate::{
    AluOp, AtomicOp, CallTarget, Cond, DecodeError, Decoded, Endian, ImmSource, Insn, Inst,
    MemSize, Operand, Reg, Width, decode,
};

/// Disassembles a program, one instruction a line, each preceded by its slot number.
///
/// # Errors
/// The first malformed instruction.
pub fn disassemble(slots: &[Insn]) -> Result<String, DecodeError> {
    let mut out = String::new();
    for Decoded { slot, inst, .. } in decode(slots)? {
        let _ = writeln!(out, "{slot:5}: {}", format_inst(&inst));
    }
    Ok(out)
}

/// One instruction as text. Jump targets are slot numbers.
#[must_use]
pub fn format_inst(inst: &Inst) -> String {
    match *inst {
        Inst::Alu {
            width,
            op,
            dst,
            src,
        } => format_alu(width, op, dst, src),
        Inst::End { kind, bits, dst } => {
            let name = match kind {
                Endian::ToLe => "le",
                Endian::ToBe => "be",
                Endian::Swap => "bswap",
            };
            format!("{dst} = {name}{bits} {dst}")
        }
        Inst::LoadImm { dst, imm } => match imm {
            ImmSource::Value(value) => format!("{dst} = {value:#x} ll"),
            ImmSource::Map(map) => format!("{dst} = map[{map}] ll"),
            ImmSource::MapValue { map, offset } => format!("{dst} = map[{map}][0]+{offset} ll"),
            ImmSource::Func(target) => format!("{dst} = func {target} ll"),
        },
        Inst::Load {
            size,
            signed,
            dst,
            base,
            off,
        } => {
            format!(
                "{dst} = *({} *)({base} {})",
                size_name(size, signed),
                offset(off)
            )
        }
        Inst::Store {
            size,
            base,
            off,
            src,
        } => {
            format!(
                "*({} *)({base} {}) = {}",
                size_name(size, false),
                offset(off),
                operand(src, Width::W64)
            )
        }
        Inst::Atomic {
            size,
            op,
            fetch,
            base,
            off,
            src,
        } => format_atomic(size, op, fetch, base, off, src),
        Inst::Jump { target } => format!("goto {target}"),
        Inst::MayJump { target } => format!("may_goto {target}"),
        Inst::JumpIf {
            width,
            cond,
            dst,
            src,
            target,
        } => {
            format!(
                "if {} {} {} goto {target}",
                register(dst, width),
                cond_name(cond),
                operand(src, width)
            )
        }
        Inst::Call(CallTarget::Helper(id)) => format!("call {id}"),
        Inst::Call(CallTarget::Local(target)) => format!("call {target}"),
        Inst::Call(CallTarget::Kfunc(id)) => format!("call kfunc#{id}"),
        Inst::Exit => "exit".to_owned(),
    }
}

fn format_alu(width: Width, op: AluOp, dst: Reg, src: Operand) -> String {
    let (dst, src) = (register(dst, width), operand(src, width));
    let sign = match op {
        AluOp::Neg => return format!("{dst} = -{dst}"),
        AluOp::Mov => return format!("{dst} = {src}"),
        AluOp::MovSx(bits) => return format!("{dst} = (s{bits}){src}"),
        AluOp::Add => "+=",
        AluOp::Sub => "-=",
        AluOp::Mul => "*=",
        AluOp::Div => "/=",
        AluOp::SDiv => "s/=",
        AluOp::Mod => "%=",
        AluOp::SMod => "s%=",
        AluOp::Or => "|=",
        AluOp::And => "&=",
        AluOp::Xor => "^=",
        AluOp::Lsh => "<<=",
        AluOp::Rsh => ">>=",
        AluOp::Arsh => "s>>=",
    };
    format!("{dst} {sign} {src}")
}

fn format_atomic(
    size: MemSize,
    op: AtomicOp,
    fetch: bool,
    base: Reg,
    off: i16,
    src: Reg,
) -> String {
    let place = format!("({} *)({base} {})", size_name(size, false), offset(off));
    let name = match op {
        AtomicOp::Add => "add",
        AtomicOp::Or => "or",
        AtomicOp::And => "and",
        AtomicOp::Xor => "xor",
        AtomicOp::Xchg => return format!("{src} = xchg({place}, {src})"),
        AtomicOp::CmpXchg => return format!("r0 = cmpxchg({place}, r0, {src})"),
        AtomicOp::LoadAcquire => return format!("{src} = load_acquire({place})"),
        AtomicOp::StoreRelease => return format!("store_release({place}, {src})"),
    };
    if fetch {
        format!("{src} = atomic_fetch_{name}({place}, {src})")
    } else {
        format!("lock *{place} {name}= {src}")
    }
}

fn register(reg: Reg, width: Width) -> String {
    match width {
        Width::W64 => format!("r{}", reg.index()),
        Width::W32 => format!("w{}", reg.index()),
    }
}

fn operand(operand: Operand, width: Width) -> String {
    match operand {
        Operand::Reg(reg) => register(reg, width),
        Operand::Imm(imm) => imm.to_string(),
    }
}

fn offset(off: i16) -> String {
    if off < 0 {
        format!("- {}", -i32::from(off))
    } else {
        format!("+ {off}")
    }
}

const fn size_name(size: MemSize, signed: bool) -> &'static str {
    match (size, signed) {
        (MemSize::B, false) => "u8",
        (MemSize::H, false) => "u16",
        (MemSize::W, false) => "u32",
        (MemSize::Dw, _) => "u64",
        (MemSize::B, true) => "s8",
        (MemSize::H, true) => "s16",
        (MemSize::W, true) => "s32",
    }
}

const fn cond_name(cond: Cond) -> &'static str {
    match cond {
        Cond::Eq => "==",
        Cond::Ne => "!=",
        Cond::Gt => ">",
        Cond::Ge => ">=",
        Cond::Lt => "<",
        Cond::Le => "<=",
        Cond::Set => "&",
        Cond::SGt => "s>",
        Cond::SGe => "s>=",
        Cond::SLt => "s<",
        Cond::SLe => "s<=",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_matches_the_kernels_notation() {
        let slots = [
            Insn {
                op: 0xbf,
                dst: 6,
                src: 1,
                off: 0,
                imm: 0,
            },
            Insn {
                op: 0x7b,
                dst: 10,
                src: 1,
                off: -8,
                imm: 0,
            },
            Insn {
                op: 0x16,
                dst: 1,
                src: 0,
                off: 1,
                imm: 8,
            },
            Insn {
                op: 0x85,
                dst: 0,
                src: 0,
                off: 0,
                imm: 1,
            },
            Insn {
                op: 0x95,
                dst: 0,
                src: 0,
                off: 0,
                imm: 0,
            },
        ];
        let text = disassemble(&slots).unwrap();
        let lines: Vec<&str> = text.lines().map(|l| &l[7..]).collect();
        assert_eq!(
            lines,
            [
                "r6 = r1",
                "*(u64 *)(r10 - 8) = r1",
                "if w1 == 8 goto 4",
                "call bpf_map_lookup_elem",
                "exit"
            ]
        );
    }
}
