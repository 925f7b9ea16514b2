//! Why a program does not forward.

use std::io;

use squalus_engine::EngineError;
use squalus_fib::FibError;
use squalus_port::PortError;

/// Errors of starting and stopping. Nothing stays attached after one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// A port can't be opened.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The host's routes, which the program asks for, can't be read.
    #[error(transparent)]
    Routes(#[from] FibError),
    /// There is no such program.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Workers are running.
    #[error("it forwards already; stop it first")]
    Running,
    /// Ports for more workers than there are.
    #[error("ports for {wanted} workers need as many forwarding cores; there are {cores}")]
    Workers {
        /// How many workers the ports are for.
        wanted: usize,
        /// How many there are.
        cores: usize,
    },
    /// The machine has too few CPUs for the workers.
    #[error(
        "{cores} forwarding cores need a machine with as many CPUs; this one has {cpus} (see `VmBuilder::cpus`)"
    )]
    Cpus {
        /// Number of forwarding cores.
        cores: usize,
        /// CPUs the machine was built for.
        cpus: usize,
    },
    /// The system has no thread for a worker.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[source] io::Error),
    /// A worker ended as it should not.
    #[error("a worker thread panicked; its output names the place")]
    Panicked,
}
