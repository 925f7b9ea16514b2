//! State and maps kept together.

mod apply;
pub(crate) mod load;
mod stats;

use std::net::IpAddr;

use squalus_core::{
    Action, Balancer, Config, CoreError, HashFunction, Mac, MapOp, NewReal, RealNum, ServerId,
    VipKey,
};

use crate::dataplane::Dataplane;
use crate::error::ControlError;

/// Session tables: one for each CPU that forwards, in `lru_mapping`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionTables {
    /// Entries of all tables together; each CPU gets an equal share.
    pub entries: u64,
    /// The CPUs (workers) that forward. Others, and all if this is empty, share the small
    /// `fallback_cache`.
    pub cpus: Vec<u32>,
}

impl SessionTables {
    /// katran's default size.
    pub const DEFAULT_ENTRIES: u64 = 8_000_000;
}

impl Default for SessionTables {
    fn default() -> Self {
        SessionTables {
            entries: Self::DEFAULT_ENTRIES,
            cpus: Vec::new(),
        }
    }
}

/// What a controller starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Of the balancer.
    pub balancer: Config,
    /// Of the session tables.
    pub sessions: SessionTables,
}

/// A balancer and the dataplane that forwards by it.
#[derive(Debug)]
pub struct Controller<D> {
    dataplane: D,
    balancer: Balancer,
    sessions: SessionTables,
}

impl<D: Dataplane> Controller<D> {
    /// Takes over a freshly loaded object: checks that it is a balancer of the right sizes, creates the
    /// session tables, and writes what katran's `loadBpfProgs` writes.
    ///
    /// If the object's `server_id_map` is a hash, server ids may have 32 bits.
    ///
    /// # Errors
    /// If the object or the settings won't do. The dataplane is dropped then, which detaches it.
    pub fn load(dataplane: D, settings: Settings) -> Result<Self, ControlError> {
        let Settings {
            mut balancer,
            sessions,
        } = settings;
        let maps = dataplane.maps();
        let object = load::Object::check(&maps.maps(), &balancer)?;
        balancer.cid_v3 |= object.server_ids_are_hashed;
        let balancer = Balancer::new(balancer)?;
        load::create_session_tables(maps, &object, &sessions)?;
        load::write_first_contents(maps, &object, &balancer)?;
        Ok(Controller {
            dataplane,
            balancer,
            sessions,
        })
    }

    /// The state, for reading.
    #[must_use]
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// The session tables.
    #[must_use]
    pub fn sessions(&self) -> &SessionTables {
        &self.sessions
    }

    /// The dataplane, for reading.
    #[must_use]
    pub fn dataplane(&self) -> &D {
        &self.dataplane
    }

    /// The dataplane, for what is not the control plane's (running frames, detaching).
    pub fn dataplane_mut(&mut self) -> &mut D {
        &mut self.dataplane
    }

    /// Gives the dataplane back, with its maps as they are.
    #[must_use]
    pub fn into_dataplane(self) -> D {
        self.dataplane
    }

    /// Makes a change: of the state first, then of the maps; of neither if either refuses.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Balancer) -> Result<(Vec<MapOp>, T), CoreError>,
    ) -> Result<T, ControlError> {
        let (ops, outcome) = change(&mut self.balancer)?;
        self.commit(&ops)?;
        Ok(outcome)
    }

    /// Applies operations of the balancer's last change, or takes the change back.
    fn commit(&mut self, ops: &[MapOp]) -> Result<(), ControlError> {
        let maps = self.dataplane.maps();
        apply::apply(maps, ops).map_err(|failure| {
            let rings = self.balancer.undo();
            failure.take_back(maps, &rings)
        })
    }
}

/// Changes. All of them either take effect in state and maps, or leave both as they were.
///
/// # Errors
/// [`ControlError::Core`] if the balancer refuses, [`ControlError::Refused`] if the maps do.
impl<D: Dataplane> Controller<D> {
    /// See [`Balancer::change_mac`].
    ///
    /// # Errors
    /// If the maps refuse.
    pub fn change_mac(&mut self, mac: Mac) -> Result<(), ControlError> {
        self.change(|lb| Ok((lb.change_mac(mac), ())))
    }

    /// See [`Balancer::set_source`].
    ///
    /// # Errors
    /// If the maps refuse; the object need not have any for it.
    pub fn set_source(&mut self, address: IpAddr) -> Result<(), ControlError> {
        self.change(|lb| Ok((lb.set_source(address), ())))
    }

    /// See [`Balancer::add_vip`].
    ///
    /// # Errors
    /// If the VIP exists, there are no VIPs left, or the maps refuse.
    pub fn add_vip(&mut self, vip: VipKey, flags: u32) -> Result<(), ControlError> {
        self.change(|lb| Ok((lb.add_vip(vip, flags)?, ())))
    }

    /// See [`Balancer::del_vip`].
    ///
    /// # Errors
    /// If there is no such VIP, or the maps refuse.
    pub fn del_vip(&mut self, vip: VipKey) -> Result<(), ControlError> {
        self.change(|lb| Ok((lb.del_vip(vip)?, ())))
    }

    /// See [`Balancer::modify_vip`].
    ///
    /// # Errors
    /// If there is no such VIP, or the maps refuse.
    pub fn modify_vip(&mut self, vip: VipKey, flags: u32, set: bool) -> Result<(), ControlError> {
        self.change(|lb| Ok((lb.modify_vip(vip, flags, set)?, ())))
    }

    /// See [`Balancer::change_hash_function`].
    ///
    /// # Errors
    /// If there is no such VIP, or the maps refuse.
    pub fn change_hash_function(
        &mut self,
        vip: VipKey,
        function: HashFunction,
    ) -> Result<(), ControlError> {
        self.change(|lb| Ok((lb.change_hash_function(vip, function)?, ())))
    }

    /// See [`Balancer::modify_reals`]. Returns why items were left out.
    ///
    /// # Errors
    /// If there is no such VIP, or the maps refuse.
    pub fn modify_reals(
        &mut self,
        action: Action,
        reals: &[NewReal],
        vip: VipKey,
    ) -> Result<Vec<CoreError>, ControlError> {
        self.change(|lb| {
            let change = lb.modify_reals(action, reals, vip)?;
            Ok((change.ops, change.refused))
        })
    }

    /// See [`Balancer::modify_real`].
    ///
    /// # Errors
    /// If nothing refers to such a real, or the maps refuse.
    pub fn modify_real(&mut self, real: IpAddr, flags: u8, set: bool) -> Result<(), ControlError> {
        self.change(|lb| Ok((lb.modify_real(real, flags, set)?, ())))
    }

    /// See [`Balancer::modify_server_ids`]. Returns why items were left out.
    ///
    /// # Errors
    /// If the maps refuse.
    pub fn modify_server_ids(
        &mut self,
        action: Action,
        ids: &[ServerId],
    ) -> Result<Vec<CoreError>, ControlError> {
        self.change(|lb| {
            let change = lb.modify_server_ids(action, ids);
            Ok((change.ops, change.refused))
        })
    }

    /// See [`Balancer::add_down_real`].
    ///
    /// # Errors
    /// If there is no such VIP, or the maps refuse.
    pub fn add_down_real(&mut self, vip: VipKey, real: RealNum) -> Result<(), ControlError> {
        self.change(|lb| Ok((lb.add_down_real(vip, real)?, ())))
    }

    /// See [`Balancer::remove_down_real`].
    ///
    /// # Errors
    /// If there is no such VIP, or the maps refuse.
    pub fn remove_down_real(&mut self, vip: VipKey, real: RealNum) -> Result<(), ControlError> {
        self.change(|lb| Ok((lb.remove_down_real(vip, real)?, ())))
    }

    /// See [`Balancer::clear_down_reals`].
    ///
    /// # Errors
    /// If there is no such VIP, or the maps refuse.
    pub fn clear_down_reals(&mut self, vip: VipKey) -> Result<(), ControlError> {
        self.change(|lb| Ok((lb.clear_down_reals(vip)?, ())))
    }

    /// See [`Balancer::log_lru_misses`].
    ///
    /// # Errors
    /// If the maps refuse.
    pub fn log_lru_misses(&mut self, vip: VipKey) -> Result<(), ControlError> {
        self.change(|lb| Ok((lb.log_lru_misses(vip), ())))
    }
}
