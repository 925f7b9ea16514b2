//! The user backend: the object in our engine, fed by ports (`squalus_forward`).

mod steered;

use std::sync::Arc;

use squalus_engine::{Engine, MapAccess};
use squalus_forward::{Forwarder, Options};
use squalus_port::PortInfo;
use squalus_vm::{CodeState, EngineKind, Tiering, Vm, VmBuilder};

use crate::dataplane::{Dataplane, Info};
use crate::error::DataplaneError;
use crate::load::LoadOptions;

pub use squalus_forward::{Idle, LaneReport, PortAndPool, PortOptions, WorkerReport};

use steered::SteeredMaps;

/// How to run an object in userspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserOptions {
    /// What of the object to load.
    pub load: LoadOptions,
    /// What executes it.
    pub engine: EngineKind,
    /// Whether compiled code may have the contents of maps in it ([`VmBuilder::specialise`]).
    pub specialise: bool,
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
            specialise: true,
            cores: Vec::new(),
            idle: Idle::default(),
        }
    }
}

/// An object in our engine, forwarding once it is started.
///
/// Load, provision (`Controller::load`), then start: so no packet meets a program that knows nothing yet.
/// Dropping it ends its threads and closes its ports.
#[derive(Debug)]
pub struct UserDataplane {
    forwarder: Forwarder,
    maps: SteeredMaps,
    asked: String,
}

/// An error whose message says it all.
fn failed(error: impl std::error::Error + Send + Sync + 'static) -> DataplaneError {
    DataplaneError::caused(error.to_string(), error)
}

impl UserDataplane {
    /// Loads the object; nothing is forwarded.
    ///
    /// # Errors
    /// If the object is malformed, needs what the engine doesn't have, or an option does not fit it.
    pub fn load(object: &[u8], options: UserOptions) -> Result<Self, DataplaneError> {
        let object = squalus_vm::for_host(options.load.parse(object)?).map_err(failed)?;
        let names: Vec<String> = object.programs.iter().map(|p| p.name.clone()).collect();
        let program = options.load.choose(&names)?;
        let vm = VmBuilder::new(object)
            .engine(options.engine)
            .cpus(options.cores.len().max(1) as u32)
            .tiering(Tiering::On)
            .specialise(options.specialise)
            .time_per_burst(true)
            .build()
            .map_err(failed)?;
        let maps = SteeredMaps::new(vm.handle());
        let how = Options {
            cores: options.cores,
            idle: options.idle,
        };
        Ok(UserDataplane {
            forwarder: Forwarder::new(vm, program, how).map_err(failed)?,
            maps,
            asked: String::new(),
        })
    }

    /// Opens ports on an interface and starts forwarding; returns what was obtained for each queue.
    ///
    /// # Errors
    /// If the interface can't be opened as asked, or forwarding has started already. Nothing stays
    /// attached then.
    pub fn start_on(&mut self, options: &PortOptions) -> Result<Vec<PortInfo>, DataplaneError> {
        if self.forwarder.is_running() {
            return Err(failed(squalus_forward::ForwardError::Running));
        }
        let opened =
            squalus_forward::open(std::slice::from_ref(options), self.workers()).map_err(failed)?;
        for steering in &opened.steering {
            self.maps.follow(Arc::clone(steering)).map_err(failed)?;
        }
        let (used, there) = (opened.ports.len(), self.workers());
        let mut infos = self.forwarder.start_opened(opened).map_err(failed)?;
        self.remember(&infos);
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
        let infos = self.forwarder.start(ports).map_err(failed)?;
        self.remember(&infos);
        Ok(infos)
    }

    fn remember(&mut self, infos: &[PortInfo]) {
        if let Some(first) = infos.first() {
            self.asked = first.asked.to_string();
        }
    }

    /// Waits until every worker has ended by itself, which happens when all its ports have come to their
    /// end (captures do, interfaces don't).
    ///
    /// # Errors
    /// If a worker panicked.
    pub fn join(&mut self) -> Result<(), DataplaneError> {
        self.forwarder.join().map_err(failed)
    }

    /// What each worker has done and sees. The workers of an ended run stay until the next start.
    #[must_use]
    pub fn reports(&self) -> Vec<WorkerReport> {
        self.forwarder.reports()
    }

    /// Number of workers, which are also the CPUs of per-CPU maps: 0 to this.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.forwarder.workers()
    }

    /// The program that frames go to.
    #[must_use]
    pub fn program(&self) -> &str {
        self.forwarder.program()
    }

    /// What the compiled code is like that workers run; `None` if it stays as it was made.
    #[must_use]
    pub fn code(&self) -> Option<CodeState> {
        self.forwarder.vm().code()
    }

    /// The engine, to run frames by hand. Not with the CPU of a worker that forwards.
    pub fn vm_mut(&mut self) -> &mut Vm {
        self.forwarder.vm_mut()
    }
}

impl Dataplane for UserDataplane {
    fn maps(&self) -> &dyn MapAccess {
        &self.maps
    }

    fn info(&self) -> Info {
        let infos = self.forwarder.infos();
        let forwarding = self.forwarder.is_running();
        let first = infos.first();
        Info {
            backend: "user",
            engine: self.forwarder.vm().name().to_owned(),
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
        let result = self.forwarder.stop().map_err(failed);
        self.maps.unfollow();
        result
    }
}
