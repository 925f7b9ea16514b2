//! The trait that kernel and user backends share.

use std::fmt;

use squalus_engine::{Engine, MapAccess};

use crate::error::DataplaneError;

/// A loaded balancer object, forwarding or not.
///
/// Dropping it ends forwarding and leaves nothing attached; [`Dataplane::detach`] does so earlier, and
/// can say what went wrong.
pub trait Dataplane: Send {
    /// The object's maps. Changes take effect on packets that come later, without stopping forwarding.
    fn maps(&self) -> &dyn MapAccess;

    /// What runs where, as asked and as obtained.
    fn info(&self) -> Info;

    /// Ends forwarding and detaches from the interface. Maps stay readable. A second call does nothing.
    ///
    /// # Errors
    /// If something remains attached.
    fn detach(&mut self) -> Result<(), DataplaneError>;
}

impl<D: Dataplane + ?Sized> Dataplane for Box<D> {
    fn maps(&self) -> &dyn MapAccess {
        (**self).maps()
    }

    fn info(&self) -> Info {
        (**self).info()
    }

    fn detach(&mut self) -> Result<(), DataplaneError> {
        (**self).detach()
    }
}

/// What a dataplane is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// `kernel` or `user`, or `none` if nothing is forwarded.
    pub backend: &'static str,
    /// What executes the program: `kernel`, `interp`, `jit`.
    pub engine: String,
    /// The interface, file or other place that frames come from; empty if there is none.
    pub place: String,
    /// How frames were asked to come and go: `native`, `generic`, `af_xdp`, `auto`, ...
    pub asked: String,
    /// How they do.
    pub obtained: String,
    /// CPUs or threads that run the program, as far as known.
    pub workers: usize,
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} backend, engine {}", self.backend, self.engine)?;
        if !self.place.is_empty() {
            write!(f, " on {}", self.place)?;
        }
        match self.asked == self.obtained {
            true => write!(f, ", mode {}", self.obtained),
            false => write!(f, ", mode {} (asked: {})", self.obtained, self.asked),
        }
    }
}

/// An engine with a loaded object and no port: forwards nothing, but can be provisioned, run frame by
/// frame and read.
#[derive(Debug)]
pub struct Offline<E>(pub E);

impl<E: Engine> Dataplane for Offline<E> {
    fn maps(&self) -> &dyn MapAccess {
        &self.0
    }

    fn info(&self) -> Info {
        Info {
            backend: "none",
            engine: self.0.name().to_owned(),
            place: String::new(),
            asked: "offline".to_owned(),
            obtained: "offline".to_owned(),
            workers: self.0.cpus(),
        }
    }

    fn detach(&mut self) -> Result<(), DataplaneError> {
        Ok(())
    }
}
