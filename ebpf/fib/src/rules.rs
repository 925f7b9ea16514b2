//! Policy rules: which tables a lookup goes to.

use squalus_runtime::FibQuery;

use crate::facts::{Link, Rule};

/// Numbers of tables.
pub(crate) const DEFAULT: u32 = 253;
pub(crate) const MAIN: u32 = 254;
pub(crate) const LOCAL: u32 = 255;

/// Interface 1 is the loopback, which packets of this host come in by.
const LOOPBACK: u32 = 1;

/// A packet's interfaces, as rules and routes look at them.
#[derive(Clone, Copy)]
pub(crate) struct Interfaces {
    pub incoming: u32,
    /// 0 if any will do.
    pub outgoing: u32,
}

impl Interfaces {
    pub(crate) fn of(query: &FibQuery) -> Interfaces {
        match query.output {
            true => Interfaces {
                incoming: LOOPBACK,
                outgoing: query.interface,
            },
            false => Interfaces {
                incoming: query.interface,
                outgoing: 0,
            },
        }
    }
}

/// Whether a rule is for a packet.
pub(crate) fn applies(rule: &Rule, query: &FibQuery, links: &[Link]) -> bool {
    let interfaces = Interfaces::of(query);
    let is = |name: &Option<String>, index: u32| match name {
        None => true,
        Some(name) => links
            .iter()
            .any(|link| link.index == index && link.name == *name),
    };
    // Of IPv6, only packets that are forwarded have a source that rules may ask for.
    let from = match rule.from {
        Some(from) => from.contains(query.source) && !(rule.is_v6 && query.output),
        None => true,
    };
    let matches = !rule.never
        && is(&rule.iif, interfaces.incoming)
        && is(&rule.oif, interfaces.outgoing)
        && (rule.mark.0 ^ query.mark) & rule.mark.1 == 0
        && from
        && rule.to.is_none_or(|to| to.contains(query.destination))
        && (rule.tos == 0 || rule.tos == query.tos & 0xfc)
        && (rule.protocol == 0 || rule.protocol == query.protocol)
        && rule
            .source_ports
            .as_ref()
            .is_none_or(|ports| ports.contains(&query.source_port))
        && rule
            .destination_ports
            .as_ref()
            .is_none_or(|ports| ports.contains(&query.destination_port));
    matches != rule.invert
}

/// Whether the rules of one IP version are those that every namespace begins with.
pub(crate) fn are_default(rules: &[Rule]) -> bool {
    use crate::facts::RuleAction::Table;
    let plain = |rule: &Rule| {
        !rule.invert
            && !rule.never
            && rule.iif.is_none()
            && rule.oif.is_none()
            && rule.mark == (0, 0)
            && rule.from.is_none()
            && rule.to.is_none()
            && rule.tos == 0
            && rule.protocol == 0
            && rule.source_ports.is_none()
            && rule.destination_ports.is_none()
            && rule.suppress_prefix.is_none()
    };
    let tables = |rule: &Rule| (rule.priority, rule.action);
    let all: Vec<_> = rules.iter().map(tables).collect();
    let local = (0, Table(LOCAL));
    let main = (32766, Table(MAIN));
    let default = (32767, Table(DEFAULT));
    rules.iter().all(plain) && (all == [local, main, default] || all == [local, main])
}
