//! The intermediate code: values that are defined once, in blocks that pass them on as parameters.
//!
//! Numbers have their real width. Memory accesses say which [`Region`] they are in, and regions never
//! overlap, so that a store to the packet leaves everything known of maps alone. Checks that the facts left
//! necessary are instructions of their own ([`Op::TrapIf`]); whatever they guard comes after them in the
//! same block or in one that their block dominates, and keeps its place.

use std::collections::HashMap;

use squalus_analysis::FuncId;
use squalus_isa::{AtomicOp, MapType};
use squalus_runtime::{STACK_SIZE, TrapReason};

/// Width of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ty {
    /// 8 bits. Comparisons give 0 or 1 in this width.
    I8,
    /// 16 bits.
    I16,
    /// 32 bits.
    I32,
    /// 64 bits; addresses too.
    I64,
    /// Two numbers of 64 bits, the lower one first in memory. Only loads, stores, additions, [`UnOp::Pair`] and
    /// [`UnOp::Sum`] know it; a number of this width is the same in both.
    V128,
}

impl Ty {
    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Ty::I8 => 1,
            Ty::I16 => 2,
            Ty::I32 => 4,
            Ty::I64 => 8,
            Ty::V128 => 16,
        }
    }

    /// Size in bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.bytes() * 8
    }

    /// All ones; in each of two numbers.
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self {
            Ty::V128 => u64::MAX,
            _ => u64::MAX >> (64 - self.bits()),
        }
    }

    /// The width with so many bytes: 1, 2, 4, 8 or 16.
    #[must_use]
    pub const fn of_bytes(bytes: u32) -> Option<Ty> {
        match bytes {
            1 => Some(Ty::I8),
            2 => Some(Ty::I16),
            4 => Some(Ty::I32),
            8 => Some(Ty::I64),
            16 => Some(Ty::V128),
            _ => None,
        }
    }
}

/// A value's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u32);

/// A block's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block(pub u32);

/// Kinds of memory. Accesses to different ones never touch the same byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Region {
    /// The worker's environment, which programs cannot reach.
    Env,
    /// The function's own stack frame, as far as it is memory.
    Frame,
    /// Copies of stack bytes made for one call.
    Temp(u32),
    /// The packet and its metadata.
    Packet,
    /// Keys lent to callbacks, and reserved records.
    Lent,
    /// Values of maps, of this map if it is known which (index in the object).
    MapValue(Option<u32>),
    /// What maps are made of besides values: nobody else's accesses touch it.
    MapIndex,
    /// Where code counts how often it runs.
    Counts,
    /// Anything that the program may touch: all but the environment, the temporaries, map indices and counts.
    Any,
}

impl Region {
    /// Whether an access to one may touch what an access to the other touches.
    #[must_use]
    pub fn overlaps(self, other: Region) -> bool {
        use Region::{Any, Counts, Env, MapIndex, MapValue, Temp};
        match (self, other) {
            (Any, Env | Temp(_) | MapIndex | Counts) => false,
            (Env | Temp(_) | MapIndex | Counts, Any) => false,
            (Any, _) | (_, Any) => true,
            // Two maps of an object are different maps, unless one may have been reached through a map of maps.
            (MapValue(Some(a)), MapValue(Some(b))) => a == b,
            (MapValue(_), MapValue(_)) => true,
            (a, b) => a == b,
        }
    }
}

/// Operations on two values of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum BinOp {
    Add,
    Sub,
    Mul,
    /// The high half of the unsigned product (64 bits only).
    MulHigh,
    /// Both halves of the unsigned product, exclusively or'ed (64 bits only).
    MulFold,
    And,
    Or,
    Xor,
    /// Shift amounts count modulo the width.
    Shl,
    LShr,
    AShr,
    RotL,
    /// `x / 0` is 0.
    UDiv,
    /// `x % 0` is `x`.
    URem,
    /// `x / 0` is 0, and the least number by -1 is itself.
    SDiv,
    /// `x % 0` is `x`, and the least number by -1 leaves 0.
    SRem,
}

/// Comparisons of two values of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Cmp {
    Eq,
    Ne,
    ULt,
    ULe,
    UGt,
    UGe,
    SLt,
    SLe,
    SGt,
    SGe,
}

/// Operations on one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum UnOp {
    Neg,
    Not,
    ByteSwap,
    /// Number of zero bits below the lowest one; the width for 0.
    TrailingZeros,
    /// Number of zero bits above the highest one; the width for 0.
    LeadingZeros,
    /// Number of bits that are set.
    PopCount,
    /// To a wider type.
    ZeroExtend,
    SignExtend,
    /// To a narrower type.
    Truncate,
    /// The lower and the upper half of 64 bits, as two numbers of 64 bits.
    Pair,
    /// The sum of two numbers, as 64 bits.
    Sum,
}

/// How a memory access is ordered with others' accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// An ordinary access.
    Plain,
    /// Acquire for loads, release for stores.
    Acquire,
    /// A load that later loads with an order don't overtake, and nothing more.
    InTurn,
}

/// What is known of a hash whose address is found at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashShape {
    /// The type, if it is the same for all maps that it may be.
    pub kind: Option<MapType>,
    /// Size of a key in bytes.
    pub key_size: u32,
    /// Size of a value in bytes.
    pub value_size: u32,
}

/// What an instruction does.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Known before the function runs; in no block.
    Fixed(Fixed),
    /// A parameter of the value's block.
    Param,
    /// On two values.
    Bin(BinOp, Value, Value),
    /// On one value.
    Un(UnOp, Value),
    /// A comparison: 0 or 1.
    Cmp(Cmp, Value, Value),
    /// The second if the first is not zero, else the third.
    Select(Value, Value, Value),
    /// A load of the value's own width.
    Load {
        /// Where.
        region: Region,
        /// Base address.
        base: Value,
        /// Distance from it.
        off: i32,
        /// Ordering.
        order: Order,
    },
    /// A store. Defines nothing.
    Store {
        /// Where.
        region: Region,
        /// Base address.
        base: Value,
        /// Distance from it.
        off: i32,
        /// What.
        value: Value,
    },
    /// An atomic operation; gives the old content. The width is the operand's.
    Atomic {
        /// Which.
        op: AtomicOp,
        /// Where.
        region: Region,
        /// Address.
        address: Value,
        /// Operand.
        value: Value,
        /// What `CmpXchg` compares with.
        expected: Option<Value>,
    },
    /// A lookup in a map by a key in registers: words of 8 bytes, the last one filled up with zeros. Gives
    /// the value's address (in maps of maps the inner map's) or 0.
    Lookup {
        /// Address of a hash of values.
        map: Value,
        /// What it is like.
        shape: HashShape,
        /// The key.
        key: Vec<Value>,
    },
    /// A call of a function of ours with C's calling convention, at this address; its first argument is the
    /// environment.
    Native {
        /// Address.
        function: usize,
        /// Name, for the reader.
        name: &'static str,
        /// Arguments after the environment.
        args: Vec<Value>,
        /// What it may read and write.
        effect: Effect,
    },
    /// A call of another function of the program. Gives `r0`; the run may end in it.
    Local {
        /// Which.
        func: FuncId,
        /// `r1` to `r5`.
        args: Vec<Value>,
        /// Whether the code before it takes its price from the run's budget.
        paid: bool,
    },
    /// Decides a tail call (context, map, index), and leaves the function if it happens.
    TailCall(Value, Value, Value),
    /// Ends the run if the value is not 0. Defines nothing.
    TrapIf {
        /// The condition.
        condition: Value,
        /// Why.
        reason: Reason,
        /// Slot of the instruction that this guards.
        slot: u32,
    },
}

/// Why a run is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Known beforehand.
    Known(TrapReason),
    /// The condition's value is the reason's number.
    Condition,
}

/// What a native function may do to memory that the program sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Regions it may read.
    pub reads: Vec<Region>,
    /// Regions it may write.
    pub writes: Vec<Region>,
    /// Whether calls with equal arguments and memory give equal results.
    pub pure: bool,
}

impl Effect {
    /// Neither reads nor writes.
    pub const NONE: Effect = Effect {
        reads: Vec::new(),
        writes: Vec::new(),
        pure: true,
    };
}

/// How a block ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Terminator {
    /// Goes on with another block.
    Jump(Target),
    /// One of two, by whether the value is 0.
    Branch {
        /// The condition.
        condition: Value,
        /// If not 0.
        then: Target,
        /// If 0.
        other: Target,
    },
    /// One of many, by a value of 32 bits.
    Switch {
        /// The value.
        value: Value,
        /// For 0, 1 and so on.
        targets: Vec<Target>,
        /// For all greater ones.
        rest: Target,
    },
    /// Returns `r0`.
    Return(Value),
    /// Ends the run.
    Trap(TrapReason, u32),
}

/// A block to go to, and what its parameters are then.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The block.
    pub block: Block,
    /// One for each of its parameters.
    pub args: Vec<Value>,
}

/// A value: what defines it.
#[derive(Clone, Debug)]
pub struct ValueData {
    /// The instruction.
    pub op: Op,
    /// Its width; for instructions that define nothing, any.
    pub ty: Ty,
    /// Slot of the eBPF instruction it comes from.
    pub slot: u32,
}

/// A block.
#[derive(Clone, Debug, Default)]
pub struct BlockData {
    /// Its parameters.
    pub params: Vec<Value>,
    /// Its instructions in order.
    pub insts: Vec<Value>,
    /// How it ends; none only while it is built.
    pub end: Option<Terminator>,
    /// Slot of the eBPF instruction that the end comes from.
    pub end_slot: u32,
    /// Whether it is rarely run.
    pub cold: bool,
}

/// Values that are known before the function runs. They stand in no block and can be used in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fixed {
    /// A number.
    Number(Ty, u64),
    /// The address of the worker's environment.
    Env,
    /// The address of a byte of the frames' memory: [`FRAME_STRIDE`] apart they begin.
    Frame(i32),
    /// The address of a temporary.
    Temp(u32),
    /// The address of the map with this index.
    Map(u32),
}

/// Distance in bytes between two stack frames of a function. The address behind a frame is in no other.
pub const FRAME_STRIDE: i32 = STACK_SIZE as i32 + 16;

/// One function of a program.
#[derive(Clone, Debug)]
pub struct Function {
    /// Which.
    pub id: FuncId,
    /// All values, by number; some may no longer be used.
    pub values: Vec<ValueData>,
    /// All blocks, by number; those that nothing leads to are not part of the function.
    pub blocks: Vec<BlockData>,
    /// Parameters of block 0: `r1` to `r5` in subprograms, none in the program itself.
    pub params: usize,
    /// Sizes of temporaries in bytes.
    pub temps: Vec<u32>,
    /// How many stack frames it has in memory: its own, and those of functions that are parts of it.
    pub frames: u32,
    fixed: HashMap<Fixed, Value>,
}

impl Function {
    /// The block that is entered first.
    pub const ENTRY: Block = Block(0);

    /// A function without code.
    #[must_use]
    pub fn new(id: FuncId) -> Function {
        Function {
            id,
            values: Vec::new(),
            blocks: vec![BlockData::default()],
            params: 0,
            temps: Vec::new(),
            frames: 0,
            fixed: HashMap::new(),
        }
    }

    /// The value that is this, always the same one.
    pub fn fixed(&mut self, fixed: Fixed) -> Value {
        if let Some(&value) = self.fixed.get(&fixed) {
            return value;
        }
        let ty = match fixed {
            Fixed::Number(ty, _) => ty,
            _ => Ty::I64,
        };
        let value = self.make(Op::Fixed(fixed), ty, 0);
        self.fixed.insert(fixed, value);
        value
    }

    /// A number, cut off to its width.
    pub fn number(&mut self, ty: Ty, number: u64) -> Value {
        self.fixed(Fixed::Number(ty, number & ty.mask()))
    }

    /// A value's data.
    #[must_use]
    pub fn value(&self, value: Value) -> &ValueData {
        &self.values[value.0 as usize]
    }

    /// A value's width.
    #[must_use]
    pub fn ty(&self, value: Value) -> Ty {
        self.value(value).ty
    }

    /// The number, if the value is one.
    #[must_use]
    pub fn constant(&self, value: Value) -> Option<u64> {
        match self.value(value).op {
            Op::Fixed(Fixed::Number(_, number)) => Some(number),
            _ => None,
        }
    }

    /// A block's data.
    #[must_use]
    pub fn block(&self, block: Block) -> &BlockData {
        &self.blocks[block.0 as usize]
    }

    /// A block's data, to change it.
    pub fn block_mut(&mut self, block: Block) -> &mut BlockData {
        &mut self.blocks[block.0 as usize]
    }

    /// The condition on which a block branches, and where to if it holds and if not.
    #[must_use]
    pub fn branch(&self, block: Block) -> Option<(Value, [&Target; 2])> {
        match &self.block(block).end {
            Some(Terminator::Branch {
                condition,
                then,
                other,
            }) => Some((*condition, [then, other])),
            _ => None,
        }
    }

    /// Whether a block does nothing but end the run.
    #[must_use]
    pub fn ends_run(&self, block: Block) -> bool {
        let data = self.block(block);
        data.insts.is_empty() && matches!(data.end, Some(Terminator::Trap(..)))
    }

    /// A new value, in no block yet.
    pub fn make(&mut self, op: Op, ty: Ty, slot: u32) -> Value {
        self.values.push(ValueData { op, ty, slot });
        Value(self.values.len() as u32 - 1)
    }

    /// A new, empty block.
    pub fn make_block(&mut self) -> Block {
        self.blocks.push(BlockData::default());
        Block(self.blocks.len() as u32 - 1)
    }

    /// The blocks that can be reached, each after all that lead to it but for loops.
    #[must_use]
    pub fn reverse_postorder(&self) -> Vec<Block> {
        let mut seen = vec![false; self.blocks.len()];
        let mut order = Vec::new();
        let mut pending = vec![(Function::ENTRY, false)];
        while let Some((block, left)) = pending.pop() {
            if left {
                order.push(block);
                continue;
            }
            if std::mem::replace(&mut seen[block.0 as usize], true) {
                continue;
            }
            pending.push((block, true));
            let targets = self.block(block).end.iter().flat_map(Terminator::targets);
            pending.extend(targets.map(|target| (target.block, false)));
        }
        order.reverse();
        order
    }
}
