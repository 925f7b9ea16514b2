//! Instructions as values that a `match` can exhaust: what an instruction does, free of how it is encoded.

use crate::{HelperId, Reg};

/// Operand width of arithmetic and comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// The low 32 bits; results are zero-extended.
    W32,
    /// All 64 bits.
    W64,
}

/// Access size of loads and stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemSize {
    /// One byte.
    B,
    /// Two bytes.
    H,
    /// Four bytes.
    W,
    /// Eight bytes.
    Dw,
}

impl MemSize {
    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            MemSize::B => 1,
            MemSize::H => 2,
            MemSize::W => 4,
            MemSize::Dw => 8,
        }
    }
}

/// Second operand of arithmetic, comparisons and stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// A 32-bit immediate, sign-extended where the operation is 64 bits wide.
    Imm(i32),
}

/// Arithmetic operations. Division and remainder by zero give 0 and the dividend; shifts mask their amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the RFC's own")]
pub enum AluOp {
    Add,
    Sub,
    Mul,
    Div,
    SDiv,
    Mod,
    SMod,
    Or,
    And,
    Xor,
    Lsh,
    Rsh,
    Arsh,
    Neg,
    Mov,
    /// `dst = sign_extend(src, from)` with `from` 8, 16 or 32 bits.
    MovSx(u8),
}

/// Byte order conversions (the host is little endian).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endian {
    /// Truncate to the width: the value is little endian already.
    ToLe,
    /// Swap the low bytes, zero the rest.
    ToBe,
    /// Unconditional swap (cpu v4).
    Swap,
}

/// Conditions of jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the RFC's own")]
pub enum Cond {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    Set,
    SGt,
    SGe,
    SLt,
    SLe,
}

/// Atomic read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the RFC's own")]
pub enum AtomicOp {
    Add,
    Or,
    And,
    Xor,
    Xchg,
    /// Compares with `r0`, whose old memory value it receives.
    CmpXchg,
    /// A load that later accesses stay behind; `src` is its destination. Of any size.
    LoadAcquire,
    /// A store that earlier accesses stay before. Of any size.
    StoreRelease,
}

/// What a 64-bit immediate means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImmSource {
    /// A number.
    Value(u64),
    /// The map with this index in the loaded object.
    Map(u32),
    /// An address: byte `offset` of the first value of the map with this index.
    MapValue {
        /// Index of the map in the loaded object.
        map: u32,
        /// Offset into the value in bytes.
        offset: u32,
    },
    /// The address of the subprogram starting at this slot.
    Func(usize),
}

/// Whom a call reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallTarget {
    /// A helper of the runtime.
    Helper(HelperId),
    /// A subprogram, by the slot it starts at.
    Local(usize),
    /// A kernel function, by BTF id: never available in userspace.
    Kfunc(i32),
}

/// One instruction. Jump targets are absolute slot numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inst {
    /// `dst = dst op src`.
    Alu {
        /// Operand width.
        width: Width,
        /// Operation.
        op: AluOp,
        /// Destination and first operand.
        dst: Reg,
        /// Second operand; ignored by `Neg`.
        src: Operand,
    },
    /// Byte order conversion of the low `bits` bits.
    End {
        /// Which conversion.
        kind: Endian,
        /// 16, 32 or 64.
        bits: u8,
        /// Operand and result.
        dst: Reg,
    },
    /// `dst = imm`.
    LoadImm {
        /// Destination.
        dst: Reg,
        /// What is loaded.
        imm: ImmSource,
    },
    /// `dst = *(size *)(base + off)`.
    Load {
        /// Access size.
        size: MemSize,
        /// Whether the value is sign-extended (else zero-extended).
        signed: bool,
        /// Destination.
        dst: Reg,
        /// Address register.
        base: Reg,
        /// Offset in bytes.
        off: i16,
    },
    /// `*(size *)(base + off) = src`.
    Store {
        /// Access size.
        size: MemSize,
        /// Address register.
        base: Reg,
        /// Offset in bytes.
        off: i16,
        /// Value.
        src: Operand,
    },
    /// Atomic operation on `*(size *)(base + off)`.
    Atomic {
        /// `W` or `Dw`, but for plain loads and stores.
        size: MemSize,
        /// Operation.
        op: AtomicOp,
        /// Whether `src` (or `r0`) receives the old value. Always true for `Xchg` and `CmpXchg`.
        fetch: bool,
        /// Address register.
        base: Reg,
        /// Offset in bytes.
        off: i16,
        /// Operand, and with `fetch` the destination.
        src: Reg,
    },
    /// A jump out of a loop that has gone round too often, else nothing (`may_goto`).
    MayJump {
        /// Target slot.
        target: usize,
    },
    /// Unconditional jump.
    Jump {
        /// Slot of the target.
        target: usize,
    },
    /// Conditional jump: `if dst cond src goto target`.
    JumpIf {
        /// Operand width.
        width: Width,
        /// Condition.
        cond: Cond,
        /// First operand.
        dst: Reg,
        /// Second operand.
        src: Operand,
        /// Slot of the target.
        target: usize,
    },
    /// Call; arguments in `r1`-`r5`, result in `r0`.
    Call(CallTarget),
    /// Return from the program or subprogram with `r0`.
    Exit,
}

/// An instruction with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Its first slot.
    pub slot: usize,
    /// The slot after it (`slot + 1`, or `slot + 2` for `LD_IMM64`).
    pub next: usize,
    /// What it does.
    pub inst: Inst,
}
