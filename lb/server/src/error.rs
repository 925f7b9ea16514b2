//! Why the server cannot start or ended badly.

use std::io;
use std::net::SocketAddr;

use squalus_dataplane::DataplaneError;

/// Why the server cannot start or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address to listen on is none.
    #[error("cannot listen on `{text}`: {reason}; write it as 127.0.0.1:50051 or [::1]:50051")]
    Address {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process listens there.
    #[error(
        "cannot listen on {0}: the port is in use; is another balancer running? Stop it, or choose another port"
    )]
    InUse(SocketAddr),
    /// The system refuses to listen there.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The event loop or signal handlers could not be set up.
    #[error("cannot set up the server: {0}")]
    Setup(#[source] io::Error),
    /// Serving failed.
    #[error("the gRPC server failed: {0}")]
    Serve(#[source] tonic::transport::Error),
    /// The dataplane did not end cleanly.
    #[error("stopping: {0}")]
    Detach(#[source] DataplaneError),
}
