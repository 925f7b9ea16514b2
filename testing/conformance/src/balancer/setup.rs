//! What the maps hold before the first frame.

use std::net::Ipv6Addr;

use squalus_isa::{MapDef, MapFlags, MapType, UpdateFlags};

use super::{
    Generator, NO_REAL, PROGRAM, REALS, RING_SIZE, SERVERS, Vip, flag, padded, session_table, v6,
};
use crate::frames::{Flow, proto};
use crate::{MapName, Step};

impl Generator {
    /// CPU 0 has a session table of its own, the others have not.
    pub(super) fn tables(&mut self, steps: &mut Vec<Step>) {
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

    pub(super) fn vip_steps(&mut self, steps: &mut Vec<Step>) {
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

    pub(super) fn real_steps(&mut self, steps: &mut Vec<Step>) {
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

    pub(super) fn feature_steps(&mut self, steps: &mut Vec<Step>) {
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
                    flags: MapFlags::NO_PREALLOC,
                    ..MapDef::new("down", MapType::Hash, (4, 1), 4096)
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
    pub(super) fn session_steps(&mut self, steps: &mut Vec<Step>) {
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
