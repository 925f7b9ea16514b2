//! IPv6 routes (`fib6_table_lookup`, `bpf_ipv6_fib_lookup`).

use squalus_runtime::{FibAnswer, FibOutcome, FibQuery};

use crate::facts::{NextHop, Route};
use crate::prefixes::Prefixes;
use crate::snapshot::{Found, Miss, Snapshot, spread};

/// The longest IPv6 packet (`IP6_MAX_MTU`).
const MAX_MTU: u32 = 0xffff + 40;
/// What every link carries.
const MIN_MTU: u32 = 1280;

impl Snapshot {
    pub(crate) fn lookup6(&self, query: &FibQuery) -> FibAnswer {
        let found = self.route(&self.v6, query, |table| self.table6(table, query));
        let Ok(found) = found else {
            return FibAnswer::none(FibOutcome::NotForwarded);
        };
        match found.route.kind {
            libc::RTN_UNICAST => {}
            libc::RTN_BLACKHOLE => return FibAnswer::none(FibOutcome::Blackhole),
            libc::RTN_UNREACHABLE => return FibAnswer::none(FibOutcome::Unreachable),
            libc::RTN_PROHIBIT => return FibAnswer::none(FibOutcome::Prohibit),
            _ => return FibAnswer::none(FibOutcome::NotForwarded),
        }
        let found = Found {
            hop: self.path6(query, found),
            ..found
        };
        let source = match query.want_source {
            true => self.source6(query, &found).map(Some),
            false => Ok(None),
        };
        self.answer(query, &found, self.mtu6(&found), source)
    }

    fn table6<'a>(&self, table: &'a Prefixes, query: &FibQuery) -> Result<Found<'a>, Miss> {
        for routes in table.matches(query.destination) {
            let serves = |route: &&Route| route.from.is_none_or(|from| from.contains(query.source));
            // Those with longer sources come first, and of those the ones with lower metrics.
            for group in routes.chunk_by(|a, b| (a.from, a.metric) == (b.from, b.metric)) {
                let serving = group.iter().filter(serves);
                if let Some(found) = self.best6(serving, query) {
                    return Ok(found);
                }
            }
        }
        Err(Miss::Unknown)
    }

    /// Of routes that are otherwise equal, the first with the best preference; one over the packet's own
    /// interface is better than others.
    fn best6<'a>(
        &self,
        routes: impl Iterator<Item = &'a Route>,
        query: &FibQuery,
    ) -> Option<Found<'a>> {
        let mut best: Option<(u8, Found<'a>)> = None;
        for route in routes {
            let Some(hop) = route.hops.iter().find(|hop| self.is_usable6(hop)) else {
                continue;
            };
            let own = if hop.interface == query.interface {
                2
            } else {
                0
            };
            let score = own | route.preference << 2;
            if best.is_none_or(|(other, _)| score > other) {
                best = Some((score, Found { route, hop }));
            }
        }
        best.map(|(_, found)| found)
    }

    fn is_usable6(&self, hop: &NextHop) -> bool {
        let inet6 = || self.find_link(hop.interface).and_then(|link| link.inet6);
        let ignored = || inet6().is_some_and(|inet6| inet6.ignore_linkdown);
        !hop.dead && (!hop.linkdown || !ignored())
    }

    fn path6<'a>(&self, query: &FibQuery, found: Found<'a>) -> &'a NextHop {
        if found.route.hops.len() < 2 || query.output {
            return found.hop;
        }
        let usable = found.route.hops.iter().filter(|hop| self.is_usable6(hop));
        spread(query, usable).unwrap_or(found.hop)
    }

    fn mtu6(&self, found: &Found<'_>) -> u32 {
        if let (Some(mtu), true) = (
            found.route.mtu.filter(|mtu| *mtu != 0),
            found.route.mtu_locked,
        ) {
            return mtu;
        }
        let inet6 = self
            .find_link(found.hop.interface)
            .and_then(|link| link.inet6);
        inet6.map_or(0, |inet6| inet6.mtu).clamp(MIN_MTU, MAX_MTU)
    }
}
