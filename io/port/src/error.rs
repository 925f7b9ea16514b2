//! Why a port could not be opened.

use std::io;
use std::path::PathBuf;

/// Errors of opening a port. A message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// There is no such interface in this network namespace.
    #[error("there is no network interface `{0}` in this network namespace (see `ip link`)")]
    NoInterface(String),
    /// The process may not do that.
    #[error("{what} is not permitted: run as root or grant {needs}")]
    Privilege {
        /// What was tried.
        what: String,
        /// The capabilities it takes.
        needs: &'static str,
    },
    /// Another process uses the queue.
    #[error(
        "queue {queue} of `{interface}` is in use by another AF_XDP socket; stop that program or choose another queue"
    )]
    QueueBusy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The interface has no such queue.
    #[error("`{interface}` has no receive queue {queue} (see `ethtool -l {interface}`)")]
    NoQueue {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// An XDP program is already attached to the interface.
    #[error(
        "an XDP program is already attached to `{interface}`: id {id}, name `{program}`; remove it with `ip link set dev {interface} xdp off`, or stop the process that holds its link"
    )]
    XdpAttached {
        /// The interface.
        interface: String,
        /// The attached program's id.
        id: u32,
        /// Its name, if the kernel tells.
        program: String,
    },
    /// Interface or kernel can't do that.
    #[error("`{interface}` does not support {what}")]
    Unsupported {
        /// The interface.
        interface: String,
        /// What was asked of it.
        what: String,
    },
    /// The name of a tap device is taken by something else.
    #[error(
        "`{0}` exists and is not a tap device that this process may attach to; remove it or choose another name"
    )]
    TapBusy(String),
    /// The settings make no sense.
    #[error("{0}")]
    Config(String),
    /// Not enough memory for the frames.
    #[error("no {bytes} bytes of memory for frames: {source}; use fewer frames")]
    Memory {
        /// Bytes wanted.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A capture file can't be read or written.
    #[error("capture `{}`: {reason}", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system refused.
    #[error("{what} failed: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl PortError {
    /// The last system call's error, as [`PortError::Privilege`] if the kernel said so.
    #[must_use]
    pub fn last(what: impl Into<String>, needs: &'static str) -> PortError {
        PortError::from_io(io::Error::last_os_error(), what, needs)
    }

    /// A system error, as [`PortError::Privilege`] if the kernel said so.
    #[must_use]
    pub fn from_io(source: io::Error, what: impl Into<String>, needs: &'static str) -> PortError {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => PortError::Privilege { what, needs },
            _ => PortError::System { what, source },
        }
    }
}
