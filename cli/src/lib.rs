//! The `squalus` command and the entry points that katran's users know.
//!
//! Commands are thin: they parse, call a library, and print. Exit codes are 0 for success, 1 for a finding
//! (a replay that does not match, a demo that fails), 2 for wrong usage or an error.
#![forbid(unsafe_code)]

use std::io::IsTerminal;

pub mod bench;
mod clock;
pub mod dashes;
pub mod decap;
pub mod demo;
pub mod goclient;
pub mod katran_server;
pub mod objects;
mod only;
pub mod prog;
pub mod serve;

/// An error with its causes, leaving out those whose text is part of what was said before.
#[must_use]
pub fn explain(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !said.contains(&cause) {
            let colon = if said.is_empty() { "" } else { ": " };
            said.push_str(colon);
            said.push_str(&cause);
        }
    }
    said
}

/// Messages go to standard error, from `info` up or as `RUST_LOG` says, in colour on terminals only;
/// standard output is for data.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second call, as tests make, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .try_init();
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    #[test]
    fn causes_are_said_once() {
        let error = anyhow!("no such file").context("cannot read x: no such file");
        assert_eq!(super::explain(&error), "cannot read x: no such file");
        let error = anyhow!("EPERM").context("cannot load");
        assert_eq!(super::explain(&error), "cannot load: EPERM");
    }
}
