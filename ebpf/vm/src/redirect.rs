//! Where redirected frames are to go.

use squalus_maps::Target;
use squalus_runtime::{FrameRef, Redirect};

/// Where a frame with verdict `XDP_REDIRECT` is to go. Taking it there is the matter of whoever runs the
/// worker: the engine knows no interfaces.
///
/// Programs are numbers: places in [`crate::Engine::programs`], for [`crate::Worker::run_program`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere: the program said so without choosing a target. The kernel drops such a frame.
    #[default]
    Nowhere,
    /// Out of an interface.
    Device {
        /// The interface's index.
        ifindex: u32,
        /// The program that has the last word on the frame there: only with `XDP_PASS` it leaves.
        program: Option<u32>,
    },
    /// Out of all interfaces of a map ([`crate::Worker::next_device`] lists them).
    Devices {
        /// The map's number.
        map: u32,
        /// Whether the interface that the frame came in by is left out.
        exclude_ingress: bool,
    },
    /// To the host's stack, on another CPU.
    Cpu {
        /// The CPU.
        cpu: u32,
        /// The program that has the last word on the frame there.
        program: Option<u32>,
    },
    /// To an AF_XDP socket.
    Socket {
        /// The value of the map's entry.
        id: u32,
    },
}

impl Destination {
    pub(crate) fn of(frame: &FrameRef<'_>) -> Destination {
        match frame.redirect() {
            Redirect::Nowhere => Destination::Nowhere,
            Redirect::Interface(ifindex) => Destination::Device {
                ifindex,
                program: None,
            },
            Redirect::Entry { target, .. } => match target {
                Target::Device { ifindex, program } => Destination::Device { ifindex, program },
                Target::Cpu { cpu, program, .. } => Destination::Cpu { cpu, program },
                Target::Socket { id } => Destination::Socket { id },
            },
            Redirect::Broadcast {
                map,
                exclude_ingress,
            } => Destination::Devices {
                map,
                exclude_ingress,
            },
        }
    }
}
