//! What a change can be refused for.

use std::net::IpAddr;

use squalus_maglev::RingError;

use crate::types::VipKey;

/// Why a change was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// Not an IP address.
    #[error("`{0}` is no IP address; write it as 10.0.0.1 or fc00::1")]
    Address(String),
    /// Not a MAC address.
    #[error("`{0}` is no MAC address; write it as 00:00:00:00:00:01")]
    Mac(String),
    /// The VIP is there already.
    #[error("VIP {0} exists already; modify it, or delete it first")]
    VipExists(VipKey),
    /// There is no such VIP.
    #[error("there is no VIP {0}; add it first")]
    NoVip(VipKey),
    /// All VIP numbers are taken.
    #[error("all {max} VIPs are in use; delete one first")]
    VipsExhausted {
        /// How many there can be.
        max: u32,
    },
    /// Nothing refers to such a real.
    #[error("there is no real {0}; add it to a VIP first")]
    NoReal(IpAddr),
    /// The real serves other VIPs only.
    #[error("VIP {vip} has no real {real}")]
    NotOfVip {
        /// The real.
        real: IpAddr,
        /// The VIP.
        vip: VipKey,
    },
    /// All indices of reals are taken.
    #[error("no room for real {real}: all {max} reals are in use")]
    RealsExhausted {
        /// The real that found no place.
        real: IpAddr,
        /// How many there can be.
        max: u32,
    },
    /// A server id that the program cannot look up.
    #[error("server id {id} is above {max}; larger ones need connection id version 3")]
    ServerIdRange {
        /// The id.
        id: u32,
        /// The largest one.
        max: u32,
    },
    /// No real has this server id.
    #[error("no real has server id {0}")]
    NoServerId(u32),
    /// The server id is another real's.
    #[error("server id {id} belongs to real {owner}, not {given}")]
    ServerIdOfOther {
        /// The id.
        id: u32,
        /// Whose it is.
        owner: IpAddr,
        /// Who was given.
        given: IpAddr,
    },
    /// The ring size cannot be.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The configured numbers of VIPs and reals don't fit the maps' 32-bit keys, or leave no room.
    #[error(
        "{max_vips} VIPs and {max_reals} reals cannot be: \
         there must be 1 to 32768 VIPs and 2 to 65536 reals (index 0 is none)"
    )]
    Limits {
        /// VIPs asked for.
        max_vips: u32,
        /// Reals asked for.
        max_reals: u32,
    },
}
