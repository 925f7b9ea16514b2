//! Cases for the balancer: maps as a control plane would fill them, and traffic of every kind.
//!
//! Works on squalus's own object and on katran's, which have the same map names and layouts
//! (`katran/lib/bpf/balancer_structs.h`). Maps that an object lacks refuse the set-up alike on every
//! engine, which is compared too.

mod setup;
mod traffic;

use std::net::Ipv6Addr;

use squalus_isa::{MapDef, MapType};

use crate::compare::{Mask, Watch};
use crate::engines::Subject;
use crate::frames::{Address, proto};
use crate::{Case, Rng, Step};

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
    MapDef::new(name, MapType::LruHash, (40, value_size), SESSIONS)
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
            cpu: self.cpu(),
            frame: self.frame(),
        }
    }

    /// The first CPU, or the second if there is one.
    fn cpu(&mut self) -> u32 {
        let other = squalus_kernel::usable_cpus().contains(&1);
        u32::from(self.rng.percent(25) && other)
    }
}
