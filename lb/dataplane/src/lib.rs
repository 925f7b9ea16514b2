//! What forwards packets, and how it is told what to do.
//!
//! A [`Dataplane`] is a loaded balancer object that may be forwarding: in the kernel, attached to an
//! interface; or in our own engine, fed by a port. The control plane sees neither. It sees the object's
//! maps, and [`Controller`] keeps them in step with the balancer's state (`squalus-core`): it loads what a
//! fresh program must know, applies the operations of every change in order, takes a change back that the
//! maps refuse, and sums what the program counts on all CPUs.
//!
//! Any loaded object will do, also one that forwards nothing ([`Offline`]), which is how recordings are
//! replayed and programs tested.
#![forbid(unsafe_code)]

pub mod controller;
mod dataplane;
mod error;
mod kernel;
mod load;
pub mod memory;
pub mod user;

pub use controller::{Controller, SessionTables, Settings};
pub use dataplane::{Dataplane, Info, Offline};
pub use error::{ControlError, DataplaneError};
pub use kernel::KernelDataplane;
pub use load::LoadOptions;
pub use user::UserDataplane;
