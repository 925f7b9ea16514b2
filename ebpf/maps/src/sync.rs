//! What threads share, through one door: the crate takes atomics, fences, locks and spinning from here
//! only, so that a model checker can stand in their place (feature `model`).

#[cfg(feature = "model")]
mod modelled;

#[cfg(feature = "model")]
pub(crate) use modelled::{Mutex, MutexGuard, PoisonError, atomic, hint, thread};

#[cfg(all(feature = "model", test))]
pub(crate) use modelled::check;

#[cfg(not(feature = "model"))]
pub(crate) use std::{
    hint,
    sync::{Mutex, MutexGuard, PoisonError, atomic},
    thread,
};
