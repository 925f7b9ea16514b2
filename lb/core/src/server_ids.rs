//! Server ids: which real a QUIC connection id (or another id in the packet) names.

use std::collections::BTreeMap;
use std::net::IpAddr;

use squalus_abi::maps::name;

use crate::balancer::Balancer;
use crate::error::CoreError;
use crate::journal::Undo;
use crate::op::MapOp;
use crate::types::{Action, Change, RealNum, ServerId};

/// The largest id that is not connection id version 3's (`kMaxQuicIdV2`).
const MAX_ID: u32 = 0x00ff_fffe;

impl Balancer {
    /// Gives reals server ids, or takes them away (`modifyQuicRealsMapping`).
    ///
    /// Taking away leaves the program's entry in place, as in katran: packets that carry the id go on to
    /// the real until the id is given to another, or [`Balancer::invalidate_server_ids`] is called.
    pub fn modify_server_ids(&mut self, action: Action, ids: &[ServerId]) -> Change {
        self.journal.begin();
        let mut change = Change::default();
        let mut writes = BTreeMap::new();
        for &item in ids {
            let outcome = match action {
                Action::Add => self.add_server_id(item, &mut change.ops),
                Action::Delete => self.del_server_id(item).map(|()| None),
            };
            match outcome {
                Ok(Some(num)) => drop(writes.insert(item.id, num)),
                Ok(None) => {}
                Err(error) => change.refused.push(error),
            }
        }
        let writes = writes.into_iter().map(|(id, num)| write(id, num.0));
        change.ops.extend(writes);
        change
    }

    /// The server ids, ascending.
    pub fn server_ids(&self) -> impl Iterator<Item = ServerId> {
        let ids = self.server_ids.iter();
        ids.map(|(&id, &address)| ServerId { id, address })
    }

    /// Makes the program forget ids without changing the mapping (`invalidateServerIds`).
    ///
    /// Of a hash (connection id version 3) only ids that are mapped are deleted.
    #[must_use]
    pub fn invalidate_server_ids(&self, ids: &[u32]) -> Vec<MapOp> {
        let mapped = ids.iter().filter(|id| self.server_ids.contains_key(id));
        match self.config.cid_v3 {
            false => ids.iter().map(|&id| write(id, 0)).collect(),
            true => mapped
                .map(|id| MapOp::Delete {
                    map: name::SERVER_ID_MAP,
                    key: id.to_ne_bytes().into(),
                })
                .collect(),
        }
    }

    /// Tells the program again which reals ids stand for (`revalidateServerIds`). The mapping itself is
    /// not changed; reals that nothing refers to are refused.
    #[must_use]
    pub fn revalidate_server_ids(&self, ids: &[ServerId]) -> Change {
        let mut change = Change::default();
        for item in ids {
            match self.reals.get(item.address) {
                Some(real) => change.ops.push(write(item.id, real.num.0)),
                None => change.refused.push(CoreError::NoReal(item.address)),
            }
        }
        change
    }

    /// Maps one id. The index to write, or `None` if it was mapped so already.
    fn add_server_id(
        &mut self,
        item: ServerId,
        ops: &mut Vec<MapOp>,
    ) -> Result<Option<RealNum>, CoreError> {
        self.check_id(item.id)?;
        let owner = self.server_ids.get(&item.id).copied();
        if owner.is_some_and(|owner| same_real(owner, item.address)) {
            return Ok(None);
        }
        let frees_index = |owner| {
            self.reals
                .get(owner)
                .is_some_and(|real| real.references == 1)
        };
        let fits = self.reals.get(item.address).is_some()
            || self.reals.has_room()
            || owner.is_some_and(frees_index);
        let exhausted = CoreError::RealsExhausted {
            real: item.address,
            max: self.config.max_reals - 1,
        };
        if !fits {
            return Err(exhausted);
        }
        if let Some(owner) = owner {
            self.reals.release(owner, &mut self.journal);
        }
        let (num, op) = self
            .reals
            .acquire(item.address, 0, &mut self.journal)
            .ok_or(exhausted)?;
        ops.extend(op);
        let was = self.server_ids.insert(item.id, item.address);
        self.journal.note(Undo::ServerId { id: item.id, was });
        Ok(Some(num))
    }

    fn del_server_id(&mut self, item: ServerId) -> Result<(), CoreError> {
        self.check_id(item.id)?;
        let owner = *self
            .server_ids
            .get(&item.id)
            .ok_or(CoreError::NoServerId(item.id))?;
        if !same_real(owner, item.address) {
            return Err(CoreError::ServerIdOfOther {
                id: item.id,
                owner,
                given: item.address,
            });
        }
        self.reals.release(owner, &mut self.journal);
        let was = self.server_ids.remove(&item.id);
        self.journal.note(Undo::ServerId { id: item.id, was });
        Ok(())
    }

    fn check_id(&self, id: u32) -> Result<(), CoreError> {
        if id > MAX_ID && !self.config.cid_v3 {
            return Err(CoreError::ServerIdRange { id, max: MAX_ID });
        }
        Ok(())
    }
}

fn same_real(a: IpAddr, b: IpAddr) -> bool {
    a.to_canonical() == b.to_canonical()
}

fn write(id: u32, real: u32) -> MapOp {
    MapOp::update(name::SERVER_ID_MAP, &id, &real)
}
