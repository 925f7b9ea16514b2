//! Programs on interfaces.
//!
//! Attaching goes through a BPF link: the kernel detaches when the last descriptor of the link closes,
//! so a balancer that is killed leaves no program behind.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use squalus_isa::Errno;

use crate::privilege::Needs;
use crate::{Holder, KernelEngine, KernelError, netlink, sys};

/// Where in its receive path an interface runs the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// In the driver, before the kernel has made a socket buffer.
    Native,
    /// In the network stack, on a socket buffer: works on any interface, several times slower.
    Generic,
    /// On the network card itself; the program must have been loaded for it ([`LoadOptions::offload`](crate::LoadOptions::offload)).
    Hardware,
    /// Native if the driver can, else generic.
    #[default]
    Auto,
}

impl Mode {
    /// The kernel's flag for it (`XDP_FLAGS_*_MODE`); none leaves the choice to the kernel.
    pub(crate) const fn flag(self) -> u32 {
        match self {
            Mode::Generic => 1 << 1,
            Mode::Native => 1 << 2,
            Mode::Hardware => 1 << 3,
            Mode::Auto => 0,
        }
    }

    /// What `ip link set dev ... off` calls it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Mode::Generic => "xdpgeneric",
            Mode::Native => "xdpdrv",
            Mode::Hardware => "xdpoffload",
            Mode::Auto => "xdp",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Native => "native",
            Mode::Generic => "generic",
            Mode::Hardware => "hardware",
            Mode::Auto => "auto",
        })
    }
}

/// The XDP program of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// The kernel's number of the program.
    pub id: u32,
    /// The program's name, cut to 15 characters by the kernel; empty if it cannot be read.
    pub name: String,
    /// [`Mode::Native`] or [`Mode::Generic`].
    pub mode: Mode,
}

impl fmt::Display for AttachedProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id {} `{}`", self.id, self.name)
    }
}

/// A program on an interface, until this value is dropped or the process ends.
#[derive(Debug)]
pub struct Attached {
    pub(crate) link: OwnedFd,
    interface: String,
    ifindex: u32,
    mode: Mode,
    fallback: Option<Errno>,
}

impl Attached {
    /// Name the interface had when the program was attached.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Number of the interface.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The mode obtained: never [`Mode::Auto`].
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// With [`Mode::Auto`] asked and generic mode obtained: why the driver refused.
    #[must_use]
    pub fn fallback(&self) -> Option<Errno> {
        self.fallback
    }

    /// Puts `program` of `engine` in place of the one attached. Every frame meets either the old or
    /// the new program. The old engine may be dropped afterwards.
    ///
    /// # Errors
    /// If there is no such program, or the kernel refuses; the old program then stays.
    pub fn replace(&self, engine: &KernelEngine, program: &str) -> Result<(), KernelError> {
        let program = engine.program(program)?;
        sys::link_update(self.link.as_fd(), program.fd.as_fd())
            .map_err(|errno| KernelError::replacing(&self.interface, self.mode, errno))
    }

    /// Detaches now. Dropping the value does the same.
    pub fn detach(self) {
        drop(self.link);
    }
}

impl KernelEngine {
    /// Attaches `program` to an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// If there is no such program or interface, the interface has an XDP program already, or its
    /// driver cannot run this one in the mode asked for.
    pub fn attach(
        &self,
        program: &str,
        interface: &str,
        mode: Mode,
    ) -> Result<Attached, KernelError> {
        let program = self.program(program)?;
        let ifindex = interface_index(interface)?;
        let link = |mode: Mode| sys::link_create_xdp(program.fd.as_fd(), ifindex, mode.flag());
        let failed = |mode| move |errno| attach_error(interface, ifindex, mode, errno);
        let (link, mode, fallback) = match mode {
            Mode::Auto => match link(Mode::Native) {
                Ok(link) => (link, Mode::Native, None),
                Err(errno) if !is_final(errno) => {
                    let link = link(Mode::Generic).map_err(failed(Mode::Generic))?;
                    (link, Mode::Generic, Some(errno))
                }
                Err(errno) => return Err(failed(Mode::Native)(errno)),
            },
            mode => (link(mode).map_err(failed(mode))?, mode, None),
        };
        Ok(Attached {
            link,
            interface: interface.to_owned(),
            ifindex,
            mode,
            fallback,
        })
    }
}

/// Whether an error has nothing to do with the driver, so that generic mode would fail as well.
fn is_final(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EBUSY | Errno::EEXIST | Errno::EPERM | Errno::ENODEV
    )
}

fn attach_error(interface: &str, ifindex: u32, mode: Mode, errno: Errno) -> KernelError {
    if matches!(errno, Errno::EBUSY | Errno::EEXIST)
        && let Ok(Some(program)) = query(ifindex)
    {
        return KernelError::Occupied {
            interface: interface.to_owned(),
            program,
            holder: Holder::Unknown,
        };
    }
    if errno == Errno::EPERM {
        return KernelError::Privilege {
            what: format!("attach an XDP program to `{interface}`"),
            advice: Needs::Attach.advice(),
        };
    }
    const ERANGE: Errno = Errno(libc::ERANGE);
    KernelError::Attach {
        interface: interface.to_owned(),
        mode,
        errno,
        hint: match (mode, errno) {
            (Mode::Native, Errno::EOPNOTSUPP) => {
                " (the driver has no native XDP, or not with its current settings: \
                 try generic mode, fewer queues, or LRO off)"
            }
            (Mode::Hardware, _) => {
                " (the network card does not run XDP programs, or this one was not loaded for it)"
            }
            (_, ERANGE | Errno::EINVAL | Errno::E2BIG) => {
                " (often an MTU too large for XDP in one page; see the kernel's log)"
            }
            _ => "",
        },
    }
}

/// The XDP program attached to an interface of the calling thread's network namespace, whoever
/// attached it.
///
/// # Errors
/// If there is no such interface, or the kernel cannot be asked.
pub fn attached_program(interface: &str) -> Result<Option<AttachedProgram>, KernelError> {
    query(interface_index(interface)?)
}

/// The number of an interface of the calling thread's network namespace.
///
/// # Errors
/// If there is no such interface.
pub fn interface_index(interface: &str) -> Result<u32, KernelError> {
    sys::interface_index(interface).ok_or_else(|| {
        let all = sys::interfaces().unwrap_or_default();
        let names: Vec<String> = all.into_iter().map(|(_, name)| name).collect();
        KernelError::NoInterface {
            interface: interface.to_owned(),
            available: names.join(", "),
        }
    })
}

pub(crate) fn query(ifindex: u32) -> Result<Option<AttachedProgram>, KernelError> {
    let found = netlink::xdp_program(ifindex).map_err(|errno| KernelError::System {
        what: "asking for the interface's XDP program",
        errno,
    })?;
    Ok(found.map(|(id, mode)| AttachedProgram {
        id,
        name: sys::prog_fd_by_id(id)
            .and_then(|fd| sys::prog_info(fd.as_fd()))
            .map(|info| sys::from_kernel_name(info.name))
            .unwrap_or_default(),
        mode,
    }))
}
