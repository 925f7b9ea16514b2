//! One 64-bit instruction slot, as it stands in memory and in an ELF section.

use std::fmt;

/// Size of one instruction slot in bytes.
pub const INSN_SIZE: usize = 8;

/// A register number, `r0` to `r10`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(u8);

impl Reg {
    /// `r0`: the return value of calls and of the program.
    pub const R0: Reg = Reg(0);
    /// `r1`: the first argument; the context at program entry.
    pub const R1: Reg = Reg(1);
    /// `r2`.
    pub const R2: Reg = Reg(2);
    /// `r3`.
    pub const R3: Reg = Reg(3);
    /// `r4`.
    pub const R4: Reg = Reg(4);
    /// `r5`: the last argument.
    pub const R5: Reg = Reg(5);
    /// `r6`: the first callee-saved register.
    pub const R6: Reg = Reg(6);
    /// `r9`: the last callee-saved register.
    pub const R9: Reg = Reg(9);
    /// `r10`: the read-only frame pointer.
    pub const FP: Reg = Reg(10);
    /// How many registers there are.
    pub const COUNT: usize = 11;

    /// The register with this number, if it exists.
    #[must_use]
    pub const fn new(number: u8) -> Option<Reg> {
        if number <= 10 {
            Some(Reg(number))
        } else {
            None
        }
    }

    /// The number, for indexing register files.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// One raw instruction slot. `LD_IMM64` takes two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Insn {
    /// Operation code: class in the low three bits.
    pub op: u8,
    /// Destination register number (not validated).
    pub dst: u8,
    /// Source register number or pseudo source (not validated).
    pub src: u8,
    /// Signed offset: bytes for memory, slots for jumps.
    pub off: i16,
    /// Signed immediate.
    pub imm: i32,
}

impl Insn {
    /// Reads a slot from its eight little-endian bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; INSN_SIZE]) -> Insn {
        let [op, regs, o0, o1, i0, i1, i2, i3] = bytes;
        Insn {
            op,
            dst: regs & 0x0f,
            src: regs >> 4,
            off: i16::from_le_bytes([o0, o1]),
            imm: i32::from_le_bytes([i0, i1, i2, i3]),
        }
    }

    /// The slot's eight little-endian bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; INSN_SIZE] {
        let [o0, o1] = self.off.to_le_bytes();
        let [i0, i1, i2, i3] = self.imm.to_le_bytes();
        [
            self.op,
            (self.dst & 0x0f) | (self.src << 4),
            o0,
            o1,
            i0,
            i1,
            i2,
            i3,
        ]
    }

    /// Reads a whole section; `None` if its length is not a multiple of eight.
    #[must_use]
    pub fn parse_all(bytes: &[u8]) -> Option<Vec<Insn>> {
        let (slots, rest) = bytes.as_chunks::<INSN_SIZE>();
        rest.is_empty()
            .then(|| slots.iter().copied().map(Insn::from_bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip() {
        let insn = Insn {
            op: 0x7b,
            dst: 10,
            src: 1,
            off: -8,
            imm: -2,
        };
        assert_eq!(
            insn.to_bytes(),
            [0x7b, 0x1a, 0xf8, 0xff, 0xfe, 0xff, 0xff, 0xff]
        );
        assert_eq!(Insn::from_bytes(insn.to_bytes()), insn);
    }

    #[test]
    fn a_torn_section_is_refused() {
        assert_eq!(Insn::parse_all(&[0; 12]), None);
        assert_eq!(Insn::parse_all(&[0; 16]).map(|v| v.len()), Some(2));
    }
}
