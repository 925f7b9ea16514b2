//! The host around: limits, CPUs, interfaces.

use std::ffi::CStr;

use squalus_isa::Errno;

use super::last_errno;

/// Lifts the limit of locked memory, which kernels before 5.11 charge maps to.
fn lift_memlock_limit() -> Result<(), Errno> {
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

/// Repeats what failed for lack of locked memory with the limit lifted.
pub(crate) fn with_memlock<T>(operation: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match operation() {
        Err(Errno::EPERM) if lift_memlock_limit().is_ok() => operation(),
        other => other,
    }
}

/// Bytes of a page of memory.
pub(crate) fn page_size() -> u32 {
    // SAFETY: the call has no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u32::try_from(size).unwrap_or(4096)
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

/// The CPUs that the calling thread may run on, which are not all possible ones where some are offline or kept for
/// others.
#[must_use]
pub fn usable_cpus() -> Vec<u32> {
    // SAFETY: a `cpu_set_t` is an array of integers, for which all bits zero is a value (no CPU). The set is live and
    // of the size given; thread 0 is the caller, which exists, so the worst is that the set stays empty.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
        set
    };
    let all = 0..8 * size_of_val(&set);
    // SAFETY: the number is inside the set.
    let usable = all.filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) });
    usable.map(|cpu| cpu as u32).collect()
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

/// The interfaces of the caller's network namespace: number and name, in the kernel's order.
pub(crate) fn interfaces() -> Result<Vec<(u32, String)>, Errno> {
    // SAFETY: the call has no arguments; it gives an array that ends with an entry without a name, or null.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(last_errno());
    }
    let mut found = Vec::new();
    for place in 0.. {
        // SAFETY: the entry with null, where the loop ends, is the array's last.
        let entry = unsafe { &*list.add(place) };
        if entry.if_name.is_null() {
            break;
        }
        // SAFETY: names of entries are strings that live until the array is freed.
        let name = unsafe { CStr::from_ptr(entry.if_name) };
        found.push((entry.if_index, name.to_string_lossy().into_owned()));
    }
    // SAFETY: the array came from `if_nameindex`, and nothing borrows from it any longer.
    unsafe { libc::if_freenameindex(list) };
    Ok(found)
}

/// Whether a path is in a bpf file system.
pub(crate) fn is_bpffs(path: &std::path::Path) -> bool {
    const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()) else {
        return false;
    };
    // SAFETY: a `statfs` is integers only, for which all bits zero is a value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a live string ending in zero, the structure live.
    let asked = unsafe { libc::statfs(path.as_ptr(), &raw mut found) };
    asked == 0 && found.f_type as u32 == BPF_FS_MAGIC
}

/// Mounts a bpf file system on an existing directory, for its owner only.
pub(crate) fn mount_bpffs(at: &CStr) -> Result<(), Errno> {
    let (source, kind, options) = (c"bpf", c"bpf", c"mode=0700");
    // SAFETY: all four are live strings ending in zero; the kernel only reads them.
    let mounted = unsafe {
        libc::mount(
            source.as_ptr(),
            at.as_ptr(),
            kind.as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    if mounted == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// The clock that program load times are on: nanoseconds since the system started.
pub(crate) fn boot_nanos() -> u64 {
    nanos(libc::CLOCK_BOOTTIME)
}

/// Nanoseconds that the calling thread has run so far, in the kernel and outside.
pub(crate) fn thread_nanos() -> u64 {
    nanos(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn nanos(clock: libc::clockid_t) -> u64 {
    // SAFETY: a `timespec` is two integers, for which zero is a value.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is live; both clocks exist since Linux 2.6.39.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
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
    fn cpu_lists_are_counted() {
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-1"), Some(2));
        assert_eq!(count_cpus("0-3,8,10-11"), Some(7));
        assert_eq!(count_cpus(""), None);
    }
}
