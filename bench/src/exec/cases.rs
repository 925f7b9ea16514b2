//! The traffic that is measured: for each case its frames and the sessions the balancer must know beforehand.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use squalus_abi::{Address, Be16, FlowKey, flags};
use squalus_core::{Action, NewReal, ServerId, VipKey};
use squalus_dataplane::{Controller, Dataplane};
use squalus_isa::Verdict;
use squalus_testkit::traffic::{self, Flow, Macs, Transport};

/// One kind of traffic.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name in reports.
    pub name: &'static str,
    /// What the program must answer.
    pub verdict: Verdict,
    /// Whether the session table must know all sessions beforehand.
    pub known: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    V4(Transport, u16),
    V6(Transport, u16),
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
    Case::new("tcp_v4_lru_hit", true, Kind::V4(Transport::TcpData, PORT)),
    Case::new("udp_v4_lru_hit", true, Kind::V4(Transport::Udp, PORT)),
    Case::new("tcp_v6_lru_hit", true, Kind::V6(Transport::TcpData, PORT)),
    Case::new("udp_v6_lru_hit", true, Kind::V6(Transport::Udp, PORT)),
    Case::new("tcp_v4_syn", false, Kind::V4(Transport::TcpSyn, PORT)),
    Case::new(
        "tcp_v4_no_lru",
        false,
        Kind::V4(Transport::TcpData, PORT_NO_LRU),
    ),
    Case::new("quic_v4_server_id", false, Kind::Quic),
    Case {
        name: "not_a_vip",
        verdict: Verdict::Pass,
        known: false,
        kind: Kind::NotVip,
    },
];

impl Case {
    const fn new(name: &'static str, known: bool, kind: Kind) -> Case {
        Case {
            name,
            verdict: Verdict::Tx,
            known,
            kind,
        }
    }

    /// The frame of session number `session`: the shortest there is, with a few bytes of payload.
    #[must_use]
    pub fn frame(&self, session: u32) -> Vec<u8> {
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
        match self.kind {
            Kind::V4(transport, port) => traffic::ipv4(macs, v4(VIP4, port), transport, 6),
            Kind::V6(transport, port) => traffic::ipv6(macs, flow6(session, port), transport, 6),
            Kind::Quic => traffic::ipv4_udp(macs, v4(VIP4, PORT_QUIC), &quic_short_header()),
            Kind::NotVip => traffic::ipv4(macs, v4(OTHER, PORT), Transport::TcpData, 6),
        }
    }

    /// The key under which the balancer keeps session number `session`.
    #[must_use]
    pub fn session_key(&self, session: u32) -> FlowKey {
        let (src, dst, proto) = match self.kind {
            Kind::V6(transport, _) => {
                let flow = flow6(session, PORT);
                (
                    Address::from_v6(flow.source.octets()),
                    Address::from_v6(VIP6.octets()),
                    proto(transport),
                )
            }
            Kind::V4(transport, _) => (
                Address::from_v4(source4(session).octets()),
                Address::from_v4(VIP4.octets()),
                proto(transport),
            ),
            Kind::Quic | Kind::NotVip => (
                Address::from_v4(source4(session).octets()),
                Address::from_v4(VIP4.octets()),
                UDP,
            ),
        };
        FlowKey {
            src,
            dst,
            src_port: Be16::from_host(source_port(session)),
            dst_port: Be16::from_host(PORT),
            proto,
            pad: [0; 3],
        }
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

/// Index of the real that session number `session` belongs to.
#[must_use]
pub fn real_of(case: &Case, session: u32) -> u32 {
    let first = if matches!(case.kind, Kind::V6(..)) {
        u32::from(REALS)
    } else {
        0
    };
    first + session % u32::from(REALS) + 1
}

fn proto(transport: Transport) -> u8 {
    if transport == Transport::Udp {
        UDP
    } else {
        TCP
    }
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

    #[test]
    fn sessions_have_keys_of_their_own() {
        let case = &CASES[0];
        let keys: std::collections::HashSet<FlowKey> = [0, 1, 49_999, 50_000, 999_999]
            .into_iter()
            .map(|n| case.session_key(n))
            .collect();
        assert_eq!(keys.len(), 5);
    }
}
