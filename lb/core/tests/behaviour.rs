//! Rules of katran's control plane, one by one.

mod common;

use common::{Maps, ip, real, view, vip};
use squalus_core::{
    Action, Balancer, Config, CoreError, HashFunction, MapOp, NewReal, RealNum, RingSize, ServerId,
    VipNum,
};

fn balancer() -> Balancer {
    let ring_size = RingSize::new(13).expect("a prime");
    Balancer::new(Config {
        ring_size,
        max_vips: 4,
        max_reals: 5,
        ..Config::default()
    })
    .expect("sane limits")
}

fn map_names(ops: &[MapOp]) -> Vec<&'static str> {
    ops.iter().map(MapOp::map).collect()
}

#[test]
fn loading_writes_the_mac_and_no_logged_vip() {
    let mac = "00:00:de:ad:be:af".parse().unwrap();
    let mut maps = Maps::default();
    maps.apply(
        &Balancer::new(Config {
            mac,
            ..Config::default()
        })
        .unwrap()
        .load_ops(),
    );
    assert_eq!(
        maps.get("ctl_array", &[0; 4]),
        Some(&[0, 0, 0xde, 0xad, 0xbe, 0xaf, 0, 0][..])
    );
    assert_eq!(maps.get("vip_miss_stats", &[0; 4]), Some(&[0; 20][..]));
    assert_eq!(maps.flat.len(), 2);
}

#[test]
fn vip_numbers_are_first_in_first_out() {
    let mut lb = balancer();
    for port in 1..=4 {
        lb.add_vip(vip("10.0.0.1", port, 6), 0).unwrap();
    }
    let refused = lb.add_vip(vip("10.0.0.1", 5, 6), 0);
    assert_eq!(refused, Err(CoreError::VipsExhausted { max: 4 }));
    lb.del_vip(vip("10.0.0.1", 2, 6)).unwrap();
    lb.del_vip(vip("10.0.0.1", 1, 6)).unwrap();
    lb.add_vip(vip("10.0.0.1", 7, 6), 0).unwrap();
    assert_eq!(lb.vip_num(&vip("10.0.0.1", 7, 6)), Some(VipNum(1)));
}

#[test]
fn a_second_vip_or_an_unknown_one_is_refused_and_changes_nothing() {
    let mut lb = balancer();
    let key = vip("fc00::1", 80, 17);
    lb.add_vip(key, 1).unwrap();
    let before = view(&lb);
    assert_eq!(
        lb.add_vip(vip("fc00:0::1", 80, 17), 2),
        Err(CoreError::VipExists(key))
    );
    let unknown = vip("fc00::1", 80, 6);
    let none = CoreError::NoVip(unknown);
    assert_eq!(lb.del_vip(unknown), Err(none.clone()));
    assert_eq!(lb.modify_vip(unknown, 1, true), Err(none.clone()));
    assert_eq!(
        lb.modify_reals(Action::Add, &[real("10.0.0.1", 1)], unknown),
        Err(none.clone())
    );
    assert_eq!(
        lb.change_hash_function(unknown, HashFunction::MaglevV1),
        Err(none.clone())
    );
    assert_eq!(lb.reals_of(&unknown), Err(none.clone()));
    assert_eq!(lb.add_down_real(unknown, RealNum(1)), Err(none));
    assert_eq!(view(&lb), before);
}

#[test]
fn vip_flags_are_set_and_cleared_in_the_map() {
    let mut lb = balancer();
    let key = vip("10.0.0.1", 80, 6);
    let mut maps = Maps::default();
    maps.apply(&lb.add_vip(vip("10.0.0.9", 80, 6), 0).unwrap());
    maps.apply(&lb.add_vip(key, 1).unwrap());
    maps.apply(&lb.modify_vip(key, 6, true).unwrap());
    maps.apply(&lb.modify_vip(key, 2, false).unwrap());
    assert_eq!(lb.vip_flags(&key), Some(5));
    let definition = key.definition().to_bytes();
    assert_eq!(
        maps.get("vip_map", &definition),
        Some(&[5, 0, 0, 0, 1, 0, 0, 0][..])
    );
    maps.apply(&lb.del_vip(key).unwrap());
    assert_eq!(maps.get("vip_map", &definition), None);
}

#[test]
fn indices_of_reals_start_at_one_and_are_shared() {
    let mut lb = balancer();
    let (a, b) = (vip("10.0.0.1", 80, 6), vip("10.0.0.1", 443, 6));
    lb.add_vip(a, 0).unwrap();
    lb.add_vip(b, 0).unwrap();
    lb.modify_reals(Action::Add, &[real("10.1.0.1", 1), real("10.1.0.2", 1)], a)
        .unwrap();
    let change = lb
        .modify_reals(Action::Add, &[real("10.1.0.2", 1)], b)
        .unwrap();
    assert_eq!(
        map_names(&change.ops),
        ["ch_rings"],
        "the real is known: only the ring is written"
    );
    assert_eq!(lb.real_num(ip("10.1.0.1")), Some(RealNum(1)));
    assert_eq!(lb.real_num(ip("10.1.0.2")), Some(RealNum(2)));
    assert_eq!(lb.real_references(ip("10.1.0.2")), 2);
    lb.modify_reals(
        Action::Delete,
        &[real("10.1.0.1", 0), real("10.1.0.2", 0)],
        a,
    )
    .unwrap();
    assert_eq!(lb.real_num(ip("10.1.0.1")), None);
    assert_eq!(lb.real_references(ip("10.1.0.2")), 1);
    lb.modify_reals(Action::Add, &[real("10.1.0.3", 1)], b)
        .unwrap();
    assert_eq!(
        lb.real_num(ip("10.1.0.3")),
        Some(RealNum(3)),
        "1 was freed last, so comes last"
    );
}

#[test]
fn a_real_twice_in_a_batch_is_one_reference_and_the_last_weight() {
    let mut lb = balancer();
    let key = vip("10.0.0.1", 80, 6);
    lb.add_vip(key, 0).unwrap();
    let twice = [real("10.1.0.1", 1), real("10.1.0.1", 5)];
    lb.modify_reals(Action::Add, &twice, key).unwrap();
    assert_eq!(lb.real_references(ip("10.1.0.1")), 1);
    assert_eq!(lb.reals_of(&key).unwrap()[0].weight, 5);
    let change = lb.modify_reals(Action::Delete, &twice, key).unwrap();
    assert_eq!(change.refused, [CoreError::NoReal(ip("10.1.0.1"))]);
    assert_eq!(lb.real_num(ip("10.1.0.1")), None);
}

#[test]
fn a_mapped_address_is_the_v4_real() {
    let mut lb = balancer();
    let key = vip("10.0.0.1", 80, 6);
    lb.add_vip(key, 0).unwrap();
    lb.modify_reals(
        Action::Add,
        &[real("10.1.0.1", 1), real("::ffff:10.1.0.1", 2)],
        key,
    )
    .unwrap();
    let reals = lb.reals_of(&key).unwrap();
    assert_eq!(reals.len(), 1);
    assert_eq!((reals[0].address, reals[0].weight), (ip("10.1.0.1"), 2));
}

#[test]
fn items_that_cannot_be_are_left_out_of_the_batch() {
    let mut lb = balancer();
    let (key, other) = (vip("10.0.0.1", 80, 6), vip("10.0.0.2", 80, 6));
    lb.add_vip(key, 0).unwrap();
    lb.add_vip(other, 0).unwrap();
    lb.modify_reals(Action::Add, &[real("10.1.0.9", 1)], other)
        .unwrap();
    let reals: Vec<NewReal> = (1..=4).map(|n| real(&format!("10.1.0.{n}"), 1)).collect();
    let change = lb.modify_reals(Action::Add, &reals, key).unwrap();
    let exhausted = CoreError::RealsExhausted {
        real: ip("10.1.0.4"),
        max: 4,
    };
    assert_eq!(change.refused, [exhausted]);
    assert_eq!(lb.reals_of(&key).unwrap().len(), 3);
    let foreign = [
        real("10.1.0.9", 0),
        real("10.1.0.7", 0),
        real("10.1.0.1", 0),
    ];
    let change = lb.modify_reals(Action::Delete, &foreign, key).unwrap();
    let not_of_vip = CoreError::NotOfVip {
        real: ip("10.1.0.9"),
        vip: key,
    };
    assert_eq!(
        change.refused,
        [not_of_vip, CoreError::NoReal(ip("10.1.0.7"))]
    );
    assert_eq!(lb.reals_of(&key).unwrap().len(), 2);
}

#[test]
fn the_ring_stays_when_the_last_usable_real_goes() {
    let mut lb = balancer();
    let key = vip("10.0.0.1", 80, 6);
    lb.add_vip(key, 0).unwrap();
    let change = lb
        .modify_reals(Action::Add, &[real("10.1.0.1", 0)], key)
        .unwrap();
    assert_eq!(
        map_names(&change.ops),
        ["reals"],
        "weight 0 from the start: no ring yet"
    );
    let mut maps = Maps::default();
    maps.apply(
        &lb.modify_reals(Action::Add, &[real("10.1.0.1", 3)], key)
            .unwrap()
            .ops,
    );
    assert_eq!(maps.ring(0, 13), [Some(1); 13]);
    let drained = lb
        .modify_reals(Action::Add, &[real("10.1.0.1", 0)], key)
        .unwrap();
    assert_eq!(drained.ops, []);
    let removed = lb
        .modify_reals(Action::Delete, &[real("10.1.0.1", 0)], key)
        .unwrap();
    assert_eq!(removed.ops, []);
    lb.modify_reals(Action::Add, &[real("10.1.0.2", 1)], key)
        .unwrap();
    assert_eq!(lb.ring(&key), Some(&[2; 13][..]));
}

#[test]
fn only_changed_slots_are_written() {
    let mut lb = balancer();
    let key = vip("10.0.0.1", 80, 6);
    lb.add_vip(key, 0).unwrap();
    let reals = [
        real("10.1.0.1", 1),
        real("10.1.0.2", 1),
        real("10.1.0.3", 1),
    ];
    lb.modify_reals(Action::Add, &reals, key).unwrap();
    let before = lb.ring(&key).unwrap().to_vec();
    let change = lb
        .modify_reals(Action::Delete, &[real("10.1.0.2", 0)], key)
        .unwrap();
    let [MapOp::UpdateBatch { keys, .. }] = change.ops.as_slice() else {
        panic!("{change:?}")
    };
    let after = lb.ring(&key).unwrap();
    let differ = before.iter().zip(after).filter(|(b, a)| b != a).count();
    assert_eq!(keys.len(), 4 * differ);
    let again = lb
        .modify_reals(Action::Add, &[real("10.1.0.1", 1)], key)
        .unwrap();
    assert_eq!(again.ops, [], "nothing changed, nothing is written");
}

#[test]
fn changing_the_hash_function_refills_without_drained_reals() {
    let mut lb = balancer();
    let key = vip("10.0.0.1", 80, 6);
    lb.add_vip(key, 0).unwrap();
    let reals = [
        real("10.1.0.1", 1),
        real("10.1.0.2", 9),
        real("10.1.0.3", 0),
    ];
    lb.modify_reals(Action::Add, &reals, key).unwrap();
    let v2 = lb.ring(&key).unwrap().to_vec();
    let ops = lb
        .change_hash_function(key, HashFunction::MaglevV1)
        .unwrap();
    assert_eq!(map_names(&ops), ["ch_rings"]);
    let v1 = lb.ring(&key).unwrap().to_vec();
    assert_ne!(v1, v2);
    assert!(!v1.contains(&3));
    let ops = lb
        .change_hash_function(key, HashFunction::MaglevV1)
        .unwrap();
    assert_eq!(ops, []);
}

#[test]
fn real_flags_keep_the_family() {
    let mut lb = balancer();
    let key = vip("10.0.0.1", 80, 6);
    lb.add_vip(key, 0).unwrap();
    let mut maps = Maps::default();
    let local = NewReal {
        flags: 0xff,
        ..real("10.1.0.1", 1)
    };
    maps.apply(
        &lb.modify_reals(Action::Add, &[local, real("fc00::1", 1)], key)
            .unwrap()
            .ops,
    );
    let flags = |maps: &Maps, num: u32| maps.get("reals", &num.to_ne_bytes()).unwrap()[16];
    assert_eq!(
        (flags(&maps, 1), flags(&maps, 2)),
        (0xfe, 1),
        "bit 0 is the family alone"
    );
    maps.apply(&lb.modify_real(ip("fc00::1"), 3, true).unwrap());
    assert_eq!(
        (flags(&maps, 2), lb.real_flags(ip("fc00::1"))),
        (3, Some(2))
    );
    maps.apply(&lb.modify_real(ip("fc00::1"), 3, false).unwrap());
    assert_eq!(
        (flags(&maps, 2), lb.real_flags(ip("fc00::1"))),
        (1, Some(0))
    );
    let unknown = lb.modify_real(ip("10.9.9.9"), 2, true);
    assert_eq!(unknown, Err(CoreError::NoReal(ip("10.9.9.9"))));
}

fn server_id(id: u32, address: &str) -> ServerId {
    ServerId {
        id,
        address: ip(address),
    }
}

#[test]
fn server_ids_hold_reals_and_stay_in_the_map_when_removed() {
    let mut lb = balancer();
    let mut maps = Maps::default();
    let change = lb.modify_server_ids(Action::Add, &[server_id(1022, "10.1.0.1")]);
    assert_eq!(map_names(&change.ops), ["reals", "server_id_map"]);
    maps.apply(&change.ops);
    let again = lb.modify_server_ids(Action::Add, &[server_id(1022, "10.1.0.1")]);
    assert_eq!(again, Default::default());
    maps.apply(
        &lb.modify_server_ids(Action::Add, &[server_id(1022, "10.1.0.2")])
            .ops,
    );
    assert_eq!(maps.number("server_id_map", 1022), Some(2));
    assert_eq!(lb.real_num(ip("10.1.0.1")), None);

    let wrong = lb.modify_server_ids(
        Action::Delete,
        &[server_id(1022, "10.1.0.1"), server_id(7, "10.1.0.2")],
    );
    let (owner, given) = (ip("10.1.0.2"), ip("10.1.0.1"));
    let of_other = CoreError::ServerIdOfOther {
        id: 1022,
        owner,
        given,
    };
    assert_eq!(wrong.refused, [of_other, CoreError::NoServerId(7)]);
    let removed = lb.modify_server_ids(Action::Delete, &[server_id(1022, "10.1.0.2")]);
    assert_eq!(removed, Default::default(), "the program keeps the id");
    assert_eq!(lb.server_ids().count(), 0);
    assert_eq!(lb.real_num(ip("10.1.0.2")), None);
}

#[test]
fn server_ids_above_24_bits_need_version_3() {
    let mut lb = balancer();
    let change = lb.modify_server_ids(Action::Add, &[server_id(0x00ff_ffff, "10.1.0.1")]);
    let max = 0x00ff_fffe;
    assert_eq!(
        change.refused,
        [CoreError::ServerIdRange { id: max + 1, max }]
    );
    assert_eq!(lb.real_num(ip("10.1.0.1")), None);
    let mut lb = Balancer::new(Config {
        cid_v3: true,
        ..Config::default()
    })
    .unwrap();
    let change = lb.modify_server_ids(Action::Add, &[server_id(u32::MAX, "10.1.0.1")]);
    assert_eq!(change.refused, []);
}

#[test]
fn server_ids_are_invalidated_and_validated_again() {
    let mut lb = balancer();
    let mut maps = Maps::default();
    maps.apply(
        &lb.modify_server_ids(Action::Add, &[server_id(5, "10.1.0.1")])
            .ops,
    );
    maps.apply(&lb.invalidate_server_ids(&[5]));
    assert_eq!(maps.number("server_id_map", 5), Some(0));
    let change = lb.revalidate_server_ids(&[server_id(5, "10.1.0.1"), server_id(6, "10.1.0.2")]);
    assert_eq!(change.refused, [CoreError::NoReal(ip("10.1.0.2"))]);
    maps.apply(&change.ops);
    assert_eq!(maps.number("server_id_map", 5), Some(1));
}

#[test]
fn an_exhausted_server_id_changes_nothing() {
    let mut lb = balancer();
    let ids: Vec<ServerId> = (1..=4)
        .map(|n| server_id(n, &format!("10.1.0.{n}")))
        .collect();
    lb.modify_server_ids(Action::Add, &ids);
    lb.modify_server_ids(Action::Add, &[server_id(9, "10.1.0.1")]);
    let before = view(&lb);
    let change = lb.modify_server_ids(Action::Add, &[server_id(9, "10.1.0.5")]);
    assert_eq!(
        change.refused,
        [CoreError::RealsExhausted {
            real: ip("10.1.0.5"),
            max: 4
        }]
    );
    assert_eq!(view(&lb), before);
    let change = lb.modify_server_ids(Action::Add, &[server_id(2, "10.1.0.5")]);
    assert_eq!(change.refused, [], "its own real goes, which makes room");
    assert_eq!(lb.real_num(ip("10.1.0.5")), Some(RealNum(2)));
}

#[test]
fn down_reals_are_kept_per_vip() {
    let mut lb = balancer();
    let key = vip("10.0.0.1", 80, 17);
    lb.add_vip(key, 512).unwrap();
    let mut maps = Maps::default();
    maps.apply(&lb.add_down_real(key, RealNum(1)).unwrap());
    maps.apply(&lb.add_down_real(key, RealNum(2)).unwrap());
    let inner = (
        "vip_to_down_reals_map",
        key.definition().to_bytes().to_vec(),
    );
    assert_eq!(maps.inner[&inner].len(), 2);
    assert!(lb.is_down(&key, RealNum(2)));
    maps.apply(&lb.remove_down_real(key, RealNum(2)).unwrap());
    assert_eq!(lb.remove_down_real(key, RealNum(2)), Ok(vec![]));
    assert_eq!(
        maps.inner[&inner].keys().collect::<Vec<_>>(),
        [&vec![1, 0, 0, 0]]
    );

    lb.del_vip(key).unwrap();
    assert!(!lb.is_down(&key, RealNum(1)));
    lb.add_vip(key, 512).unwrap();
    assert!(lb.is_down(&key, RealNum(1)), "it outlives its VIP");
    maps.apply(&lb.clear_down_reals(key).unwrap());
    assert!(maps.inner.is_empty());
    assert_eq!(lb.clear_down_reals(key), Ok(vec![]));
}

#[test]
fn logging_misses_names_the_vip_and_zeroes_the_counters() {
    let mut lb = balancer();
    let key = vip("10.0.0.1", 80, 6);
    let ops = lb.log_lru_misses(key);
    assert_eq!(map_names(&ops), ["vip_miss_stats", "lru_miss_stats"]);
    assert_eq!(
        ops[1],
        MapOp::ZeroPerCpu {
            map: "lru_miss_stats",
            entries: 5
        }
    );
    assert_eq!(lb.logged_vip(), Some(key));
    lb.undo();
    assert_eq!(lb.logged_vip(), None);
}

#[test]
fn limits_that_cannot_be() {
    for (max_vips, max_reals) in [(0, 10), (40_000, 10), (10, 1), (10, 70_000)] {
        let made = Balancer::new(Config {
            max_vips,
            max_reals,
            ..Config::default()
        });
        assert_eq!(
            made.err(),
            Some(CoreError::Limits {
                max_vips,
                max_reals
            })
        );
    }
}
