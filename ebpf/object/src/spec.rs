//! What an object holds, in an engine's terms.

use std::sync::Arc;

use squalus_isa::{Insn, MapDef, MapType};

use crate::ObjectError;
use crate::btf::TypeId;
use crate::core_relo::CoreRelo;

/// Where a map definition came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapOrigin {
    /// A `struct bpf_map_def` in a `maps` section.
    Legacy,
    /// A variable in `.maps`, described by its BTF.
    Btf,
    /// A data section (`.rodata*`, `.data*`, `.bss*`): an array whose one value is the section.
    Data,
}

/// Whether the object wants a map to outlive it, and under which name others find it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// The map belongs to this object alone.
    #[default]
    None,
    /// Shared by name (`LIBBPF_PIN_BY_NAME`; iproute2's `PIN_GLOBAL_NS`).
    ByName,
    /// Shared by name among loads of the same object (iproute2's `PIN_OBJECT_NS`).
    ByObject,
    /// As `ByName`, but every load begins with a new map, which takes the name over (Cilium's
    /// `CILIUM_PIN_REPLACE`).
    Replace,
}

/// One entry of a map's static initialiser (libbpf's `.values = { [2] = &inner }`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialValue {
    /// The key: for arrays the index, for hashes of maps the same number as a 32-bit key.
    pub index: u32,
    /// What the entry refers to.
    pub target: InitialTarget,
}

/// What an entry of a static initialiser refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitialTarget {
    /// A map of the object, by name.
    Map(String),
    /// A program of the object, by name (it may be among [`Object::refused`](crate::Object::refused)).
    Program(String),
}

/// A map the object asks for.
#[derive(Clone, Debug)]
pub struct MapSpec {
    /// Name, type, sizes, flags and inner map, as the object states them; [`sized`](crate::sized) fills in what it
    /// leaves to the loader. Data sections bear the section's name in full (`.rodata`, `.bss`,
    /// `.rodata.str1.1`).
    pub def: MapDef,
    /// Where the definition came from.
    pub origin: MapOrigin,
    /// Contents of the value under key 0 at load, for data sections; always `def.value_size` bytes.
    pub initial: Option<Vec<u8>>,
    /// Whether nobody may write it once it is loaded (`.rodata*`): engines may fold its contents.
    pub frozen: bool,
    /// Whether it is shared with other objects.
    pub pinning: Pinning,
    /// NUMA node asked for, if any.
    pub numa_node: Option<u32>,
    /// BTF type of keys of inner maps.
    pub inner_key_type: Option<TypeId>,
    /// BTF type of values of inner maps.
    pub inner_value_type: Option<TypeId>,
    /// BTF type of keys.
    pub key_type: Option<TypeId>,
    /// BTF type of values; of a data section its `DATASEC`.
    pub value_type: Option<TypeId>,
    /// Entries to set at load: programs of a program array, inner maps of a map of maps.
    pub values: Vec<InitialValue>,
}

impl MapSpec {
    /// A map without types, values or wishes.
    pub(crate) fn new(def: MapDef, origin: MapOrigin) -> MapSpec {
        MapSpec {
            def,
            origin,
            initial: None,
            frozen: false,
            pinning: Pinning::None,
            numa_node: None,
            inner_key_type: None,
            inner_value_type: None,
            key_type: None,
            value_type: None,
            values: Vec::new(),
        }
    }
}

/// A definition with the sizes that objects leave to the loader, by libbpf's rules: a perf event array without
/// entries has one for each of `cpus` CPUs, and a ring buffer a number of bytes that is a power of two and a multiple
/// of `page_size`.
#[must_use]
pub fn sized(def: &MapDef, cpus: u32, page_size: u32) -> MapDef {
    let mut def = def.clone();
    match def.kind {
        MapType::PerfEventArray if def.max_entries == 0 => def.max_entries = cpus,
        MapType::RingBuf | MapType::UserRingBuf => {
            let pages = def.max_entries.div_ceil(page_size.max(1)).max(1);
            let rounded = pages.checked_next_power_of_two();
            let bytes = rounded.and_then(|pages| pages.checked_mul(page_size));
            def.max_entries = bytes.unwrap_or(def.max_entries);
        }
        _ => {}
    }
    def
}

/// What a program is for, from its section's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramKind {
    /// Runs on received frames. Any section whose name starts with `xdp` counts, as older loaders wanted none in
    /// particular, and iproute2's `prog`.
    Xdp {
        /// Whether it accepts frames in several buffers (`xdp.frags`).
        frags: bool,
    },
    /// A traffic control classifier or action.
    Tc,
    /// Another type, in bpftool's words (`kprobe`, `cgroup_skb`).
    Other(String),
    /// The section's name says nothing: whoever asks for the program by name knows what it is for.
    Unknown(String),
}

/// Where an XDP program is to be attached, from its section's name (`xdp/devmap`, `xdp/cpumap`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpAttach {
    /// To an interface.
    #[default]
    Interface,
    /// To entries of device maps: it runs on frames redirected there.
    DevMap,
    /// To entries of CPU maps: it runs on the CPU that a frame was redirected to.
    CpuMap,
}

impl XdpAttach {
    /// The kernel's number (`expected_attach_type`).
    #[must_use]
    pub const fn attach_type(self) -> u32 {
        match self {
            XdpAttach::DevMap => 33,
            XdpAttach::CpuMap => 35,
            XdpAttach::Interface => 37,
        }
    }
}

/// A function linked into a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subprogram {
    /// Its symbol's name.
    pub name: Arc<str>,
    /// Slot of its first instruction.
    pub start: usize,
    /// Its `Func` in the object's BTF, if the compiler told.
    pub ty: Option<TypeId>,
}

/// The source line that an instruction came from, as `.BTF.ext` tells it. It holds up to the next entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineInfo {
    /// First slot it applies to.
    pub slot: usize,
    /// File name, cut to [`limits::LINE_BYTES`](crate::limits::LINE_BYTES).
    pub file: Arc<str>,
    /// Line number, from 1.
    pub line: u32,
    /// Column, from 1 (0 if unknown).
    pub column: u32,
    /// The line itself, cut likewise; may be empty.
    pub text: Arc<str>,
    /// File name and line as offsets of the strings of the object's BTF.
    pub(crate) names: (u32, u32),
}

/// A program, linked.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name of its function.
    pub name: String,
    /// Section it stands in.
    pub section: String,
    /// What it is for.
    pub kind: ProgramKind,
    /// Where it is to be attached, if it is an XDP program.
    pub attach: XdpAttach,
    /// Whether it may sleep (a section name that ends in `.s`).
    pub sleepable: bool,
    /// False if the section's name starts with `?`: load it only when asked for by name.
    pub autoload: bool,
    /// The program's own function, then every function it reaches, each once. Map references are
    /// `LD_IMM64` with `src` `PSEUDO_MAP_FD` or `PSEUDO_MAP_VALUE` whose `imm` is an index into
    /// [`Object::maps`](crate::Object::maps); for values the second slot's `imm` is the offset. Calls and
    /// `PSEUDO_FUNC` are relative to the next slot. Calls with `src` `PSEUDO_KFUNC_CALL` have in `imm` an index
    /// into [`Object::kfuncs`](crate::Object::kfuncs), the addresses of such functions are null; both until
    /// [`Object::resolve_kfuncs`](crate::Object::resolve_kfuncs).
    pub insns: Vec<Insn>,
    /// The functions in `insns`, by ascending start; the first is the program itself, at 0.
    pub subprograms: Vec<Subprogram>,
    /// Source lines by ascending slot; empty without `.BTF.ext`.
    pub lines: Vec<LineInfo>,
    /// Slots that [`Object::relocate_core`](crate::Object::relocate_core) could not resolve and replaced by a
    /// call to [`POISON_HELPER`](crate::POISON_HELPER), ascending, with what the target lacks.
    pub poisoned: Vec<(usize, Arc<str>)>,
    pub(crate) core: Vec<CoreRelo>,
    /// Configuration values it reads, by place in the object, until they are resolved.
    pub(crate) config: Vec<usize>,
    /// Slots that call a kernel function or take its address, with the function's place in the object.
    pub(crate) kfuncs: Vec<(usize, usize)>,
}

/// A kernel function that the object calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kfunc {
    /// Its name in the object, perhaps with a `___flavor`.
    pub name: String,
    /// Whether the object makes do without.
    pub weak: bool,
    /// Its `FuncProto` in the object's BTF.
    pub proto: TypeId,
}

impl Program {
    /// The source line of the instruction at `slot`, if known.
    #[must_use]
    pub fn line(&self, slot: usize) -> Option<&LineInfo> {
        let after = self.lines.partition_point(|l| l.slot <= slot);
        let line = self.lines.get(after.checked_sub(1)?)?;
        (self.subprogram_index(line.slot) == self.subprogram_index(slot)).then_some(line)
    }

    /// Flags of `BPF_PROG_LOAD` (`prog_flags`) that its section asks for.
    #[must_use]
    pub fn prog_flags(&self) -> u32 {
        const SLEEPABLE: u32 = 1 << 4;
        const XDP_HAS_FRAGS: u32 = 1 << 5;
        let frags = self.kind == ProgramKind::Xdp { frags: true };
        let flag = |set: bool, bit| if set { bit } else { 0 };
        flag(frags, XDP_HAS_FRAGS) | flag(self.sleepable, SLEEPABLE)
    }

    /// The functions' types as `BPF_PROG_LOAD` takes them: [`FUNC_INFO_SIZE`](crate::FUNC_INFO_SIZE) bytes for each. Empty
    /// unless all functions have one. Type numbers are those of [`Object::kernel_btf`](crate::Object::kernel_btf).
    #[must_use]
    pub fn func_info(&self) -> Vec<u8> {
        let record = |s: &Subprogram| Some([s.start as u32, s.ty?.0]);
        let records: Option<Vec<_>> = self.subprograms.iter().map(record).collect();
        bytes(records.unwrap_or_default().into_flattened())
    }

    /// The source lines as `BPF_PROG_LOAD` takes them: [`LINE_INFO_SIZE`](crate::LINE_INFO_SIZE) bytes for each. Empty unless
    /// every function begins with one. Their strings are those of [`Object::kernel_btf`](crate::Object::kernel_btf).
    #[must_use]
    pub fn line_info(&self) -> Vec<u8> {
        let has_line = |s: &Subprogram| self.lines.binary_search_by_key(&s.start, |l| l.slot);
        if !self.subprograms.iter().all(|s| has_line(s).is_ok()) {
            return Vec::new();
        }
        let record = |l: &LineInfo| {
            let place = l.line << 10 | (l.column & 0x3ff);
            [l.slot as u32, l.names.0, l.names.1, place]
        };
        bytes(self.lines.iter().flat_map(record).collect())
    }

    /// The function that the instruction at `slot` belongs to.
    #[must_use]
    pub fn subprogram(&self, slot: usize) -> Option<&Subprogram> {
        self.subprograms.get(self.subprogram_index(slot)?)
    }

    fn subprogram_index(&self, slot: usize) -> Option<usize> {
        if slot >= self.insns.len() {
            return None;
        }
        self.subprograms
            .partition_point(|s| s.start <= slot)
            .checked_sub(1)
    }
}

fn bytes(words: Vec<u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// A program of the object that cannot be run, and why.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Name of its function.
    pub name: String,
    /// Section it stands in.
    pub section: String,
    /// Why.
    pub reason: ObjectError,
}

/// A variable in a data section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Its symbol's name.
    pub name: String,
    /// The data section, which is also the map's name.
    pub section: String,
    /// Index of that map in [`Object::maps`](crate::Object::maps).
    pub map: usize,
    /// Offset in the section in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// Its BTF type.
    pub ty: Option<TypeId>,
}
