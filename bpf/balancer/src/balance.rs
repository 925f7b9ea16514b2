//! The order of the steps.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use squalus_abi::{Be16, GlobalCounter, RealDefinition, consts, flags};
use squalus_bpf_net::{Step, Verdict, Xdp, ip_proto};

use crate::{
    counters, encap, icmp,
    maps::{self, SessionTable},
    packet::{Packet, StackKey},
    parse, quic, ring, session, tunables,
    vip::{self, Vip},
};

/// Balances an IP packet.
#[inline(always)]
pub fn process<const V6: bool>(xdp: Xdp) -> Verdict {
    match forward::<V6>(xdp) {
        Ok(()) => Verdict::Tx,
        Err(verdict) => verdict,
    }
}

#[inline(always)]
fn forward<const V6: bool>(xdp: Xdp) -> Step<()> {
    let mut frame = xdp.frame();
    let mut key = StackKey::default();
    let mut packet = parse::network::<V6>(&frame, &mut key.0)?;
    icmp::handle::<V6>(&mut frame, &mut packet)?;
    parse::transport::<V6>(&frame, &mut packet)?;
    let vip = vip::lookup::<V6>(&mut packet)?;
    if frame.len() > u64::from(tunables::max_packet_size()) {
        return Err(Verdict::Drop);
    }

    let lru_counters = counters::get(GlobalCounter::LruCntrs)?;
    lru_counters.v1 += 1;
    if vip.has(flags::VIP_HASH_NO_SRC_PORT) {
        packet.flow.src_port = Be16::ZERO;
    }
    let table = session_table()?;
    let mut real = if vip.has(flags::VIP_QUIC) {
        quic::route::<V6>(&frame, &mut packet, &vip, table)?
    } else {
        None
    };

    // The hash step may change the port, and the outer source address depends on it.
    let src_port = packet.flow.src_port;
    if real.is_none() {
        real = known_session(&mut packet, &vip, table);
    }
    let real = match real {
        Some(real) => real,
        None => {
            let real = new_session::<V6>(&mut packet, &vip, table)?;
            lru_counters.v2 += 1;
            real
        }
    };
    packet.flow.src_port = src_port;
    send::<V6>(xdp, &packet, &vip, real)
}

/// This CPU's session table.
#[inline(always)]
fn session_table() -> Step<&'static SessionTable> {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    if let Some(table) = maps::lru_mapping.get(cpu) {
        return Ok(table);
    }
    counters::add(GlobalCounter::FallbackLruCntr, 1, 0)?;
    Ok(&maps::fallback_cache)
}

/// The real that the session table knows for this flow, unless it must not be asked or the real is down.
#[inline(always)]
fn known_session(
    packet: &mut Packet<'_>,
    vip: &Vip,
    table: &SessionTable,
) -> Option<&'static RealDefinition> {
    let mut real = None;
    if !packet.syn && !vip.has(flags::VIP_LRU_BYPASS) {
        real = session::lookup(packet, table);
    }
    if session::real_is_down(packet, vip) {
        real = None;
    }
    real
}

/// Chooses a real by hash and remembers it.
#[inline(always)]
fn new_session<const V6: bool>(
    packet: &mut Packet<'_>,
    vip: &Vip,
    table: &SessionTable,
) -> Step<&'static RealDefinition> {
    if packet.flow.proto == ip_proto::TCP {
        let (syn, other) = if packet.syn { (1, 0) } else { (0, 1) };
        counters::add(GlobalCounter::LruMissCntr, syn, other)?;
    }
    let real = ring::route::<V6>(packet, vip, table)?;
    vip::count_miss::<V6>(vip, packet.real_index)?;
    Ok(real)
}

/// Counts the packet for its VIP and real and sends it.
#[inline(always)]
fn send<const V6: bool>(
    xdp: Xdp,
    packet: &Packet<'_>,
    vip: &Vip,
    real: &RealDefinition,
) -> Step<()> {
    let router = maps::ctl_array
        .get(consts::CTL_MAC_POS)
        .ok_or(Verdict::Drop)?;
    let bytes = u64::from(packet.ip_len);
    counters::add_to(&maps::stats, vip.meta.vip_num, 1, bytes)?;
    counters::add_to(&maps::reals_stats, packet.real_index, 1, bytes)?;

    let v6 = real.flags & flags::REAL_IPV6 != 0;
    let sent = if v6 {
        encap::ipip_v6::<V6>(xdp, packet, router, real)
    } else {
        encap::ipip_v4(xdp, packet, router, real)
    };
    if let Err(verdict) = sent {
        // Counting is best effort here: the packet is lost either way.
        let (v4, v6) = if v6 { (0, 1) } else { (1, 0) };
        let _ = counters::add(GlobalCounter::EncapFailCntr, v4, v6);
        return Err(verdict);
    }
    Ok(())
}
