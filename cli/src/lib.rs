//! The `squalus` command and the entry points that katran's users know.
//!
//! Commands are thin: they parse, call a library, and print. Exit codes are 0 for success, 1 for a finding
//! (a replay that does not match, a demo that fails), 2 for wrong usage or an error.
#![forbid(unsafe_code)]

pub mod bench;
pub mod dashes;
pub mod goclient;
pub mod katran_server;
pub mod objects;
pub mod prog;
