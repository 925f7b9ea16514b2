//! The AF_PACKET port.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use squalus_port::{
    BURST, Burst, Frame, HostPath, Interface, Pool, Port, PortError, PortInfo, PortMode,
    PortRequest, PortState, PortStats,
};

use crate::changed::{Changed, Passed};
use crate::complete_checksum;
use crate::messages::{Messages, Received};

use crate::sys::{check, errno, set_option, wait_readable};

/// Bytes of socket buffer each way, enough for some thousand frames.
const SOCKET_BUFFER: libc::c_int = 8 << 20;

/// What opening an AF_PACKET socket takes.
const NEEDS: &str = "CAP_NET_RAW";

/// What a copy of every frame means for the user.
const SHARED: &str =
    "the host's stack sees every frame too: keep VIPs off its interfaces and forwarding off";

/// Several ports on one interface that share its frames, each flow always at the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fanout {
    /// The group; all ports that share use the same number, no other process in the namespace may.
    pub group: u16,
    /// This port's number in the group, from 0: it becomes [`PortInfo::queue`].
    pub member: u32,
}

/// How to open a [`PacketPort`].
#[derive(Clone, Debug)]
pub struct PacketConfig {
    /// The interface.
    pub interface: String,
    /// Whether to receive frames that are addressed to other stations too.
    pub promiscuous: bool,
    /// Whether to share the interface with other ports of this program.
    pub fanout: Option<Fanout>,
    /// What the user asked for; for [`PortInfo`] only.
    pub asked: PortRequest,
    /// What was tried before and refused; for [`PortInfo`] only.
    pub notices: Vec<String>,
    /// Whether the port is a way to the host behind the interface, as one end of a veth pair is: it
    /// receives nothing, and passes frames by sending them.
    pub towards_host: bool,
}

impl PacketConfig {
    /// The only port on `interface`, not promiscuous.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> PacketConfig {
        PacketConfig {
            interface: interface.into(),
            promiscuous: false,
            fanout: None,
            asked: PortRequest::AfPacket,
            notices: Vec::new(),
            towards_host: false,
        }
    }
}

/// A port on an AF_PACKET socket.
pub struct PacketPort {
    socket: OwnedFd,
    messages: Messages,
    /// Empty frames, ready to be received into.
    ready: Vec<Frame>,
    failure: Option<i32>,
    info: PortInfo,
    stats: PortStats,
    towards_host: bool,
    changed: Option<Changed>,
}

impl PacketPort {
    /// Opens the socket. From here on it receives what arrives at the interface, not what the host sends.
    ///
    /// # Errors
    /// If there is no such interface, or without `CAP_NET_RAW`, or on kernels before 4.20.
    pub fn open(config: &PacketConfig) -> Result<PacketPort, PortError> {
        let interface = Interface::by_name(&config.interface)?;
        let socket = open_socket()?;
        configure(&socket, config, &interface)?;
        let protocol = match config.towards_host {
            true => 0,
            false => libc::ETH_P_ALL as u16,
        };
        bind(&socket, &interface, protocol)?;
        if let Some(fanout) = config.fanout {
            // PACKET_FANOUT_HASH is mode 0, in the upper half.
            set_option(
                &socket,
                libc::SOL_PACKET,
                libc::PACKET_FANOUT,
                i32::from(fanout.group),
            )
            .map_err(|error| failed(error, "joining the fanout group"))?;
        }
        let mut notices = config.notices.clone();
        if !config.towards_host {
            notices.push(SHARED.to_owned());
        }
        if !interface.up {
            notices.push(format!("`{}` is down", interface.name));
        }
        Ok(PacketPort {
            socket,
            messages: Messages::new(),
            ready: Vec::with_capacity(BURST),
            failure: None,
            info: PortInfo {
                name: interface.name,
                asked: config.asked,
                obtained: PortMode::AfPacket,
                queue: config.fanout.map_or(0, |fanout| fanout.member),
                ifindex: Some(interface.index),
                mac: Some(interface.mac),
                mtu: Some(interface.mtu),
                host: HostPath::Already,
                notices,
            },
            stats: PortStats::default(),
            towards_host: config.towards_host,
            changed: None,
        })
    }

    /// Lets frames that the program has changed, and which it passes, reach the host's stack through
    /// another port: a tap, or a port towards the host ([`PacketConfig::towards_host`]). `pool` is
    /// the one that this port will receive into.
    #[must_use]
    pub fn with_host_path(mut self, host: Box<dyn Port>, pool: &Pool) -> PacketPort {
        let changed = Changed::new(host, pool);
        self.info.host = HostPath::AlreadyUnlessChanged(changed.host_name().to_owned());
        self.changed = Some(changed);
        self
    }

    /// Frees the frames that the kernel refused with this error number: the first one if it is the
    /// culprit, all if there is no sending now.
    fn drop_refused(&mut self, pool: &mut Pool, frames: &mut Burst, errno: i32) {
        match errno {
            libc::EINTR => {}
            libc::EMSGSIZE => {
                self.stats.tx_too_long += 1;
                frames.drain_first(1).for_each(|frame| pool.free(frame));
            }
            libc::EINVAL => {
                self.stats.tx_dropped += 1;
                frames.drain_first(1).for_each(|frame| pool.free(frame));
            }
            _ => self.stats.tx_dropped += frames.free(pool) as u64,
        }
    }

    /// Keeps an error that the user should know of; a passing one is none.
    fn note(&mut self, error: &io::Error) {
        let passing = [
            libc::EAGAIN,
            libc::EINTR,
            libc::ENOBUFS,
            libc::EMSGSIZE,
            libc::EINVAL,
        ];
        if !passing.contains(&errno(error)) {
            self.failure = Some(errno(error));
        }
    }

    /// Counters the kernel keeps; it forgets them when asked.
    fn read_kernel_drops(&mut self) {
        let mut value = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `value`; both live for the call.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            self.stats.rx_dropped += u64::from(value.tp_drops);
        }
    }
}

fn failed(error: io::Error, what: impl Into<String>) -> PortError {
    PortError::from_io(error, what, NEEDS)
}

fn open_socket() -> Result<OwnedFd, PortError> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // With protocol 0 nothing is received before the socket is bound to its interface.
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(PortError::last("opening an AF_PACKET socket", NEEDS));
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn configure(
    socket: &OwnedFd,
    config: &PacketConfig,
    interface: &Interface,
) -> Result<(), PortError> {
    let packet = |name, value: libc::c_int| set_option(socket, libc::SOL_PACKET, name, value);
    packet(libc::PACKET_IGNORE_OUTGOING, 1).map_err(|_| PortError::Unsupported {
        interface: interface.name.clone(),
        what: "PACKET_IGNORE_OUTGOING (the kernel is older than 4.20)".into(),
    })?;
    packet(libc::PACKET_AUXDATA, 1).map_err(|error| failed(error, "asking for PACKET_AUXDATA"))?;
    if config.promiscuous {
        let membership = libc::packet_mreq {
            mr_ifindex: interface.index as libc::c_int,
            mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set_option(
            socket,
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            membership,
        )
        .map_err(|error| failed(error, "promiscuous mode"))?;
    }
    for (forced, plain) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        // Without CAP_NET_ADMIN the system's limit applies.
        set_option(socket, libc::SOL_SOCKET, forced, SOCKET_BUFFER)
            .or_else(|_| set_option(socket, libc::SOL_SOCKET, plain, SOCKET_BUFFER))
            .map_err(|error| failed(error, "setting the socket's buffer"))?;
    }
    Ok(())
}

/// Protocol 0 receives nothing.
fn bind(socket: &OwnedFd, interface: &Interface, protocol: u16) -> Result<(), PortError> {
    // SAFETY: a zeroed sockaddr_ll is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = interface.index as libc::c_int;
    // SAFETY: the kernel reads an address of this length, which lives for the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    let bound = check(result);
    bound
        .map(drop)
        .map_err(|error| failed(error, format!("binding to `{}`", interface.name)))
}

/// Takes over the result of a receive: false, and counted, if the frame cannot be used.
fn accept(stats: &mut PortStats, pool: &mut Pool, frame: &mut Frame, received: Received) -> bool {
    if received.truncated || !pool.set_range(frame, frame.start(), received.len) {
        stats.rx_too_long += 1;
        return false;
    }
    if received.checksum_unfinished {
        complete_checksum(pool.data_mut(frame));
    }
    match received.vlan {
        Some((tpid, tci)) if !insert_tag(pool, frame, tpid, tci) => {
            stats.rx_dropped += 1;
            false
        }
        _ => true,
    }
}

/// Puts a VLAN tag back behind the addresses, where the program expects it; false if there is no room.
fn insert_tag(pool: &mut Pool, frame: &mut Frame, tpid: u16, tci: u16) -> bool {
    let (start, len) = (frame.start(), frame.len());
    if len < 14 || start < 4 || !pool.set_range(frame, start - 4, len + 4) {
        return false;
    }
    let data = pool.data_mut(frame);
    data.copy_within(4..16, 0);
    data[12..14].copy_from_slice(&tpid.to_be_bytes());
    data[14..16].copy_from_slice(&tci.to_be_bytes());
    true
}

impl Port for PacketPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn recv(&mut self, pool: &mut Pool, burst: &mut Burst) -> usize {
        while self.ready.len() < BURST {
            match pool.alloc() {
                Some(frame) => self.ready.push(frame),
                None => break,
            }
        }
        let want = burst.room().min(self.ready.len());
        if want == 0 {
            return 0;
        }
        let got = match self
            .messages
            .receive(&self.socket, pool, &mut self.ready[..want])
        {
            Ok(got) => got,
            Err(error) => {
                self.note(&error);
                return 0;
            }
        };
        self.failure = None;
        let before = burst.len();
        for (n, mut frame) in self.ready.drain(..got).enumerate() {
            let received = self.messages.received(n);
            if !accept(&mut self.stats, pool, &mut frame, received) {
                pool.free(frame);
                continue;
            }
            self.stats.rx_bytes += frame.len() as u64;
            if let Some(changed) = &mut self.changed {
                changed.remember(pool, &frame);
            }
            if let Err(frame) = burst.push(frame) {
                pool.free(frame);
            }
        }
        let received = burst.len() - before;
        self.stats.rx_frames += received as u64;
        received
    }

    fn send(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        let mut accepted = 0;
        while !frames.is_empty() {
            match self.messages.send(&self.socket, pool, frames) {
                Ok(sent) => {
                    accepted += sent;
                    for frame in frames.drain_first(sent.max(1)) {
                        self.stats.tx_bytes += frame.len() as u64;
                        pool.free(frame);
                    }
                }
                Err(error) => {
                    self.note(&error);
                    self.drop_refused(pool, frames, errno(&error));
                }
            }
        }
        self.stats.tx_frames += accepted as u64;
        accepted
    }

    fn pass(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        if self.towards_host {
            return self.send(pool, frames);
        }
        let Some(changed) = &mut self.changed else {
            let count = frames.free(pool);
            self.stats.passed += count as u64;
            return count;
        };
        let Passed { passed, dropped } = changed.pass(pool, frames);
        self.stats.passed += passed as u64;
        self.stats.pass_dropped += dropped as u64;
        passed
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        wait_readable(&self.socket, timeout)
    }

    fn state(&self) -> PortState {
        self.failure.map_or(PortState::Up, PortState::Failed)
    }

    fn stats(&mut self) -> PortStats {
        self.read_kernel_drops();
        self.stats
    }
}
