//! What the kernel refuses when a map is created, and why.

use squalus_isa::{Errno, MapDef, MapFlags, MapType};

use crate::words;

/// The largest per-CPU value (`PCPU_MIN_UNIT_SIZE`).
const MAX_PERCPU_VALUE: usize = 32 << 10;
/// The largest single allocation (`KMALLOC_MAX_SIZE`).
const MAX_ALLOCATION: u64 = 4 << 20;
/// The kernel's bookkeeping in each hash element (`sizeof(struct htab_elem)`).
const HASH_ELEMENT: u64 = 48;
/// A hash has a bucket per entry, rounded up to a power of two, and buckets' bytes must fit 32 bits.
const MAX_HASH_ENTRIES: u32 = 1 << 27;
/// Prefix length, then 1 to 256 bytes.
const LPM_KEY: std::ops::RangeInclusive<u32> = 5..=260;
/// The kernel's bookkeeping in each trie node, and the longest key.
const LPM_NODE: u64 = 40 + 260;

/// The most hash functions of a bloom filter.
const MAX_BLOOM_HASHES: u64 = 15;
/// The most CPUs a kernel for servers is built for (`NR_CPUS`).
const MAX_CPUS: u32 = 8192;

const PROG_ACCESS: u32 = MapFlags::RDONLY_PROG.0 | MapFlags::WRONLY_PROG.0;
const SYS_ACCESS: u32 = MapFlags::RDONLY.0 | MapFlags::WRONLY.0;
const ACCESS: u32 = PROG_ACCESS | SYS_ACCESS;

/// Why a map could not be created.
#[derive(Debug, thiserror::Error)]
#[error("map `{map}` ({kind}) cannot be created: {reason}")]
pub struct MapError {
    /// The map's name.
    pub map: String,
    /// Its type.
    pub kind: MapType,
    /// What the kernel's `BPF_MAP_CREATE` returns for it.
    pub errno: Errno,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl MapError {
    pub(crate) fn new(def: &MapDef, errno: Errno, reason: impl Into<String>) -> MapError {
        MapError {
            map: def.name.clone(),
            kind: def.kind,
            errno,
            reason: reason.into(),
        }
    }
}

/// Checks a definition as `BPF_MAP_CREATE` does.
pub(crate) fn validate(def: &MapDef) -> Result<(), MapError> {
    if def.extra != 0 && def.kind != MapType::BloomFilter {
        return Err(einval(def, "only bloom filters take map_extra"));
    }
    match def.kind {
        MapType::Array | MapType::PerCpuArray => array(def)?,
        MapType::ProgArray | MapType::ArrayOfMaps | MapType::PerfEventArray => {
            reference_value(def)?;
            if def.flags.0 & PROG_ACCESS != 0 {
                return Err(einval(
                    def,
                    "its flags cannot hold rdonly_prog or wronly_prog",
                ));
            }
            array(def)?;
        }
        MapType::Hash | MapType::PerCpuHash | MapType::LruHash | MapType::LruPerCpuHash => {
            hash(def)?;
        }
        MapType::HashOfMaps => {
            reference_value(def)?;
            hash(def)?;
        }
        MapType::RingBuf => crate::ring::validate(def)?,
        MapType::LpmTrie => lpm(def)?,
        MapType::Queue | MapType::Stack => queue(def)?,
        MapType::BloomFilter => bloom(def)?,
        MapType::DevMap | MapType::DevMapHash | MapType::CpuMap | MapType::XskMap => targets(def)?,
        other => {
            return Err(MapError::new(
                def,
                Errno::ENOTSUPP,
                format!(
                    "the userspace engine has no {other} maps; use the kernel engine for this object"
                ),
            ));
        }
    }
    fields(def)?;
    if def.kind.is_map_in_map() {
        template(def)
    } else {
        Ok(())
    }
}

/// Where values may have locks and timers (`map_check_btf`).
fn fields(def: &MapDef) -> Result<(), MapError> {
    let fields = def.fields;
    if fields.is_empty() {
        return Ok(());
    }
    if fields
        .ranges()
        .any(|field| field.end > def.value_size as usize)
    {
        return Err(einval(def, "a spin lock or timer lies outside the value"));
    }
    let unaligned = |at: Option<u32>, to: u32| at.is_some_and(|at| !at.is_multiple_of(to));
    if unaligned(fields.spin_lock, 4) || unaligned(fields.timer, 8) {
        return Err(einval(
            def,
            "a spin lock or timer is not aligned in the value",
        ));
    }
    if let [a, b] = &*fields.ranges().collect::<Vec<_>>()
        && a.start < b.end
        && b.start < a.end
    {
        return Err(einval(def, "a spin lock and a timer overlap in the value"));
    }
    if def.flags.0 & PROG_ACCESS != 0 {
        return Err(MapError::new(
            def,
            Errno::EACCES,
            "values with spin locks or timers cannot be rdonly_prog or wronly_prog",
        ));
    }
    let (lock, timer) = match def.kind {
        MapType::Array | MapType::Hash => (true, true),
        MapType::LruHash => (false, true),
        _ => (false, false),
    };
    if fields.spin_lock.is_some() && !lock || fields.timer.is_some() && !timer {
        return Err(MapError::new(
            def,
            Errno::EOPNOTSUPP,
            "its type takes no spin locks or timers in values; use array or hash",
        ));
    }
    Ok(())
}

fn einval(def: &MapDef, reason: impl Into<String>) -> MapError {
    MapError::new(def, Errno::EINVAL, reason)
}

fn sizes(def: &MapDef) -> Result<(), MapError> {
    not_zero(
        def,
        &[
            ("max_entries", def.max_entries),
            ("key_size", def.key_size),
            ("value_size", def.value_size),
        ],
    )
}

fn not_zero(def: &MapDef, sizes: &[(&str, u32)]) -> Result<(), MapError> {
    for &(what, size) in sizes {
        if size == 0 {
            return Err(einval(def, format!("{what} is 0; it must be at least 1")));
        }
    }
    Ok(())
}

fn flags(def: &MapDef, allowed: u32) -> Result<(), MapError> {
    let unknown = def.flags.0 & !allowed;
    if unknown != 0 {
        return Err(einval(
            def,
            format!("its type does not take the flags {unknown:#x}"),
        ));
    }
    for (what, both) in [
        ("rdonly_prog and wronly_prog", PROG_ACCESS),
        ("rdonly and wronly", SYS_ACCESS),
    ] {
        if def.flags.0 & both == both {
            return Err(einval(
                def,
                format!("{what} exclude each other; set one or none"),
            ));
        }
    }
    Ok(())
}

fn percpu_value(def: &MapDef) -> Result<(), MapError> {
    if def.kind.is_per_cpu() && words::pad(def.value_size as usize) > MAX_PERCPU_VALUE {
        return Err(MapError::new(
            def,
            Errno::E2BIG,
            format!("per-CPU values have at most {MAX_PERCPU_VALUE} bytes"),
        ));
    }
    Ok(())
}

fn reference_value(def: &MapDef) -> Result<(), MapError> {
    if def.value_size != 4 {
        return Err(einval(
            def,
            format!("value_size is {}; references have 4", def.value_size),
        ));
    }
    Ok(())
}

fn array(def: &MapDef) -> Result<(), MapError> {
    let plain = MapFlags::MMAPABLE.0 | MapFlags::INNER_MAP.0;
    let allowed = MapFlags::NUMA_NODE.0 | ACCESS;
    flags(
        def,
        match def.kind {
            MapType::Array => allowed | plain,
            MapType::PerfEventArray => allowed | MapFlags::PRESERVE_ELEMS.0,
            _ => allowed,
        },
    )?;
    sizes(def)?;
    if def.key_size != 4 {
        return Err(einval(
            def,
            format!("key_size is {}; array indices have 4", def.key_size),
        ));
    }
    if def.kind.is_per_cpu() && def.flags.contains(MapFlags::NUMA_NODE) {
        return Err(einval(def, "per-CPU maps cannot be bound to a NUMA node"));
    }
    if def.value_size > i32::MAX as u32 {
        return Err(MapError::new(
            def,
            Errno::E2BIG,
            "value_size is above 2 GiB",
        ));
    }
    percpu_value(def)
}

fn hash(def: &MapDef) -> Result<(), MapError> {
    let lru = matches!(def.kind, MapType::LruHash | MapType::LruPerCpuHash);
    flags(
        def,
        MapFlags::NO_PREALLOC.0
            | MapFlags::NO_COMMON_LRU.0
            | MapFlags::NUMA_NODE.0
            | MapFlags::ZERO_SEED.0
            | ACCESS,
    )?;
    let own_lists = def.flags.contains(MapFlags::NO_COMMON_LRU);
    if own_lists && !lru {
        return Err(einval(def, "only LRU maps take no_common_lru"));
    }
    if lru && def.flags.contains(MapFlags::NO_PREALLOC) {
        return Err(MapError::new(
            def,
            Errno::ENOTSUPP,
            "LRU maps don't take no_prealloc",
        ));
    }
    if (def.kind.is_per_cpu() || own_lists) && def.flags.contains(MapFlags::NUMA_NODE) {
        return Err(einval(def, "per-CPU maps cannot be bound to a NUMA node"));
    }
    sizes(def)?;
    if u64::from(def.key_size) + u64::from(def.value_size) >= MAX_ALLOCATION - HASH_ELEMENT {
        return Err(MapError::new(
            def,
            Errno::E2BIG,
            "key and value exceed 4 MiB together",
        ));
    }
    if def.max_entries > MAX_HASH_ENTRIES {
        return Err(MapError::new(
            def,
            Errno::E2BIG,
            format!("a hash has at most {MAX_HASH_ENTRIES} entries"),
        ));
    }
    percpu_value(def)
}

fn lpm(def: &MapDef) -> Result<(), MapError> {
    if !def.flags.contains(MapFlags::NO_PREALLOC) {
        return Err(einval(def, "tries need the flag no_prealloc"));
    }
    flags(
        def,
        MapFlags::NO_PREALLOC.0 | MapFlags::NUMA_NODE.0 | ACCESS,
    )?;
    sizes(def)?;
    if !LPM_KEY.contains(&def.key_size) {
        return Err(einval(
            def,
            format!(
                "key_size is {}; it must be 4 (prefix length) plus 1 to 256",
                def.key_size
            ),
        ));
    }
    if u64::from(def.value_size) > MAX_ALLOCATION - LPM_NODE {
        return Err(einval(def, "value_size is near or above 4 MiB"));
    }
    Ok(())
}

fn queue(def: &MapDef) -> Result<(), MapError> {
    no_key(def)?;
    flags(def, MapFlags::NUMA_NODE.0 | ACCESS)?;
    if u64::from(def.value_size) > MAX_ALLOCATION {
        return Err(MapError::new(
            def,
            Errno::E2BIG,
            "value_size is above 4 MiB",
        ));
    }
    Ok(())
}

fn bloom(def: &MapDef) -> Result<(), MapError> {
    no_key(def)?;
    flags(def, MapFlags::NUMA_NODE.0 | MapFlags::ZERO_SEED.0 | ACCESS)?;
    if def.extra > MAX_BLOOM_HASHES {
        return Err(einval(
            def,
            format!(
                "map_extra is {}; a bloom filter has at most {MAX_BLOOM_HASHES} hashes",
                def.extra
            ),
        ));
    }
    Ok(())
}

fn no_key(def: &MapDef) -> Result<(), MapError> {
    if def.key_size != 0 {
        return Err(einval(def, "its type has no keys; key_size must be 0"));
    }
    not_zero(
        def,
        &[
            ("max_entries", def.max_entries),
            ("value_size", def.value_size),
        ],
    )
}

/// Maps for redirection.
fn targets(def: &MapDef) -> Result<(), MapError> {
    let access = if def.kind == MapType::CpuMap {
        0
    } else {
        SYS_ACCESS
    };
    flags(def, MapFlags::NUMA_NODE.0 | access)?;
    sizes(def)?;
    if def.key_size != 4 {
        return Err(einval(
            def,
            format!("key_size is {}; keys have 4", def.key_size),
        ));
    }
    let with_program = def.kind != MapType::XskMap && def.value_size == 8;
    if def.value_size != 4 && !with_program {
        return Err(einval(
            def,
            format!(
                "value_size is {}; values have 4 (or 8, with a program)",
                def.value_size
            ),
        ));
    }
    if def.kind == MapType::CpuMap && def.max_entries > MAX_CPUS {
        return Err(MapError::new(
            def,
            Errno::E2BIG,
            format!("there are at most {MAX_CPUS} CPUs"),
        ));
    }
    if def.kind == MapType::DevMapHash && def.max_entries > 1 << 31 {
        return Err(einval(def, "a hash of devices has at most 2^31 entries"));
    }
    Ok(())
}

/// A definition as the map it makes shows it: programs never write what devices they redirect to.
pub(crate) fn created(def: &MapDef) -> MapDef {
    let mut def = def.clone();
    if matches!(def.kind, MapType::DevMap | MapType::DevMapHash) {
        def.flags.0 |= MapFlags::RDONLY_PROG.0;
    }
    def.inner = def.inner.map(|inner| Box::new(created(&inner)));
    def
}

/// What inner maps must be like is part of a map of maps.
fn template(def: &MapDef) -> Result<(), MapError> {
    let Some(inner) = &def.inner else {
        return Err(MapError::new(
            def,
            Errno::EBADF,
            "it has no definition of its inner maps; state one in the object or before loading",
        ));
    };
    if inner.kind.is_map_in_map() {
        return Err(einval(def, "its inner maps cannot hold maps themselves"));
    }
    if inner.kind == MapType::ProgArray {
        return Err(MapError::new(
            def,
            Errno::ENOTSUPP,
            "its inner maps cannot be prog_array",
        ));
    }
    validate(inner)
}

/// Whether `map` may stand where `template` was declared (`bpf_map_meta_equal`, and for arrays
/// `array_map_meta_equal`: their bound may already be compiled into a program).
pub(crate) fn fits_template(template: &MapDef, map: &MapDef) -> bool {
    let same = template.kind == map.kind
        && template.key_size == map.key_size
        && template.value_size == map.value_size
        && template.flags == map.flags
        && template.fields == map.fields;
    let bound_matters = match map.kind {
        MapType::Array => !template.flags.contains(MapFlags::INNER_MAP),
        MapType::XskMap => true,
        _ => false,
    };
    same && (!bound_matters || template.max_entries == map.max_entries)
}
