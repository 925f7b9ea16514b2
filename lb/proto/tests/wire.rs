//! Bytes on the wire, written by hand from katran's message definitions.

use prost::Message;
use squalus_proto::katran::{
    Action, Bool, Flags, HcMap, Healthcheck, Mac, ModifiedQuicReals, ModifiedRealsForVip, QuicReal,
    QuicReals, Real, RealForVip, RealMeta, Reals, Somark, Stats, Vip, VipMeta, Vips,
};

fn vip() -> Vip {
    Vip {
        address: "1.2.3.4".into(),
        port: 80,
        protocol: 6,
    }
}

fn real() -> Real {
    Real {
        address: "5".into(),
        weight: 3,
        flags: 2,
    }
}

const VIP: &[u8] = b"\x0a\x071.2.3.4\x10\x50\x18\x06";
const REAL: &[u8] = b"\x0a\x015\x10\x03\x18\x02";

/// A length-delimited field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2, content.len() as u8];
    out.extend(content);
    out
}

fn check<M: Message + Default + PartialEq + std::fmt::Debug>(message: M, bytes: &[u8]) {
    assert_eq!(message.encode_to_vec(), bytes, "{message:?}");
    assert_eq!(M::decode(bytes).expect("decodes"), message);
}

#[test]
fn scalars() {
    check(Bool { success: true }, b"\x08\x01");
    check(Mac { mac: "m".into() }, b"\x0a\x01m");
    check(Stats { v1: 1, v2: 300 }, b"\x08\x01\x10\xac\x02");
    check(Somark { somark: 7 }, b"\x08\x07");
    check(
        Healthcheck {
            somark: 7,
            address: "a".into(),
        },
        b"\x08\x07\x12\x01a",
    );
    check(
        QuicReal {
            address: "a".into(),
            id: 9,
        },
        b"\x0a\x01a\x10\x09",
    );
    let minus_one = b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    check(Flags { flags: u64::MAX }, minus_one);
    check(vip(), VIP);
    check(real(), REAL);
    let meta = RealMeta {
        address: "a".into(),
        flags: 2,
        set_flag: true,
    };
    check(meta, b"\x0a\x01a\x10\x02\x18\x01");
}

#[test]
fn nested() {
    let meta = VipMeta {
        vip: Some(vip()),
        flags: 4,
        set_flag: true,
    };
    check(
        meta,
        &[field(1, VIP), b"\x10\x04\x18\x01".to_vec()].concat(),
    );
    check(
        Vips {
            vips: vec![vip(), vip()],
        },
        &[field(1, VIP), field(1, VIP)].concat(),
    );
    check(
        Reals {
            reals: vec![real()],
        },
        &field(1, REAL),
    );
    let one = RealForVip {
        real: Some(real()),
        vip: Some(vip()),
    };
    check(one, &[field(1, REAL), field(2, VIP)].concat());
    let batch = ModifiedRealsForVip {
        action: Action::Del.into(),
        real: Some(Reals {
            reals: vec![real()],
        }),
        vip: Some(vip()),
    };
    check(
        batch,
        &[
            b"\x08\x01".to_vec(),
            field(2, &field(1, REAL)),
            field(3, VIP),
        ]
        .concat(),
    );
    let quic = ModifiedQuicReals {
        action: Action::Add.into(),
        reals: Some(QuicReals {
            qreals: vec![QuicReal {
                address: "a".into(),
                id: 9,
            }],
        }),
    };
    check(quic, &field(2, &field(1, b"\x0a\x01a\x10\x09")));
    let checks = HcMap {
        healthchecks: [(7, "a".to_owned())].into(),
    };
    check(checks, &field(1, b"\x08\x07\x12\x01a"));
}

#[test]
fn paths_of_all_calls() {
    let generated = include_str!(concat!(env!("OUT_DIR"), "/lb.katran.rs"));
    let calls = [
        "changeMac",
        "getMac",
        "addVip",
        "delVip",
        "getAllVips",
        "modifyVip",
        "modifyReal",
        "getVipFlags",
        "getRealFlags",
        "addRealForVip",
        "delRealForVip",
        "modifyRealsForVip",
        "getRealsForVip",
        "modifyQuicRealsMapping",
        "getQuicRealsMapping",
        "getStatsForVip",
        "getLruStats",
        "getLruMissStats",
        "getLruFallbackStats",
        "getIcmpTooBigStats",
        "addHealthcheckerDst",
        "delHealthcheckerDst",
        "getHealthcheckersDst",
    ];
    for call in calls {
        let path = format!("\"/lb.katran.KatranService/{call}\"");
        assert!(generated.contains(&path), "{path}");
    }
}
