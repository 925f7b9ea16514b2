//! What is known of the packet being processed.

use squalus_abi::FlowKey;

/// A packet's description, completed step by step.
pub struct Packet {
    /// The flow, as the session table's key. Its address must be a multiple of 8 on the BPF stack.
    pub flow: FlowKey,
    /// Index of the chosen real, zero before.
    pub real_index: u32,
    /// Length in the IP header: of the whole packet for IPv4, of the payload for IPv6.
    pub ip_len: u16,
    /// Type of service or traffic class.
    pub tos: u8,
    /// The flow is that of the packet embedded in an ICMP error.
    pub icmp: bool,
    /// TCP SYN.
    pub syn: bool,
    /// TCP RST.
    pub rst: bool,
}
