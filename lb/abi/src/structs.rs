//! The structs of katran's `balancer_structs.h` and its siblings, with their offsets.

use crate::{
    addr::{Address, Be16},
    layout::{Layout, layouts},
};

layouts! {
    /// The flow a packet belongs to: key of the session tables (`flow_key`).
    ///
    /// For an ICMP error it is the flow of the embedded packet seen from the client's side.
    FlowKey[40] {
        /// Client address.
        0 pub src: Address,
        /// VIP address.
        16 pub dst: Address,
        /// Client port.
        32 pub src_port: Be16,
        /// VIP port; zero for any-port VIPs that ignore it.
        34 pub dst_port: Be16,
        /// IP protocol.
        36 pub proto: u8,
        /// Zero.
        37 pub pad: [u8; 3],
    }

    /// Identity of a VIP: key of `vip_map` (`vip_definition`).
    VipDefinition[20] {
        /// VIP address.
        0 pub vip: Address,
        /// Port; zero means any.
        16 pub port: Be16,
        /// IP protocol.
        18 pub proto: u8,
        /// Zero.
        19 pub pad: u8,
    }

    /// What the program knows of a VIP: value of `vip_map` (`vip_meta`).
    VipMeta[8] {
        /// See [`crate::flags`].
        0 pub flags: u32,
        /// Position of the VIP's ring and counters.
        4 pub vip_num: u32,
    }

    /// Key of `vip_lpm_map`, for VIPs that are IPv6 prefixes (`vip_lpm_key`).
    VipLpmKey[24] {
        /// Bits to match: 32 for port, protocol and padding, plus those of the prefix.
        0 pub prefix_len: u32,
        /// Port; zero means any.
        4 pub port: Be16,
        /// IP protocol.
        6 pub proto: u8,
        /// Zero.
        7 pub pad: u8,
        /// Prefix.
        8 pub addr: Address,
    }

    /// A real server: value of `reals` (`real_definition`); also an own source address in `pckt_srcs`.
    RealDefinition[20] {
        /// Address.
        0 pub dst: Address,
        /// See [`crate::flags`].
        16 pub flags: u8,
        /// Zero.
        17 pub pad: [u8; 3],
    }

    /// A session's real: value of the session tables (`real_pos_lru`).
    RealPosLru[16] {
        /// Index of the real in `reals`.
        0 pub pos: u32,
        /// Zero.
        4 pub pad: u32,
        /// Time of the last packet, in nanoseconds of the monotonic clock; only UDP sets it.
        8 pub atime: u64,
    }

    /// Value of `ctl_array` (`ctl_value`): a MAC address, an interface index or a number, in the first bytes.
    CtlValue[8] {
        /// The bytes, of which a MAC address takes six.
        0 value: u64,
    }

    /// A pair of counters (`lb_stats`); [`crate::GlobalCounter`] says what each counts.
    LbStats[16] {
        /// First counter, packets in most places.
        0 pub v1: u64,
        /// Second counter, bytes in most places.
        8 pub v2: u64,
    }

    /// Key of `lpm_src_v4` (`v4_lpm_key`).
    V4LpmKey[8] {
        /// Bits to match.
        0 pub prefix_len: u32,
        /// Address as it is in memory, in network byte order.
        4 pub addr: [u8; 4],
    }

    /// Key of `lpm_src_v6` (`v6_lpm_key`).
    V6LpmKey[20] {
        /// Bits to match.
        0 pub prefix_len: u32,
        /// Address.
        4 pub addr: Address,
    }

    /// Header of an introspection event (`event_metadata`).
    EventMetadata[12] {
        /// Kind of event.
        0 pub event: u32,
        /// Bytes of the packet.
        4 pub pkt_size: u32,
        /// Bytes of the packet that follow.
        8 pub data_len: u32,
    }

    /// Who encapsulated a flow's packets (`flow_debug_info`).
    FlowDebugInfo[32] {
        /// Outer source.
        0 pub l4_hop: Address,
        /// Outer destination.
        16 pub this_hop: Address,
    }

    /// Counters of QUIC VIPs: value of `quic_stats_map` (`lb_quic_packets_stats`).
    QuicStats[104] {
        /// Packets without a usable server id, left to the session table or the ring.
        0 pub ch_routed: u64,
        /// Initial and 0-RTT packets.
        8 pub cid_initial: u64,
        /// Server ids that map to no real.
        16 pub cid_invalid_server_id: u64,
        /// One such id.
        24 pub cid_invalid_server_id_sample: u64,
        /// Packets routed by their server id.
        32 pub cid_routed: u64,
        /// Packets dropped since the server id's real is out of range.
        40 pub cid_unknown_real_dropped: u64,
        /// Server ids of an unknown connection id version.
        48 pub cid_v0: u64,
        /// Server ids of connection id version 1.
        56 pub cid_v1: u64,
        /// Server ids of connection id version 2.
        64 pub cid_v2: u64,
        /// Server ids of connection id version 3.
        72 pub cid_v3: u64,
        /// The session table had the server id's real.
        80 pub dst_match_in_lru: u64,
        /// The session table had another real.
        88 pub dst_mismatch_in_lru: u64,
        /// The session table had no entry.
        96 pub dst_not_found_in_lru: u64,
    }

    /// Counters of TCP server id routing: value of `tpr_stats_map` (`lb_tpr_packets_stats`).
    TprStats[32] {
        /// Packets without a usable option.
        0 pub ch_routed: u64,
        /// The session table had another real.
        8 pub dst_mismatch_in_lru: u64,
        /// Packets routed by their server id.
        16 pub sid_routed: u64,
        /// SYN packets.
        24 pub tcp_syn: u64,
    }

    /// Counters of UDP stable routing: value of `stable_rt_stats` (`lb_stable_rt_packets_stats`).
    StableRoutingStats[40] {
        /// Packets without a usable id.
        0 pub ch_routed: u64,
        /// Packets routed by their id.
        8 pub cid_routed: u64,
        /// Ids that map to no real.
        16 pub cid_invalid_server_id: u64,
        /// Packets whose id's real is out of range.
        24 pub cid_unknown_real_dropped: u64,
        /// Packets without the stable routing header.
        32 pub invalid_packet_type: u64,
    }

    /// A real to health-check: value of `hc_reals_map` (`hc_real_definition`).
    HcReal[20] {
        /// Address. The tunnel-based program of katran wants an IPv4 address in host order here.
        0 pub daddr: Address,
        /// Bit 0: IPv6.
        16 pub flags: u8,
        /// Zero.
        17 pub pad: [u8; 3],
    }

    /// Counters of health-check forwarding: value of `hc_stats_map` (`hc_stats`).
    HcStats[48] {
        /// Packets encapsulated.
        0 pub processed: u64,
        /// Packets dropped.
        8 pub dropped: u64,
        /// Packets left alone.
        16 pub skipped: u64,
        /// Packets too big.
        24 pub too_big: u64,
        /// Packets matched by destination.
        32 pub dst_matched: u64,
        /// Packets matched by source.
        40 pub src_matched: u64,
    }

    /// Key of `hc_key_map` (`hc_key`).
    HcKey[20] {
        /// Address.
        0 pub addr: Address,
        /// Port.
        16 pub port: Be16,
        /// IP protocol.
        18 pub proto: u8,
        /// Zero.
        19 pub pad: u8,
    }

    /// Key of `hc_dst_reals_map` and `hc_src_reals_map` (`hc_dst_key`, `hc_src_key`).
    HcDstKey[20] {
        /// Address.
        0 pub addr: Address,
        /// Port; zero means any.
        16 pub port: Be16,
        /// Bit 0: IPv6.
        18 pub flags: u8,
        /// Zero.
        19 pub pad: u8,
    }

    /// Counters of the decapsulating program on a real: value of `decap_counters` (`decap_stats`).
    DecapCounters[40] {
        /// Packets with an outer IPv4 header decapsulated.
        0 pub decap_v4: u64,
        /// Packets with an outer IPv6 header decapsulated.
        8 pub decap_v6: u64,
        /// Packets seen.
        16 pub total: u64,
        /// TCP packets for another server.
        24 pub tpr_misrouted: u64,
        /// TCP packets with a server id.
        32 pub tpr_total: u64,
    }
}

impl CtlValue {
    /// A MAC address, as `ctl_array[0]` holds the default router's.
    pub const fn mac(mac: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = mac;
        Self {
            value: u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]),
        }
    }

    /// A number, as the introspection gate is.
    pub const fn number(value: u64) -> Self {
        Self { value }
    }

    /// The first six bytes as a MAC address.
    #[inline(always)]
    pub const fn as_mac(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.value.to_ne_bytes();
        [a, b, c, d, e, f]
    }

    /// All bytes as a number.
    #[inline(always)]
    pub const fn as_number(&self) -> u64 {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_is_the_bytes_katran_writes() {
        let vip = VipDefinition {
            vip: Address::from_v4([10, 200, 1, 1]),
            port: Be16::from_host(80),
            proto: 17,
            pad: 0,
        };
        let mut want = [0; 20];
        want[..4].copy_from_slice(&[10, 200, 1, 1]);
        want[16..19].copy_from_slice(&[0, 80, 17]);
        assert_eq!(vip.to_bytes(), want);
        assert_eq!(VipDefinition::from_bytes(&want), Some(vip));
    }

    #[test]
    fn a_session_keeps_position_and_time_apart() {
        let entry = RealPosLru {
            pos: 0x0102_0304,
            pad: 0,
            atime: 0x1112_1314_1516_1718,
        };
        let bytes = entry.to_bytes();
        assert_eq!(bytes[..4], 0x0102_0304_u32.to_ne_bytes());
        assert_eq!(bytes[4..8], [0; 4]);
        assert_eq!(bytes[8..], 0x1112_1314_1516_1718_u64.to_ne_bytes());
        assert_eq!(RealPosLru::from_bytes(&bytes), Some(entry));
    }

    #[test]
    fn a_wrong_length_is_no_value() {
        assert_eq!(VipMeta::from_bytes(&[0; 7]), None);
        assert_eq!(VipMeta::from_bytes(&[0; 9]), None);
        assert_eq!(Layout::to_bytes::<9>(&VipMeta::default()), None);
    }

    #[test]
    fn a_mac_address_survives() {
        let mac = [0xb8, 0x3f, 0xd2, 0x2a, 0xe5, 0x11];
        let value = CtlValue::mac(mac);
        assert_eq!(value.as_mac(), mac);
        assert_eq!(value.to_bytes(), [0xb8, 0x3f, 0xd2, 0x2a, 0xe5, 0x11, 0, 0]);
        assert_eq!(CtlValue::number(1).as_number(), 1);
    }

    #[test]
    fn every_byte_of_every_struct_is_part_of_a_field() {
        fn check<T: Layout>() {
            let mut bytes = [0_u8; 128];
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = i as u8 ^ 0x5a;
            }
            let mut back = [0; 128];
            T::read_from(&bytes).write_to(&mut back);
            assert_eq!(
                bytes[..T::SIZE],
                back[..T::SIZE],
                "{}",
                core::any::type_name::<T>()
            );
        }
        check::<FlowKey>();
        check::<VipDefinition>();
        check::<VipMeta>();
        check::<VipLpmKey>();
        check::<RealDefinition>();
        check::<RealPosLru>();
        check::<CtlValue>();
        check::<LbStats>();
        check::<V4LpmKey>();
        check::<V6LpmKey>();
        check::<EventMetadata>();
        check::<FlowDebugInfo>();
        check::<QuicStats>();
        check::<TprStats>();
        check::<StableRoutingStats>();
        check::<HcReal>();
        check::<HcStats>();
        check::<HcKey>();
        check::<HcDstKey>();
        check::<DecapCounters>();
    }
}
