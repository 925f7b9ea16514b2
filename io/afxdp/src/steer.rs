//! Steering: the kernel program that decides which frames come to us.
//!
//! AF_XDP sockets receive nothing by themselves; an XDP program on the interface hands frames to them. Ours
//! hands over what is addressed to a VIP (of IPv4 and IPv6, without looking further: fragments and ICMP
//! errors to a VIP come along) and leaves everything else to the host, which therefore keeps its addresses,
//! its SSH sessions, ARP and neighbour discovery. Echo requests to the host's own addresses are thus
//! answered by the host. VLAN-tagged frames stay with the host, unless everything is taken.
//!
//! The set of VIPs is a map that the control plane changes while frames flow. [`Filter::All`] takes all IPv4
//! and IPv6 instead, except for neighbour discovery, without which the host could not keep the link alive;
//! [`Filter::Everything`] takes that too, and ARP, and whatever else comes.
//!
//! The program is some thirty instructions, fixed but for the numbers of its two maps, so it is written here
//! as numbers: no compiler, object file or loader is needed to receive a frame. It is attached through a
//! link, which the kernel removes with the process that holds it, however that ends.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};

use squalus_port::{FrameSize, Interface, PortError};

use crate::attached::attached_program;
use crate::bpf::{self, Hook, MapType};

/// What loading, attaching and opening takes.
pub(crate) const NEEDS: &str = "CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF";

/// The most VIPs a steering program knows.
pub const MAX_VIPS: u32 = 4096;

// XDP_FLAGS_* of linux/if_link.h.
const FLAGS_SKB_MODE: u32 = 1 << 1;
const FLAGS_DRV_MODE: u32 = 1 << 2;

/// Where in the kernel the steering program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AttachMode {
    /// In the driver if it can, else generic, with a notice.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the network stack: works everywhere, slowly.
    Generic,
}

/// Which frames are taken from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Filter {
    /// Those addressed to a VIP.
    #[default]
    Vips,
    /// All IPv4 and IPv6, except neighbour discovery.
    All,
    /// Every frame, as if the program in userspace stood on the interface itself: its owner answers for
    /// address resolution to reach the host.
    Everything,
}

/// An attached steering program. Dropping it, and the ports that use it, detaches the program.
#[derive(Debug)]
pub struct Steering {
    interface: Interface,
    mode: AttachMode,
    notices: Vec<String>,
    sockets: OwnedFd,
    vips: OwnedFd,
    members: Mutex<BTreeSet<IpAddr>>,
    _link: OwnedFd,
}

impl Steering {
    /// Loads the program and attaches it to the interface. Nothing is steered before there are VIPs and
    /// ports.
    ///
    /// # Errors
    /// [`PortError::NoInterface`]; [`PortError::XdpAttached`] if another XDP program is there already;
    /// [`PortError::Unsupported`] for [`AttachMode::Native`] without driver support;
    /// [`PortError::Privilege`] without the rights.
    pub fn open(interface: &str, mode: AttachMode, filter: Filter) -> Result<Steering, PortError> {
        let interface = Interface::by_name(interface)?;
        let failed = |what: &str| {
            let what = what.to_owned();
            |error| PortError::from_io(error, what, NEEDS)
        };
        let queues = interface.rx_queues()?.max(64);
        let sockets = bpf::create_map(MapType::Xsk, "sq_sockets", 4, 4, queues)
            .map_err(failed("creating the map of sockets"))?;
        let vips = bpf::create_map(MapType::Hash, "sq_vips", 16, 4, MAX_VIPS)
            .map_err(failed("creating the map of VIPs"))?;
        let code = program(filter, vips.as_raw_fd(), sockets.as_raw_fd());
        let program = bpf::load(Hook::Xdp, "sq_steer", &code, needs_fragments(&interface))
            .map_err(failed("loading the steering program"))?;
        let (link, mode, notices) = attach(&program, &interface, mode)?;
        Ok(Steering {
            interface,
            mode,
            notices,
            sockets,
            vips,
            members: Mutex::default(),
            _link: link,
        })
    }

    /// The interface the program is attached to.
    #[must_use]
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// How it is attached: [`AttachMode::Native`] or [`AttachMode::Generic`].
    #[must_use]
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// What the user should know about the attachment.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Takes frames to this address from now on.
    ///
    /// # Errors
    /// [`PortError::System`] with `E2BIG` beyond [`MAX_VIPS`] addresses.
    pub fn add_vip(&self, vip: IpAddr) -> Result<(), PortError> {
        bpf::update(&self.vips, &vip_key(vip), 1)
            .map_err(|error| PortError::from_io(error, format!("steering {vip}"), NEEDS))?;
        self.members().insert(vip);
        Ok(())
    }

    /// Leaves frames to this address to the host from now on; false if it was so already.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_vip(&self, vip: IpAddr) -> Result<bool, PortError> {
        let removed = bpf::delete(&self.vips, &vip_key(vip)).map_err(|error| {
            PortError::from_io(error, format!("no longer steering {vip}"), NEEDS)
        })?;
        self.members().remove(&vip);
        Ok(removed)
    }

    /// Makes the set of VIPs equal to `wanted`.
    ///
    /// # Errors
    /// As [`Steering::add_vip`]; addresses before the one that failed are set.
    pub fn set_vips(&self, wanted: &BTreeSet<IpAddr>) -> Result<(), PortError> {
        let present = self.vips();
        for vip in wanted.difference(&present) {
            self.add_vip(*vip)?;
        }
        for vip in present.difference(wanted) {
            self.remove_vip(*vip)?;
        }
        Ok(())
    }

    /// The addresses whose frames are taken.
    #[must_use]
    pub fn vips(&self) -> BTreeSet<IpAddr> {
        self.members().clone()
    }

    /// Hands the frames of a queue to a socket; the kernel forgets the socket when it is closed.
    pub(crate) fn register(&self, queue: u32, socket: &OwnedFd) -> io::Result<()> {
        bpf::update(&self.sockets, &queue, socket.as_raw_fd() as u32)
    }

    fn members(&self) -> MutexGuard<'_, BTreeSet<IpAddr>> {
        match self.members.lock() {
            Ok(members) => members,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// The size of frames for an AF_XDP port on an interface with this MTU: jumbo as soon as the kernel would hold
/// the longest in more than one page.
#[must_use]
pub fn frame_size(mtu: u32) -> FrameSize {
    match FrameSize::for_mtu(mtu + SHARED_INFO) {
        FrameSize::Jumbo => FrameSize::Jumbo,
        FrameSize::Half | FrameSize::Page => FrameSize::for_mtu(mtu),
    }
}

/// Whether frames of the interface may be longer than a page holds. Drivers refuse other programs then.
fn needs_fragments(interface: &Interface) -> bool {
    frame_size(interface.mtu) == FrameSize::Jumbo
}

/// Bytes that the kernel keeps at the end of a frame's page (`struct skb_shared_info`, aligned).
const SHARED_INFO: u32 = 320;

/// The map's key of an address: IPv4 mapped into IPv6 (`::ffff:a.b.c.d`).
fn vip_key(vip: IpAddr) -> [u8; 16] {
    match vip {
        IpAddr::V4(vip) => vip.to_ipv6_mapped().octets(),
        IpAddr::V6(vip) => vip.octets(),
    }
}

/// Attaches in the wanted mode; with [`AttachMode::Auto`] natively, then generically.
fn attach(
    program: &OwnedFd,
    interface: &Interface,
    mode: AttachMode,
) -> Result<(OwnedFd, AttachMode, Vec<String>), PortError> {
    let name = &interface.name;
    let link = |flags| bpf::link(Hook::Xdp, program, interface.index, flags);
    if mode == AttachMode::Generic {
        let link = link(FLAGS_SKB_MODE).map_err(|error| refused(interface, mode, error))?;
        return Ok((link, mode, Vec::new()));
    }
    match link(FLAGS_DRV_MODE) {
        Ok(link) => Ok((link, AttachMode::Native, Vec::new())),
        Err(error) if mode == AttachMode::Auto && is_unsupported(&error) => {
            let generic = link(FLAGS_SKB_MODE)
                .map_err(|error| refused(interface, AttachMode::Generic, error))?;
            let notice = format!(
                "`{name}` refuses XDP in its driver ({error}); the steering program runs in generic mode, which is slower"
            );
            Ok((generic, AttachMode::Generic, vec![notice]))
        }
        Err(error) => Err(refused(interface, AttachMode::Native, error)),
    }
}

/// Whether the driver cannot, rather than may not: no XDP at all, MTU or ring settings in the way.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::ENOMEM)
    )
}

fn refused(interface: &Interface, mode: AttachMode, error: io::Error) -> PortError {
    let name = interface.name.clone();
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => match attached_program(interface.index) {
            Ok(Some(program)) => PortError::XdpAttached {
                interface: name,
                id: program.id,
                program: program.name,
            },
            _ => PortError::from_io(error, format!("attaching to `{name}`"), NEEDS),
        },
        _ if is_unsupported(&error) => PortError::Unsupported {
            interface: name,
            what: format!("XDP in {mode:?} mode ({error})").to_lowercase(),
        },
        _ => PortError::from_io(error, format!("attaching to `{name}`"), NEEDS),
    }
}

/// Instructions under construction: jumps name labels, which are resolved at the end.
#[derive(Default)]
struct Code {
    instructions: Vec<u64>,
    jumps: Vec<(usize, &'static str)>,
    labels: Vec<(&'static str, usize)>,
}

// Opcodes (linux/bpf.h): class, size or source, operation.
const LOAD_U8: u8 = 0x71;
const LOAD_U16: u8 = 0x69;
const LOAD_U32: u8 = 0x61;
const STORE_U32: u8 = 0x63;
const STORE_IMM_U32: u8 = 0x62;
const LOAD_IMM64: u8 = 0x18;
const MOVE: u8 = 0xbf;
const MOVE_IMM: u8 = 0xb7;
const ADD_IMM: u8 = 0x07;
const JUMP: u8 = 0x05;
const JUMP_IF_EQUAL_IMM: u8 = 0x15;
const JUMP_IF_NOT_EQUAL_IMM: u8 = 0x55;
const JUMP_IF_GREATER: u8 = 0x2d;
const JUMP_IF_GREATER_IMM: u8 = 0x25;
const JUMP_IF_LESS_IMM: u8 = 0xa5;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Source register of a 64-bit load that means "map with this descriptor".
const MAP_FD: u8 = 1;

const HELPER_MAP_LOOKUP: i32 = 1;
const HELPER_REDIRECT_MAP: i32 = 51;
const XDP_PASS: i32 = 2;

impl Code {
    fn op(&mut self, opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) {
        self.instructions.push(
            u64::from(opcode)
                | u64::from(dst) << 8
                | u64::from(src) << 12
                | u64::from(offset as u16) << 16
                | u64::from(imm as u32) << 32,
        );
    }

    fn jump(&mut self, opcode: u8, dst: u8, src: u8, imm: i32, label: &'static str) {
        self.jumps.push((self.instructions.len(), label));
        self.op(opcode, dst, src, 0, imm);
    }

    fn label(&mut self, label: &'static str) {
        self.labels.push((label, self.instructions.len()));
    }

    fn map(&mut self, dst: u8, fd: i32) {
        self.op(LOAD_IMM64, dst, MAP_FD, 0, fd);
        self.op(0, 0, 0, 0, 0);
    }

    /// Goes to `pass` unless `len` bytes of the frame, which starts at r2 and ends at r3, are there.
    fn need(&mut self, len: i32) {
        self.op(MOVE, 4, 2, 0, 0);
        self.op(ADD_IMM, 4, 0, 0, len);
        self.jump(JUMP_IF_GREATER, 4, 3, 0, "pass");
    }

    fn finish(mut self) -> Vec<u64> {
        for (at, label) in self.jumps {
            let found = self.labels.iter().find(|(name, _)| *name == label);
            let (_, target) = found.expect("every jump goes to a label that exists");
            let offset = (*target as i64 - at as i64 - 1) as i16;
            self.instructions[at] |= u64::from(offset as u16) << 16;
        }
        self.instructions
    }
}

// Offsets in an Ethernet frame.
const ETHERTYPE: i16 = 12;
const IPV4_DESTINATION: i16 = 30;
const IPV4_END: i32 = 34;
const IPV6_NEXT_HEADER: i16 = 20;
const IPV6_DESTINATION: i16 = 38;
const IPV6_END: i32 = 54;
const ICMPV6: i32 = 58;
/// Router solicitation to redirect (RFC 4861).
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<i32> = 133..=137;

/// The steering program. r6: context, r2 and r3: start and end of the frame.
fn program(filter: Filter, vips: i32, sockets: i32) -> Vec<u64> {
    let be = |value: u16| i32::from(value.to_be());
    let mut code = Code::default();
    code.op(MOVE, 6, 1, 0, 0);
    if filter == Filter::Everything {
        hand_to_socket(&mut code, sockets);
        return code.finish();
    }
    code.op(LOAD_U32, 2, 6, 0, 0);
    code.op(LOAD_U32, 3, 6, 4, 0);
    code.need(IPV4_END);
    code.op(LOAD_U16, 5, 2, ETHERTYPE, 0);
    code.jump(JUMP_IF_EQUAL_IMM, 5, 0, be(0x86dd), "ipv6");
    code.jump(JUMP_IF_NOT_EQUAL_IMM, 5, 0, be(0x0800), "pass");
    match filter {
        Filter::Vips => only_vips(&mut code, vips),
        Filter::All | Filter::Everything => all_but_neighbour_discovery(&mut code),
    }
    code.label("steer");
    hand_to_socket(&mut code, sockets);
    code.label("pass");
    code.op(MOVE_IMM, 0, 0, 0, XDP_PASS);
    code.op(EXIT, 0, 0, 0, 0);
    code.finish()
}

/// Ends the program with the frame at the socket of its queue.
fn hand_to_socket(code: &mut Code, sockets: i32) {
    code.op(LOAD_U32, 2, 6, 16, 0); // rx_queue_index
    code.map(1, sockets);
    code.op(MOVE_IMM, 3, 0, 0, XDP_PASS); // for queues without a socket
    code.op(CALL, 0, 0, 0, HELPER_REDIRECT_MAP);
    code.op(EXIT, 0, 0, 0, 0);
}

/// Builds the key on the stack, as [`vip_key`] does, and looks it up.
fn only_vips(code: &mut Code, vips: i32) {
    code.op(STORE_IMM_U32, 10, 0, -16, 0);
    code.op(STORE_IMM_U32, 10, 0, -12, 0);
    code.op(
        STORE_IMM_U32,
        10,
        0,
        -8,
        i32::from_ne_bytes([0, 0, 0xff, 0xff]),
    );
    code.op(LOAD_U32, 5, 2, IPV4_DESTINATION, 0);
    code.op(STORE_U32, 10, 5, -4, 0);
    code.jump(JUMP, 0, 0, 0, "look up");
    code.label("ipv6");
    code.need(IPV6_END);
    for word in 0..4 {
        code.op(LOAD_U32, 5, 2, IPV6_DESTINATION + word * 4, 0);
        code.op(STORE_U32, 10, 5, word * 4 - 16, 0);
    }
    code.label("look up");
    code.map(1, vips);
    code.op(MOVE, 2, 10, 0, 0);
    code.op(ADD_IMM, 2, 0, 0, -16);
    code.op(CALL, 0, 0, 0, HELPER_MAP_LOOKUP);
    code.jump(JUMP_IF_EQUAL_IMM, 0, 0, 0, "pass");
}

fn all_but_neighbour_discovery(code: &mut Code) {
    code.jump(JUMP, 0, 0, 0, "steer");
    code.label("ipv6");
    code.need(IPV6_END + 1);
    code.op(LOAD_U8, 5, 2, IPV6_NEXT_HEADER, 0);
    code.jump(JUMP_IF_NOT_EQUAL_IMM, 5, 0, ICMPV6, "steer");
    code.op(LOAD_U8, 5, 2, IPV6_END as i16, 0);
    code.jump(
        JUMP_IF_LESS_IMM,
        5,
        0,
        *NEIGHBOUR_DISCOVERY.start(),
        "steer",
    );
    code.jump(
        JUMP_IF_GREATER_IMM,
        5,
        0,
        *NEIGHBOUR_DISCOVERY.end(),
        "steer",
    );
    code.jump(JUMP, 0, 0, 0, "pass");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_land_on_their_labels() {
        let mut code = Code::default();
        code.jump(JUMP, 0, 0, 0, "end");
        code.label("back");
        code.op(EXIT, 0, 0, 0, 0);
        code.label("end");
        code.jump(JUMP_IF_EQUAL_IMM, 3, 0, -1, "back");
        assert_eq!(
            code.finish(),
            [0x0000_0000_0001_0005, 0x95, 0xffff_ffff_fffe_0315]
        );
    }

    #[test]
    fn jumbo_begins_where_a_page_ends() {
        let sizes = [1500, 3502, 3503, 9000].map(frame_size);
        let (half, page, jumbo) = (FrameSize::Half, FrameSize::Page, FrameSize::Jumbo);
        assert_eq!(sizes, [half, page, jumbo, jumbo]);
    }

    #[test]
    fn keys_of_both_families_differ() {
        let v4 = vip_key("1.2.3.4".parse().unwrap());
        assert_eq!(v4[10..], [0xff, 0xff, 1, 2, 3, 4]);
        assert_ne!(v4, vip_key("::1.2.3.4".parse().unwrap()));
    }
}
