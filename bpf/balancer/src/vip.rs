//! Which VIP a packet is for.

use squalus_abi::{Address, Be16, VipDefinition, VipMeta, flags};
use squalus_bpf_net::{Step, Verdict};

use crate::{
    maps,
    packet::{Packet, StackKey},
};

/// The VIP a packet is for.
pub struct Vip {
    /// Its identity: the port is zero if it takes any.
    pub key: StackKey<VipDefinition>,
    /// Its number and flags.
    pub meta: &'static VipMeta,
}

impl Vip {
    /// Whether a flag is set.
    #[inline(always)]
    pub fn has(&self, flag: u32) -> bool {
        self.meta.flags & flag != 0
    }
}

/// Finds the VIP by address, protocol and port, then without port. Packets for no VIP are passed up.
#[inline(always)]
pub fn lookup<const V6: bool>(packet: &mut Packet<'_>) -> Step<Vip> {
    let flow = &*packet.flow;
    let vip = if V6 {
        flow.dst
    } else {
        Address::from_v4_word(flow.dst.words()[0])
    };
    let mut key = StackKey(VipDefinition {
        vip,
        port: flow.dst_port,
        proto: flow.proto,
        pad: 0,
    });
    if let Some(meta) = find(&key.0) {
        return Ok(Vip { key, meta });
    }
    key.0.port = Be16::ZERO;
    let meta = find(&key.0).ok_or(Verdict::Pass)?;
    let vip = Vip { key, meta };
    if !vip.has(flags::VIP_HASH_DPORT_ONLY | flags::VIP_HASH_SRC_DST_PORT) {
        // All ports of a client go to the same real.
        packet.flow.dst_port = Be16::ZERO;
    }
    Ok(vip)
}

#[inline(always)]
fn find(key: &VipDefinition) -> Option<&'static VipMeta> {
    // SAFETY: only the control plane writes, replacing whole entries; a torn read is as harmless as in katran.
    unsafe { maps::vip_map.get(key) }
}

/// Counts a session miss for its real, if this is the VIP whose misses are logged.
#[inline(always)]
pub fn count_miss<const V6: bool>(vip: &Vip, real_index: u32) -> Step<()> {
    let logged = maps::vip_miss_stats.get(0).ok_or(Verdict::Drop)?;
    let same_address = if V6 {
        logged.vip == vip.key.0.vip
    } else {
        logged.vip.words()[0] == vip.key.0.vip.words()[0]
    };
    if same_address && logged.port == vip.key.0.port && logged.proto == vip.key.0.proto {
        let misses = maps::lru_miss_stats
            .get_ptr_mut(real_index)
            .ok_or(Verdict::Drop)?;
        // SAFETY: a per-CPU value, which no other run on this CPU interrupts.
        unsafe { *misses = (*misses).wrapping_add(1) };
    }
    Ok(())
}
