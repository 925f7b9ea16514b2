//! Why an object cannot be loaded.

/// Why an object, or one program of it, cannot be loaded. Every message names the culprit and, where something
/// can be done about it, what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The file is no ELF file of the right kind.
    #[error(
        "not an eBPF object: {0}; expected a 64-bit little-endian relocatable ELF file for BPF (clang -target bpf -c)"
    )]
    NotBpf(String),
    /// The object is for big-endian machines.
    #[error(
        "the object is big-endian (bpfeb); rebuild it with `-target bpfel`: this engine runs little-endian programs only"
    )]
    BigEndian,
    /// A section's contents make no sense.
    #[error("section `{section}`: {reason}")]
    Section {
        /// Its name.
        section: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A symbol makes no sense.
    #[error("symbol `{symbol}` in section `{section}`: {reason}")]
    Symbol {
        /// Its name.
        symbol: String,
        /// The section it belongs to.
        section: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A map definition is wrong or asks for what does not exist.
    #[error("map `{map}`: {reason}")]
    Map {
        /// Its name.
        map: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A relocation makes no sense.
    #[error("section `{section}`, offset {offset:#x}: relocation against `{symbol}`: {reason}")]
    Relocation {
        /// The section to be patched.
        section: String,
        /// Where in it.
        offset: u64,
        /// Name of the symbol it refers to.
        symbol: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A function's code is broken, or refers to something broken.
    #[error("function `{function}`, instruction {slot}: {reason}")]
    Code {
        /// The function.
        function: String,
        /// Slot in the function.
        slot: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The `.BTF` section is malformed.
    #[error("section `.BTF`: {0}")]
    Btf(#[from] BtfError),
    /// A program or map is well formed, but cannot be loaded here.
    #[error("`{name}` (section `{section}`) is not supported: {reason}")]
    Unsupported {
        /// The program, map or variable.
        name: String,
        /// The section it belongs to.
        section: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The object exceeds a bound of [`limits`](crate::limits).
    #[error("{what} exceeds the loader's limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// The object has no program.
    #[error(
        "the object has no program: no executable section holds a function; put the program into a section such as SEC(\"xdp\")"
    )]
    NoPrograms,
    /// No program has this name.
    #[error("the object has no program `{name}`; it has: {available}")]
    NoProgram {
        /// The name asked for.
        name: String,
        /// The names there are.
        available: String,
    },
    /// No variable has this name.
    #[error("the object has no global variable `{name}`; it has: {available}")]
    NoGlobal {
        /// The name asked for.
        name: String,
        /// The names there are.
        available: String,
    },
    /// Several (static) variables have this name.
    #[error("the object has several variables `{name}` (in {sections}); rename one to set it")]
    AmbiguousGlobal {
        /// The name asked for.
        name: String,
        /// Where they are.
        sections: String,
    },
    /// A variable has another size than the value given for it.
    #[error("variable `{name}` in `{section}` has {want} bytes, the value given has {got}")]
    GlobalSize {
        /// The variable.
        name: String,
        /// Its section.
        section: String,
        /// Its size in bytes.
        want: usize,
        /// Size of the value in bytes.
        got: usize,
    },
    /// A CO-RE relocation cannot be applied.
    #[error("program `{program}`, instruction {slot}: CO-RE relocation {relocation}: {reason}")]
    Core {
        /// The program.
        program: String,
        /// Slot in the program.
        slot: usize,
        /// What is relocated, as `kind type.member`.
        relocation: String,
        /// Why not.
        reason: String,
    },
}

/// Why BTF is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BtfError {
    /// The header or one of its offsets is wrong.
    #[error("header: {0}")]
    Header(&'static str),
    /// A type is cut off or of an unknown kind.
    #[error("type {id}: {reason}")]
    Type {
        /// Its number.
        id: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// The size of a type cannot be computed.
    #[error("type {id} has no size: {reason}")]
    NoSize {
        /// Its number.
        id: u32,
        /// Why.
        reason: &'static str,
    },
    /// A record of `.BTF.ext` is wrong.
    #[error(".BTF.ext: {0}")]
    Ext(&'static str),
}
