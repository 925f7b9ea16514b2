//! The kernel as an engine: load, maps as bytes, test runs, attach.
//!
//! [`KernelEngine`] holds the maps and XDP programs of one object in the kernel and offers them through
//! the same traits as the userspace engine (`squalus-engine`): maps by their full names with keys and
//! values as bytes, and `BPF_PROG_TEST_RUN`. Beyond these it can do what only the kernel can:
//! [attach](KernelEngine::attach) a program to an interface, and [measure](KernelEngine::measure) one
//! in place.
//!
//! Everything lives as long as the value: when it is dropped, or the process dies, maps, programs and
//! attachments go, except what was pinned in a bpf file system ([`LoadOptions::pin`], [`Attachments`]). What is
//! in the kernel already, whoever put it there, is looked at through [`LiveMaps`] and [`ProgramInfo`].
//!
//! Needs Linux 5.9 or newer, and root, or `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON` (without the last
//! one the verifier refuses programs that subtract packet pointers).

mod attach;
mod attachments;
mod bpffs;
mod choose;
mod engine;
mod error;
mod functions;
mod inspect;
mod live;
mod load;
mod maps;
mod measure;
mod netlink;
mod options;
mod privilege;
mod sampler;
mod sys;
mod targets;
mod verifier;

pub use attach::{Attached, AttachedProgram, Mode, attached_program, interface_index};
pub use attachments::{AttachReport, Attachments, Holder, RunningProgram, Status, Which};
pub use bpffs::{create_directory, default_directory};
pub use engine::KernelEngine;
pub use error::KernelError;
pub use inspect::{ProgramInfo, statistics_enabled};
pub use live::LiveMaps;
pub use measure::{MAX_MEASURED_FRAME, Measured, Round, Stopwatch};
pub use options::LoadOptions;
pub use sampler::{Sample, Sampler, SamplerError};
pub use sys::{possible_cpus, usable_cpus};

/// The longest frame that the kernel's test run keeps in one piece: a page of 4096 bytes without 256
/// bytes of headroom and the kernel's 320 bytes behind the frame.
pub const MAX_TEST_FRAME: usize = 4096 - 256 - 320;
