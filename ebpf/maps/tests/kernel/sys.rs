//! The kernel's maps through bpf(2), with nothing in between.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use squalus_isa::{Errno, MapDef, ValueFields};

const MAP_CREATE: i32 = 0;
const LOOKUP: i32 = 1;
const UPDATE: i32 = 2;
const DELETE: i32 = 3;
const NEXT_KEY: i32 = 4;
const PROG_LOAD: i32 = 5;
/// `BPF_PROG_TYPE_XDP`.
const XDP: u32 = 6;
const OBJ_GET_INFO: i32 = 15;
const BTF_LOAD: i32 = 18;
const LOOKUP_AND_DELETE: i32 = 21;
const FREEZE: i32 = 22;
pub const LOOKUP_BATCH: i32 = 24;
pub const LOOKUP_AND_DELETE_BATCH: i32 = 25;
const UPDATE_BATCH: i32 = 26;
const DELETE_BATCH: i32 = 27;

/// What we need of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
    btf_fd: u32,
    btf_key_type: u32,
    btf_value_type: u32,
    btf_vmlinux_value_type: u32,
    extra: u64,
}

/// And for the element commands.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// And for the batch commands.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

pub fn bpf<T>(command: i32, attr: &mut T) -> Result<i32, Errno> {
    // SAFETY: `attr` is one of the structs here, whose pointers cover what the kernel uses.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        // 524 (ENOTSUPP) leaks to userspace unchanged.
        return Err(Errno(
            std::io::Error::last_os_error().raw_os_error().unwrap(),
        ));
    }
    Ok(result as i32)
}

pub fn owned(fd: i32) -> OwnedFd {
    // SAFETY: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// An absent key is no error.
fn present(result: Result<i32, Errno>) -> Result<bool, Errno> {
    match result {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

pub struct KernelMap {
    pub fd: OwnedFd,
    pub def: MapDef,
    pub value_len: usize,
}

/// What a batch of lookups gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    pub count: u32,
    pub keys: Vec<u8>,
    pub values: Vec<u8>,
    pub cursor: Vec<u8>,
    pub result: Result<(), Errno>,
}

impl KernelMap {
    pub fn new(def: &MapDef) -> Result<KernelMap, Errno> {
        let inner = def.inner.as_deref().map(KernelMap::new).transpose()?;
        let btf = (!def.fields.is_empty()).then(|| load_btf(def.value_size, def.fields));
        let btf = btf.transpose()?;
        let fd = bpf(
            MAP_CREATE,
            &mut Create {
                map_type: def.kind as u32,
                key_size: def.key_size,
                value_size: def.value_size,
                max_entries: def.max_entries,
                map_flags: def.flags.0,
                inner_map_fd: inner
                    .as_ref()
                    .map_or(u32::MAX, |inner| inner.fd.as_raw_fd() as u32),
                btf_fd: btf.as_ref().map_or(0, |btf| btf.as_raw_fd() as u32),
                btf_key_type: btf.as_ref().map_or(0, |_| INT),
                btf_value_type: btf.as_ref().map_or(0, |_| VALUE),
                extra: def.extra,
                ..Create::default()
            },
        )?;
        let value = def.value_size as usize;
        Ok(KernelMap {
            fd: owned(fd),
            def: def.clone(),
            value_len: if def.kind.is_per_cpu() {
                value.next_multiple_of(8) * cpus() as usize
            } else {
                value
            },
        })
    }

    fn element(&self, key: &[u8], value: *const u8, flags: u64) -> Element {
        Element {
            map_fd: self.fd.as_raw_fd() as u32,
            // Maps without keys insist on none.
            key: if key.is_empty() {
                0
            } else {
                key.as_ptr() as u64
            },
            value: value as u64,
            flags,
            ..Element::default()
        }
    }

    pub fn lookup(&self, key: &[u8], flags: u64) -> Result<Option<Vec<u8>>, Errno> {
        self.read(LOOKUP, key, flags)
    }

    pub fn lookup_and_delete(&self, key: &[u8], flags: u64) -> Result<Option<Vec<u8>>, Errno> {
        self.read(LOOKUP_AND_DELETE, key, flags)
    }

    fn read(&self, command: i32, key: &[u8], flags: u64) -> Result<Option<Vec<u8>>, Errno> {
        let mut value = vec![0; self.value_len];
        let mut attr = self.element(key, value.as_mut_ptr(), flags);
        Ok(present(bpf(command, &mut attr))?.then_some(value))
    }

    /// A bloom filter's lookup.
    pub fn peek(&self, value: &[u8]) -> Result<bool, Errno> {
        present(bpf(LOOKUP, &mut self.element(&[], value.as_ptr(), 0)))
    }

    pub fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        bpf(UPDATE, &mut self.element(key, value.as_ptr(), flags)).map(drop)
    }

    pub fn set_inner(&self, key: &[u8], inner: &KernelMap) -> Result<(), Errno> {
        self.update(key, &inner.fd.as_raw_fd().to_ne_bytes(), 0)
    }

    pub fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        bpf(DELETE, &mut self.element(key, std::ptr::null(), 0)).map(drop)
    }

    pub fn freeze(&self) -> Result<(), Errno> {
        bpf(FREEZE, &mut self.element(&[], std::ptr::null(), 0)).map(drop)
    }

    pub fn next_key(&self, key: Option<&[u8]>) -> Result<Option<Vec<u8>>, Errno> {
        let mut next = vec![0; self.def.key_size as usize];
        let mut attr = self.element(key.unwrap_or_default(), next.as_mut_ptr(), 0);
        Ok(present(bpf(NEXT_KEY, &mut attr))?.then_some(next))
    }

    /// A batch of lookups, or with [`LOOKUP_AND_DELETE_BATCH`] of deletions.
    pub fn read_batch(&self, command: i32, cursor: Option<&[u8]>, count: u32, flags: u64) -> Batch {
        let mut next = vec![0_u8; 4.max(self.def.key_size as usize)];
        let mut keys = vec![0; count as usize * self.def.key_size as usize];
        let mut values = vec![0; count as usize * self.value_len];
        let mut attr = BatchAttr {
            in_batch: cursor.map_or(0, |cursor| cursor.as_ptr() as u64),
            out_batch: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count,
            map_fd: self.fd.as_raw_fd() as u32,
            element_flags: flags,
            flags: 0,
        };
        let result = bpf(command, &mut attr).map(drop);
        // Where the kernel objects at once, it leaves the count as it was.
        let count = match result {
            Ok(()) | Err(Errno::ENOENT) => attr.count,
            Err(_) => 0,
        };
        keys.truncate(count as usize * self.def.key_size as usize);
        values.truncate(count as usize * self.value_len);
        Batch {
            count,
            keys,
            values,
            cursor: next,
            result,
        }
    }

    /// The number of elements done before an error, and the error.
    pub fn update_batch(&self, keys: &[u8], values: &[u8], flags: u64) -> Result<(), (u32, Errno)> {
        self.write_batch(UPDATE_BATCH, keys, values, flags)
    }

    pub fn delete_batch(&self, keys: &[u8], flags: u64) -> Result<(), (u32, Errno)> {
        self.write_batch(DELETE_BATCH, keys, &[], flags)
    }

    fn write_batch(
        &self,
        command: i32,
        keys: &[u8],
        values: &[u8],
        flags: u64,
    ) -> Result<(), (u32, Errno)> {
        let count = keys.len() as u32 / self.def.key_size.max(1);
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count,
            map_fd: self.fd.as_raw_fd() as u32,
            element_flags: flags,
            ..BatchAttr::default()
        };
        match bpf(command, &mut attr) {
            Ok(_) => Ok(()),
            Err(errno) if attr.count == count => Err((0, errno)),
            Err(errno) => Err((attr.count, errno)),
        }
    }
}

/// Possible CPUs: how many values the kernel's per-CPU maps have.
pub fn cpus() -> u32 {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    possible
        .trim()
        .rsplit(['-', ','])
        .next()
        .unwrap()
        .parse::<u32>()
        .unwrap()
        + 1
}

/// A program that passes all frames, for the entries of a map for redirection.
pub struct Program {
    pub fd: OwnedFd,
    pub id: u32,
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct Info {
    fd: u32,
    len: u32,
    info: u64,
}

/// `BPF_XDP_DEVMAP`.
pub const FOR_DEVICES: u32 = 33;
/// `BPF_XDP_CPUMAP`.
pub const FOR_CPUS: u32 = 35;

impl Program {
    pub fn new(attach_type: u32) -> Program {
        // r0 = XDP_PASS; exit
        let code = [0x2_0000_00b7_u64, 0x95].map(u64::to_ne_bytes);
        let fd = load(code.as_flattened(), attach_type);
        // Type, then the id.
        let mut info = [0_u32; 2];
        let mut attr = Info {
            fd: fd.as_raw_fd() as u32,
            len: 8,
            info: info.as_mut_ptr() as u64,
        };
        bpf(OBJ_GET_INFO, &mut attr).unwrap();
        Program { fd, id: info[1] }
    }
}

/// Whether the kernel makes such maps; says so if not.
pub fn available(def: &MapDef) -> bool {
    let available = KernelMap::new(def).is_ok();
    if !available {
        eprintln!(
            "SKIPPED: cannot create kernel maps (needs root and bpf(2)); nothing was compared"
        );
    }
    available
}

/// Loads the instructions of an XDP program.
pub fn load(code: &[u8], attach_type: u32) -> OwnedFd {
    let mut log = vec![0_u8; 1 << 16];
    let mut attr = Load {
        kind: XDP,
        instructions: (code.len() / 8) as u32,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log: log.as_mut_ptr() as u64,
        attach_type,
        ..Load::default()
    };
    let fd = bpf(PROG_LOAD, &mut attr).unwrap_or_else(|errno| {
        panic!("{errno}: {}", String::from_utf8_lossy(&log));
    });
    owned(fd)
}

#[repr(C)]
#[derive(Default)]
struct LoadBtf {
    btf: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
}

const INT: u32 = 1;
const LONG: u32 = 2;
const SPIN_LOCK: u32 = 3;
const TIMER: u32 = 4;
const VALUE: u32 = 5;

/// Types of a value of `size` bytes with such fields: the numbers above.
fn load_btf(size: u32, fields: ValueFields) -> Result<OwnedFd, Errno> {
    const KIND_INT: u32 = 1 << 24;
    const KIND_STRUCT: u32 = 4 << 24;
    let mut strings = vec![0_u8];
    let mut name = |name: &str| {
        let at = strings.len() as u32;
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
        at
    };
    let mut types = vec![name("int"), KIND_INT, 4, 32];
    types.extend([name("long"), KIND_INT, 8, 64]);
    types.extend([name("bpf_spin_lock"), KIND_STRUCT | 1, 4]);
    types.extend([name("val"), INT, 0]);
    types.extend([name("bpf_timer"), KIND_STRUCT | 2, 16]);
    types.extend([name("a"), LONG, 0, name("b"), LONG, 64]);
    let mut members: Vec<_> = [(fields.spin_lock, SPIN_LOCK), (fields.timer, TIMER)]
        .into_iter()
        .filter_map(|(at, kind)| Some((at?, kind)))
        .collect();
    members.sort_unstable();
    types.extend([name("value"), KIND_STRUCT | members.len() as u32, size]);
    for (at, kind) in members {
        types.extend([name("field"), kind, at * 8]);
    }
    let types_len = types.len() as u32 * 4;
    let header = [
        1 << 16 | 0xeb9f,
        24,
        0,
        types_len,
        types_len,
        strings.len() as u32,
    ];
    let mut bytes: Vec<u8> = header
        .iter()
        .chain(&types)
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    bytes.extend(strings);
    let mut attr = LoadBtf {
        btf: bytes.as_ptr() as u64,
        size: bytes.len() as u32,
        ..LoadBtf::default()
    };
    bpf(BTF_LOAD, &mut attr).map(owned)
}
