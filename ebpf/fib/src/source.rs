//! Which of its addresses the host would send from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use squalus_runtime::{FibOutcome, FibQuery};

use crate::facts::{Address, Prefix, common};
use crate::snapshot::{Found, Snapshot};

/// Scopes of IPv4 addresses: how far they are known. Larger is nearer.
const SCOPE_LINK: u8 = libc::RT_SCOPE_LINK;
const SCOPE_HOST: u8 = libc::RT_SCOPE_HOST;

impl Snapshot {
    /// The route's own source, or the address that `inet_select_addr` finds.
    pub(crate) fn source4(&self, found: &Found<'_>) -> Option<IpAddr> {
        if found.route.source.is_some() {
            return found.route.source;
        }
        let gateway = found.hop.gateway.filter(IpAddr::is_ipv4);
        let own = self.on_link4(found.hop.interface, gateway, found.route.scope);
        let any = || {
            let mut all = self.addresses.iter().filter(|address| is_primary4(address));
            all.find(|address| address.scope != SCOPE_LINK && address.scope <= found.route.scope)
        };
        let chosen = own.or_else(any).map(|address| address.address);
        Some(chosen.unwrap_or(Ipv4Addr::UNSPECIFIED.into()))
    }

    fn on_link4(&self, interface: u32, gateway: Option<IpAddr>, scope: u8) -> Option<&Address> {
        let inet = self.find_link(interface).and_then(|link| link.inet);
        let nearest = match inet.is_some_and(|inet| inet.route_localnet) {
            true => SCOPE_LINK,
            false => SCOPE_HOST,
        };
        let fits = |address: &&Address| {
            is_primary4(address)
                && address.interface == interface
                && address.scope.min(nearest) <= scope
        };
        let mut fitting = self.addresses.iter().filter(fits);
        let first = fitting.clone().next();
        let beside = gateway.and_then(|gw| fitting.find(|address| address.network.contains(gw)));
        beside.or(first)
    }

    /// The route's own source, or the address that the rules of RFC 6724 choose.
    pub(crate) fn source6(
        &self,
        query: &FibQuery,
        found: &Found<'_>,
    ) -> Result<IpAddr, FibOutcome> {
        if let Some(source) = found.route.source {
            return Ok(source);
        }
        let IpAddr::V6(destination) = query.destination else {
            return Err(FibOutcome::NoSource);
        };
        let mut best: Option<(Merits, IpAddr)> = None;
        for address in &self.addresses {
            let IpAddr::V6(candidate) = address.address else {
                continue;
            };
            let unusable = libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED;
            if address.flags & unusable != 0 || candidate.is_multicast() {
                continue;
            }
            let merits = Merits::of(address, candidate, destination, found.hop.interface);
            if best.is_none_or(|(other, _)| merits > other) {
                best = Some((merits, address.address));
            }
        }
        best.map(|(_, address)| address).ok_or(FibOutcome::NoSource)
    }
}

fn is_primary4(address: &Address) -> bool {
    address.address.is_ipv4() && address.flags & libc::IFA_F_SECONDARY == 0
}

/// What speaks for a source address, the weightiest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Merits {
    same: bool,
    /// Nearest scope that reaches the destination; if none does, the widest.
    scope: i32,
    preferred: bool,
    own_interface: bool,
    same_label: bool,
    public: bool,
    common: u32,
}

impl Merits {
    fn of(address: &Address, source: Ipv6Addr, destination: Ipv6Addr, interface: u32) -> Merits {
        let (reach, wanted) = (reach(source), reach(destination));
        let shared = common(source.into(), destination.into());
        Merits {
            same: source == destination,
            scope: if reach >= wanted { -reach } else { reach - 128 },
            preferred: address.flags & libc::IFA_F_DEPRECATED == 0,
            own_interface: address.interface == interface,
            same_label: label(source) == label(destination),
            public: address.flags & libc::IFA_F_TEMPORARY == 0,
            common: shared.min(address.network.len.into()),
        }
    }
}

/// How far an address is known, as in multicast addresses.
fn reach(address: Ipv6Addr) -> i32 {
    match address.segments()[0] {
        _ if address.is_loopback() || address.is_unicast_link_local() => 2,
        first if first & 0xffc0 == 0xfec0 => 5,
        first if first & 0xff00 == 0xff00 => (first & 0xf).into(),
        _ => 14,
    }
}

/// The kernel's table of labels, as it is unless somebody changes it.
fn label(address: Ipv6Addr) -> u32 {
    let segments = |a, b, c, d| Ipv6Addr::new(a, b, 0, 0, 0, c, 0, d);
    let table = [
        (Ipv6Addr::LOCALHOST, 128, 0),
        (segments(0, 0, 0xffff, 0), 96, 4),
        (Ipv6Addr::UNSPECIFIED, 96, 3),
        (segments(0x2001, 0, 0, 0), 32, 6),
        (segments(0x2001, 0x10, 0, 0), 28, 7),
        (segments(0x3ffe, 0, 0, 0), 16, 12),
        (segments(0x2002, 0, 0, 0), 16, 2),
        (segments(0xfec0, 0, 0, 0), 10, 11),
        (segments(0xfc00, 0, 0, 0), 7, 5),
    ];
    let found = table.iter().find(|(prefix, len, _)| {
        let prefix = Prefix {
            address: (*prefix).into(),
            len: *len,
        };
        prefix.contains(address.into())
    });
    found.map_or(1, |(_, _, label)| *label)
}
