//! IPv4 routes (`fib_table_lookup`, `bpf_ipv4_fib_lookup`).

use squalus_runtime::{FibAnswer, FibOutcome, FibQuery};

use crate::facts::{NextHop, Route};
use crate::prefixes::Prefixes;
use crate::rules::Interfaces;
use crate::snapshot::{Found, Miss, Snapshot, spread};

/// The longest IPv4 packet (`IP_MAX_MTU`).
const MAX_MTU: u32 = 0xfff0;
/// Bits of the type of service that routes look at.
const DSCP: u8 = 0xfc;

impl Snapshot {
    pub(crate) fn lookup4(&self, query: &FibQuery) -> FibAnswer {
        let found = self.route(&self.v4, query, |table| self.table4(table, query));
        let found = match found {
            Ok(found) if found.route.kind == libc::RTN_UNICAST => found,
            Ok(_) | Err(Miss::Unknown) => return FibAnswer::none(FibOutcome::NotForwarded),
            Err(Miss::Refused(outcome)) => return FibAnswer::none(outcome),
        };
        let found = Found {
            hop: self.path4(query, found),
            ..found
        };
        let source = query.want_source.then(|| self.source4(&found));
        self.answer(query, &found, self.mtu4(&found), Ok(source.flatten()))
    }

    fn table4<'a>(&self, table: &'a Prefixes, query: &FibQuery) -> Result<Found<'a>, Miss> {
        let routes = table.matches(query.destination).flatten();
        for route in routes.filter(|route| route.tos == 0 || route.tos == query.tos & DSCP) {
            if let Some(miss) = refusal(route.kind) {
                return Err(miss);
            }
            if let Some(hop) = route.hops.iter().find(|hop| self.is_good4(hop, query)) {
                return Ok(Found { route, hop });
            }
        }
        Err(Miss::Unknown)
    }

    fn is_good4(&self, hop: &NextHop, query: &FibQuery) -> bool {
        let outgoing = Interfaces::of(query).outgoing;
        self.is_usable4(hop) && (outgoing == 0 || outgoing == hop.interface)
    }

    fn is_usable4(&self, hop: &NextHop) -> bool {
        let inet = || self.find_link(hop.interface).and_then(|link| link.inet);
        let ignored = || inet().is_some_and(|inet| inet.ignore_linkdown);
        !hop.dead && (!hop.linkdown || !ignored())
    }

    fn path4<'a>(&self, query: &FibQuery, found: Found<'a>) -> &'a NextHop {
        if found.route.hops.len() < 2 || Interfaces::of(query).outgoing != 0 {
            return found.hop;
        }
        let usable = found.route.hops.iter().filter(|hop| self.is_usable4(hop));
        spread(query, usable).unwrap_or(found.hop)
    }

    fn mtu4(&self, found: &Found<'_>) -> u32 {
        let Route {
            mtu, mtu_locked, ..
        } = *found.route;
        let own = mtu.filter(|mtu| *mtu != 0 && (mtu_locked || self.use_route_mtu));
        let link = || {
            self.find_link(found.hop.interface)
                .map_or(0, |link| link.mtu)
        };
        own.unwrap_or_else(|| link().min(MAX_MTU))
    }
}

/// What a route's type does to a lookup, if it ends it.
fn refusal(kind: u8) -> Option<Miss> {
    Some(match kind {
        libc::RTN_BLACKHOLE | libc::RTN_NAT | libc::RTN_XRESOLVE => {
            Miss::Refused(FibOutcome::Blackhole)
        }
        libc::RTN_UNREACHABLE => Miss::Refused(FibOutcome::Unreachable),
        libc::RTN_PROHIBIT => Miss::Refused(FibOutcome::Prohibit),
        libc::RTN_THROW => Miss::Unknown,
        _ => return None,
    })
}
