//! Tables arranged for lookups.

use std::collections::BTreeMap;
use std::net::IpAddr;

use squalus_isa::Errno;
use squalus_runtime::{Fib, FibAnswer, FibLink, FibMacs, FibOutcome, FibQuery, FibRoute, Mac};

use crate::facts::{Address, Link, NextHop, Route, Rule, RuleAction, Tables};
use crate::prefixes::Prefixes;
use crate::rules::{self, LOCAL, MAIN};

/// Tables as they were at one moment, arranged for lookups. It never changes.
#[derive(Debug)]
pub struct Snapshot {
    /// By index.
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<Address>,
    /// By interface and address.
    neighbours: Vec<((u32, IpAddr), Mac)>,
    pub(crate) v4: Family,
    pub(crate) v6: Family,
    pub(crate) use_route_mtu: bool,
}

/// Tables and rules of one IP version.
#[derive(Debug)]
pub(crate) struct Family {
    pub tables: BTreeMap<u32, Prefixes>,
    pub rules: Vec<Rule>,
    /// Whether the tables `local` and `main` are one.
    pub merged: bool,
}

/// How a lookup in a table or by rules ended, if not with a route that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// Other tables may know.
    Unknown,
    /// None shall be asked.
    Refused(FibOutcome),
}

/// A route that was found and the path of it that was chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub route: &'a Route,
    pub hop: &'a NextHop,
}

impl Snapshot {
    /// Arranges tables.
    ///
    /// The kernel keeps the IPv4 tables `local` and `main` as one until a namespace gets its first policy
    /// rule, and apart from then on, even if the rule goes; which shows when one of them alone is asked.
    /// Netlink does not tell, so they count as one while there are only the default rules.
    #[must_use]
    pub fn new(tables: &Tables) -> Snapshot {
        let mut links = tables.links.clone();
        links.sort_by_key(|link| link.index);
        let valid = tables.neighbours.iter().filter(|neighbour| neighbour.valid);
        let place = |n: &crate::Neighbour| ((n.interface, n.address), n.mac);
        let mut neighbours: Vec<_> = valid.map(place).collect();
        neighbours.sort_unstable_by_key(|(place, _)| *place);
        Snapshot {
            links,
            addresses: tables.addresses.clone(),
            neighbours,
            v4: Family::new(tables, false),
            v6: Family::new(tables, true),
            use_route_mtu: tables.use_route_mtu,
        }
    }

    pub(crate) fn find_link(&self, index: u32) -> Option<&Link> {
        let at = self.links.binary_search_by_key(&index, |link| link.index);
        at.ok().map(|at| &self.links[at])
    }

    fn neighbour(&self, interface: u32, address: IpAddr) -> Option<Mac> {
        let place = (interface, address);
        let at = self
            .neighbours
            .binary_search_by_key(&place, |(place, _)| *place);
        at.ok().map(|at| self.neighbours[at].1)
    }

    /// Asks the tables that the query names, in their order.
    pub(crate) fn route<'a>(
        &'a self,
        family: &'a Family,
        query: &FibQuery,
        lookup: impl Fn(&'a Prefixes) -> Result<Found<'a>, Miss>,
    ) -> Result<Found<'a>, Miss> {
        use squalus_runtime::FibTable::{Main, Number, Rules};
        match query.table {
            Main => lookup(family.table(MAIN)?),
            Number(0) => lookup(family.table(MAIN)?),
            Number(table) => lookup(family.table(table)?),
            Rules => self.by_rules(family, query, lookup),
        }
    }

    fn by_rules<'a>(
        &'a self,
        family: &'a Family,
        query: &FibQuery,
        lookup: impl Fn(&'a Prefixes) -> Result<Found<'a>, Miss>,
    ) -> Result<Found<'a>, Miss> {
        let mut from = 0;
        for rule in &family.rules {
            if rule.priority < from || !rules::applies(rule, query, &self.links) {
                continue;
            }
            let result = match rule.action {
                RuleAction::Table(table) => family.table(table).and_then(&lookup),
                RuleAction::Goto(priority) => {
                    from = priority;
                    continue;
                }
                RuleAction::Nop => continue,
                RuleAction::Blackhole => Err(Miss::Refused(FibOutcome::Blackhole)),
                RuleAction::Unreachable => Err(Miss::Refused(FibOutcome::NotForwarded)),
                RuleAction::Prohibit => Err(Miss::Refused(FibOutcome::Prohibit)),
            };
            match result {
                Err(Miss::Unknown) => {}
                Ok(found) if suppressed(rule, &found) => {}
                other => return other,
            }
        }
        Err(Miss::Unknown)
    }

    /// The answer for a route of type unicast, once its MTU is known.
    pub(crate) fn answer(
        &self,
        query: &FibQuery,
        found: &Found<'_>,
        mtu: u32,
        source: Result<Option<IpAddr>, FibOutcome>,
    ) -> FibAnswer {
        if u32::from(query.length) > mtu {
            return FibAnswer {
                mtu,
                ..FibAnswer::none(FibOutcome::FragmentationNeeded)
            };
        }
        if found.hop.encapsulates {
            return FibAnswer::none(FibOutcome::Encapsulated);
        }
        let Some(link) = self.find_link(found.hop.interface) else {
            return FibAnswer::none(FibOutcome::NotForwarded);
        };
        let mut answer = FibAnswer {
            outcome: FibOutcome::Success,
            mtu,
            route: Some(FibRoute {
                interface: link.index,
                metric: found.route.metric,
                gateway: found.hop.gateway,
                source: source.unwrap_or(None),
            }),
            macs: None,
        };
        if let Err(outcome) = source {
            answer.outcome = outcome;
        } else if query.want_neighbour {
            let next = found.hop.gateway.unwrap_or(query.destination);
            answer.macs = self.macs(link, next);
            if answer.macs.is_none() {
                answer.outcome = FibOutcome::NoNeighbour;
            }
        }
        answer
    }

    fn macs(&self, link: &Link, next: IpAddr) -> Option<FibMacs> {
        let next = match next {
            IpAddr::V4(_) if link.single => IpAddr::V4(0.into()),
            next => next,
        };
        self.neighbour(link.index, next).map(|destination| FibMacs {
            source: link.mac,
            destination,
        })
    }
}

impl Family {
    fn new(tables: &Tables, is_v6: bool) -> Family {
        let rules = tables.rules.iter().filter(|rule| rule.is_v6 == is_v6);
        let mut rules: Vec<Rule> = rules.cloned().collect();
        rules.sort_by_key(|rule| rule.priority);
        let merged = !is_v6 && rules::are_default(&rules);
        let mut by_table: BTreeMap<u32, Vec<Route>> = BTreeMap::new();
        let routes = tables.routes.iter();
        for route in routes.filter(|route| route.destination.address.is_ipv6() == is_v6) {
            let table = match route.table {
                MAIN if merged => LOCAL,
                table => table,
            };
            by_table.entry(table).or_default().push(route.clone());
        }
        let arrange = |(table, mut routes): (u32, Vec<Route>)| {
            let order = |route: &Route| {
                let from = route.from.map_or(0, |from| from.len);
                (
                    std::cmp::Reverse((route.table, route.tos, from)),
                    route.metric,
                )
            };
            routes.sort_by_key(order);
            (table, Prefixes::new(routes))
        };
        Family {
            tables: by_table.into_iter().map(arrange).collect(),
            rules,
            merged,
        }
    }

    fn table(&self, number: u32) -> Result<&Prefixes, Miss> {
        let number = match number {
            MAIN if self.merged => LOCAL,
            number => number,
        };
        self.tables.get(&number).ok_or(Miss::Unknown)
    }
}

fn suppressed(rule: &Rule, found: &Found<'_>) -> bool {
    rule.suppress_prefix
        .is_some_and(|len| found.route.destination.len <= len)
}

/// Chooses a path by a hash of the flow, each as often as its weight says.
pub(crate) fn spread<'a>(
    query: &FibQuery,
    hops: impl Iterator<Item = &'a NextHop> + Clone,
) -> Option<&'a NextHop> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let total: u32 = hops.clone().map(|hop| hop.weight).sum();
    let mut hasher = DefaultHasher::new();
    let ports = (query.source_port, query.destination_port);
    (query.source, query.destination, query.protocol, ports).hash(&mut hasher);
    let mut left = hasher.finish().checked_rem(total.into())?;
    for hop in hops {
        match left.checked_sub(hop.weight.into()) {
            None => return Some(hop),
            Some(rest) => left = rest,
        }
    }
    None
}

impl Fib for Snapshot {
    fn lookup(&self, query: &FibQuery) -> Result<FibAnswer, Errno> {
        let link = self.find_link(query.interface).ok_or(Errno::ENODEV)?;
        let v6 = query.destination.is_ipv6();
        let forwards = match v6 {
            true => link.inet6.is_some_and(|inet6| inet6.forwarding),
            false => link.inet.is_some_and(|inet| inet.forwarding),
        };
        if !forwards {
            return Ok(FibAnswer::none(FibOutcome::ForwardingDisabled));
        }
        Ok(match v6 {
            true => self.lookup6(query),
            false => self.lookup4(query),
        })
    }

    fn link(&self, interface: u32) -> Option<FibLink> {
        self.find_link(interface).map(|link| FibLink {
            mtu: link.mtu,
            header: link.header,
        })
    }
}
