//! The functions in an object's executable sections, and which of them are programs.

use std::collections::HashMap;
use std::sync::Arc;

use squalus_isa::{INSN_SIZE, Insn};

use crate::ObjectError;
use crate::elf::{Elf, Section, Symbol, SymbolKind};

/// The section for functions that are not programs.
const TEXT: &str = ".text";

/// All functions of an object.
pub(crate) struct Functions<'a> {
    /// By section, then by address.
    pub(crate) all: Vec<Function<'a>>,
    /// Code of executable sections.
    code: HashMap<usize, Vec<Insn>>,
    /// Index in `all` of the function starting at (section, slot).
    starts: HashMap<(usize, usize), usize>,
}

/// A function.
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    /// The name again, for sharing among programs.
    pub(crate) shared_name: Arc<str>,
    pub(crate) section: usize,
    /// First slot in the section.
    pub(crate) start: usize,
    /// Number of slots.
    pub(crate) len: usize,
    /// Whether it is visible in its file only.
    pub(crate) local: bool,
    /// Whether it is a program rather than a subprogram.
    pub(crate) entry: bool,
}

impl<'a> Functions<'a> {
    pub(crate) fn collect(elf: &Elf<'a>) -> Result<Self, ObjectError> {
        let mut functions = Functions {
            all: Vec::new(),
            code: HashMap::new(),
            starts: HashMap::new(),
        };
        for (index, section) in elf.sections.iter().enumerate() {
            if section.exec {
                functions.collect_section(elf, index, section)?;
            }
        }
        // Without any named section the exported functions of .text are programs, as in early objects.
        if !functions.all.iter().any(|f| f.entry) {
            for function in &mut functions.all {
                function.entry = !function.local;
            }
        }
        Ok(functions)
    }

    fn collect_section(
        &mut self,
        elf: &Elf<'a>,
        index: usize,
        section: &Section<'a>,
    ) -> Result<(), ObjectError> {
        let code = Insn::parse_all(section.data).ok_or_else(|| ObjectError::Section {
            section: section.name.into(),
            reason: format!(
                "its {} bytes are no whole number of instructions (8 bytes each)",
                section.data.len()
            ),
        })?;
        let symbols = function_symbols(elf, index);
        if symbols.is_empty() && section.name != TEXT && !code.is_empty() {
            self.starts.insert((index, 0), self.all.len());
            self.all
                .push(Function::nameless(index, section, code.len()));
        }
        let ends = ends(&symbols, section.size);
        for (symbol, end) in symbols.iter().zip(ends) {
            let function = Function::new(symbol, index, section, end)?;
            self.starts
                .entry((index, function.start))
                .or_insert(self.all.len());
            self.all.push(function);
        }
        self.code.insert(index, code);
        Ok(())
    }

    /// The function that starts at byte `address` of `section`.
    pub(crate) fn starting_at(&self, section: usize, address: u64) -> Option<&Function<'a>> {
        self.all.get(self.index_at(section, address)?)
    }

    /// As [`Self::starting_at`], its index.
    pub(crate) fn index_at(&self, section: usize, address: u64) -> Option<usize> {
        if !address.is_multiple_of(INSN_SIZE as u64) {
            return None;
        }
        let slot = usize::try_from(address / INSN_SIZE as u64).ok()?;
        self.starts.get(&(section, slot)).copied()
    }

    /// The code of a function.
    pub(crate) fn code(&self, function: &Function<'_>) -> &[Insn] {
        self.code
            .get(&function.section)
            .and_then(|c| c.get(function.start..)?.get(..function.len))
            .unwrap_or(&[])
    }
}

/// Symbols of functions by ascending address; among several for one address the exported one first.
///
/// Compilers before LLVM 7 gave functions no type: in a section without typed functions every exported
/// name is one.
fn function_symbols<'e, 'a>(elf: &'e Elf<'a>, section: usize) -> Vec<&'e Symbol<'a>> {
    let of_kind = |kind: SymbolKind| {
        elf.symbols_in(section)
            .filter(move |s| s.kind == kind && !s.name.is_empty())
    };
    let mut symbols: Vec<_> = of_kind(SymbolKind::Func).collect();
    if symbols.is_empty() {
        symbols = of_kind(SymbolKind::Untyped).filter(|s| !s.local).collect();
    }
    symbols.sort_by_key(|s| (s.value, s.local));
    symbols
}

/// For each of some symbols by ascending address the next higher address, or the section's end.
fn ends(symbols: &[&Symbol<'_>], section_size: u64) -> Vec<u64> {
    let mut ends = vec![section_size; symbols.len()];
    let mut next = (section_size, section_size);
    for (end, symbol) in ends.iter_mut().zip(symbols).rev() {
        // `next` is the address last seen and the one above it.
        if symbol.value != next.0 {
            next = (symbol.value, next.0);
        }
        *end = next.1;
    }
    ends
}

impl<'a> Function<'a> {
    /// The program of a section without symbols, as some early objects have them: loaders then found it by the
    /// section's name.
    fn nameless(index: usize, section: &Section<'a>, len: usize) -> Self {
        Function {
            name: section.name,
            shared_name: section.name.into(),
            section: index,
            start: 0,
            len,
            local: false,
            entry: true,
        }
    }

    fn new(
        symbol: &Symbol<'a>,
        index: usize,
        section: &Section<'_>,
        end: u64,
    ) -> Result<Self, ObjectError> {
        let error = |reason: &str| ObjectError::Symbol {
            symbol: symbol.name.into(),
            section: section.name.into(),
            reason: reason.into(),
        };
        let slot = INSN_SIZE as u64;
        let size = match symbol.size {
            0 => end.saturating_sub(symbol.value),
            size => size,
        };
        if !symbol.value.is_multiple_of(slot) || !size.is_multiple_of(slot) {
            return Err(error("the function does not consist of whole instructions"));
        }
        let end = symbol.value.checked_add(size);
        if size == 0 || end.is_none_or(|end| end > section.data.len() as u64) {
            return Err(error(
                "the function is empty or reaches past the end of its section",
            ));
        }
        Ok(Function {
            name: symbol.name,
            shared_name: symbol.name.into(),
            section: index,
            start: (symbol.value / slot) as usize,
            len: (size / slot) as usize,
            local: symbol.local,
            entry: !symbol.local && section.name != TEXT,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::Place;

    #[test]
    fn a_symbol_without_size_reaches_to_the_next_address() {
        let symbols = [0, 8, 8, 24].map(|value| Symbol {
            name: "f",
            place: Place::Section(1),
            value,
            size: 0,
            kind: SymbolKind::Func,
            local: false,
            weak: false,
            hidden: false,
        });
        let symbols: Vec<_> = symbols.iter().collect();
        assert_eq!(ends(&symbols, 40), [8, 24, 24, 40]);
    }
}
