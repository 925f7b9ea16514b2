//! Type information for hand-made programs: the kernel takes functions that are called back, and such with tail calls,
//! only if it is told where functions begin, that these are static and return a number.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use squalus_isa::{Errno, HelperId, Insn, opcode as o};

use crate::sys::{self, Records};

/// A type's number: there is one `int`, one prototype without arguments, and one static function of it.
const FUNCTION: u32 = 3;

/// The types that functions refer to, in the kernel, and where the functions of a program are; nothing for programs
/// that need none.
pub(crate) fn types_of(insns: &[Insn]) -> Result<Option<(OwnedFd, Records)>, Errno> {
    let any = |is: fn(&Insn) -> bool| insns.iter().any(is);
    if !(any(takes_address) || any(calls_function) && any(calls_in_tail)) {
        return Ok(None);
    }
    let types = sys::with_memlock(|| sys::btf_load(&btf()))?;
    let record = |start| [start as u32, FUNCTION].map(u32::to_ne_bytes).concat();
    let bytes: Vec<u8> = starts(insns).into_iter().flat_map(record).collect();
    Ok(Some((types, Records { size: 8, bytes })))
}

fn takes_address(insn: &Insn) -> bool {
    insn.op == o::LD_IMM64 && insn.src == o::PSEUDO_FUNC
}

fn calls_function(insn: &Insn) -> bool {
    insn.op == o::JMP | o::CALL && insn.src == o::PSEUDO_CALL
}

fn calls_in_tail(insn: &Insn) -> bool {
    let helper = insn.op == o::JMP | o::CALL && insn.src == 0;
    helper && insn.imm == HelperId::TAIL_CALL.0 as i32
}

/// Slots where functions begin.
fn starts(insns: &[Insn]) -> BTreeSet<usize> {
    let target = |(slot, insn): (usize, &Insn)| {
        let names = calls_function(insn) || takes_address(insn);
        names.then_some(slot.checked_add_signed(insn.imm as isize + 1)?)
    };
    let targets = insns.iter().enumerate().filter_map(target);
    std::iter::once(0).chain(targets).collect()
}

fn btf() -> Vec<u8> {
    const INT: u32 = 1 << 24;
    const FUNC: u32 = 12 << 24;
    const FUNC_PROTO: u32 = 13 << 24;
    const SIGNED_32: u32 = 1 << 24 | 32;
    let strings = b"\0int\0f\0";
    #[rustfmt::skip]
    let types: [u32; 10] = [
        1, INT, 4, SIGNED_32,
        0, FUNC_PROTO, 1,
        5, FUNC, 2,
    ];
    let types = types.map(u32::to_ne_bytes).concat();
    let mut bytes = 0xeb9fu16.to_ne_bytes().to_vec();
    // Version and flags; the header's length.
    bytes.extend([1, 0]);
    bytes.extend(24u32.to_ne_bytes());
    let lengths = [0, types.len(), types.len(), strings.len()];
    bytes.extend(lengths.into_iter().flat_map(|n| (n as u32).to_ne_bytes()));
    bytes.extend(types);
    bytes.extend(strings);
    bytes
}
