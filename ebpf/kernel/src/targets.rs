//! Programs in values of maps: numbers outside, descriptors and identifiers inside.
//!
//! In the traits a program is its place in [`Engine::programs`](squalus_engine::Engine::programs), as in the
//! userspace engine. The kernel takes a descriptor and gives back its own number of the program.

use std::os::fd::AsRawFd;

use squalus_isa::{Errno, MapType};

use crate::KernelEngine;

/// How the values of a map name programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Programs {
    /// Not at all.
    None,
    /// The value is a program's place.
    Value,
    /// The value's second half is a program's place plus one, or none.
    SecondHalf,
}

impl Programs {
    pub(crate) fn of(kind: MapType) -> Programs {
        match kind {
            MapType::ProgArray => Programs::Value,
            MapType::DevMap | MapType::DevMapHash | MapType::CpuMap => Programs::SecondHalf,
            _ => Programs::None,
        }
    }
}

impl KernelEngine {
    /// The value as the kernel takes it: `EBADF` if there is no such program.
    pub(crate) fn with_descriptor(
        &self,
        programs: Programs,
        value: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let mut value = value.to_vec();
        let (at, place) = match programs {
            Programs::None => return Ok(value),
            Programs::Value => (0, word(&value, 0).ok_or(Errno::EINVAL)?),
            Programs::SecondHalf => match word(&value, 4).map(u32::cast_signed) {
                Some(number @ 1..) => (4, number.cast_unsigned() - 1),
                _ => return Ok(value),
            },
        };
        let program = self.programs.get(place as usize).ok_or(Errno::EBADF)?;
        value[at..at + 4].copy_from_slice(&program.fd.as_raw_fd().to_ne_bytes());
        Ok(value)
    }

    /// The value as this engine names programs. One that is not of this object keeps the kernel's number.
    pub(crate) fn with_place(&self, programs: Programs, mut value: Vec<u8>) -> Vec<u8> {
        let (at, first) = match programs {
            Programs::None => return value,
            Programs::Value => (0, 0),
            Programs::SecondHalf => (4, 1),
        };
        let id = word(&value, at).filter(|id| *id != 0);
        let place = id.and_then(|id| self.programs.iter().position(|program| program.id == id));
        if let Some(place) = place {
            value[at..at + 4].copy_from_slice(&(place as u32 + first).to_ne_bytes());
        }
        value
    }
}

fn word(value: &[u8], at: usize) -> Option<u32> {
    let bytes = value.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}
