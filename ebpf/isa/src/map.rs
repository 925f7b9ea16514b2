//! Map definitions: what an object asks for, in the kernel's terms.

use std::fmt;

macro_rules! map_types {
    ($($variant:ident = $id:literal, $name:literal;)*) => {
        /// Map types (`enum bpf_map_type`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names are the kernel's own")]
        #[repr(u32)]
        pub enum MapType { $($variant = $id,)* }

        impl MapType {
            /// The type with the kernel's number.
            #[must_use]
            pub const fn from_id(id: u32) -> Option<MapType> {
                match id { $($id => Some(MapType::$variant),)* _ => None }
            }

            /// The kernel's name without `BPF_MAP_TYPE_`, lower case, as bpftool prints it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(MapType::$variant => $name,)* }
            }
        }
    };
}

map_types! {
    Hash = 1, "hash";
    Array = 2, "array";
    ProgArray = 3, "prog_array";
    PerfEventArray = 4, "perf_event_array";
    PerCpuHash = 5, "percpu_hash";
    PerCpuArray = 6, "percpu_array";
    StackTrace = 7, "stack_trace";
    CgroupArray = 8, "cgroup_array";
    LruHash = 9, "lru_hash";
    LruPerCpuHash = 10, "lru_percpu_hash";
    LpmTrie = 11, "lpm_trie";
    ArrayOfMaps = 12, "array_of_maps";
    HashOfMaps = 13, "hash_of_maps";
    DevMap = 14, "devmap";
    SockMap = 15, "sockmap";
    CpuMap = 16, "cpumap";
    XskMap = 17, "xskmap";
    SockHash = 18, "sockhash";
    CgroupStorage = 19, "cgroup_storage";
    ReusePortSockArray = 20, "reuseport_sockarray";
    PerCpuCgroupStorage = 21, "percpu_cgroup_storage";
    Queue = 22, "queue";
    Stack = 23, "stack";
    SkStorage = 24, "sk_storage";
    DevMapHash = 25, "devmap_hash";
    StructOps = 26, "struct_ops";
    RingBuf = 27, "ringbuf";
    InodeStorage = 28, "inode_storage";
    TaskStorage = 29, "task_storage";
    BloomFilter = 30, "bloom_filter";
    UserRingBuf = 31, "user_ringbuf";
    CgrpStorage = 32, "cgrp_storage";
    Arena = 33, "arena";
}

impl MapType {
    /// Whether each CPU has a value of its own.
    #[must_use]
    pub const fn is_per_cpu(self) -> bool {
        matches!(
            self,
            MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash
        )
    }

    /// Whether values are maps.
    #[must_use]
    pub const fn is_map_in_map(self) -> bool {
        matches!(self, MapType::ArrayOfMaps | MapType::HashOfMaps)
    }
}

impl fmt::Display for MapType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Map creation flags (`BPF_F_*` of `BPF_MAP_CREATE`), as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MapFlags(pub u32);

#[allow(missing_docs, reason = "the names are the kernel's own")]
impl MapFlags {
    pub const NO_PREALLOC: MapFlags = MapFlags(1 << 0);
    pub const NO_COMMON_LRU: MapFlags = MapFlags(1 << 1);
    pub const NUMA_NODE: MapFlags = MapFlags(1 << 2);
    pub const RDONLY: MapFlags = MapFlags(1 << 3);
    pub const WRONLY: MapFlags = MapFlags(1 << 4);
    pub const ZERO_SEED: MapFlags = MapFlags(1 << 6);
    pub const RDONLY_PROG: MapFlags = MapFlags(1 << 7);
    pub const WRONLY_PROG: MapFlags = MapFlags(1 << 8);
    pub const MMAPABLE: MapFlags = MapFlags(1 << 10);
    pub const PRESERVE_ELEMS: MapFlags = MapFlags(1 << 11);
    pub const INNER_MAP: MapFlags = MapFlags(1 << 12);
}

impl MapFlags {
    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: MapFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether programs may load from values (not with `WRONLY_PROG`; looking up is allowed all the same).
    #[must_use]
    pub const fn programs_may_read(self) -> bool {
        !self.contains(MapFlags::WRONLY_PROG)
    }

    /// Whether programs may store to values, update, delete, push and pop (not with `RDONLY_PROG`).
    #[must_use]
    pub const fn programs_may_write(self) -> bool {
        !self.contains(MapFlags::RDONLY_PROG)
    }
}

/// Flags of an element update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UpdateFlags(pub u64);

impl UpdateFlags {
    /// Create or replace.
    pub const ANY: UpdateFlags = UpdateFlags(0);
    /// Create only: `EEXIST` if present.
    pub const NOEXIST: UpdateFlags = UpdateFlags(1);
    /// Replace only: `ENOENT` if absent.
    pub const EXIST: UpdateFlags = UpdateFlags(2);
    /// Take the value's spin lock.
    pub const LOCK: UpdateFlags = UpdateFlags(4);
}

/// What a map is, before it exists: the kernel's `BPF_MAP_CREATE` attributes that objects can state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDef {
    /// Name in the object. Unlike the kernel's it is never cut to 15 characters.
    pub name: String,
    /// Type.
    pub kind: MapType,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes (of one CPU's value in per-CPU maps).
    pub value_size: u32,
    /// How many entries it can hold.
    pub max_entries: u32,
    /// Creation flags.
    pub flags: MapFlags,
    /// For maps of maps, what the inner maps are like.
    pub inner: Option<Box<MapDef>>,
    /// What only some types have (`map_extra`): the number of hash functions of a `BLOOM_FILTER`, 0 for the
    /// kernel's default. All others have 0.
    pub extra: u64,
    /// Fields of the value that the kernel keeps for itself.
    pub fields: ValueFields,
}

impl MapDef {
    /// A map with keys and values of these sizes in bytes, and nothing else stated.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        kind: MapType,
        (key_size, value_size): (u32, u32),
        max_entries: u32,
    ) -> MapDef {
        MapDef {
            name: name.into(),
            kind,
            key_size,
            value_size,
            max_entries,
            flags: MapFlags::default(),
            inner: None,
            extra: 0,
            fields: ValueFields::default(),
        }
    }
}

/// Offsets of the fields in a map's value that programs may only use through helpers, from the BTF of the
/// value's type. Updates never overwrite them and the control side reads them as zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ValueFields {
    /// Offset of a `struct bpf_spin_lock` (4 bytes).
    pub spin_lock: Option<u32>,
    /// Offset of a `struct bpf_timer` (16 bytes).
    pub timer: Option<u32>,
}

impl ValueFields {
    /// Bytes of a `struct bpf_spin_lock`.
    pub const SPIN_LOCK_SIZE: u32 = 4;
    /// Bytes of a `struct bpf_timer`.
    pub const TIMER_SIZE: u32 = 16;

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.spin_lock.is_none() && self.timer.is_none()
    }

    /// The bytes of the value that they take, in no particular order.
    pub fn ranges(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let range = |at: Option<u32>, len| at.map(|at| at as usize..at as usize + len as usize);
        [
            range(self.spin_lock, Self::SPIN_LOCK_SIZE),
            range(self.timer, Self::TIMER_SIZE),
        ]
        .into_iter()
        .flatten()
    }
}

/// An error number as the kernel's map operations return it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        #[allow(missing_docs, reason = "the names are the kernel's own")]
        impl Errno { $(pub const $name: Errno = Errno($value);)* }

        impl fmt::Display for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($value => f.write_str(concat!(stringify!($name), " (", $text, ")")),)*
                    other => write!(f, "errno {other}"),
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such element";
    E2BIG = 7, "too big, or no room left";
    EBADF = 9, "bad file descriptor";
    EAGAIN = 11, "try again";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "busy";
    EEXIST = 17, "already exists";
    ENODEV = 19, "no such device";
    EINVAL = 22, "invalid argument";
    ENOSPC = 28, "no space left";
    ERANGE = 34, "number out of range";
    EOVERFLOW = 75, "value too large";
    ENOTSUPP = 524, "not supported";
    EOPNOTSUPP = 95, "operation not supported";
    EAFNOSUPPORT = 97, "address family not supported";
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

impl Errno {
    /// The value a helper returns in `r0`: the negated number as 64 bits.
    #[must_use]
    pub const fn as_return(self) -> u64 {
        (-(self.0 as i64)).cast_unsigned()
    }
}
