//! The VIP's ring: the real for a flow without a session.

use squalus_abi::{Address, FlowKey, GlobalCounter, RealDefinition, consts, flags};
use squalus_bpf_net::{Step, Verdict, ip_proto};

use crate::{
    counters, hash,
    maps::{self, SessionTable},
    packet::Packet,
    session::{self, Arrival},
    vip::Vip,
};

/// Chooses a real by the flow's hash and inserts the session. Without a real the packet is dropped.
///
/// A VIP that hashes the destination port alone changes the flow here, and the changed flow is what is inserted, so
/// its sessions are never found. katran does the same.
#[inline(always)]
pub fn route<const V6: bool>(
    packet: &mut Packet<'_>,
    vip: &Vip,
    table: &SessionTable,
) -> Step<&'static RealDefinition> {
    let Arrival { flood, now } = session::arrival().unwrap_or(Arrival {
        flood: true,
        now: 0,
    });
    if vip.has(flags::VIP_HASH_DPORT_ONLY) {
        packet.flow.src_port = packet.flow.dst_port;
        packet.flow.src = Address::ZERO;
    }
    packet.real_index = slot::<V6>(packet.flow, vip)?;
    let Some(real) = maps::reals.get(packet.real_index) else {
        let _ = counters::add(GlobalCounter::ChDropStats, 1, 0);
        return Err(Verdict::Drop);
    };
    if !vip.has(flags::VIP_LRU_BYPASS) && !flood && !packet.rst {
        let atime = if packet.flow.proto == ip_proto::UDP {
            now
        } else {
            0
        };
        session::insert(packet, table, atime);
    }
    Ok(real)
}

/// The real in the flow's slot. Zero means that the ring was never filled.
#[inline(always)]
fn slot<const V6: bool>(flow: &FlowKey, vip: &Vip) -> Step<u32> {
    let slot = hash::flow::<V6>(flow) % consts::RING_SIZE;
    let key = vip
        .meta
        .vip_num
        .wrapping_mul(consts::RING_SIZE)
        .wrapping_add(slot);
    let real = *maps::ch_rings.get(key).ok_or(Verdict::Drop)?;
    if real == 0 {
        let _ = counters::add(GlobalCounter::ChDropStats, 0, 1);
        return Err(Verdict::Drop);
    }
    Ok(real)
}
