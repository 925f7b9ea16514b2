//! Where `bpf_redirect_map` can send a frame: `DEVMAP`, `DEVMAP_HASH`, `CPUMAP` and `XSKMAP`
//! (kernel/bpf/devmap.c, cpumap.c, net/xdp/xskmap.c).
//!
//! An entry is one 64-bit word in memory, read and replaced as a whole: the low half is what a program
//! sees first in the value (interface, queue size, socket), the high half its second part (a program).
//!
//! The kernel's control side puts *descriptors* of programs and sockets in and reads *ids* of programs
//! out. Here both are ids: a program's is its number (as in `PROG_ARRAY`) plus one, because 0 says that
//! there is none; a socket's is any number that the owner of the sockets gives. What an id or an interface
//! names is not checked.

use std::io;

use squalus_isa::{Errno, MapDef, MapType, UpdateFlags};

use crate::arena::Arena;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The largest queue of a CPU.
const MAX_QUEUE: u32 = 16384;

/// What an entry of a map for redirection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An interface.
    Device {
        /// Its index.
        ifindex: u32,
        /// Number of the program to run on frames before they leave.
        program: Option<u32>,
    },
    /// A CPU.
    Cpu {
        /// Its number: the entry's key.
        cpu: u32,
        /// How many frames may wait for it.
        qsize: u32,
        /// Number of the program to run there.
        program: Option<u32>,
    },
    /// An AF_XDP socket.
    Socket {
        /// The number it was entered with.
        id: u32,
    },
}

/// A word of an entry as a target; `None` if it is empty.
pub(crate) fn target(kind: MapType, key: u32, word: u64) -> Option<Target> {
    let (low, high) = (word as u32, (word >> 32) as u32);
    if word == 0 {
        return None;
    }
    let program = high.checked_sub(1);
    Some(match kind {
        MapType::CpuMap => Target::Cpu {
            cpu: key,
            qsize: low,
            program,
        },
        MapType::XskMap => Target::Socket { id: low },
        _ => Target::Device {
            ifindex: low,
            program,
        },
    })
}

/// A value of the control side (4 or 8 bytes) as a word.
pub(crate) fn word(value: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..value.len()].copy_from_slice(value);
    let low = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let program = i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    // In the kernel's place of a descriptor, negative numbers mean none.
    u64::from(low) | u64::from(program.max(0).cast_unsigned()) << 32
}

/// The first `size` bytes of a value.
pub(crate) fn value(word: u64, size: u32) -> Vec<u8> {
    let (low, high) = (word as u32, (word >> 32) as u32);
    let mut bytes = [low.to_ne_bytes(), high.to_ne_bytes()].concat();
    bytes.truncate(size as usize);
    bytes
}

/// An array of targets: all but `DEVMAP_HASH`.
pub(crate) struct Targets {
    arena: Arena,
    kind: MapType,
    entries: u32,
    /// Entries from here on were never set: most of a huge array need never be looked at.
    used: AtomicU32,
    value_size: u32,
    /// How many CPUs there are.
    cpus: u32,
}

impl Targets {
    pub(crate) fn new(def: &MapDef, cpus: u32, colour: u32) -> io::Result<Targets> {
        Ok(Targets {
            arena: Arena::new(def.max_entries as usize * size_of::<AtomicU64>(), colour)?,
            kind: def.kind,
            entries: def.max_entries,
            used: AtomicU32::new(0),
            value_size: def.value_size,
            cpus,
        })
    }

    pub(crate) fn contains(&self, addr: usize, len: usize) -> bool {
        self.arena.offset_of(addr).is_some_and(|offset| {
            let end = (offset % size_of::<AtomicU64>()).checked_add(len);
            end.is_some_and(|end| end <= self.value_size as usize)
        })
    }

    #[inline]
    fn cell(&self, index: u32) -> Option<&AtomicU64> {
        (index < self.entries).then(|| {
            let at = self.arena.at(index as usize * size_of::<AtomicU64>());
            // SAFETY: in bounds and aligned; only cells live here.
            unsafe { &*at.cast::<AtomicU64>() }
        })
    }

    fn word(&self, index: u32) -> Option<u64> {
        let word = self.cell(index)?.load(Ordering::Acquire);
        (word != 0).then_some(word)
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<Target> {
        target(self.kind, index, self.word(index)?)
    }

    /// The value under `index`, for programs to read, or null if it is empty. Programs read nothing of CPUs.
    #[inline]
    pub(crate) fn lookup(&self, index: u32) -> *mut u8 {
        match self.word(index) {
            Some(_) if self.kind != MapType::CpuMap => {
                self.arena.at(index as usize * size_of::<AtomicU64>())
            }
            _ => std::ptr::null_mut(),
        }
    }

    /// The first entry at or after `index`, and the index after it.
    pub(crate) fn from(&self, index: u32) -> Option<(u32, Target)> {
        let used = self.used.load(Ordering::Acquire);
        (index..used).find_map(|index| Some((index + 1, self.get(index)?)))
    }

    pub(crate) fn sys_lookup(&self, index: u32) -> Result<Option<Vec<u8>>, Errno> {
        if self.kind == MapType::XskMap {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(self.word(index).map(|word| value(word, self.value_size)))
    }

    pub(crate) fn sys_update(&self, index: u32, value: &[u8], flags: u64) -> Result<(), Errno> {
        if flags > UpdateFlags::EXIST.0 {
            return Err(Errno::EINVAL);
        }
        let cell = self.cell(index).ok_or(Errno::E2BIG)?;
        let beyond = |used| (index >= used).then_some(index + 1);
        let _ = (self.used).fetch_update(Ordering::AcqRel, Ordering::Acquire, beyond);
        if self.kind == MapType::XskMap {
            return set_socket(cell, word(value), flags);
        }
        if flags == UpdateFlags::NOEXIST.0 {
            return Err(Errno::EEXIST);
        }
        let word = word(value);
        let (low, high) = (word as u32, word >> 32);
        match self.kind {
            MapType::CpuMap if low > MAX_QUEUE => return Err(Errno::EOVERFLOW),
            MapType::CpuMap if index >= self.cpus => return Err(Errno::ENODEV),
            // An entry without an interface has no program either.
            MapType::DevMap if low == 0 && high != 0 => return Err(Errno::EINVAL),
            _ => {}
        }
        cell.store(if low == 0 { 0 } else { word }, Ordering::Release);
        Ok(())
    }

    /// Deleting what is not there is no error.
    pub(crate) fn sys_delete(&self, index: u32) -> Result<(), Errno> {
        let cell = self.cell(index).ok_or(Errno::EINVAL)?;
        cell.store(0, Ordering::Release);
        Ok(())
    }
}

/// Sockets are marked in the high half, because their id may be 0.
fn set_socket(cell: &AtomicU64, word: u64, flags: u64) -> Result<(), Errno> {
    const PRESENT: u64 = 1 << 32;
    let new = word | PRESENT;
    let replace = |old: u64| match (flags, old) {
        (1, old) if old != 0 && old != new => Err(Errno::EEXIST),
        (2, 0) => Err(Errno::ENOENT),
        _ => Ok(()),
    };
    let mut old = cell.load(Ordering::Acquire);
    loop {
        replace(old)?;
        match cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(()),
            Err(now) => old = now,
        }
    }
}
