//! What can go wrong while hosts are made.

use std::io;

/// Why a host or its network could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TestkitError {
    /// The kernel refused a system call.
    #[error("{what} failed: {source}{}", hint(source))]
    System {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("{what} failed: {reason}")]
    Netlink {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        reason: String,
    },
    /// An interface could not be set up.
    #[error(transparent)]
    Port(#[from] squalus_port::PortError),
    /// An HTTP exchange failed.
    #[error("HTTP request to {url} failed: {reason}")]
    Http {
        /// The address asked.
        url: String,
        /// Why.
        reason: String,
    },
}

impl TestkitError {
    /// For `map_err`: names what was tried.
    pub fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> TestkitError {
        let what = what.into();
        move |source| TestkitError::System { what, source }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSPC) => {
            " (run as root, or allow unprivileged user namespaces: user.max_user_namespaces>0, and where they \
             exist kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0)"
        }
        _ => "",
    }
}
