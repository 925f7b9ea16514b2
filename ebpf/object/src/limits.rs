//! Bounds against absurd objects. Real ones stay far below all of them.

/// Longest program with its subprograms, in slots: the kernel's own limit for privileged users.
pub const PROGRAM_SLOTS: usize = 1_000_000;

/// All programs of an object together, in slots. A subprogram counts once for each program it is linked into.
pub const OBJECT_SLOTS: usize = 4_000_000;

/// All data sections of an object together, in bytes (`.bss` costs nothing in the file).
pub const DATA_BYTES: u64 = 256 << 20;

/// Longest name in bytes: of symbols, sections and types.
pub const NAME_BYTES: usize = 2048;

/// Source lines and file names in [`LineInfo`](crate::LineInfo) are cut to this many bytes.
pub const LINE_BYTES: usize = 256;

/// Chains of typedefs, qualifiers, pointers and arrays may be this deep (the kernel's limit is 32).
pub const TYPE_DEPTH: usize = 64;

/// Members, elements and bit fields that [`Btf::value`](crate::btf::Btf::value) takes one value apart into.
pub const VALUE_PARTS: usize = 1 << 20;

/// Steps that matching types for CO-RE may take, for a whole object.
pub const CORE_STEPS: u64 = 10_000_000;
