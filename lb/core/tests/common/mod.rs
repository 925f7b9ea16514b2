//! Maps in memory that operations are applied to, for the tests.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use squalus_core::{Balancer, MapOp, NewReal, VipKey};

/// Keys and values of one map.
pub type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// Contents of all maps, by name; inner maps under their outer map's name and key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maps {
    pub flat: BTreeMap<&'static str, Contents>,
    pub inner: BTreeMap<(&'static str, Vec<u8>), Contents>,
}

impl Maps {
    /// Applies operations, checking what a real map would refuse.
    pub fn apply(&mut self, ops: &[MapOp]) {
        for op in ops {
            self.apply_one(op);
        }
    }

    fn apply_one(&mut self, op: &MapOp) {
        match op {
            MapOp::Update { map, key, value } => {
                self.flat
                    .entry(map)
                    .or_default()
                    .insert(key.clone(), value.clone());
            }
            MapOp::UpdateBatch { map, keys, values } => {
                assert_eq!(keys.len(), values.len(), "both are u32");
                let pairs = keys.chunks_exact(4).zip(values.chunks_exact(4));
                let pairs = pairs.map(|(k, v)| (k.to_vec(), v.to_vec()));
                self.flat.entry(map).or_default().extend(pairs);
            }
            MapOp::Delete { map, key } => {
                let flat = self.flat.entry(map).or_default().remove(key);
                let inner = self.inner.remove(&(*map, key.clone()));
                assert!(
                    flat.is_some() || inner.is_some(),
                    "delete of what is not there: {op:?}"
                );
            }
            MapOp::ZeroPerCpu { .. } => {}
            MapOp::CreateInner { map, key, .. } => {
                let old = self.inner.insert((map, key.clone()), BTreeMap::new());
                assert!(old.is_none(), "created twice: {op:?}");
            }
            MapOp::UpdateInner {
                map,
                outer_key,
                key,
                value,
            } => {
                let inner = self.inner.get_mut(&(*map, outer_key.clone()));
                inner
                    .expect("an inner map")
                    .insert(key.clone(), value.clone());
            }
            MapOp::DeleteInner {
                map,
                outer_key,
                key,
            } => {
                let inner = self.inner.get_mut(&(*map, outer_key.clone()));
                inner
                    .expect("an inner map")
                    .remove(key)
                    .expect("an element");
            }
        }
    }

    pub fn get(&self, map: &str, key: &[u8]) -> Option<&[u8]> {
        self.flat.get(map)?.get(key).map(Vec::as_slice)
    }

    /// A `u32` of a map with `u32` keys.
    pub fn number(&self, map: &str, key: u32) -> Option<u32> {
        let value = self.get(map, &key.to_ne_bytes())?;
        Some(u32::from_ne_bytes(value.try_into().expect("four bytes")))
    }

    /// The ring in `ch_rings` that begins at the VIP's number.
    pub fn ring(&self, num: u32, size: u32) -> Vec<Option<u32>> {
        (0..size)
            .map(|slot| self.number("ch_rings", num * size + slot))
            .collect()
    }
}

/// Everything that can be asked of a balancer, to compare two states.
pub fn view(lb: &Balancer) -> String {
    use std::fmt::Write as _;
    let mut out = format!(
        "mac {} logged {:?} {:?}\n",
        lb.mac(),
        lb.logged_vip(),
        lb.config()
    );
    for vip in lb.vips() {
        let ring = lb.ring(&vip);
        let (num, flags) = (lb.vip_num(&vip), lb.vip_flags(&vip));
        writeln!(
            out,
            "{vip} {num:?} {flags:?} {:?} {ring:?}",
            lb.reals_of(&vip)
        )
        .expect("a String takes all");
    }
    for (num, address) in lb.reals() {
        let references = lb.real_references(address);
        writeln!(
            out,
            "{num:?} {address} {references} {:?}",
            lb.real_flags(address)
        )
        .expect("a String takes all");
    }
    writeln!(out, "{:?}", lb.server_ids().collect::<Vec<_>>()).expect("a String takes all");
    out
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn vip(address: &str, port: u16, proto: u8) -> VipKey {
    VipKey {
        address: ip(address),
        port,
        proto,
    }
}

pub fn real(address: &str, weight: u32) -> NewReal {
    NewReal {
        address: ip(address),
        weight,
        flags: 0,
    }
}
