//! What can go wrong between an object and the kernel.

use std::path::PathBuf;

use squalus_engine::EngineError;
use squalus_isa::Errno;

/// Why the kernel could not take an object, run or attach it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The process may not load programs.
    #[error(
        "the kernel refused to {what} (EPERM): run as root, or with CAP_BPF, CAP_NET_ADMIN \
         and CAP_PERFMON (and CAP_SYS_ADMIN to open inner maps that another process created)"
    )]
    Privilege {
        /// What was tried.
        what: String,
    },
    /// The bytes are no object that can be loaded.
    #[error("not a usable BPF object: {0}")]
    Object(String),
    /// The object has no XDP program.
    #[error(
        "the object has no XDP program (programs belong in ELF sections named `xdp` or `xdp.frags`)"
    )]
    NoXdpProgram,
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
    /// Pinning failed.
    #[error("pinning `{name}` at {} failed: {errno} (is a bpf file system mounted there?)", path.display())]
    Pin {
        /// What was to be pinned.
        name: String,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The verifier rejected a program.
    #[error(
        "the kernel rejected program `{program}`: {errno}\n{}",
        last_lines(log)
    )]
    Verifier {
        /// The program.
        program: String,
        /// The kernel's answer.
        errno: Errno,
        /// The verifier's log; its end if it was very long.
        log: String,
    },
    /// A map or program of the loaded object refused an operation.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No such interface.
    #[error("there is no interface `{0}` in this network namespace (see `ip link`)")]
    NoInterface(String),
    /// The interface already runs a program.
    #[error(
        "interface `{interface}` already has an XDP program in {mode} mode: {program}. \
         Stop its owner, or detach it with `ip link set dev {interface} {flag} off` \
         (programs attached through a link go only with their owner: see `bpftool link`)"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// Number and name of the program.
        program: String,
        /// `native` or `generic`.
        mode: crate::Mode,
        /// What `ip link` calls that mode.
        flag: &'static str,
    },
    /// Attaching failed.
    #[error("attaching to `{interface}` in {mode} mode failed: {errno}{hint}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode tried.
        mode: crate::Mode,
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

/// The end of a verifier log: what was rejected, and the state just before.
fn last_lines(log: &str) -> String {
    const LINES: usize = 20;
    let lines: Vec<&str> = log.trim_end().lines().collect();
    if lines.is_empty() {
        return "(no verifier log: the program was refused before verification)".to_owned();
    }
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_ends_with_the_end_of_the_log() {
        let log: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let error = KernelError::Verifier {
            program: "p".into(),
            errno: Errno::EINVAL,
            log,
        };
        let text = error.to_string();
        assert!(text.ends_with("line 99"), "{text}");
        assert!(text.contains("line 80") && !text.contains("line 79"));
    }
}
