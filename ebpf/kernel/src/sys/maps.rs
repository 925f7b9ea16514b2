//! Maps: creation, elements, batches.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use squalus_isa::{Errno, MapDef, MapFlags, MapType, UpdateFlags};

use super::{
    FdAttr, NAME_LEN, address, address_mut, bpf, bpf_fd, fd_by_id, info, kernel_name, raw,
};

const MAP_CREATE: u32 = 0;
const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const MAP_GET_NEXT_KEY: u32 = 4;
const MAP_GET_FD_BY_ID: u32 = 14;
const MAP_FREEZE: u32 = 22;
const MAP_UPDATE_BATCH: u32 = 26;

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
    /// Interface whose hardware holds the map.
    pub(crate) ifindex: u32,
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
        map_extra: def.extra,
        map_ifindex: extras.ifindex,
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
        MapFd::from_fd(fd_by_id(MAP_GET_FD_BY_ID, id)?, cpus)
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
    pub(crate) name: [u8; NAME_LEN],
    pub(crate) ifindex: u32,
    pub(crate) btf_vmlinux_value_type_id: u32,
    pub(crate) netns_dev: u64,
    pub(crate) netns_ino: u64,
    pub(crate) btf_id: u32,
    pub(crate) btf_key_type_id: u32,
    pub(crate) btf_value_type_id: u32,
    pub(crate) btf_vmlinux_id: u32,
    pub(crate) map_extra: u64,
}

fn map_info(fd: BorrowedFd<'_>) -> Result<MapInfo, Errno> {
    let mut out = [MapInfo::default()];
    info(fd, &mut out)?;
    Ok(out[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_laid_out_as_in_linux_bpf_h() {
        assert_eq!(size_of::<MapCreateAttr>(), 72);
        assert_eq!(std::mem::offset_of!(MapCreateAttr, map_extra), 64);
        assert_eq!(std::mem::offset_of!(BatchAttr, elem_flags), 40);
        assert_eq!(std::mem::offset_of!(MapInfo, btf_id), 64);
        assert_eq!(size_of::<MapInfo>(), 88);
    }
}
