//! What machine code comes from: for whoever shows it to people, and for profilers.

use std::iter::zip;
use std::ops::Range;
use std::sync::Arc;

use squalus_maps::Map;
use squalus_ssa::ir::{Function, Op};

use crate::backend::{Calls, Code};

/// Bytes of machine code that come from one eBPF instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
    /// The instruction's slot.
    pub slot: usize,
}

/// Where machine code comes from, and what the addresses in it are.
#[derive(Clone, Debug)]
pub struct CodeMap {
    origins: Vec<Origin>,
    functions: Vec<Range<usize>>,
    symbols: Vec<(Range<usize>, String)>,
}

impl CodeMap {
    pub(crate) fn new(
        functions: &[Option<Function>],
        maps: &[Arc<Map>],
        calls: Calls,
        code: &Code,
    ) -> CodeMap {
        CodeMap {
            origins: code.origins.clone(),
            functions: zip(&code.starts, &code.ends).map(|(s, e)| *s..*e).collect(),
            symbols: symbols(functions, maps, calls),
        }
    }

    /// The code in order, but for the parts that come from no instruction, such as where functions begin.
    #[must_use]
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// Slot of the instruction that the code at an offset comes from.
    #[must_use]
    pub fn slot_at(&self, offset: usize) -> Option<usize> {
        let after = self.origins.partition_point(|origin| origin.end <= offset);
        let origin = self.origins.get(after)?;
        (origin.start <= offset).then_some(origin.slot)
    }

    /// Where the code of each eBPF function is; empty for those that are never reached.
    #[must_use]
    pub fn functions(&self) -> &[Range<usize>] {
        &self.functions
    }

    /// What is at an address outside the code: a function that the code calls, a map, or a place in a map's values.
    #[must_use]
    pub fn symbol(&self, address: usize) -> Option<String> {
        let mut symbols = self.symbols.iter();
        let (place, name) = symbols.find(|(place, _)| place.contains(&address))?;
        Some(match address - place.start {
            0 => name.clone(),
            offset => format!("{name}+{offset}"),
        })
    }
}

fn symbols(
    functions: &[Option<Function>],
    maps: &[Arc<Map>],
    calls: Calls,
) -> Vec<(Range<usize>, String)> {
    let point = |address: usize, name: &str| (address..address + 1, name.to_owned());
    let mut symbols = vec![
        point(calls.lookup, "map_lookup_elem"),
        point(calls.resolve_tail_call, "tail_call"),
        point(calls.nested_tail_call, "nested_tail_call"),
    ];
    for map in maps {
        let name = &map.def().name;
        let address = Arc::as_ptr(map).expose_provenance();
        symbols.push((address..address + size_of::<Map>(), format!("map[{name}]")));
        if let Some(values) = map.array_base() {
            let len = values.stride * values.entries as usize;
            let place = values.base..values.base + len;
            symbols.push((place, format!("values of map[{name}]")));
        }
        if let Some(hash) = map.hash_layout() {
            symbols.push(point(hash.sets as usize, &format!("sets of map[{name}]")));
            symbols.push(point(hash.slots as usize, &format!("slots of map[{name}]")));
            symbols.push(point(hash.now as usize, &format!("stamp of map[{name}]")));
        }
    }
    for value in functions.iter().flatten().flat_map(|f| &f.values) {
        if let Op::Native { function, name, .. } = &value.op
            && !symbols.iter().any(|(place, _)| place.start == *function)
        {
            symbols.push(point(*function, name));
        }
    }
    symbols
}
