//! Opening the ports of an interface: which kind, how many, and which worker gets which.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use squalus_afxdp::{AfXdpConfig, AfXdpPort, AttachMode, Filter, Reinjection, Steering};
use squalus_packet::{Fanout, PacketConfig, PacketPort, TapConfig, TapPort};
use squalus_port::{
    FrameSize, Interface, Pool, PoolConfig, Port, PortError, PortMode, PortRequest,
};

use crate::PortAndPool;

/// How to open an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// The interface.
    pub interface: String,
    /// The kind of port; with [`PortRequest::Auto`] AF_XDP zero copy, AF_XDP copy, AF_PACKET, whichever
    /// works first.
    pub request: PortRequest,
    /// How AF_XDP's steering program is attached.
    pub attach: AttachMode,
    /// Which frames AF_XDP takes from the host.
    pub filter: Filter,
    /// Name of the tap device for frames that the program passes and the host has not seen as they are:
    /// with AF_XDP all, with AF_PACKET those that the program changed.
    pub tap: String,
    /// An interface to send such frames to instead, whose other end is the host's: one end of a veth pair.
    /// Needs no rights to `/dev/net/tun`.
    pub inject: Option<String>,
    /// Frames of each port.
    pub frames: u32,
    /// Whether AF_PACKET receives frames addressed to other stations.
    pub promiscuous: bool,
}

impl PortOptions {
    /// The best kind of port on `interface`, for VIP traffic only.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> PortOptions {
        PortOptions {
            interface: interface.into(),
            request: PortRequest::Auto,
            attach: AttachMode::Auto,
            filter: Filter::Vips,
            tap: "sq-pass0".to_owned(),
            inject: None,
            frames: PoolConfig::default().frames,
            promiscuous: false,
        }
    }

    /// The best kind of port on `interface`, for a program that is to see every frame.
    #[must_use]
    pub fn everything(interface: impl Into<String>) -> PortOptions {
        let interface = interface.into();
        PortOptions {
            filter: Filter::Everything,
            tap: format!("sq-{}", interface.get(..12).unwrap_or(&interface)),
            ..PortOptions::new(interface)
        }
    }
}

/// Opened ports. The steering programs and the ways back to the host are there as long as this, or what its
/// parts are moved to, lives.
#[derive(Default)]
pub struct OpenPorts {
    /// The ports of each worker.
    pub ports: Vec<Vec<PortAndPool>>,
    /// The steering programs in front of those on AF_XDP.
    pub steering: Vec<Arc<Steering>>,
    /// The ways back to the host behind taps.
    pub reinjections: Vec<Reinjection>,
}

impl OpenPorts {
    fn add(&mut self, other: OpenPorts) {
        if self.ports.len() < other.ports.len() {
            self.ports.resize_with(other.ports.len(), Vec::new);
        }
        for (mine, more) in self.ports.iter_mut().zip(other.ports) {
            mine.extend(more);
        }
        self.steering.extend(other.steering);
        self.reinjections.extend(other.reinjections);
    }
}

/// Opens the interfaces for up to `workers` workers. The queues of each are dealt out to the workers; a
/// worker without any gets a notice on the interface's first port.
///
/// # Errors
/// If one can't be opened as asked; nothing stays open then.
pub fn open(interfaces: &[PortOptions], workers: usize) -> Result<OpenPorts, PortError> {
    let mut opened = OpenPorts::default();
    let mut taps = BTreeSet::new();
    for options in interfaces {
        if !taps.insert(&options.tap) {
            return Err(PortError::Config(format!(
                "two interfaces cannot share tap `{}`: give each its own",
                options.tap
            )));
        }
        opened.add(open_one(options, workers)?);
    }
    Ok(opened)
}

fn open_one(options: &PortOptions, workers: usize) -> Result<OpenPorts, PortError> {
    if options.request == PortRequest::Tap {
        return open_tap(options, workers);
    }
    let interface = Interface::by_name(&options.interface)?;
    match options.request {
        PortRequest::AfPacket => open_packet(options, &interface, workers, &[]),
        PortRequest::AfXdp | PortRequest::AfXdpZeroCopy | PortRequest::AfXdpCopy => {
            open_xdp(options, &interface, workers)
        }
        PortRequest::Auto => match open_xdp(options, &interface, workers) {
            Ok(opened) => Ok(opened),
            Err(error) => {
                let notice = format!("no {}: {error}", PortMode::AfXdpCopy);
                open_packet(options, &interface, workers, &[notice])
            }
        },
        PortRequest::Tap | PortRequest::Pcap | PortRequest::Memory => {
            Err(PortError::Config(format!(
                "a port of kind `{}` is not opened on an interface",
                options.request
            )))
        }
    }
}

fn pool(options: &PortOptions, frame_size: FrameSize) -> Result<Pool, PortError> {
    Pool::new(&PoolConfig {
        frames: options.frames,
        frame_size,
        ..PoolConfig::default()
    })
}

/// One socket for each receive queue; worker n gets the queues n, n + workers, and so on.
fn open_xdp(
    options: &PortOptions,
    interface: &Interface,
    workers: usize,
) -> Result<OpenPorts, PortError> {
    let steering = Steering::open(&options.interface, options.attach, options.filter)?;
    let steering = Arc::new(steering);
    let queues = interface.rx_queues()?;
    let mut ports: Vec<Vec<PortAndPool>> = Vec::new();
    let (mut reinjections, mut notice) = (Vec::new(), None);
    let frame_size = squalus_afxdp::frame_size(interface.mtu);
    for queue in 0..queues {
        let mut pool = pool(options, frame_size)?;
        let host = open_host_path(options, interface, queue);
        if queue == 0 && options.inject.is_none() && host.is_ok() {
            match Reinjection::open(&options.tap, &steering) {
                Ok(reinjection) => reinjections.push(reinjection),
                Err(error) => {
                    notice = Some(format!(
                        "passed frames reach the host as if they had come in by `{}`: {error}",
                        options.tap
                    ));
                }
            }
        }
        let config = AfXdpConfig {
            steering: Arc::clone(&steering),
            queue,
            asked: options.request,
            host,
        };
        let mut port = AfXdpPort::open(config, &mut pool)?;
        if let Some(notice) = notice.take() {
            port.add_notice(notice);
        }
        let worker = queue as usize % workers.max(1);
        if ports.len() <= worker {
            ports.push(Vec::new());
        }
        ports[worker].push((Box::new(port), pool));
    }
    Ok(OpenPorts {
        ports,
        steering: vec![steering],
        reinjections,
    })
}

/// The tap or interface through which frames go back to the host, or why there is none.
fn open_host_path(
    options: &PortOptions,
    interface: &Interface,
    queue: u32,
) -> Result<Box<dyn Port>, String> {
    if let Some(interface) = &options.inject {
        let config = PacketConfig {
            towards_host: true,
            ..PacketConfig::new(interface.clone())
        };
        return match PacketPort::open(&config) {
            Ok(port) => Ok(Box::new(port)),
            Err(error) => Err(error.to_string()),
        };
    }
    let config = TapConfig {
        name: options.tap.clone(),
        mac: Some(interface.mac),
        mtu: interface.mtu,
        queue,
    };
    match TapPort::open(&config) {
        Ok(tap) => Ok(Box::new(tap)),
        Err(error) => Err(error.to_string()),
    }
}

/// One socket for each worker, which share the interface's flows.
fn open_packet(
    options: &PortOptions,
    interface: &Interface,
    workers: usize,
    notices: &[String],
) -> Result<OpenPorts, PortError> {
    let group = new_fanout_group();
    let mut opened = OpenPorts::default();
    for member in 0..workers.max(1) as u32 {
        let host = open_host_path(options, interface, member);
        let mut notices = notices.to_vec();
        if let Err(reason) = &host {
            notices.push(format!(
                "frames that the program changes and passes don't reach the host: {reason}"
            ));
        }
        let config = PacketConfig {
            promiscuous: options.promiscuous,
            fanout: (workers > 1).then_some(Fanout { group, member }),
            asked: options.request,
            notices,
            ..PacketConfig::new(options.interface.clone())
        };
        let mut port = PacketPort::open(&config)?;
        let pool = pool(options, FrameSize::for_mtu(interface.mtu))?;
        if let Ok(host) = host {
            port = port.with_host_path(host, &pool);
        }
        opened.ports.push(vec![(Box::new(port), pool)]);
    }
    Ok(opened)
}

/// A number for a fanout group that no other dataplane of this machine should have.
fn new_fanout_group() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    (std::process::id() as u16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One queue of the tap device for each worker.
fn open_tap(options: &PortOptions, workers: usize) -> Result<OpenPorts, PortError> {
    let mut opened = OpenPorts::default();
    for queue in 0..workers.max(1) as u32 {
        let config = TapConfig {
            queue,
            ..TapConfig::new(options.interface.clone())
        };
        let port = TapPort::open(&config)?;
        let pool = pool(options, FrameSize::for_mtu(config.mtu))?;
        opened.ports.push(vec![(Box::new(port), pool)]);
    }
    Ok(opened)
}
