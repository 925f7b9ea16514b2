//! The words the balancer speaks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use squalus_abi::{Address, Be16, VipDefinition, consts};
use squalus_maglev::{HashFunction, RingSize};

use crate::error::CoreError;
use crate::op::MapOp;

/// Identity of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipKey {
    /// Address.
    pub address: IpAddr,
    /// Port in host order; 0 means any port.
    pub port: u16,
    /// IP protocol: 6 TCP, 17 UDP.
    pub proto: u8,
}

impl VipKey {
    /// The key in `vip_map` and wherever else the program names a VIP.
    #[must_use]
    pub fn definition(&self) -> VipDefinition {
        VipDefinition {
            vip: Address::from(self.address),
            port: Be16::from_host(self.port),
            proto: self.proto,
            pad: 0,
        }
    }
}

impl fmt::Display for VipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(v4) => write!(f, "{v4}:{}", self.port)?,
            IpAddr::V6(v6) => write!(f, "[{v6}]:{}", self.port)?,
        }
        match self.proto {
            6 => f.write_str("/tcp"),
            17 => f.write_str("/udp"),
            other => write!(f, "/{other}"),
        }
    }
}

/// Position of a VIP: its ring in `ch_rings` and its counters in `stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipNum(pub u32);

/// Index of a real in `reals`; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealNum(pub u32);

/// A real to add to, change at or remove from a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewReal {
    /// Address.
    pub address: IpAddr,
    /// Share of the traffic relative to the VIP's other reals; 0 drains: known sessions stay, new ones
    /// go elsewhere.
    pub weight: u32,
    /// Flags (`squalus_abi::flags::REAL_*`), used if the balancer doesn't know the real yet.
    pub flags: u8,
}

/// A real as a VIP sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealOfVip {
    /// Address.
    pub address: IpAddr,
    /// Index.
    pub num: RealNum,
    /// Weight at this VIP.
    pub weight: u32,
    /// Flags; the same at all VIPs.
    pub flags: u8,
}

/// A server id (of QUIC connection ids and the like) and the real it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerId {
    /// The id.
    pub id: u32,
    /// The real's address.
    pub address: IpAddr,
}

/// What a batch does with its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Add, or change what is there.
    Add,
    /// Remove.
    Delete,
}

/// The outcome of a batch: as in katran, items that cannot be are left out and the others take effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// What to do to the maps, in order.
    pub ops: Vec<MapOp>,
    /// Why items were left out.
    pub refused: Vec<CoreError>,
}

/// A MAC address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = CoreError;

    /// Six bytes of one or two hex digits between `:` or `-`.
    fn from_str(text: &str) -> Result<Self, CoreError> {
        let refuse = || CoreError::Mac(text.to_owned());
        let mut bytes = text.split([':', '-']).map(|part| match part.len() {
            1 | 2 if part.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u8::from_str_radix(part, 16).ok()
            }
            _ => None,
        });
        let mut mac = [0; 6];
        for byte in &mut mac {
            *byte = bytes.next().flatten().ok_or_else(refuse)?;
        }
        match bytes.next() {
            None => Ok(Mac(mac)),
            Some(_) => Err(refuse()),
        }
    }
}

/// This host's addresses for encapsulations that show them (`pckt_srcs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Outer source towards IPv4 reals.
    pub v4: Option<Ipv4Addr>,
    /// Outer source towards IPv6 reals.
    pub v6: Option<Ipv6Addr>,
}

/// What a balancer starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// MAC address of the default router, through which reals are reached.
    pub mac: Mac,
    /// How many VIPs there can be. Also the position of the first global counter in `stats`.
    pub max_vips: u32,
    /// Entries of `reals`; one less can be in use.
    pub max_reals: u32,
    /// Slots of a ring.
    pub ring_size: RingSize,
    /// How rings are filled, until changed for a VIP.
    pub hash_function: HashFunction,
    /// This host's addresses.
    pub sources: Sources,
    /// Whether server ids may have 32 bits (connection id version 3, which `server_id_map` must be a hash for).
    pub cid_v3: bool,
}

impl Default for Config {
    /// katran's sizes, and the hash function of `katran_server_grpc`.
    fn default() -> Self {
        Config {
            mac: Mac::default(),
            max_vips: consts::MAX_VIPS,
            max_reals: consts::MAX_REALS,
            ring_size: RingSize::DEFAULT,
            hash_function: HashFunction::MaglevV2,
            sources: Sources::default(),
            cid_v3: false,
        }
    }
}

/// An IP address as text, an IPv6 one also in brackets.
///
/// # Errors
/// [`CoreError::Address`].
pub fn parse_address(text: &str) -> Result<IpAddr, CoreError> {
    let bracketed = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let parsed = match bracketed {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
        None => text.parse().ok(),
    };
    parsed.ok_or_else(|| CoreError::Address(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        let mac: Mac = "b8:3f:d2:2a:e5:11".parse().unwrap();
        assert_eq!(mac.0, [0xb8, 0x3f, 0xd2, 0x2a, 0xe5, 0x11]);
        assert_eq!(mac.to_string(), "b8:3f:d2:2a:e5:11");
        assert_eq!("0-0-0-0-0-1".parse(), Ok(Mac([0, 0, 0, 0, 0, 1])));
        for bad in [
            "",
            "00:00:00:00:00",
            "00:00:00:00:00:00:00",
            "00:00:00:00:00:1g",
            "+1:0:0:0:0:0",
            "000:0:0:0:0:0",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(CoreError::Mac(bad.into())), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_address("10.0.0.1"), Ok(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(parse_address("[fc00::1]"), parse_address("fc00::1"));
        for bad in [
            "",
            "10.0.0",
            "10.0.0.256",
            "[10.0.0.1]",
            "fc00::1%eth0",
            "[fc00::1",
            "aaa",
        ] {
            assert_eq!(
                parse_address(bad),
                Err(CoreError::Address(bad.into())),
                "{bad}"
            );
        }
    }

    #[test]
    fn vips_print_as_one_types_them() {
        let vip = |address: &str, port, proto| {
            VipKey {
                address: address.parse().unwrap(),
                port,
                proto,
            }
            .to_string()
        };
        assert_eq!(vip("10.200.1.1", 80, 6), "10.200.1.1:80/tcp");
        assert_eq!(vip("fc00::1", 0, 17), "[fc00::1]:0/udp");
        assert_eq!(vip("fc00::1", 0, 132), "[fc00::1]:0/132");
    }
}
