//! `squalus prog load`: an object's programs into the kernel, to stay there or only to see that they load.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use squalus_engine::{Engine, MapAccess};
use squalus_kernel::{KernelEngine, LoadOptions};
use squalus_object::Object;

use super::loaded;
use super::place::Place;

/// Options of `squalus prog load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The object file.
    #[arg(value_name = "OBJ")]
    object: PathBuf,
    /// Load this program (may be given several times) and those it jumps to; all XDP programs if not given.
    #[arg(long = "prog", visible_alias = "prog-name", value_name = "NAME")]
    programs: Vec<String>,
    /// Keep programs and maps in the kernel under their names in this directory of a bpf file system. Maps that the
    /// object wants shared by name go to the `maps` directory of --bpffs.
    #[arg(long, visible_alias = "pin-path", value_name = "DIR")]
    pin: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// Print JSON.
    #[arg(short, long)]
    json: bool,
}

/// Loads, and prints what the kernel made of it.
///
/// # Errors
/// If the object is malformed, the kernel refuses it, or something is pinned already.
pub fn run(args: &LoadArgs) -> Result<bool> {
    let object = loaded::parse(&args.object)?;
    let options = LoadOptions {
        only: args.programs.clone(),
        shared: args.pin.is_some().then(|| args.place.maps()),
        pin: args.pin.clone(),
        ..LoadOptions::default()
    };
    if let Some(directory) = &args.pin {
        refuse_known_programs(&object, directory)?;
    }
    let engine = KernelEngine::load_object(object, &options)
        .with_context(|| format!("cannot load {} into the kernel", args.object.display()))?;
    if let Some(directory) = &args.pin {
        pin_programs(&engine, directory)?;
    }
    let refused = refused(&engine, &args.programs);
    let report = Report::of(&engine, args.pin.as_deref(), refused)?;
    if args.json {
        super::print_json(&report)?;
    } else {
        super::print(&report.text())?;
        if args.pin.is_none() {
            eprintln!("not pinned: nothing stays in the kernel (--pin DIR keeps it)");
        }
    }
    Ok(true)
}

/// Programs that nobody can load, unless they are not wanted.
fn refused(engine: &KernelEngine, wanted: &[String]) -> Vec<Refused> {
    let all = engine.refused().iter().filter(|_| wanted.is_empty());
    all.map(|refused| Refused {
        name: refused.name.clone(),
        reason: refused.reason.to_string(),
    })
    .collect()
}

/// Pinning over other programs fails, which had better be known before maps are made.
fn refuse_known_programs(object: &Object, directory: &Path) -> Result<()> {
    let paths = object
        .programs
        .iter()
        .map(|program| directory.join(&program.name));
    if let Some(path) = paths.into_iter().find(|path| path.exists()) {
        bail!(
            "{} exists: something is pinned there already; remove it, or choose another directory",
            path.display()
        );
    }
    Ok(())
}

fn pin_programs(engine: &KernelEngine, directory: &Path) -> Result<()> {
    let programs = engine.programs();
    for (done, name) in programs.iter().enumerate() {
        if let Err(error) = engine.pin_program(name, &directory.join(name)) {
            for made in &programs[..done] {
                // The first error is the one to report.
                let _ = std::fs::remove_file(directory.join(made));
            }
            return Err(error.into());
        }
    }
    Ok(())
}

/// What was loaded; bpftool's names where it has them.
#[derive(Serialize)]
struct Report {
    programs: Vec<Program>,
    maps: Vec<Map>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<Refused>,
}

#[derive(Serialize)]
struct Program {
    id: u32,
    name: String,
    tag: String,
    bytes_xlated: u32,
    bytes_jited: u32,
    map_ids: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<PathBuf>,
}

#[derive(Serialize)]
struct Map {
    id: u32,
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Refused {
    name: String,
    reason: String,
}

impl Report {
    fn of(engine: &KernelEngine, pin: Option<&Path>, refused: Vec<Refused>) -> Result<Report> {
        let program = |name: String| -> Result<Program> {
            let info = engine.program_info(&name)?;
            Ok(Program {
                id: info.id,
                tag: hex::encode(info.tag),
                bytes_xlated: info.xlated,
                bytes_jited: info.jited,
                map_ids: info.maps,
                pinned: pin.map(|directory| directory.join(&name)),
                name,
            })
        };
        let map = |def: squalus_isa::MapDef| -> Result<Map> {
            Ok(Map {
                id: engine.map_id(&def.name)?,
                kind: def.kind.name(),
                name: def.name,
            })
        };
        Ok(Report {
            programs: engine
                .programs()
                .into_iter()
                .map(program)
                .collect::<Result<_>>()?,
            maps: engine.maps().into_iter().map(map).collect::<Result<_>>()?,
            refused,
        })
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for program in &self.programs {
            let Program {
                id,
                name,
                tag,
                bytes_xlated,
                bytes_jited,
                map_ids,
                ..
            } = program;
            out +=
                &format!("{id}: {name}  tag {tag}  xlated {bytes_xlated}B  jited {bytes_jited}B");
            if !map_ids.is_empty() {
                let maps = map_ids.iter().map(|id| self.map_name(*id));
                out += &format!("  maps {}", maps.collect::<Vec<_>>().join(","));
            }
            if let Some(path) = &program.pinned {
                out += &format!("  pinned {}", path.display());
            }
            out.push('\n');
        }
        for Refused { name, reason } in &self.refused {
            out += &format!("left out: {name}: {reason}\n");
        }
        out
    }

    fn map_name(&self, id: u32) -> String {
        let map = self.maps.iter().find(|map| map.id == id);
        map.map_or_else(|| id.to_string(), |map| format!("{}#{id}", map.name))
    }
}
