//! The eBPF instruction set and the kernel ABI around it.
//!
//! Everything here is fact, not mechanism: how an instruction is encoded (RFC 9669), which numbers the
//! kernel's `linux/bpf.h` gives to map types, flags, helpers and verdicts, and what a map definition
//! holds. The crate has no `unsafe`, no I/O and no state, so that every other crate of the engine can
//! share one vocabulary.
#![forbid(unsafe_code)]

mod decode;
mod disasm;
pub mod helper;
mod insn;
mod inst;
mod map;
pub mod opcode;
mod xdp;

pub use decode::{DecodeError, decode, decode_one};
pub use disasm::{disassemble, format_inst};
pub use helper::HelperId;
pub use insn::{INSN_SIZE, Insn, Reg};
pub use inst::{
    AluOp, AtomicOp, CallTarget, Cond, Decoded, Endian, ImmSource, Inst, MemSize, Operand, Width,
};
pub use map::{Errno, MapDef, MapFlags, MapType, UpdateFlags, ValueFields};
pub use xdp::Verdict;
