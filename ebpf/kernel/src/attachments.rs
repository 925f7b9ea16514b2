//! Programs on interfaces that outlive the process which attached them.
//!
//! A link lives as long as somebody holds it, and a name in a bpf file system holds it. So every interface on
//! which a program is to stay has a file there, named after the network namespace and the interface's
//! number: numbers of interfaces are unique in a namespace only, names of interfaces change. A file whose
//! interface is gone is recognised by its link, which then has none, and removed.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use squalus_isa::Errno;

use crate::attach::{interface_index, query};
use crate::privilege::Needs;
use crate::sys::{self, LinkInfo};
use crate::{AttachedProgram, KernelEngine, KernelError, Mode, ProgramInfo, bpffs, netlink};

/// The attachments that files in one directory of a bpf file system hold.
#[derive(Clone, Debug)]
pub struct Attachments {
    directory: PathBuf,
}

/// Who holds a program on its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A file of these [`Attachments`].
    Ours,
    /// Another link, with this number; it lasts as long as its owner wants.
    Link(u32),
    /// The interface itself: the program was attached without a link and stays until it is taken off.
    Interface,
    /// Not known: listing links needs `CAP_SYS_ADMIN`.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Ours => f.write_str("squalus"),
            Holder::Link(id) => write!(f, "link {id}"),
            Holder::Interface => f.write_str("interface"),
            Holder::Unknown => f.write_str("unknown"),
        }
    }
}

/// An interface and what runs on it.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub interface: String,
    /// Its number.
    pub ifindex: u32,
    /// Its program.
    pub program: Option<RunningProgram>,
}

/// The program of an interface.
#[derive(Clone, Debug)]
pub struct RunningProgram {
    /// Number, name, mode.
    pub attached: AttachedProgram,
    /// Who holds it there.
    pub holder: Holder,
    /// What else the kernel tells; not without `CAP_SYS_ADMIN`.
    pub info: Option<ProgramInfo>,
}

/// How an attachment went.
#[derive(Clone, Debug)]
pub struct AttachReport {
    /// The mode obtained: never [`Mode::Auto`].
    pub mode: Mode,
    /// With [`Mode::Auto`] asked and generic mode obtained: why the driver refused.
    pub fallback: Option<Errno>,
    /// The program that was there before.
    pub replaced: Option<AttachedProgram>,
    /// The file that holds the link.
    pub pinned: PathBuf,
}

/// Which program to detach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// One that these attachments hold.
    Ours,
    /// Whatever is there.
    Any,
    /// The one with this number.
    Id(u32),
}

/// An attachment of ours.
struct Held {
    link: OwnedFd,
    info: LinkInfo,
    path: PathBuf,
}

impl Attachments {
    /// The attachments in a directory, which is created when the first one is made.
    #[must_use]
    pub fn in_directory(directory: impl Into<PathBuf>) -> Attachments {
        Attachments {
            directory: directory.into(),
        }
    }

    /// Attaches `program` of `engine` to an interface of the calling thread's network namespace, so that it
    /// stays there when the engine is dropped and the process ends.
    ///
    /// With `replace`, a program that is there already goes; if it is one of these attachments and the mode
    /// need not change, every frame meets either the old or the new program.
    ///
    /// # Errors
    /// If there is no such program or interface, the interface has an XDP program already (without
    /// `replace`), its driver cannot run this one in the mode asked for, or the directory cannot be used.
    pub fn attach(
        &self,
        engine: &KernelEngine,
        program: &str,
        interface: &str,
        mode: Mode,
        replace: bool,
    ) -> Result<AttachReport, KernelError> {
        let loaded = engine.program(program)?;
        let ifindex = interface_index(interface)?;
        let path = self.path(ifindex)?;
        let Some(current) = query(ifindex)? else {
            return self.attach_fresh(engine, program, interface, mode, path);
        };
        let held = self.held(ifindex)?;
        let holder = holder(held.as_ref(), ifindex, current.id);
        if !replace {
            return Err(KernelError::Occupied {
                interface: interface.to_owned(),
                program: current,
                holder,
            });
        }
        if let (Holder::Ours, Some(held)) = (holder, &held)
            && (mode == Mode::Auto || mode == current.mode)
        {
            sys::link_update(held.link.as_fd(), loaded.fd.as_fd())
                .map_err(|errno| KernelError::replacing(interface, current.mode, errno))?;
            return Ok(AttachReport {
                mode: current.mode,
                fallback: None,
                replaced: Some(current),
                pinned: path,
            });
        }
        remove(interface, ifindex, &current, holder, held)?;
        match self.attach_fresh(engine, program, interface, mode, path) {
            Ok(report) => Ok(AttachReport {
                replaced: Some(current),
                ..report
            }),
            Err(error) => Err(KernelError::Bare {
                interface: interface.to_owned(),
                program: current,
                error: Box::new(error),
            }),
        }
    }

    fn attach_fresh(
        &self,
        engine: &KernelEngine,
        program: &str,
        interface: &str,
        mode: Mode,
        path: PathBuf,
    ) -> Result<AttachReport, KernelError> {
        // Before anything is attached, so that a frame never meets a program that goes at once.
        bpffs::create_directory(&self.directory)?;
        let attached = engine.attach(program, interface, mode)?;
        // What may be there has lost its interface.
        bpffs::unpin(&path)?;
        bpffs::pin(attached.link.as_fd(), &path)?;
        Ok(AttachReport {
            mode: attached.mode(),
            fallback: attached.fallback(),
            replaced: None,
            pinned: path,
        })
    }

    /// Takes the program off an interface of the calling thread's network namespace, and says which it was.
    ///
    /// # Errors
    /// If there is no such interface, nothing is attached to it, or another program than `which` says.
    pub fn detach(&self, interface: &str, which: Which) -> Result<AttachedProgram, KernelError> {
        let ifindex = interface_index(interface)?;
        let current = query(ifindex)?.ok_or_else(|| KernelError::NothingAttached {
            interface: interface.to_owned(),
        })?;
        let held = self.held(ifindex)?;
        let holder = holder(held.as_ref(), ifindex, current.id);
        let wanted = match which {
            Which::Ours => holder == Holder::Ours,
            Which::Any => true,
            Which::Id(id) => id == current.id,
        };
        if !wanted {
            return Err(KernelError::OtherProgram {
                interface: interface.to_owned(),
                program: current,
                holder,
            });
        }
        remove(interface, ifindex, &current, holder, held)?;
        Ok(current)
    }

    /// What runs on an interface of the calling thread's network namespace, or on each.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel cannot be asked.
    pub fn status(&self, interface: Option<&str>) -> Result<Vec<Status>, KernelError> {
        let interfaces = match interface {
            Some(name) => vec![(interface_index(name)?, name.to_owned())],
            None => sys::interfaces().map_err(|errno| KernelError::System {
                what: "listing interfaces",
                errno,
            })?,
        };
        let status = |(ifindex, interface)| {
            Ok(Status {
                program: self.running(ifindex)?,
                interface,
                ifindex,
            })
        };
        interfaces.into_iter().map(status).collect()
    }

    fn running(&self, ifindex: u32) -> Result<Option<RunningProgram>, KernelError> {
        let Some(attached) = query(ifindex)? else {
            return Ok(None);
        };
        // Who may not look into the directory is told what the kernel tells everybody.
        let held = self.held(ifindex).ok().flatten();
        Ok(Some(RunningProgram {
            holder: holder(held.as_ref(), ifindex, attached.id),
            info: ProgramInfo::by_id(attached.id).ok(),
            attached,
        }))
    }

    /// Our link to an interface.
    fn held(&self, ifindex: u32) -> Result<Option<Held>, KernelError> {
        let path = self.path(ifindex)?;
        if !path.exists() {
            return Ok(None);
        }
        let Some(link) = bpffs::open(&path)? else {
            return Ok(None);
        };
        let info = sys::link_info(link.as_fd()).ok().flatten();
        let info = info.filter(|info| info.ifindex == ifindex);
        Ok(info.map(|info| Held { link, info, path }))
    }

    /// The file for an interface of the calling thread's network namespace.
    fn path(&self, ifindex: u32) -> Result<PathBuf, KernelError> {
        let namespace = network_namespace().ok_or(KernelError::System {
            what: "finding the network namespace in /proc/thread-self/ns/net",
            errno: Errno::ENOENT,
        })?;
        Ok(self.directory.join(format!("{namespace}-{ifindex}")))
    }
}

/// The number of the calling thread's network namespace.
fn network_namespace() -> Option<u64> {
    let link = std::fs::read_link("/proc/thread-self/ns/net").ok()?;
    let number = link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?;
    number.parse().ok()
}

fn holder(held: Option<&Held>, ifindex: u32, program: u32) -> Holder {
    if held.is_some_and(|held| held.info.program == program) {
        return Holder::Ours;
    }
    match link_of(ifindex, program) {
        Ok(Some((_, info))) => Holder::Link(info.id),
        Ok(None) => Holder::Interface,
        Err(_) => Holder::Unknown,
    }
}

/// The link that holds this program on this interface.
fn link_of(ifindex: u32, program: u32) -> Result<Option<(OwnedFd, LinkInfo)>, Errno> {
    let mut last = 0;
    while let Some(id) = sys::next_link_id(last)? {
        last = id;
        // Others come and go meanwhile.
        let Ok(link) = sys::link_fd_by_id(id) else {
            continue;
        };
        if let Ok(Some(info)) = sys::link_info(link.as_fd())
            && (info.ifindex, info.program) == (ifindex, program)
        {
            return Ok(Some((link, info)));
        }
    }
    Ok(None)
}

fn remove(
    interface: &str,
    ifindex: u32,
    program: &AttachedProgram,
    holder: Holder,
    held: Option<Held>,
) -> Result<(), KernelError> {
    let failed = |errno| KernelError::Detach {
        interface: interface.to_owned(),
        program: program.clone(),
        reason: match errno {
            Errno::EPERM => Needs::OpenById.advice(),
            errno => errno.to_string(),
        },
    };
    if let (Holder::Ours, Some(held)) = (holder, held) {
        sys::link_detach(held.link.as_fd()).map_err(failed)?;
        return bpffs::unpin(&held.path);
    }
    if let Holder::Link(_) = holder {
        let link = link_of(ifindex, program.id).map_err(failed)?;
        return match link {
            Some((link, _)) => sys::link_detach(link.as_fd()).map_err(failed),
            None => Ok(()),
        };
    }
    netlink::remove_xdp_program(ifindex, program.mode.flag()).map_err(failed)
}
