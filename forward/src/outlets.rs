//! The interfaces that frames are redirected to.
//!
//! Each worker sends through ports of its own, which it never opens itself: it looks an interface up among
//! its [`Outlets`]; if it is not there it leaves a note, counts the frame, and goes on. A thread beside
//! the workers ([`crate::opener`]) reads the notes and the device maps, opens what is missing, and sends it
//! over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::Receiver;

use squalus_port::{Burst, Frame, Pool, Port, PortState};

use crate::report::{RedirectBoard, RedirectDrop};

/// What a redirected frame may have beyond the MTU: Ethernet header and one VLAN tag (`xdp_ok_fwd_dev`).
const BEYOND_MTU: usize = 18;

/// The most interfaces that one worker sends through.
const MAX_OUTLETS: usize = 512;

/// What an interface takes now; the opener writes it, workers read it.
#[derive(Debug, Default)]
pub(crate) struct Limit(AtomicU32);

impl Limit {
    const DOWN: u32 = 0;
    const GONE: u32 = 1;

    /// Sets it to what the interface is now: its MTU (`u32::MAX` if it has none), or why it takes nothing.
    pub(crate) fn set(&self, link: Result<u32, RedirectDrop>) {
        let value = match link {
            Ok(mtu) => mtu.max(2),
            Err(RedirectDrop::Down) => Limit::DOWN,
            Err(_) => Limit::GONE,
        };
        self.0.store(value, Relaxed);
    }

    fn check(&self, len: usize) -> Result<(), RedirectDrop> {
        match self.0.load(Relaxed) {
            Limit::DOWN => Err(RedirectDrop::Down),
            Limit::GONE => Err(RedirectDrop::NoInterface),
            mtu if len > mtu as usize + BEYOND_MTU => Err(RedirectDrop::TooLong),
            _ => Ok(()),
        }
    }
}

/// One interface.
pub(crate) struct Outlet {
    ifindex: u32,
    port: Result<Box<dyn Port>, RedirectDrop>,
    limit: Arc<Limit>,
    waiting: Burst,
    /// What the port has counted as too long so far.
    too_long: u64,
}

/// A worker's interfaces.
pub(crate) struct Outlets {
    open: Vec<Outlet>,
    arrivals: Receiver<Outlet>,
    notes: Arc<Notes>,
}

/// Interfaces that workers miss, by index; 0 is a free place.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    wanted: [AtomicU32; 16],
}

impl Notes {
    /// Leaves a note unless there is one, or no place.
    fn leave(&self, ifindex: u32) {
        for place in &self.wanted {
            match place.compare_exchange(0, ifindex, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(there) if there == ifindex => return,
                Err(_) => {}
            }
        }
    }

    /// Takes all notes off.
    pub(crate) fn take(&self) -> impl Iterator<Item = u32> + '_ {
        let taken = self.wanted.iter().map(|place| place.swap(0, Relaxed));
        taken.filter(|ifindex| *ifindex != 0)
    }
}

impl Outlets {
    pub(crate) fn new(arrivals: Receiver<Outlet>, notes: Arc<Notes>) -> Outlets {
        Outlets {
            open: Vec::with_capacity(MAX_OUTLETS),
            arrivals,
            notes,
        }
    }

    /// Whether a frame of this length can go out of the interface now.
    pub(crate) fn check(&mut self, ifindex: u32, len: usize) -> Result<(), RedirectDrop> {
        if ifindex == 0 {
            return Err(RedirectDrop::NoInterface);
        }
        let outlet = self.find(ifindex).ok_or(RedirectDrop::NotOpen)?;
        match &outlet.port {
            Ok(_) => outlet.limit.check(len),
            Err(why) => Err(*why),
        }
    }

    /// Queues a frame for the interface; `check` has found it.
    pub(crate) fn push(
        &mut self,
        pool: &mut Pool,
        ifindex: u32,
        frame: Frame,
        board: &RedirectBoard,
    ) {
        let Some(outlet) = self.find(ifindex) else {
            board.count(RedirectDrop::NotOpen, 1);
            return pool.free(frame);
        };
        if outlet.waiting.room() == 0 {
            outlet.flush(pool, board);
        }
        if let Err(frame) = outlet.waiting.push(frame) {
            pool.free(frame);
        }
    }

    /// Sends what is queued, which is all of one pool.
    pub(crate) fn flush(&mut self, pool: &mut Pool, board: &RedirectBoard) {
        for outlet in &mut self.open {
            if !outlet.waiting.is_empty() {
                outlet.flush(pool, board);
            }
        }
    }

    /// The interface, after a look at what has arrived if it is not known; if it then is not, a note is left.
    fn find(&mut self, ifindex: u32) -> Option<&mut Outlet> {
        let position = |open: &[Outlet]| open.iter().position(|outlet| outlet.ifindex == ifindex);
        let known = position(&self.open);
        let usable = known.is_some_and(|n| self.open[n].port.is_ok());
        if !usable {
            self.receive();
        }
        let found = known.or_else(|| position(&self.open));
        if found.is_none() {
            self.notes.leave(ifindex);
        }
        found.map(|n| &mut self.open[n])
    }

    fn receive(&mut self) {
        while let Ok(outlet) = self.arrivals.try_recv() {
            let same = |open: &Outlet| open.ifindex == outlet.ifindex;
            match self.open.iter().position(same) {
                // Only one that could not be opened is opened again, so nothing waits in it.
                Some(n) => self.open[n] = outlet,
                None if self.open.len() < MAX_OUTLETS => self.open.push(outlet),
                None => {}
            }
        }
    }
}

impl Outlet {
    pub(crate) fn new(
        ifindex: u32,
        port: Result<Box<dyn Port>, RedirectDrop>,
        limit: Arc<Limit>,
    ) -> Outlet {
        Outlet {
            ifindex,
            port,
            limit,
            waiting: Burst::new(),
            too_long: 0,
        }
    }

    fn flush(&mut self, pool: &mut Pool, board: &RedirectBoard) {
        let Ok(port) = &mut self.port else {
            self.waiting.free(pool);
            return;
        };
        let count = self.waiting.len() as u64;
        let sent = port.send(pool, &mut self.waiting) as u64;
        board.sent(sent);
        if sent < count {
            self.account(count - sent, board);
        }
    }

    /// Counts frames that the interface did not take, by what it says of them.
    fn account(&mut self, missing: u64, board: &RedirectBoard) {
        let Ok(port) = &mut self.port else {
            return;
        };
        let why = match port.state() {
            PortState::Failed(libc::ENETDOWN) => RedirectDrop::Down,
            PortState::Failed(libc::ENODEV | libc::ENXIO) => RedirectDrop::NoInterface,
            _ => RedirectDrop::Refused,
        };
        let too_long = port.stats().tx_too_long;
        let new = (too_long - self.too_long).min(missing);
        self.too_long = too_long;
        board.count(RedirectDrop::TooLong, new);
        board.count(why, missing - new);
    }
}
