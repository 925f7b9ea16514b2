//! Programs that are in the kernel already, whoever loaded them.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, SystemTime};

use squalus_engine::EngineError;
use squalus_isa::Errno;

use crate::privilege::Needs;
use crate::{KernelEngine, KernelError, bpffs, sys};

/// A program in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// The kernel's number.
    pub id: u32,
    /// Its name, cut to 15 characters by the kernel.
    pub name: String,
    /// Hash over its instructions.
    pub tag: [u8; 8],
    /// When it was loaded.
    pub loaded: SystemTime,
    /// The user who loaded it.
    pub uid: u32,
    /// Bytes of instructions after the verifier, and of machine code.
    pub xlated: u32,
    /// See [`ProgramInfo::xlated`].
    pub jited: u32,
    /// How often it ran, and how long in all, while the kernel kept statistics
    /// (`sysctl kernel.bpf_stats_enabled`).
    pub runs: u64,
    /// See [`ProgramInfo::runs`].
    pub run_time: Duration,
    /// The numbers of the maps it uses.
    pub maps: Vec<u32>,
}

impl ProgramInfo {
    /// The program with the kernel's number `id`.
    ///
    /// # Errors
    /// If there is none, or the process may not open it.
    pub fn by_id(id: u32) -> Result<ProgramInfo, KernelError> {
        let fd = sys::prog_fd_by_id(id).map_err(|errno| no_object("program", id, errno))?;
        ProgramInfo::of(fd.as_fd())
    }

    pub(crate) fn of(fd: BorrowedFd<'_>) -> Result<ProgramInfo, KernelError> {
        let asking = |errno| KernelError::System {
            what: "asking about a program",
            errno,
        };
        let info = sys::prog_info(fd).map_err(asking)?;
        let age = Duration::from_nanos(sys::boot_nanos().saturating_sub(info.load_time));
        Ok(ProgramInfo {
            id: info.id,
            name: sys::from_kernel_name(info.name),
            tag: info.tag,
            loaded: SystemTime::now() - age,
            uid: info.created_by,
            xlated: info.xlated_len,
            jited: info.jited_len,
            runs: info.run_count,
            run_time: Duration::from_nanos(info.run_time_ns),
            maps: sys::prog_map_ids(fd).map_err(asking)?,
        })
    }
}

/// Whether the kernel counts runs of programs.
#[must_use]
pub fn statistics_enabled() -> bool {
    let text = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled");
    text.is_ok_and(|text| text.trim() != "0")
}

impl KernelEngine {
    /// What the kernel knows about a program of this object.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn program_info(&self, name: &str) -> Result<ProgramInfo, KernelError> {
        ProgramInfo::of(self.program(name)?.fd.as_fd())
    }

    /// The kernel's number of a map.
    ///
    /// # Errors
    /// If there is no such map.
    pub fn map_id(&self, name: &str) -> Result<u32, KernelError> {
        let map = self.maps.iter().find(|map| map.def.name == name);
        let map = map.ok_or_else(|| EngineError::NoMap(name.to_owned()))?;
        let info = map.fd.info().map_err(|errno| KernelError::System {
            what: "asking about a map",
            errno,
        })?;
        Ok(info.id)
    }

    /// Gives a program a name in a bpf file system, which keeps it loaded when the engine is dropped.
    ///
    /// # Errors
    /// If there is no such program, or the name cannot be given.
    pub fn pin_program(&self, name: &str, path: &Path) -> Result<(), KernelError> {
        bpffs::pin(self.program(name)?.fd.as_fd(), path)
    }
}

pub(crate) fn no_object(what: &'static str, id: u32, errno: Errno) -> KernelError {
    match errno {
        Errno::EPERM => KernelError::Privilege {
            what: format!("open {what} {id}"),
            advice: Needs::OpenById.advice(),
        },
        Errno::ENOENT => KernelError::NoObject { what, id },
        errno => KernelError::System {
            what: "opening an object by its number",
            errno,
        },
    }
}
