//! Links: programs bound to interfaces.

use std::os::fd::{BorrowedFd, OwnedFd};

use squalus_isa::Errno;

use super::{ATTACH_XDP, FdAttr, bpf, bpf_fd, fd_by_id, info, next_id, raw};

const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const LINK_GET_FD_BY_ID: u32 = 30;
const LINK_GET_NEXT_ID: u32 = 31;
const LINK_DETACH: u32 = 34;
/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Binds a program to an interface for as long as the link is open. `flags` are `XDP_FLAGS_*`.
pub(crate) fn link_create_xdp(
    program: BorrowedFd<'_>,
    ifindex: u32,
    flags: u32,
) -> Result<OwnedFd, Errno> {
    let mut attr = LinkCreateAttr {
        prog_fd: raw(program),
        target_ifindex: ifindex,
        attach_type: ATTACH_XDP,
        flags,
    };
    bpf_fd(LINK_CREATE, &mut attr)
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Swaps the program of a link at once: no frame sees neither.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = LinkUpdateAttr {
        link_fd: raw(link),
        new_prog_fd: raw(program),
        ..LinkUpdateAttr::default()
    };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a link's program from its interface; the link stays, bound to nothing.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = FdAttr { fd: raw(link) };
    bpf(LINK_DETACH, &mut attr).map(drop)
}

/// Opens a link by its number. Needs `CAP_SYS_ADMIN`.
pub(crate) fn link_fd_by_id(id: u32) -> Result<OwnedFd, Errno> {
    fd_by_id(LINK_GET_FD_BY_ID, id)
}

/// The next number after `id` that a link has. Needs `CAP_SYS_ADMIN`.
pub(crate) fn next_link_id(id: u32) -> Result<Option<u32>, Errno> {
    next_id(LINK_GET_NEXT_ID, id)
}

/// `struct bpf_link_info` of a link to an interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkInfo {
    kind: u32,
    pub(crate) id: u32,
    pub(crate) program: u32,
    pad: u32,
    /// 0 when the interface is gone or the link detached.
    pub(crate) ifindex: u32,
    pad_end: u32,
}

/// What the kernel tells about a link, if it is one to an interface.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> Result<Option<LinkInfo>, Errno> {
    let mut out = [LinkInfo::default()];
    info(link, &mut out)?;
    Ok(Some(out[0]).filter(|info| info.kind == LINK_TYPE_XDP))
}
