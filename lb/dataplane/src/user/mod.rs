//! The user backend: the object in our engine, fed by ports.
//!
//! A worker is a thread with a CPU number of its own (so its own values in per-CPU maps, its own session
//! table), and one or several ports, each with its own memory. It takes a burst from a port, runs the
//! program on it in place, and sends, passes or frees each frame:
//!
//! ```text
//!   control plane ── maps ──┐
//!                           v
//!   port ──> burst ──> program ──> port | host | dropped (counted by reason)
//!    └──────────── worker n, pinned to core cores[n] ────────────┘
//! ```
//!
//! Workers share the maps and the code and nothing else. They write their counters where any thread can
//! read them ([`UserDataplane::reports`]). The packet loop neither allocates nor locks nor logs.

mod ports;
mod report;
mod steered;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use squalus_engine::{Engine, MapAccess};
use squalus_port::{Pool, Port, PortInfo};
use squalus_vm::{EngineKind, Vm, VmBuilder, VmError};

use crate::dataplane::{Dataplane, Info};
use crate::error::DataplaneError;
use crate::load::LoadOptions;

pub use ports::PortOptions;
pub use report::{LaneReport, WorkerReport};
pub use worker::Idle;

use report::Board;
use steered::SteeredMaps;
use worker::{Lane, Worker};

/// How to run an object in userspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserOptions {
    /// What of the object to load.
    pub load: LoadOptions,
    /// What executes it.
    pub engine: EngineKind,
    /// The cores that forward: one worker each, pinned. Empty means one worker, not pinned.
    pub cores: Vec<usize>,
    /// What a worker does when there is nothing to do.
    pub idle: Idle,
}

impl Default for UserOptions {
    fn default() -> Self {
        UserOptions {
            load: LoadOptions::default(),
            engine: EngineKind::Jit,
            cores: Vec::new(),
            idle: Idle::default(),
        }
    }
}

/// A port and the memory of its frames.
pub type PortAndPool = (Box<dyn Port>, Pool);

/// An object in our engine, forwarding once it is started.
///
/// Load, provision (`Controller::load`), then start: so no packet meets a program that knows nothing yet.
/// Dropping it ends its threads and closes its ports.
#[derive(Debug)]
pub struct UserDataplane {
    vm: Vm,
    program: String,
    options: UserOptions,
    maps: SteeredMaps,
    asked: String,
    stop: Arc<AtomicBool>,
    running: Vec<Running>,
}

/// A worker's thread and what it shows.
#[derive(Debug)]
struct Running {
    thread: Option<JoinHandle<()>>,
    board: Arc<Board>,
}

impl UserDataplane {
    /// Loads the object; nothing is forwarded.
    ///
    /// # Errors
    /// If the object is malformed, needs what the engine doesn't have, or an option does not fit it.
    pub fn load(object: &[u8], options: UserOptions) -> Result<Self, DataplaneError> {
        let failed = |error: VmError| DataplaneError::caused(error.to_string(), error);
        let object = squalus_vm::for_host(options.load.parse(object)?).map_err(failed)?;
        let names: Vec<String> = object.programs.iter().map(|p| p.name.clone()).collect();
        let program = options.load.choose(&names)?;
        let cpus = options.cores.len().max(1) as u32;
        let vm = VmBuilder::new(object)
            .engine(options.engine)
            .cpus(cpus)
            .build()
            .map_err(failed)?;
        let maps = SteeredMaps::new(vm.handle());
        Ok(UserDataplane {
            vm,
            program,
            options,
            maps,
            asked: String::new(),
            stop: Arc::default(),
            running: Vec::new(),
        })
    }

    /// Opens ports on an interface and starts forwarding; returns what was obtained for each queue.
    ///
    /// # Errors
    /// If the interface can't be opened as asked, or forwarding has started already. Nothing stays
    /// attached then.
    pub fn start_on(&mut self, options: &PortOptions) -> Result<Vec<PortInfo>, DataplaneError> {
        self.check_idle()?;
        let opened = ports::open(options, self.workers())
            .map_err(|error| DataplaneError::caused(error.to_string(), error))?;
        if let Some(steering) = opened.steering {
            self.maps
                .follow(steering)
                .map_err(|error| DataplaneError::caused(error.to_string(), error))?;
        }
        let (used, there) = (opened.ports.len(), self.workers());
        let mut infos = self.start(opened.ports)?;
        if let Some(first) = infos.first_mut().filter(|_| used < there) {
            first.notices.push(format!(
                "{there} forwarding cores, but `{}` has only {used} receive queues: {} do nothing (see `ethtool -L`)",
                options.interface,
                there - used
            ));
        }
        Ok(infos)
    }

    /// Starts forwarding on the ports of each worker; returns what they are.
    ///
    /// # Errors
    /// If forwarding has started already, there are more workers in `ports` than cores, or a thread can't
    /// be started.
    pub fn start(&mut self, ports: Vec<Vec<PortAndPool>>) -> Result<Vec<PortInfo>, DataplaneError> {
        self.check_idle()?;
        if ports.len() > self.workers() {
            return Err(DataplaneError::new(format!(
                "{} workers need as many forwarding cores; there are {}",
                ports.len(),
                self.workers()
            )));
        }
        self.stop = Arc::default();
        for (number, ports) in ports.into_iter().enumerate() {
            if let Err(error) = self.start_worker(number, ports) {
                let _ = self.detach();
                return Err(error);
            }
        }
        let infos: Vec<PortInfo> = self.running.iter().flat_map(|r| r.board.infos()).collect();
        if let Some(first) = infos.first() {
            self.asked = first.asked.to_string();
        }
        Ok(infos)
    }

    fn start_worker(
        &mut self,
        number: usize,
        ports: Vec<PortAndPool>,
    ) -> Result<(), DataplaneError> {
        let vm_worker = self
            .vm
            .worker(&self.program, number as u32)
            .map_err(|error| DataplaneError::caused(error.to_string(), error))?;
        let core = self.options.cores.get(number).copied();
        let lanes: Vec<Lane> = ports.into_iter().map(Lane::new).collect();
        let boards = lanes.iter().map(Lane::board).collect();
        let board = Arc::new(Board::new(number as u32, core, vm_worker.stats(), boards));
        let worker = Worker::new(
            vm_worker,
            lanes,
            self.options.idle,
            Arc::clone(&self.stop),
            Arc::clone(&board),
        );
        let thread = std::thread::Builder::new()
            .name(format!("sq-worker-{number}"))
            .spawn(move || worker.run())
            .map_err(|error| {
                DataplaneError::caused(format!("cannot start a worker thread: {error}"), error)
            })?;
        self.running.push(Running {
            thread: Some(thread),
            board,
        });
        Ok(())
    }

    fn check_idle(&self) -> Result<(), DataplaneError> {
        if self.running.iter().any(|running| running.thread.is_some()) {
            return Err(DataplaneError::new(
                "this dataplane forwards already; detach it first",
            ));
        }
        Ok(())
    }

    /// Waits until every worker has ended by itself, which happens when all its ports have come to their
    /// end (captures do, interfaces don't).
    ///
    /// # Errors
    /// If a worker panicked.
    pub fn join(&mut self) -> Result<(), DataplaneError> {
        let mut panicked = false;
        for running in &mut self.running {
            if let Some(thread) = running.thread.take() {
                panicked |= thread.join().is_err();
            }
        }
        match panicked {
            true => Err(DataplaneError::new(
                "a worker thread panicked; its output names the place",
            )),
            false => Ok(()),
        }
    }

    /// What each worker has done and sees. The workers of an ended run stay until the next start.
    #[must_use]
    pub fn reports(&self) -> Vec<WorkerReport> {
        self.running.iter().map(|r| r.board.report()).collect()
    }

    /// Number of workers, which are also the CPUs of per-CPU maps: 0 to this.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.options.cores.len().max(1)
    }

    /// The program that frames go to.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// The engine, to run frames by hand. Not with the CPU of a worker that forwards.
    pub fn vm_mut(&mut self) -> &mut Vm {
        &mut self.vm
    }
}

impl Dataplane for UserDataplane {
    fn maps(&self) -> &dyn MapAccess {
        &self.maps
    }

    fn info(&self) -> Info {
        let infos: Vec<PortInfo> = self.running.iter().flat_map(|r| r.board.infos()).collect();
        let forwarding = self.running.iter().any(|running| running.thread.is_some());
        let first = infos.first();
        Info {
            backend: "user",
            engine: self.vm.name().to_owned(),
            place: first.map_or_else(String::new, |info| info.name.clone()),
            asked: self.asked.clone(),
            obtained: match first {
                Some(info) if forwarding => info.obtained.to_string(),
                _ => "not attached".to_owned(),
            },
            workers: self.workers(),
        }
    }

    fn detach(&mut self) -> Result<(), DataplaneError> {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.join();
        self.maps.unfollow();
        result
    }
}

impl Drop for UserDataplane {
    fn drop(&mut self) {
        // A panic of a worker was printed where it happened; there is nobody to tell here.
        let _ = self.detach();
    }
}
