//! Cases for the balancer: maps as a control plane would fill them, and traffic of every kind.
//!
//! Works on squalus's own object and on katran's, which have the same map names and layouts
//! (`katran/lib/bpf/balancer_structs.h`). Maps that an object lacks refuse the set-up alike on every
//! engine, which is compared too.

use std::net::Ipv6Addr;

use squalus_isa::{MapDef, MapFlags, MapType, UpdateFlags};

use crate::compare::{Mask, Watch};
use crate::engines::Subject;
use crate::frames::{self, Address, ETHERNET, Flow, MAX_FRAME, proto, tcp};
use crate::{Case, MapName, Rng, Step};

/// The program.
pub const PROGRAM: &str = "balancer_ingress";
/// Slots per VIP in `ch_rings`.
const RING_SIZE: u32 = 65537;
/// Reals there are: indices 1 to this.
const REALS: u32 = 40;
/// Size of session tables: more than flows in any case, since which entry an LRU drops is each engine's
/// own business.
const SESSIONS: u32 = 65536;
/// `MAX_VIPS`: where global counters start in `stats`.
const MAX_VIPS: u32 = 512;
/// Global counter 2: connections in the current second, and when it began.
const CONNECTION_RATE: u32 = MAX_VIPS + 2;
/// Katran's default port for GUE, and the one its tests use.
const GUE_PORTS: [u16; 2] = [6080, 9886];
/// Servers in `server_id_map`: ids 1 to this.
const SERVERS: u32 = 300;

/// A QUIC VIP that gets more traffic than others.
const HOT_VIP: usize = 8;

/// The server with this id, and its multiples, has an index that no real has.
const NO_REAL: u32 = 50;

/// `vip_meta.flags` (katran's `balancer_consts.h`).
mod flag {
    pub(super) const NO_SRC_PORT: u32 = 1;
    pub(super) const LRU_BYPASS: u32 = 2;
    pub(super) const QUIC: u32 = 4;
    pub(super) const DPORT_ONLY: u32 = 8;
    pub(super) const SRC_ROUTING: u32 = 16;
    pub(super) const LOCAL: u32 = 32;
    pub(super) const GLOBAL_LRU: u32 = 64;
    pub(super) const SRC_DST_PORT: u32 = 128;
    pub(super) const STABLE_ROUTING: u32 = 256;
    pub(super) const FLOW_MIGRATION: u32 = 512;
}

struct Vip {
    address: Address,
    port: u16,
    protocol: u8,
    flags: u32,
}

impl Vip {
    /// `vip_definition`.
    fn key(&self) -> Vec<u8> {
        let mut key = padded(&self.address);
        key.extend(self.port.to_be_bytes());
        key.extend([self.protocol, 0]);
        key
    }
}

/// An address as 16 bytes, IPv4 in the first four.
fn padded(address: &[u8]) -> Vec<u8> {
    let mut out = address.to_vec();
    out.resize(16, 0);
    out
}

fn v6(last: u16) -> Address {
    Ipv6Addr::new(0xfc00, 1, 2, 3, 4, 5, 6, last)
        .octets()
        .to_vec()
}

fn vips() -> Vec<Vip> {
    use proto::{TCP, UDP};
    let combinations: &[(u16, u8, u32)] = &[
        (80, TCP, 0),
        (53, UDP, 0),
        (80, TCP, flag::NO_SRC_PORT),
        (80, TCP, flag::LRU_BYPASS),
        (443, UDP, flag::QUIC),
        (443, UDP, flag::QUIC | flag::LRU_BYPASS),
        (443, UDP, flag::QUIC | flag::FLOW_MIGRATION),
        (0, TCP, flag::DPORT_ONLY),
        (0, UDP, flag::DPORT_ONLY | flag::NO_SRC_PORT),
        (80, TCP, flag::SRC_ROUTING),
        (80, TCP, flag::LOCAL),
        (80, TCP, flag::GLOBAL_LRU),
        (53, UDP, flag::GLOBAL_LRU),
        (0, TCP, flag::SRC_DST_PORT),
        (0, UDP, 0),
        (0, TCP, 0),
        (443, UDP, flag::STABLE_ROUTING),
        (53, UDP, flag::FLOW_MIGRATION),
        (0, UDP, flag::FLOW_MIGRATION),
        (
            443,
            UDP,
            flag::STABLE_ROUTING | flag::FLOW_MIGRATION | flag::GLOBAL_LRU,
        ),
    ];
    let mut vips = Vec::new();
    for (number, &(port, protocol, flags)) in combinations.iter().enumerate() {
        for address in [vec![10, 200, 1, number as u8 + 1], v6(number as u16 + 1)] {
            vips.push(Vip {
                address,
                port,
                protocol,
                flags,
            });
        }
    }
    vips
}

/// The object with map sizes that keep LRUs from evicting. `switches` are values of `.rodata`.
#[must_use]
pub fn subject(object: &[u8], switches: &[(&str, &[u8])]) -> Subject {
    let switches = switches.iter();
    Subject {
        programs: None,
        object: object.to_vec(),
        globals: switches
            .map(|(name, value)| ((*name).to_owned(), value.to_vec()))
            .collect(),
        max_entries: vec![
            ("fallback_cache".to_owned(), SESSIONS),
            ("fallback_glru".to_owned(), SESSIONS),
        ],
        inner: vec![("global_lru_maps".to_owned(), session_table("glru", 4))],
        clock: None,
    }
}

/// What may differ: times, and the connection count that restarts with each second.
#[must_use]
pub fn watch() -> Watch {
    let atime = |map: &str| Mask {
        map: map.to_owned(),
        key: None,
        bytes: 8..16,
    };
    let rate = Mask {
        map: "stats".to_owned(),
        key: Some(CONNECTION_RATE.to_ne_bytes().to_vec()),
        bytes: 0..16,
    };
    Watch {
        masks: vec![atime("lru_mapping"), atime("fallback_cache"), rate],
        clock: None,
    }
}

fn session_table(name: &str, value_size: u32) -> MapDef {
    MapDef {
        name: name.to_owned(),
        kind: MapType::LruHash,
        key_size: 40,
        value_size,
        max_entries: SESSIONS,
        flags: MapFlags::default(),
        inner: None,
        extra: 0,
        fields: Default::default(),
    }
}

/// A generator of cases: one world of VIPs and reals, any number of frames.
pub struct Generator {
    rng: Rng,
    vips: Vec<Vip>,
    clients: Vec<Address>,
}

impl Generator {
    /// The generator for `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Generator {
        let mut rng = Rng::new(seed);
        let mut clients = Vec::new();
        for number in 0..24 {
            clients.push(vec![192, 168, number, rng.byte()]);
            let mut address = v6(0);
            address[0] = 0x20;
            address[12..].copy_from_slice(&rng.bytes(4));
            clients.push(address);
        }
        Generator {
            rng,
            vips: vips(),
            clients,
        }
    }

    /// The steps that fill the maps.
    pub fn setup(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        self.tables(&mut steps);
        self.vip_steps(&mut steps);
        self.real_steps(&mut steps);
        self.feature_steps(&mut steps);
        self.session_steps(&mut steps);
        steps
    }

    /// A set-up and `frames` frames.
    pub fn case(&mut self, frames: usize) -> Case {
        let mut steps = self.setup();
        steps.extend((0..frames).map(|_| self.run()));
        Case { steps }
    }

    /// As [`Generator::case`], with time that passes: mostly little, at times seconds and half minutes,
    /// which sessions of UDP and the connection rate depend on.
    pub fn timed_case(&mut self, frames: usize) -> Case {
        let mut case = self.case(0);
        let mut nanos: u64 = 1 << 40;
        for _ in 0..frames {
            nanos += match self.rng.below(100) {
                0 => 30_000_000_000 + self.rng.below(3) as u64 - 1,
                1..4 => 1_000_000_000 + self.rng.below(3) as u64 - 1,
                _ => self.rng.below(1_000_000) as u64,
            };
            case.steps.push(Step::Time { nanos });
            case.steps.push(self.run());
        }
        case
    }

    /// One frame, on any CPU.
    pub fn run(&mut self) -> Step {
        Step::Run {
            program: PROGRAM.to_owned(),
            cpu: u32::from(self.rng.percent(25)),
            frame: self.frame(),
        }
    }

    /// CPU 0 has a session table of its own, the others have not.
    fn tables(&mut self, steps: &mut Vec<Step>) {
        for (outer, value_size) in [("lru_mapping", 16), ("global_lru_maps", 4)] {
            steps.push(Step::CreateInner {
                outer: outer.to_owned(),
                key: vec![0; 4],
                def: session_table("inner", value_size),
            });
        }
        steps.push(Step::CreateInner {
            outer: "flow_debug_maps".to_owned(),
            key: vec![0; 4],
            def: session_table("inner", 32),
        });
        steps.push(Step::SetProgram {
            map: "subprograms".to_owned(),
            index: 0,
            program: PROGRAM.to_owned(),
        });
    }

    fn vip_steps(&mut self, steps: &mut Vec<Step>) {
        for (number, vip) in (0u32..).zip(&self.vips) {
            let mut meta = vip.flags.to_ne_bytes().to_vec();
            meta.extend(number.to_ne_bytes());
            steps.push(update("vip_map", vip.key(), meta));
            // A few slots without a real, and one VIP whose ring was never written.
            if number != 3 {
                steps.push(Step::Fill {
                    map: "ch_rings".to_owned(),
                    first: number * RING_SIZE,
                    count: RING_SIZE,
                    seed: self.rng.word(),
                    modulo: if number == 5 { 5000 } else { REALS + 1 },
                });
            }
        }
        let logged = self.vips[0].key();
        steps.push(update("vip_miss_stats", vec![0; 4], logged));
        // A VIP prefix, for objects that know those: port, protocol, fc00:1:2:3:4:5:7::/112.
        let mut prefix = (32u32 + 112).to_ne_bytes().to_vec();
        prefix.extend(443u16.to_be_bytes());
        prefix.extend([proto::UDP, 0]);
        prefix.extend(Ipv6Addr::new(0xfc00, 1, 2, 3, 4, 5, 7, 0).octets());
        let mut meta = flag::QUIC.to_ne_bytes().to_vec();
        meta.extend(4u32.to_ne_bytes());
        steps.push(update("vip_lpm_map", prefix, meta));
    }

    fn real_steps(&mut self, steps: &mut Vec<Step>) {
        const IPV6: u8 = 1;
        const LOCAL: u8 = 2;
        for index in 1..=REALS {
            let (address, family) = if index % 2 == 0 {
                (v6(0x100 + index as u16), IPV6)
            } else {
                (vec![10, 0, 0, index as u8], 0)
            };
            let local = if index % 8 == 0 { LOCAL } else { 0 };
            let mut value = padded(&address);
            value.extend([family | local, 0, 0, 0]);
            steps.push(update("reals", index.to_ne_bytes().to_vec(), value));
        }
        let mac = [0, 0, 0xde, 0xad, 0xbe, 0xaf, 0, 0];
        steps.push(update("ctl_array", vec![0; 4], mac.to_vec()));
        for id in 1..=SERVERS {
            // Some ids without a real, and a few with an index that no real has.
            let real = if id % NO_REAL == 0 {
                5000
            } else {
                id % (REALS + 1)
            };
            let (id, real) = (id.to_ne_bytes().to_vec(), real.to_ne_bytes().to_vec());
            steps.push(update("server_id_map", id, real));
        }
    }

    fn feature_steps(&mut self, steps: &mut Vec<Step>) {
        for (index, address) in [vec![10, 0, 13, 37], v6(0x1337)].into_iter().enumerate() {
            let mut value = padded(&address);
            value.extend([0; 4]);
            let key = (index as u32).to_ne_bytes().to_vec();
            steps.push(update("pckt_srcs", key, value));
            steps.push(update("decap_dst", padded(&address), vec![0; 4]));
        }
        let egress = vec![2, 0, 0, 0];
        steps.push(update("decap_dst", padded(&[10, 0, 13, 38]), egress));
        for (number, client) in self.clients.iter().enumerate().filter(|(n, _)| n % 3 == 0) {
            let bits = if client.len() == 4 { 24u32 } else { 112 };
            let mut key = bits.to_ne_bytes().to_vec();
            key.extend(client);
            let map = if client.len() == 4 {
                "lpm_src_v4"
            } else {
                "lpm_src_v6"
            };
            let real = number as u32 % REALS + 1;
            steps.push(update(map, key, real.to_ne_bytes().to_vec()));
        }
        self.down_reals(steps);
    }

    fn down_reals(&mut self, steps: &mut Vec<Step>) {
        let migrating = |vip: &&Vip| vip.flags & flag::FLOW_MIGRATION != 0;
        for vip in self.vips.iter().filter(migrating) {
            let key = vip.key();
            steps.push(Step::CreateInner {
                outer: "vip_to_down_reals_map".to_owned(),
                key: key.clone(),
                def: MapDef {
                    name: "down".to_owned(),
                    kind: MapType::Hash,
                    key_size: 4,
                    value_size: 1,
                    max_entries: 4096,
                    flags: MapFlags::NO_PREALLOC,
                    inner: None,
                    extra: 0,
                    fields: Default::default(),
                },
            });
            for real in (0..=REALS).filter(|real| real % 4 == 0) {
                steps.push(Step::Update {
                    map: MapName::Inner("vip_to_down_reals_map".to_owned(), key.clone()),
                    key: real.to_ne_bytes().to_vec(),
                    value: vec![1],
                    flags: UpdateFlags::ANY,
                });
            }
        }
    }

    /// Sessions that exist already, some with reals that don't.
    fn session_steps(&mut self, steps: &mut Vec<Step>) {
        for _ in 0..200 {
            let (flow, protocol) = self.vip_flow();
            let key = flow_key(&flow, protocol);
            let real = match self.rng.below(20) {
                0 => 0,
                1 => 4096,
                2 => u32::MAX,
                _ => self.rng.between(1, REALS as usize) as u32,
            };
            let mut value = real.to_ne_bytes().to_vec();
            value.resize(16, 0);
            let map = match self.rng.percent(75) {
                true => MapName::Inner("lru_mapping".to_owned(), vec![0; 4]),
                false => MapName::Name("fallback_cache".to_owned()),
            };
            steps.push(Step::Update {
                map,
                key: key.clone(),
                value,
                flags: UpdateFlags::ANY,
            });
            let global = match self.rng.percent(75) {
                true => MapName::Inner("global_lru_maps".to_owned(), vec![0; 4]),
                false => MapName::Name("fallback_glru".to_owned()),
            };
            if self.rng.percent(50) {
                let real = self.rng.between(0, REALS as usize + 1) as u32;
                steps.push(Step::Update {
                    map: global,
                    key,
                    value: real.to_ne_bytes().to_vec(),
                    flags: UpdateFlags::ANY,
                });
            }
        }
    }

    /// A client of the VIP's family, one of few ports, so that flows come back.
    fn vip_flow(&mut self) -> (Flow, u8) {
        let hot = self.rng.percent(10);
        let vip = match hot {
            true => &self.vips[HOT_VIP],
            false => &self.vips[self.rng.below(self.vips.len())],
        };
        let family = |client: &&Address| client.len() == vip.address.len();
        let clients: Vec<&Address> = self.clients.iter().filter(family).collect();
        // One client sends much of the traffic: its flows come back.
        let src = match hot || self.rng.percent(40) {
            true => clients[0].clone(),
            false => (*self.rng.pick(&clients)).clone(),
        };
        let sport = match hot || self.rng.percent(80) {
            true => *self.rng.pick(&[31337, 1024, 65535, 7]),
            false => self.rng.word() as u16,
        };
        let dport = match vip.port {
            0 => *self.rng.pick(&[80, 443, 53, 1]),
            port if self.rng.percent(95) => port,
            _ => self.rng.word() as u16,
        };
        let flow = Flow {
            src,
            dst: vip.address.clone(),
            sport,
            dport,
        };
        (flow, vip.protocol)
    }

    /// A frame of some kind, damaged one time in four.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = match self.rng.below(100) {
            0..60 => self.vip_frame(),
            60..66 => self.echo(),
            66..80 => self.icmp_error(),
            80..92 => self.encapsulated(),
            92..95 => self.other_protocol(),
            95..98 => self.no_ip(),
            _ => {
                let len = self.rng.between(ETHERNET, 200);
                self.rng.bytes(len)
            }
        };
        if self.rng.percent(25) {
            frames::damage(&mut self.rng, &mut frame);
        }
        frame.truncate(MAX_FRAME);
        frame
    }

    fn vip_frame(&mut self) -> Vec<u8> {
        let (flow, protocol) = self.vip_flow();
        let segment = self.segment(&flow, protocol);
        frames::ethernet(&self.packet(&flow, protocol, &segment))
    }

    fn packet(&mut self, flow: &Flow, protocol: u8, payload: &[u8]) -> Vec<u8> {
        frames::ip(&mut self.rng, &flow.src, &flow.dst, protocol, payload)
    }

    fn segment(&mut self, flow: &Flow, protocol: u8) -> Vec<u8> {
        if protocol == proto::TCP {
            let flags = *self.rng.pick(&[
                tcp::SYN,
                tcp::ACK,
                tcp::ACK,
                tcp::ACK | tcp::PSH,
                tcp::ACK | tcp::FIN,
                tcp::RST,
                tcp::RST | tcp::ACK,
                tcp::SYN | tcp::ACK,
                tcp::SYN | tcp::RST,
                0,
                0xff,
            ]);
            let options = self.tcp_options();
            let payload = self.payload();
            return frames::tcp_segment(&mut self.rng, flow, flags, &options, &payload);
        }
        let payload = match self.rng.below(10) {
            0..5 => self.quic(),
            5..7 => self.stable_routing(),
            _ => self.payload(),
        };
        frames::udp_datagram(&mut self.rng, flow, &payload)
    }

    /// Mostly short; sometimes up to a full frame, and beyond what the balancer forwards.
    fn payload(&mut self) -> Vec<u8> {
        let len = match self.rng.below(20) {
            0..12 => self.rng.between(0, 64),
            12..17 => self.rng.between(64, 1400),
            17 | 18 => self.rng.between(1400, 1480),
            _ => self.rng.between(1480, 3400),
        };
        self.rng.bytes(len)
    }

    /// Options among which katran's server id (kind 0xb7, six bytes) may be, well-formed or not.
    fn tcp_options(&mut self) -> Vec<u8> {
        let mut options = Vec::new();
        if self.rng.percent(50) {
            return options;
        }
        for _ in 0..self.rng.between(0, 6) {
            match self.rng.below(6) {
                0 => options.push(1),
                1 => options.extend([2, 4, 5, 0xb4]),
                2 => options.extend([8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
                3 => {
                    let id = self.server_id();
                    options.extend([0xb7, 6]);
                    options.extend(id.to_le_bytes());
                }
                4 => options.extend([self.rng.byte(), self.rng.byte()]),
                _ => options.push(0),
            }
        }
        options
    }

    fn server_id(&mut self) -> u32 {
        match self.rng.below(10) {
            0 => 0,
            1 => self.rng.word() as u32,
            2 => SERVERS + 1,
            3..6 => self.rng.between(1, 2) as u32,
            6 => NO_REAL,
            _ => self.rng.between(1, SERVERS as usize) as u32,
        }
    }

    fn quic(&mut self) -> Vec<u8> {
        let version = self.rng.below(5) as u8;
        let server = self.server_id();
        let len = *self.rng.pick(&[8, 8, 8, 20, 7, 4, 0, 9, 255]);
        let id = frames::connection_id(&mut self.rng, version, server, len);
        if self.rng.percent(40) {
            let kind = *self.rng.pick(&[0x00, 0x10, 0x20, 0x30]);
            frames::quic_long(&mut self.rng, kind, &id)
        } else {
            frames::quic_short(&mut self.rng, &id)
        }
    }

    /// The first byte says stable routing, the next three the server.
    fn stable_routing(&mut self) -> Vec<u8> {
        const HEADER: u8 = 0x52;
        let [_, high, middle, low] = self.server_id().to_be_bytes();
        let first = if self.rng.percent(90) {
            HEADER
        } else {
            self.rng.byte()
        };
        let more = self.rng.between(0, 20);
        let mut payload = vec![first, high, middle, low];
        payload.extend(self.rng.bytes(more));
        payload
    }

    fn any_flow(&mut self) -> Flow {
        let (mut flow, _) = self.vip_flow();
        if self.rng.percent(50) {
            let len = flow.dst.len();
            flow.dst = self.rng.bytes(len);
        }
        flow
    }

    fn icmp_packet(
        &mut self,
        flow: &Flow,
        kinds: (u8, u8),
        code: u8,
        rest: [u8; 4],
        body: &[u8],
    ) -> Vec<u8> {
        let (kind, protocol) = match flow.src.len() {
            4 => (kinds.0, proto::ICMP),
            _ => (kinds.1, proto::ICMPV6),
        };
        let message = frames::icmp(kind, code, rest, body);
        frames::ethernet(&self.packet(flow, protocol, &message))
    }

    fn echo(&mut self) -> Vec<u8> {
        let flow = self.any_flow();
        let body = self.payload();
        let kinds = *self
            .rng
            .pick(&[(8, 128), (8, 128), (8, 128), (0, 129), (13, 135)]);
        let rest = (self.rng.word() as u32).to_be_bytes();
        let code = if self.rng.percent(90) {
            0
        } else {
            self.rng.byte()
        };
        self.icmp_packet(&flow, kinds, code, rest, &body)
    }

    /// A router answers to something that the VIP sent: the embedded packet goes from the VIP to a client.
    fn icmp_error(&mut self) -> Vec<u8> {
        let (flow, protocol) = self.vip_flow();
        let inner = flow.reversed();
        let segment = self.segment(&inner, protocol);
        let mut embedded = self.packet(&inner, protocol, &segment);
        if self.rng.percent(70) {
            let header = if inner.src.len() == 4 { 20 } else { 40 };
            let keep = header + self.rng.between(0, 24);
            embedded.truncate(keep);
        }
        if self.rng.percent(10) {
            embedded[0] = self.rng.byte();
        }
        let router = Flow {
            src: self.any_flow().dst,
            ..flow.clone()
        };
        let outer = if router.src.len() == flow.dst.len() {
            router
        } else {
            flow
        };
        let kinds = *self.rng.pick(&[(3, 2), (3, 1), (3, 1), (11, 3), (5, 137)]);
        let code = *self.rng.pick(&[0, 1, 3, 4, 4, 4, 13]);
        let mtu = *self.rng.pick(&[0u16, 576, 1279, 1280, 1400, 1500, 65535]);
        let [high, low] = mtu.to_be_bytes();
        self.icmp_packet(&outer, kinds, code, [0, 0, high, low], &embedded)
    }

    /// A packet to a VIP inside IP in IP or GUE, to this host or another.
    fn encapsulated(&mut self) -> Vec<u8> {
        let (flow, protocol) = self.vip_flow();
        let segment = self.segment(&flow, protocol);
        let inner = self.packet(&flow, protocol, &segment);
        let outer_v4 = self.rng.percent(50);
        let dst = match (outer_v4, self.rng.below(4)) {
            (true, 0) => vec![10, 0, 13, 38],
            (true, 1) => vec![10, 9, 9, 9],
            (true, _) => vec![10, 0, 13, 37],
            (false, 0) => v6(0x9999),
            (false, _) => v6(0x1337),
        };
        let outer = Flow {
            src: if outer_v4 {
                vec![172, 16, 1, 2]
            } else {
                v6(0x4242)
            },
            dst,
            sport: self.rng.word() as u16,
            dport: *self.rng.pick(&GUE_PORTS),
        };
        let (protocol, payload) = if self.rng.percent(50) {
            let inner_v4 = flow.src.len() == 4;
            (if inner_v4 { proto::IPIP } else { proto::IPV6 }, inner)
        } else {
            (
                proto::UDP,
                frames::udp_datagram(&mut self.rng, &outer, &inner),
            )
        };
        frames::ethernet(&self.packet(&outer, protocol, &payload))
    }

    fn other_protocol(&mut self) -> Vec<u8> {
        let flow = self.any_flow();
        let protocol = self.rng.byte();
        let payload = self.payload();
        frames::ethernet(&self.packet(&flow, protocol, &payload))
    }

    /// ARP, VLAN tags and such.
    fn no_ip(&mut self) -> Vec<u8> {
        let mut frame = self.vip_frame();
        let types: [u16; 5] = [0x0806, 0x8100, 0x88a8, 0x88cc, self.rng.word() as u16];
        let ethertype = *self.rng.pick(&types);
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame
    }
}

fn update(map: &str, key: Vec<u8>, value: Vec<u8>) -> Step {
    Step::Update {
        map: map.into(),
        key,
        value,
        flags: UpdateFlags::ANY,
    }
}

/// `flow_key`: the key of session tables.
fn flow_key(flow: &Flow, protocol: u8) -> Vec<u8> {
    let mut key = padded(&flow.src);
    key.extend(padded(&flow.dst));
    key.extend(flow.sport.to_be_bytes());
    key.extend(flow.dport.to_be_bytes());
    key.extend([protocol, 0, 0, 0]);
    key
}
