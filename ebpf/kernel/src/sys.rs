//! The few commands of bpf(2) that the crate needs, as safe functions over descriptors and byte slices.
//!
//! Each command has its own attribute structure, as long as the part that is used: the kernel takes
//! what it does not get as zero. Structures are laid out as in `linux/bpf.h`, whose commands,
//! numbers and meanings they follow; padding is spelled out, so that no uninitialised byte reaches
//! the kernel (it rejects attributes with stray bits).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use squalus_isa::{Errno, INSN_SIZE, MapDef, MapFlags, MapType, UpdateFlags};

const MAP_CREATE: u32 = 0;
const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const MAP_GET_NEXT_KEY: u32 = 4;
const PROG_LOAD: u32 = 5;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_TEST_RUN: u32 = 10;
const PROG_GET_FD_BY_ID: u32 = 13;
const MAP_GET_FD_BY_ID: u32 = 14;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const BTF_LOAD: u32 = 18;
const MAP_FREEZE: u32 = 22;
const MAP_UPDATE_BATCH: u32 = 26;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;

/// `BPF_PROG_TYPE_XDP`.
const PROG_TYPE_XDP: u32 = 6;
/// `BPF_XDP`, the attach type of programs on an interface.
pub(crate) const ATTACH_XDP: u32 = 37;
/// Length of names in the kernel, with the final zero.
const NAME_LEN: usize = 16;

/// The error number of the last system call.
fn last_errno() -> Errno {
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
fn from_kernel_name(name: [u8; NAME_LEN]) -> String {
    let end = name.iter().position(|&b| b == 0).unwrap_or(NAME_LEN);
    String::from_utf8_lossy(&name[..end]).into_owned()
}

#[repr(C)]
#[derive(Default)]
struct MapCreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; NAME_LEN],
    map_ifindex: u32,
    btf_fd: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
    btf_vmlinux_value_type_id: u32,
    map_extra: u64,
}

/// What a map needs besides its definition.
#[derive(Clone, Copy, Default)]
pub(crate) struct MapExtras<'a> {
    /// Prototype of the inner maps.
    pub(crate) inner: Option<BorrowedFd<'a>>,
    /// Type information: the loaded BTF, key and value type.
    pub(crate) btf: Option<(BorrowedFd<'a>, u32, u32)>,
    /// Node for maps with `NUMA_NODE`.
    pub(crate) numa_node: u32,
    /// `map_extra`, whose meaning is the type's.
    pub(crate) extra: u64,
}

fn map_create(def: &MapDef, extras: MapExtras<'_>) -> Result<OwnedFd, Errno> {
    let numa = def.flags.contains(MapFlags::NUMA_NODE);
    let mut attr = MapCreateAttr {
        map_type: def.kind as u32,
        key_size: def.key_size,
        value_size: def.value_size,
        max_entries: def.max_entries,
        map_flags: def.flags.0,
        inner_map_fd: extras.inner.map_or(0, raw),
        numa_node: if numa { extras.numa_node } else { 0 },
        map_name: kernel_name(&def.name),
        map_extra: extras.extra,
        ..MapCreateAttr::default()
    };
    if let Some((fd, key, value)) = extras.btf {
        attr.btf_fd = raw(fd);
        attr.btf_key_type_id = key;
        attr.btf_value_type_id = value;
    }
    bpf_fd(MAP_CREATE, &mut attr)
}

/// `value` is `next_key` for `MAP_GET_NEXT_KEY`.
#[repr(C)]
#[derive(Default)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// An open map and the lengths its keys and values have in system calls.
///
/// The kernel reads and writes that many bytes at the addresses it gets, so no slice of another
/// length may reach it.
pub(crate) struct MapFd {
    fd: OwnedFd,
    key_len: usize,
    value_len: usize,
}

impl MapFd {
    /// Creates a map. `cpus` is the number of possible CPUs, each of which has a value in per-CPU maps.
    pub(crate) fn create(def: &MapDef, extras: MapExtras<'_>, cpus: usize) -> Result<MapFd, Errno> {
        MapFd::from_fd(map_create(def, extras)?, cpus)
    }

    /// Opens the map with the kernel's number `id`.
    pub(crate) fn by_id(id: u32, cpus: usize) -> Result<MapFd, Errno> {
        let mut attr = IdAttr {
            id,
            ..IdAttr::default()
        };
        MapFd::from_fd(bpf_fd(MAP_GET_FD_BY_ID, &mut attr)?, cpus)
    }

    /// Takes a map's descriptor; the kernel says how long keys and values are.
    pub(crate) fn from_fd(fd: OwnedFd, cpus: usize) -> Result<MapFd, Errno> {
        let info = map_info(fd.as_fd())?;
        let per_cpu = MapType::from_id(info.kind).is_some_and(MapType::is_per_cpu);
        let value_len = match info.value_size as usize {
            size if per_cpu => size.next_multiple_of(8) * cpus,
            size => size,
        };
        Ok(MapFd {
            fd,
            key_len: info.key_size as usize,
            value_len,
        })
    }

    pub(crate) fn info(&self) -> Result<MapInfo, Errno> {
        map_info(self.fd.as_fd())
    }

    pub(crate) fn key_len(&self) -> usize {
        self.key_len
    }

    /// Length of a value in system calls: of per-CPU maps all CPUs' values.
    pub(crate) fn value_len(&self) -> usize {
        self.value_len
    }

    fn elem(&self, key: &[u8]) -> Result<ElemAttr, Errno> {
        if key.len() != self.key_len {
            return Err(Errno::EINVAL);
        }
        Ok(ElemAttr {
            map_fd: raw(self.fd.as_fd()),
            // Maps without keys (queues, stacks) insist on none.
            key: if key.is_empty() { 0 } else { address(key) },
            ..ElemAttr::default()
        })
    }

    /// What `key` holds, if anything.
    pub(crate) fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let mut value = vec![0; self.value_len];
        let mut attr = self.elem(key)?;
        attr.value = address_mut(&mut value);
        match bpf(MAP_LOOKUP_ELEM, &mut attr) {
            Ok(_) => Ok(Some(value)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    pub(crate) fn update(&self, key: &[u8], value: &[u8], flags: UpdateFlags) -> Result<(), Errno> {
        if value.len() != self.value_len {
            return Err(Errno::EINVAL);
        }
        let mut attr = self.elem(key)?;
        attr.value = address(value);
        attr.flags = flags.0;
        bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
    }

    pub(crate) fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        bpf(MAP_DELETE_ELEM, &mut self.elem(key)?).map(drop)
    }

    /// The key after `key`, or the first; `None` at the end.
    pub(crate) fn next_key(&self, key: Option<&[u8]>) -> Result<Option<Vec<u8>>, Errno> {
        let mut next = vec![0; self.key_len];
        let mut attr = match key {
            Some(key) => self.elem(key)?,
            None => ElemAttr {
                map_fd: raw(self.fd.as_fd()),
                ..ElemAttr::default()
            },
        };
        attr.value = address_mut(&mut next);
        match bpf(MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => Ok(Some(next)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Writes `count` elements from concatenated keys and values; the error comes with how many were
    /// written before.
    pub(crate) fn update_batch(
        &self,
        count: usize,
        keys: &[u8],
        values: &[u8],
    ) -> Result<(), (Errno, usize)> {
        let fits = count.checked_mul(self.key_len) == Some(keys.len())
            && count.checked_mul(self.value_len) == Some(values.len());
        let Some(total) = u32::try_from(count).ok().filter(|_| fits) else {
            return Err((Errno::EINVAL, 0));
        };
        let mut attr = BatchAttr {
            keys: address(keys),
            values: address(values),
            count: total,
            map_fd: raw(self.fd.as_fd()),
            ..BatchAttr::default()
        };
        match bpf(MAP_UPDATE_BATCH, &mut attr) {
            Ok(_) => Ok(()),
            // A kernel or map type without batches leaves the count alone.
            Err(errno) if attr.count >= total => Err((errno, 0)),
            Err(errno) => Err((errno, attr.count as usize)),
        }
    }

    /// Makes the map read-only for user space; the verifier then takes its content as constant.
    pub(crate) fn freeze(&self) -> Result<(), Errno> {
        let mut attr = FdAttr {
            fd: raw(self.fd.as_fd()),
        };
        bpf(MAP_FREEZE, &mut attr).map(drop)
    }
}

impl AsFd for MapFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct FdAttr {
    fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

pub(crate) fn prog_fd_by_id(id: u32) -> Result<OwnedFd, Errno> {
    bpf_fd(
        PROG_GET_FD_BY_ID,
        &mut IdAttr {
            id,
            ..IdAttr::default()
        },
    )
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

fn info<T>(fd: BorrowedFd<'_>, info: &mut [T; 1]) -> Result<(), Errno> {
    let mut attr = InfoAttr {
        fd: raw(fd),
        len: size_of::<T>() as u32,
        info: address_mut(info),
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// The part of `struct bpf_map_info` that is used.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

fn map_info(fd: BorrowedFd<'_>) -> Result<MapInfo, Errno> {
    let mut out = [MapInfo::default()];
    info(fd, &mut out)?;
    Ok(out[0])
}

/// The part of `struct bpf_prog_info` that is used.
#[repr(C)]
#[derive(Default)]
struct ProgInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; NAME_LEN],
}

/// Number and (shortened) name of a loaded program.
pub(crate) fn prog_id_and_name(fd: BorrowedFd<'_>) -> Result<(u32, String), Errno> {
    let mut out = [ProgInfo::default()];
    info(fd, &mut out)?;
    let [program] = out;
    Ok((program.id, from_kernel_name(program.name)))
}

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

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// What a test run gave.
pub(crate) struct TestOutput {
    pub(crate) retval: u32,
    /// Bytes written to the output buffer.
    pub(crate) len: usize,
    /// Mean nanoseconds of a repetition.
    pub(crate) nanos: u32,
}

pub(crate) fn prog_test_run(
    fd: BorrowedFd<'_>,
    frame: &[u8],
    repeat: u32,
    out: &mut [u8],
) -> Result<TestOutput, Errno> {
    let mut attr = TestRunAttr {
        prog_fd: raw(fd),
        data_size_in: frame.len() as u32,
        data_size_out: out.len() as u32,
        data_in: address(frame),
        data_out: address_mut(out),
        repeat,
        ..TestRunAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(TestOutput {
        retval: attr.retval,
        len: attr.data_size_out as usize,
        nanos: attr.duration,
    })
}

#[repr(C)]
#[derive(Default)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

pub(crate) fn obj_pin(fd: BorrowedFd<'_>, path: &std::ffi::CStr) -> Result<(), Errno> {
    let mut attr = PinAttr {
        path: path.as_ptr() as u64,
        fd: raw(fd),
        flags: 0,
    };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

pub(crate) fn obj_get(path: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let mut attr = PinAttr {
        path: path.as_ptr() as u64,
        ..PinAttr::default()
    };
    bpf_fd(OBJ_GET, &mut attr)
}

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

/// Lifts the limit of locked memory, which kernels before 5.11 charge maps to.
pub(crate) fn lift_memlock_limit() -> Result<(), Errno> {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the call only reads the structure given.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// How many CPUs the kernel keeps values for in per-CPU maps. Needs no privilege.
///
/// # Errors
/// If the kernel does not say.
pub fn possible_cpus() -> Result<usize, crate::KernelError> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    count_cpus(text.trim()).ok_or(crate::KernelError::System {
        what: "reading the possible CPUs from /sys/devices/system/cpu/possible",
        errno: Errno::ENODEV,
    })
}

/// Counts a list like `0-3,8`.
fn count_cpus(list: &str) -> Option<usize> {
    list.split(',')
        .map(|range| match range.split_once('-') {
            Some((first, last)) => {
                let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
                (last + 1).checked_sub(first)
            }
            None => range.parse::<usize>().ok().map(|_| 1),
        })
        .sum()
}

/// The number of the interface with this name in the caller's network namespace.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: the name is a live string ending in zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// Keeps the calling thread on one CPU, and puts it back where it was when dropped.
pub(crate) struct Pinned {
    before: libc::cpu_set_t,
}

impl Pinned {
    pub(crate) fn to(cpu: u32) -> Result<Pinned, Errno> {
        // SAFETY: a `cpu_set_t` is an array of integers, for which all bits zero is a value (no CPU).
        let (mut before, mut only): (libc::cpu_set_t, libc::cpu_set_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        if cpu as usize >= 8 * size_of::<libc::cpu_set_t>() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: both sets are live and of the size given, and `cpu` is inside the set; thread 0 is
        // the caller.
        let ret = unsafe {
            libc::CPU_SET(cpu as usize, &mut only);
            match libc::sched_getaffinity(0, size_of_val(&before), &raw mut before) {
                0 => libc::sched_setaffinity(0, size_of_val(&only), &raw const only),
                failed => failed,
            }
        };
        if ret == 0 {
            Ok(Pinned { before })
        } else {
            Err(last_errno())
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the set is live and of the size given. It was this thread's mask before; should
        // restoring fail, the thread merely stays on its CPU.
        unsafe {
            libc::sched_setaffinity(0, size_of_val(&self.before), &raw const self.before);
        }
    }
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

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-1"), Some(2));
        assert_eq!(count_cpus("0-3,8,10-11"), Some(7));
        assert_eq!(count_cpus(""), None);
    }

    #[test]
    fn attributes_are_laid_out_as_in_linux_bpf_h() {
        assert_eq!(size_of::<MapCreateAttr>(), 72);
        assert_eq!(std::mem::offset_of!(MapCreateAttr, map_extra), 64);
        assert_eq!(std::mem::offset_of!(BatchAttr, elem_flags), 40);
        assert_eq!(std::mem::offset_of!(ProgLoadAttr, func_info), 80);
        assert_eq!(std::mem::offset_of!(ProgLoadAttr, attach_btf_id), 108);
        assert_eq!(std::mem::offset_of!(TestRunAttr, duration), 36);
        assert_eq!(std::mem::offset_of!(ProgInfo, name), 64);
    }
}
