//! Why an object cannot run here.

use squalus_analysis::AnalysisError;
use squalus_isa::Errno;
use squalus_jit::JitError;
use squalus_maps::MapError;
use squalus_object::host::HostError;
use squalus_runtime::{LinkError, Reject};

/// Why an object was not loaded. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// A map cannot be created.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A map of this name is pinned already, and is another.
    #[error(
        "map `{map}` is pinned already and can't be shared: {difference}; change the object, or unpin the map first"
    )]
    Pinned {
        /// The map.
        map: String,
        /// What differs.
        difference: String,
    },
    /// A map's contents at load cannot be set.
    #[error("map `{map}`: {what} cannot be set at load: {errno}")]
    Initial {
        /// The map.
        map: String,
        /// What was to be set.
        what: String,
        /// The map's answer.
        errno: Errno,
    },
    /// A program needs what no userspace engine has, or is malformed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A program calls what exists in the kernel alone.
    #[error(
        "program `{program}`, instruction {slot}{at}: it calls `{function}` of the kernel, which no userspace engine has; load the program into the kernel, or declare the function __weak and test for it with bpf_ksym_exists()"
    )]
    Kfunc {
        /// The program.
        program: String,
        /// Slot of the call.
        slot: usize,
        /// Its source line in parentheses, if known.
        at: String,
        /// The function.
        function: String,
    },
    /// The object has nothing to run.
    #[error("the object has no XDP program that can be loaded; it has: {0}")]
    NoProgram(String),
    /// A program that was asked for is not in the object.
    #[error("the object has no XDP program `{name}`; it has: {available}")]
    NoSuchProgram {
        /// The name asked for.
        name: String,
        /// What there is.
        available: String,
    },
    /// Something refers to a program that is not there.
    #[error("map `{map}` refers to program `{program}`, which is not loaded")]
    UnknownProgram {
        /// The map.
        map: String,
        /// The program.
        program: String,
    },
    /// Something refers to a map that is not there.
    #[error("map `{map}` refers to map `{inner}`, which the object does not have")]
    UnknownMap {
        /// The map of maps.
        map: String,
        /// The missing one.
        inner: String,
    },
    /// A program does what no XDP program may do.
    #[error(transparent)]
    Analysis(#[from] AnalysisError),
    /// A program could not be compiled.
    #[error(transparent)]
    Jit(#[from] JitError),
    /// There is no thread to compile in.
    #[error("no thread for compiling in the background: {0}; check the limits of the process")]
    Thread(#[source] std::io::Error),
    /// The object adapts itself to the running kernel, and cannot.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl VmError {
    /// What linking found, with the names of kernel functions instead of their numbers.
    pub(crate) fn of_link(error: LinkError, kfuncs: &[String]) -> VmError {
        let named = |number: i32| kfuncs.get(usize::try_from(number).ok()?);
        match error {
            LinkError::Instruction {
                program,
                slot,
                line,
                what: Reject::Kfunc(number),
            } if let Some(function) = named(number) => VmError::Kfunc {
                program,
                slot,
                at: line.map(|line| format!(" ({line})")).unwrap_or_default(),
                function: function.clone(),
            },
            other => VmError::Link(other),
        }
    }
}
