//! Netlink messages as bytes, and the facts in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::facts::{
    Address, Inet, Inet6, Link, Neighbour, NextHop, Prefix, Route, Rule, RuleAction,
};

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// A message of a datagram.
pub(crate) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub body: &'a [u8],
}

/// The messages of a datagram, up to the first that is cut off.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = number::<4>(bytes, 0)? as usize;
        let message = bytes.get(..len).filter(|_| len >= HEADER)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: number::<2>(message, 4)? as u16,
            flags: number::<2>(message, 6)? as u16,
            body: &message[HEADER..],
        })
    })
}

/// Types and values of attributes, up to the first that is cut off.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = number::<2>(bytes, 0)? as usize;
        // The upper bits say how the value is encoded.
        let kind = number::<2>(bytes, 2)? as u16 & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A number of `N` bytes (at most 4) in the host's order.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u32> {
    let mut word = [0; 4];
    word[..N].copy_from_slice(bytes.get(at..at + N)?);
    Some(u32::from_le_bytes(word))
}

fn word(bytes: &[u8]) -> u32 {
    number::<4>(bytes, 0).unwrap_or(0)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk()?).into()),
        _ => None,
    }
}

fn mac(bytes: &[u8]) -> [u8; 6] {
    bytes.first_chunk().copied().unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn is_v6(family: u8) -> Option<bool> {
    match i32::from(family) {
        libc::AF_INET => Some(false),
        libc::AF_INET6 => Some(true),
        _ => None,
    }
}

fn unspecified(v6: bool) -> IpAddr {
    match v6 {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// Nested attributes of a link that `libc` has no names for.
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;

/// `RTM_NEWLINK`.
pub(crate) fn link(body: &[u8]) -> Option<Link> {
    let kind = number::<2>(body, 2)? as u16;
    let flags = number::<4>(body, 8)?.cast_signed();
    let ethernet = matches!(kind, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK);
    let mut link = Link {
        index: number::<4>(body, 4)?,
        name: String::new(),
        mtu: 0,
        header: if ethernet { 14 } else { 0 },
        mac: [0; 6],
        single: flags & (libc::IFF_LOOPBACK | libc::IFF_POINTOPOINT) != 0,
        inet: None,
        inet6: None,
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_MTU => link.mtu = word(value),
            libc::IFLA_ADDRESS => link.mac = mac(value),
            libc::IFLA_AF_SPEC => families(&mut link, value),
            _ => {}
        }
    }
    Some(link)
}

fn families(link: &mut Link, value: &[u8]) {
    for (family, value) in attributes(value) {
        // The settings are an array of words.
        let settings = |wanted| {
            let mut all = attributes(value).filter(move |(kind, _)| *kind == wanted);
            all.next()
                .map(|(_, value)| move |n: usize| number::<4>(value, n * 4).unwrap_or(0))
        };
        match i32::from(family) {
            libc::AF_INET => {
                // Here the first setting has number 1.
                link.inet = settings(IFLA_INET_CONF).map(|setting| Inet {
                    forwarding: setting(0) != 0,
                    route_localnet: setting(25) != 0,
                    ignore_linkdown: setting(28) != 0,
                });
            }
            libc::AF_INET6 => {
                link.inet6 = settings(IFLA_INET6_CONF).map(|setting| Inet6 {
                    forwarding: setting(0) != 0,
                    mtu: setting(2),
                    ignore_linkdown: setting(42) != 0,
                });
            }
            _ => {}
        }
    }
}

/// `RTM_NEWADDR`.
pub(crate) fn address(body: &[u8]) -> Option<Address> {
    let rest = body.get(8..)?;
    is_v6(body[0])?;
    let (mut local, mut network) = (None, None);
    let mut flags = u32::from(body[2]);
    for (kind, value) in attributes(rest) {
        match kind {
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_ADDRESS => network = ip(value),
            libc::IFA_FLAGS => flags = word(value),
            _ => {}
        }
    }
    let network = network.or(local)?;
    Some(Address {
        interface: number::<4>(body, 4)?,
        address: local.unwrap_or(network),
        network: Prefix {
            address: network,
            len: body[1],
        },
        scope: body[3],
        flags,
    })
}

/// `RTM_NEWROUTE`; `None` also for what is no route of a table (cached ones).
pub(crate) fn route(body: &[u8]) -> Option<Route> {
    let rest = body.get(12..)?;
    let v6 = is_v6(body[0])?;
    let flags = number::<4>(body, 8)?;
    if flags & libc::RTM_F_CLONED != 0 {
        return None;
    }
    let prefix = |len| Prefix {
        address: unspecified(v6),
        len,
    };
    let mut route = Route {
        table: u32::from(body[4]),
        destination: prefix(body[1]),
        from: (body[2] != 0).then_some(prefix(body[2])),
        tos: body[3],
        kind: body[7],
        scope: body[6],
        metric: 0,
        preference: 2,
        source: None,
        mtu: None,
        mtu_locked: false,
        hops: Vec::new(),
    };
    let mut single = hop(flags);
    for (kind, value) in attributes(rest) {
        match kind {
            libc::RTA_DST => route.destination.address = ip(value)?,
            libc::RTA_SRC => route.from.as_mut()?.address = ip(value)?,
            libc::RTA_TABLE => route.table = word(value),
            libc::RTA_PRIORITY => route.metric = word(value),
            libc::RTA_PREFSRC => route.source = ip(value),
            libc::RTA_METRICS => metrics(&mut route, value),
            libc::RTA_MULTIPATH => route.hops = hops(value),
            libc::RTA_PREF => route.preference = preference(value),
            _ => hop_attribute(&mut single, kind, value),
        }
    }
    if route.hops.is_empty() {
        route.hops.push(single);
    }
    Some(route)
}

/// What comes first: high, medium, low.
fn preference(value: &[u8]) -> u8 {
    match value.first() {
        Some(1) => 3,
        Some(3) => 1,
        _ => 2,
    }
}

/// `RTAX_LOCK` and `RTAX_MTU`.
fn metrics(route: &mut Route, value: &[u8]) {
    const LOCK: u16 = 1;
    const MTU: u16 = 2;
    for (kind, value) in attributes(value) {
        match kind {
            LOCK => route.mtu_locked = word(value) & 1 << MTU != 0,
            MTU => route.mtu = Some(word(value)),
            _ => {}
        }
    }
}

const RTNH_F_DEAD: u32 = 1;
const RTNH_F_LINKDOWN: u32 = 16;

fn hop(flags: u32) -> NextHop {
    NextHop {
        interface: 0,
        gateway: None,
        weight: 1,
        dead: flags & RTNH_F_DEAD != 0,
        linkdown: flags & RTNH_F_LINKDOWN != 0,
        encapsulates: false,
    }
}

fn hop_attribute(hop: &mut NextHop, kind: u16, value: &[u8]) {
    const RTA_VIA: u16 = 18;
    const RTA_ENCAP: u16 = 22;
    match kind {
        libc::RTA_OIF => hop.interface = word(value),
        libc::RTA_GATEWAY => hop.gateway = ip(value),
        // The family precedes the address.
        RTA_VIA => hop.gateway = value.get(2..).and_then(ip),
        RTA_ENCAP => hop.encapsulates = true,
        _ => {}
    }
}

/// Several `struct rtnexthop` with their attributes.
fn hops(mut value: &[u8]) -> Vec<NextHop> {
    let next = move || {
        let len = number::<2>(value, 0)? as usize;
        let this = value.get(..len).filter(|_| len >= 8)?;
        value = value.get(len.next_multiple_of(4)..).unwrap_or_default();
        let mut hop = hop(this[2].into());
        hop.weight = u32::from(this[3]) + 1;
        hop.interface = number::<4>(this, 4)?;
        for (kind, value) in attributes(&this[8..]) {
            hop_attribute(&mut hop, kind, value);
        }
        Some(hop)
    };
    std::iter::from_fn(next).collect()
}

/// Attributes of rules that `libc` has no names for, or not all.
mod fra {
    pub const DST: u16 = 1;
    pub const SRC: u16 = 2;
    pub const IIFNAME: u16 = 3;
    pub const GOTO: u16 = 4;
    pub const PRIORITY: u16 = 6;
    pub const FWMARK: u16 = 10;
    pub const TUN_ID: u16 = 12;
    pub const SUPPRESS_IFGROUP: u16 = 13;
    pub const SUPPRESS_PREFIXLEN: u16 = 14;
    pub const TABLE: u16 = 15;
    pub const FWMASK: u16 = 16;
    pub const OIFNAME: u16 = 17;
    pub const L3MDEV: u16 = 19;
    pub const UID_RANGE: u16 = 20;
    pub const IP_PROTO: u16 = 22;
    pub const SPORT_RANGE: u16 = 23;
    pub const DPORT_RANGE: u16 = 24;
    pub const DSCP: u16 = 25;
    /// Ask for the opposite (`FIB_RULE_INVERT`).
    pub const INVERT: u32 = 2;
}

/// `RTM_NEWRULE`.
pub(crate) fn rule(body: &[u8]) -> Option<Rule> {
    let rest = body.get(12..)?;
    let is_v6 = is_v6(body[0])?;
    let prefix = |len| Prefix {
        address: unspecified(is_v6),
        len,
    };
    let mut rule = Rule {
        priority: 0,
        is_v6,
        action: RuleAction::Nop,
        invert: number::<4>(body, 8)? & fra::INVERT != 0,
        iif: None,
        oif: None,
        mark: (0, 0),
        to: (body[1] != 0).then_some(prefix(body[1])),
        from: (body[2] != 0).then_some(prefix(body[2])),
        tos: body[3],
        protocol: 0,
        source_ports: None,
        destination_ports: None,
        suppress_prefix: None,
        never: false,
    };
    let (mut table, mut target) = (u32::from(body[4]), 0);
    for (kind, value) in attributes(rest) {
        match kind {
            fra::TABLE => table = word(value),
            fra::GOTO => target = word(value),
            _ => rule_attribute(&mut rule, kind, value)?,
        }
    }
    rule.action = match body[7] {
        1 => RuleAction::Table(table),
        2 => RuleAction::Goto(target),
        6 => RuleAction::Blackhole,
        7 => RuleAction::Unreachable,
        8 => RuleAction::Prohibit,
        _ => RuleAction::Nop,
    };
    Some(rule)
}

fn rule_attribute(rule: &mut Rule, kind: u16, value: &[u8]) -> Option<()> {
    match kind {
        fra::PRIORITY => rule.priority = word(value),
        fra::DST => rule.to.as_mut()?.address = ip(value)?,
        fra::SRC => rule.from.as_mut()?.address = ip(value)?,
        fra::IIFNAME => rule.iif = Some(text(value)),
        fra::OIFNAME => rule.oif = Some(text(value)),
        fra::FWMARK => {
            rule.mark.0 = word(value);
            if rule.mark.1 == 0 {
                rule.mark.1 = u32::MAX;
            }
        }
        fra::FWMASK => rule.mark.1 = word(value),
        fra::TUN_ID => rule.never |= value.iter().any(|byte| *byte != 0),
        fra::L3MDEV => rule.never |= value.first() == Some(&1),
        // Packets here are root's.
        fra::UID_RANGE => rule.never |= word(value) != 0,
        fra::IP_PROTO => rule.protocol = *value.first()?,
        fra::SPORT_RANGE => rule.source_ports = Some(ports(value)?),
        fra::DPORT_RANGE => rule.destination_ports = Some(ports(value)?),
        fra::DSCP => rule.tos = *value.first()? << 2,
        fra::SUPPRESS_PREFIXLEN => {
            rule.suppress_prefix = u8::try_from(word(value).cast_signed()).ok();
        }
        fra::SUPPRESS_IFGROUP => {}
        _ => {}
    }
    Some(())
}

fn ports(value: &[u8]) -> Option<RangeInclusive<u16>> {
    Some(number::<2>(value, 0)? as u16..=number::<2>(value, 2)? as u16)
}

/// `RTM_NEWNEIGH`.
pub(crate) fn neighbour(body: &[u8]) -> Option<Neighbour> {
    is_v6(*body.first()?)?;
    let state = number::<2>(body, 8)? as u16;
    let valid = libc::NUD_PERMANENT
        | libc::NUD_NOARP
        | libc::NUD_REACHABLE
        | libc::NUD_PROBE
        | libc::NUD_STALE
        | libc::NUD_DELAY;
    let (mut address, mut lladdr) = (None, [0; 6]);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            libc::NDA_DST => address = ip(value),
            libc::NDA_LLADDR => lladdr = mac(value),
            _ => {}
        }
    }
    Some(Neighbour {
        interface: number::<4>(body, 4)?,
        address: address?,
        mac: lladdr,
        valid: state & valid != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_off_messages_end_the_walk() {
        let mut bytes = vec![0u8; 40];
        bytes[0] = 20;
        bytes[4] = 16;
        bytes[20] = 60;
        let kinds: Vec<u16> = messages(&bytes).map(|message| message.kind).collect();
        assert_eq!(kinds, [16]);
        assert_eq!(messages(&[3, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[8, 0, 1, 0, 9]).count(), 0);
    }

    #[test]
    fn no_bytes_are_too_few() {
        for len in 0..24 {
            let bytes = vec![2; len];
            let _ = (
                link(&bytes),
                address(&bytes),
                route(&bytes),
                rule(&bytes),
                neighbour(&bytes),
            );
        }
    }
}
