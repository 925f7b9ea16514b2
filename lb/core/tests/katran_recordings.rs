//! katran's own control plane, recorded: the same calls must write the same bytes and build the same rings.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use common::{ip, vip};
use flate2::read::GzDecoder;
use serde_json::Value;
use squalus_core::{
    Action, Balancer, Change, Config, CoreError, HashFunction, MapOp, NewReal, RealNum, ServerId,
    VipKey,
};

/// The recordings made with base features only.
const RECORDINGS: [&str; 7] = [
    "ipip",
    "ipip_local",
    "ipip_glru",
    "gue",
    "gue_stable_rt",
    "tpr",
    "tpr_gue",
];

fn recording(name: &str) -> Option<Value> {
    let (directory, demanded) = match std::env::var_os("SQUALUS_KATRAN_CORPUS") {
        Some(directory) => (PathBuf::from(directory), true),
        None => {
            let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
            (root.join("../shared/katran-corpus"), false)
        }
    };
    let path = directory.join(format!("{name}.json.gz"));
    match File::open(&path) {
        Ok(file) => Some(serde_json::from_reader(GzDecoder::new(file)).expect("JSON")),
        Err(error) if demanded => panic!("SQUALUS_KATRAN_CORPUS: {}: {error}", path.display()),
        Err(_) => {
            eprintln!("SKIPPED: no recordings of katran here; set SQUALUS_KATRAN_CORPUS to them");
            None
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn number(value: &Value) -> u32 {
    value
        .as_u64()
        .and_then(|n| n.try_into().ok())
        .expect("a u32")
}

fn flat_key(op: &Value) -> VipKey {
    vip(
        text(&op["address"]),
        number(&op["port"]) as u16,
        number(&op["proto"]) as u8,
    )
}

fn listed_key(value: &Value) -> VipKey {
    vip(
        text(&value[0]),
        number(&value[1]) as u16,
        number(&value[2]) as u8,
    )
}

fn provision(lb: &mut Balancer, op: &Value) -> Result<Vec<MapOp>, CoreError> {
    let whole = |change: Change| {
        assert_eq!(change.refused, [], "{op}");
        change.ops
    };
    match text(&op["op"]) {
        "addVip" => lb.add_vip(flat_key(op), number(&op["flags"])),
        "modifyVip" => lb.modify_vip(
            flat_key(op),
            number(&op["flag"]),
            op["set"].as_bool().expect("a bool"),
        ),
        "addReal" => {
            let address = ip(text(&op["real"]));
            let real = NewReal {
                address,
                weight: number(&op["weight"]),
                flags: 0,
            };
            lb.modify_reals(Action::Add, &[real], listed_key(&op["vip"]))
                .map(whole)
        }
        "modifyReal" => {
            let set = op["set"].as_bool().expect("a bool");
            lb.modify_real(ip(text(&op["address"])), number(&op["flags"]) as u8, set)
        }
        "addServerId" => {
            let id = ServerId {
                id: number(&op["id"]),
                address: ip(text(&op["address"])),
            };
            Ok(whole(lb.modify_server_ids(Action::Add, &[id])))
        }
        "addDownReal" => {
            lb.add_down_real(listed_key(&op["vip"]), RealNum(number(&op["realIndex"])))
        }
        "addHealthcheckerDst" => Ok(Vec::new()),
        other => panic!("unknown call {other}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An operation as the recording writes it; ring writes and the creation of inner maps are not in it.
fn as_recorded(op: &MapOp) -> Option<(String, String, String)> {
    // The kernel keeps 15 characters of a map's name, and inner maps of down reals have none.
    let cut = |name: &str| name.chars().take(15).collect::<String>();
    match op {
        MapOp::Update { map, key, value } => Some((cut(map), hex(key), hex(value))),
        MapOp::UpdateInner { key, value, .. } => Some((String::new(), hex(key), hex(value))),
        MapOp::UpdateBatch { .. } | MapOp::CreateInner { .. } => None,
        other => panic!("unexpected {other:?}"),
    }
}

/// katran writes the server ids of one call in the order of a hash table: sort neighbours among them.
fn in_comparable_order(mut writes: Vec<(String, String, String)>) -> Vec<(String, String, String)> {
    let is_id = |write: &(String, String, String)| write.0 == "server_id_map";
    for run in writes.chunk_by_mut(|a, b| is_id(a) && is_id(b)) {
        run.sort();
    }
    writes
}

fn check(name: &str, recording: &Value) {
    let config = Config {
        hash_function: HashFunction::MaglevV1,
        ..Config::default()
    };
    let mut lb = Balancer::new(config).expect("katran's limits");
    let mut written = Vec::new();
    let phase = &recording["phases"][0];
    for op in phase["provisioning_ops"].as_array().expect("calls") {
        let ops = provision(&mut lb, op).unwrap_or_else(|error| panic!("{name}: {op}: {error}"));
        written.extend(ops.iter().filter_map(as_recorded));
    }
    let expected: Vec<_> = phase["map_writes"]
        .as_array()
        .expect("writes")
        .iter()
        .map(|w| (text(&w[0]).into(), text(&w[1]).into(), text(&w[2]).into()))
        // The outer entry holds the inner map's file descriptor: no business of ours.
        .filter(|(map, _, _): &(String, String, String)| map != "vip_to_down_rea")
        .collect();
    assert_eq!(
        in_comparable_order(written),
        in_comparable_order(expected),
        "{name}"
    );
    for state in phase["state"]["vips"].as_array().expect("VIPs") {
        check_vip(name, &lb, state);
    }
    for (num, address) in phase["state"]["real_index"].as_object().expect("indices") {
        assert_eq!(
            lb.real_num(ip(text(address))),
            Some(RealNum(num.parse().expect("an index")))
        );
    }
}

fn check_vip(name: &str, lb: &Balancer, state: &Value) {
    let spelled = text(&state["vip"]);
    let mut parts = spelled.rsplitn(3, ':');
    let mut next = || parts.next().expect("address:port:protocol");
    let (proto, port, address) = (next(), next(), next());
    let key = vip(
        address,
        port.parse().expect("a port"),
        proto.parse().expect("a protocol"),
    );
    assert_eq!(
        lb.vip_num(&key).map(|n| n.0),
        Some(number(&state["vip_num"])),
        "{name} {key}"
    );
    assert_eq!(
        lb.vip_flags(&key),
        Some(number(&state["flags"])),
        "{name} {key}"
    );
    let first: Vec<u32> = state["first32"]
        .as_array()
        .expect("slots")
        .iter()
        .map(number)
        .collect();
    let Some(ring) = lb.ring(&key) else {
        assert!(first.iter().all(|&num| num == 0), "{name} {key} has a ring");
        return;
    };
    assert_eq!(ring[..first.len()], first, "{name} {key}");
    let mut slots = BTreeMap::<String, u32>::new();
    for num in ring {
        *slots.entry(num.to_string()).or_default() += 1;
    }
    let expected = state["slots_per_real_index"]
        .as_object()
        .expect("slots per real");
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(k, v)| (k.clone(), number(v)))
        .collect();
    assert_eq!(slots, expected, "{name} {key}");
}

#[test]
fn the_same_calls_write_the_same_bytes() {
    for name in RECORDINGS {
        if let Some(recording) = recording(name) {
            check(name, &recording);
        }
    }
}
