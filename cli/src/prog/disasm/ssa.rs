//! SSA as the optimizer's passes leave it.

use std::fmt::Write;

use anyhow::{Result, bail};
use serde::Serialize;
use similar::{ChangeTag, TextDiff};
use squalus_jit::CodeMap;
use squalus_object::{Object, Program};
use squalus_ssa::ir::Function;

use super::super::compiled::Compiled;

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;
/// More lines than any function has.
const ALL: usize = u32::MAX as usize;

/// A program's functions, stage by stage.
#[derive(Serialize)]
pub struct View<'a> {
    name: &'a str,
    section: &'a str,
    /// By their number in the code.
    maps: Vec<&'a str>,
    #[serde(skip)]
    only: Option<&'a str>,
    stages: Vec<Stage>,
}

/// A function after one pass.
#[derive(Serialize)]
struct Stage {
    function: u32,
    name: String,
    /// `build`, or the pass.
    stage: String,
    blocks: usize,
    instructions: usize,
    ssa: String,
    /// Where its function's stage before is.
    #[serde(skip)]
    before: Option<usize>,
    /// Whether it is its function's last.
    #[serde(skip)]
    last: bool,
}

impl<'a> View<'a> {
    /// Only the stages named `only`, if that is not empty.
    ///
    /// # Errors
    /// If there is no such stage.
    pub fn of(
        object: &'a Object,
        program: &'a Program,
        compiled: &Compiled,
        only: &'a str,
    ) -> Result<View<'a>> {
        let mut stages: Vec<Stage> = Vec::new();
        for (pass, function) in compiled.stages() {
            let before = stages
                .iter()
                .rposition(|stage| stage.function == function.id);
            if let Some(before) = before {
                stages[before].last = false;
            }
            stages.push(Stage::of(program, compiled.map(), (pass, function), before));
        }
        if !only.is_empty() && !stages.iter().any(|stage| stage.stage == only) {
            let mut names: Vec<&str> = stages.iter().map(|stage| &*stage.stage).collect();
            names.dedup();
            bail!("there is no stage `{only}`: {}", names.join(", "));
        }
        Ok(View {
            name: &program.name,
            section: &program.section,
            maps: object.maps.iter().map(|map| &*map.def.name).collect(),
            only: Some(only).filter(|only| !only.is_empty()),
            stages,
        })
    }

    pub fn text(&self) -> String {
        let mut out = format!("program {} (section {}):\n", self.name, self.section);
        for (n, map) in self.maps.iter().enumerate() {
            let _ = writeln!(out, "map{n} is {map}");
        }
        for stage in &self.stages {
            match self.only {
                Some(only) if stage.stage == only => self.changes(stage, ALL, &mut out),
                Some(_) => {}
                None => self.stage(stage, &mut out),
            }
        }
        out
    }

    /// The first stage of a function in full, what is different in later ones, and the last in full again.
    fn stage(&self, stage: &Stage, out: &mut String) {
        self.changes(stage, CONTEXT, out);
        if stage.last && stage.before.is_some() {
            let _ = write!(out, "\n==== {}, in the end\n{}", stage.name, stage.ssa);
        }
    }

    fn changes(&self, stage: &Stage, context: usize, out: &mut String) {
        let before = stage.before.map(|before| &self.stages[before]);
        let _ = writeln!(out, "\n==== {}", stage.heading(before));
        match before {
            None => *out += &stage.ssa,
            Some(before) => *out += &difference(&before.ssa, &stage.ssa, context),
        }
    }
}

impl Stage {
    fn of(
        program: &Program,
        map: &CodeMap,
        (pass, function): (&str, &Function),
        before: Option<usize>,
    ) -> Stage {
        let note = |slot: u32| {
            let line = program.line(slot as usize)?;
            Some(match line.text.trim() {
                "" => format!("{}:{}", line.file, line.line),
                text => format!("{}:{}: {text}", line.file, line.line),
            })
        };
        let blocks = function.reverse_postorder();
        let instructions = blocks
            .iter()
            .map(|block| function.block(*block).insts.len());
        let name = program.subprograms.get(function.id as usize);
        Stage {
            function: function.id,
            name: name.map_or_else(
                || format!("function{}", function.id),
                |sub| sub.name.to_string(),
            ),
            stage: pass.to_owned(),
            blocks: blocks.len(),
            instructions: instructions.sum(),
            ssa: with_names(&function.noted(&note).to_string(), map),
            before,
            last: true,
        }
    }

    fn heading(&self, before: Option<&Stage>) -> String {
        let Stage {
            name,
            stage,
            blocks,
            instructions,
            ..
        } = self;
        let now = format!("{instructions} instructions in {blocks} blocks");
        match before {
            None => format!("{name}, as it is built: {now}"),
            Some(before) if before.ssa == self.ssa => format!("{name}, {stage}: nothing to do"),
            Some(before) => {
                let was = format!("{} in {}", before.instructions, before.blocks);
                format!("{name}, {stage}: {was}, then {now}")
            }
        }
    }
}

/// The lines that were taken away and added, with lines around them.
fn difference(before: &str, after: &str, context: usize) -> String {
    let diff = TextDiff::from_lines(before, after);
    let mut out = String::new();
    for (n, group) in diff.grouped_ops(context).iter().enumerate() {
        if n != 0 {
            out += "...\n";
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            let _ = write!(out, "{sign}{change}");
        }
    }
    out
}

/// The text with what is at addresses instead of the addresses, which are others in every run.
fn with_names(text: &str, map: &CodeMap) -> String {
    let mut out = String::new();
    for (n, piece) in text.split("0x").enumerate() {
        if n == 0 {
            out += piece;
            continue;
        }
        let len = piece.bytes().take_while(u8::is_ascii_hexdigit).count();
        let (digits, rest) = piece.split_at(len);
        let symbol = usize::from_str_radix(digits, 16)
            .ok()
            .and_then(|a| map.symbol(a));
        match symbol {
            Some(symbol) => out += &format!("({symbol})"),
            None => out += &format!("0x{digits}"),
        }
        out += rest;
    }
    out
}
