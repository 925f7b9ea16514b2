//! BTF: the types that an object, or a kernel, carries with it.
//!
//! The format is `Documentation/bpf/btf.rst`'s: a header, an array of variable-length type records numbered
//! from 1 (0 is `void`), and a string table. All of it is untrusted; a parsed [`Btf`] guarantees only that
//! every record was whole and its name lies within the string table. References between types may dangle or
//! form cycles: [`Btf::get`] returns `None` for the former, and everything that follows references counts
//! its steps.

mod ext;
mod format;
mod kernel;
mod parse;
mod query;

use crate::BtfError;

pub(crate) use ext::{CoreRecord, Ext, FuncRecord, LineRecord};
pub use format::Value;
pub use kernel::BtfFeatures;
pub(crate) use kernel::{KernelBtf, Layout};

/// Number of a type within one [`Btf`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u32);

impl TypeId {
    /// `void`.
    pub const VOID: TypeId = TypeId(0);
}

impl std::fmt::Display for TypeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Offset of a name in the string table; 0 is the empty name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Name(pub(crate) u32);

impl Name {
    /// No name.
    pub const EMPTY: Name = Name(0);
}

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Its name; see [`Btf::name`].
    pub name: Name,
    /// The rest.
    pub kind: Kind,
}

/// What a type is (`BTF_KIND_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No type; also the pointee of `void *`.
    Void,
    /// An integer.
    Int {
        /// Size in bytes.
        size: u32,
        /// Width in bits.
        bits: u8,
        /// Offset in bits (deprecated bit fields; otherwise 0).
        offset: u8,
        /// Whether it is signed.
        signed: bool,
        /// Whether it is a `bool`.
        boolean: bool,
    },
    /// A pointer to a type.
    Ptr(TypeId),
    /// An array.
    Array {
        /// Type of its elements.
        element: TypeId,
        /// How many there are; 0 for a flexible member.
        len: u32,
    },
    /// A struct or union.
    Composite {
        /// Whether it is a union.
        union: bool,
        /// Size in bytes.
        size: u32,
        /// Its members.
        members: Vec<Member>,
    },
    /// An enumeration, of up to 64 bits.
    Enum {
        /// Size in bytes.
        size: u32,
        /// Whether values are signed.
        signed: bool,
        /// Its enumerators.
        values: Vec<Enumerator>,
    },
    /// A declared, but not defined struct or union.
    Fwd {
        /// Whether it is a union.
        union: bool,
    },
    /// Another name for a type.
    Typedef(TypeId),
    /// `const`, `volatile`, `restrict` or a type tag.
    Modifier(TypeId),
    /// A function with its prototype.
    Func {
        /// Its `FuncProto`.
        proto: TypeId,
        /// Where it can be seen.
        linkage: Linkage,
    },
    /// A function's signature.
    FuncProto {
        /// Type it returns.
        ret: TypeId,
        /// Types of its parameters; a last `void` stands for `...`.
        params: Vec<TypeId>,
    },
    /// A variable.
    Var {
        /// Its type.
        ty: TypeId,
        /// Where it can be seen.
        linkage: Linkage,
    },
    /// A section of variables.
    DataSec {
        /// Size in bytes as written: compilers write 0.
        size: u32,
        /// Its variables.
        vars: Vec<SecVar>,
    },
    /// A floating point number.
    Float {
        /// Size in bytes.
        size: u32,
    },
    /// An attribute of a declaration.
    DeclTag {
        /// What it is attached to.
        ty: TypeId,
    },
}

/// Visibility of a function or variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// Within its file.
    Static,
    /// Everywhere.
    Global,
    /// Defined elsewhere.
    Extern,
}

/// A member of a struct or union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name; empty for anonymous structs and unions.
    pub name: Name,
    /// Its type.
    pub ty: TypeId,
    /// Offset in bits.
    pub bit_offset: u32,
    /// Width in bits if it is a bit field, otherwise 0.
    pub bit_width: u32,
}

/// A value of an enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enumerator {
    /// Its name.
    pub name: Name,
    /// Its value, sign-extended to 64 bits if the enumeration is signed.
    pub value: u64,
}

/// A variable of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecVar {
    /// Its `Var`.
    pub var: TypeId,
    /// Offset in bytes as written: compilers write 0.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
}

/// A parsed `.BTF` section.
#[derive(Clone, Debug)]
pub struct Btf {
    types: Vec<Type>,
    strings: Vec<u8>,
}

impl Btf {
    /// Parses the contents of a `.BTF` section.
    ///
    /// # Errors
    /// If a record is cut off, of an unknown kind, or has a name outside the string table.
    pub fn parse(bytes: &[u8]) -> Result<Btf, BtfError> {
        parse::parse(bytes)
    }

    /// Parses the running kernel's types, as `/sys/kernel/btf/vmlinux` gives them; reading the file is the caller's.
    ///
    /// # Errors
    /// As [`Btf::parse`].
    pub fn from_sysfs_bytes(bytes: &[u8]) -> Result<Btf, BtfError> {
        Btf::parse(bytes)
    }
}
