//! The control plane over gRPC: katran's service, answered by a controller.
//!
//! Start order matters. [`Listener::bind`] comes first, so that a port in use is known before anything is
//! loaded or attached; then the dataplane is loaded and its controller made; then [`Listener::run`] serves
//! until a signal, waits the shutdown delay (the time in which routers learn to send traffic elsewhere)
//! while forwarding goes on, and detaches.
//!
//! The service has no authentication, as katran's has none. katran listens on all addresses; here the
//! default is loopback ([`DEFAULT_ADDRESS`]), and others are used if asked for.
#![forbid(unsafe_code)]

mod convert;
mod error;
mod listener;
mod service;
mod termination;

pub use error::ServerError;
pub use listener::{DEFAULT_ADDRESS, Listener};
pub use service::{KatranService, Options, SharedController};
pub use termination::Termination;
