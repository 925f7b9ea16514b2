//! The BPF objects, built in, and files in their place.

use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The balancer, as committed and checked against its source.
pub const BALANCER: &[u8] = include_bytes!("../../bpf/objects/balancer.bpf.o");
/// The decapsulation of a real.
pub const DECAP: &[u8] = include_bytes!("../../bpf/objects/decap.bpf.o");

/// The bytes of `file`, or the built-in balancer.
///
/// # Errors
/// If the file cannot be read.
pub fn balancer(file: Option<&Path>) -> Result<Vec<u8>> {
    match file {
        Some(path) => std::fs::read(path)
            .with_context(|| format!("cannot read the object {}", path.display())),
        None => Ok(BALANCER.to_vec()),
    }
}

/// SHA-256 in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
