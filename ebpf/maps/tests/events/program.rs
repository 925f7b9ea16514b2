//! Small XDP programs for the kernel, put together by the instruction.

use std::os::fd::{AsRawFd, OwnedFd};

use squalus_isa::{Insn, opcode as o};

use crate::sys::{KernelMap, bpf, load};

const PROG_TEST_RUN: i32 = 10;

/// `bpf_map_lookup_elem`.
const LOOKUP: i32 = 1;

/// Code under construction. Whatever happens, it ends with `r0` as the result.
#[derive(Default)]
pub struct Code(Vec<Insn>);

impl Code {
    pub fn raw(mut self, op: u8, dst: u8, src: u8, off: i16, imm: i32) -> Code {
        self.0.push(Insn {
            op,
            dst,
            src,
            off,
            imm,
        });
        self
    }

    pub fn set(self, dst: u8, value: u64) -> Code {
        self.raw(o::LD_IMM64, dst, 0, 0, value as i32)
            .raw(0, 0, 0, 0, (value >> 32) as i32)
    }

    pub fn copy(self, dst: u8, src: u8) -> Code {
        self.raw(o::ALU64 | o::MOV | o::X, dst, src, 0, 0)
    }

    pub fn map(self, dst: u8, map: &KernelMap) -> Code {
        self.raw(o::LD_IMM64, dst, o::PSEUDO_MAP_FD, 0, map.fd.as_raw_fd())
            .raw(0, 0, 0, 0, 0)
    }

    pub fn call(self, helper: i32) -> Code {
        self.raw(o::JMP | o::CALL, 0, 0, 0, helper)
    }

    /// Stores eight times the byte at `offset` of what `dst` points to.
    pub fn store(self, dst: u8, offset: i16, byte: u8) -> Code {
        let word = i32::from_ne_bytes([byte; 4]);
        self.raw(o::ST | o::MEM | o::W, dst, 0, offset, word).raw(
            o::ST | o::MEM | o::W,
            dst,
            0,
            offset + 4,
            word,
        )
    }

    pub fn then(mut self, more: Code) -> Code {
        self.0.extend(more.0);
        self
    }

    /// In instruction slots.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn end(self) -> Code {
        self.raw(o::JMP | o::EXIT, 0, 0, 0, 0)
    }

    /// Ends with `result` if `register` is null.
    pub fn end_if_null(self, register: u8, result: u32) -> Code {
        self.raw(o::JMP | o::JNE, register, 0, 3, 0)
            .set(0, result.into())
            .end()
    }

    /// `r0` becomes the address of an array's only element.
    pub fn element(self, array: &KernelMap) -> Code {
        self.raw(o::ST | o::MEM | o::W, 10, 0, -4, 0)
            .copy(2, 10)
            .raw(o::ALU64 | o::ADD, 2, 0, 0, -4)
            .map(1, array)
            .call(LOOKUP)
            .end_if_null(0, 99)
    }

    /// Loads it into the kernel.
    pub fn load(self) -> Loaded {
        let code: Vec<u8> = self.0.iter().flat_map(|insn| insn.to_bytes()).collect();
        Loaded(load(&code, 0))
    }
}

pub struct Loaded(OwnedFd);

impl Loaded {
    /// What the program returns for a frame.
    pub fn run(&self, frame: &[u8]) -> i32 {
        let mut attr = TestRun {
            program: self.0.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            ..TestRun::default()
        };
        bpf(PROG_TEST_RUN, &mut attr).unwrap();
        attr.result.cast_signed()
    }
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}
