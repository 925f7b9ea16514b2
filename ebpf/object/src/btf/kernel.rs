//! An object's types as the running kernel takes them (`BPF_BTF_LOAD`).
//!
//! What a compiler writes is not what the kernel accepts. Sections of variables lack their size and offsets,
//! which only the ELF file knows; externs stand where the kernel wants definitions; Rust names pointers and
//! leaves parameters unnamed; and an older kernel does not know the newer kinds. So the section is written
//! anew, record by record: no type changes its number, so that everything that names types by number (maps,
//! `func_info`, CO-RE) stays valid, and no string its offset. Kinds that a kernel lacks are replaced as
//! libbpf replaces them, by others of the same shape that nobody will look into.

use std::collections::{HashMap, HashSet};

use super::{Btf, Kind, TypeId};
use crate::BtfError;
use crate::elf::{Elf, SymbolKind};
use crate::reader::Reader;

/// What kinds of types a kernel knows. All do since Linux 6.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BtfFeatures {
    /// Functions (5.0). Without them `func_info` must be left out too.
    pub func: bool,
    /// Functions that are verified apart from their callers (5.6).
    pub func_global: bool,
    /// Variables and their sections (5.2).
    pub datasec: bool,
    /// Floating point numbers (5.13).
    pub float: bool,
    /// Attributes of declarations (5.16).
    pub decl_tag: bool,
    /// Attributes of types (5.17).
    pub type_tag: bool,
    /// 64-bit enumerations (6.0).
    pub enum64: bool,
}

impl BtfFeatures {
    /// A kernel of today.
    pub const ALL: BtfFeatures = BtfFeatures {
        func: true,
        func_global: true,
        datasec: true,
        float: true,
        decl_tag: true,
        type_tag: true,
        enum64: true,
    };

    /// The first kernel with BTF (4.18).
    pub const OLDEST: BtfFeatures = BtfFeatures {
        func: false,
        func_global: false,
        datasec: false,
        float: false,
        decl_tag: false,
        type_tag: false,
        enum64: false,
    };
}

/// A section of variables as it really is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) size: u64,
    /// Offsets of its variables by name.
    pub(crate) offsets: HashMap<String, u64>,
}

/// What the kernel's version of an object's types is made from.
#[derive(Clone, Debug, Default)]
pub(crate) struct KernelBtf {
    raw: Vec<u8>,
    layouts: HashMap<String, Layout>,
    /// Global functions that are to be verified with their callers, since no one outside may call them.
    hidden: HashSet<String>,
}

impl KernelBtf {
    pub(crate) fn collect(elf: &Elf<'_>, raw: &[u8], btf: &Btf) -> KernelBtf {
        let mut layouts = HashMap::new();
        for (_, ty) in btf.types() {
            let name = btf.name(ty.name);
            if let (Kind::DataSec { .. }, Some((index, section))) = (&ty.kind, elf.section(name)) {
                let symbols = elf.symbols_in(index).filter(|s| !s.local);
                let layout = Layout {
                    size: section.size,
                    offsets: symbols.map(|s| (s.name.to_owned(), s.value)).collect(),
                };
                layouts.insert(name.to_owned(), layout);
            }
        }
        let hidden = elf
            .symbols
            .iter()
            .filter(|s| s.kind == SymbolKind::Func && s.hidden)
            .map(|s| s.name.to_owned())
            .collect();
        KernelBtf {
            raw: raw.to_vec(),
            layouts,
            hidden,
        }
    }

    /// Says where the variables of a section are that the file does not have.
    pub(crate) fn set_layout(&mut self, section: &str, layout: Layout) {
        self.layouts.insert(section.to_owned(), layout);
    }

    /// The section, written anew.
    pub(crate) fn bytes(&self, btf: &Btf, features: BtfFeatures) -> Result<Vec<u8>, BtfError> {
        let mut writer = Writer {
            source: self,
            btf,
            features,
            protos: protos(btf),
            types: Vec::new(),
            next: 1,
            strings: btf.strings.clone(),
            number: btf.len() as u32,
            dummy: btf.len() as u32 + 1,
        };
        let mut records = records(&self.raw).ok_or(BtfError::Header("it is cut off"))?;
        while !records.is_empty() {
            let record = Record::read(&mut records).ok_or(BtfError::Header("a type is cut off"))?;
            let record = writer.adapt(record);
            writer.push(&record);
        }
        writer.helpers();
        Ok(writer.finish())
    }
}

/// The prototypes of functions, as opposed to those of pointers to functions.
fn protos(btf: &Btf) -> HashSet<TypeId> {
    let proto = |kind: &Kind| match *kind {
        Kind::Func { proto, .. } => Some(proto),
        _ => None,
    };
    btf.types().filter_map(|(_, t)| proto(&t.kind)).collect()
}

/// The type records of a section.
fn records(raw: &[u8]) -> Option<Reader<'_>> {
    let mut header = Reader::new(raw.get(4..)?);
    let (len, offset, size) = (header.u32()?, header.u32()?, header.u32()?);
    let start = (len as usize).checked_add(offset as usize)?;
    Some(Reader::new(
        raw.get(start..start.checked_add(size as usize)?)?,
    ))
}

const INT: u32 = 1;
const PTR: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// Linkage of functions and variables.
const FUNC_STATIC: u32 = 0;
const FUNC_GLOBAL: u32 = 1;
const VAR_GLOBAL: u32 = 1;
const VAR_EXTERN: u32 = 2;

/// A type record, as words.
#[derive(Clone)]
struct Record {
    name: u32,
    kind: u32,
    vlen: u32,
    kflag: bool,
    /// Size or type.
    third: u32,
    rest: Vec<u32>,
}

impl Record {
    fn read(r: &mut Reader<'_>) -> Option<Record> {
        let (name, info, third) = (r.u32()?, r.u32()?, r.u32()?);
        let (kind, vlen) = ((info >> 24) & 0x1f, info & 0xffff);
        let words = match kind {
            INT | VAR | DECL_TAG => 1,
            3 => 3,
            STRUCT | UNION | DATASEC | ENUM64 => 3 * vlen,
            ENUM | FUNC_PROTO => 2 * vlen,
            _ => 0,
        };
        Some(Record {
            name,
            kind,
            vlen,
            kflag: info >> 31 != 0,
            third,
            rest: r.many(words as usize, 4, Reader::u32)?,
        })
    }

    fn int(name: u32, size: u32) -> Record {
        Record {
            name,
            kind: INT,
            vlen: 0,
            kflag: false,
            third: size,
            rest: vec![size * 8],
        }
    }

    /// The same with another kind.
    fn with_kind(self, kind: u32) -> Record {
        Record { kind, ..self }
    }
}

struct Writer<'s> {
    source: &'s KernelBtf,
    btf: &'s Btf,
    features: BtfFeatures,
    protos: HashSet<TypeId>,
    types: Vec<u8>,
    /// Number of the type that comes next.
    next: u32,
    strings: Vec<u8>,
    /// Number of the integer that stands for what the kernel need not know; it follows all other types.
    number: u32,
    /// Number of the variable that stands for all the kernel's own; it comes last.
    dummy: u32,
}

impl Writer<'_> {
    /// The record as the kernel takes it.
    fn adapt(&mut self, mut record: Record) -> Record {
        self.repair_names(&mut record);
        match record.kind {
            FUNC => self.func(record),
            FUNC_PROTO => self.func_proto(record),
            VAR => self.var(record),
            DATASEC => self.datasec(record),
            FLOAT if !self.features.float => Record {
                kind: STRUCT,
                ..record
            },
            DECL_TAG if !self.features.decl_tag => Record::int(record.name, 1),
            TYPE_TAG if !self.features.type_tag => Record {
                name: 0,
                kind: CONST,
                kflag: false,
                ..record
            },
            ENUM64 if !self.features.enum64 => self.enum64(record),
            ENUM if !self.features.enum64 => Record {
                kflag: false,
                ..record
            },
            _ => record,
        }
    }

    fn func(&self, record: Record) -> Record {
        if !self.features.func {
            return Record {
                kind: TYPEDEF,
                vlen: 0,
                ..record
            };
        }
        let hidden = self.source.hidden.contains(self.string(record.name));
        let vlen = if hidden || !self.features.func_global {
            FUNC_STATIC
        } else {
            // An extern is a global function as far as its types go.
            record.vlen.min(FUNC_GLOBAL)
        };
        Record { vlen, ..record }
    }

    /// The kernel wants names for the parameters of functions.
    fn func_proto(&mut self, mut record: Record) -> Record {
        if !self.features.func {
            let unnamed = record.rest.as_chunks_mut::<2>().0.iter_mut();
            for (index, [name, value]) in unnamed.enumerate() {
                *name = self.intern(&format!("param{index}"));
                *value = index as u32;
            }
            return Record {
                kind: ENUM,
                third: 4,
                ..record
            };
        }
        let id = TypeId(self.next);
        if self.protos.contains(&id) {
            let params = record.rest.as_chunks_mut::<2>().0.iter_mut();
            for (index, [name, ty]) in params.enumerate() {
                if *name == 0 && *ty != 0 {
                    *name = self.intern(&format!("param{index}"));
                }
            }
        }
        record
    }

    /// The kernel wants variables that exist, of types with a size.
    fn var(&self, mut record: Record) -> Record {
        if !self.features.datasec {
            return Record::int(record.name, 1);
        }
        if record.rest == [VAR_EXTERN] {
            record.rest = vec![VAR_GLOBAL];
            if self.btf.size_of(TypeId(record.third)).is_err() {
                record.third = self.number;
            }
        }
        record
    }

    fn datasec(&mut self, mut record: Record) -> Record {
        let name = self.string(record.name).to_owned();
        let mut vars: Vec<[u32; 3]> = record.rest.as_chunks::<3>().0.to_vec();
        if name == ".ksyms" {
            for (index, var) in vars.iter_mut().enumerate() {
                *var = [self.dummy, index as u32 * 4, 4];
            }
            record.third = vars.len() as u32 * 4;
        } else if let Some(layout) = self.source.layouts.get(&name) {
            for [var, offset, _] in &mut vars {
                let known = layout.offsets.get(self.btf.type_name(TypeId(*var)));
                *offset = known.map_or(*offset, |&o| o as u32);
            }
            record.third = layout.size as u32;
        }
        vars.sort_by_key(|[_, offset, _]| *offset);
        if self.features.datasec {
            record.rest = vars.into_flattened();
            return record;
        }
        let members = vars.iter().flat_map(|&[var, offset, _]| {
            let of = self.btf.get(TypeId(var));
            let ty = match of.map(|t| &t.kind) {
                Some(Kind::Var { ty, .. }) => ty.0,
                _ => self.number,
            };
            [of.map_or(0, |t| t.name.0), ty, offset.saturating_mul(8)]
        });
        record.rest = members.collect();
        record.name = self.intern(&identifier(&name));
        record.with_kind(STRUCT)
    }

    fn enum64(&self, mut record: Record) -> Record {
        for [_, ty, offset] in record.rest.as_chunks_mut::<3>().0 {
            (*ty, *offset) = (self.number, 0);
        }
        Record {
            kflag: false,
            ..record.with_kind(UNION)
        }
    }

    /// Removes and replaces names that compilers write but the kernel refuses.
    fn repair_names(&mut self, record: &mut Record) {
        match record.kind {
            PTR | 3 | VOLATILE | CONST | RESTRICT | FUNC_PROTO => record.name = 0,
            STRUCT | UNION | ENUM | ENUM64 | FWD | TYPEDEF | FUNC | VAR => {
                record.name = self.valid(record.name);
            }
            _ => {}
        }
        let stride = match record.kind {
            STRUCT | UNION | ENUM64 => 3,
            ENUM | FUNC_PROTO => 2,
            _ => return,
        };
        for name in record.rest.iter_mut().step_by(stride) {
            *name = self.valid(*name);
        }
    }

    /// The offset of a name, or of one as similar as the kernel accepts.
    fn valid(&mut self, offset: u32) -> u32 {
        let name = self.string(offset);
        if name.is_empty() || is_identifier(name) {
            return offset;
        }
        let name = identifier(name);
        self.intern(&name)
    }

    fn string(&self, offset: u32) -> &str {
        self.btf.string(offset).unwrap_or("")
    }

    fn intern(&mut self, name: &str) -> u32 {
        let offset = self.strings.len() as u32;
        self.strings.extend(name.bytes());
        self.strings.push(0);
        offset
    }

    fn push(&mut self, record: &Record) {
        let info = record.kind << 24 | record.vlen | u32::from(record.kflag) << 31;
        let head = [record.name, info, record.third];
        let words = head.iter().chain(&record.rest);
        self.types.extend(words.flat_map(|w| w.to_le_bytes()));
        self.next += 1;
    }

    /// Writes the types that adapted ones refer to.
    fn helpers(&mut self) {
        let int = Record::int(self.intern("int"), 4);
        self.push(&int);
        if self.features.datasec {
            let dummy = Record {
                name: self.intern("dummy_ksym"),
                kind: VAR,
                vlen: 0,
                kflag: false,
                third: self.number,
                rest: vec![VAR_GLOBAL],
            };
            self.push(&dummy);
        }
    }

    fn finish(self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(self.types);
        bytes.extend(self.strings);
        bytes
    }
}

/// Longest name that every kernel takes (`KSYM_NAME_LEN` was 128).
const IDENTIFIER: usize = 127;

fn is_identifier(name: &str) -> bool {
    let first = name.bytes().next();
    let starts = first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let known = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
    starts && name.len() <= IDENTIFIER && name.bytes().all(known)
}

/// The name with all that no identifier has replaced.
fn identifier(name: &str) -> String {
    let known = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut out: String = name.chars().map(known).take(IDENTIFIER).collect();
    if out.starts_with(|c: char| c.is_ascii_digit()) {
        out.replace_range(..1, "_");
    }
    out
}
