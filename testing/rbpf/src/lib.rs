//! Another project's engine, [rbpf](https://docs.rs/rbpf), as a mark for the micro programs: its compiler on the same
//! bytecode and the same frames.
//!
//! That compiler, for x86-64 only, checks no access, and leaves maps and helpers to its users. So a program is taken
//! only if it has neither and the analysis proved every one of its accesses; then running it is as safe as that
//! compiler is right. Frames and contexts lie below 4 GiB, where the 32-bit addresses in `struct xdp_md` are whole:
//! the bytecode stays as it is.
//!
//! *Unsafe.* Low memory, and calling the compiled program.

mod memory;

use std::io;

use rbpf::EbpfVmMbuff;
use squalus_analysis::Facts;
use squalus_isa::{CallTarget, Decoded, ImmSource, Insn, Inst, decode};
use squalus_runtime::LinkedProgram;

use memory::LowMemory;

/// Frames that a burst can have at most.
pub const MAX_BURST: usize = memory::FRAMES;
/// Bytes that a frame can have at most.
pub const MAX_FRAME: usize = memory::ROOM;

/// Why a program cannot run in rbpf.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// rbpf compiles for x86-64 only.
    #[error("rbpf compiles for x86-64 only")]
    Machine,
    /// The program has something that rbpf has not.
    #[error("the program has {what} at instruction {slot}, which rbpf has not")]
    Lacks {
        /// What.
        what: &'static str,
        /// Where.
        slot: usize,
    },
    /// An access needs a check, and rbpf makes none.
    #[error("{0} accesses of the program are not proved, and rbpf checks none")]
    Unproved(usize),
    /// Bytecode, program and facts are not those of one program.
    #[error("the bytecode is not that of the program that was analysed")]
    Mismatch,
    /// rbpf refuses the program.
    #[error("rbpf: {0}")]
    Refused(String),
    /// There is no memory below 4 GiB.
    #[error("no memory below 4 GiB: {0}")]
    Memory(#[from] io::Error),
}

/// A program compiled by rbpf, with the memory of a burst.
pub struct Program {
    /// Before the bytecode, to which it refers.
    vm: EbpfVmMbuff<'static>,
    _code: Box<[u8]>,
    memory: LowMemory,
}

impl Program {
    /// Compiles `insns`, which must be the bytecode of `program`; `facts` must be what
    /// [`squalus_analysis::analyse`] found for that program.
    ///
    /// # Errors
    /// If the program is not one that can run in rbpf.
    pub fn load(insns: &[Insn], program: &LinkedProgram, facts: &Facts) -> Result<Program, Unfit> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Unfit::Machine);
        }
        if decode(insns).ok().as_deref() != Some(program.insts()) {
            return Err(Unfit::Mismatch);
        }
        program.insts().iter().try_for_each(has)?;
        let checked = facts.counts(program).checked;
        if checked != 0 {
            return Err(Unfit::Unproved(checked));
        }
        let code: Box<[u8]> = insns.iter().flat_map(|insn| insn.to_bytes()).collect();
        // SAFETY: the bytes are on the heap, nobody changes them, and they are dropped after the only user.
        let bytes = unsafe { std::slice::from_raw_parts(code.as_ptr(), code.len()) };
        let refused = |error: io::Error| Unfit::Refused(error.to_string());
        let mut vm = EbpfVmMbuff::new(Some(bytes)).map_err(refused)?;
        vm.jit_compile().map_err(refused)?;
        Ok(Program {
            vm,
            _code: code,
            memory: LowMemory::new()?,
        })
    }

    /// Puts a frame into place `n` of the burst.
    ///
    /// # Panics
    /// If `n` is not below [`MAX_BURST`] or the frame is longer than [`MAX_FRAME`].
    pub fn set(&mut self, n: usize, frame: &[u8]) {
        self.memory.set(n, frame);
    }

    /// The frame in place `n` of the burst.
    ///
    /// # Panics
    /// As [`Program::set`].
    #[must_use]
    pub fn frame(&self, n: usize) -> &[u8] {
        self.memory.frame(n)
    }

    /// Runs the program on the frames in the first places, one for each number in `values`, and leaves there what it
    /// returned.
    ///
    /// # Panics
    /// If there are more than [`MAX_BURST`].
    pub fn run(&mut self, values: &mut [u64]) {
        for (n, value) in values.iter_mut().enumerate() {
            // SAFETY: nothing else touches the memory during the run, and the program keeps no reference.
            let context = unsafe { self.memory.context(n) };
            // SAFETY: the analysis proved that the program keeps to this context, the frame that it names, and 512
            // bytes of stack, which rbpf provides.
            let returned = unsafe { self.vm.execute_program_jit(&mut [], context) };
            *value = returned.expect("`load` has compiled the program");
        }
    }
}

/// Whether rbpf has what this instruction needs.
fn has(decoded: &Decoded) -> Result<(), Unfit> {
    let what = match decoded.inst {
        Inst::Call(CallTarget::Local(_)) => return Ok(()),
        Inst::Call(_) => "a helper call",
        Inst::Atomic { .. } => "an atomic operation",
        Inst::LoadImm { imm, .. } if !matches!(imm, ImmSource::Value(_)) => "a map",
        _ => return Ok(()),
    };
    let slot = decoded.slot;
    Err(Unfit::Lacks { what, slot })
}
