//! Session tables: which real a flow was sent to before.

#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "a key passed by value would be copied on the stack"
)]

use aya_ebpf::helpers::bpf_ktime_get_ns;
use squalus_abi::{GlobalCounter, RealDefinition, RealPosLru, consts, flags};
use squalus_bpf_net::{Step, ip_proto};

use crate::{
    counters,
    maps::{self, SessionTable},
    packet::Packet,
    tunables,
    vip::Vip,
};

/// What a server id's real was compared with in the session table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// The table has the same real.
    Same,
    /// The table had another one, now replaced.
    Replaced,
    /// The table had none; it is inserted, unless new connections come too fast.
    Absent,
}

/// A new connection, as the rate guard sees it.
pub struct Arrival {
    /// Connections come too fast: spare the session table.
    pub flood: bool,
    /// Nanoseconds of the monotonic clock.
    pub now: u64,
}

/// The real of the packet's session. UDP sessions age, and each packet renews them.
#[inline(always)]
pub fn lookup(packet: &mut Packet<'_>, table: &SessionTable) -> Option<&'static RealDefinition> {
    let entry = table.get_ptr_mut(&*packet.flow)?;
    if packet.flow.proto == ip_proto::UDP {
        let now = now();
        // SAFETY: entries are reused but never unmapped while programs run. In the fallback table other CPUs may
        // write at the same time; either value will do.
        let age = now.wrapping_sub(unsafe { (*entry).atime });
        if age > tunables::udp_timeout_ns() {
            return None;
        }
        // SAFETY: as above.
        unsafe { (*entry).atime = now };
    }
    // SAFETY: as above.
    packet.real_index = unsafe { (*entry).pos };
    maps::reals.get(packet.real_index)
}

/// Remembers the packet's real. Only UDP sessions carry a time.
#[inline(always)]
pub fn insert(packet: &Packet<'_>, table: &SessionTable, atime: u64) {
    let entry = RealPosLru {
        pos: packet.real_index,
        pad: 0,
        atime,
    };
    // A table that refuses costs this flow a hash next time, nothing more.
    let _ = table.insert(&*packet.flow, &entry, 0);
}

/// Makes the session table agree with a real that was chosen by server id.
///
/// The entry gets no time, so a UDP flow that loses its server id is soon a miss; katran does the same.
#[inline(always)]
pub fn agree(packet: &Packet<'_>, table: &SessionTable) -> Agreement {
    if let Some(entry) = table.get_ptr_mut(&*packet.flow) {
        // SAFETY: as in `lookup`.
        if unsafe { (*entry).pos } == packet.real_index {
            return Agreement::Same;
        }
        // SAFETY: as in `lookup`.
        unsafe { (*entry).pos = packet.real_index };
        return Agreement::Replaced;
    }
    if !under_flood() {
        insert(packet, table, 0);
    }
    Agreement::Absent
}

/// Whether the packet's real is marked down for a VIP that moves its UDP flows away then.
///
/// A packet without a session asks for real 0, which is never down unless somebody wrote it so.
#[inline(always)]
pub fn real_is_down(packet: &Packet<'_>, vip: &Vip) -> bool {
    if packet.flow.proto != ip_proto::UDP
        || !vip.has(flags::VIP_UDP_FLOW_MIGRATION)
        || under_flood()
    {
        return false;
    }
    // SAFETY: an inner map lives until no program can use it any more.
    let Some(down) = (unsafe { maps::vip_to_down_reals_map.get(&vip.key.0) }) else {
        return false;
    };
    if down.get_ptr(&packet.real_index).is_none() {
        return false;
    }
    let _ = counters::add(GlobalCounter::UdpFlowMigrationStats, 1, 0);
    true
}

/// Counts a new connection against this CPU's limit for the current second.
#[inline(always)]
pub fn arrival() -> Step<Arrival> {
    let guard = counters::get(GlobalCounter::NewConnRateCntr)?;
    let now = now();
    let flood = if now.wrapping_sub(guard.v2) > consts::ONE_SEC_NS {
        guard.v1 = 1;
        guard.v2 = now;
        false
    } else {
        guard.v1 += 1;
        guard.v1 > tunables::max_conn_rate()
    };
    Ok(Arrival { flood, now })
}

#[inline(always)]
fn under_flood() -> bool {
    arrival().map_or(true, |arrival| arrival.flood)
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
