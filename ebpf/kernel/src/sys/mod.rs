//! The commands of bpf(2) that the crate needs, as safe functions over descriptors and byte slices.
//!
//! Each command has its own attribute structure, as long as the part that is used: the kernel takes
//! what it does not get as zero. Structures are laid out as in `linux/bpf.h`, whose commands,
//! numbers and meanings they follow; padding is spelled out, so that no uninitialised byte reaches
//! the kernel (it rejects attributes with stray bits). Each file has the commands of one matter; what
//! is not bpf(2), but the same host's, is in [`host`].

mod btf;
mod host;
mod links;
mod maps;
mod pins;
mod programs;
mod test_run;

pub(crate) use btf::{btf_bytes, btf_fd_by_id, btf_load};
pub(crate) use host::{
    Pinned, boot_nanos, interface_index, interfaces, is_bpffs, mount_bpffs, page_size,
    thread_nanos, with_memlock,
};
pub use host::{possible_cpus, usable_cpus};
pub(crate) use links::{
    LinkInfo, link_create_xdp, link_detach, link_fd_by_id, link_info, link_update, next_link_id,
};
pub(crate) use maps::{MapExtras, MapFd, MapInfo};
pub(crate) use pins::{obj_get, obj_pin};
pub(crate) use programs::{
    ATTACH_XDP, Records, XdpLoad, prog_fd_by_id, prog_info, prog_load, prog_map_ids,
};
pub(crate) use test_run::prog_test_run;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use squalus_isa::Errno;

const OBJ_GET_INFO_BY_FD: u32 = 15;
/// Length of names in the kernel, with the final zero.
const NAME_LEN: usize = 16;

/// The error number of the last system call.
pub(crate) fn last_errno() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Runs one command, again if the kernel asks for it (a signal came, or the verifier was interrupted).
fn bpf<T>(command: u32, attr: &mut T) -> Result<i32, Errno> {
    const TRIES: usize = 8;
    for _ in 0..TRIES {
        // SAFETY: `attr` is a live, fully initialised structure of the size given, laid out as the
        // command wants it; the pointers inside come from slices and strings that outlive the call
        // and are as long as the lengths given beside them, or for map elements as long as
        // [`MapFd`] checked.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                std::ptr::from_mut(attr),
                size_of::<T>(),
            )
        };
        if ret >= 0 {
            return Ok(ret as i32);
        }
        let errno = last_errno();
        if errno != Errno::EAGAIN && errno.0 != libc::EINTR {
            return Err(errno);
        }
    }
    Err(Errno::EAGAIN)
}

/// Runs a command that returns a new descriptor.
fn bpf_fd<T>(command: u32, attr: &mut T) -> Result<OwnedFd, Errno> {
    let fd = bpf(command, attr)?;
    // SAFETY: these commands return a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as u64
}

fn address_mut<T>(slice: &mut [T]) -> u64 {
    slice.as_mut_ptr() as u64
}

/// A name as the kernel stores it: at most 15 characters, only those it allows.
fn kernel_name(name: &str) -> [u8; NAME_LEN] {
    let mut out = [0; NAME_LEN];
    for (slot, byte) in out[..NAME_LEN - 1].iter_mut().zip(name.bytes()) {
        let allowed = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        *slot = if allowed { byte } else { b'_' };
    }
    out
}

/// A name the kernel stored.
pub(crate) fn from_kernel_name(name: [u8; NAME_LEN]) -> String {
    let end = name.iter().position(|&b| b == 0).unwrap_or(NAME_LEN);
    String::from_utf8_lossy(&name[..end]).into_owned()
}

/// A command's only argument is a descriptor.
#[repr(C)]
#[derive(Default)]
struct FdAttr {
    fd: u32,
}

/// Names an object by the kernel's number.
#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Opens an object by its number. Needs `CAP_SYS_ADMIN`.
fn fd_by_id(command: u32, id: u32) -> Result<OwnedFd, Errno> {
    let mut attr = IdAttr {
        id,
        ..IdAttr::default()
    };
    bpf_fd(command, &mut attr)
}

/// The next number after `id` that an object has.
fn next_id(command: u32, id: u32) -> Result<Option<u32>, Errno> {
    let mut attr = IdAttr {
        id,
        ..IdAttr::default()
    };
    match bpf(command, &mut attr) {
        Ok(_) => Ok(Some(attr.next_id)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// What the kernel tells about an object. `info` is also what it is asked: the structures hold addresses
/// and lengths of buffers to fill.
fn info<T>(fd: BorrowedFd<'_>, info: &mut [T; 1]) -> Result<(), Errno> {
    let mut attr = InfoAttr {
        fd: raw(fd),
        len: size_of::<T>() as u32,
        info: address_mut(info),
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_cleaned() {
        assert_eq!(&kernel_name(".rodata")[..8], b".rodata\0");
        assert_eq!(&kernel_name("vip_to_down_reals_map"), b"vip_to_down_rea\0");
        assert_eq!(&kernel_name("a-b")[..4], b"a_b\0");
        assert_eq!(from_kernel_name(kernel_name("xdp_prog")), "xdp_prog");
    }
}
