//! QUIC: the server writes its id into the connection ids it issues, so a flow keeps its real when its address changes.

use squalus_abi::{GlobalCounter, QuicStats, RealDefinition, consts};
use squalus_bpf_net::{Frame, Step, UdpHeader, Verdict};

use crate::{
    counters, icmp,
    maps::{self, SessionTable},
    packet::Packet,
    parse::transport_offset,
    session::{self, Agreement},
    vip::Vip,
};

/// First byte: the long header form.
const LONG_HEADER: u8 = 0x80;
/// First byte: the type of a long header packet; Initial and 0-RTT are below Handshake.
const TYPE_MASK: u8 = 0x30;
const HANDSHAKE: u8 = 0x20;

/// Long header up to the connection id: first byte, version, length.
const LONG_CID_OFFSET: usize = 6;
const LONG_CID_LEN_OFFSET: usize = 5;
/// Bytes of a connection id that are looked at.
const CID_LEN: usize = consts::QUIC_MIN_CONNID_LEN as usize;

/// What the QUIC header says about routing.
enum Id {
    /// A server id, and the version of the connection id it was in.
    Server { id: u32, version: u8 },
    /// The client's first packets, whose connection id the client made up.
    Initial,
    /// Nothing usable.
    None,
}

/// The real that the packet's server id names, or none: then session table and ring decide.
#[inline(always)]
pub fn route<const V6: bool>(
    frame: &Frame,
    packet: &mut Packet<'_>,
    vip: &Vip,
    table: &SessionTable,
) -> Step<Option<&'static RealDefinition>> {
    if packet.icmp {
        // An ICMP error embeds too little of the packet to hold a connection id for certain.
        let ignored = u64::from(icmp::is_ignored_by_quic::<V6>(frame));
        counters::add(GlobalCounter::QuicIcmpStats, 1, ignored)?;
        return Ok(None);
    }
    let stats = quic_stats()?;
    match parse::<V6>(frame) {
        Id::Server { id, version } => {
            count_version(stats, version);
            by_server_id(id, stats, packet, vip, table)
        }
        Id::Initial => {
            stats.cid_initial += 1;
            count_server_id(vip, 1, 0);
            Ok(None)
        }
        Id::None => {
            stats.ch_routed += 1;
            Ok(None)
        }
    }
}

#[inline(always)]
fn by_server_id(
    id: u32,
    stats: &mut QuicStats,
    packet: &mut Packet<'_>,
    vip: &Vip,
    table: &SessionTable,
) -> Step<Option<&'static RealDefinition>> {
    let index = match maps::server_id_map.get(id) {
        Some(index) if *index != 0 => *index,
        _ => {
            stats.cid_invalid_server_id += 1;
            stats.cid_invalid_server_id_sample = u64::from(id);
            stats.ch_routed += 1;
            return Ok(None);
        }
    };
    packet.real_index = index;
    let Some(real) = maps::reals.get(index) else {
        stats.cid_unknown_real_dropped += 1;
        return Err(Verdict::Drop);
    };
    match session::agree(packet, table) {
        Agreement::Same => stats.dst_match_in_lru += 1,
        Agreement::Replaced => {
            stats.dst_mismatch_in_lru += 1;
            count_server_id(vip, 0, 1);
        }
        Agreement::Absent => stats.dst_not_found_in_lru += 1,
    }
    stats.cid_routed += 1;
    Ok(Some(real))
}

#[inline(always)]
fn parse<const V6: bool>(frame: &Frame) -> Id {
    let offset = transport_offset(V6) + UdpHeader::LEN;
    let Some(first) = frame.get::<u8>(offset) else {
        return Id::None;
    };
    if first & LONG_HEADER == 0 {
        return match frame.get::<[u8; 1 + CID_LEN]>(offset) {
            Some([_, cid @ ..]) => server_id(cid),
            None => Id::None,
        };
    }
    let Some(header) = frame.get::<[u8; LONG_CID_OFFSET + CID_LEN]>(offset) else {
        return Id::None;
    };
    if header[0] & TYPE_MASK < HANDSHAKE {
        return Id::Initial;
    }
    if header[LONG_CID_LEN_OFFSET] < consts::QUIC_MIN_CONNID_LEN {
        return Id::None;
    }
    let [_, _, _, _, _, _, cid @ ..] = header;
    server_id(cid)
}

/// The server id in a connection id, whose first two bits are its version.
///
/// katran keeps the id in a signed integer and takes only positive ones, so half of version 3's ids do not route.
#[inline(always)]
fn server_id(cid: &[u8; CID_LEN]) -> Id {
    let version = cid[0] >> 6;
    let id = match version {
        1 => u32::from(cid[0] & 0x3f) << 10 | u32::from(cid[1]) << 2 | u32::from(cid[2]) >> 6,
        2 => u32::from_be_bytes([0, cid[1], cid[2], cid[3]]),
        3 => u32::from_be_bytes([cid[1], cid[2], cid[3], cid[4]]),
        _ => 0,
    };
    if id as i32 > 0 {
        Id::Server { id, version }
    } else {
        Id::None
    }
}

#[inline(always)]
fn quic_stats() -> Step<&'static mut QuicStats> {
    let stats = maps::quic_stats_map.get_ptr_mut(0).ok_or(Verdict::Drop)?;
    // SAFETY: a per-CPU value, which no other run on this CPU interrupts, and `route` takes it once.
    Ok(unsafe { &mut *stats })
}

#[inline(always)]
fn count_version(stats: &mut QuicStats, version: u8) {
    match version {
        1 => stats.cid_v1 += 1,
        2 => stats.cid_v2 += 1,
        3 => stats.cid_v3 += 1,
        _ => stats.cid_v0 += 1,
    }
}

/// Counts for the VIP: new connections, and sessions that disagreed with a server id.
#[inline(always)]
fn count_server_id(vip: &Vip, new: u64, mismatch: u64) {
    let _ = counters::add_to(&maps::server_id_stats, vip.meta.vip_num, new, mismatch);
}
