//! How the last change is taken back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::reals::Real;
use crate::types::{Mac, RealNum, Sources, VipKey, VipNum};
use crate::vip::Vip;

/// One step of a change, with what was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Undo {
    Vip {
        key: VipKey,
        was: Option<Box<Vip>>,
    },
    VipNumTaken(VipNum),
    VipNumFreed,
    Real {
        key: IpAddr,
        was: Option<Real>,
    },
    RealNumTaken(RealNum),
    RealNumFreed,
    ServerId {
        id: u32,
        was: Option<IpAddr>,
    },
    DownReals {
        vip: VipKey,
        was: Option<BTreeSet<RealNum>>,
    },
    LoggedVip(Option<VipKey>),
    Mac(Mac),
    Sources(Sources),
}

/// The steps of the change being made or made last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal(Vec<Undo>);

impl Journal {
    /// Starts a change: the one before can no longer be taken back.
    pub fn begin(&mut self) {
        self.0.clear();
    }

    pub fn note(&mut self, step: Undo) {
        self.0.push(step);
    }

    /// The latest step not yet taken back.
    pub fn pop(&mut self) -> Option<Undo> {
        self.0.pop()
    }
}
