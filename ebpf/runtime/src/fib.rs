//! How programs ask for routes: the question and the answer of `bpf_fib_lookup`, and who answers.
//!
//! Whoever has routing tables (the host's, or made up for a test) implements [`Fib`] over a snapshot that
//! never changes: answers take no lock and allocate nothing. When the tables change a new snapshot is
//! published in a [`FibCell`]; workers move to it between bursts.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use squalus_isa::Errno;

/// Length of an Ethernet address in bytes.
pub type Mac = [u8; 6];

/// A snapshot of links, routes and neighbours.
pub trait Fib: Send + Sync + fmt::Debug {
    /// Finds the way of a packet, as the kernel would forward it.
    ///
    /// # Errors
    /// `ENODEV` if there is no such interface.
    fn lookup(&self, query: &FibQuery) -> Result<FibAnswer, Errno>;

    /// The link with this interface index.
    fn link(&self, interface: u32) -> Option<FibLink>;
}

/// What a link can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FibLink {
    /// Longest packet in bytes, its link layer header apart.
    pub mtu: u32,
    /// Length of a link layer header in bytes.
    pub header: u32,
}

/// A packet whose way is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FibQuery {
    /// The interface it came in by; with `output`, the one it should leave by.
    pub interface: u32,
    /// Its source address.
    pub source: IpAddr,
    /// Its destination, of the same IP version.
    pub destination: IpAddr,
    /// Number of the protocol above IP.
    pub protocol: u8,
    /// Source port, if the protocol has any.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Length of the IP packet in bytes, to be compared with the MTU.
    pub length: u16,
    /// IPv4 type of service, or IPv6 traffic class.
    pub tos: u8,
    /// IPv6 flow label.
    pub flow_label: u32,
    /// Firewall mark, for rules.
    pub mark: u32,
    /// Where to look.
    pub table: FibTable,
    /// Whether the packet leaves this host by `interface` instead of being forwarded.
    pub output: bool,
    /// Whether the answer should have the address this host would send from.
    pub want_source: bool,
    /// Whether the answer should have the next hop's Ethernet address.
    pub want_neighbour: bool,
}

/// Which table a lookup goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibTable {
    /// Those that the policy rules name, in their order.
    Rules,
    /// The main table alone.
    Main,
    /// The table with this number alone.
    Number(u32),
}

/// How a lookup ended (`BPF_FIB_LKUP_RET_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FibOutcome {
    /// The packet can be sent.
    Success = 0,
    /// The route drops it.
    Blackhole = 1,
    /// The route calls it unreachable.
    Unreachable = 2,
    /// The route prohibits it.
    Prohibit = 3,
    /// The packet is not forwarded: for this host, or no route.
    NotForwarded = 4,
    /// The interface does not forward.
    ForwardingDisabled = 5,
    /// The route wants an encapsulation.
    Encapsulated = 6,
    /// The next hop's address is not known.
    NoNeighbour = 7,
    /// The packet is longer than the MTU.
    FragmentationNeeded = 8,
    /// No source address fits.
    NoSource = 9,
}

/// The way of a packet, as far as it could be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FibAnswer {
    /// How the lookup ended.
    pub outcome: FibOutcome,
    /// The path's MTU in bytes; 0 if it was not asked for or the lookup ended before.
    pub mtu: u32,
    /// The route, if one was found that forwards and the packet is not too long.
    pub route: Option<FibRoute>,
    /// The next hop's and this host's Ethernet addresses.
    pub macs: Option<FibMacs>,
}

impl FibAnswer {
    /// A lookup that found no route.
    #[must_use]
    pub const fn none(outcome: FibOutcome) -> FibAnswer {
        FibAnswer {
            outcome,
            mtu: 0,
            route: None,
            macs: None,
        }
    }
}

/// What a route says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FibRoute {
    /// The interface the packet leaves by.
    pub interface: u32,
    /// The route's metric.
    pub metric: u32,
    /// The next router; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The address this host would send from, if asked for.
    pub source: Option<IpAddr>,
}

/// Ethernet addresses for a packet's way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FibMacs {
    /// This host's.
    pub source: Mac,
    /// The next hop's.
    pub destination: Mac,
}

/// Where the newest snapshot is published, for all workers.
#[derive(Debug, Default)]
pub struct FibCell {
    generation: AtomicU64,
    snapshots: Mutex<Snapshots>,
}

#[derive(Debug, Default)]
struct Snapshots {
    newest: Option<Arc<dyn Fib>>,
    /// Older ones that a worker may still use. They are freed here, never by a worker.
    older: Vec<Arc<dyn Fib>>,
}

impl FibCell {
    /// Without a snapshot yet: lookups find no interface.
    #[must_use]
    pub fn new() -> FibCell {
        FibCell::default()
    }

    /// Publishes a snapshot and frees older ones that no worker uses any more.
    pub fn publish(&self, snapshot: Arc<dyn Fib>) {
        let mut snapshots = self
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let previous = snapshots.newest.replace(snapshot);
        snapshots.older.extend(previous);
        snapshots.older.retain(|old| Arc::strong_count(old) > 1);
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// A worker's view of a [`FibCell`]: the snapshot it uses until its next burst.
#[derive(Debug, Default)]
pub struct FibReader {
    cell: Option<Arc<FibCell>>,
    seen: u64,
    snapshot: Option<Arc<dyn Fib>>,
}

impl FibReader {
    /// Reads what is published in `cell`.
    #[must_use]
    pub fn new(cell: Arc<FibCell>) -> FibReader {
        let mut reader = FibReader {
            cell: Some(cell),
            ..FibReader::default()
        };
        reader.refresh();
        reader
    }

    /// Moves to the newest snapshot, unless one is being published this moment. Call between bursts.
    #[inline]
    pub fn refresh(&mut self) {
        let Some(cell) = &self.cell else { return };
        let generation = cell.generation.load(Ordering::Acquire);
        if generation == self.seen {
            return;
        }
        let snapshots = match cell.snapshots.try_lock() {
            Ok(snapshots) => snapshots,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.snapshot.clone_from(&snapshots.newest);
        self.seen = generation;
    }

    /// The snapshot in use.
    #[must_use]
    pub fn get(&self) -> Option<&dyn Fib> {
        self.snapshot.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Only(u32);

    impl Fib for Only {
        fn lookup(&self, _: &FibQuery) -> Result<FibAnswer, Errno> {
            Err(Errno::ENODEV)
        }

        fn link(&self, interface: u32) -> Option<FibLink> {
            (interface == self.0).then_some(FibLink {
                mtu: 1500,
                header: 14,
            })
        }
    }

    #[test]
    fn readers_move_when_they_refresh_and_free_nothing() {
        let cell = Arc::new(FibCell::new());
        let mut reader = FibReader::new(Arc::clone(&cell));
        assert!(reader.get().is_none());
        let first: Arc<dyn Fib> = Arc::new(Only(1));
        let watch = Arc::downgrade(&first);
        cell.publish(first);
        reader.refresh();
        cell.publish(Arc::new(Only(2)));
        assert!(reader.get().unwrap().link(1).is_some());
        reader.refresh();
        assert!(reader.get().unwrap().link(2).is_some());
        assert!(watch.upgrade().is_some(), "freed by a reader");
        cell.publish(Arc::new(Only(3)));
        assert!(watch.upgrade().is_none());
    }
}
