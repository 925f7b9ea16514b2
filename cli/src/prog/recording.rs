//! Recordings of a balancer: how it was provisioned, what went in, what came out, what it counted.
//!
//! A recording is JSON, optionally gzipped: `load_map_writes` (raw bytes written when the program is loaded) and
//! `phases`, each with control-plane calls, frames in order and the counters after them.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// A whole recording.
#[derive(Debug, Deserialize)]
pub struct Recording {
    /// Raw writes at load: map, key, value in hex. A value in angle brackets stands for something of the recording host.
    pub load_map_writes: Vec<(String, String, String)>,
    /// Provision, send, count; in order, on one balancer.
    pub phases: Vec<Phase>,
}

/// One round of provisioning and traffic.
#[derive(Debug, Deserialize)]
pub struct Phase {
    /// Its name.
    pub phase: String,
    /// Control-plane calls, in order.
    pub provisioning_ops: Vec<Op>,
    /// Rings and indices after the calls.
    pub state: State,
    /// Frames, in order.
    pub cases: Vec<Case>,
    /// Counters after the frames.
    pub counters_after: Counters,
}

/// A VIP as recordings name it in calls: address, port, protocol.
pub type VipName = (IpAddr, u16, u8);

/// A control-plane call.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[allow(
    missing_docs,
    reason = "names and fields are those of katran's control plane"
)]
pub enum Op {
    AddVip {
        address: IpAddr,
        port: u16,
        proto: u8,
        flags: u32,
        cidr_vip_prefix_len: u8,
    },
    ModifyVip {
        address: IpAddr,
        port: u16,
        proto: u8,
        flag: u32,
        set: bool,
    },
    AddReal {
        vip: VipName,
        real: IpAddr,
        weight: u32,
    },
    ModifyReal {
        address: IpAddr,
        flags: u8,
        set: bool,
    },
    AddServerId {
        address: IpAddr,
        id: u32,
    },
    AddDownReal {
        vip: VipName,
        real_index: u32,
    },
    AddHealthcheckerDst {},
    AddSrcRoutingRule {},
    AddInlineDecapDst {},
    AddEgressDecapDst {},
}

impl Op {
    /// The call's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Op::AddVip { .. } => "addVip",
            Op::ModifyVip { .. } => "modifyVip",
            Op::AddReal { .. } => "addReal",
            Op::ModifyReal { .. } => "modifyReal",
            Op::AddServerId { .. } => "addServerId",
            Op::AddDownReal { .. } => "addDownReal",
            Op::AddHealthcheckerDst { .. } => "addHealthcheckerDst",
            Op::AddSrcRoutingRule { .. } => "addSrcRoutingRule",
            Op::AddInlineDecapDst { .. } => "addInlineDecapDst",
            Op::AddEgressDecapDst { .. } => "addEgressDecapDst",
        }
    }
}

/// Rings and real indices.
#[derive(Debug, Deserialize)]
pub struct State {
    /// Every VIP.
    pub vips: Vec<VipState>,
    /// Real index to address.
    pub real_index: BTreeMap<u32, IpAddr>,
}

/// A VIP's number, flags and ring.
#[derive(Debug, Deserialize)]
pub struct VipState {
    /// `address:port:protocol`.
    pub vip: String,
    /// Its number.
    pub vip_num: u32,
    /// How many ring slots each real index has.
    pub slots_per_real_index: BTreeMap<u32, u32>,
    /// The first slots.
    pub first32: Vec<u32>,
}

/// One frame and what became of it.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// Its number, from 1.
    pub n: u32,
    /// What kind of frame it is.
    pub kind: String,
    /// The frame.
    #[serde(deserialize_with = "from_hex")]
    pub input: Vec<u8>,
    /// The verdict's name.
    #[serde(rename = "return")]
    pub verdict: String,
    /// The frame after the program in hex, or `=input`.
    pub output: String,
}

impl Case {
    /// The frame after the program.
    ///
    /// # Errors
    /// If it is not hex.
    pub fn expected(&self) -> Result<Vec<u8>> {
        if self.output == "=input" {
            return Ok(self.input.clone());
        }
        hex::decode(&self.output).with_context(|| format!("case {}: the output is not hex", self.n))
    }
}

/// A pair of counters.
pub type Pair = (u64, u64);

/// Counters that are not zero.
#[derive(Debug, Deserialize)]
pub struct Counters {
    /// Global counters by name.
    pub global: BTreeMap<String, Pair>,
    /// Packets and bytes by VIP.
    pub per_vip_pkts_bytes: BTreeMap<String, Pair>,
    /// Packets and bytes by real.
    pub per_real_pkts_bytes: BTreeMap<IpAddr, Pair>,
    /// The QUIC counters, in the map's order.
    #[serde(default)]
    pub quic_stats_map: Vec<u64>,
    /// The TCP server-id counters, in the map's order.
    #[serde(default)]
    pub tpr_stats_map: Vec<u64>,
    /// The stable-routing counters, in the map's order.
    #[serde(default)]
    pub stable_rt_stats: Vec<u64>,
    /// Server-id routing by VIP.
    #[serde(default)]
    pub server_id_stats: BTreeMap<String, Pair>,
    /// Decapsulated packets by VIP.
    #[serde(default)]
    pub decap_vip_stats: BTreeMap<String, Pair>,
}

impl Recording {
    /// Reads a recording, gzipped or not.
    ///
    /// # Errors
    /// If the file cannot be read or is not a recording.
    pub fn read(path: &Path) -> Result<Recording> {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut text = Vec::new();
        let json = if bytes.starts_with(&[0x1f, 0x8b]) {
            flate2::read::GzDecoder::new(&bytes[..])
                .read_to_end(&mut text)
                .with_context(|| format!("{} is not valid gzip", path.display()))?;
            &text
        } else {
            &bytes
        };
        serde_json::from_slice(json)
            .with_context(|| format!("{} is not a recording", path.display()))
    }
}

/// Splits `address:port:protocol`.
///
/// # Errors
/// If it is not of that form.
pub fn parse_vip(text: &str) -> Result<VipName> {
    let mut parts = text.rsplitn(3, ':');
    let (Some(proto), Some(port), Some(address)) = (parts.next(), parts.next(), parts.next())
    else {
        bail!("`{text}` is not address:port:protocol");
    };
    ensure!(!address.is_empty(), "`{text}` has no address");
    Ok((address.parse()?, port.parse()?, proto.parse()?))
}

fn from_hex<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    hex::decode(text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vips_of_both_families_are_split() {
        assert_eq!(
            parse_vip("10.200.1.1:80:17").unwrap(),
            ("10.200.1.1".parse().unwrap(), 80, 17)
        );
        assert_eq!(
            parse_vip("fc00:3:1::4:443:6").unwrap(),
            ("fc00:3:1::4".parse().unwrap(), 443, 6)
        );
        assert!(parse_vip("80:17").is_err());
    }
}
