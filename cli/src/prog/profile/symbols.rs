//! Names of this process' own code.

use std::fs;
use std::ops::Range;

use object::{Object as _, ObjectSegment, ObjectSymbol, SegmentFlags, SymbolKind};

/// The code that is mapped into this process from files.
pub struct Symbols {
    mapped: Vec<Mapped>,
}

struct Mapped {
    range: Range<usize>,
    file: String,
    /// Functions of the file by their addresses here, in order.
    functions: Vec<(Range<usize>, String)>,
}

impl Symbols {
    /// Those of the process as it is now. Files that cannot be read have no names.
    pub fn of_this_process() -> Symbols {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Symbols {
            mapped: maps.lines().filter_map(Mapped::of).collect(),
        }
    }

    /// The function that an address is in, or at least the file.
    pub fn name(&self, address: usize) -> String {
        let mut mapped = self.mapped.iter();
        let Some(mapped) = mapped.find(|mapped| mapped.range.contains(&address)) else {
            return "unknown code".to_owned();
        };
        let after = mapped
            .functions
            .partition_point(|(range, _)| range.end <= address);
        match mapped.functions.get(after) {
            Some((range, name)) if range.contains(&address) => name.clone(),
            _ => mapped.file.clone(),
        }
    }
}

impl Mapped {
    /// What a line of `/proc/PID/maps` says, if it is of executable code.
    fn of(line: &str) -> Option<Mapped> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let number = |text: &str| usize::from_str_radix(text, 16).ok();
        let range = number(start)?..number(end)?;
        if !words.next()?.contains('x') {
            return None;
        }
        let offset = number(words.next()?)?;
        let file = words.nth(2)?.to_owned();
        let functions = fs::read(&file).ok();
        let functions = functions.and_then(|bytes| functions_of(&bytes, range.start, offset));
        Some(Mapped {
            range,
            file,
            functions: functions.unwrap_or_default(),
        })
    }
}

/// An object file's functions, where its code, at about `offset` of it, is mapped to `start`.
fn functions_of(bytes: &[u8], start: usize, offset: usize) -> Option<Vec<(Range<usize>, String)>> {
    let file = object::File::parse(bytes).ok()?;
    let is_code = |segment: &object::Segment<'_, '_>| matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.0 & object::elf::PF_X.0 != 0);
    let segment = file.segments().find(is_code)?;
    let into = (offset as u64).wrapping_sub(segment.file_range().0);
    let base = segment.address().wrapping_add(into);
    let function = |symbol: object::Symbol<'_, '_>| {
        let name = symbol.name().ok()?;
        let at = (symbol.address().wrapping_sub(base) as usize).wrapping_add(start);
        let name = format!("{:#}", rustc_demangle::demangle(name));
        Some((at..at.wrapping_add(symbol.size() as usize), name))
    };
    let is_function =
        |symbol: &object::Symbol<'_, '_>| symbol.kind() == SymbolKind::Text && symbol.size() != 0;
    let mut functions: Vec<_> = file
        .symbols()
        .filter(is_function)
        .filter_map(function)
        .collect();
    if functions.is_empty() {
        functions = file
            .dynamic_symbols()
            .filter(is_function)
            .filter_map(function)
            .collect();
    }
    functions.sort_by_key(|(range, _)| range.start);
    Some(functions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_ours_has_its_name() {
        let symbols = Symbols::of_this_process();
        let name = symbols.name(functions_of as *const () as usize + 1);
        assert!(name.ends_with("symbols::functions_of"), "{name}");
        assert_eq!(symbols.name(8), "unknown code");
    }
}
