//! What helpers' arguments must be.

/// Memory that a helper is given is shorter than this, in bytes (`BPF_MAX_VAR_SIZ`).
pub const MAX_ARG_SIZE: u64 = 1 << 29;

/// What a helper's argument must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArgKind {
    /// The context.
    Ctx,
    /// A map: the address of its [`squalus_maps::Map`], from a 64-bit immediate or a map of maps.
    ConstMapPtr,
    /// Memory of the program's.
    Memory(ArgMemory),
    /// The length of the memory of the argument before.
    Size {
        /// Whether 0 is allowed.
        zero: bool,
    },
    /// Any initialised value.
    Anything,
    /// Anything: the helper looks at it if an argument before says so. A register that was never written
    /// holds what it happens to.
    Vararg,
    /// The address of a subprogram.
    Callback,
    /// Any initialised value, passed on to the callback.
    CallbackCtx,
    /// A `struct bpf_spin_lock` inside a map value: 4 bytes, aligned.
    SpinLock,
    /// A `struct bpf_timer` inside a map value: 16 bytes, aligned to 8.
    Timer,
    /// The start of a record that was reserved in a ring buffer and not given back.
    RingRecord,
    /// How many bytes to reserve.
    ConstAllocSize,
    /// A NUL-terminated string in a map that nobody can change.
    ConstStr,
}

/// Memory that an argument points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArgMemory {
    /// How long it is.
    pub len: ArgLen,
    /// What the helper does with it.
    pub usage: Usage,
    /// Whether the argument may be null; the length is then 0.
    pub nullable: bool,
}

/// How long an argument's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArgLen {
    /// As long as a key of the map in the first argument.
    Key,
    /// As long as a value of the map in the first argument.
    Value,
    /// As many bytes as the next argument says.
    Next,
    /// So many bytes.
    Bytes(u32),
}

/// What a helper does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// It reads it.
    Reads,
    /// It writes it; the memory need not be initialised.
    Writes,
    /// It reads and writes it.
    Updates,
}

impl Usage {
    /// Whether it reads.
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Usage::Reads | Usage::Updates)
    }

    /// Whether it writes.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Usage::Writes | Usage::Updates)
    }
}

impl ArgKind {
    /// Whether the helper itself changes what the program can read through the argument. What a callback does
    /// with its context, its own stores say; a record that was given back cannot be read any more.
    #[must_use]
    pub const fn writes_through(self) -> bool {
        match self {
            ArgKind::Memory(memory) => memory.usage.writes(),
            ArgKind::SpinLock | ArgKind::Timer => true,
            _ => false,
        }
    }
}
