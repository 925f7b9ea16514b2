//! The few bpf(2) calls that steering takes.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

// Commands, types and flags of linux/bpf.h.
const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;
const ATTACH_TYPE_TCX_INGRESS: u32 = 46;
/// `BPF_F_XDP_HAS_FRAGS`.
const HAS_FRAGS: u32 = 1 << 5;

/// Kinds of programs, with where they are attached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    /// XDP.
    Xdp,
    /// Traffic control, where frames come in (since Linux 6.6).
    TcIngress,
}

impl Hook {
    fn program_type(self) -> u32 {
        match self {
            Hook::Xdp => PROG_TYPE_XDP,
            Hook::TcIngress => PROG_TYPE_SCHED_CLS,
        }
    }

    fn attach_type(self) -> u32 {
        match self {
            Hook::Xdp => ATTACH_TYPE_XDP,
            Hook::TcIngress => ATTACH_TYPE_TCX_INGRESS,
        }
    }
}

/// Map types.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum MapType {
    Hash = 1,
    Xsk = 17,
}

/// Name of an object in the kernel: up to 15 bytes and a zero.
fn object_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// Makes the call with its part of `union bpf_attr`; the kernel takes the rest as zero.
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attributes` is the command's structure, lives for the call and has the size given; the
    // pointers in it are checked by those who fill it.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *mut T, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as RawFd)
}

/// Like [`bpf`], for commands that return a new descriptor.
fn bpf_open<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates a map.
pub(crate) fn create_map(
    kind: MapType,
    name: &str,
    key_size: u32,
    value_size: u32,
    entries: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
        inner_map_fd: u32,
        numa_node: u32,
        map_name: [u8; 16],
    }
    let mut attributes = Attributes {
        map_type: kind as u32,
        key_size,
        value_size,
        max_entries: entries,
        map_flags: 0,
        inner_map_fd: 0,
        numa_node: 0,
        map_name: object_name(name),
    };
    bpf_open(MAP_CREATE, &mut attributes)
}

#[repr(C)]
struct ElementAttributes {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Sets the value under a key. `key` and `value` must have the map's sizes.
pub(crate) fn update<K: Copy>(map: &OwnedFd, key: &K, value: u32) -> io::Result<()> {
    let mut attributes = ElementAttributes {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: std::ptr::from_ref(key).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    bpf(MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Removes a key, of the map's size; false if it was not there.
pub(crate) fn delete<K: Copy>(map: &OwnedFd, key: &K) -> io::Result<bool> {
    let mut attributes = ElementAttributes {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: std::ptr::from_ref(key).expose_provenance() as u64,
        value: 0,
        flags: 0,
    };
    match bpf(MAP_DELETE_ELEM, &mut attributes) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Loads a program; on rejection the error carries the verifier's last words.
/// With `fragments` an XDP program takes frames that lie in several pieces of memory.
pub(crate) fn load(
    hook: Hook,
    name: &str,
    instructions: &[u64],
    fragments: bool,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    let license = c"Dual MIT/GPL";
    let mut log = vec![0_u8; 64 << 10];
    let mut attributes = Attributes {
        prog_type: hook.program_type(),
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr().expose_provenance() as u64,
        kern_version: 0,
        prog_flags: if fragments { HAS_FRAGS } else { 0 },
        prog_name: object_name(name),
        prog_ifindex: 0,
        expected_attach_type: hook.attach_type(),
    };
    bpf_open(PROG_LOAD, &mut attributes).map_err(|error| {
        if error.raw_os_error() == Some(libc::EPERM) {
            return error;
        }
        let text = String::from_utf8_lossy(&log);
        let last: Vec<_> = text
            .trim_end_matches(['\0', '\n'])
            .lines()
            .rev()
            .take(3)
            .collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        io::Error::new(error.kind(), format!("{error}: {}", last.join("; ")))
    })
}

/// Attaches a program to an interface until the link is dropped. For XDP `flags` are `XDP_FLAGS_*`.
pub(crate) fn link(hook: Hook, program: &OwnedFd, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attributes = Attributes {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: hook.attach_type(),
        flags,
    };
    bpf_open(LINK_CREATE, &mut attributes)
}

/// The name of a loaded program, if the kernel tells.
pub(crate) fn program_name(id: u32) -> io::Result<String> {
    #[repr(C)]
    struct ById {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    #[repr(C)]
    struct Info {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    /// The part of `struct bpf_prog_info` up to the name.
    #[repr(C)]
    struct ProgramInfo {
        before: [u64; 8],
        name: [u8; 16],
    }
    let mut by_id = ById {
        id,
        next_id: 0,
        open_flags: 0,
    };
    let program = bpf_open(PROG_GET_FD_BY_ID, &mut by_id)?;
    let mut found = ProgramInfo {
        before: [0; 8],
        name: [0; 16],
    };
    let mut info = Info {
        bpf_fd: program.as_raw_fd() as u32,
        info_len: size_of::<ProgramInfo>() as u32,
        info: (&raw mut found).expose_provenance() as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut info)?;
    let text = String::from_utf8_lossy(&found.name);
    Ok(text.trim_end_matches('\0').to_owned())
}
