//! What can go wrong between the control plane and the maps.

use squalus_core::CoreError;
use squalus_engine::EngineError;

/// Why a change, a reading or the loading failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The balancer refuses. Nothing has changed.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// The maps refused a change, which was taken back.
    #[error("the data plane refuses the change, nothing has changed: {0}")]
    Refused(#[source] EngineError),
    /// The maps refused a change, and then to have it taken back.
    #[error(
        "the data plane refuses the change ({refusal}) and to take back what was done of it ({restoring}): \
         it no longer agrees with the configuration, restart the balancer"
    )]
    Torn {
        /// Why the change was refused.
        refusal: EngineError,
        /// Why taking back was.
        restoring: EngineError,
    },
    /// A map could not be read.
    #[error("cannot read counters: {0}")]
    Read(#[source] EngineError),
    /// The object is no balancer.
    #[error(
        "the object has no map `{0}`, so it is not a balancer program; load balancer.bpf.o or katran's"
    )]
    MissingMap(&'static str),
    /// A map of the object has another layout.
    #[error(
        "map `{map}` has {what} {got}, but the balancer needs {want}; load an object built for these sizes"
    )]
    MapShape {
        /// The map.
        map: &'static str,
        /// Which of its properties.
        what: &'static str,
        /// What it has.
        got: u64,
        /// What is needed.
        want: u64,
    },
    /// The object shows this host's address in outer headers and none was given.
    #[error(
        "the object encapsulates with this host's address (it has the map `pckt_srcs`); give an IPv4 or IPv6 source address"
    )]
    NoSource,
    /// Session tables that cannot be.
    #[error("session tables: {0}")]
    Sessions(String),
    /// Writing the first contents failed.
    #[error("cannot prepare the loaded program: {0}")]
    Load(#[source] EngineError),
    /// A session table could not be made.
    #[error(
        "cannot create the session table of CPU {cpu} with {entries} entries (is there enough memory for it?): {source}"
    )]
    SessionTable {
        /// The CPU.
        cpu: u32,
        /// Its entries.
        entries: u32,
        /// Why.
        #[source]
        source: EngineError,
    },
}

/// Why a dataplane could not be started or ended.
///
/// Backends have their own reasons; this carries the text that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DataplaneError {
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl DataplaneError {
    /// An error of its own.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        DataplaneError {
            message: message.into(),
            source: None,
        }
    }

    /// An error that another one caused. The message should include what matters of the cause.
    #[must_use]
    pub fn caused(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        DataplaneError {
            message: message.into(),
            source: Some(source.into()),
        }
    }
}
