//! What the tables consist of, in the kernel's terms.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use squalus_runtime::Mac;

/// Everything that decides where a packet goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Interfaces.
    pub links: Vec<Link>,
    /// Addresses of interfaces, in the kernel's order.
    pub addresses: Vec<Address>,
    /// Routes of all tables, in the kernel's order.
    pub routes: Vec<Route>,
    /// Policy rules by ascending priority.
    pub rules: Vec<Rule>,
    /// Neighbours of all interfaces.
    pub neighbours: Vec<Neighbour>,
    /// Whether an IPv4 route's own MTU counts even if it is not locked (`net.ipv4.ip_forward_use_pmtu`).
    pub use_route_mtu: bool,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Longest packet in bytes, the link layer's header apart.
    pub mtu: u32,
    /// Length of a link layer header in bytes.
    pub header: u32,
    /// Its Ethernet address; zeros if it has none.
    pub mac: Mac,
    /// Whether it has no neighbours to tell apart (loopback, point to point).
    pub single: bool,
    /// Its IPv4 side, if it has one.
    pub inet: Option<Inet>,
    /// Its IPv6 side, if it has one.
    pub inet6: Option<Inet6>,
}

/// IPv4 settings of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inet {
    /// Whether packets that come in may be forwarded.
    pub forwarding: bool,
    /// Whether routes over it count as absent while it has no carrier.
    pub ignore_linkdown: bool,
    /// Whether 127/8 is an address like any other.
    pub route_localnet: bool,
}

/// IPv6 settings of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inet6 {
    /// Whether packets that come in may be forwarded.
    pub forwarding: bool,
    /// Whether routes over it count as absent while it has no carrier.
    pub ignore_linkdown: bool,
    /// Longest IPv6 packet in bytes.
    pub mtu: u32,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// The network it is in: its peer's on point-to-point links.
    pub network: Prefix,
    /// How far it is known (`RT_SCOPE_*`).
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
}

/// A set of addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Any of them.
    pub address: IpAddr,
    /// How many bits they share.
    pub len: u8,
}

impl Prefix {
    /// Whether an address begins with the prefix.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        if self.address.is_ipv4() != address.is_ipv4() {
            return false;
        }
        common(self.address, address) >= self.len.into()
    }
}

/// An address's bits, the first one highest.
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// How many bits two addresses share at their start.
pub(crate) fn common(a: IpAddr, b: IpAddr) -> u32 {
    (bits(a) ^ bits(b)).leading_zeros()
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Number of its table.
    pub table: u32,
    /// Where it leads.
    pub destination: Prefix,
    /// Where packets must come from, of an IPv6 route of a subtree.
    pub from: Option<Prefix>,
    /// Type of service it is for; 0 for any. IPv4 only.
    pub tos: u8,
    /// `RTN_*`.
    pub kind: u8,
    /// How far away the destination is (`RT_SCOPE_*`).
    pub scope: u8,
    /// Its metric: lower ones are preferred.
    pub metric: u32,
    /// How routers prefer it, from 1 (low) to 3 (high). IPv6 only.
    pub preference: u8,
    /// The source address it asks for.
    pub source: Option<IpAddr>,
    /// Its MTU, if it has one of its own.
    pub mtu: Option<u32>,
    /// Whether that MTU is locked.
    pub mtu_locked: bool,
    /// Where to send packets next: several if the route has several paths.
    pub hops: Vec<NextHop>,
}

/// A path of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The interface to send by.
    pub interface: u32,
    /// The next router, if the destination is not on the link.
    pub gateway: Option<IpAddr>,
    /// Its share of the flows, at least 1.
    pub weight: u32,
    /// Whether its interface is down.
    pub dead: bool,
    /// Whether its interface has no carrier.
    pub linkdown: bool,
    /// Whether packets are to be encapsulated.
    pub encapsulates: bool,
}

/// A policy rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its place: lower ones are asked first.
    pub priority: u32,
    /// Whether it is for IPv6.
    pub is_v6: bool,
    /// What it does.
    pub action: RuleAction,
    /// Whether it is for packets that do not match.
    pub invert: bool,
    /// The interface packets come in by.
    pub iif: Option<String>,
    /// The interface packets are bound to.
    pub oif: Option<String>,
    /// Mark, and which of its bits count.
    pub mark: (u32, u32),
    /// Where packets come from.
    pub from: Option<Prefix>,
    /// Where packets go.
    pub to: Option<Prefix>,
    /// Type of service; 0 for any.
    pub tos: u8,
    /// Number of the protocol above IP; 0 for any.
    pub protocol: u8,
    /// Source ports.
    pub source_ports: Option<RangeInclusive<u16>>,
    /// Destination ports.
    pub destination_ports: Option<RangeInclusive<u16>>,
    /// Routes with prefixes so short, or shorter, don't count.
    pub suppress_prefix: Option<u8>,
    /// Whether it asks for what packets here never have: a tunnel, a VRF, another user than root.
    pub never: bool,
}

/// What a policy rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Looks into the table with this number.
    Table(u32),
    /// Goes on at the rule with this priority.
    Goto(u32),
    /// Nothing.
    Nop,
    /// Drops.
    Blackhole,
    /// Calls the destination unreachable.
    Unreachable,
    /// Prohibits.
    Prohibit,
}

/// A host on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface.
    pub interface: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address, as far as known.
    pub mac: Mac,
    /// Whether that can be used (`NUD_VALID`).
    pub valid: bool,
}
