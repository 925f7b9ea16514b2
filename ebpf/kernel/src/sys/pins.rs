//! Names in a bpf file system.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use squalus_isa::Errno;

use super::{bpf, bpf_fd, raw};

const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;

#[repr(C)]
#[derive(Default)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

pub(crate) fn obj_pin(fd: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let mut attr = PinAttr {
        path: path.as_ptr() as u64,
        fd: raw(fd),
        flags: 0,
    };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

pub(crate) fn obj_get(path: &CStr) -> Result<OwnedFd, Errno> {
    let mut attr = PinAttr {
        path: path.as_ptr() as u64,
        ..PinAttr::default()
    };
    bpf_fd(OBJ_GET, &mut attr)
}
