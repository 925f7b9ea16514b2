//! The `squalus` command and the entry points that katran's users know.
//!
//! Commands are thin: they parse, call a library, and print. Exit codes are 0 for success, 1 for a finding
//! (a replay that does not match, a demo that fails), 2 for wrong usage or an error.
#![forbid(unsafe_code)]

pub mod bench;
pub mod dashes;
pub mod decap;
pub mod demo;
pub mod goclient;
pub mod katran_server;
pub mod objects;
mod only;
pub mod prog;
pub mod serve;

/// Messages go to standard error, from `info` up or as `RUST_LOG` says; standard output is for data.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second call, as tests make, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .try_init();
}
