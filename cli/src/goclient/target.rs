//! What flags name: services, reals, mappings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use squalus_abi::flags::{
    REAL_LOCAL, VIP_HASH_DPORT_ONLY, VIP_HASH_NO_SRC_PORT, VIP_LOCAL, VIP_LRU_BYPASS, VIP_QUIC,
};
use squalus_proto::katran as proto;

/// katran's words for flags of VIPs, in the order in which they are listed.
pub(super) const VIP_FLAGS: [(&str, u32); 5] = [
    ("NO_SPORT", VIP_HASH_NO_SRC_PORT),
    ("NO_LRU", VIP_LRU_BYPASS),
    ("QUIC_VIP", VIP_QUIC),
    ("DPORT_HASH", VIP_HASH_DPORT_ONLY),
    ("LOCAL_VIP", VIP_LOCAL),
];

/// katran's words for flags of reals.
pub(super) const REAL_FLAGS: [(&str, u32); 1] = [("LOCAL_REAL", REAL_LOCAL as u32)];

/// A virtual service, and how it was spelled.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Service {
    pub vip: proto::Vip,
    pub spelled: String,
}

/// A real to add to a service or to remove from it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RealTarget {
    pub address: String,
    pub weight: i32,
    pub flags: i32,
}

/// `10.0.0.1:80` or `[fc00::1]:80`.
pub(super) fn parse_service(text: &str, protocol: i32) -> Result<Service, String> {
    let refuse =
        || format!("`{text}` is no service; write it as 192.168.1.13:5678 or [fc00::1]:80");
    let (address, port) = text.rsplit_once(':').ok_or_else(refuse)?;
    let address = match address
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
    {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => address.parse::<Ipv4Addr>().map(IpAddr::V4),
    };
    let address = address.map_err(|_| refuse())?.to_string();
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits
        .then(|| port.parse::<u16>().ok())
        .flatten()
        .ok_or_else(refuse)?;
    let vip = proto::Vip {
        address,
        port: port.into(),
        protocol,
    };
    Ok(Service {
        vip,
        spelled: text.to_owned(),
    })
}

/// An address as the server will print it.
pub(super) fn parse_address(text: &str) -> Result<String, String> {
    let address = text.parse::<IpAddr>();
    let address =
        address.map_err(|_| format!("`{text}` is no IP address; write it as 10.0.0.1 or fc00::1"));
    Ok(address?.to_string())
}

/// `10.0.0.1=1022`.
pub(super) fn parse_mapping(text: &str) -> Result<proto::QuicReal, String> {
    let refuse = || format!("`{text}` is no mapping; write it as 10.0.0.1=1022");
    let (address, id) = text.split_once('=').ok_or_else(refuse)?;
    let id = id.parse::<u32>().map_err(|_| refuse())?;
    Ok(proto::QuicReal {
        address: parse_address(address)?,
        id: id.cast_signed(),
    })
}

/// A flag's bit, by its word.
pub(super) fn parse_flag(word: &str, known: &[(&str, u32)]) -> Result<u32, String> {
    let found = known.iter().find(|(name, _)| *name == word);
    found.map(|(_, bit)| *bit).ok_or_else(|| {
        let words: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        format!("unrecognized flag: {word}; there is: {}", words.join(", "))
    })
}

/// The words of the bits that are set, as katran lists them.
pub(super) fn flag_words(flags: u64, known: &[(&str, u32)]) -> String {
    let set = known.iter().filter(|(_, bit)| flags & u64::from(*bit) != 0);
    set.map(|(name, _)| format!(" {name} ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services() {
        let parsed = |text| parse_service(text, 6).map(|s| (s.vip.address, s.vip.port));
        assert_eq!(
            parsed("192.168.1.13:5678"),
            Ok(("192.168.1.13".into(), 5678))
        );
        assert_eq!(parsed("[fc00:0::1]:80"), Ok(("fc00::1".into(), 80)));
        assert_eq!(parsed("10.0.0.1:0"), Ok(("10.0.0.1".into(), 0)));
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1:",
            ":80",
            "10.0.0.1:+80",
            "10.0.0.1:65536",
            "10.0.0.1:80:90",
            "10.0.0.256:80",
            "fc00::1:80",
            "[fc00::1]",
            "[fc00::1]80",
            "[10.0.0.1]:80",
            "[fc00::1:80",
            "[fc00::1]:x",
            "host:80",
            "10.0.0.1:-1",
        ] {
            let error = parsed(bad).expect_err(bad);
            assert!(error.contains("is no service"), "{error}");
        }
    }

    #[test]
    fn mappings() {
        let real = |id| proto::QuicReal {
            address: "10.0.0.1".into(),
            id,
        };
        assert_eq!(parse_mapping("10.0.0.1=1022"), Ok(real(1022)));
        assert_eq!(
            parse_mapping("10.0.0.1=4294967295"),
            Ok(real(-1)),
            "as the message holds it"
        );
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1=",
            "=5",
            "10.0.0.1=-1",
            "10.0.0.1=1=2",
            "x=1",
            "10.0.0.1=4294967296",
        ] {
            parse_mapping(bad).expect_err(bad);
        }
    }

    #[test]
    fn words_of_flags() {
        assert_eq!(flag_words(0, &VIP_FLAGS), "");
        assert_eq!(flag_words(3, &VIP_FLAGS), " NO_SPORT  NO_LRU ");
        let all = " NO_SPORT  NO_LRU  QUIC_VIP  DPORT_HASH  LOCAL_VIP ";
        assert_eq!(flag_words(u64::MAX, &VIP_FLAGS), all);
        assert_eq!(parse_flag("LOCAL_REAL", &REAL_FLAGS), Ok(2));
        let error = parse_flag("LOCAL", &REAL_FLAGS).expect_err("unknown");
        assert_eq!(error, "unrecognized flag: LOCAL; there is: LOCAL_REAL");
    }
}
