//! Type information in the kernel.

use std::os::fd::{BorrowedFd, OwnedFd};

use squalus_isa::Errno;

use super::{address, address_mut, bpf_fd, fd_by_id, info};

const BTF_LOAD: u32 = 18;
const BTF_GET_FD_BY_ID: u32 = 19;

#[repr(C)]
#[derive(Default)]
struct BtfLoadAttr {
    btf: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    log_true_size: u32,
}

pub(crate) fn btf_load(btf: &[u8]) -> Result<OwnedFd, Errno> {
    let mut attr = BtfLoadAttr {
        btf: address(btf),
        size: btf.len() as u32,
        ..BtfLoadAttr::default()
    };
    bpf_fd(BTF_LOAD, &mut attr)
}

/// Opens type information by its number. Needs `CAP_SYS_ADMIN`.
pub(crate) fn btf_fd_by_id(id: u32) -> Result<OwnedFd, Errno> {
    fd_by_id(BTF_GET_FD_BY_ID, id)
}

/// The part of `struct bpf_btf_info` that is used.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BtfInfo {
    data: u64,
    size: u32,
    pub(crate) id: u32,
}

/// The type information itself, as it stands in an object's `.BTF`.
pub(crate) fn btf_bytes(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut ask = [BtfInfo::default()];
    info(fd, &mut ask)?;
    let mut bytes = vec![0; ask[0].size as usize];
    let mut ask = [BtfInfo {
        data: address_mut(&mut bytes),
        size: bytes.len() as u32,
        id: 0,
    }];
    info(fd, &mut ask)?;
    bytes.truncate(ask[0].size as usize);
    Ok(bytes)
}
