//! The traffic that is measured: for each case its frames and the sessions the balancer must know beforehand.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use squalus_abi::{Address, Be16, FlowKey, flags};
use squalus_core::{Action, Config, NewReal, ServerId, Sources, VipKey};
use squalus_dataplane::{Controller, Dataplane};
use squalus_isa::Verdict;
use squalus_runtime::Rng;
use squalus_testkit::traffic::{self, Flow, Macs, Transport};

use super::traffic::Traffic;

/// Traffic that is measured on its own.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name in reports.
    pub name: &'static str,
    kinds: &'static [Kind],
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Of a session that the session table knows.
    Known4(Transport),
    Known6(Transport),
    /// The beginning of a session: always to be routed.
    Syn,
    /// To a VIP that keeps no sessions.
    NoSession,
    Quic,
    NotVip,
}

/// Port of the VIPs with sessions.
const PORT: u16 = 80;
/// Port of the VIPs without.
const PORT_NO_LRU: u16 = 81;
/// Port of the QUIC VIP.
const PORT_QUIC: u16 = 443;
const VIP4: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfc00, 1, 0, 0, 0, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 200, 9, 9);
/// How many reals each VIP has.
const REALS: u8 = 64;
/// Server id of the QUIC sessions' real.
const SERVER_ID: u32 = 1022;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// All cases, in the order of reports.
pub const CASES: &[Case] = &[
    Case::new("tcp_v4_lru_hit", &[Kind::Known4(Transport::TcpData)]),
    Case::new("udp_v4_lru_hit", &[Kind::Known4(Transport::Udp)]),
    Case::new("tcp_v6_lru_hit", &[Kind::Known6(Transport::TcpData)]),
    Case::new("udp_v6_lru_hit", &[Kind::Known6(Transport::Udp)]),
    Case::new("tcp_v4_syn", &[Kind::Syn]),
    Case::new("tcp_v4_no_lru", &[Kind::NoSession]),
    Case::new("quic_v4_server_id", &[Kind::Quic]),
    Case::new("not_a_vip", &[Kind::NotVip]),
    Case::new(
        "mixed",
        &[
            Kind::Known4(Transport::TcpData),
            Kind::Known4(Transport::Udp),
            Kind::Known6(Transport::TcpData),
            Kind::Known6(Transport::Udp),
            Kind::Syn,
            Kind::NoSession,
            Kind::Quic,
            Kind::NotVip,
        ],
    ),
];

/// Frames of mixed traffic, at least: so many that their order is no pattern to a branch predictor.
const MIXED: u32 = 4096;

impl Case {
    const fn new(name: &'static str, kinds: &'static [Kind]) -> Case {
        Case { name, kinds }
    }

    /// Its packets, each of one of `sessions` sessions, in the order in which they come.
    fn packets(&self, sessions: u32) -> Vec<(Kind, u32)> {
        let [only] = self.kinds else {
            return self.mixed(sessions);
        };
        (0..sessions).map(|session| (*only, session)).collect()
    }

    /// All kinds in turn, shuffled.
    fn mixed(&self, sessions: u32) -> Vec<(Kind, u32)> {
        let kinds = self.kinds.iter().cycle();
        let numbers = (0..sessions.max(MIXED)).map(|n| n % sessions);
        let mut packets: Vec<_> = kinds.copied().zip(numbers).collect();
        let mut rng = Rng::seeded(0);
        for last in (1..packets.len()).rev() {
            packets.swap(last, rng.next_u32() as usize % (last + 1));
        }
        packets
    }

    /// Its frames for so many sessions.
    #[must_use]
    pub fn traffic(&self, sessions: u32) -> Traffic {
        let mut traffic = Traffic::default();
        for (kind, session) in self.packets(sessions) {
            traffic.push(&kind.frame(session), kind.verdict());
        }
        traffic
    }

    /// The sessions that the session table must know beforehand: their keys, and the reals they belong to.
    #[must_use]
    pub fn known_sessions(&self, sessions: u32) -> HashMap<FlowKey, u32> {
        let packets = self.packets(sessions).into_iter();
        let known = packets.filter(|(kind, _)| kind.is_known());
        let known = known.map(|(kind, session)| (kind.session_key(session), kind.real(session)));
        known.collect()
    }

    /// The share of its packets that the ring routes, 0 to 1.
    #[must_use]
    pub fn routed(&self) -> f64 {
        let routed = |kind: &&Kind| matches!(kind, Kind::Syn | Kind::NoSession);
        self.kinds.iter().filter(routed).count() as f64 / self.kinds.len() as f64
    }
}

impl Kind {
    /// Whether the session table must know the packet's session.
    fn is_known(self) -> bool {
        matches!(self, Kind::Known4(_) | Kind::Known6(_))
    }

    /// What the program must answer.
    fn verdict(self) -> Verdict {
        match self {
            Kind::NotVip => Verdict::Pass,
            _ => Verdict::Tx,
        }
    }

    /// The frame of session number `session`: the shortest there is, with a few bytes of payload.
    fn frame(self, session: u32) -> Vec<u8> {
        let macs = Macs {
            source: [2, 0, 0, 0, 0, 1],
            destination: [2, 0, 0, 0, 0, 2],
        };
        let v4 = |destination, destination_port| Flow {
            source: source4(session),
            destination,
            source_port: source_port(session),
            destination_port,
        };
        match self {
            Kind::Known4(transport) => traffic::ipv4(macs, v4(VIP4, PORT), transport, 6),
            Kind::Known6(transport) => traffic::ipv6(macs, flow6(session, PORT), transport, 6),
            Kind::Syn => traffic::ipv4(macs, v4(VIP4, PORT), Transport::TcpSyn, 6),
            Kind::NoSession => traffic::ipv4(macs, v4(VIP4, PORT_NO_LRU), Transport::TcpData, 6),
            Kind::Quic => traffic::ipv4_udp(macs, v4(VIP4, PORT_QUIC), &quic_short_header()),
            Kind::NotVip => traffic::ipv4(macs, v4(OTHER, PORT), Transport::TcpData, 6),
        }
    }

    /// The key under which the balancer keeps session number `session`.
    fn session_key(self, session: u32) -> FlowKey {
        let (src, dst): (IpAddr, IpAddr) = match self {
            Kind::Known6(_) => {
                let flow = flow6(session, PORT);
                (flow.source.into(), flow.destination.into())
            }
            _ => (source4(session).into(), VIP4.into()),
        };
        let proto = match self {
            Kind::Known4(Transport::Udp) | Kind::Known6(Transport::Udp) | Kind::Quic => UDP,
            _ => TCP,
        };
        FlowKey {
            src: Address::from(src),
            dst: Address::from(dst),
            src_port: Be16::from_host(source_port(session)),
            dst_port: Be16::from_host(PORT),
            proto,
            pad: [0; 3],
        }
    }

    /// Index of the real that session number `session` belongs to.
    fn real(self, session: u32) -> u32 {
        let first = match self {
            Kind::Known6(_) => u32::from(REALS),
            _ => 0,
        };
        first + session % u32::from(REALS) + 1
    }
}

/// A balancer with addresses of its own, which objects that encapsulate in UDP use as sources.
#[must_use]
pub fn config() -> Config {
    Config {
        sources: Sources {
            v4: Some(Ipv4Addr::new(10, 250, 0, 1)),
            v6: Some(Ipv6Addr::new(0xfc00, 250, 0, 0, 0, 0, 0, 1)),
        },
        ..Config::default()
    }
}

/// Sets up the VIPs and reals that all cases need.
///
/// # Errors
/// If the balancer refuses.
pub fn provision<D: Dataplane>(balancer: &mut Controller<D>) -> Result<()> {
    let vips = [
        (VIP4.into(), PORT, TCP, 0),
        (VIP4.into(), PORT, UDP, 0),
        (VIP6.into(), PORT, TCP, 0),
        (VIP6.into(), PORT, UDP, 0),
        (VIP4.into(), PORT_NO_LRU, TCP, flags::VIP_LRU_BYPASS),
        (VIP4.into(), PORT_QUIC, UDP, flags::VIP_QUIC),
    ];
    let real4 = |n: u8| Ipv4Addr::new(10, 0, 0, n + 1).into();
    let real6 = |n: u8| Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, u16::from(n) + 1).into();
    for (address, port, proto, flags) in vips {
        let vip = VipKey {
            address,
            port,
            proto,
        };
        balancer.add_vip(vip, flags)?;
        let address = |n| {
            if vip.address.is_ipv4() {
                real4(n)
            } else {
                real6(n)
            }
        };
        let reals: Vec<NewReal> = (0..REALS)
            .map(|n| NewReal {
                address: address(n),
                weight: 1,
                flags: 0,
            })
            .collect();
        balancer.modify_reals(Action::Add, &reals, vip)?;
    }
    balancer.modify_server_ids(
        Action::Add,
        &[ServerId {
            id: SERVER_ID,
            address: real4(0),
        }],
    )?;
    Ok(())
}

/// Sessions of one client address.
const PER_ADDRESS: u32 = 50_000;

fn source4(session: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0b00_0001 + session / PER_ADDRESS)
}

fn source_port(session: u32) -> u16 {
    (1024 + session % PER_ADDRESS) as u16
}

fn flow6(session: u32, destination_port: u16) -> Flow<Ipv6Addr> {
    let net = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).to_bits();
    Flow {
        source: Ipv6Addr::from_bits(net + u128::from(session / PER_ADDRESS)),
        destination: VIP6,
        source_port: source_port(session),
        destination_port,
    }
}

/// A QUIC packet after the handshake whose connection id names [`SERVER_ID`] (version 1 of the id's layout).
fn quic_short_header() -> [u8; 16] {
    let mut packet = [0; 16];
    packet[0] = 0x40;
    let id = SERVER_ID;
    packet[1] = 0x40 | (id >> 10) as u8;
    packet[2] = (id >> 2) as u8;
    packet[3] = (id << 6) as u8;
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str) -> &'static Case {
        CASES.iter().find(|case| case.name == name).unwrap()
    }

    #[test]
    fn sessions_have_keys_of_their_own() {
        for case in CASES {
            let known = case.kinds.iter().filter(|kind| kind.is_known()).count() as u32;
            let (all, kinds) = (100_008, case.kinds.len() as u32);
            let keys = case.known_sessions(all).len() as u32;
            assert_eq!(keys, known * all / kinds, "{}", case.name);
        }
    }

    #[test]
    fn mixed_traffic_has_all_kinds_in_no_order() {
        let mixed = case("mixed");
        let packets = mixed.packets(1);
        assert_eq!(packets.len(), MIXED as usize);
        let same = |at: usize| {
            packets
                .iter()
                .skip(at)
                .zip(&packets)
                .filter(|(a, b)| a.0 == b.0)
        };
        for kind in mixed.kinds {
            let count = packets.iter().filter(|packet| packet.0 == *kind).count();
            assert_eq!(count, packets.len() / mixed.kinds.len());
        }
        // One in eight is of the kind of the packet eight before, as of any other.
        assert!((400..624).contains(&same(8).count()), "{}", same(8).count());
    }
}
