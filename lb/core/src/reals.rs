//! The reals of all VIPs and server ids: indices, references, flags.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use squalus_abi::flags::REAL_IPV6;
use squalus_abi::maps::name;
use squalus_abi::{Address, RealDefinition};

use crate::journal::{Journal, Undo};
use crate::op::MapOp;
use crate::types::RealNum;

/// A real that something refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Real {
    pub num: RealNum,
    /// How many VIPs and server ids refer to it.
    pub references: u32,
    /// Without the address family's bit.
    pub flags: u8,
    /// As it was first given; an IPv4-mapped IPv6 address is reached by IPv6.
    pub address: IpAddr,
}

impl Real {
    /// The write of the real's entry.
    pub fn write(&self) -> MapOp {
        let family = if self.address.is_ipv6() { REAL_IPV6 } else { 0 };
        let value = RealDefinition {
            dst: Address::from(self.address),
            flags: self.flags | family,
            pad: [0; 3],
        };
        MapOp::update(name::REALS, &self.num.0, &value)
    }
}

/// All reals, by address; an IPv4-mapped IPv6 address is the same real as the IPv4 address (as in folly).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reals {
    free: VecDeque<RealNum>,
    by_address: BTreeMap<IpAddr, Real>,
    by_num: BTreeMap<RealNum, IpAddr>,
}

impl Reals {
    pub fn new(max: u32) -> Self {
        Reals {
            free: (1..max).map(RealNum).collect(),
            by_address: BTreeMap::new(),
            by_num: BTreeMap::new(),
        }
    }

    pub fn get(&self, address: IpAddr) -> Option<&Real> {
        self.by_address.get(&address.to_canonical())
    }

    pub fn by_num(&self, num: RealNum) -> Option<&Real> {
        self.by_address.get(self.by_num.get(&num)?)
    }

    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Real> {
        self.by_address.values()
    }

    /// Takes a reference, giving a new real the next free index and `flags`, and the write of its entry.
    ///
    /// `None` if there is no index left.
    pub fn acquire(
        &mut self,
        address: IpAddr,
        flags: u8,
        journal: &mut Journal,
    ) -> Option<(RealNum, Option<MapOp>)> {
        if let Some(known) = self.get(address) {
            let real = Real {
                references: known.references + 1,
                ..*known
            };
            self.put(real, journal);
            return Some((real.num, None));
        }
        let num = self.free.pop_front()?;
        journal.note(Undo::RealNumTaken(num));
        let real = Real {
            num,
            references: 1,
            flags: flags & !REAL_IPV6,
            address,
        };
        self.put(real, journal);
        Some((num, Some(real.write())))
    }

    /// Gives a reference back; the last one frees the index. The program's entry stays as it is.
    pub fn release(&mut self, address: IpAddr, journal: &mut Journal) {
        let Some(&known) = self.get(address) else {
            return;
        };
        if known.references > 1 {
            self.put(
                Real {
                    references: known.references - 1,
                    ..known
                },
                journal,
            );
            return;
        }
        let key = address.to_canonical();
        journal.note(Undo::Real {
            key,
            was: self.by_address.remove(&key),
        });
        self.by_num.remove(&known.num);
        self.free.push_back(known.num);
        journal.note(Undo::RealNumFreed);
    }

    /// Sets or clears flags and returns the write of the entry; `None` if there is no such real.
    pub fn change_flags(
        &mut self,
        address: IpAddr,
        flags: u8,
        set: bool,
        journal: &mut Journal,
    ) -> Option<MapOp> {
        let known = *self.get(address)?;
        let flags = flags & !REAL_IPV6;
        let flags = if set {
            known.flags | flags
        } else {
            known.flags & !flags
        };
        let real = Real { flags, ..known };
        self.put(real, journal);
        Some(real.write())
    }

    fn put(&mut self, real: Real, journal: &mut Journal) {
        let key = real.address.to_canonical();
        self.by_num.insert(real.num, key);
        journal.note(Undo::Real {
            key,
            was: self.by_address.insert(key, real),
        });
    }

    /// Takes back what the journal says of one real.
    pub fn restore(&mut self, key: IpAddr, was: Option<Real>) {
        if let Some(now) = self.by_address.remove(&key) {
            self.by_num.remove(&now.num);
        }
        if let Some(real) = was {
            self.by_num.insert(real.num, key);
            self.by_address.insert(key, real);
        }
    }

    /// Takes back that an index was handed out.
    pub fn restore_taken(&mut self, num: RealNum) {
        self.free.push_front(num);
    }

    /// Takes back that an index was freed.
    pub fn restore_freed(&mut self) {
        self.free.pop_back();
    }
}
