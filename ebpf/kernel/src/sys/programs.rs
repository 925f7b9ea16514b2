//! Programs: loading them, and what the kernel tells about loaded ones.

use std::os::fd::{BorrowedFd, OwnedFd};

use squalus_isa::{Errno, INSN_SIZE};

use super::{NAME_LEN, address, address_mut, bpf_fd, fd_by_id, info, kernel_name, raw};

const PROG_LOAD: u32 = 5;
const PROG_GET_FD_BY_ID: u32 = 13;

/// `BPF_PROG_TYPE_XDP`.
pub(crate) const PROG_TYPE_XDP: u32 = 6;
/// `BPF_XDP`, the attach type of programs on an interface.
pub(crate) const ATTACH_XDP: u32 = 37;

/// Opens a program by its number. Needs `CAP_SYS_ADMIN`.
pub(crate) fn prog_fd_by_id(id: u32) -> Result<OwnedFd, Errno> {
    fd_by_id(PROG_GET_FD_BY_ID, id)
}

/// `struct bpf_prog_info` as far as it is used; the fields between are only there for their place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProgInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) tag: [u8; 8],
    pub(crate) jited_len: u32,
    pub(crate) xlated_len: u32,
    jited: u64,
    xlated: u64,
    /// Nanoseconds since the system started.
    pub(crate) load_time: u64,
    pub(crate) created_by: u32,
    map_count: u32,
    map_ids: u64,
    pub(crate) name: [u8; NAME_LEN],
    ifindex: u32,
    flags: u32,
    netns_dev: u64,
    netns_ino: u64,
    ksym_count: u32,
    ksym_len_count: u32,
    ksyms: u64,
    ksym_lens: u64,
    pub(crate) btf_id: u32,
    func_info_size: u32,
    func_info: u64,
    func_info_count: u32,
    line_info_count: u32,
    line_info: u64,
    jited_line_info: u64,
    jited_line_info_count: u32,
    line_info_size: u32,
    jited_line_info_size: u32,
    tag_count: u32,
    tags: u64,
    pub(crate) run_time_ns: u64,
    pub(crate) run_count: u64,
    recursion_misses: u64,
    verified_insns: u32,
    pad: u32,
}

/// What the kernel tells about a program.
pub(crate) fn prog_info(fd: BorrowedFd<'_>) -> Result<ProgInfo, Errno> {
    let mut out = [ProgInfo::default()];
    info(fd, &mut out)?;
    Ok(out[0])
}

/// The numbers of the maps a program uses.
pub(crate) fn prog_map_ids(fd: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = vec![0u32; prog_info(fd)?.map_count as usize];
    let mut out = [ProgInfo {
        map_count: ids.len() as u32,
        map_ids: address_mut(&mut ids),
        ..ProgInfo::default()
    }];
    info(fd, &mut out)?;
    ids.truncate(out[0].map_count as usize);
    Ok(ids)
}

#[repr(C)]
#[derive(Default)]
struct ProgLoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_LEN],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// Records of `.BTF.ext` for one program: the size of one, and all of them.
#[derive(Default)]
pub(crate) struct Records {
    pub(crate) size: usize,
    pub(crate) bytes: Vec<u8>,
}

impl Records {
    /// Address, size and number as the kernel wants them.
    fn parts(&self) -> (u64, u32, u32) {
        match self.bytes.len().checked_div(self.size) {
            None | Some(0) => (0, 0, 0),
            Some(count) => (address(&self.bytes), self.size as u32, count as u32),
        }
    }
}

/// An XDP program to load.
pub(crate) struct XdpLoad<'a> {
    pub(crate) name: &'a str,
    pub(crate) insns: &'a [[u8; INSN_SIZE]],
    pub(crate) license: &'a std::ffi::CStr,
    pub(crate) attach_type: u32,
    pub(crate) flags: u32,
    /// Interface whose hardware is to run it; 0 for none.
    pub(crate) ifindex: u32,
    /// The object's BTF, and the program's function and line records.
    pub(crate) btf: Option<(BorrowedFd<'a>, &'a Records, &'a Records)>,
}

/// Loads an XDP program. With a `log`, the verifier writes its reasoning there.
pub(crate) fn prog_load(load: &XdpLoad<'_>, log: Option<&mut [u8]>) -> Result<OwnedFd, Errno> {
    let mut attr = ProgLoadAttr {
        prog_type: PROG_TYPE_XDP,
        insn_cnt: load.insns.len() as u32,
        insns: address(load.insns),
        license: load.license.as_ptr() as u64,
        prog_flags: load.flags,
        prog_name: kernel_name(load.name),
        prog_ifindex: load.ifindex,
        expected_attach_type: load.attach_type,
        ..ProgLoadAttr::default()
    };
    if let Some((fd, func, line)) = load.btf {
        attr.prog_btf_fd = raw(fd);
        (attr.func_info, attr.func_info_rec_size, attr.func_info_cnt) = func.parts();
        (attr.line_info, attr.line_info_rec_size, attr.line_info_cnt) = line.parts();
    }
    if let Some(log) = log {
        attr.log_level = 1;
        attr.log_size = log.len() as u32;
        attr.log_buf = address_mut(log);
    }
    bpf_fd(PROG_LOAD, &mut attr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_laid_out_as_in_linux_bpf_h() {
        assert_eq!(std::mem::offset_of!(ProgLoadAttr, func_info), 80);
        assert_eq!(std::mem::offset_of!(ProgLoadAttr, attach_btf_id), 108);
        assert_eq!(std::mem::offset_of!(ProgInfo, name), 64);
        assert_eq!(std::mem::offset_of!(ProgInfo, btf_id), 128);
        assert_eq!(std::mem::offset_of!(ProgInfo, run_count), 200);
        assert_eq!(size_of::<ProgInfo>(), 224);
    }
}
