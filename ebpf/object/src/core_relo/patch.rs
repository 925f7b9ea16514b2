//! Putting a number into an instruction.

use squalus_isa::{Insn, opcode};

use super::Failure;
use crate::POISON_HELPER;
use crate::btf::TypeId;

/// What becomes of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    /// It can never run with this target.
    Poison,
    /// It gets a new number.
    Number {
        /// What it must hold now, if that is certain.
        before: Option<u64>,
        /// What it shall hold.
        after: u64,
        /// Size of the field accessed, in bytes, before and after, where they differ.
        sizes: Option<(u64, u64)>,
        /// Whether a memory access of the new size would give a wrong value.
        size_unsafe: bool,
    },
}

impl Replacement {
    /// The number of one of the object's own types. What the instruction holds may be older than the last
    /// linking, which renumbers types.
    pub(super) fn own_type(id: TypeId) -> Self {
        Replacement::Number {
            before: None,
            after: id.0.into(),
            sizes: None,
            size_unsafe: false,
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Patched,
    Poisoned,
}

const POISON: Insn = Insn {
    op: opcode::JMP | opcode::CALL,
    dst: 0,
    src: 0,
    off: 0,
    imm: POISON_HELPER.cast_signed(),
};

/// Replaces the number in the instruction at `slot`.
pub(super) fn apply(
    insns: &mut [Insn],
    slot: usize,
    replacement: &Replacement,
) -> Result<Outcome, Failure> {
    let (insn, rest) = insns
        .get_mut(slot..)
        .and_then(<[_]>::split_first_mut)
        .ok_or("it is outside the program")?;
    let second = rest.first_mut();
    let Replacement::Number {
        before,
        after,
        sizes,
        size_unsafe,
    } = *replacement
    else {
        if insn.op == opcode::LD_IMM64
            && let Some(second) = second
        {
            *second = POISON;
        }
        *insn = POISON;
        return Ok(Outcome::Poisoned);
    };
    match insn.op & opcode::CLASS_MASK {
        opcode::ALU | opcode::ALU64 => immediate(insn, before, after)?,
        opcode::LDX | opcode::ST | opcode::STX => {
            offset(insn, before, after)?;
            if let Some((was, is)) = sizes {
                if size_unsafe {
                    // An access that would be wrong must not run, but may be unreachable.
                    *insn = POISON;
                    return Ok(Outcome::Poisoned);
                }
                resize(insn, was, is)?;
            }
        }
        _ => wide(insn, second, before, after)?,
    }
    Ok(Outcome::Patched)
}

fn immediate(insn: &mut Insn, before: Option<u64>, after: u64) -> Result<(), Failure> {
    if insn.op & opcode::X != 0 {
        return Err("the instruction has no immediate".into());
    }
    let now = i64::from(insn.imm).cast_unsigned();
    check(before, &[now, u64::from(insn.imm.cast_unsigned())])?;
    insn.imm = u32::try_from(after)
        .map(u32::cast_signed)
        .or_else(|_| i32::try_from(after.cast_signed()))
        .map_err(|_| format!("{after} does not fit a 32-bit immediate"))?;
    Ok(())
}

fn offset(insn: &mut Insn, before: Option<u64>, after: u64) -> Result<(), Failure> {
    check(before, &[i64::from(insn.off).cast_unsigned()])?;
    insn.off = i16::try_from(after)
        .map_err(|_| format!("offset {after} does not fit the instruction's 16 bits"))?;
    Ok(())
}

/// Makes a memory access as wide as the target's field.
fn resize(insn: &mut Insn, was: u64, is: u64) -> Result<(), Failure> {
    let bytes = match insn.op & opcode::SIZE_MASK {
        opcode::B => 1,
        opcode::H => 2,
        opcode::W => 4,
        _ => 8,
    };
    if bytes != was {
        return Err(format!(
            "the instruction accesses {bytes} bytes of a field that has {was}"
        ));
    }
    let code = match is {
        1 => opcode::B,
        2 => opcode::H,
        4 => opcode::W,
        8 => opcode::DW,
        _ => return Err(format!("no instruction accesses {is} bytes")),
    };
    insn.op = (insn.op & !opcode::SIZE_MASK) | code;
    Ok(())
}

fn wide(
    insn: &mut Insn,
    second: Option<&mut Insn>,
    before: Option<u64>,
    after: u64,
) -> Result<(), Failure> {
    let plain = insn.op == opcode::LD_IMM64 && insn.src == opcode::PSEUDO_IMM;
    let (true, Some(second)) = (plain, second) else {
        return Err(format!(
            "the instruction (opcode {:#04x}) takes no number",
            insn.op
        ));
    };
    let now = u64::from(insn.imm.cast_unsigned()) | u64::from(second.imm.cast_unsigned()) << 32;
    check(before, &[now])?;
    insn.imm = (after as u32).cast_signed();
    second.imm = ((after >> 32) as u32).cast_signed();
    Ok(())
}

/// Whether the instruction holds what the object's own types say.
fn check(before: Option<u64>, now: &[u64]) -> Result<(), Failure> {
    match before {
        Some(before) if !now.contains(&before) => Err(format!(
            "the instruction holds {}, the object's own types say {before}; the object is damaged",
            now.first().copied().unwrap_or_default()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(op: u8, off: i16) -> Insn {
        Insn {
            op: opcode::LDX | opcode::MEM | op,
            dst: 1,
            src: 2,
            off,
            imm: 0,
        }
    }

    #[test]
    fn a_load_follows_its_field_and_its_size() {
        let mut insns = [load(opcode::W, 4)];
        let replacement = Replacement::Number {
            before: Some(4),
            after: 16,
            sizes: Some((4, 8)),
            size_unsafe: false,
        };
        assert_eq!(apply(&mut insns, 0, &replacement), Ok(Outcome::Patched));
        assert_eq!(insns, [load(opcode::DW, 16)]);
    }

    #[test]
    fn a_load_that_would_lose_its_sign_is_poisoned() {
        let mut insns = [load(opcode::W, 4)];
        let replacement = Replacement::Number {
            before: Some(4),
            after: 16,
            sizes: Some((4, 8)),
            size_unsafe: true,
        };
        assert_eq!(apply(&mut insns, 0, &replacement), Ok(Outcome::Poisoned));
        assert_eq!(insns, [POISON]);
    }

    #[test]
    fn both_slots_of_a_wide_immediate_are_poisoned() {
        let wide = Insn {
            op: opcode::LD_IMM64,
            ..Insn::default()
        };
        let mut insns = [wide, Insn::default()];
        assert_eq!(
            apply(&mut insns, 0, &Replacement::Poison),
            Ok(Outcome::Poisoned)
        );
        assert_eq!(insns, [POISON, POISON]);
    }

    #[test]
    fn a_damaged_instruction_is_refused() {
        let mut insns = [load(opcode::W, 5)];
        let replacement = Replacement::Number {
            before: Some(4),
            after: 8,
            sizes: None,
            size_unsafe: false,
        };
        assert!(apply(&mut insns, 0, &replacement).is_err());
        assert!(apply(&mut insns, 1, &Replacement::Poison).is_err());
    }
}
