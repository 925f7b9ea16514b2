//! `squalus prog attach` and `detach`: a program on an interface, in the kernel or in userspace.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use squalus_bench::engines::EngineName;
use squalus_kernel::{
    AttachedProgram, KernelEngine, KernelError, LoadOptions, ProgramInfo, Which, interface_index,
};
use squalus_object::{Object, ProgramKind, XdpAttach};

use super::foreground::{self, ForegroundArgs};
use super::place::{ModeWord, Place, word};
use super::{loaded, print, print_json};

/// Options of `squalus prog attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The interface.
    #[arg(value_name = "IFACE")]
    pub interface: String,
    /// The object file.
    #[arg(value_name = "OBJ")]
    pub object: PathBuf,
    /// The program, if the object has several for interfaces.
    #[arg(long = "prog", visible_alias = "prog-name", value_name = "NAME")]
    pub program: Option<String>,
    /// Where to run it: in the kernel, where it stays until it is detached, or in userspace as long as this command
    /// runs.
    #[arg(long, value_enum, default_value = "kernel")]
    pub engine: EngineName,
    /// Where in the kernel frames meet it (with a userspace engine: meet the program that hands them to AF_XDP).
    #[arg(
        short,
        long,
        value_enum,
        ignore_case = true,
        default_value = "unspecified"
    )]
    pub mode: ModeWord,
    /// Take the place of a program that is attached already, whoever attached it.
    #[arg(long, visible_alias = "force")]
    replace: bool,
    /// Give the maps names in this directory of a bpf file system, and use those that are there already. Maps that
    /// the object wants shared by name go to the `maps` directory of --bpffs.
    #[arg(long, visible_alias = "pin-path", value_name = "DIR")]
    pin: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    pub foreground: ForegroundArgs,
    /// Print JSON.
    #[arg(short, long)]
    pub json: bool,
}

/// Attaches, and says what was obtained. A userspace engine runs until it is told to stop.
///
/// # Errors
/// If there is no such interface or program, the object won't load, or the interface is taken.
pub fn run(args: &AttachArgs) -> Result<bool> {
    // Before anything takes long.
    let ifindex = interface_index(&args.interface)?;
    let object = loaded::parse(&args.object)?;
    let program = choose(&object, args.program.as_deref())?;
    if let Some(kind) = args.engine.userspace() {
        if args.replace || args.pin.is_some() {
            bail!("--replace and --pin are for --engine kernel");
        }
        return foreground::run(args, kind, object, &program);
    }
    if args.foreground.is_given() {
        bail!("--seconds, --interval, --io and --cores are for --engine jit or interp");
    }
    attach_to_kernel(args, ifindex, object, &program)
}

fn attach_to_kernel(
    args: &AttachArgs,
    ifindex: u32,
    object: Object,
    program: &str,
) -> Result<bool> {
    let options = LoadOptions {
        only: vec![program.to_owned()],
        shared: Some(args.place.maps()),
        pin: args.pin.clone(),
        offload: (args.mode == ModeWord::Hw).then_some(ifindex),
        ..LoadOptions::default()
    };
    let engine = KernelEngine::load_object(object, &options).with_context(|| match args.mode {
        ModeWord::Hw => format!(
            "`{}` takes no program for its hardware (few network cards do)",
            args.interface
        ),
        _ => format!("cannot load {} into the kernel", args.object.display()),
    })?;
    let mode = args.mode.mode();
    let attachments = args.place.attachments();
    let done = attachments
        .attach(&engine, program, &args.interface, mode, args.replace)
        .map_err(with_advice)?;
    let fallback = done.fallback.map(|errno| {
        format!(
            "`{}` refuses XDP in its driver ({errno}); the program runs in the network stack (skb), which is slower",
            args.interface
        )
    });
    let report = Attachment {
        ifname: &args.interface,
        ifindex,
        mode: word(done.mode),
        program: Program::of(engine.program_info(program)?),
        replaced: done.replaced.map(Replaced::of),
        pinned: done.pinned,
        notices: fallback.into_iter().collect(),
    };
    if args.json {
        print_json(&report)?;
    } else {
        report
            .notices
            .iter()
            .for_each(|notice| eprintln!("{notice}"));
        print(&report.text())?;
    }
    Ok(true)
}

/// Says how to replace a program where one is in the way.
fn with_advice(error: KernelError) -> anyhow::Error {
    match error {
        KernelError::Occupied { .. } => {
            anyhow::anyhow!("{error}, or take its place with --replace")
        }
        error => error.into(),
    }
}

/// The program to attach: the one wanted, or the only one for interfaces.
fn choose(object: &Object, wanted: Option<&str>) -> Result<String> {
    if let Some(name) = wanted {
        let program = object.require_program(name)?;
        if program.attach != XdpAttach::Interface {
            bail!(
                "program `{name}` (section {}) is for entries of device or CPU maps, not for interfaces",
                program.section
            );
        }
        return Ok(name.to_owned());
    }
    let fits = |p: &&squalus_object::Program| {
        let xdp = matches!(p.kind, ProgramKind::Xdp { .. });
        xdp && p.autoload && p.attach == XdpAttach::Interface
    };
    let found: Vec<&str> = object
        .programs
        .iter()
        .filter(fits)
        .map(|p| &*p.name)
        .collect();
    match found[..] {
        [only] => Ok(only.to_owned()),
        [] => {
            let all: Vec<&str> = object.programs.iter().map(|p| &*p.name).collect();
            bail!(
                "the object has no XDP program for interfaces; name one with --prog ({})",
                all.join(", ")
            )
        }
        _ => bail!(
            "the object has several XDP programs: name one with --prog ({})",
            found.join(", ")
        ),
    }
}

/// What was attached.
#[derive(Serialize)]
struct Attachment<'a> {
    ifname: &'a str,
    ifindex: u32,
    mode: &'static str,
    #[serde(flatten)]
    program: Program,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<Replaced>,
    pinned: PathBuf,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<String>,
}

#[derive(Serialize)]
struct Program {
    id: u32,
    name: String,
    tag: String,
    map_ids: Vec<u32>,
}

impl Program {
    fn of(info: ProgramInfo) -> Program {
        Program {
            id: info.id,
            name: info.name,
            tag: hex::encode(info.tag),
            map_ids: info.maps,
        }
    }
}

/// A program that is attached no longer.
#[derive(Serialize)]
struct Replaced {
    id: u32,
    name: String,
    mode: &'static str,
}

impl Replaced {
    fn of(program: AttachedProgram) -> Replaced {
        Replaced {
            id: program.id,
            name: program.name,
            mode: word(program.mode),
        }
    }
}

impl Attachment<'_> {
    fn text(&self) -> String {
        let Attachment {
            ifname,
            mode,
            program,
            ..
        } = self;
        let replaced = self.replaced.as_ref();
        let replaced = replaced.map(|old| format!(", in place of id {} `{}`", old.id, old.name));
        format!(
            "{ifname}: id {} `{}` attached in {mode} mode{}; it stays until `squalus prog detach {ifname}`\n",
            program.id,
            program.name,
            replaced.unwrap_or_default()
        )
    }
}

/// Options of `squalus prog detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// The interface.
    #[arg(value_name = "IFACE")]
    interface: String,
    /// Detach the program with this number, whoever attached it.
    #[arg(short, long, value_name = "N", conflicts_with = "all")]
    id: Option<u32>,
    /// Detach whatever is attached, whoever attached it.
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    place: Place,
    /// Print JSON.
    #[arg(short, long)]
    json: bool,
}

/// Detaches, and says what.
///
/// # Errors
/// If there is no such interface, or nothing attached that may go.
pub fn detach(args: &DetachArgs) -> Result<bool> {
    #[derive(Serialize)]
    struct Detached<'a> {
        ifname: &'a str,
        #[serde(flatten)]
        program: Replaced,
    }
    let which = match (args.id, args.all) {
        (Some(id), _) => Which::Id(id),
        (None, true) => Which::Any,
        (None, false) => Which::Ours,
    };
    let detached = args.place.attachments().detach(&args.interface, which);
    let program = detached.map_err(|error| match error {
        KernelError::OtherProgram { ref program, .. } => {
            let id = program.id;
            anyhow::anyhow!("{error}; `--id {id}` or `--all` detaches it all the same")
        }
        error => error.into(),
    })?;
    let report = Detached {
        ifname: &args.interface,
        program: Replaced::of(program),
    };
    if args.json {
        print_json(&report)?;
    } else {
        let Replaced { id, name, mode } = &report.program;
        print(&format!(
            "{}: id {id} `{name}` detached ({mode} mode)\n",
            report.ifname
        ))?;
    }
    Ok(true)
}
