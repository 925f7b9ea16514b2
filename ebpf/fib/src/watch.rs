//! Keeping snapshots fresh.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use squalus_runtime::FibCell;

use crate::Snapshot;
use crate::facts::Tables;
use crate::reader::{FibError, Parts, Reader, failed, open};
use crate::wire::messages;

/// Changes that follow each other so closely become one new snapshot.
const QUIET: Duration = Duration::from_millis(2);
/// How long after a change a snapshot waits at most for others that follow it.
const PATIENCE: u32 = 25;

/// Groups of changes, as bits of `sockaddr_nl.nl_groups`: links, neighbours, addresses, routes and rules of both
/// IP versions, settings of interfaces, next hops.
const GROUPS: u32 = bit(1)
    | bit(3)
    | bit(5)
    | bit(7)
    | bit(8)
    | bit(9)
    | bit(11)
    | bit(19)
    | bit(24)
    | bit(25)
    | bit(32);

const fn bit(group: u32) -> u32 {
    1 << (group - 1)
}

/// A thread that publishes a snapshot whenever the host's tables change, until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Publishes the tables of the calling thread's network namespace in `cell`, now and after each change.
    ///
    /// If they can no longer be read, the last snapshot stays.
    ///
    /// # Errors
    /// If they cannot be read even once.
    pub fn start(cell: Arc<FibCell>) -> Result<Watcher, FibError> {
        // Before the first reading, so that no change is missed.
        let changes = open(GROUPS)?;
        let mut reader = Reader::open()?;
        let tables = reader.read()?;
        cell.publish(Arc::new(Snapshot::new(&tables)));
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(failed("making an event"))?;
        let stop = Arc::new(stop);
        let mut work = Work {
            changes,
            stop: Arc::clone(&stop),
            reader,
            tables,
            cell,
            buffer: vec![0; 1 << 16],
        };
        let thread = std::thread::Builder::new().name("squalus-fib".to_owned());
        let thread = thread.spawn(move || while work.step() {});
        Ok(Watcher {
            stop,
            thread: Some(thread.map_err(|source| FibError::Socket {
                doing: "starting a thread",
                source,
            })?),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Neither can fail: the event's count is far from full, and the thread does not panic.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    changes: OwnedFd,
    stop: Arc<OwnedFd>,
    reader: Reader,
    tables: Tables,
    cell: Arc<FibCell>,
    buffer: Vec<u8>,
}

impl Work {
    /// Waits for changes and publishes them; false when it is time to stop.
    fn step(&mut self) -> bool {
        let mut parts = Parts::default();
        let mut timeout = None;
        for _ in 0..PATIENCE {
            match self.wait(timeout) {
                Heard::Stop => return false,
                Heard::Nothing => break,
                Heard::Change => self.hear(&mut parts),
            }
            timeout = Some(QUIET);
        }
        if parts == Parts::default() {
            return true;
        }
        // A table that cannot be read stays as it was; the next change tries again.
        if self.reader.update(&mut self.tables, parts).is_ok() {
            self.cell.publish(Arc::new(Snapshot::new(&self.tables)));
        }
        true
    }

    fn wait(&self, timeout: Option<Duration>) -> Heard {
        let mut fds = [
            PollFd::new(&*self.stop, PollFlags::IN),
            PollFd::new(&self.changes, PollFlags::IN),
        ];
        let timeout = timeout.map(|time| Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        // An interrupted wait heard nothing.
        let _ = poll(&mut fds, timeout.as_ref());
        if !fds[0].revents().is_empty() {
            return Heard::Stop;
        }
        match fds[1].revents().is_empty() {
            true => Heard::Nothing,
            false => Heard::Change,
        }
    }

    /// Notes what one datagram says has changed.
    fn hear(&mut self, parts: &mut Parts) {
        match recv(&self.changes, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((len, _)) => {
                for message in messages(&self.buffer[..len]) {
                    note(parts, message.kind);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Some changes were lost.
            Err(_) => *parts = Parts::ALL,
        }
    }
}

enum Heard {
    Stop,
    Nothing,
    Change,
}

fn note(parts: &mut Parts, kind: u16) {
    match kind {
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => parts.neighbours = true,
        libc::RTM_NEWADDR | libc::RTM_DELADDR => parts.addresses = true,
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => parts.routes = true,
        libc::RTM_NEWRULE | libc::RTM_DELRULE => parts.rules = true,
        // A link's change may take routes along that are not told of: the kernel drops an interface's IPv4
        // routes in silence.
        _ => {
            parts.links = true;
            parts.routes = true;
            parts.neighbours = true;
        }
    }
}
