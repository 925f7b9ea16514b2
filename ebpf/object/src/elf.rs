//! The ELF container, reduced to what BPF objects use and checked once: sections with their bytes, symbols,
//! and relocations by the section they patch.

use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::SectionIndex;
use object::read::elf::{FileHeader, Rel as _, Rela as _, SectionHeader, SectionTable, Sym as _};

use crate::ObjectError;
use crate::limits::NAME_BYTES;

type Header = FileHeader64<LittleEndian>;
const LE: LittleEndian = LittleEndian;

/// `R_BPF_64_64`: the immediate of an `LD_IMM64`.
pub(crate) const R_64_64: u32 = 1;
/// `R_BPF_64_ABS64`: eight bytes of data.
pub(crate) const R_64_ABS64: u32 = 2;
/// `R_BPF_64_32`: the target of a call.
pub(crate) const R_64_32: u32 = 10;

/// A parsed file.
pub(crate) struct Elf<'a> {
    pub(crate) sections: Vec<Section<'a>>,
    pub(crate) symbols: Vec<Symbol<'a>>,
    /// Indices of the symbols of each section.
    by_section: Vec<Vec<usize>>,
}

/// A section.
pub(crate) struct Section<'a> {
    pub(crate) name: &'a str,
    /// Its bytes; empty if `nobits`.
    pub(crate) data: &'a [u8],
    pub(crate) size: u64,
    /// Whether it is all zeros and takes no room in the file.
    pub(crate) nobits: bool,
    /// Whether it is loaded at all, rather than read by tools.
    pub(crate) alloc: bool,
    pub(crate) exec: bool,
    /// By ascending offset.
    pub(crate) rels: Vec<Rel>,
}

/// A relocation.
#[derive(Clone, Copy)]
pub(crate) struct Rel {
    pub(crate) offset: u64,
    pub(crate) kind: u32,
    /// Index of the symbol; always valid.
    pub(crate) symbol: usize,
    /// The addend, if it is not what stands at the place.
    pub(crate) addend: Option<i64>,
}

/// A symbol.
pub(crate) struct Symbol<'a> {
    /// Its name; of a section's symbol the section's.
    pub(crate) name: &'a str,
    pub(crate) place: Place,
    pub(crate) value: u64,
    pub(crate) size: u64,
    pub(crate) kind: SymbolKind,
    /// Whether it is visible in its file only.
    pub(crate) local: bool,
    /// Whether another definition may replace it; an undefined one may then be absent.
    pub(crate) weak: bool,
    /// Whether it is not to be seen outside of the linked object.
    pub(crate) hidden: bool,
}

/// Where a symbol is defined.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Undefined,
    /// In the section with this index, which is valid.
    Section(usize),
    /// Absolute or common: of no use here.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SymbolKind {
    Untyped,
    Object,
    Func,
    Section,
    Other,
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Elf<'a>, ObjectError> {
        let header = header(bytes)?;
        let table = header
            .sections(LE, bytes)
            .map_err(|e| ObjectError::NotBpf(e.to_string()))?;
        let names = StringTable::section_names(header, &table, bytes)?;
        let mut sections = Vec::with_capacity(table.len());
        for (index, section) in table.enumerate() {
            let name = names
                .get(section.sh_name(LE))
                .ok_or_else(|| broken_table("section", index.0))?;
            sections.push(Section::parse(section, name, bytes)?);
        }
        refuse_overlap(&sections, bytes)?;
        let symbols = symbols(&table, &sections, bytes)?;
        let mut by_section = vec![Vec::new(); sections.len()];
        for (index, symbol) in symbols.iter().enumerate() {
            if let Place::Section(section) = symbol.place {
                by_section[section].push(index);
            }
        }
        let mut elf = Elf {
            sections,
            symbols,
            by_section,
        };
        elf.attach_relocations(&table, bytes)?;
        Ok(elf)
    }

    /// The first section with this name.
    pub(crate) fn section(&self, name: &str) -> Option<(usize, &Section<'a>)> {
        self.sections
            .iter()
            .enumerate()
            .find(|(_, s)| s.name == name)
    }

    /// The name of a section, for messages.
    pub(crate) fn section_name(&self, index: usize) -> &'a str {
        self.sections.get(index).map_or("?", |s| s.name)
    }

    /// Symbols defined in a section.
    pub(crate) fn symbols_in(&self, section: usize) -> impl Iterator<Item = &Symbol<'a>> {
        self.by_section
            .get(section)
            .into_iter()
            .flatten()
            .filter_map(|&i| self.symbols.get(i))
    }

    fn attach_relocations(
        &mut self,
        table: &SectionTable<'a, Header>,
        bytes: &'a [u8],
    ) -> Result<(), ObjectError> {
        for (index, header) in table.enumerate() {
            let kind = header.sh_type(LE);
            if kind != elf::SHT_REL && kind != elf::SHT_RELA {
                continue;
            }
            let name = self.section_name(index.0);
            let section_error = |reason| ObjectError::Section {
                section: name.into(),
                reason,
            };
            let Some(target) = self.sections.get_mut(header.sh_info(LE) as usize) else {
                let reason = "it relocates a section that is not there";
                return Err(section_error(reason.into()));
            };
            if !target.exec && target.name != ".maps" {
                continue;
            }
            let rels = relocations(header, bytes).map_err(section_error)?;
            if let Some(rel) = rels.iter().find(|rel| rel.symbol >= self.symbols.len()) {
                return Err(section_error(format!(
                    "it refers to symbol {}, which is not there",
                    rel.symbol
                )));
            }
            target.rels.extend(rels);
            target.rels.sort_by_key(|r| r.offset);
        }
        Ok(())
    }
}

/// The relocations of a section. The first compilers wrote all with addends and of no kind; they are the same as
/// the later ones for 64-bit immediates, which is all that those compilers relocated.
fn relocations(
    header: &elf::SectionHeader64<LittleEndian>,
    bytes: &[u8],
) -> Result<Vec<Rel>, String> {
    let error = |e: object::Error| e.to_string();
    let mut rels = Vec::new();
    if let Some((found, _)) = header.rel(LE, bytes).map_err(error)? {
        rels.extend(found.iter().map(|rel| Rel {
            offset: rel.r_offset(LE),
            kind: rel.r_type(LE).0,
            symbol: rel.r_sym(LE) as usize,
            addend: None,
        }));
    }
    if let Some((found, _)) = header.rela(LE, bytes).map_err(error)? {
        rels.extend(found.iter().map(|rel| Rel {
            offset: rel.r_offset(LE),
            kind: match rel.r_type(LE, false).0 {
                0 => R_64_64,
                kind => kind,
            },
            symbol: rel.r_sym(LE, false) as usize,
            addend: Some(rel.r_addend(LE)),
        }));
    }
    Ok(rels)
}

/// Checks what kind of file it is.
fn header(bytes: &[u8]) -> Result<&Header, ObjectError> {
    let not = |why: &str| ObjectError::NotBpf(why.into());
    match bytes {
        [0x7f, b'E', b'L', b'F', class, data, ..] => {
            let machine = bytes.get(18..20);
            if *data == 2 && matches!(machine, Some([0, 247])) {
                return Err(ObjectError::BigEndian);
            }
            if *class != 2 || *data != 1 {
                return Err(not("an ELF file for another kind of machine"));
            }
        }
        _ => return Err(not("no ELF file")),
    }
    let header = Header::parse(bytes).map_err(|e| ObjectError::NotBpf(e.to_string()))?;
    // Compilers before LLVM 3.9 left the machine at 0.
    match header.e_machine(LE).0 {
        0 | 247 => Ok(header),
        other => Err(not(&format!(
            "an ELF file for machine {other}, where BPF is 247"
        ))),
    }
}

/// Every byte of a file belongs to at most one section; a file that claims more could make us allocate far
/// more than its size. Sharing one string table twice is let pass.
fn refuse_overlap(sections: &[Section<'_>], bytes: &[u8]) -> Result<(), ObjectError> {
    let claimed: u64 = sections.iter().map(|s| s.data.len() as u64).sum();
    if claimed > 2 * bytes.len() as u64 {
        return Err(ObjectError::NotBpf("its sections overlap".into()));
    }
    Ok(())
}

fn broken_table(what: &str, index: usize) -> ObjectError {
    ObjectError::NotBpf(format!(
        "the name of {what} {index} is outside its string table, no UTF-8, or longer than {NAME_BYTES} bytes"
    ))
}

/// A string table that never scans further than the longest name allowed.
struct StringTable<'a>(&'a [u8]);

impl<'a> StringTable<'a> {
    fn section_names(
        header: &Header,
        table: &SectionTable<'a, Header>,
        bytes: &'a [u8],
    ) -> Result<Self, ObjectError> {
        if table.is_empty() {
            return Ok(StringTable(&[]));
        }
        let index = header
            .shstrndx(LE, bytes)
            .map_err(|e| ObjectError::NotBpf(e.to_string()))?;
        StringTable::at(table, SectionIndex(index as usize), bytes)
    }

    fn at(
        table: &SectionTable<'a, Header>,
        index: SectionIndex,
        bytes: &'a [u8],
    ) -> Result<Self, ObjectError> {
        table
            .section(index)
            .and_then(|s| s.data(LE, bytes))
            .map(StringTable)
            .map_err(|e| ObjectError::NotBpf(e.to_string()))
    }

    fn get(&self, offset: u32) -> Option<&'a str> {
        let tail = self.0.get(offset as usize..)?;
        let window = tail.get(..=NAME_BYTES).unwrap_or(tail);
        let end = window.iter().position(|&b| b == 0)?;
        std::str::from_utf8(window.get(..end)?).ok()
    }
}

impl<'a> Section<'a> {
    fn parse(
        header: &elf::SectionHeader64<LittleEndian>,
        name: &'a str,
        bytes: &'a [u8],
    ) -> Result<Self, ObjectError> {
        let kind = header.sh_type(LE);
        let data = if kind == elf::SHT_NULL {
            &[]
        } else {
            header.data(LE, bytes).map_err(|_| ObjectError::Section {
                section: name.into(),
                reason: "it reaches past the end of the file, which may be cut off".into(),
            })?
        };
        let flags = header.sh_flags(LE);
        let progbits = kind == elf::SHT_PROGBITS;
        Ok(Section {
            name,
            data,
            size: header.sh_size(LE),
            nobits: kind == elf::SHT_NOBITS,
            alloc: flags.contains(elf::SHF_ALLOC),
            exec: progbits && flags.contains(elf::SHF_EXECINSTR) && !data.is_empty(),
            rels: Vec::new(),
        })
    }
}

fn symbols<'a>(
    table: &SectionTable<'a, Header>,
    sections: &[Section<'a>],
    bytes: &'a [u8],
) -> Result<Vec<Symbol<'a>>, ObjectError> {
    let found = table
        .symbols(LE, bytes, elf::SHT_SYMTAB)
        .map_err(|e| ObjectError::NotBpf(e.to_string()))?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let names = StringTable::at(table, found.string_section(), bytes)?;
    let mut symbols = Vec::with_capacity(found.len());
    for (index, symbol) in found.enumerate() {
        let section = found
            .symbol_section(LE, symbol, index)
            .map_err(|e| ObjectError::NotBpf(e.to_string()))?;
        let place = match section {
            Some(SectionIndex(i)) if i < sections.len() => Place::Section(i),
            Some(_) => Place::Other,
            None if symbol.is_undefined(LE) => Place::Undefined,
            None => Place::Other,
        };
        let kind = match symbol.st_type() {
            elf::STT_NOTYPE => SymbolKind::Untyped,
            elf::STT_OBJECT => SymbolKind::Object,
            elf::STT_FUNC => SymbolKind::Func,
            elf::STT_SECTION => SymbolKind::Section,
            _ => SymbolKind::Other,
        };
        let mut name = names
            .get(symbol.st_name(LE))
            .ok_or_else(|| broken_table("symbol", index.0))?;
        if let (SymbolKind::Section, Place::Section(i)) = (kind, place) {
            name = sections.get(i).map_or(name, |s| s.name);
        }
        symbols.push(Symbol {
            name,
            place,
            value: symbol.st_value(LE),
            size: symbol.st_size(LE),
            kind,
            local: symbol.st_bind() == elf::STB_LOCAL,
            weak: symbol.st_bind() == elf::STB_WEAK,
            hidden: matches!(symbol.st_visibility(), elf::STV_HIDDEN | elf::STV_INTERNAL),
        });
    }
    Ok(symbols)
}
