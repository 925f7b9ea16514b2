//! The controller over maps in memory.

use std::net::IpAddr;
use std::sync::Arc;

use squalus_abi::maps::{self, name};
use squalus_abi::{GlobalCounter, Layout, LbStats};
use squalus_core::{
    Action, Config, CoreError, Mac, NewReal, RealNum, RingSize, ServerId, Sources, VipKey,
};
use squalus_dataplane::memory::MemoryMaps;
use squalus_dataplane::{ControlError, Controller, SessionTables, Settings};
use squalus_engine::MapAccess;
use squalus_isa::{MapDef, MapFlags, MapType, UpdateFlags};

const CPUS: usize = 2;

fn settings() -> Settings {
    let ring_size = RingSize::new(13).expect("a prime");
    let mac = Mac([0, 0, 0xde, 0xad, 0xbe, 0xaf]);
    Settings {
        balancer: Config {
            ring_size,
            mac,
            ..Config::default()
        },
        sessions: SessionTables {
            entries: 1000,
            cpus: vec![0, 3],
        },
    }
}

fn load() -> (Arc<MemoryMaps>, Controller<Arc<MemoryMaps>>) {
    let maps = Arc::new(MemoryMaps::balancer(CPUS));
    let controller = Controller::load(Arc::clone(&maps), settings()).expect("a balancer's maps");
    (maps, controller)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn vip(port: u16) -> VipKey {
    VipKey {
        address: ip("10.200.1.1"),
        port,
        proto: 6,
    }
}

fn real(address: &str, weight: u32) -> NewReal {
    NewReal {
        address: ip(address),
        weight,
        flags: 0,
    }
}

/// Everything in the maps, to compare.
fn dump(maps: &MemoryMaps) -> Vec<(Vec<u8>, Vec<u8>)> {
    [
        name::VIP_MAP,
        name::REALS,
        name::CH_RINGS,
        name::SERVER_ID_MAP,
        name::CTL_ARRAY,
    ]
    .into_iter()
    .flat_map(|map| maps.elements(map))
    .filter(|(_, value)| value.iter().any(|&byte| byte != 0))
    .collect()
}

fn load_error(defs: Vec<MapDef>, settings: Settings) -> ControlError {
    Controller::load(MemoryMaps::new(defs, CPUS), settings).expect_err("must not load")
}

#[test]
fn loading_writes_what_katran_writes_and_makes_session_tables() {
    let (maps, _) = load();
    assert_eq!(
        maps.elements(name::CTL_ARRAY),
        [(vec![0; 4], vec![0, 0, 0xde, 0xad, 0xbe, 0xaf, 0, 0])]
    );
    assert_eq!(
        maps.elements(name::VIP_MISS_STATS),
        [(vec![0; 4], vec![0; 20])]
    );
    let table = |cpu: u32| maps.inner_def(name::LRU_MAPPING, &cpu.to_ne_bytes());
    let expected = |name: &str| MapDef::new(name, MapType::LruHash, (40, 16), 500);
    assert_eq!(table(0), Some(expected("katran_lru0")));
    assert_eq!(table(3), Some(expected("katran_lru3")));
    assert_eq!(table(1), None);
}

#[test]
fn objects_that_are_no_balancer() {
    let balancer = MemoryMaps::balancer(CPUS).maps();
    let without = |gone: &str| {
        balancer
            .iter()
            .filter(|def| def.name != gone)
            .cloned()
            .collect()
    };
    let with = |changed: &str, change: fn(&mut MapDef)| {
        let mut defs = balancer.clone();
        defs.iter_mut()
            .filter(|def| def.name == changed)
            .for_each(change);
        defs
    };
    let messages = [
        (without("stats"), "no map `stats`"),
        (
            without("vip_to_down_reals_map"),
            "no map `vip_to_down_reals_map`",
        ),
        (
            with("reals", |def| def.value_size = 24),
            "a value size of 24, but the balancer needs 20",
        ),
        (
            with("vip_map", |def| def.key_size = 16),
            "a key size of 16, but the balancer needs 20",
        ),
        (
            with("ch_rings", |def| def.max_entries = 100),
            "room for 100, but the balancer needs 6656",
        ),
        (
            with("reals", |def| def.max_entries = 64),
            "room for 64, but the balancer needs 4096",
        ),
    ];
    for (defs, message) in messages {
        let error = load_error(defs, settings()).to_string();
        assert!(error.contains(message), "{error}");
    }
    // katran runs without the per-feature counters, so must we.
    for optional in [
        "stable_rt_stats",
        "tpr_stats_map",
        "decap_vip_stats",
        "fallback_cache",
    ] {
        let maps = MemoryMaps::new(without(optional), CPUS);
        assert!(Controller::load(maps, settings()).is_ok(), "{optional}");
    }
}

#[test]
fn session_tables_that_cannot_be() {
    for (cpus, entries, message) in [
        (vec![128], 1000, "CPU 128 is above 127"),
        (vec![1, 1], 1000, "listed twice"),
        (vec![0, 1], 1, "leave 0 each"),
        (vec![0], u64::from(u32::MAX) + 1, "leave 4294967296 each"),
    ] {
        let sessions = SessionTables { entries, cpus };
        let defs = MemoryMaps::balancer(CPUS).maps();
        let error = load_error(
            defs,
            Settings {
                sessions,
                ..settings()
            },
        )
        .to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn objects_that_show_sources_need_one() {
    let mut defs = MemoryMaps::balancer(CPUS).maps();
    let spec = maps::find(name::PCKT_SRCS).expect("known");
    defs.push(MapDef::new(
        spec.name.to_owned(),
        MapType::Array,
        (spec.key_size, spec.value_size),
        spec.max_entries,
    ));
    assert!(matches!(
        load_error(defs.clone(), settings()),
        ControlError::NoSource
    ));

    let mut settings = settings();
    settings.balancer.sources = Sources {
        v4: None,
        v6: Some("fc00::9".parse().expect("v6")),
    };
    let maps = Arc::new(MemoryMaps::new(defs, CPUS));
    Controller::load(Arc::clone(&maps), settings).expect("one is enough");
    let written = maps.elements(name::PCKT_SRCS);
    assert_eq!(written.len(), 1);
    assert_eq!(
        (written[0].0[0], written[0].1[0], written[0].1[16]),
        (1, 0xfc, 1)
    );
}

#[test]
fn hashed_server_ids_may_have_32_bits() {
    let mut defs = MemoryMaps::balancer(CPUS).maps();
    let ids = defs
        .iter_mut()
        .find(|def| def.name == name::SERVER_ID_MAP)
        .expect("known");
    ids.kind = MapType::Hash;
    let mut controller = Controller::load(MemoryMaps::new(defs, CPUS), settings()).expect("fine");
    let id = ServerId {
        id: 0x8000_0001,
        address: ip("10.0.0.1"),
    };
    assert_eq!(
        controller
            .modify_server_ids(Action::Add, &[id])
            .expect("maps take it"),
        []
    );
}

#[test]
fn a_refused_change_is_taken_back_in_state_and_maps() {
    let (maps, mut controller) = load();
    controller.add_vip(vip(80), 0).expect("new");
    let two = [real("10.0.0.1", 1), real("10.0.0.2", 1)];
    controller
        .modify_reals(Action::Add, &two, vip(80))
        .expect("fits");
    let before = dump(&maps);

    // The reals are written before the ring is refused.
    maps.refuse_after(name::CH_RINGS, Some(0));
    let refused = controller.modify_reals(Action::Add, &[real("10.0.0.3", 5)], vip(80));
    let error = refused.expect_err("the ring is frozen").to_string();
    assert!(
        error.contains("nothing has changed") && error.contains("ch_rings"),
        "{error}"
    );
    assert_eq!(dump(&maps), before);
    assert_eq!(
        controller
            .balancer()
            .reals_of(&vip(80))
            .expect("a VIP")
            .len(),
        2
    );
    assert_eq!(controller.balancer().real_num(ip("10.0.0.3")), None);

    maps.refuse_after(name::CH_RINGS, None);
    controller
        .modify_reals(Action::Add, &[real("10.0.0.3", 5)], vip(80))
        .expect("thawed");
    assert_eq!(
        controller.balancer().real_num(ip("10.0.0.3")),
        Some(RealNum(3))
    );

    maps.refuse_after(name::VIP_MAP, Some(0));
    let before = dump(&maps);
    assert!(matches!(
        controller.add_vip(vip(443), 0),
        Err(ControlError::Refused(_))
    ));
    assert!(matches!(
        controller.del_vip(vip(80)),
        Err(ControlError::Refused(_))
    ));
    assert!(matches!(
        controller.modify_vip(vip(80), 2, true),
        Err(ControlError::Refused(_))
    ));
    assert_eq!(dump(&maps), before);
    assert_eq!(controller.balancer().vips().collect::<Vec<_>>(), [vip(80)]);
    assert_eq!(controller.balancer().vip_flags(&vip(80)), Some(0));
}

#[test]
fn a_ring_that_stays_half_written_is_said_to_be() {
    let (maps, mut controller) = load();
    controller.add_vip(vip(80), 0).expect("new");
    controller
        .modify_reals(Action::Add, &[real("10.0.0.1", 1)], vip(80))
        .expect("fits");
    maps.refuse_after(name::CH_RINGS, Some(3));
    let before = dump(&maps);
    let torn = controller.modify_reals(Action::Add, &[real("10.0.0.2", 1)], vip(80));
    assert!(
        matches!(torn, Err(ControlError::Torn { .. })),
        "three slots are new and cannot be old again"
    );
    assert_ne!(dump(&maps), before);
    assert_eq!(
        controller
            .balancer()
            .reals_of(&vip(80))
            .expect("a VIP")
            .len(),
        1
    );

    let (maps, mut controller) = load();
    controller.add_vip(vip(80), 0).expect("new");
    controller
        .modify_reals(Action::Add, &[real("10.0.0.1", 1)], vip(80))
        .expect("fits");
    let before = dump(&maps);
    maps.refuse_after(name::CH_RINGS, Some(0));
    let change = controller.modify_reals(Action::Add, &[real("10.0.0.2", 1)], vip(80));
    assert!(matches!(change, Err(ControlError::Refused(_))));
    assert_eq!(dump(&maps), before);
}

#[test]
fn what_the_balancer_refuses_touches_no_map() {
    let (maps, mut controller) = load();
    let before = dump(&maps);
    let error = controller.del_vip(vip(80)).expect_err("no such VIP");
    assert!(matches!(error, ControlError::Core(CoreError::NoVip(_))));
    assert_eq!(dump(&maps), before);
}

#[test]
fn a_server_id_outside_the_map_is_refused_whole() {
    let (maps, mut controller) = load();
    let ids = [1, 0x00ff_fffe].map(|id| ServerId {
        id,
        address: ip("10.0.0.1"),
    });
    let before = dump(&maps);
    let error = controller
        .modify_server_ids(Action::Add, &ids)
        .expect_err("beyond the array");
    assert!(error.to_string().contains("server_id_map"), "{error}");
    let after: Vec<_> = dump(&maps)
        .into_iter()
        .filter(|(key, _)| *key != [1, 0, 0, 0])
        .collect();
    assert_eq!(after, before);
    assert_eq!(controller.balancer().server_ids().count(), 0);
}

#[test]
fn down_reals_live_in_an_inner_map() {
    let (maps, mut controller) = load();
    controller.add_vip(vip(80), 512).expect("new");
    controller.add_down_real(vip(80), RealNum(1)).expect("fine");
    let outer_key = vip(80).definition().to_bytes();
    let def = maps
        .inner_def(name::VIP_TO_DOWN_REALS_MAP, &outer_key)
        .expect("an inner map");
    assert_eq!(
        (def.kind, def.max_entries, def.flags),
        (MapType::Hash, 4096, MapFlags::NO_PREALLOC)
    );
    controller
        .remove_down_real(vip(80), RealNum(1))
        .expect("it is down");
    controller
        .clear_down_reals(vip(80))
        .expect("there is a map");
    assert_eq!(
        maps.inner_def(name::VIP_TO_DOWN_REALS_MAP, &outer_key),
        None
    );
}

/// Sets each CPU's pair of counters.
fn count(maps: &MemoryMaps, map: &str, index: u32, per_cpu: [(u64, u64); CPUS]) {
    let mut value = vec![0; 16 * CPUS];
    for (out, (v1, v2)) in value.chunks_exact_mut(16).zip(per_cpu) {
        LbStats { v1, v2 }.write_to(out);
    }
    maps.update(map.into(), &index.to_ne_bytes(), &value, UpdateFlags::ANY)
        .expect("fits");
}

#[test]
fn counters_are_summed_over_cpus() {
    let (maps, mut controller) = load();
    controller.add_vip(vip(80), 0).expect("new");
    controller.add_vip(vip(443), 0).expect("new");
    controller
        .modify_reals(Action::Add, &[real("10.0.0.1", 1)], vip(443))
        .expect("fits");
    count(&maps, name::STATS, 1, [(10, 1000), (5, 500)]);
    count(&maps, name::STATS, 0, [(1, 60), (0, 0)]);
    count(&maps, name::STATS, 512, [(100, 40), (50, 2)]);
    count(&maps, name::STATS, 512 + 16, [(u64::MAX, 1), (2, 2)]);
    count(&maps, name::REALS_STATS, 1, [(3, 300), (4, 400)]);
    count(&maps, name::SERVER_ID_STATS, 1, [(7, 0), (0, 8)]);

    let pair = |v1, v2| LbStats { v1, v2 };
    assert_eq!(
        controller.vip_stats(&vip(443)).expect("a VIP"),
        pair(15, 1500)
    );
    assert_eq!(
        controller.server_id_stats(&vip(443)).expect("a VIP"),
        pair(7, 8)
    );
    assert_eq!(
        controller.real_stats(RealNum(1)).expect("an index"),
        pair(7, 700)
    );
    assert_eq!(
        controller.global(GlobalCounter::LruCntrs).expect("there"),
        pair(150, 42)
    );
    assert_eq!(
        controller
            .global(GlobalCounter::XdpTotalCntr)
            .expect("there"),
        pair(1, 3),
        "wraps"
    );
    assert_eq!(
        controller.globals().expect("there").len(),
        GlobalCounter::ALL.len()
    );
    assert_eq!(controller.packets_per_cpu().expect("there"), [11, 5]);
    let error = controller.vip_stats(&vip(1)).expect_err("no such VIP");
    assert!(matches!(error, ControlError::Core(CoreError::NoVip(_))));
    assert!(matches!(
        controller.real_stats(RealNum(5000)),
        Err(ControlError::Read(_))
    ));
}

#[test]
fn structs_of_counters_are_summed_by_field() {
    let (maps, controller) = load();
    let mut value = Vec::new();
    for cpu in 0..CPUS as u64 {
        value.extend((0..13).flat_map(|field: u64| (field * 10 + cpu).to_ne_bytes()));
    }
    maps.update(
        name::QUIC_STATS_MAP.into(),
        &[0; 4],
        &value,
        UpdateFlags::ANY,
    )
    .expect("fits");
    let quic = controller.quic_stats().expect("there");
    assert_eq!(
        (quic.ch_routed, quic.cid_initial, quic.dst_not_found_in_lru),
        (1, 21, 241)
    );
    assert_eq!(quic.cid_invalid_server_id_sample, 31, "a sample, not a sum");
    assert_eq!(controller.tpr_stats().expect("there"), Default::default());
    assert_eq!(
        controller.stable_routing_stats().expect("there"),
        Default::default()
    );
}

#[test]
fn session_misses_of_the_logged_vip() {
    let (maps, mut controller) = load();
    controller.add_vip(vip(80), 0).expect("new");
    let reals = [real("10.0.0.1", 1), real("10.0.0.2", 1)];
    controller
        .modify_reals(Action::Add, &reals, vip(80))
        .expect("fits");
    let misses = |index: u32, per_cpu: [u64; CPUS]| {
        let value: Vec<u8> = per_cpu.iter().flat_map(|n| n.to_ne_bytes()).collect();
        let map = name::LRU_MISS_STATS.into();
        maps.update(map, &index.to_ne_bytes(), &value, UpdateFlags::ANY)
            .expect("fits");
    };
    misses(1, [9, 9]);
    assert_eq!(controller.lru_misses(&vip(80)).expect("nothing logged"), []);
    controller.log_lru_misses(vip(80)).expect("fine");
    assert_eq!(
        maps.elements(name::VIP_MISS_STATS)[0].1,
        vip(80).definition().to_bytes()
    );
    let mut zero = controller.lru_misses(&vip(80)).expect("logged");
    zero.sort();
    assert_eq!(
        zero,
        [(ip("10.0.0.1"), 0), (ip("10.0.0.2"), 0)],
        "counting starts anew"
    );
    misses(2, [1, 2]);
    let counted = controller.lru_misses(&vip(80)).expect("logged");
    assert!(counted.contains(&(ip("10.0.0.2"), 3)), "{counted:?}");
    assert_eq!(controller.lru_misses(&vip(443)).expect("another"), []);
}
