//! Decapsulation on a real: our own XDP program, for hosts whose kernel has no IPIP devices.

use anyhow::Result;
use squalus_dataplane::{KernelDataplane, LoadOptions};
use squalus_kernel::Mode;

use crate::objects;

/// Decapsulates on an interface until it is dropped.
#[derive(Debug)]
pub struct Decap {
    _dataplane: KernelDataplane,
}

impl Decap {
    /// Starts on an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// If the program can't be loaded or attached.
    pub fn start(interface: &str) -> Result<Decap> {
        Decap::attach(interface, &LoadOptions::default())
    }

    /// Passes everything up as it is: what the other end of a veth needs so that a program can send frames to it.
    ///
    /// # Errors
    /// If the program can't be loaded or attached.
    pub fn pass_all(interface: &str) -> Result<Decap> {
        let nowhere = vec![("any_destination".to_owned(), vec![0])];
        let options = LoadOptions {
            globals: nowhere,
            ..LoadOptions::default()
        };
        Decap::attach(interface, &options)
    }

    fn attach(interface: &str, options: &LoadOptions) -> Result<Decap> {
        let mut dataplane = KernelDataplane::load(objects::DECAP, options)?;
        dataplane.attach(interface, Mode::Auto)?;
        Ok(Decap {
            _dataplane: dataplane,
        })
    }
}
