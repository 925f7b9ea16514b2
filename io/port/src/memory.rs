//! A port of queues in memory, for tests and simulations.
//!
//! The port is the worker's side; a [`Wire`] is everybody else's: it puts frames in and takes out what was
//! sent and what was passed to the host. Both sides share a lock, taken once a burst, and buffers are used
//! again, so that in the steady state nothing is allocated.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::{Burst, Pool, Port, PortInfo, PortMode, PortRequest, PortState, PortStats};

/// The worker's side of a memory port.
#[derive(Debug)]
pub struct MemoryPort {
    wire: Wire,
    info: PortInfo,
    stats: PortStats,
}

/// The other side of a [`MemoryPort`]; clones are the same wire.
#[derive(Clone, Debug)]
pub struct Wire {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queues: Mutex<Queues>,
    arrived: Condvar,
    sent: Condvar,
}

#[derive(Debug, Default)]
struct Queues {
    to_port: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
    passed: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    limit: usize,
    closed: bool,
}

impl MemoryPort {
    /// A port and its wire. Each of the three queues holds up to `limit` frames.
    #[must_use]
    pub fn new(name: impl Into<String>, limit: usize) -> (MemoryPort, Wire) {
        let queues = Queues {
            limit,
            ..Queues::default()
        };
        let wire = Wire {
            shared: Arc::new(Shared {
                queues: Mutex::new(queues),
                arrived: Condvar::new(),
                sent: Condvar::new(),
            }),
        };
        let port = MemoryPort {
            wire: wire.clone(),
            info: PortInfo::detached(name, PortRequest::Memory, PortMode::Memory),
            stats: PortStats::default(),
        };
        (port, wire)
    }
}

impl Wire {
    /// Puts a frame in; false if the queue is full or the wire closed.
    pub fn push(&self, frame: &[u8]) -> bool {
        let mut queues = self.lock();
        if queues.closed || queues.to_port.len() >= queues.limit {
            return false;
        }
        let buffer = queues.buffer(frame);
        queues.to_port.push_back(buffer);
        drop(queues);
        self.shared.arrived.notify_one();
        true
    }

    /// Takes out all frames sent so far.
    #[must_use]
    pub fn take_sent(&self) -> Vec<Vec<u8>> {
        self.lock().sent.drain(..).collect()
    }

    /// Takes out all frames passed to the host so far.
    #[must_use]
    pub fn take_passed(&self) -> Vec<Vec<u8>> {
        self.lock().passed.drain(..).collect()
    }

    /// Waits until `count` frames lie in the sent queue, at most for `timeout`; true if they do.
    #[must_use]
    pub fn wait_sent(&self, count: usize, timeout: Duration) -> bool {
        let too_few = |queues: &mut Queues| queues.sent.len() < count;
        match self
            .shared
            .sent
            .wait_timeout_while(self.lock(), timeout, too_few)
        {
            Ok((queues, _)) => queues.sent.len() >= count,
            Err(_) => false,
        }
    }

    /// Ends the input: the port is finished once it has received what is queued.
    pub fn close(&self) {
        self.lock().closed = true;
        self.shared.arrived.notify_all();
    }

    /// The queues. A holder that panicked left them as they were, each operation being complete in itself.
    fn lock(&self) -> MutexGuard<'_, Queues> {
        match self.shared.queues.lock() {
            Ok(queues) => queues,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

impl Queues {
    fn buffer(&mut self, content: &[u8]) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(content);
        buffer
    }
}

impl Port for MemoryPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn recv(&mut self, pool: &mut Pool, burst: &mut Burst) -> usize {
        let mut queues = self.wire.lock();
        let before = burst.len();
        while burst.room() > 0 && pool.available() > 0 {
            let Some(packet) = queues.to_port.pop_front() else {
                break;
            };
            match pool.alloc_from(&packet) {
                Some(frame) => {
                    self.stats.rx_bytes += packet.len() as u64;
                    if let Err(frame) = burst.push(frame) {
                        pool.free(frame);
                    }
                }
                None => self.stats.rx_too_long += 1,
            }
            queues.spare.push(packet);
        }
        let received = burst.len() - before;
        self.stats.rx_frames += received as u64;
        received
    }

    fn send(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        let mut queues = self.wire.lock();
        let mut accepted = 0;
        for frame in frames.drain() {
            if queues.sent.len() < queues.limit {
                let buffer = queues.buffer(pool.data(&frame));
                self.stats.tx_bytes += buffer.len() as u64;
                queues.sent.push_back(buffer);
                accepted += 1;
            } else {
                self.stats.tx_dropped += 1;
            }
            pool.free(frame);
        }
        drop(queues);
        self.stats.tx_frames += accepted as u64;
        self.wire.shared.sent.notify_all();
        accepted
    }

    fn pass(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        let mut queues = self.wire.lock();
        let mut accepted = 0;
        for frame in frames.drain() {
            if queues.passed.len() < queues.limit {
                let buffer = queues.buffer(pool.data(&frame));
                queues.passed.push_back(buffer);
                accepted += 1;
            } else {
                self.stats.pass_dropped += 1;
            }
            pool.free(frame);
        }
        self.stats.passed += accepted as u64;
        accepted
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        let idle = |queues: &mut Queues| queues.to_port.is_empty() && !queues.closed;
        let shared = &self.wire.shared;
        match shared
            .arrived
            .wait_timeout_while(self.wire.lock(), timeout, idle)
        {
            Ok((queues, _)) => !queues.to_port.is_empty(),
            Err(_) => true,
        }
    }

    fn state(&self) -> PortState {
        let queues = self.wire.lock();
        if queues.closed && queues.to_port.is_empty() {
            PortState::Finished
        } else {
            PortState::Up
        }
    }

    fn stats(&mut self) -> PortStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BURST, PoolConfig};

    #[test]
    fn frames_come_back_in_order_and_changed_in_place() {
        let (mut port, wire) = MemoryPort::new("m0", 1000);
        let mut pool = Pool::new(&PoolConfig::default()).unwrap();
        for n in 0..100u8 {
            assert!(wire.push(&[n; 60]));
        }
        let (mut burst, mut passed) = (Burst::new(), Burst::new());
        assert_eq!(port.recv(&mut pool, &mut burst), BURST);
        for frame in burst.iter_mut() {
            pool.data_mut(frame)[0] ^= 0xff;
        }
        assert_eq!(port.send(&mut pool, &mut burst), BURST);
        assert_eq!(port.recv(&mut pool, &mut passed), 100 - BURST);
        assert_eq!(port.pass(&mut pool, &mut passed), 100 - BURST);
        assert_eq!(pool.available(), pool.capacity());

        let sent = wire.take_sent();
        assert_eq!(sent.len(), BURST);
        for (n, frame) in sent.iter().enumerate() {
            assert_eq!((frame[0], frame[1]), (!(n as u8), n as u8));
        }
        assert_eq!(wire.take_passed()[0], [BURST as u8; 60]);
        let stats = port.stats();
        assert_eq!(
            (stats.rx_frames, stats.tx_frames, stats.passed),
            (100, 64, 36)
        );
        assert_eq!(stats.rx_bytes, 6000);
    }

    #[test]
    fn full_queues_and_long_frames_are_counted() {
        let (mut port, wire) = MemoryPort::new("m0", 2);
        let mut pool = Pool::new(&PoolConfig::default()).unwrap();
        let mut burst = Burst::new();
        assert!(wire.push(&[0; 3000]));
        assert!(wire.push(&[0; 60]));
        assert!(!wire.push(&[0; 60]), "full");
        assert_eq!(port.recv(&mut pool, &mut burst), 1);
        for _ in 0..2 {
            burst.push(pool.alloc_from(&[1; 60]).unwrap()).unwrap();
        }
        assert_eq!(port.send(&mut pool, &mut burst), 2);
        let stats = port.stats();
        assert_eq!((stats.rx_too_long, stats.tx_dropped), (1, 1));
        assert_eq!(pool.available(), pool.capacity());
    }

    #[test]
    fn a_closed_wire_finishes_after_the_last_frame() {
        let (mut port, wire) = MemoryPort::new("m0", 2);
        let mut pool = Pool::new(&PoolConfig::default()).unwrap();
        let mut burst = Burst::new();
        assert!(!port.wait(Duration::ZERO));
        wire.push(&[0; 60]);
        wire.close();
        assert!(!wire.push(&[0; 60]));
        assert!(port.wait(Duration::from_secs(60)));
        assert_eq!(port.state(), PortState::Up);
        assert_eq!(port.recv(&mut pool, &mut burst), 1);
        assert_eq!(port.state(), PortState::Finished);
        assert!(!port.wait(Duration::from_secs(60)), "returns at once");
    }
}
