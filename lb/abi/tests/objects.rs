//! The committed objects have the maps, layouts and defaults that this crate says they have.

use squalus_abi::{
    DecapCounters, FlowKey, LbStats, QuicStats, RealDefinition, RealPosLru, VipDefinition, VipMeta,
    consts,
    maps::{self, MapSpec, Presence},
};
use squalus_object::{Object, ProgramKind};

fn object(name: &str) -> Object {
    let path = format!("{}/../../bpf/objects/{name}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).expect("the objects are committed");
    Object::parse(&bytes).expect("the objects are valid")
}

fn balancer() -> Object {
    object("balancer.bpf.o")
}

#[test]
fn programs_have_the_names_loaders_look_for() {
    for (file, name) in [
        ("balancer.bpf.o", consts::BALANCER_PROGRAM),
        ("decap.bpf.o", "xdpdecap"),
    ] {
        let object = object(file);
        assert!(object.refused.is_empty());
        assert_eq!(object.license, "Dual MIT/GPL");
        let program = object.program(name).expect(name);
        assert_eq!(program.kind, ProgramKind::Xdp { frags: false });
        assert_eq!(program.section, "xdp");
        let functions: Vec<_> = program.subprograms.iter().map(|s| &*s.name).collect();
        assert_eq!(
            functions,
            [name],
            "everything is inlined, and nothing panics"
        );
    }
}

#[test]
fn the_balancer_has_the_maps_of_katrans_default_build() {
    let object = balancer();
    for spec in maps::BALANCER {
        let found = object.map(spec.name);
        if spec.presence != Presence::Always {
            assert!(found.is_none(), "{} belongs to a feature", spec.name);
            continue;
        }
        let def = &found.expect(spec.name).def;
        assert_same(spec, def);
    }
    let inner = |name| object.map(name).and_then(|m| m.def.inner.clone());
    assert_same(
        &maps::SESSION_TABLE,
        &inner(maps::name::LRU_MAPPING).expect("an inner map"),
    );
    assert_same(
        &maps::DOWN_REALS,
        &inner(maps::name::VIP_TO_DOWN_REALS_MAP).expect("an inner map"),
    );
}

fn assert_same(spec: &MapSpec, def: &squalus_isa::MapDef) {
    assert_eq!(def.kind as u32, spec.kind as u32, "{}", spec.name);
    assert_eq!(def.key_size, spec.key_size, "{}", spec.name);
    assert_eq!(def.value_size, spec.value_size, "{}", spec.name);
    assert_eq!(def.max_entries, spec.max_entries, "{}", spec.name);
    assert_eq!(def.flags.0, spec.flags, "{}", spec.name);
}

#[test]
fn structs_are_laid_out_for_bpf_as_they_are_here() {
    let (balancer, decap) = (balancer(), object("decap.bpf.o"));
    macro_rules! check {
        ($object:expr, $name:ident { $($field:ident),+ }) => {{
            let btf = $object.btf.as_ref().expect("the object has BTF");
            let id = btf.find_composite(stringify!($name)).expect(stringify!($name));
            assert_eq!(btf.size_of(id).expect("a size"), size_of::<$name>() as u64);
            let members = btf.members(id).expect("members");
            let fields = [$((stringify!($field), core::mem::offset_of!($name, $field))),+];
            assert_eq!(members.len(), fields.len(), "{}", stringify!($name));
            for (name, offset) in fields {
                let member = btf.member(id, name).expect(name);
                assert_eq!(member.bit_offset as usize, offset * 8, "{}.{name}", stringify!($name));
            }
        }};
    }
    check!(
        balancer,
        FlowKey {
            src,
            dst,
            src_port,
            dst_port,
            proto,
            pad
        }
    );
    check!(
        balancer,
        VipDefinition {
            vip,
            port,
            proto,
            pad
        }
    );
    check!(balancer, VipMeta { flags, vip_num });
    check!(balancer, RealDefinition { dst, flags, pad });
    check!(balancer, RealPosLru { pos, pad, atime });
    check!(balancer, LbStats { v1, v2 });
    check!(
        balancer,
        QuicStats {
            ch_routed,
            cid_initial,
            cid_invalid_server_id,
            cid_invalid_server_id_sample,
            cid_routed,
            cid_unknown_real_dropped,
            cid_v0,
            cid_v1,
            cid_v2,
            cid_v3,
            dst_match_in_lru,
            dst_mismatch_in_lru,
            dst_not_found_in_lru
        }
    );
    check!(
        decap,
        DecapCounters {
            decap_v4,
            decap_v6,
            total,
            tpr_misrouted,
            tpr_total
        }
    );
}

#[test]
fn tunables_start_with_katrans_values() {
    let object = balancer();
    let initial = |name: &str| {
        let global = object.global(name).expect(name);
        let data = object.maps[global.map].initial.as_ref().expect("contents");
        data[global.offset..global.offset + global.size].to_vec()
    };
    assert_eq!(
        initial("max_packet_size"),
        consts::MAX_PACKET_SIZE.to_ne_bytes()
    );
    assert_eq!(initial("default_ttl"), [consts::DEFAULT_TTL]);
    assert_eq!(initial("copy_inner_tos"), [1]);
    assert_eq!(initial("default_tos"), [0]);
    assert_eq!(
        initial("udp_timeout_ns"),
        consts::LRU_UDP_TIMEOUT_NS.to_ne_bytes()
    );
    assert_eq!(
        initial("max_conn_rate"),
        consts::MAX_CONN_RATE.to_ne_bytes()
    );
    assert_eq!(initial("ipip_v4_prefix"), [172, 16, 0, 0]);
    assert_eq!(
        initial("ipip_v6_prefix"),
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
}
