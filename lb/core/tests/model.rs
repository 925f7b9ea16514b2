//! Random changes against a model, with the maps they write.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{Maps, view};
use proptest::prelude::*;
use squalus_core::{
    Action, Balancer, Config, HashFunction, Mac, NewReal, RealNum, RingSize, ServerId, VipKey,
};
use squalus_maglev::{Endpoint, real_hash, ring};

const RING: u32 = 31;
const MAX_VIPS: u32 = 4;
const MAX_REALS: u32 = 8;

#[derive(Clone, Debug)]
enum Step {
    AddVip(VipKey, u32),
    DelVip(VipKey),
    ModifyVip(VipKey, u32, bool),
    HashFunction(VipKey, HashFunction),
    Reals(Action, Vec<NewReal>, VipKey),
    ModifyReal(IpAddr, u8, bool),
    ServerIds(Action, Vec<ServerId>),
    AddDown(VipKey, RealNum),
    RemoveDown(VipKey, RealNum),
    ClearDown(VipKey),
    Mac(Mac),
}

/// What the balancer should hold, told in the plainest way.
#[derive(Default)]
struct Model {
    vips: BTreeMap<VipKey, (u32, HashFunction, BTreeMap<IpAddr, u32>)>,
    ids: BTreeMap<u32, IpAddr>,
}

impl Model {
    fn live(&self) -> BTreeSet<IpAddr> {
        let of_vips = self
            .vips
            .values()
            .flat_map(|(_, _, reals)| reals.keys().copied());
        of_vips.chain(self.ids.values().copied()).collect()
    }

    fn references(&self, address: IpAddr) -> u32 {
        let vips = self
            .vips
            .values()
            .filter(|(_, _, reals)| reals.contains_key(&address))
            .count();
        let ids = self.ids.values().filter(|&&owner| owner == address).count();
        (vips + ids) as u32
    }

    fn fits(&self, address: IpAddr) -> bool {
        let live = self.live();
        live.contains(&address) || live.len() < MAX_REALS as usize - 1
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::AddVip(key, flags) => {
                let full = self.vips.len() == MAX_VIPS as usize;
                if !full && !self.vips.contains_key(key) {
                    self.vips
                        .insert(*key, (*flags, HashFunction::MaglevV2, BTreeMap::new()));
                }
            }
            Step::DelVip(key) => drop(self.vips.remove(key)),
            Step::ModifyVip(key, flags, set) => {
                if let Some(vip) = self.vips.get_mut(key) {
                    vip.0 = if *set { vip.0 | flags } else { vip.0 & !flags };
                }
            }
            Step::HashFunction(key, function) => {
                if let Some(vip) = self.vips.get_mut(key) {
                    vip.1 = *function;
                }
            }
            Step::Reals(action, reals, key) => self.reals(*action, reals, key),
            Step::ServerIds(action, ids) => ids.iter().for_each(|id| self.server_id(*action, id)),
            Step::ModifyReal(..) | Step::Mac(_) => {}
            Step::AddDown(..) | Step::RemoveDown(..) | Step::ClearDown(_) => {}
        }
    }

    fn reals(&mut self, action: Action, reals: &[NewReal], key: &VipKey) {
        for real in reals {
            let fits = self.fits(real.address);
            let Some((_, _, members)) = self.vips.get_mut(key) else {
                return;
            };
            match action {
                Action::Add if fits => drop(members.insert(real.address, real.weight)),
                Action::Add => {}
                Action::Delete => drop(members.remove(&real.address)),
            }
        }
    }

    fn server_id(&mut self, action: Action, id: &ServerId) {
        match action {
            Action::Add => {
                let was = self.ids.remove(&id.id);
                let fits = self.fits(id.address);
                match (fits, was) {
                    (true, _) => drop(self.ids.insert(id.id, id.address)),
                    (false, Some(was)) => drop(self.ids.insert(id.id, was)),
                    (false, None) => {}
                }
            }
            Action::Delete if self.ids.get(&id.id) == Some(&id.address) => {
                self.ids.remove(&id.id);
            }
            Action::Delete => {}
        }
    }
}

/// Applies a step to the balancer and its operations to the maps.
fn drive(lb: &mut Balancer, maps: &mut Maps, step: &Step) {
    let ops = match step {
        Step::AddVip(key, flags) => lb.add_vip(*key, *flags),
        Step::DelVip(key) => lb.del_vip(*key),
        Step::ModifyVip(key, flags, set) => lb.modify_vip(*key, *flags, *set),
        Step::HashFunction(key, function) => lb.change_hash_function(*key, *function),
        Step::Reals(action, reals, key) => lb.modify_reals(*action, reals, *key).map(|c| c.ops),
        Step::ModifyReal(address, flags, set) => lb.modify_real(*address, *flags, *set),
        Step::ServerIds(action, ids) => Ok(lb.modify_server_ids(*action, ids).ops),
        Step::AddDown(key, num) => lb.add_down_real(*key, *num),
        Step::RemoveDown(key, num) => lb.remove_down_real(*key, *num),
        Step::ClearDown(key) => lb.clear_down_reals(*key),
        Step::Mac(mac) => Ok(lb.change_mac(*mac)),
    };
    if let Ok(ops) = ops {
        maps.apply(&ops);
    }
}

fn check(lb: &Balancer, maps: &Maps, model: &Model) {
    assert_eq!(
        lb.vips().collect::<Vec<_>>(),
        model.vips.keys().copied().collect::<Vec<_>>()
    );
    let in_map = maps.flat.get("vip_map").map_or(0, BTreeMap::len);
    assert_eq!(in_map, model.vips.len());
    let nums: BTreeSet<_> = lb.vips().map(|vip| lb.vip_num(&vip)).collect();
    assert_eq!(nums.len(), model.vips.len(), "VIP numbers are unique");

    let live = model.live();
    let indices: BTreeSet<RealNum> = lb.reals().map(|(num, _)| num).collect();
    assert_eq!(lb.reals().map(|(_, a)| a).collect::<BTreeSet<_>>(), live);
    assert_eq!(indices.len(), live.len(), "indices are unique");
    for (num, address) in lb.reals() {
        assert!((1..MAX_REALS).contains(&num.0));
        assert_eq!(
            lb.real_references(address),
            model.references(address),
            "{address}"
        );
        check_real(lb, maps, num, address);
    }
    for (id, address) in &model.ids {
        let num = lb.real_num(*address).expect("referred to");
        assert_eq!(maps.number("server_id_map", *id), Some(num.0));
    }
    for (key, vip) in &model.vips {
        check_vip(lb, maps, key, vip);
    }
}

fn check_real(lb: &Balancer, maps: &Maps, num: RealNum, address: IpAddr) {
    let entry = maps.get("reals", &num.0.to_ne_bytes()).expect("an entry");
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    assert_eq!(entry[..16], bytes);
    let flags = lb.real_flags(address).expect("a real");
    assert_eq!(entry[16], flags | u8::from(address.is_ipv6()));
}

fn check_vip(
    lb: &Balancer,
    maps: &Maps,
    key: &VipKey,
    (flags, function, reals): &(u32, HashFunction, BTreeMap<IpAddr, u32>),
) {
    let num = lb.vip_num(key).expect("a VIP").0;
    let mut meta = flags.to_ne_bytes().to_vec();
    meta.extend(num.to_ne_bytes());
    assert_eq!(
        maps.get("vip_map", &key.definition().to_bytes()),
        Some(&meta[..])
    );

    let members = lb.reals_of(key).expect("a VIP");
    assert_eq!(
        members
            .iter()
            .map(|m| (m.address, m.weight))
            .collect::<BTreeMap<_, _>>(),
        *reals
    );
    let endpoints: Vec<Endpoint> = members
        .iter()
        .map(|m| Endpoint {
            num: m.num.0,
            weight: m.weight,
            hash: real_hash(m.address),
        })
        .collect();
    assert!(
        endpoints.is_sorted_by_key(|e| e.hash),
        "listed in the order of the ring"
    );
    if let Some(full) = ring(*function, &endpoints, RingSize::new(RING).expect("a prime")) {
        let full: Vec<_> = full.into_iter().map(Some).collect();
        assert_eq!(
            maps.ring(num, RING),
            full,
            "changed slots add up to the whole ring"
        );
    }
}

fn vip_key() -> impl Strategy<Value = VipKey> {
    (0u8..4, prop::sample::select(vec![0u16, 80]), any::<bool>()).prop_map(|(n, port, v6)| {
        let address = match v6 {
            false => IpAddr::V4(Ipv4Addr::new(10, 200, 0, n % 2)),
            true => IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, u16::from(n % 2))),
        };
        VipKey {
            address,
            port,
            proto: 6,
        }
    })
}

fn real_address() -> impl Strategy<Value = IpAddr> {
    (0u8..6, any::<bool>()).prop_map(|(n, v6)| match v6 {
        false => IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)),
        true => IpAddr::V6(Ipv6Addr::new(0xfc00, 1, 0, 0, 0, 0, 0, u16::from(n))),
    })
}

fn step() -> impl Strategy<Value = Step> {
    let action = prop_oneof![3 => Just(Action::Add), 1 => Just(Action::Delete)].boxed();
    let function = prop::sample::select(vec![HashFunction::MaglevV1, HashFunction::MaglevV2]);
    let reals = prop::collection::vec(
        (real_address(), 0u32..4, 0u8..4).prop_map(|(address, weight, flags)| NewReal {
            address,
            weight,
            flags,
        }),
        1..5,
    );
    let ids = prop::collection::vec(
        (0u32..6, real_address()).prop_map(|(id, address)| ServerId { id, address }),
        1..4,
    );
    prop_oneof![
        4 => (vip_key(), 0u32..1024).prop_map(|(k, f)| Step::AddVip(k, f)),
        1 => vip_key().prop_map(Step::DelVip),
        1 => (vip_key(), 0u32..1024, any::<bool>()).prop_map(|(k, f, s)| Step::ModifyVip(k, f, s)),
        1 => (vip_key(), function).prop_map(|(k, f)| Step::HashFunction(k, f)),
        6 => (action.clone(), reals, vip_key()).prop_map(|(a, r, k)| Step::Reals(a, r, k)),
        1 => (real_address(), any::<u8>(), any::<bool>())
            .prop_map(|(a, f, s)| Step::ModifyReal(a, f, s)),
        2 => (action, ids).prop_map(|(a, i)| Step::ServerIds(a, i)),
        1 => (vip_key(), 1u32..4).prop_map(|(k, n)| Step::AddDown(k, RealNum(n))),
        1 => (vip_key(), 1u32..4).prop_map(|(k, n)| Step::RemoveDown(k, RealNum(n))),
        1 => vip_key().prop_map(Step::ClearDown),
        1 => any::<[u8; 6]>().prop_map(|mac| Step::Mac(Mac(mac))),
    ]
}

fn balancer() -> Balancer {
    let ring_size = RingSize::new(RING).expect("a prime");
    let config = Config {
        ring_size,
        max_vips: MAX_VIPS,
        max_reals: MAX_REALS,
        ..Config::default()
    };
    Balancer::new(config).expect("sane limits")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn maps_and_state_follow_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let (mut lb, mut maps, mut model) = (balancer(), Maps::default(), Model::default());
        for step in &steps {
            drive(&mut lb, &mut maps, step);
            model.step(step);
            check(&lb, &maps, &model);
        }
    }

    #[test]
    fn undo_takes_exactly_the_last_change_back(steps in prop::collection::vec(step(), 1..40)) {
        let (mut lb, mut maps) = (balancer(), Maps::default());
        for step in &steps {
            let (state, rings) = (view(&lb), maps.flat.get("ch_rings").cloned());
            let mut trial = maps.clone();
            drive(&mut lb, &mut trial, step);
            let after = view(&lb);
            trial.apply(&lb.undo());
            prop_assert_eq!(view(&lb), state, "after undoing {:?}", step);
            for (key, value) in rings.iter().flatten() {
                let live = lb.vips().any(|vip| {
                    let first = lb.vip_num(&vip).expect("a VIP").0 * RING;
                    let slot = u32::from_ne_bytes(key.as_slice().try_into().expect("four bytes"));
                    (first..first + RING).contains(&slot) && lb.ring(&vip).is_some()
                });
                if live {
                    prop_assert_eq!(trial.get("ch_rings", key), Some(value.as_slice()));
                }
            }
            prop_assert!(lb.undo().is_empty(), "one change can be taken back once");
            drive(&mut lb, &mut maps, step);
            prop_assert_eq!(view(&lb), after, "the same again after undoing {:?}", step);
        }
    }
}
