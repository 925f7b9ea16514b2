//! The handle on a program that forwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use squalus_afxdp::{Reinjection, Steering};
use squalus_engine::MapAccess;
use squalus_fib::Watcher;
use squalus_isa::HelperId;
use squalus_port::{Pool, Port, PortInfo};
use squalus_vm::Vm;

use crate::error::ForwardError;
use crate::opener::{HostInterfaces, Interfaces, Opener, calls};
use crate::ports::{self, OpenPorts, PortOptions};
use crate::redirect::{Redirector, Sockets};
use crate::report::{Board, RedirectBoard, WorkerReport};
use crate::worker::{Idle, Lane, Worker};

/// A port and the memory of its frames.
pub type PortAndPool = (Box<dyn Port>, Pool);

/// How to forward.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The cores that forward: one worker each, pinned. Empty means one worker, not pinned.
    pub cores: Vec<usize>,
    /// What a worker does when there is nothing to do.
    pub idle: Idle,
}

/// A program in our engine, forwarding once it is started.
///
/// Set its maps, then start: so no packet meets a program that knows nothing yet. Dropping it ends its
/// threads and closes its ports.
pub struct Forwarder {
    vm: Vm,
    program: String,
    options: Options,
    interfaces: Arc<dyn Interfaces>,
    sockets: Option<Arc<dyn Sockets>>,
    opener: Option<Opener>,
    stop: Arc<AtomicBool>,
    running: Vec<Running>,
    steering: Vec<Arc<Steering>>,
    reinjections: Vec<Reinjection>,
    /// Keeps the routes that programs ask for as the host's are.
    routes: Option<Watcher>,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder")
            .field("program", &self.program)
            .field("options", &self.options)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

/// A worker's thread and what it shows.
#[derive(Debug)]
struct Running {
    thread: Option<JoinHandle<()>>,
    board: Arc<Board>,
}

impl Forwarder {
    /// Makes `program` of `vm` ready; nothing is forwarded. The machine must have as many CPUs
    /// (`VmBuilder::cpus`) as there will be workers.
    ///
    /// # Errors
    /// If there is no such program, or the machine has too few CPUs.
    pub fn new(
        vm: Vm,
        program: impl Into<String>,
        options: Options,
    ) -> Result<Forwarder, ForwardError> {
        let program = program.into();
        let (cores, cpus) = (options.cores.len().max(1), vm.cpus());
        if cpus < cores {
            return Err(ForwardError::Cpus { cores, cpus });
        }
        vm.worker(&program, 0)?;
        Ok(Forwarder {
            vm,
            program,
            options,
            interfaces: Arc::new(HostInterfaces),
            sockets: None,
            opener: None,
            stop: Arc::default(),
            running: Vec::new(),
            steering: Vec::new(),
            reinjections: Vec::new(),
            routes: None,
        })
    }

    /// Redirects to these interfaces instead of the host's ([`HostInterfaces`]).
    #[must_use]
    pub fn with_interfaces(mut self, interfaces: Arc<dyn Interfaces>) -> Forwarder {
        self.interfaces = interfaces;
        self
    }

    /// Hands frames that are redirected through an xskmap to `sockets`; without, they are dropped and
    /// counted.
    #[must_use]
    pub fn with_sockets(mut self, sockets: Arc<dyn Sockets>) -> Forwarder {
        self.sockets = Some(sockets);
        self
    }

    /// Opens ports on the interfaces and starts forwarding; returns what was obtained for each queue. Ports
    /// on AF_XDP take what their options' filter says; VIPs there are the caller's to set
    /// ([`Forwarder::steering`]).
    ///
    /// # Errors
    /// If an interface can't be opened as asked, or forwarding has started already.
    pub fn attach(&mut self, interfaces: &[PortOptions]) -> Result<Vec<PortInfo>, ForwardError> {
        self.check_idle()?;
        let opened = ports::open(interfaces, self.workers())?;
        self.start_opened(opened)
    }

    /// As [`Forwarder::start`], on interfaces that [`crate::open`] opened. Programs that ask for routes are
    /// told those of the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`Forwarder::start`].
    pub fn start_opened(&mut self, opened: OpenPorts) -> Result<Vec<PortInfo>, ForwardError> {
        self.check_idle()?;
        if calls(&self.vm, &[HelperId::FIB_LOOKUP, HelperId::CHECK_MTU]) {
            self.routes = Some(Watcher::start(Arc::clone(self.vm.routes()))?);
        }
        let infos = self.start(opened.ports)?;
        self.steering = opened.steering;
        self.reinjections = opened.reinjections;
        Ok(infos)
    }

    /// The steering programs of attached interfaces with AF_XDP.
    #[must_use]
    pub fn steering(&self) -> &[Arc<Steering>] {
        &self.steering
    }

    /// Starts forwarding on the ports of each worker; returns what they are.
    ///
    /// # Errors
    /// If forwarding has started already, there are more workers in `ports` than cores, or a thread can't
    /// be started.
    pub fn start(&mut self, ports: Vec<Vec<PortAndPool>>) -> Result<Vec<PortInfo>, ForwardError> {
        self.check_idle()?;
        if ports.len() > self.workers() {
            return Err(ForwardError::Workers {
                wanted: ports.len(),
                cores: self.workers(),
            });
        }
        self.stop = Arc::default();
        self.running.clear();
        let mut opener = Opener::new(&self.vm, Arc::clone(&self.interfaces));
        let redirectors: Vec<Redirector> = ports
            .iter()
            .map(|_| Redirector {
                outlets: opener.outlets(),
                sockets: self.sockets.clone(),
                board: Arc::default(),
            })
            .collect();
        opener.start(&self.vm)?;
        self.opener = Some(opener);
        for (number, (ports, redirector)) in ports.into_iter().zip(redirectors).enumerate() {
            if let Err(error) = self.start_worker(number, ports, redirector) {
                let _ = self.stop();
                return Err(error);
            }
        }
        Ok(self.infos())
    }

    /// Opens the interfaces that device maps name now, instead of some milliseconds later; so that no frame
    /// finds one closed.
    pub fn open_devices(&self) {
        if let Some(opener) = &self.opener {
            opener.round();
        }
    }

    fn start_worker(
        &mut self,
        number: usize,
        ports: Vec<PortAndPool>,
        redirector: Redirector,
    ) -> Result<(), ForwardError> {
        let vm_worker = self.vm.worker(&self.program, number as u32)?;
        let core = self.options.cores.get(number).copied();
        let lanes: Vec<Lane> = ports.into_iter().map(Lane::new).collect();
        let boards = lanes.iter().map(Lane::board).collect();
        let redirects: Arc<RedirectBoard> = Arc::clone(&redirector.board);
        let stats = vm_worker.stats();
        let board = Arc::new(Board::new(number as u32, core, stats, boards, redirects));
        let worker = Worker::new(
            vm_worker,
            lanes,
            redirector,
            self.options.idle,
            Arc::clone(&self.stop),
            Arc::clone(&board),
        );
        let thread = std::thread::Builder::new()
            .name(format!("sq-worker-{number}"))
            .spawn(move || worker.run())
            .map_err(ForwardError::Thread)?;
        self.running.push(Running {
            thread: Some(thread),
            board,
        });
        Ok(())
    }

    fn check_idle(&self) -> Result<(), ForwardError> {
        match self.is_running() {
            true => Err(ForwardError::Running),
            false => Ok(()),
        }
    }

    /// Whether it has been started and not been stopped or joined.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.iter().any(|running| running.thread.is_some())
    }

    /// Waits until every worker has ended by itself, which happens when all its ports have come to their
    /// end (captures do, interfaces don't).
    ///
    /// # Errors
    /// If a worker panicked.
    pub fn join(&mut self) -> Result<(), ForwardError> {
        let mut panicked = false;
        for running in &mut self.running {
            if let Some(thread) = running.thread.take() {
                panicked |= thread.join().is_err();
            }
        }
        match panicked {
            true => Err(ForwardError::Panicked),
            false => Ok(()),
        }
    }

    /// Ends the workers and closes their ports.
    ///
    /// # Errors
    /// If a worker panicked.
    pub fn stop(&mut self) -> Result<(), ForwardError> {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.join();
        self.opener = None;
        self.steering.clear();
        self.reinjections.clear();
        self.routes = None;
        result
    }

    /// What each worker has done and sees. The workers of an ended run stay until the next start.
    #[must_use]
    pub fn reports(&self) -> Vec<WorkerReport> {
        self.running.iter().map(|r| r.board.report()).collect()
    }

    /// The ports, as they were opened.
    #[must_use]
    pub fn infos(&self) -> Vec<PortInfo> {
        self.running.iter().flat_map(|r| r.board.infos()).collect()
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

    /// The engine. Its maps may be changed while it forwards.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The engine, to run frames by hand. Not with the CPU of a worker that forwards.
    pub fn vm_mut(&mut self) -> &mut Vm {
        &mut self.vm
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // A panic of a worker was printed where it happened; there is nobody to tell here.
        let _ = self.stop();
    }
}
