//! Creating an object's maps with what is in them at first.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use squalus_isa::{Errno, MapDef, MapType, UpdateFlags};
use squalus_object::{InitialTarget, MapOrigin, MapSpec, Object, Pinning, sized};

use crate::load::{LoadedMap, LoadedProgram};
use crate::privilege::Needs;
use crate::sys::{self, MapExtras, MapFd};
use crate::{KernelError, LoadOptions, bpffs};

/// The object's BTF in the kernel, and the types of a map's keys and values in it.
type Types<'l> = (BorrowedFd<'l>, u32, u32);

/// What is the same for all maps of an object.
pub(crate) struct Creator<'l> {
    pub(crate) options: &'l LoadOptions,
    pub(crate) btf: Option<BorrowedFd<'l>>,
    pub(crate) cpus: usize,
}

/// The maps of an object, and which of them are still to be pinned where.
pub(crate) struct Created {
    pub(crate) maps: Vec<LoadedMap>,
    unpinned: Vec<(usize, PathBuf)>,
}

impl Creator<'_> {
    /// Creates all maps of an object, or takes those that are pinned already, with everything in them but programs.
    pub(crate) fn create_all(&self, object: &Object) -> Result<Created, KernelError> {
        let mut slots: Vec<Option<LoadedMap>> = object.maps.iter().map(|_| None).collect();
        let mut unpinned = Vec::new();
        // Maps of maps come last: their prototype may be another map of the object.
        let (outer, plain): (Vec<usize>, Vec<usize>) =
            (0..slots.len()).partition(|at| object.maps[*at].def.kind.is_map_in_map());
        for at in plain.into_iter().chain(outer) {
            let spec = &object.maps[at];
            let def = self.definition(spec);
            let path = self.pin_path(spec);
            let fd = match path
                .as_deref()
                .map(|path| self.reuse(&def, path))
                .transpose()?
            {
                Some(Some(fd)) => fd,
                _ => {
                    unpinned.extend(path.map(|path| (at, path)));
                    self.create(spec, &def, object, &slots)?
                }
            };
            slots[at] = Some(LoadedMap { def, fd });
        }
        Ok(Created {
            maps: slots.into_iter().flatten().collect(),
            unpinned,
        })
    }

    /// The definition with what the object leaves to the loader.
    fn definition(&self, spec: &MapSpec) -> MapDef {
        sized(&spec.def, self.cpus as u32, sys::page_size())
    }

    fn create(
        &self,
        spec: &MapSpec,
        def: &MapDef,
        object: &Object,
        others: &[Option<LoadedMap>],
    ) -> Result<MapFd, KernelError> {
        let extras = MapExtras {
            btf: self.types(spec),
            numa_node: spec.numa_node.unwrap_or(0),
            ifindex: self.options.offload.unwrap_or(0),
            ..MapExtras::default()
        };
        let inner = inner_maps(spec, object, others)?;
        let fd = create_after_prototype(def, extras, self.inner_types(spec), self.cpus)?;
        let failed = |errno| KernelError::CreateMap {
            map: def.name.clone(),
            errno,
            hint: " (writing the initial content)",
        };
        fill(spec.initial.as_deref(), spec.frozen, &fd).map_err(failed)?;
        for (index, inner) in inner {
            set_fd(&fd, index, inner.as_fd()).map_err(failed)?;
        }
        Ok(fd)
    }

    /// Key and value type in the object's BTF. Maps of the kernel's own things have none that it accepts.
    fn types(&self, spec: &MapSpec) -> Option<Types<'_>> {
        let value = spec.value_type.filter(|_| !is_untyped(spec.def.kind))?;
        let key = spec.key_type.map_or(0, |key| key.0);
        Some((self.btf?, key, value.0))
    }

    /// The types that the object gives to inner maps; the caller's prototype has none.
    fn inner_types(&self, spec: &MapSpec) -> Option<Types<'_>> {
        let given = self
            .options
            .inner
            .iter()
            .any(|(name, _)| *name == spec.def.name);
        let value = spec.inner_value_type.filter(|_| !given)?;
        let key = spec.inner_key_type.map_or(0, |key| key.0);
        Some((self.btf?, key, value.0))
    }

    fn pin_path(&self, spec: &MapSpec) -> Option<PathBuf> {
        if spec.origin == MapOrigin::Data {
            return None;
        }
        let shared = self.options.shared.as_ref();
        let shared = shared.filter(|_| spec.pinning != Pinning::None);
        let directory = shared.or(self.options.pin.as_ref())?;
        Some(directory.join(bpffs::file_name(&spec.def.name)))
    }

    /// Opens the map pinned at `path`, if there is one.
    fn reuse(&self, def: &MapDef, path: &Path) -> Result<Option<MapFd>, KernelError> {
        let Some(fd) = bpffs::open(path)? else {
            return Ok(None);
        };
        let wrong = |difference: String| KernelError::PinnedMap {
            map: def.name.clone(),
            path: path.to_owned(),
            difference,
        };
        if bpffs::kind(fd.as_fd()) != bpffs::Kind::Map {
            return Err(wrong("it is no map".to_owned()));
        }
        let fd = MapFd::from_fd(fd, self.cpus).map_err(|errno| wrong(errno.to_string()))?;
        match difference(def, &fd) {
            None => Ok(Some(fd)),
            Some(difference) => Err(wrong(difference)),
        }
    }
}

impl Created {
    /// Puts the programs into program arrays that are initialised with them. Arrays that were pinned before
    /// get them too, as whoever loaded the object last is meant.
    pub(crate) fn set_programs(
        &self,
        object: &Object,
        programs: &[LoadedProgram],
    ) -> Result<(), KernelError> {
        for (spec, map) in object.maps.iter().zip(&self.maps) {
            for value in &spec.values {
                let InitialTarget::Program(name) = &value.target else {
                    continue;
                };
                // Of a program array that no loaded program uses, targets need not be loaded.
                let Some(program) = programs.iter().find(|program| program.name == *name) else {
                    continue;
                };
                set_fd(&map.fd, value.index, program.fd.as_fd()).map_err(|errno| {
                    KernelError::Initial {
                        map: map.def.name.clone(),
                        index: value.index,
                        target: name.clone(),
                        errno,
                    }
                })?;
            }
        }
        Ok(())
    }

    /// Pins new maps; removes what it made if one fails.
    pub(crate) fn pin(&self) -> Result<(), KernelError> {
        for (done, (index, path)) in self.unpinned.iter().enumerate() {
            if let Err(error) = bpffs::pin(self.maps[*index].fd.as_fd(), path) {
                for (_, made) in &self.unpinned[..done] {
                    // The first error is the one to report.
                    let _ = bpffs::unpin(made);
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

/// The maps of the object that a map of maps holds from the start, by their place in it.
fn inner_maps<'m>(
    spec: &MapSpec,
    object: &Object,
    maps: &'m [Option<LoadedMap>],
) -> Result<Vec<(u32, &'m MapFd)>, KernelError> {
    let mut found = Vec::new();
    for value in &spec.values {
        let InitialTarget::Map(name) = &value.target else {
            continue;
        };
        let place = object.maps.iter().position(|map| map.def.name == *name);
        let map = place.and_then(|place| maps.get(place)?.as_ref());
        let map = map.ok_or_else(|| KernelError::Option {
            name: spec.def.name.clone(),
            reason: format!(
                "its entry {} is `{name}`, itself a map of maps",
                value.index
            ),
        })?;
        found.push((value.index, &map.fd));
    }
    Ok(found)
}

fn set_fd(map: &MapFd, index: u32, fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let value = fd.as_raw_fd().to_ne_bytes();
    map.update(&index.to_ne_bytes(), &value, UpdateFlags::ANY)
}

fn is_untyped(kind: MapType) -> bool {
    use MapType as T;
    matches!(
        kind,
        T::PerfEventArray
            | T::CgroupArray
            | T::StackTrace
            | T::ProgArray
            | T::ArrayOfMaps
            | T::HashOfMaps
            | T::DevMap
            | T::DevMapHash
            | T::CpuMap
            | T::XskMap
            | T::SockMap
            | T::SockHash
            | T::Queue
            | T::Stack
            | T::RingBuf
            | T::UserRingBuf
    )
}

/// Creates a map, if it is a map of maps after a prototype, from which the kernel copies what inner maps must be
/// like, `inner_types` included.
pub(crate) fn create_after_prototype(
    def: &MapDef,
    extras: MapExtras<'_>,
    inner_types: Option<Types<'_>>,
    cpus: usize,
) -> Result<MapFd, KernelError> {
    let prototype = match (&def.inner, def.kind.is_map_in_map()) {
        (Some(inner), true) => {
            let extras = MapExtras {
                btf: inner_types,
                ..MapExtras::default()
            };
            Some(create_map(inner, extras, cpus)?)
        }
        (None, true) => {
            return Err(KernelError::Option {
                name: def.name.clone(),
                reason: "the object does not say what its inner maps are like; give a prototype"
                    .to_owned(),
            });
        }
        (_, false) => None,
    };
    let extras = MapExtras {
        inner: prototype.as_ref().map(MapFd::as_fd),
        ..extras
    };
    create_map(def, extras, cpus)
}

/// Creates a map, with errors that say what to do. If the kernel does not take the types, the map goes without
/// them, which only tools will miss; what does need them (spin locks, timers) fails when the program loads.
pub(crate) fn create_map(
    def: &MapDef,
    extras: MapExtras<'_>,
    cpus: usize,
) -> Result<MapFd, KernelError> {
    let create = |extras| sys::with_memlock(|| MapFd::create(def, extras, cpus));
    let created = match create(extras) {
        Err(errno) if errno != Errno::EPERM && extras.btf.is_some() => {
            tracing::debug!(map = def.name, %errno, "the kernel refused the map's types");
            create(MapExtras {
                btf: None,
                ..extras
            })
        }
        created => created,
    };
    created.map_err(|errno| match errno {
        Errno::EPERM => KernelError::Privilege {
            what: format!("create map `{}`", def.name),
            advice: Needs::Load.advice(),
        },
        errno => KernelError::CreateMap {
            map: def.name.clone(),
            errno,
            hint: match errno {
                Errno::ENOMEM | Errno::E2BIG => " (fewer entries may fit)",
                Errno::EINVAL => " (type, sizes or flags that this kernel does not accept)",
                _ => "",
            },
        },
    })
}

/// Sets a map's first value, after which nobody may if it is `frozen`.
pub(crate) fn fill(initial: Option<&[u8]>, frozen: bool, fd: &MapFd) -> Result<(), Errno> {
    if let Some(data) = initial.filter(|data| !data.is_empty()) {
        fd.update(&0u32.to_ne_bytes(), data, UpdateFlags::ANY)?;
    }
    if frozen {
        fd.freeze()?;
    }
    Ok(())
}

fn difference(def: &MapDef, fd: &MapFd) -> Option<String> {
    /// The kernel gives device maps this flag by itself.
    const RDONLY_PROG: u32 = squalus_isa::MapFlags::RDONLY_PROG.0;
    let Ok(info) = fd.info() else {
        return Some("its properties cannot be read".to_owned());
    };
    let given = match def.kind {
        MapType::DevMap | MapType::DevMapHash => def.flags.0 | RDONLY_PROG,
        _ => def.flags.0,
    };
    [
        ("type", info.kind, def.kind as u32),
        ("key size", info.key_size, def.key_size),
        ("value size", info.value_size, def.value_size),
        ("entries", info.max_entries, def.max_entries),
        ("flags", info.flags, given),
    ]
    .into_iter()
    .find(|(_, has, wants)| has != wants)
    .map(|(what, has, wants)| format!("{what} {has}, not {wants}"))
}
