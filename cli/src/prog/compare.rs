//! Rings, indices and counters of a balancer against recorded ones.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;

use anyhow::{Context, Result};
use squalus_abi::{GlobalCounter, LbStats};
use squalus_core::{RealNum, VipKey};
use squalus_dataplane::{Controller, Offline};
use squalus_engine::{Engine, MapAccess};

use super::recording::{Counters, Pair, State, VipState, parse_vip};

/// The balancer of a replay.
pub type Balancer = Controller<Offline<Box<dyn Engine>>>;

/// One thing compared.
#[derive(Debug)]
pub struct Finding {
    /// What.
    pub what: String,
    /// As recorded.
    pub expected: String,
    /// As found.
    pub got: String,
}

impl Finding {
    fn new(what: impl Into<String>, expected: impl Display, got: impl Display) -> Finding {
        Finding {
            what: what.into(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }

    /// Whether both are the same.
    #[must_use]
    pub fn matches(&self) -> bool {
        self.expected == self.got
    }
}

/// Compares real indices, VIP numbers, flags and rings.
pub fn state(balancer: &Balancer, state: &State) -> Result<Vec<Finding>> {
    let lb = balancer.balancer();
    let mut findings = Vec::new();
    for (index, address) in &state.real_index {
        let got = lb
            .real_num(*address)
            .map_or("none".to_owned(), |RealNum(n)| n.to_string());
        findings.push(Finding::new(format!("index of real {address}"), index, got));
    }
    for vip in &state.vips {
        let key = vip_key(&vip.vip)?;
        let number = lb
            .vip_num(&key)
            .map_or("none".to_owned(), |n| n.0.to_string());
        findings.push(Finding::new(
            format!("number of VIP {}", vip.vip),
            vip.vip_num,
            number,
        ));
        findings.push(ring(balancer, &key, vip));
    }
    Ok(findings)
}

fn ring(balancer: &Balancer, key: &VipKey, vip: &VipState) -> Finding {
    let ring = balancer.balancer().ring(key).unwrap_or_default();
    let mut slots: BTreeMap<u32, u32> = BTreeMap::new();
    ring.iter()
        .for_each(|real| *slots.entry(*real).or_default() += 1);
    let first = &ring[..ring.len().min(vip.first32.len())];
    let recorded: BTreeMap<u32, u32> = vip
        .slots_per_real_index
        .iter()
        .filter(|(real, _)| !slots.is_empty() || **real != 0)
        .map(|(r, n)| (*r, *n))
        .collect();
    let expected_first: &[u32] = if recorded.is_empty() {
        &[]
    } else {
        &vip.first32
    };
    Finding::new(
        format!("ring of VIP {}", vip.vip),
        format!("{recorded:?}, first slots {expected_first:?}"),
        format!("{slots:?}, first slots {first:?}"),
    )
}

/// Compares all counters, those that were not recorded (being zero) included.
pub fn counters(balancer: &Balancer, recorded: &Counters, state: &State) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (counter, stats) in balancer.globals()? {
        // The rate guard's window is a time, not a count.
        if counter != GlobalCounter::NewConnRateCntr {
            findings.push(pair(
                counter.name(),
                recorded.global.get(counter.name()),
                stats,
            ));
        }
    }
    for vip in &state.vips {
        let key = vip_key(&vip.vip)?;
        let stats = balancer.vip_stats(&key)?;
        findings.push(pair(
            format!("packets and bytes of VIP {}", vip.vip),
            recorded.per_vip_pkts_bytes.get(&vip.vip),
            stats,
        ));
        if has_map(balancer, "server_id_stats") {
            let stats = balancer.server_id_stats(&key)?;
            findings.push(pair(
                format!("server id counters of VIP {}", vip.vip),
                recorded.server_id_stats.get(&vip.vip),
                stats,
            ));
        }
        if has_map(balancer, "decap_vip_stats") {
            let stats = balancer.decap_stats(&key)?;
            findings.push(pair(
                format!("decapsulated for VIP {}", vip.vip),
                recorded.decap_vip_stats.get(&vip.vip),
                stats,
            ));
        }
    }
    for (index, address) in &state.real_index {
        let stats = balancer.real_stats(RealNum(*index))?;
        findings.push(pair(
            format!("packets and bytes of real {address}"),
            real(recorded, *address),
            stats,
        ));
    }
    for (map, values) in [
        ("quic_stats_map", &recorded.quic_stats_map),
        ("tpr_stats_map", &recorded.tpr_stats_map),
        ("stable_rt_stats", &recorded.stable_rt_stats),
    ] {
        if !values.is_empty() {
            findings.push(Finding::new(
                map,
                format!("{values:?}"),
                format!("{:?}", summed(balancer, map)?),
            ));
        }
    }
    Ok(findings)
}

fn pair(what: impl Into<String>, recorded: Option<&Pair>, got: LbStats) -> Finding {
    let (v1, v2) = recorded.copied().unwrap_or_default();
    Finding::new(what, format!("{v1} {v2}"), format!("{} {}", got.v1, got.v2))
}

fn real(recorded: &Counters, address: IpAddr) -> Option<&Pair> {
    recorded.per_real_pkts_bytes.get(&address)
}

fn vip_key(text: &str) -> Result<VipKey> {
    let (address, port, proto) = parse_vip(text)?;
    Ok(VipKey {
        address,
        port,
        proto,
    })
}

fn has_map(balancer: &Balancer, name: &str) -> bool {
    balancer
        .dataplane()
        .0
        .maps()
        .iter()
        .any(|def| def.name == name)
}

/// The 64-bit counters of a per-CPU array's only value, summed over CPUs.
fn summed(balancer: &Balancer, map: &str) -> Result<Vec<u64>> {
    let engine = &balancer.dataplane().0;
    let bytes = engine
        .lookup(map.into(), &[0; 4])?
        .with_context(|| format!("map `{map}` is empty"))?;
    let words: Vec<u64> = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|word| u64::from_ne_bytes(*word))
        .collect();
    let width = words.len() / engine.cpus();
    let mut sums = vec![0u64; width];
    for cpu in words.chunks_exact(width) {
        sums.iter_mut()
            .zip(cpu)
            .for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
    }
    Ok(sums)
}
