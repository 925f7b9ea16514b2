//! eBPF object files: ELF and BTF in, programs and map definitions out.
//!
//! [`Object::parse`] turns the bytes of an object, as clang, bpf-linker or `bpftool gen object` write it,
//! into what an engine needs: every map the object asks for ([`MapSpec`]) and every program as one flat
//! run of instructions ([`Program`]), with all calls between functions resolved and all map references
//! replaced by indices into [`Object::maps`]. The rules are libbpf's, so that an object means the same here
//! as in the kernel; where libbpf refuses only out of caution (functions called across sections, say) we
//! accept.
//!
//! Parsing is pure: no file, no system call, no global; only [`host`] reads what the running kernel shows. Objects are untrusted: any byte sequence gives an
//! object or an [`ObjectError`], never a panic, and memory stays within a small multiple of the input
//! and the limits in [`limits`].
//!
//! A program that needs what no engine of ours can give (a variable of the kernel, another program to replace)
//! doesn't spoil the rest of its object: it is left out of [`Object::programs`] and listed in
//! [`Object::refused`] with the reason.
//!
//! What depends on the kernel that the object shall run with comes after parsing: its types
//! ([`Object::relocate_core`]), its configuration ([`Object::resolve_config`]), its functions
//! ([`Object::resolve_kfuncs`], for loading into it). [`Object::fit_to_host`] does the first two for the running one.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use squalus_object::Object;
//!
//! let mut object = Object::parse(&std::fs::read("balancer.bpf.o")?)?;
//! object.set_global("default_ttl", &[64])?;
//! let program = object.require_program("balancer_ingress")?;
//! println!("{} instructions, {} maps", program.insns.len(), object.maps.len());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod btf;
mod choose;
mod config;
mod core_relo;
mod elf;
mod error;
mod externs;
mod functions;
pub mod host;
pub mod limits;
mod lines;
mod link;
mod maps;
mod object;
mod reader;
mod resolve;
mod section;
mod spec;

pub use config::HostConfig;
pub use error::{BtfError, ObjectError};
pub use object::Object;
pub use spec::{
    Global, InitialTarget, InitialValue, Kfunc, LineInfo, MapOrigin, MapSpec, Pinning, Program,
    ProgramKind, Refused, Subprogram, XdpAttach, sized,
};

/// The number of the helper that replaced instructions call which CO-RE could not resolve: none has it. The
/// kernel's verifier knows it as the mark of a bad relocation.
pub const POISON_HELPER: u32 = 195_896_080;

/// Length of a record of [`Program::func_info`] (`func_info_rec_size`).
pub const FUNC_INFO_SIZE: u32 = 8;

/// Length of a record of [`Program::line_info`] (`line_info_rec_size`).
pub const LINE_INFO_SIZE: u32 = 16;
