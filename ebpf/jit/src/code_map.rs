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
    symbols: Vec<(usize, String)>,
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

    /// What is at an address outside the code: a function that the code calls, or a map.
    #[must_use]
    pub fn symbol(&self, address: usize) -> Option<&str> {
        let found = self.symbols.iter().find(|(known, _)| *known == address);
        found.map(|(_, name)| &**name)
    }
}

fn symbols(
    functions: &[Option<Function>],
    maps: &[Arc<Map>],
    calls: Calls,
) -> Vec<(usize, String)> {
    let mut symbols = vec![
        (calls.lookup, "map_lookup_elem".to_owned()),
        (calls.resolve_tail_call, "tail_call".to_owned()),
        (calls.nested_tail_call, "nested_tail_call".to_owned()),
    ];
    for map in maps {
        let address = Arc::as_ptr(map).expose_provenance();
        symbols.push((address, format!("map[{}]", map.def().name)));
    }
    for value in functions.iter().flatten().flat_map(|f| &f.values) {
        if let Op::Native { function, name, .. } = &value.op {
            symbols.push((*function, (*name).to_owned()));
        }
    }
    symbols.sort();
    symbols.dedup();
    symbols
}
