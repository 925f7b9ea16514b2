//! One balancer on one interface.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context, Result, bail};

/// While it exists, nobody else has one for the same interface of the same network namespace. The kernel
/// takes it back however the process ends.
#[derive(Debug)]
pub struct Only {
    _socket: UnixListener,
}

impl Only {
    /// Claims the interface, on which no XDP program may be.
    ///
    /// # Errors
    /// If another balancer or XDP program is there, saying which.
    pub fn on(interface: &str) -> Result<Only> {
        // Abstract names belong to the network namespace, as interfaces do.
        let name = SocketAddr::from_abstract_name(format!("squalus/interface/{interface}"))?;
        let socket = match UnixListener::bind_addr(&name) {
            Ok(socket) => socket,
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                bail!(
                    "another squalus balances on `{interface}` already: stop it first, or choose another interface"
                )
            }
            Err(error) => return Err(error).context("cannot claim the interface"),
        };
        if let Some(program) = squalus_kernel::attached_program(interface)? {
            bail!(
                "`{interface}` has an XDP program already ({program}): detach it first (`ip link set dev {interface} xdp off`), \
                 or choose another interface"
            );
        }
        Ok(Only { _socket: socket })
    }
}
