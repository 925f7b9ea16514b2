//! What a port says about itself: request, mode obtained, host path, state, counters.

use std::fmt;
use std::str::FromStr;

use crate::MacAddr;

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PortRequest {
    /// The best that works: AF_XDP zero copy, AF_XDP copy, AF_PACKET, in this order.
    #[default]
    Auto,
    /// AF_XDP, zero copy if the driver can.
    AfXdp,
    /// AF_XDP with zero copy or nothing.
    AfXdpZeroCopy,
    /// AF_XDP with a copy.
    AfXdpCopy,
    /// AF_PACKET.
    AfPacket,
    /// A tap device.
    Tap,
    /// A capture file.
    Pcap,
    /// Queues in memory.
    Memory,
}

impl PortRequest {
    /// All requests with the names users type.
    pub const NAMES: [(PortRequest, &'static str); 8] = [
        (PortRequest::Auto, "auto"),
        (PortRequest::AfXdp, "afxdp"),
        (PortRequest::AfXdpZeroCopy, "afxdp-zc"),
        (PortRequest::AfXdpCopy, "afxdp-copy"),
        (PortRequest::AfPacket, "packet"),
        (PortRequest::Tap, "tap"),
        (PortRequest::Pcap, "pcap"),
        (PortRequest::Memory, "memory"),
    ];
}

impl fmt::Display for PortRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = PortRequest::NAMES
            .iter()
            .find_map(|(request, name)| (request == self).then_some(*name));
        f.write_str(name.unwrap_or("?"))
    }
}

impl FromStr for PortRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = PortRequest::NAMES.iter().find(|(_, name)| *name == text);
        found.map(|(request, _)| *request).ok_or_else(|| {
            let names: Vec<_> = PortRequest::NAMES.iter().map(|(_, name)| *name).collect();
            format!(
                "`{text}` is no kind of port; there are: {}",
                names.join(", ")
            )
        })
    }
}

/// What was obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// AF_XDP; the card writes into our frames.
    AfXdpZeroCopy,
    /// AF_XDP; the kernel copies into our frames.
    AfXdpCopy,
    /// AF_PACKET.
    AfPacket,
    /// A tap device.
    Tap,
    /// A capture file.
    Pcap,
    /// Queues in memory.
    Memory,
}

impl fmt::Display for PortMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PortMode::AfXdpZeroCopy => "AF_XDP zero copy",
            PortMode::AfXdpCopy => "AF_XDP copy",
            PortMode::AfPacket => "AF_PACKET",
            PortMode::Tap => "tap",
            PortMode::Pcap => "pcap",
            PortMode::Memory => "memory",
        })
    }
}

/// How frames that a program passes reach the host's network stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPath {
    /// The stack has seen every frame by itself.
    Already,
    /// The stack has seen every frame as it arrived; those that the program changed are written to this
    /// device.
    AlreadyUnlessChanged(String),
    /// They are written to this tap device.
    Tap(String),
    /// There is no host; the port keeps them for whoever asks (memory, pcap).
    Kept,
    /// They are dropped and counted, for this reason.
    None(String),
}

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPath::Already => f.write_str("the host sees every frame"),
            HostPath::AlreadyUnlessChanged(name) => {
                write!(f, "the host sees every frame; changed ones through {name}")
            }
            HostPath::Tap(name) => write!(f, "through tap {name}"),
            HostPath::Kept => f.write_str("kept by the port"),
            HostPath::None(reason) => write!(f, "none ({reason})"),
        }
    }
}

/// What a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// The interface's name, or the file's, or one that the creator chose.
    pub name: String,
    /// What was asked for.
    pub asked: PortRequest,
    /// What was obtained.
    pub obtained: PortMode,
    /// The queue of the interface.
    pub queue: u32,
    /// The interface's index, if there is an interface.
    pub ifindex: Option<u32>,
    /// Its MAC address.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// The way of passed frames.
    pub host: HostPath,
    /// What else the user should know: what was tried and refused, and what the mode implies.
    pub notices: Vec<String>,
}

impl PortInfo {
    /// Information on a port without an interface.
    #[must_use]
    pub fn detached(name: impl Into<String>, asked: PortRequest, obtained: PortMode) -> PortInfo {
        PortInfo {
            name: name.into(),
            asked,
            obtained,
            queue: 0,
            ifindex: None,
            mac: None,
            mtu: None,
            host: HostPath::Kept,
            notices: Vec::new(),
        }
    }
}

impl fmt::Display for PortInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} queue {}: {} (asked: {}), passed frames: {}",
            self.name, self.queue, self.obtained, self.asked, self.host
        )
    }
}

/// Whether a port works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// It does.
    Up,
    /// No more frames will come: the capture's end, or the other side is gone.
    Finished,
    /// The system refuses with this error number (`ENETDOWN` may heal; others will not).
    Failed(i32),
}

/// Counters of a port, since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PortStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Their bytes, from the Ethernet header on.
    pub rx_bytes: u64,
    /// Frames handed to the kernel (or the file, or the queue) for sending.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames handed to the host's stack, or that it had already.
    pub passed: u64,
    /// Frames lost before the port could receive them: queue full, no free frame.
    pub rx_dropped: u64,
    /// Frames not received because they exceed the frame size.
    pub rx_too_long: u64,
    /// Frames that could not be sent: queue full, link down.
    pub tx_dropped: u64,
    /// Frames that could not be sent because they exceed the interface's MTU.
    pub tx_too_long: u64,
    /// Passed frames that could not be handed to the host's stack.
    pub pass_dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_reads_back_as_written() {
        for (request, name) in PortRequest::NAMES {
            assert_eq!(name.parse(), Ok(request));
            assert_eq!(request.to_string(), name);
        }
        let error = "af_xdp".parse::<PortRequest>().unwrap_err();
        assert!(error.contains("afxdp-zc"), "{error}");
    }
}
