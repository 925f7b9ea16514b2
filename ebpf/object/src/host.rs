//! The running kernel: its types, its configuration, its version. The only part of the crate that reads files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::btf::Btf;
use crate::{BtfError, HostConfig, Object, ObjectError};

/// Where the kernel shows its types.
pub const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Longest configuration that is read; real ones have some 300 KB.
const CONFIG_BYTES: u64 = 16 << 20;

/// Why an object cannot be fitted to the running kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The kernel's types can't be read.
    #[error(
        "the object asks for the running kernel's types, and {file} can't be read: {source}; a kernel with CONFIG_DEBUG_INFO_BTF has them",
        file = TYPES
    )]
    Types {
        /// Why.
        source: io::Error,
    },
    /// The kernel's types are malformed.
    #[error("{file}: {0}", file = TYPES)]
    Btf(#[from] BtfError),
    /// The running kernel's version can't be read.
    #[error("the running kernel's version can't be read from /proc/sys/kernel/osrelease: {0}")]
    Version(String),
    /// The object does not fit.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// The running kernel's types.
///
/// # Errors
/// If they can't be read.
pub fn types() -> Result<Btf, HostError> {
    let bytes = fs::read(TYPES).map_err(|source| HostError::Types { source })?;
    Ok(Btf::from_sysfs_bytes(&bytes)?)
}

/// The running kernel's version and configuration. The latter is that of `/boot/config-RELEASE` or
/// `/proc/config.gz`; where neither can be read, no option is set.
///
/// # Errors
/// If the version can't be read.
pub fn config() -> Result<HostConfig, HostError> {
    let read = |path: &str| fs::read_to_string(path);
    let release =
        read("/proc/sys/kernel/osrelease").map_err(|e| HostError::Version(e.to_string()))?;
    let release = release.trim();
    let version = distribution_version(
        read("/proc/version_signature").ok().as_deref(),
        read("/proc/sys/kernel/version").ok().as_deref(),
    );
    let version = version
        .or_else(|| HostConfig::version_of(release))
        .ok_or_else(|| HostError::Version(format!("it says {release:?}")))?;
    let mut config = HostConfig::new(version);
    let files = [
        PathBuf::from(format!("/boot/config-{release}")),
        PathBuf::from("/proc/config.gz"),
    ];
    if let Some(options) = files.iter().find_map(|file| options(file).ok()) {
        config.add_options(&options);
    }
    Ok(config)
}

/// Ubuntu and Debian name their releases after the first version of a series; what programs are built for stands
/// at the end of Ubuntu's signature (`Ubuntu 5.4.0-12.15-generic 5.4.8`) and after Debian's name (`#1 SMP Debian 5.10.120-1`).
fn distribution_version(signature: Option<&str>, version: Option<&str>) -> Option<u32> {
    let ubuntu = signature.and_then(|s| s.split_whitespace().nth(2));
    let debian = version.and_then(|v| v.split_once("Debian ").map(|(_, rest)| rest));
    HostConfig::version_of(ubuntu.or(debian)?)
}

/// A configuration file, compressed or not.
fn options(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path)?.take(CONFIG_BYTES);
    if path.extension().is_some_and(|e| e == "gz") {
        GzDecoder::new(file)
            .take(CONFIG_BYTES)
            .read_to_end(&mut bytes)?;
    } else {
        file.take(CONFIG_BYTES).read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Object {
    /// Fits the object to the running kernel, as far as it asks: [`Object::relocate_core`] with its types,
    /// [`Object::resolve_config`] with its configuration. An object that asks for neither stays as it is, and
    /// no file is read.
    ///
    /// # Errors
    /// If the kernel doesn't show what the object needs, or doesn't have it.
    pub fn fit_to_host(&mut self) -> Result<(), HostError> {
        if self.needs_core() {
            match types() {
                Ok(types) => self.relocate_core(Some(&types))?,
                // What asks only for the object's own types needs no kernel's.
                Err(error) => self.relocate_core(None).map_err(|_| error)?,
            }
        }
        if self.needs_config() {
            self.resolve_config(&config()?)?;
        }
        Ok(())
    }

    /// As [`Object::fit_to_host`], for loading into the running kernel: calls of its functions get their numbers
    /// too ([`Object::resolve_kfuncs`]).
    ///
    /// # Errors
    /// As [`Object::fit_to_host`].
    pub fn fit_to_kernel(&mut self) -> Result<(), HostError> {
        self.fit_to_host()?;
        if !self.kfuncs.is_empty() {
            self.resolve_kfuncs(&types()?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_say_what_their_kernels_are() {
        let of = distribution_version;
        let ubuntu = Some("Ubuntu 5.4.0-12.15-generic 5.4.8\n");
        assert_eq!(of(ubuntu, None), Some(5 << 16 | 4 << 8 | 8));
        let debian = Some("#1 SMP PREEMPT_DYNAMIC Debian 6.1.128-1 (2025-02-07)\n");
        assert_eq!(of(None, debian), Some(6 << 16 | 1 << 8 | 128));
        assert_eq!(of(None, Some("#1 SMP PREEMPT_DYNAMIC @0")), None);
    }
}
