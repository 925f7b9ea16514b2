//! Maps that are in the kernel already, whoever created them.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use squalus_engine::MapAccess;
use squalus_isa::{Errno, MapDef, MapFlags, MapType, ValueFields};
use squalus_object::btf::{Btf, TypeId};

use crate::inspect::no_object;
use crate::load::LoadedMap;
use crate::sys::{self, MapFd, MapInfo};
use crate::{KernelEngine, KernelError, ProgramInfo, bpffs};

/// Some maps of the kernel, with the types that their loaders gave them.
///
/// Names are the kernel's, cut to 15 characters; where two maps have the same one, `#` and the kernel's
/// number follow.
#[derive(Debug)]
pub struct LiveMaps {
    engine: KernelEngine,
    about: Vec<About>,
}

/// What a definition doesn't say.
#[derive(Debug)]
struct About {
    id: u32,
    types: Option<(Btf, TypeId, TypeId)>,
}

impl LiveMaps {
    /// The maps with these numbers.
    ///
    /// # Errors
    /// If there is no such map, or the process may not open it.
    pub fn by_ids(ids: &[u32]) -> Result<LiveMaps, KernelError> {
        let cpus = sys::possible_cpus()?;
        let open = |id: &u32| MapFd::by_id(*id, cpus).map_err(|errno| no_object("map", *id, errno));
        LiveMaps::of(ids.iter().map(open).collect::<Result<_, _>>()?, cpus)
    }

    /// The maps that a path in a bpf file system stands for: the map pinned there, all maps of the program
    /// pinned there, or what all files of the directory stand for.
    ///
    /// # Errors
    /// If there is no map or program, or the process may not open it.
    pub fn pinned(path: &Path) -> Result<LiveMaps, KernelError> {
        let cpus = sys::possible_cpus()?;
        let mut found = Vec::new();
        if path.is_dir() {
            for file in bpffs::files(path)? {
                found.extend(open(&file, cpus)?);
            }
        } else {
            found = open(path, cpus)?;
        }
        LiveMaps::of(found, cpus)
    }

    /// The maps as bytes. Maps of maps whose entries are all empty have no prototype here.
    #[must_use]
    pub fn access(&self) -> &dyn MapAccess {
        &self.engine
    }

    /// The types of a map's keys and values (a data section's is its `DATASEC`), if its loader gave any.
    #[must_use]
    pub fn types(&self, name: &str) -> Option<(&Btf, TypeId, TypeId)> {
        let (btf, key, value) = self.about(name)?.types.as_ref()?;
        Some((btf, *key, *value))
    }

    /// The kernel's number of a map.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<u32> {
        self.about(name).map(|about| about.id)
    }

    fn about(&self, name: &str) -> Option<&About> {
        let place = self
            .engine
            .maps
            .iter()
            .position(|map| map.def.name == name)?;
        self.about.get(place)
    }

    fn of(fds: Vec<MapFd>, cpus: usize) -> Result<LiveMaps, KernelError> {
        let mut names = HashSet::new();
        let (mut maps, mut about) = (Vec::new(), Vec::new());
        for fd in fds {
            let info = fd.info().map_err(asking)?;
            if about.iter().any(|about: &About| about.id == info.id) {
                continue;
            }
            let mut def = definition(&info)?;
            if !names.insert(def.name.clone()) {
                def.name = format!("{}#{}", def.name, info.id);
            }
            def.inner = inner(&def, &fd, cpus).map(Box::new);
            about.push(About {
                id: info.id,
                types: types(&info),
            });
            maps.push(LoadedMap { def, fd });
        }
        let engine = KernelEngine::of(maps, Vec::new(), cpus);
        Ok(LiveMaps { engine, about })
    }
}

/// The maps that one name stands for.
fn open(path: &Path, cpus: usize) -> Result<Vec<MapFd>, KernelError> {
    let wrong = |reason: &str| KernelError::Path {
        doing: "opening",
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let fd: OwnedFd = bpffs::open(path)?.ok_or_else(|| wrong("there is nothing of this name"))?;
    match bpffs::kind(fd.as_fd()) {
        bpffs::Kind::Map => Ok(vec![MapFd::from_fd(fd, cpus).map_err(asking)?]),
        bpffs::Kind::Program => {
            let ids = ProgramInfo::of(fd.as_fd())?.maps.into_iter();
            ids.map(|id| MapFd::by_id(id, cpus).map_err(|errno| no_object("map", id, errno)))
                .collect()
        }
        bpffs::Kind::Other => Err(wrong("it is neither a map nor a program")),
    }
}

fn asking(errno: Errno) -> KernelError {
    KernelError::System {
        what: "asking about a map",
        errno,
    }
}

fn definition(info: &MapInfo) -> Result<MapDef, KernelError> {
    let kind = MapType::from_id(info.kind).ok_or(KernelError::System {
        what: "recognising the type of a map",
        errno: Errno::ENOTSUPP,
    })?;
    Ok(MapDef {
        name: sys::from_kernel_name(info.name),
        kind,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: MapFlags(info.flags),
        inner: None,
        extra: info.map_extra,
        fields: ValueFields::default(),
    })
}

/// What the inner maps of a map of maps are like, going by the first there is: the kernel doesn't tell its
/// prototype.
fn inner(def: &MapDef, outer: &MapFd, cpus: usize) -> Option<MapDef> {
    if !def.kind.is_map_in_map() {
        return None;
    }
    let mut key = None;
    for _ in 0..def.max_entries {
        key = Some(outer.next_key(key.as_deref()).ok()??);
        let value = outer.lookup(key.as_deref()?).ok()?;
        if let Some(id) = value.as_deref().and_then(|value| value.first_chunk()) {
            let inner = MapFd::by_id(u32::from_ne_bytes(*id), cpus).ok()?;
            return definition(&inner.info().ok()?).ok();
        }
    }
    None
}

/// The types of a map; without them it is shown as bytes.
fn types(info: &MapInfo) -> Option<(Btf, TypeId, TypeId)> {
    let fd = Some(info.btf_id).filter(|id| *id != 0)?;
    let fd = sys::btf_fd_by_id(fd).ok()?;
    let btf = Btf::parse(&sys::btf_bytes(fd.as_fd()).ok()?).ok()?;
    Some((
        btf,
        TypeId(info.btf_key_type_id),
        TypeId(info.btf_value_type_id),
    ))
}
