//! What can go wrong between an object and the kernel.

use std::path::PathBuf;

use squalus_engine::EngineError;
use squalus_isa::Errno;
use squalus_object::ObjectError;
use squalus_object::host::HostError;

use crate::{AttachedProgram, Holder, Mode, verifier};

/// Why the kernel could not take an object, run or attach it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The process may not load programs.
    #[error("the kernel refused to {what} (EPERM): {advice}")]
    Privilege {
        /// What was tried.
        what: String,
        /// Which capability is missing.
        advice: String,
    },
    /// The bytes are no object that can be loaded.
    #[error("not a usable BPF object: {0}")]
    Object(#[source] ObjectError),
    /// The object cannot be fitted to the running kernel.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The object has no XDP program.
    #[error(
        "the object has no XDP program that loads by itself (its section would be named `xdp` or `xdp.frags`; \
         one of another section can be loaded by name){}",
        if .0.is_empty() { String::new() } else { format!(": it has {}", .0) }
    )]
    NoXdpProgram(
        /// What it has instead.
        String,
    ),
    /// An option names what the object doesn't have, or does not fit it.
    #[error("load option for `{name}`: {reason}")]
    Option {
        /// The global variable or map.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A map could not be created.
    #[error("creating map `{map}` failed: {errno}{hint}")]
    CreateMap {
        /// The map.
        map: String,
        /// The kernel's answer.
        errno: Errno,
        /// What usually helps.
        hint: &'static str,
    },
    /// A pinned map is not what the object declares.
    #[error(
        "the map pinned at {} is not what the object declares as `{map}` ({difference}); \
         remove the file, or give another directory",
        path.display()
    )]
    PinnedMap {
        /// The map.
        map: String,
        /// Where it is pinned.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// What the object puts into a map at first was refused.
    #[error("entry {index} of map `{map}` cannot be set to `{target}`: {errno}")]
    Initial {
        /// The map.
        map: String,
        /// The entry.
        index: u32,
        /// The program it should hold.
        target: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Pins belong in a bpf file system.
    #[error(
        "{} is not in a bpf file system: choose a directory below /sys/fs/bpf, or mount one \
         (`mount -t bpf bpf DIRECTORY`)",
        .0.display()
    )]
    NotBpfFs(
        /// The path.
        PathBuf,
    ),
    /// A name in the bpf file system can't be had.
    #[error("{doing} {} failed: {reason}", path.display())]
    Path {
        /// What was tried.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The kernel has nothing with this number.
    #[error("the kernel has no {what} with number {id}")]
    NoObject {
        /// `program`, `map` or `link`.
        what: &'static str,
        /// The number.
        id: u32,
    },
    /// The verifier rejected a program.
    #[error(
        "the kernel rejected program `{program}`: {errno}{}\n{}",
        line.as_ref().map_or(String::new(), |line| format!(", at {line}")),
        verifier::excerpt(log)
    )]
    Verifier {
        /// The program.
        program: String,
        /// The kernel's answer.
        errno: Errno,
        /// File, number and text of the source line that was refused, if the object has them.
        line: Option<String>,
        /// The verifier's log; its end if it was very long.
        log: String,
    },
    /// A map or program of the loaded object refused an operation.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No such interface.
    #[error(
        "there is no interface `{interface}` in this network namespace; there are: {available}"
    )]
    NoInterface {
        /// The name asked for.
        interface: String,
        /// The names there are.
        available: String,
    },
    /// The interface already runs a program.
    #[error(
        "interface `{interface}` already has an XDP program in {} mode: {program}. {}",
        program.mode, how_to_detach(interface, program, *holder)
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// What it runs.
        program: AttachedProgram,
        /// Who holds that there.
        holder: Holder,
    },
    /// There is nothing to detach.
    #[error("interface `{interface}` has no XDP program")]
    NothingAttached {
        /// The interface.
        interface: String,
    },
    /// The program on the interface is not the one that was meant.
    #[error(
        "the XDP program on `{interface}` is another: {program} in {} mode, held by {}",
        program.mode,
        match holder {
            Holder::Ours => "squalus".to_owned(),
            Holder::Link(id) => format!("link {id} of somebody else"),
            Holder::Interface => "the interface itself (attached without a link)".to_owned(),
            Holder::Unknown => "somebody unknown".to_owned(),
        }
    )]
    OtherProgram {
        /// The interface.
        interface: String,
        /// What it runs.
        program: AttachedProgram,
        /// Who holds that there.
        holder: Holder,
    },
    /// A program could not be taken off its interface.
    #[error("detaching {program} from `{interface}` failed: {reason}")]
    Detach {
        /// The interface.
        interface: String,
        /// What it runs.
        program: AttachedProgram,
        /// Why.
        reason: String,
    },
    /// A program was taken off to be replaced, and its successor refused.
    #[error("{error}; the program attached to `{interface}` before, {program}, is gone already")]
    Bare {
        /// The interface.
        interface: String,
        /// What it ran.
        program: AttachedProgram,
        /// Why it runs nothing now.
        #[source]
        error: Box<KernelError>,
    },
    /// Attaching failed.
    #[error("attaching to `{interface}` in {mode} mode failed: {errno}{hint}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode tried.
        mode: Mode,
        /// The kernel's answer.
        errno: Errno,
        /// What usually helps.
        hint: &'static str,
    },
    /// Another system call failed.
    #[error("{what} failed: {errno}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A measurement was asked for that cannot be made.
    #[error("cannot measure: {0}")]
    Measure(String),
}

impl KernelError {
    pub(crate) fn replacing(interface: &str, mode: Mode, errno: Errno) -> KernelError {
        KernelError::Attach {
            interface: interface.to_owned(),
            mode,
            errno,
            hint: " (the program attached before is still in place)",
        }
    }
}

fn how_to_detach(interface: &str, program: &AttachedProgram, holder: Holder) -> String {
    let off = format!("`ip link set dev {interface} {} off`", program.mode.word());
    match holder {
        Holder::Ours => format!("It was attached to stay: `squalus prog detach {interface}`"),
        Holder::Link(id) => format!("Link {id} holds it (see `bpftool link`): stop its owner"),
        Holder::Interface => format!("Detach it with {off}"),
        Holder::Unknown => format!(
            "Stop its owner, or detach it with {off} \
             (programs attached through a link go only with their owner: see `bpftool link`)"
        ),
    }
}
