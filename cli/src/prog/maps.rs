//! `squalus prog dump`: what is in maps, of an object as it would be loaded or of the running kernel.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{ArgGroup, Args};
use squalus_bench::engines::{CodeArgs, EngineName};
use squalus_kernel::{LiveMaps, ProgramInfo};

use super::dump::{self, Wanted};
use super::loaded::{self, Loaded};

/// Options of `squalus prog dump`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub struct DumpArgs {
    /// The object file: its maps as programs find them at the first frame.
    #[arg(value_name = "OBJ", group = "what")]
    object: Option<PathBuf>,
    /// What is pinned here in a bpf file system: a map, a program's maps, or those of all files of a directory.
    #[arg(long, value_name = "PATH", group = "what")]
    pinned: Option<PathBuf>,
    /// The maps with these numbers.
    #[arg(long, value_name = "N,...", value_delimiter = ',', group = "what")]
    id: Vec<u32>,
    /// The maps of the program with this number.
    #[arg(long, value_name = "N", group = "what")]
    program: Option<u32>,
    /// The maps of the program on this interface.
    #[arg(long, visible_alias = "iface", value_name = "IFACE", group = "what")]
    interface: Option<String>,
    /// Only these maps; also such that have very many entries. Entries of arrays that are zero are left out.
    #[arg(long, value_name = "MAP,...", value_delimiter = ',')]
    map: Vec<String>,
    /// Print JSON.
    #[arg(short, long)]
    json: bool,
}

/// Prints the maps.
///
/// # Errors
/// If there is no such object, map, program or interface, or the kernel does not let us read it.
pub fn run(args: &DumpArgs) -> Result<bool> {
    let dumps = match &args.object {
        Some(path) => of_object(path, &names(args))?,
        None => of_kernel(args)?,
    };
    if args.json {
        super::print_json(&dumps)?;
    } else if dumps.is_empty() {
        super::print("no maps to list\n")?;
    } else {
        let texts: Vec<String> = dumps.iter().map(ToString::to_string).collect();
        super::print(&texts.join("\n"))?;
    }
    Ok(true)
}

fn names(args: &DumpArgs) -> Vec<&str> {
    args.map.iter().map(String::as_str).collect()
}

fn of_object(path: &std::path::Path, names: &[&str]) -> Result<Vec<dump::MapDump>> {
    let object = loaded::parse(path)?;
    let loaded = Loaded::load(
        EngineName::Interp,
        &loaded::read(path)?,
        None,
        CodeArgs::default(),
    )?;
    dump::check(loaded.maps(), names)?;
    dump::all(loaded.maps(), &object, Wanted::or(names, Wanted::All))
}

fn of_kernel(args: &DumpArgs) -> Result<Vec<dump::MapDump>> {
    let live = match (&args.pinned, &args.interface, args.program) {
        (Some(path), ..) => LiveMaps::pinned(path)?,
        (_, Some(interface), _) => {
            let Some(program) = squalus_kernel::attached_program(interface)? else {
                bail!("interface `{interface}` has no XDP program");
            };
            LiveMaps::by_ids(&ProgramInfo::by_id(program.id)?.maps)?
        }
        (.., Some(id)) => LiveMaps::by_ids(&ProgramInfo::by_id(id)?.maps)?,
        _ => LiveMaps::by_ids(&args.id)?,
    };
    let names = names(args);
    dump::check(live.access(), &names)?;
    dump::all(live.access(), &live, Wanted::or(&names, Wanted::All))
}
