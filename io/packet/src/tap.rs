//! Tap devices.
//!
//! What the host sends to the device, the port receives; what the port sends, the host receives as if it
//! had come from a wire. So a tap is a port of its own (a program can serve the host it runs on) and the
//! way back into the host's stack for frames that a program passes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use squalus_port::{
    Burst, HostPath, Interface, MacAddr, Pool, Port, PortError, PortInfo, PortMode, PortRequest,
    PortState, PortStats,
};

use crate::sys::{errno, wait_readable};

const DEVICE: &str = "/dev/net/tun";
const NEEDS: &str = "CAP_NET_ADMIN";

// linux/if_tun.h
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TAP: libc::c_short = 0x0002;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_MULTI_QUEUE: libc::c_short = 0x0100;

/// How to open a [`TapPort`].
#[derive(Clone, Debug)]
pub struct TapConfig {
    /// The device's name.
    pub name: String,
    /// The Ethernet address to give it; the kernel's choice if absent.
    pub mac: Option<MacAddr>,
    /// The MTU to give it.
    pub mtu: u32,
    /// This port's queue of the device. Ports with the same name share one device.
    pub queue: u32,
}

impl TapConfig {
    /// A device with this name and an MTU of 1500.
    #[must_use]
    pub fn new(name: impl Into<String>) -> TapConfig {
        TapConfig {
            name: name.into(),
            mac: None,
            mtu: 1500,
            queue: 0,
        }
    }
}

/// A port on one queue of a tap device, which vanishes with its last port.
#[derive(Debug)]
pub struct TapPort {
    device: File,
    failure: Option<i32>,
    info: PortInfo,
    stats: PortStats,
}

impl TapPort {
    /// Creates the device or attaches to it, and sets it up.
    ///
    /// Addresses are nobody's business but the user's: the device gets none, not even an IPv6 link-local
    /// one, and its reverse path filter is loose, since what is passed through it came in elsewhere.
    ///
    /// # Errors
    /// [`PortError::TapBusy`] if another kind of device has the name or another process has it open;
    /// [`PortError::Privilege`] without `CAP_NET_ADMIN`.
    pub fn open(config: &TapConfig) -> Result<TapPort, PortError> {
        let device = attach(&config.name)?;
        let mut interface = Interface::by_name(&config.name)?;
        let mut notices = Vec::new();
        if !interface.up {
            notices.extend(make_quiet(&config.name));
            if let Some(mac) = config.mac {
                interface.set_mac(mac)?;
            }
            interface.set_mtu(config.mtu)?;
            interface.set_up()?;
        }
        Ok(TapPort {
            device,
            failure: None,
            info: PortInfo {
                name: interface.name.clone(),
                asked: PortRequest::Tap,
                obtained: PortMode::Tap,
                queue: config.queue,
                ifindex: Some(interface.index),
                mac: Some(interface.mac),
                mtu: Some(interface.mtu),
                host: HostPath::Tap(interface.name),
                notices,
            },
            stats: PortStats::default(),
        })
    }

    /// Writes the frames to the device; returns how many and how many bytes it took.
    fn write_all(&mut self, pool: &mut Pool, frames: &mut Burst) -> (u64, u64) {
        let mut written = (0, 0);
        for frame in frames.drain() {
            match self.device.write(pool.data(&frame)) {
                Ok(len) => {
                    written = (written.0 + 1, written.1 + len as u64);
                    self.failure = None;
                }
                Err(error) => self.note(&error),
            }
            pool.free(frame);
        }
        written
    }

    /// Keeps an error that the user should know of. `EIO` means that the device is down.
    fn note(&mut self, error: &io::Error) {
        match errno(error) {
            libc::EAGAIN | libc::EINTR | libc::EINVAL | libc::ENOBUFS => {}
            libc::EIO => self.failure = Some(libc::ENETDOWN),
            other => self.failure = Some(other),
        }
    }
}

fn attach(name: &str) -> Result<File, PortError> {
    let what = || format!("creating tap device `{name}`");
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(PortError::Config(format!(
            "`{name}` is no interface name: 1 to {} bytes",
            libc::IFNAMSIZ - 1
        )));
    }
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)
        .map_err(|error| PortError::from_io(error, format!("opening {DEVICE}"), NEEDS))?;
    // SAFETY: a zeroed ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE;
    // SAFETY: the call reads and writes an ifreq, which lives for the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
    if result == 0 {
        return Ok(device);
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EBUSY | libc::EINVAL | libc::E2BIG) => PortError::TapBusy(name.into()),
        _ => PortError::from_io(error, what(), NEEDS),
    })
}

/// Keeps the host from configuring the device or distrusting what comes from it; returns what failed.
fn make_quiet(name: &str) -> Vec<String> {
    // The larger of the device's filter and `all` counts. Where there is none at all, keep it so; else be
    // loose, which is the largest.
    let all = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter");
    let filter = if all.is_ok_and(|value| value.trim() == "0") {
        "0"
    } else {
        "2"
    };
    let settings = [
        (format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), filter),
        // No link-local address.
        (format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1"),
        (format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0"),
    ];
    let failed = settings.iter().filter_map(|(path, value)| {
        let error = std::fs::write(path, value).err()?;
        // Without IPv6 there is nothing to keep quiet.
        (error.kind() != io::ErrorKind::NotFound)
            .then(|| format!("could not write {value} to {path}: {error}"))
    });
    failed.collect()
}

impl Port for TapPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn recv(&mut self, pool: &mut Pool, burst: &mut Burst) -> usize {
        let before = burst.len();
        while burst.room() > 0 {
            let Some(mut frame) = pool.alloc() else {
                break;
            };
            let room = pool.max_packet();
            let start = frame.start();
            // One byte more than fits would be needed to see that a frame was cut, so the last byte is
            // not used for frames.
            let _ = pool.set_range(&mut frame, start, room);
            match self.device.read(pool.data_mut(&mut frame)) {
                Ok(len) if len > 0 && len < room => {
                    let _ = pool.set_range(&mut frame, start, len);
                    self.stats.rx_bytes += len as u64;
                    if let Err(frame) = burst.push(frame) {
                        pool.free(frame);
                    }
                }
                Ok(_) => {
                    self.stats.rx_too_long += 1;
                    pool.free(frame);
                }
                Err(error) => {
                    self.note(&error);
                    pool.free(frame);
                    break;
                }
            }
        }
        let received = burst.len() - before;
        if received > 0 {
            self.failure = None;
        }
        self.stats.rx_frames += received as u64;
        received
    }

    fn send(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        let count = frames.len() as u64;
        let (sent, bytes) = self.write_all(pool, frames);
        self.stats.tx_frames += sent;
        self.stats.tx_bytes += bytes;
        self.stats.tx_dropped += count - sent;
        sent as usize
    }

    fn pass(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        let count = frames.len() as u64;
        let (passed, _) = self.write_all(pool, frames);
        self.stats.passed += passed;
        self.stats.pass_dropped += count - passed;
        passed as usize
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        wait_readable(&self.device, timeout)
    }

    fn state(&self) -> PortState {
        self.failure.map_or(PortState::Up, PortState::Failed)
    }

    fn stats(&mut self) -> PortStats {
        self.stats
    }
}
