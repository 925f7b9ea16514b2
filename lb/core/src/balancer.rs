//! The balancer: VIPs, their reals, and everything else the program reads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use squalus_abi::flags::REAL_IPV6;
use squalus_abi::maps::{self, MapSpec, name};
use squalus_abi::{Address, CtlValue, RealDefinition, VipDefinition, VipMeta, consts};
use squalus_maglev::{HashFunction, real_hash};

use crate::error::CoreError;
use crate::journal::{Journal, Undo};
use crate::op::{MapOp, bytes};
use crate::reals::Reals;
use crate::types::{Action, Change, Config, Mac, NewReal, RealNum, RealOfVip, VipKey, VipNum};
use crate::vip::{Vip, VipReal};

/// State of a balancer. See the crate's documentation for how changes work.
#[derive(Clone, Debug)]
pub struct Balancer {
    pub(crate) config: Config,
    vips: BTreeMap<VipKey, Vip>,
    free_vips: VecDeque<VipNum>,
    pub(crate) reals: Reals,
    pub(crate) server_ids: BTreeMap<u32, IpAddr>,
    /// Inner maps of `vip_to_down_reals_map`. As in katran they outlive their VIP.
    down_reals: BTreeMap<VipKey, BTreeSet<RealNum>>,
    logged_vip: Option<VipKey>,
    pub(crate) journal: Journal,
}

impl Balancer {
    /// A balancer without VIPs.
    ///
    /// # Errors
    /// [`CoreError::Limits`].
    pub fn new(config: Config) -> Result<Self, CoreError> {
        let (max_vips, max_reals) = (config.max_vips, config.max_reals);
        if !(1..=32_768).contains(&max_vips) || !(2..=65_536).contains(&max_reals) {
            return Err(CoreError::Limits {
                max_vips,
                max_reals,
            });
        }
        Ok(Balancer {
            vips: BTreeMap::new(),
            free_vips: (0..max_vips).map(VipNum).collect(),
            reals: Reals::new(max_reals),
            server_ids: BTreeMap::new(),
            down_reals: BTreeMap::new(),
            logged_vip: None,
            journal: Journal::default(),
            config,
        })
    }

    /// What it was made with; the MAC address and sources as they are now.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What a freshly loaded program must be told before its first packet, in katran's order: this
    /// host's addresses, where there are any; the router's MAC address; and that no VIP's misses are logged.
    #[must_use]
    pub fn load_ops(&self) -> Vec<MapOp> {
        let sources = self.config.sources;
        let addresses = [sources.v4.map(IpAddr::V4), sources.v6.map(IpAddr::V6)];
        let mut ops: Vec<MapOp> = addresses.into_iter().flatten().map(write_source).collect();
        ops.push(write_mac(self.config.mac));
        ops.push(write_logged_vip(VipDefinition::default()));
        ops
    }

    /// Takes the last change back, if it has not been taken back already. The returned operations restore
    /// rings; the other elements that the change wrote are for the caller to restore.
    pub fn undo(&mut self) -> Vec<MapOp> {
        let mut ops = Vec::new();
        while let Some(step) = self.journal.pop() {
            match step {
                Undo::Vip { key, was } => ops.extend(self.undo_vip(key, was)),
                Undo::VipNumTaken(num) => self.free_vips.push_front(num),
                Undo::VipNumFreed => drop(self.free_vips.pop_back()),
                Undo::Real { key, was } => self.reals.restore(key, was),
                Undo::RealNumTaken(num) => self.reals.restore_taken(num),
                Undo::RealNumFreed => self.reals.restore_freed(),
                Undo::ServerId { id, was } => restore(&mut self.server_ids, id, was),
                Undo::DownReals { vip, was } => restore(&mut self.down_reals, vip, was),
                Undo::LoggedVip(was) => self.logged_vip = was,
                Undo::Mac(was) => self.config.mac = was,
                Undo::Sources(was) => self.config.sources = was,
            }
        }
        ops
    }

    fn undo_vip(&mut self, key: VipKey, was: Option<Box<Vip>>) -> Option<MapOp> {
        let now = self.vips.remove(&key);
        let was = *was?;
        let op = now.and_then(|now| now.restore_ring(&was, self.config.ring_size));
        self.vips.insert(key, was);
        op
    }
}

/// The router and this host.
impl Balancer {
    /// MAC address of the default router.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.config.mac
    }

    /// Sets the MAC address of the default router (`changeMac`).
    pub fn change_mac(&mut self, mac: Mac) -> Vec<MapOp> {
        self.journal.begin();
        self.journal.note(Undo::Mac(self.config.mac));
        self.config.mac = mac;
        vec![write_mac(mac)]
    }

    /// Sets this host's address of one family (`addSrcIpForPcktEncap`).
    pub fn set_source(&mut self, address: IpAddr) -> Vec<MapOp> {
        self.journal.begin();
        self.journal.note(Undo::Sources(self.config.sources));
        match address {
            IpAddr::V4(v4) => self.config.sources.v4 = Some(v4),
            IpAddr::V6(v6) => self.config.sources.v6 = Some(v6),
        }
        vec![write_source(address)]
    }
}

/// VIPs.
impl Balancer {
    /// Adds a VIP without reals (`addVip`). It takes the first free number.
    ///
    /// Until it has a usable real, packets to it go by what the ring of that number last held: a VIP
    /// that had the number before leaves its ring behind, as in katran.
    ///
    /// # Errors
    /// If it exists, or there are no VIPs left.
    pub fn add_vip(&mut self, key: VipKey, flags: u32) -> Result<Vec<MapOp>, CoreError> {
        self.journal.begin();
        let max = self.config.max_vips;
        let num = *self
            .free_vips
            .front()
            .ok_or(CoreError::VipsExhausted { max })?;
        if self.vips.contains_key(&key) {
            return Err(CoreError::VipExists(key));
        }
        self.free_vips.pop_front();
        self.journal.note(Undo::VipNumTaken(num));
        self.vips
            .insert(key, Vip::new(num, flags, self.config.hash_function));
        self.journal.note(Undo::Vip { key, was: None });
        Ok(vec![write_vip(key, num, flags)])
    }

    /// Removes a VIP and its references to reals (`delVip`). Its ring stays in the program.
    ///
    /// # Errors
    /// If there is no such VIP.
    pub fn del_vip(&mut self, key: VipKey) -> Result<Vec<MapOp>, CoreError> {
        self.journal.begin();
        let vip = self.vips.remove(&key).ok_or(CoreError::NoVip(key))?;
        for &num in vip.reals.keys() {
            if let Some(real) = self.reals.by_num(num) {
                self.reals.release(real.address, &mut self.journal);
            }
        }
        self.free_vips.push_back(vip.num);
        self.journal.note(Undo::VipNumFreed);
        self.journal.note(Undo::Vip {
            key,
            was: Some(Box::new(vip)),
        });
        Ok(vec![MapOp::Delete {
            map: name::VIP_MAP,
            key: bytes(&key.definition()),
        }])
    }

    /// Sets or clears flags (`squalus_abi::flags::VIP_*`) of a VIP (`modifyVip`).
    ///
    /// # Errors
    /// If there is no such VIP.
    pub fn modify_vip(
        &mut self,
        key: VipKey,
        flags: u32,
        set: bool,
    ) -> Result<Vec<MapOp>, CoreError> {
        self.journal.begin();
        let vip = self.change_vip(key)?;
        vip.flags = if set {
            vip.flags | flags
        } else {
            vip.flags & !flags
        };
        Ok(vec![write_vip(key, vip.num, vip.flags)])
    }

    /// Fills a VIP's ring another way from now on (`changeHashFunctionForVip`).
    ///
    /// # Errors
    /// If there is no such VIP.
    pub fn change_hash_function(
        &mut self,
        key: VipKey,
        function: HashFunction,
    ) -> Result<Vec<MapOp>, CoreError> {
        self.journal.begin();
        let size = self.config.ring_size;
        let vip = self.change_vip(key)?;
        vip.function = function;
        Ok(vip.refill(size).into_iter().collect())
    }

    /// All VIPs in the order of their addresses (`getAllVips`).
    pub fn vips(&self) -> impl Iterator<Item = VipKey> {
        self.vips.keys().copied()
    }

    /// A VIP's flags (`getVipFlags`); `None` if there is no such VIP.
    #[must_use]
    pub fn vip_flags(&self, key: &VipKey) -> Option<u32> {
        self.vips.get(key).map(|vip| vip.flags)
    }

    /// A VIP's number; `None` if there is no such VIP.
    #[must_use]
    pub fn vip_num(&self, key: &VipKey) -> Option<VipNum> {
        self.vips.get(key).map(|vip| vip.num)
    }

    /// The VIP's ring as the program has it: for each slot the real's index. `None` if there is no such
    /// VIP, or it never had a usable real.
    #[must_use]
    pub fn ring(&self, key: &VipKey) -> Option<&[u32]> {
        self.vips.get(key)?.ring.as_deref()
    }

    /// The VIP to change, noted in the journal.
    fn change_vip(&mut self, key: VipKey) -> Result<&mut Vip, CoreError> {
        let vip = self.vips.get_mut(&key).ok_or(CoreError::NoVip(key))?;
        self.journal.note(Undo::Vip {
            key,
            was: Some(Box::new(vip.clone())),
        });
        Ok(vip)
    }
}

/// Reals of VIPs.
impl Balancer {
    /// Adds reals to a VIP or changes their weights there, or removes them (`modifyRealsForVip`).
    ///
    /// The ring is filled once for the whole batch and only slots that changed are written; none, if no
    /// usable real is left. Items that cannot be are left out and reported.
    ///
    /// # Errors
    /// If there is no such VIP.
    pub fn modify_reals(
        &mut self,
        action: Action,
        reals: &[NewReal],
        key: VipKey,
    ) -> Result<Change, CoreError> {
        self.journal.begin();
        let size = self.config.ring_size;
        let mut members = self.change_vip(key)?.reals.clone();
        let mut change = Change::default();
        for real in reals {
            let outcome = match action {
                Action::Add => self.add_member(real, &mut members, &mut change.ops),
                Action::Delete => self.del_member(real.address, key, &mut members),
            };
            change.refused.extend(outcome.err());
        }
        if let Some(vip) = self.vips.get_mut(&key)
            && vip.reals != members
        {
            vip.reals = members;
            change.ops.extend(vip.refill(size));
        }
        Ok(change)
    }

    fn add_member(
        &mut self,
        real: &NewReal,
        members: &mut BTreeMap<RealNum, VipReal>,
        ops: &mut Vec<MapOp>,
    ) -> Result<(), CoreError> {
        let known = self.reals.get(real.address).map(|known| known.num);
        let num = match known.filter(|num| members.contains_key(num)) {
            Some(num) => num,
            None => {
                let acquired = self
                    .reals
                    .acquire(real.address, real.flags, &mut self.journal);
                let (num, op) = acquired.ok_or(CoreError::RealsExhausted {
                    real: real.address,
                    max: self.config.max_reals - 1,
                })?;
                ops.extend(op);
                num
            }
        };
        members.insert(
            num,
            VipReal {
                weight: real.weight,
                hash: real_hash(real.address),
            },
        );
        Ok(())
    }

    fn del_member(
        &mut self,
        address: IpAddr,
        vip: VipKey,
        members: &mut BTreeMap<RealNum, VipReal>,
    ) -> Result<(), CoreError> {
        let real = self.reals.get(address).ok_or(CoreError::NoReal(address))?;
        if members.remove(&real.num).is_none() {
            return Err(CoreError::NotOfVip { real: address, vip });
        }
        self.reals.release(address, &mut self.journal);
        Ok(())
    }

    /// Sets or clears flags (`squalus_abi::flags::REAL_*`) of a real at all VIPs (`modifyReal`).
    ///
    /// # Errors
    /// If nothing refers to such a real.
    pub fn modify_real(
        &mut self,
        address: IpAddr,
        flags: u8,
        set: bool,
    ) -> Result<Vec<MapOp>, CoreError> {
        self.journal.begin();
        let op = self
            .reals
            .change_flags(address, flags, set, &mut self.journal);
        op.map(|op| vec![op]).ok_or(CoreError::NoReal(address))
    }

    /// A VIP's reals in the order in which they take turns on its ring (`getRealsForVip`).
    ///
    /// # Errors
    /// If there is no such VIP.
    pub fn reals_of(&self, key: &VipKey) -> Result<Vec<RealOfVip>, CoreError> {
        let vip = self.vips.get(key).ok_or(CoreError::NoVip(*key))?;
        let endpoints = vip.endpoints();
        let reals = endpoints.into_iter().filter_map(|endpoint| {
            let real = self.reals.by_num(RealNum(endpoint.num))?;
            Some(RealOfVip {
                address: real.address,
                num: real.num,
                weight: endpoint.weight,
                flags: real.flags,
            })
        });
        Ok(reals.collect())
    }

    /// The index of a real (`getIndexForReal`); `None` if nothing refers to it.
    #[must_use]
    pub fn real_num(&self, address: IpAddr) -> Option<RealNum> {
        self.reals.get(address).map(|real| real.num)
    }

    /// A real's flags without the address family's; `None` if nothing refers to it.
    #[must_use]
    pub fn real_flags(&self, address: IpAddr) -> Option<u8> {
        self.reals.get(address).map(|real| real.flags)
    }

    /// How many VIPs and server ids refer to a real.
    #[must_use]
    pub fn real_references(&self, address: IpAddr) -> u32 {
        self.reals.get(address).map_or(0, |real| real.references)
    }

    /// All reals in the order of their addresses, with their indices (`getNumToRealMap`).
    pub fn reals(&self) -> impl Iterator<Item = (RealNum, IpAddr)> {
        self.reals.iter().map(|real| (real.num, real.address))
    }
}

/// UDP flow migration: reals that are down for a VIP.
impl Balancer {
    /// Moves the VIP's UDP flows away from the real with this index
    /// (`addDownRealToVipToDownRealsMap`), if the VIP has the flag for it.
    ///
    /// # Errors
    /// If there is no such VIP.
    pub fn add_down_real(&mut self, key: VipKey, real: RealNum) -> Result<Vec<MapOp>, CoreError> {
        self.journal.begin();
        self.check_vip(&key)?;
        let was = self.down_reals.get(&key).cloned();
        let outer_key = bytes(&key.definition());
        let create = MapOp::CreateInner {
            map: name::VIP_TO_DOWN_REALS_MAP,
            key: outer_key.clone(),
            spec: MapSpec {
                max_entries: self.config.max_reals,
                ..maps::DOWN_REALS
            },
        };
        let mut ops: Vec<MapOp> = was.is_none().then_some(create).into_iter().collect();
        ops.push(MapOp::UpdateInner {
            map: name::VIP_TO_DOWN_REALS_MAP,
            outer_key,
            key: bytes(&real.0),
            value: vec![0],
        });
        self.down_reals.entry(key).or_default().insert(real);
        self.journal.note(Undo::DownReals { vip: key, was });
        Ok(ops)
    }

    /// Takes that back for one real (`removeRealFromVipToDownRealsMap`).
    ///
    /// # Errors
    /// If there is no such VIP. That the real was not down is none.
    pub fn remove_down_real(
        &mut self,
        key: VipKey,
        real: RealNum,
    ) -> Result<Vec<MapOp>, CoreError> {
        self.journal.begin();
        self.check_vip(&key)?;
        let Some(down) = self.down_reals.get_mut(&key) else {
            return Ok(Vec::new());
        };
        let was = down.clone();
        if !down.remove(&real) {
            return Ok(Vec::new());
        }
        self.journal.note(Undo::DownReals {
            vip: key,
            was: Some(was),
        });
        Ok(vec![MapOp::DeleteInner {
            map: name::VIP_TO_DOWN_REALS_MAP,
            outer_key: bytes(&key.definition()),
            key: bytes(&real.0),
        }])
    }

    /// Takes that back for all reals of a VIP (`removeVipFromVipToDownRealsMap`).
    ///
    /// # Errors
    /// If there is no such VIP. That it had no real down is none.
    pub fn clear_down_reals(&mut self, key: VipKey) -> Result<Vec<MapOp>, CoreError> {
        self.journal.begin();
        self.check_vip(&key)?;
        let Some(was) = self.down_reals.remove(&key) else {
            return Ok(Vec::new());
        };
        self.journal.note(Undo::DownReals {
            vip: key,
            was: Some(was),
        });
        Ok(vec![MapOp::Delete {
            map: name::VIP_TO_DOWN_REALS_MAP,
            key: bytes(&key.definition()),
        }])
    }

    /// Whether a real is down for a VIP (`checkRealFromVipToDownRealsMap`).
    #[must_use]
    pub fn is_down(&self, key: &VipKey, real: RealNum) -> bool {
        self.vips.contains_key(key)
            && self
                .down_reals
                .get(key)
                .is_some_and(|down| down.contains(&real))
    }

    fn check_vip(&self, key: &VipKey) -> Result<(), CoreError> {
        match self.vips.contains_key(key) {
            true => Ok(()),
            false => Err(CoreError::NoVip(*key)),
        }
    }
}

/// Counting session misses of one VIP by real.
impl Balancer {
    /// Counts from now on the session misses of this VIP (`logVipLruMissStats`). The VIP need not exist.
    pub fn log_lru_misses(&mut self, key: VipKey) -> Vec<MapOp> {
        self.journal.begin();
        self.journal.note(Undo::LoggedVip(self.logged_vip));
        self.logged_vip = Some(key);
        let entries = self.config.max_reals;
        vec![
            write_logged_vip(key.definition()),
            MapOp::ZeroPerCpu {
                map: name::LRU_MISS_STATS,
                entries,
            },
        ]
    }

    /// The VIP whose session misses are counted.
    #[must_use]
    pub fn logged_vip(&self) -> Option<VipKey> {
        self.logged_vip
    }
}

fn restore<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, was: Option<V>) {
    match was {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn write_vip(key: VipKey, num: VipNum, flags: u32) -> MapOp {
    MapOp::update(
        name::VIP_MAP,
        &key.definition(),
        &VipMeta {
            flags,
            vip_num: num.0,
        },
    )
}

fn write_mac(mac: Mac) -> MapOp {
    MapOp::update(name::CTL_ARRAY, &consts::CTL_MAC_POS, &CtlValue::mac(mac.0))
}

fn write_logged_vip(vip: VipDefinition) -> MapOp {
    MapOp::update(name::VIP_MISS_STATS, &0u32, &vip)
}

fn write_source(address: IpAddr) -> MapOp {
    let (index, flags) = match address {
        IpAddr::V4(_) => (consts::V4_SRC_INDEX, 0),
        IpAddr::V6(_) => (consts::V6_SRC_INDEX, REAL_IPV6),
    };
    let value = RealDefinition {
        dst: Address::from(address),
        flags,
        pad: [0; 3],
    };
    MapOp::update(name::PCKT_SRCS, &index, &value)
}
