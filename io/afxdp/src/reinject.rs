//! The way back: what comes out of a tap goes on as if it had come in by the interface.
//!
//! A frame that the program in userspace passes is written to a tap, and the host would take it for one that
//! came in by the tap: its routing, its filters and its address resolution would look at the wrong interface,
//! and it would answer there. A program of four instructions at the tap's entrance sends each frame on to the
//! entrance of the interface that it came in by, behind XDP; from there the host goes on as if there were no
//! program in userspace at all. It is attached through a link, so it goes with the process.
//!
//! Only where steering runs in the driver: generic XDP stands behind the entrance and would take the frame
//! again.

use std::os::fd::OwnedFd;

use squalus_port::{Interface, PortError};

use crate::bpf::{self, Hook};
use crate::steer::{AttachMode, NEEDS, Steering};

const MOVE_IMM: u64 = 0xb7;
const CALL: u64 = 0x85;
const EXIT: u64 = 0x95;
const HELPER_REDIRECT: u64 = 23;
/// `BPF_F_INGRESS`: towards the host, not out of the interface.
const INGRESS: u64 = 1;

/// A tap whose frames go on as another interface's, as long as this lives.
#[derive(Debug)]
pub struct Reinjection {
    _link: OwnedFd,
}

impl Reinjection {
    /// Lets what is written to `tap` reach the host's stack as if it had come in by the interface that
    /// `steering` is attached to.
    ///
    /// # Errors
    /// [`PortError::NoInterface`]; [`PortError::Unsupported`] if steering runs in generic mode; [`PortError::System`] on kernels before 6.6; [`PortError::Privilege`].
    pub fn open(tap: &str, steering: &Steering) -> Result<Reinjection, PortError> {
        let interface = steering.interface();
        if steering.mode() != AttachMode::Native {
            return Err(PortError::Unsupported {
                interface: interface.name.clone(),
                what: "frames that come back behind XDP: it runs in generic mode".into(),
            });
        }
        let tap = Interface::by_name(tap)?;
        let immediate = |register: u64, value: u64| MOVE_IMM | register << 8 | value << 32;
        let code = [
            immediate(1, interface.index.into()),
            immediate(2, INGRESS),
            CALL | HELPER_REDIRECT << 32,
            EXIT,
        ];
        let failed = |what: String| move |error| PortError::from_io(error, what, NEEDS);
        let program = bpf::load(Hook::TcIngress, "sq_reinject", &code, false)
            .map_err(failed("loading the program of the way back".into()))?;
        let link = bpf::link(Hook::TcIngress, &program, tap.index, 0).map_err(failed(format!(
            "attaching to the entrance of `{}`, which takes Linux 6.6",
            tap.name
        )))?;
        Ok(Reinjection { _link: link })
    }
}
