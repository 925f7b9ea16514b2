//! `squalus prog list`: what an object holds, without loading it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use squalus_object::{Global, MapOrigin, MapSpec, Object, Program, ProgramKind, Refused};

use super::loaded;

/// Options of `squalus prog list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The object file.
    #[arg(value_name = "OBJ")]
    object: PathBuf,
    /// Print JSON.
    #[arg(short, long)]
    json: bool,
}

/// Prints the object's programs, maps and variables.
///
/// # Errors
/// If the file is no object, or nothing in it can be loaded.
pub fn run(args: &ListArgs) -> Result<bool> {
    let object = loaded::parse(&args.object)?;
    let listing = Listing::of(&object);
    if args.json {
        super::print_json(&listing)?;
    } else {
        super::print(&listing.text())?;
    }
    Ok(true)
}

#[derive(Serialize)]
struct Listing<'a> {
    license: &'a str,
    btf: bool,
    programs: Vec<ProgramRow<'a>>,
    refused: Vec<RefusedRow<'a>>,
    maps: Vec<MapRow<'a>>,
    globals: Vec<GlobalRow<'a>>,
}

#[derive(Serialize)]
struct ProgramRow<'a> {
    name: &'a str,
    section: &'a str,
    kind: &'a str,
    /// Slots, as the kernel counts.
    instructions: usize,
    subprograms: Vec<&'a str>,
    autoload: bool,
}

#[derive(Serialize)]
struct RefusedRow<'a> {
    name: &'a str,
    section: &'a str,
    reason: String,
}

#[derive(Serialize)]
struct MapRow<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    bytes_key: u32,
    bytes_value: u32,
    max_entries: u32,
    flags: u32,
    origin: &'static str,
    /// Whether BTF describes its keys or values.
    typed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    inner: Option<Box<MapRow<'a>>>,
}

#[derive(Serialize)]
struct GlobalRow<'a> {
    name: &'a str,
    section: &'a str,
    offset: usize,
    size: usize,
}

impl<'a> Listing<'a> {
    fn of(object: &'a Object) -> Self {
        Listing {
            license: &object.license,
            btf: object.btf.is_some(),
            programs: object.programs.iter().map(ProgramRow::of).collect(),
            refused: object.refused.iter().map(RefusedRow::of).collect(),
            maps: object.maps.iter().map(MapRow::of).collect(),
            globals: object.globals().iter().map(GlobalRow::of).collect(),
        }
    }

    fn text(&self) -> String {
        let btf = if self.btf { "with" } else { "without" };
        let mut lines = vec![format!("license {:?}, {btf} BTF", self.license)];
        let sections = [
            (
                "programs",
                self.programs.iter().map(ProgramRow::text).collect(),
            ),
            (
                "refused",
                self.refused.iter().map(RefusedRow::text).collect(),
            ),
            ("maps", self.maps.iter().map(MapRow::text).collect()),
            (
                "globals",
                self.globals.iter().map(GlobalRow::text).collect(),
            ),
        ];
        for (title, rows) in sections {
            let rows: Vec<String> = rows;
            if !rows.is_empty() {
                lines.push(format!("{title}:"));
                lines.extend(rows.iter().map(|row| format!("  {row}")));
            }
        }
        lines.join("\n") + "\n"
    }
}

impl<'a> ProgramRow<'a> {
    fn of(program: &'a Program) -> Self {
        let others = program.subprograms.iter().skip(1);
        ProgramRow {
            name: &program.name,
            section: &program.section,
            kind: match &program.kind {
                ProgramKind::Xdp { frags: false } => "xdp",
                ProgramKind::Xdp { frags: true } => "xdp.frags",
                ProgramKind::Tc => "tc",
                ProgramKind::Other(kind) => kind,
                ProgramKind::Unknown(_) => "unknown",
            },
            instructions: program.insns.len(),
            subprograms: others.map(|sub| &*sub.name).collect(),
            autoload: program.autoload,
        }
    }

    fn text(&self) -> String {
        let (name, kind) = (self.name, self.kind);
        let mut row = format!(
            "{name}: {kind}  section {}  {} instructions",
            self.section, self.instructions
        );
        if !self.subprograms.is_empty() {
            row += "  subprograms ";
            row += &self.subprograms.join(", ");
        }
        if !self.autoload {
            row += "  loaded only by name";
        }
        row
    }
}

impl<'a> RefusedRow<'a> {
    fn of(refused: &'a Refused) -> Self {
        RefusedRow {
            name: &refused.name,
            section: &refused.section,
            reason: refused.reason.to_string(),
        }
    }

    fn text(&self) -> String {
        format!("{}: section {}  {}", self.name, self.section, self.reason)
    }
}

impl<'a> MapRow<'a> {
    fn of(map: &'a MapSpec) -> Self {
        let origin = match map.origin {
            MapOrigin::Legacy => "legacy",
            MapOrigin::Btf => "btf",
            MapOrigin::Data => "data",
        };
        let typed = map.key_type.is_some() || map.value_type.is_some();
        MapRow::from_def(&map.def, origin, typed)
    }

    fn from_def(def: &'a squalus_isa::MapDef, origin: &'static str, typed: bool) -> Self {
        let inner = def.inner.as_deref();
        MapRow {
            name: &def.name,
            kind: def.kind.name(),
            bytes_key: def.key_size,
            bytes_value: def.value_size,
            max_entries: def.max_entries,
            flags: def.flags.0,
            origin,
            typed,
            inner: inner.map(|inner| Box::new(MapRow::from_def(inner, origin, false))),
        }
    }

    fn text(&self) -> String {
        let mut row = format!("{}: {}  {}", self.name, self.shape(), self.origin);
        if self.typed {
            row += "  typed";
        }
        if let Some(inner) = &self.inner {
            row += "  of ";
            row += &inner.shape();
        }
        row
    }

    /// In the words of `bpftool map show`.
    fn shape(&self) -> String {
        format!(
            "{}  key {}B  value {}B  max_entries {}  flags {:#x}",
            self.kind, self.bytes_key, self.bytes_value, self.max_entries, self.flags
        )
    }
}

impl<'a> GlobalRow<'a> {
    fn of(global: &'a Global) -> Self {
        GlobalRow {
            name: &global.name,
            section: &global.section,
            offset: global.offset,
            size: global.size,
        }
    }

    fn text(&self) -> String {
        let GlobalRow {
            name,
            section,
            offset,
            size,
        } = self;
        format!("{name}: {section}+{offset}  {size}B")
    }
}
