//! `squalus serve`: a balancer on an interface, controlled over katran's gRPC service.
//!
//! The order is such that nothing is half-done: the port first, then the object, then what a fresh program
//! must know, and only then the interface. What fails leaves nothing attached.

use std::ffi::OsString;
use std::io::Write;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use squalus_core::{Config, Sources};
use squalus_dataplane::user::{PortOptions, UserOptions};
use squalus_dataplane::{
    Controller, Dataplane, DataplaneError, KernelDataplane, LoadOptions, SessionTables, Settings,
    UserDataplane,
};
use squalus_kernel::Mode;
use squalus_port::{Interface, PortRequest};
use squalus_server::{Listener, Options};
use squalus_vm::EngineKind;

use crate::katran_server::{BackendChoice, EngineChoice, IoChoice, ModeChoice, ServerOptions};
use crate::objects;
use crate::only::Only;

/// How the line on standard output begins that says that the balancer forwards.
pub const READY: &str = "ready: ";

/// The command `name` with these flags; what it returns is the exit code's.
///
/// # Errors
/// As [`run`].
pub fn main(name: &str, flags: Vec<OsString>) -> Result<bool> {
    let args = std::iter::once(OsString::from(name)).chain(flags);
    let options = ServerOptions::parse(args).unwrap_or_else(|error| error.exit());
    run(&options).map(|()| true)
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// If the options can't be satisfied, or ending leaves something attached.
pub fn run(options: &ServerOptions) -> Result<()> {
    refuse_what_is_not_there_yet(options)?;
    check_cores(options)?;
    let listener = Listener::bind(&options.server)?;
    let interface = Interface::by_name(&options.interface)?;
    let _only = Only::on(&options.interface)?;
    if !interface.up {
        tracing::warn!(
            "`{0}` is down: nothing arrives before `ip link set {0} up`",
            interface.name
        );
    }
    let object = objects::balancer(options.balancer_prog.as_deref())?;
    match options.backend {
        BackendChoice::Kernel => {
            let dataplane = KernelDataplane::load(&object, &LoadOptions::default())?;
            serve(dataplane, options, listener, |dataplane| {
                dataplane.attach(&options.interface, mode(options.mode))
            })
        }
        BackendChoice::User => {
            let dataplane = UserDataplane::load(&object, user_options(options))?;
            serve(dataplane, options, listener, |dataplane| {
                let ports = dataplane.start_on(&port_options(options))?;
                Ok(ports.into_iter().flat_map(|port| port.notices).collect())
            })
        }
    }
}

fn refuse_what_is_not_there_yet(options: &ServerOptions) -> Result<()> {
    if let Some(path) = &options.map_path {
        bail!(
            "-map_path {}: shared mode (a root XDP program) is not available yet; leave the flag out",
            path.display()
        );
    }
    if options.hc_forwarding {
        tracing::warn!(
            "health checks are not forwarded yet: their calls answer UNIMPLEMENTED (-hc_forwarding=false says so)"
        );
    }
    if !options.numa_nodes.is_empty() {
        tracing::warn!("-numa_nodes is not used yet: session tables are allocated on any node");
    }
    Ok(())
}

/// Whether every forwarding core exists, and is named once. In the kernel packets come on any CPU; a thread of
/// ours runs only where this process may.
fn check_cores(options: &ServerOptions) -> Result<()> {
    let there: Vec<u32> = match options.backend {
        BackendChoice::Kernel => (0..squalus_kernel::possible_cpus()? as u32).collect(),
        BackendChoice::User => {
            let cores = core_affinity::get_core_ids().context("cannot find out the CPUs")?;
            cores.iter().map(|core| core.id as u32).collect()
        }
    };
    let given = &options.forwarding_cores;
    for (n, core) in given.iter().enumerate() {
        let list = |cores: &[u32]| cores.iter().map(u32::to_string).collect::<Vec<_>>();
        ensure!(
            there.contains(core),
            "-forwarding_cores names core {core}, but there is: {}",
            list(&there).join(", ")
        );
        ensure!(
            !given[..n].contains(core),
            "-forwarding_cores names core {core} twice"
        );
    }
    Ok(())
}

fn serve<D: Dataplane + 'static>(
    dataplane: D,
    options: &ServerOptions,
    listener: Listener,
    start: impl FnOnce(&mut D) -> Result<Vec<String>, DataplaneError>,
) -> Result<()> {
    let mut controller = Controller::load(dataplane, settings(options))?;
    for notice in start(controller.dataplane_mut())? {
        tracing::warn!("{notice}");
    }
    let how = format!(
        "{}; gRPC on {}",
        controller.dataplane().info(),
        listener.address()
    );
    let service = Options {
        health_forwarding: options.hc_forwarding,
    };
    listener.run(
        Arc::new(Mutex::new(controller)),
        service,
        options.shutdown_delay,
        || say_ready(&how),
    )?;
    Ok(())
}

/// Whoever started the balancer may wait for this line; whoever did not may have closed standard output.
fn say_ready(how: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{READY}{how}").and_then(|()| out.flush());
}

fn settings(options: &ServerOptions) -> Settings {
    Settings {
        balancer: Config {
            mac: options.default_mac,
            sources: Sources {
                v4: options.source_v4,
                v6: options.source_v6,
            },
            ..Config::default()
        },
        sessions: SessionTables {
            entries: options.lru_size,
            cpus: session_cpus(options),
        },
    }
}

/// The CPUs that get a session table. katran without `-forwarding_cores` gives none to any, and all share a
/// table of 1000; here that means all CPUs, of which any may forward.
fn session_cpus(options: &ServerOptions) -> Vec<u32> {
    let given = &options.forwarding_cores;
    match options.backend {
        BackendChoice::User => (0..given.len().max(1) as u32).collect(),
        BackendChoice::Kernel if given.is_empty() => {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u32;
            tracing::info!("no -forwarding_cores given: session tables for all {cpus} CPUs");
            (0..cpus).collect()
        }
        BackendChoice::Kernel => given.clone(),
    }
}

fn mode(choice: ModeChoice) -> Mode {
    match choice {
        ModeChoice::Auto => Mode::Auto,
        ModeChoice::Native => Mode::Native,
        ModeChoice::Generic => Mode::Generic,
    }
}

fn user_options(options: &ServerOptions) -> UserOptions {
    let engine = match options.engine {
        EngineChoice::Jit => EngineKind::Jit,
        EngineChoice::Interp => EngineKind::Interp,
    };
    let cores = options.forwarding_cores.iter();
    UserOptions {
        engine,
        specialise: options.specialise,
        cores: cores.map(|core| *core as usize).collect(),
        ..UserOptions::default()
    }
}

fn port_options(options: &ServerOptions) -> PortOptions {
    let request = match options.io {
        IoChoice::Auto => PortRequest::Auto,
        IoChoice::AfXdpZeroCopy => PortRequest::AfXdpZeroCopy,
        IoChoice::AfXdp => PortRequest::AfXdp,
        IoChoice::AfPacket => PortRequest::AfPacket,
    };
    PortOptions {
        request,
        ..PortOptions::new(&options.interface)
    }
}
