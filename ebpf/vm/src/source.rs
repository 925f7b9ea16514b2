//! What a machine is built from, whether it comes from an object file or was assembled by hand.

use std::collections::HashSet;
use std::sync::Arc;

use squalus_isa::{Insn, MapDef};
use squalus_object::{InitialTarget, InitialValue, MapSpec, Object, Program, ProgramKind};
use squalus_runtime::SourceLine;

use crate::VmError;
use crate::pins::Pin;

pub(crate) struct MapSource {
    pub def: MapDef,
    pub initial: Option<Vec<u8>>,
    pub frozen: bool,
    pub values: Vec<InitialValue>,
    /// Whether it is shared, and how.
    pub pin: Option<Pin>,
}

pub(crate) struct ProgramSource {
    pub name: String,
    pub code: Vec<Insn>,
    pub lines: Vec<SourceLine>,
    /// Whether it is loaded without being asked for.
    pub autoload: bool,
    /// Whether it takes frames in fragments (section `xdp.frags`).
    pub fragments: bool,
}

pub(crate) struct Source {
    pub maps: Vec<MapSource>,
    pub programs: Vec<ProgramSource>,
    /// Names of programs that are in the object but not among `programs`.
    pub left_out: Vec<String>,
    /// Names of kernel functions, by the numbers that calls have.
    pub kfuncs: Vec<String>,
}

impl Source {
    pub fn from_object(mut object: Object) -> Source {
        // If that leaves no program, `select` says so, with the reasons.
        let _ = object.refuse_unresolved();
        let left_out = object
            .refused
            .iter()
            .map(|refused| format!("`{}` ({})", refused.name, refused.reason));
        let mut left_out: Vec<String> = left_out.collect();
        let mut programs = Vec::new();
        for program in object.programs {
            // What a section's name does not say, the one who asks for the program does.
            match program.kind {
                ProgramKind::Xdp { .. } | ProgramKind::Unknown(_) => {
                    programs.push(from_program(program));
                }
                _ => left_out.push(format!("`{}` (section {})", program.name, program.section)),
            }
        }
        let identity = object.identity;
        let map = |spec| from_map(spec, identity);
        Source {
            maps: object.maps.into_iter().map(map).collect(),
            programs,
            left_out,
            kfuncs: object.kfuncs.into_iter().map(|kfunc| kfunc.name).collect(),
        }
    }

    pub fn assembled(maps: Vec<MapDef>, programs: Vec<(String, Vec<Insn>)>) -> Source {
        let map = |def| MapSource {
            def,
            initial: None,
            frozen: false,
            values: Vec::new(),
            pin: None,
        };
        let program = |(name, code)| ProgramSource {
            name,
            code,
            lines: Vec::new(),
            autoload: true,
            fragments: false,
        };
        Source {
            maps: maps.into_iter().map(map).collect(),
            programs: programs.into_iter().map(program).collect(),
            left_out: Vec::new(),
            kfuncs: Vec::new(),
        }
    }

    /// Leaves only the programs with these names, or, without names, those that load by themselves; with them the
    /// programs that the object's maps refer to.
    ///
    /// # Errors
    /// The first name that no program has.
    pub fn select(&mut self, only: Option<&[String]>) -> Result<(), VmError> {
        for name in only.unwrap_or_default() {
            if !self.programs.iter().any(|program| program.name == *name) {
                return Err(VmError::NoSuchProgram {
                    name: name.clone(),
                    available: self.listing(),
                });
            }
        }
        let targets: HashSet<&str> = self.maps.iter().flat_map(programs_of).collect();
        let wanted = |program: &mut ProgramSource| match only {
            Some(names) => names.contains(&program.name) || targets.contains(&*program.name),
            None => program.autoload || targets.contains(&*program.name),
        };
        let others = self.programs.extract_if(.., |program| !wanted(program));
        let others = others.map(|program| format!("`{}` (not asked for)", program.name));
        self.left_out.extend(others);
        if self.programs.is_empty() {
            return Err(VmError::NoProgram(self.listing()));
        }
        Ok(())
    }

    fn listing(&self) -> String {
        let names = self
            .programs
            .iter()
            .map(|program| format!("`{}`", program.name));
        let all: Vec<String> = names.chain(self.left_out.iter().cloned()).collect();
        if all.is_empty() {
            return "none".to_owned();
        }
        all.join(", ")
    }
}

/// The programs that a map refers to from the beginning.
fn programs_of(map: &MapSource) -> impl Iterator<Item = &str> {
    map.values.iter().filter_map(|value| match &value.target {
        InitialTarget::Program(name) => Some(name.as_str()),
        InitialTarget::Map(_) => None,
    })
}

fn from_map(spec: MapSpec, object: u64) -> MapSource {
    MapSource {
        pin: Pin::of(spec.pinning, &spec.def.name, object),
        def: spec.def,
        initial: spec.initial,
        frozen: spec.frozen,
        values: spec.values,
    }
}

fn from_program(program: Program) -> ProgramSource {
    let line = |line: &squalus_object::LineInfo| SourceLine {
        slot: line.slot,
        file: Arc::clone(&line.file),
        line: line.line,
        text: Arc::clone(&line.text),
    };
    ProgramSource {
        lines: program.lines.iter().map(line).collect(),
        name: program.name,
        code: program.insns,
        autoload: program.autoload && matches!(program.kind, ProgramKind::Xdp { .. }),
        fragments: matches!(program.kind, ProgramKind::Xdp { frags: true, .. }),
    }
}
