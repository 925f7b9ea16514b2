//! Decapsulation on a real: our own XDP program, for hosts whose kernel has no IPIP devices.

use anyhow::Result;
use squalus_dataplane::user::{PortOptions, UserOptions};
use squalus_dataplane::{KernelDataplane, LoadOptions, UserDataplane};
use squalus_kernel::Mode;
use squalus_port::PortRequest;

use crate::objects;

/// Frames of the port in userspace: replies don't pass it, so a few do.
const FRAMES: u32 = 1024;

/// A decapsulating program on an interface, until it is dropped.
#[derive(Debug)]
pub enum Decap {
    /// In the kernel.
    Kernel(KernelDataplane),
    /// In userspace, which takes no rights to load programs.
    User(UserDataplane),
}

impl Decap {
    /// Decapsulates in the kernel, on an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// If the program can't be loaded or attached.
    pub fn in_kernel(interface: &str) -> Result<Decap> {
        attach(interface, &LoadOptions::default())
    }

    /// Decapsulates in userspace, from copies of what arrives at `interface`. The host gets the inner
    /// packets through `inject`, one end of a veth pair whose other end has the hardware address of
    /// `interface`; the outer ones it has seen, and must have no use for.
    ///
    /// # Errors
    /// If the program can't be loaded or an interface can't be opened.
    pub fn in_userspace(interface: &str, inject: &str) -> Result<Decap> {
        let mut dataplane = UserDataplane::load(objects::DECAP, UserOptions::default())?;
        dataplane.start_on(&PortOptions {
            request: PortRequest::AfPacket,
            inject: Some(inject.to_owned()),
            frames: FRAMES,
            ..PortOptions::new(interface)
        })?;
        Ok(Decap::User(dataplane))
    }

    /// Passes everything up as it is: what the other end of a veth needs so that a program in the kernel
    /// can send frames to it.
    ///
    /// # Errors
    /// If the program can't be loaded or attached.
    pub fn pass_all(interface: &str) -> Result<Decap> {
        let nowhere = vec![("any_destination".to_owned(), vec![0])];
        let options = LoadOptions {
            globals: nowhere,
            ..LoadOptions::default()
        };
        attach(interface, &options)
    }
}

fn attach(interface: &str, options: &LoadOptions) -> Result<Decap> {
    let mut dataplane = KernelDataplane::load(objects::DECAP, options)?;
    dataplane.attach(interface, Mode::Auto)?;
    Ok(Decap::Kernel(dataplane))
}
