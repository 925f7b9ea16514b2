//! The AF_XDP port.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use squalus_port::{
    Burst, Frame, FrameSize, HostPath, Pool, Port, PortError, PortInfo, PortMode, PortRequest,
    PortState, PortStats, Umem,
};

use crate::socket::{Binding, Socket, SocketError};
use crate::staging::Staging;
use crate::steer::{AttachMode, NEEDS, Steering};

/// Slots of each ring, and fewer if the pool has less than twice as many frames.
const MAX_RING: usize = 2048;
/// The fewest frames a port can work with.
const MIN_FRAMES: usize = 256;
/// Ethernet header and one VLAN tag, which the MTU does not count.
const ETHERNET_AND_VLAN: usize = 18;
/// Shortest frame the kernel takes.
const ETHERNET: usize = 14;
/// In copy mode one call sends up to 32 frames, so this many send two bursts.
const KICKS: usize = 4;
/// How often, and after which pause, to try again to get a busy queue.
const BUSY_TRIES: usize = 25;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How to open an [`AfXdpPort`].
pub struct AfXdpConfig {
    /// The attached steering program; all queues of an interface share it.
    pub steering: Arc<Steering>,
    /// The receive queue.
    pub queue: u32,
    /// What the user asked for: decides between zero copy and copy.
    pub asked: PortRequest,
    /// The way of passed frames into the host's stack, usually a tap; or why there is none and they are
    /// dropped, which [`PortInfo::host`] then says.
    pub host: Result<Box<dyn Port>, String>,
}

/// A port on one queue of an interface.
pub struct AfXdpPort {
    socket: Socket,
    memory: Arc<Umem>,
    host: Option<Box<dyn Port>>,
    max_frame: usize,
    failure: Option<i32>,
    info: PortInfo,
    stats: PortStats,
    /// Only if the pool's chunks are too long for AF_XDP.
    staging: Option<Box<Staging>>,
    _steering: Arc<Steering>,
}

impl AfXdpPort {
    /// Opens the port over `pool`, which it must be used with from then on: zero copy if the driver can
    /// and nothing else was asked for, else copy. [`PortInfo`] says which. A pool with chunks longer than a
    /// page takes frames that come in pieces, which costs another copy.
    ///
    /// # Errors
    /// [`PortError::QueueBusy`], [`PortError::NoQueue`]; [`PortError::Unsupported`] if only zero copy was
    /// asked for and the driver can't; [`PortError::Privilege`].
    pub fn open(config: AfXdpConfig, pool: &mut Pool) -> Result<AfXdpPort, PortError> {
        let interface = config.steering.interface().clone();
        if pool.capacity() < MIN_FRAMES {
            return Err(PortError::Config(format!(
                "an AF_XDP port needs a pool of at least {MIN_FRAMES} frames, this one has {}",
                pool.capacity()
            )));
        }
        let mut staging = match pool.chunk_size() > FrameSize::Page.bytes() {
            true => Some(Box::new(Staging::new(MAX_RING * 2)?)),
            false => None,
        };
        let rings_pool = staging.as_ref().map_or(&*pool, |staging| &staging.pool);
        let (socket, obtained, notices) = open_socket(&config, rings_pool, staging.is_some())?;
        let memory = Arc::clone(pool.memory());
        config
            .steering
            .register(config.queue, &socket.fd)
            .map_err(|error| {
                PortError::from_io(error, "entering the socket into the steering map", NEEDS)
            })?;
        let path = match &config.host {
            Ok(port) => HostPath::Tap(port.info().name.clone()),
            Err(reason) => HostPath::None(reason.clone()),
        };
        let mut port = AfXdpPort {
            socket,
            memory,
            host: config.host.ok(),
            max_frame: interface.mtu as usize + ETHERNET_AND_VLAN,
            failure: None,
            info: PortInfo {
                name: interface.name,
                asked: config.asked,
                obtained,
                queue: config.queue,
                ifindex: Some(interface.index),
                mac: Some(interface.mac),
                mtu: Some(interface.mtu),
                host: path,
                notices,
            },
            stats: PortStats::default(),
            staging: None,
            _steering: config.steering,
        };
        port.refill(staging.as_mut().map_or(pool, |staging| &mut staging.pool));
        port.staging = staging;
        Ok(port)
    }

    /// Adds to what the user should know of the port.
    pub fn add_notice(&mut self, notice: String) {
        self.info.notices.push(notice);
    }

    /// Offers the kernel free frames, as many as its ring has room for.
    fn refill(&mut self, pool: &mut Pool) {
        let free = self.socket.fill.free(MAX_RING);
        let mut offered = 0;
        while offered < free {
            let Some(offset) = pool.lend_empty() else {
                break;
            };
            self.socket.fill.push(offset);
            offered += 1;
        }
        if offered > 0 {
            self.socket.fill.publish();
        }
    }

    /// Takes back the frames that were sent.
    fn complete(&mut self, pool: &mut Pool) {
        let mut completed = false;
        while let Some(offset) = self.socket.completion.pop() {
            pool.release(offset);
            completed = true;
        }
        if completed {
            self.socket.completion.release();
        }
    }

    /// Makes the kernel send what is in the transmit ring, if it has to be told.
    fn flush(&mut self) {
        for _ in 0..KICKS {
            if self.socket.tx.outstanding() == 0 || !self.socket.tx.needs_wakeup() {
                return;
            }
            match self.socket.kick_tx() {
                Ok(()) => self.failure = None,
                // More to send than one call does, or the driver's queue is full: what is left is sent
                // with the next call.
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => {}
                    Some(libc::EBUSY | libc::ENOBUFS) => return,
                    errno => {
                        self.failure = errno;
                        return;
                    }
                },
            }
        }
    }

    /// Puts a frame into the transmit ring, or frees and counts it; true if it is in the ring.
    fn enqueue(&mut self, pool: &mut Pool, frame: Frame) -> bool {
        let len = frame.len();
        if len > self.max_frame {
            self.stats.tx_too_long += 1;
            pool.free(frame);
            return false;
        }
        if len < ETHERNET || self.socket.tx.free(1) == 0 {
            self.stats.tx_dropped += 1;
            pool.free(frame);
            return false;
        }
        let addr = pool.lend(frame);
        self.stats.tx_bytes += len as u64;
        self.socket.tx.push(libc::xdp_desc {
            addr,
            len: len as u32,
            options: 0,
        })
    }

    /// As [`Port::recv`], for frames in pieces.
    fn recv_pieces(&mut self, staging: &mut Staging, pool: &mut Pool, burst: &mut Burst) -> usize {
        self.complete(&mut staging.pool);
        if self.socket.tx.outstanding() > 0 {
            self.flush();
        }
        let (before, mut taken) = (burst.len(), false);
        while burst.room() > 0 {
            let Some(entry) = self.socket.rx.pop() else {
                break;
            };
            taken = true;
            if let Some(frame) = staging.take(entry, pool, &mut self.stats) {
                self.stats.rx_bytes += frame.len() as u64;
                if let Err(frame) = burst.push(frame) {
                    pool.free(frame);
                }
            }
        }
        let received = burst.len() - before;
        if taken {
            self.socket.rx.release();
            self.failure = None;
            self.stats.rx_frames += received as u64;
        }
        self.refill(&mut staging.pool);
        if !taken && self.socket.fill.needs_wakeup() {
            self.socket.kick_rx();
        }
        received
    }

    /// Puts a frame into the transmit ring in pieces, or counts it; true if it is in the ring.
    fn enqueue_pieces(&mut self, staging: &mut Staging, packet: &[u8]) -> bool {
        if packet.len() > self.max_frame {
            self.stats.tx_too_long += 1;
            return false;
        }
        let pieces = staging.pieces(packet.len());
        let room = self.socket.tx.free(pieces).min(staging.pool.available());
        if packet.len() < ETHERNET || room < pieces {
            self.stats.tx_dropped += 1;
            return false;
        }
        self.stats.tx_bytes += packet.len() as u64;
        staging.cut(packet, |entry| {
            self.socket.tx.push(entry);
        });
        true
    }

    /// As [`Port::send`], for frames in pieces.
    fn send_pieces(&mut self, staging: &mut Staging, pool: &mut Pool, frames: &mut Burst) -> usize {
        self.complete(&mut staging.pool);
        let mut accepted = 0;
        for frame in frames.drain() {
            accepted += usize::from(self.enqueue_pieces(staging, pool.data(&frame)));
            pool.free(frame);
        }
        accepted
    }

    /// A port's rings name chunks of one pool only.
    fn check_pool(&self, pool: &Pool) {
        assert!(
            Arc::ptr_eq(&self.memory, pool.memory()),
            "an AF_XDP port is used with the pool it was opened with"
        );
    }
}

/// Opens the socket in the best mode asked for; also what the user should know.
fn open_socket(
    config: &AfXdpConfig,
    pool: &Pool,
    fragments: bool,
) -> Result<(Socket, PortMode, Vec<String>), PortError> {
    let steering = &config.steering;
    let entries = 1_u32 << (pool.capacity() / 2).min(MAX_RING).ilog2();
    let open = |zero_copy| {
        let binding = Binding {
            ifindex: steering.interface().index,
            queue: config.queue,
            zero_copy,
            fragments,
        };
        open_when_free(pool, entries, binding)
    };
    let mut notices = steering.notices().to_vec();
    let only_zero_copy = config.asked == PortRequest::AfXdpZeroCopy;
    if config.asked != PortRequest::AfXdpCopy && steering.mode() == AttachMode::Native {
        match open(true) {
            Ok(socket) if socket.is_zero_copy().unwrap_or(false) => {
                return Ok((socket, PortMode::AfXdpZeroCopy, notices));
            }
            Ok(_) => notices.push("the driver promised zero copy and copies".into()),
            Err(SocketError::Setup(error)) => return Err(error),
            Err(SocketError::Bind(error)) if is_no_zero_copy(&error) => {
                notices.push(format!("no zero copy: the driver refuses ({error})"));
            }
            Err(SocketError::Bind(error)) => return Err(bind_error(config, error)),
        }
    }
    if only_zero_copy {
        return Err(PortError::Unsupported {
            interface: steering.interface().name.clone(),
            what: format!("AF_XDP zero copy ({})", notices.join("; ")),
        });
    }
    match open(false) {
        Ok(socket) => Ok((socket, PortMode::AfXdpCopy, notices)),
        Err(SocketError::Setup(error)) => Err(error),
        Err(SocketError::Bind(error)) => Err(bind_error(config, error)),
    }
}

/// Opens a socket; waits a moment for the queue, since the kernel frees that of a closed socket only some
/// time later.
fn open_when_free(pool: &Pool, entries: u32, binding: Binding) -> Result<Socket, SocketError> {
    for _ in 0..BUSY_TRIES {
        match Socket::open(pool, entries, binding) {
            Err(SocketError::Bind(error)) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(BUSY_PAUSE);
            }
            result => return result,
        }
    }
    Socket::open(pool, entries, binding)
}

fn is_no_zero_copy(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOMEM)
    )
}

fn bind_error(config: &AfXdpConfig, error: io::Error) -> PortError {
    let interface = config.steering.interface();
    let (name, queue) = (interface.name.clone(), config.queue);
    let queues = interface.rx_queues().unwrap_or(u32::MAX);
    match error.raw_os_error() {
        Some(libc::EBUSY) => PortError::QueueBusy {
            interface: name,
            queue,
        },
        Some(libc::EINVAL) if queue >= queues => PortError::NoQueue {
            interface: name,
            queue,
        },
        _ => {
            let what = format!("binding an AF_XDP socket to queue {queue} of `{name}`");
            PortError::from_io(error, what, NEEDS)
        }
    }
}

impl Port for AfXdpPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn recv(&mut self, pool: &mut Pool, burst: &mut Burst) -> usize {
        self.check_pool(pool);
        if let Some(mut staging) = self.staging.take() {
            let received = self.recv_pieces(&mut staging, pool, burst);
            self.staging = Some(staging);
            return received;
        }
        self.complete(pool);
        if self.socket.tx.outstanding() > 0 {
            self.flush();
        }
        let before = burst.len();
        while burst.room() > 0 {
            let Some(entry) = self.socket.rx.pop() else {
                break;
            };
            match pool.reclaim(entry.addr, entry.len) {
                Some(frame) => {
                    self.stats.rx_bytes += frame.len() as u64;
                    if let Err(frame) = burst.push(frame) {
                        pool.free(frame);
                    }
                }
                None => self.stats.rx_dropped += 1,
            }
        }
        let received = burst.len() - before;
        if received > 0 {
            self.socket.rx.release();
            self.failure = None;
            self.stats.rx_frames += received as u64;
        }
        self.refill(pool);
        if received == 0 && self.socket.fill.needs_wakeup() {
            self.socket.kick_rx();
        }
        received
    }

    fn send(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        self.check_pool(pool);
        let mut accepted = 0;
        if let Some(mut staging) = self.staging.take() {
            accepted = self.send_pieces(&mut staging, pool, frames);
            self.staging = Some(staging);
        } else {
            self.complete(pool);
            for frame in frames.drain() {
                accepted += usize::from(self.enqueue(pool, frame));
            }
        }
        if accepted > 0 {
            self.socket.tx.publish();
            self.flush();
        }
        self.stats.tx_frames += accepted as u64;
        accepted
    }

    fn pass(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        let count = frames.len();
        let passed = match &mut self.host {
            Some(host) => host.pass(pool, frames),
            None => {
                frames.free(pool);
                0
            }
        };
        self.stats.passed += passed as u64;
        self.stats.pass_dropped += (count - passed) as u64;
        passed
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.socket.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let millis = i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        // SAFETY: the kernel reads and writes one pollfd, which lives for the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
        if ready == 0 {
            // Polling does not tell when the interface goes away.
            self.failure = self.socket.pending_error().or(self.failure);
        }
        ready > 0
    }

    fn state(&self) -> PortState {
        self.failure.map_or(PortState::Up, PortState::Failed)
    }

    fn stats(&mut self) -> PortStats {
        let mut stats = self.stats;
        if let Ok(kernel) = self.socket.statistics() {
            stats.rx_dropped += kernel.rx_dropped + kernel.rx_ring_full;
            stats.tx_dropped += kernel.tx_invalid_descs;
        }
        stats
    }
}
