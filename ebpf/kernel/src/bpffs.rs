//! The bpf file system, where what is to outlive a process has a name.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use squalus_isa::Errno;

use crate::privilege::Needs;
use crate::{KernelError, sys};

/// Where bpf file systems are mounted.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// The directory under which squalus pins unless told otherwise.
#[must_use]
pub fn default_directory() -> PathBuf {
    Path::new(MOUNT_POINT).join("squalus")
}

/// Creates a directory in a bpf file system with its parents. If nothing is mounted at `/sys/fs/bpf` and the
/// directory is to be there, a bpf file system is mounted first, as `ip` and `bpftool` do.
///
/// # Errors
/// If the directory is not in a bpf file system, or cannot be created.
pub fn create_directory(directory: &Path) -> Result<(), KernelError> {
    let existing = directory.ancestors().find(|path| path.exists());
    let on_bpffs = existing.is_some_and(sys::is_bpffs);
    if !on_bpffs {
        if !directory.starts_with(MOUNT_POINT) {
            return Err(KernelError::NotBpfFs(directory.to_owned()));
        }
        mount()?;
    }
    std::fs::create_dir_all(directory).map_err(|error| cannot("creating", directory, &error))
}

fn mount() -> Result<(), KernelError> {
    let at = c_path(Path::new(MOUNT_POINT))?;
    sys::mount_bpffs(&at).map_err(|errno| match errno {
        Errno::EPERM => KernelError::Privilege {
            what: format!("mount a bpf file system at {MOUNT_POINT}"),
            advice: Needs::Mount.advice(),
        },
        errno => KernelError::System {
            what: "mounting a bpf file system at /sys/fs/bpf",
            errno,
        },
    })
}

fn cannot(doing: &'static str, path: &Path, error: &io::Error) -> KernelError {
    KernelError::Path {
        doing,
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// Gives what a descriptor stands for a name. The directory is created if need be.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> Result<(), KernelError> {
    if let Some(directory) = path.parent() {
        create_directory(directory)?;
    }
    let name = c_path(path)?;
    sys::obj_pin(fd, &name).map_err(|errno| pin_error("pinning", path, errno))
}

/// Opens what has this name; `None` if nothing has.
pub(crate) fn open(path: &Path) -> Result<Option<OwnedFd>, KernelError> {
    match sys::obj_get(&c_path(path)?) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(pin_error("opening", path, errno)),
    }
}

/// Takes the name away; what had it goes if nothing else holds it.
pub(crate) fn unpin(path: &Path) -> Result<(), KernelError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(cannot("removing", path, &error))
        }
        _ => Ok(()),
    }
}

fn pin_error(doing: &'static str, path: &Path, errno: Errno) -> KernelError {
    match errno {
        Errno::EPERM => KernelError::Privilege {
            what: format!("pin or open {}", path.display()),
            advice: Needs::Load.advice(),
        },
        Errno::EINVAL => KernelError::NotBpfFs(path.to_owned()),
        Errno::EACCES => KernelError::Path {
            doing,
            path: path.to_owned(),
            reason: "EACCES (permission denied): it belongs to another user; run as root"
                .to_owned(),
        },
        errno => KernelError::Path {
            doing,
            path: path.to_owned(),
            reason: errno.to_string(),
        },
    }
}

fn c_path(path: &Path) -> Result<CString, KernelError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| KernelError::Path {
        doing: "naming",
        path: path.to_owned(),
        reason: "the name contains a zero byte".to_owned(),
    })
}

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Map,
    Program,
    Other,
}

pub(crate) fn kind(fd: BorrowedFd<'_>) -> Kind {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    match link.ok().as_deref().and_then(Path::to_str) {
        Some("anon_inode:bpf-map") => Kind::Map,
        Some("anon_inode:bpf-prog") => Kind::Program,
        _ => Kind::Other,
    }
}

/// The files of a directory, by name.
pub(crate) fn files(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let reading = |error| cannot("reading", directory, &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        if entry.file_type().is_ok_and(|kind| !kind.is_dir()) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// The kernel refuses names with dots.
pub(crate) fn file_name(name: &str) -> String {
    name.replace('.', "_")
}
