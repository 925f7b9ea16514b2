//! The thread that opens interfaces for redirects, so that no worker has to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use squalus_isa::{CallTarget, HelperId, Inst, MapType};
use squalus_packet::{PacketConfig, PacketPort};
use squalus_port::{Interface, Port, PortError};
use squalus_vm::{MapAccess, Maps, Vm};

use crate::error::ForwardError;
use crate::outlets::{Limit, Notes, Outlet, Outlets};
use crate::report::RedirectDrop;

/// How long a worker's note lies before it is read.
const ROUND: Duration = Duration::from_millis(5);
/// Rounds between two looks at what could not be opened, and at the MTUs.
const LOOK_AGAIN: u32 = 20;

/// The interfaces that redirected frames can leave by.
pub trait Interfaces: Send + Sync {
    /// A port that sends on the interface. It must take frames of any pool.
    ///
    /// # Errors
    /// [`PortError::NoInterface`] if there is none with this index; anything else for other reasons.
    fn open(&self, ifindex: u32) -> Result<Box<dyn Port>, PortError>;

    /// What the interface takes now: its MTU in bytes, `None` if anything; or why nothing.
    ///
    /// # Errors
    /// [`RedirectDrop::Down`] or [`RedirectDrop::NoInterface`].
    fn link(&self, ifindex: u32) -> Result<Option<u32>, RedirectDrop>;
}

/// The interfaces of the network namespace that forwarding is started in, by AF_PACKET.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostInterfaces;

impl Interfaces for HostInterfaces {
    fn open(&self, ifindex: u32) -> Result<Box<dyn Port>, PortError> {
        let interface = Interface::by_index(ifindex)?;
        // A port that receives nothing; which side of the interface the host is on is all one here.
        let port = PacketPort::open(&PacketConfig {
            towards_host: true,
            ..PacketConfig::new(interface.name)
        })?;
        Ok(Box::new(port))
    }

    fn link(&self, ifindex: u32) -> Result<Option<u32>, RedirectDrop> {
        match Interface::by_index(ifindex) {
            Ok(interface) if interface.up => Ok(Some(interface.mtu)),
            Ok(_) => Err(RedirectDrop::Down),
            Err(_) => Err(RedirectDrop::NoInterface),
        }
    }
}

/// Opens interfaces for the workers of one run.
pub(crate) struct Opener {
    job: Arc<Mutex<Job>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What there is to do, and what was done.
struct Job {
    interfaces: Arc<dyn Interfaces>,
    maps: Maps,
    device_maps: Vec<String>,
    notes: Arc<Notes>,
    workers: Vec<Sender<Outlet>>,
    opened: BTreeMap<u32, Arc<Limit>>,
    refused: BTreeSet<u32>,
    round: u32,
}

impl Opener {
    /// An opener for the programs of a machine; without a thread yet.
    pub(crate) fn new(vm: &Vm, interfaces: Arc<dyn Interfaces>) -> Opener {
        let maps = vm.handle();
        let device = |kind| matches!(kind, MapType::DevMap | MapType::DevMapHash);
        let defs = maps.maps().into_iter().filter(|def| device(def.kind));
        let device_maps = defs.map(|def| def.name).collect();
        Opener {
            job: Arc::new(Mutex::new(Job {
                interfaces,
                maps,
                device_maps,
                notes: Arc::default(),
                workers: Vec::new(),
                opened: BTreeMap::new(),
                refused: BTreeSet::new(),
                round: 0,
            })),
            stop: Arc::default(),
            thread: None,
        }
    }

    /// The outlets of one more worker.
    pub(crate) fn outlets(&self) -> Outlets {
        let mut job = lock(&self.job);
        let (sender, receiver) = channel();
        job.workers.push(sender);
        Outlets::new(receiver, Arc::clone(&job.notes))
    }

    /// Opens what device maps name, now and, if programs redirect at all, from now on. To be called when
    /// all workers have their outlets.
    pub(crate) fn start(&mut self, vm: &Vm) -> Result<(), ForwardError> {
        if !calls(vm, &[HelperId::REDIRECT, HelperId::REDIRECT_MAP]) {
            return Ok(());
        }
        self.round();
        let (job, stop) = (Arc::clone(&self.job), Arc::clone(&self.stop));
        let thread = std::thread::Builder::new()
            .name("sq-outlets".to_owned())
            .spawn(move || {
                while !stop.load(Relaxed) {
                    lock(&job).round();
                    std::thread::park_timeout(ROUND);
                }
            })
            .map_err(ForwardError::Thread)?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Opens what is missing now.
    pub(crate) fn round(&self) {
        lock(&self.job).round();
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// The job. A holder that panicked left it as it was, each interface being a matter of its own.
fn lock(job: &Mutex<Job>) -> MutexGuard<'_, Job> {
    match job.lock() {
        Ok(job) => job,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// Whether any program of the machine calls one of these helpers.
pub(crate) fn calls(vm: &Vm, helpers: &[HelperId]) -> bool {
    let mut insts = vm.linked().iter().flat_map(|program| program.insts());
    insts.any(|decoded| match decoded.inst {
        Inst::Call(CallTarget::Helper(helper)) => helpers.contains(&helper),
        _ => false,
    })
}

impl Job {
    fn round(&mut self) {
        self.round = self.round.wrapping_add(1);
        let mut wanted: BTreeSet<u32> = self.notes.take().collect();
        for map in &self.device_maps {
            wanted.extend(devices(&self.maps, map));
        }
        if self.round.is_multiple_of(LOOK_AGAIN) {
            self.look_again();
        }
        for ifindex in wanted {
            if ifindex != 0
                && !self.opened.contains_key(&ifindex)
                && !self.refused.contains(&ifindex)
            {
                self.open(ifindex);
            }
        }
    }

    /// Links change, and what was not there may be now: workers ask again for what they need.
    fn look_again(&mut self) {
        for (ifindex, limit) in &self.opened {
            limit.set(link(&*self.interfaces, *ifindex));
        }
        for ifindex in std::mem::take(&mut self.refused) {
            if self.interfaces.link(ifindex).is_ok() {
                self.open(ifindex);
            } else {
                self.refused.insert(ifindex);
            }
        }
    }

    /// Opens an interface once for each worker.
    fn open(&mut self, ifindex: u32) {
        let limit = Arc::new(Limit::default());
        limit.set(link(&*self.interfaces, ifindex));
        let mut failed = false;
        for worker in &self.workers {
            let port = self.interfaces.open(ifindex).map_err(|error| {
                failed = true;
                match error {
                    PortError::NoInterface(_) => RedirectDrop::NoInterface,
                    _ => RedirectDrop::Refused,
                }
            });
            // A worker that has ended needs no more.
            let _ = worker.send(Outlet::new(ifindex, port, Arc::clone(&limit)));
        }
        match failed {
            true => {
                self.refused.insert(ifindex);
            }
            false => {
                self.opened.insert(ifindex, limit);
            }
        }
    }
}

fn link(interfaces: &dyn Interfaces, ifindex: u32) -> Result<u32, RedirectDrop> {
    let link = interfaces.link(ifindex);
    link.map(|mtu| mtu.unwrap_or(u32::MAX))
}

/// The interfaces in a device map: the first four bytes of its values.
fn devices(maps: &Maps, name: &str) -> Vec<u32> {
    let mut found = Vec::new();
    let mut key = maps.next_key(name.into(), None).ok().flatten();
    while let Some(present) = key {
        if let Ok(Some(value)) = maps.lookup(name.into(), &present)
            && let Some(ifindex) = value.first_chunk::<4>()
        {
            found.push(u32::from_ne_bytes(*ifindex));
        }
        key = maps.next_key(name.into(), Some(&present)).ok().flatten();
    }
    found
}
