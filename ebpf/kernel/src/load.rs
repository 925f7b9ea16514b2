//! Loading: maps first, then the programs that name them, and nothing left behind on failure.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use squalus_isa::{Errno, Insn, MapDef, MapType, opcode};

use crate::parse::{ObjectMap, ObjectProgram, Parsed};
use crate::sys::{self, MapExtras, MapFd, XdpLoad};
use crate::{KernelEngine, KernelError, LoadOptions};

/// How much of a verifier log is kept; newer kernels keep the end of longer ones.
const LOG_BYTES: usize = 4 << 20;

/// A map with its full definition.
pub(crate) struct LoadedMap {
    pub(crate) def: MapDef,
    pub(crate) fd: MapFd,
}

/// A program in the kernel.
pub(crate) struct LoadedProgram {
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
    pub(crate) attach_type: u32,
    pub(crate) flags: u32,
}

impl KernelEngine {
    /// Loads all XDP programs and maps of an object into the kernel.
    ///
    /// The bytes are those that the userspace engine takes. Read-only data is frozen before the
    /// programs load, so that the verifier drops what [`LoadOptions::globals`] switch off.
    ///
    /// # Errors
    /// If the object is malformed, an option does not fit, the process lacks the privilege, a map
    /// cannot be created, or the verifier rejects a program (the error holds its log). Nothing stays
    /// loaded or pinned then.
    pub fn load(bytes: &[u8], options: &LoadOptions) -> Result<KernelEngine, KernelError> {
        // The ELF reader underneath is written for compilers' output and panics on some other. Nothing of
        // it outlives the call, and descriptors close on the way out.
        std::panic::catch_unwind(|| load(bytes, options)).unwrap_or_else(|_| {
            Err(KernelError::Object(
                "the file contradicts itself; is it damaged?".into(),
            ))
        })
    }
}

fn load(bytes: &[u8], options: &LoadOptions) -> Result<KernelEngine, KernelError> {
    let cpus = sys::possible_cpus()?;
    let mut parsed = Parsed::new(bytes, options)?;
    let btf = load_btf(&mut parsed)?;
    let mut maps = Vec::with_capacity(parsed.maps.len());
    let mut unpinned = Vec::new();
    for map in &parsed.maps {
        let pin = pin_path(options, map);
        let fd = match reuse(map, pin.as_deref(), cpus)? {
            Some(fd) => fd,
            None => {
                unpinned.extend(pin.map(|path| (maps.len(), path)));
                create(map, btf.as_ref(), cpus)?
            }
        };
        let def = map.def.clone();
        maps.push(LoadedMap { def, fd });
    }
    let fds: Vec<i32> = maps.iter().map(|m| m.fd.as_fd().as_raw_fd()).collect();
    let programs = parsed.programs(&fds)?;
    let programs = load_programs(&programs, btf.as_ref())?;
    pin_all(&maps, &unpinned)?;
    Ok(KernelEngine {
        maps,
        programs,
        inner: Mutex::new(HashMap::new()),
        cpus,
        output: Vec::new(),
    })
}

impl KernelEngine {
    /// Loads hand-made programs, whose 64-bit immediates name maps by their place in `maps`.
    ///
    /// # Errors
    /// As [`KernelEngine::load`].
    pub fn assembled(
        maps: Vec<MapDef>,
        programs: Vec<(String, Vec<Insn>)>,
    ) -> Result<KernelEngine, KernelError> {
        let cpus = sys::possible_cpus()?;
        let create = |def: MapDef| {
            let fd = create_plain(&def, MapExtras::default(), cpus)?;
            Ok(LoadedMap { def, fd })
        };
        let maps = maps.into_iter().map(create);
        let maps: Vec<LoadedMap> = maps.collect::<Result<_, KernelError>>()?;
        let load = |(name, insns): (String, Vec<Insn>)| load_assembled(name, insns, &maps);
        let programs = programs.into_iter().map(load);
        let programs = programs.collect::<Result<_, KernelError>>()?;
        Ok(KernelEngine {
            maps,
            programs,
            inner: Mutex::new(HashMap::new()),
            cpus,
            output: Vec::new(),
        })
    }
}

fn load_assembled(
    name: String,
    insns: Vec<Insn>,
    maps: &[LoadedMap],
) -> Result<LoadedProgram, KernelError> {
    let mut insns = insns;
    for insn in &mut insns {
        let names_map = matches!(insn.src, opcode::PSEUDO_MAP_FD | opcode::PSEUDO_MAP_VALUE);
        if insn.op == opcode::LD_IMM64 && names_map {
            let map = usize::try_from(insn.imm)
                .ok()
                .and_then(|place| maps.get(place));
            let map = map.ok_or_else(|| {
                KernelError::Object(format!(
                    "`{name}` names map {}, which there is not",
                    insn.imm
                ))
            })?;
            insn.imm = map.fd.as_fd().as_raw_fd();
        }
    }
    let insns: Vec<_> = insns.into_iter().map(Insn::to_bytes).collect();
    let fd = load_xdp(&XdpLoad {
        name: &name,
        insns: &insns,
        license: c"Dual MIT/GPL",
        attach_type: sys::ATTACH_XDP,
        flags: 0,
        btf: None,
    })?;
    Ok(LoadedProgram {
        name,
        fd,
        attach_type: sys::ATTACH_XDP,
        flags: 0,
    })
}

fn load_btf(parsed: &mut Parsed) -> Result<Option<OwnedFd>, KernelError> {
    let Some(bytes) = parsed.btf_bytes()? else {
        return Ok(None);
    };
    match sys::btf_load(&bytes) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::EPERM) => Err(denied("load type information")),
        // Maps and programs load without it, only with less to show in tools. What does need it
        // (timers, spin locks, global subprograms) fails later with an error of its own.
        Err(errno) => {
            tracing::warn!(%errno, "the kernel refused the object's BTF; loading without");
            Ok(None)
        }
    }
}

fn denied(what: &str) -> KernelError {
    KernelError::Privilege {
        what: what.to_owned(),
    }
}

/// Repeats what failed for lack of locked memory with the limit lifted.
fn with_memlock<T>(operation: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match operation() {
        Err(Errno::EPERM) if sys::lift_memlock_limit().is_ok() => operation(),
        other => other,
    }
}

fn create(map: &ObjectMap, btf: Option<&OwnedFd>, cpus: usize) -> Result<MapFd, KernelError> {
    let mut def = map.def.clone();
    if def.kind == MapType::PerfEventArray && def.max_entries == 0 {
        def.max_entries = cpus as u32;
    }
    let types = map.btf_types().zip(btf);
    let extras = MapExtras {
        btf: types.map(|((key, value), fd)| (fd.as_fd(), key, value)),
        extra: map.source.map_extra(),
        ..MapExtras::default()
    };
    let fd = create_plain(&def, extras, cpus)?;
    fill(map, &fd).map_err(|errno| KernelError::CreateMap {
        map: def.name.clone(),
        errno,
        hint: " (writing the initial content)",
    })?;
    Ok(fd)
}

/// Creates a map of an object, if it is a map of maps after a prototype of its inner maps.
fn create_plain(def: &MapDef, extras: MapExtras<'_>, cpus: usize) -> Result<MapFd, KernelError> {
    let prototype = prototype(def, cpus)?;
    let extras = MapExtras {
        inner: prototype.as_ref().map(MapFd::as_fd),
        ..extras
    };
    create_map(def, extras, cpus)
}

/// The map that shows the kernel what inner maps of `def` are like.
fn prototype(def: &MapDef, cpus: usize) -> Result<Option<MapFd>, KernelError> {
    match (&def.inner, def.kind.is_map_in_map()) {
        (Some(inner), true) => create_map(inner, MapExtras::default(), cpus).map(Some),
        (None, true) => Err(KernelError::Option {
            name: def.name.clone(),
            reason: "the object does not say what its inner maps are like; give a prototype"
                .to_owned(),
        }),
        (_, false) => Ok(None),
    }
}

/// Creates a map, with errors that say what to do.
pub(crate) fn create_map(
    def: &MapDef,
    extras: MapExtras<'_>,
    cpus: usize,
) -> Result<MapFd, KernelError> {
    with_memlock(|| MapFd::create(def, extras, cpus)).map_err(|errno| match errno {
        Errno::EPERM => denied(&format!("create map `{}`", def.name)),
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

fn fill(map: &ObjectMap, fd: &MapFd) -> Result<(), Errno> {
    if !map.data().is_empty() {
        let first = 0u32.to_ne_bytes();
        fd.update(&first, map.data(), squalus_isa::UpdateFlags::ANY)?;
    }
    if map.is_rodata() {
        fd.freeze()?;
    }
    Ok(())
}

fn pin_path(options: &LoadOptions, map: &ObjectMap) -> Option<PathBuf> {
    let directory = options.pin.as_ref().filter(|_| !map.is_data_section())?;
    Some(directory.join(&map.def.name))
}

fn c_path(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

/// Opens the map pinned at `path`, if there is one.
fn reuse(map: &ObjectMap, path: Option<&Path>, cpus: usize) -> Result<Option<MapFd>, KernelError> {
    let Some((path, name)) = path.and_then(|path| Some((path, c_path(path)?))) else {
        return Ok(None);
    };
    let opened = sys::obj_get(&name).and_then(|fd| MapFd::from_fd(fd, cpus));
    let fd = match opened {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::EPERM) => return Err(denied(&format!("open {}", path.display()))),
        Err(errno) => return Err(pin_error(&map.def.name, path, errno)),
    };
    match difference(&map.def, &fd) {
        None => Ok(Some(fd)),
        Some(difference) => Err(KernelError::PinnedMap {
            map: map.def.name.clone(),
            path: path.to_owned(),
            difference,
        }),
    }
}

fn difference(def: &MapDef, fd: &MapFd) -> Option<String> {
    let Ok(info) = fd.info() else {
        return Some("its properties cannot be read".to_owned());
    };
    [
        ("type", info.kind, def.kind as u32),
        ("key size", info.key_size, def.key_size),
        ("value size", info.value_size, def.value_size),
        ("entries", info.max_entries, def.max_entries),
        ("flags", info.flags, def.flags.0),
    ]
    .into_iter()
    .find(|(_, has, wants)| has != wants)
    .map(|(what, has, wants)| format!("{what} {has}, not {wants}"))
}

fn pin_error(name: &str, path: &Path, errno: Errno) -> KernelError {
    KernelError::Pin {
        name: name.to_owned(),
        path: path.to_owned(),
        errno,
    }
}

/// Pins new maps; removes what it made if one fails.
fn pin_all(maps: &[LoadedMap], wanted: &[(usize, PathBuf)]) -> Result<(), KernelError> {
    for (done, (index, path)) in wanted.iter().enumerate() {
        let LoadedMap { def, fd } = &maps[*index];
        if let Err(errno) = pin(fd, path) {
            for (_, made) in &wanted[..done] {
                // The first error is the one to report.
                let _ = std::fs::remove_file(made);
            }
            return Err(pin_error(&def.name, path, errno));
        }
    }
    Ok(())
}

fn pin(fd: &MapFd, path: &Path) -> Result<(), Errno> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .map_err(|error| Errno(error.raw_os_error().unwrap_or(0)))?;
    }
    let path = c_path(path).ok_or(Errno::EINVAL)?;
    sys::obj_pin(fd.as_fd(), &path)
}

fn load_programs(
    programs: &[ObjectProgram],
    btf: Option<&OwnedFd>,
) -> Result<Vec<LoadedProgram>, KernelError> {
    if programs.is_empty() {
        return Err(KernelError::NoXdpProgram);
    }
    programs
        .iter()
        .map(|program| load_program(program, btf))
        .collect()
}

fn load_program(
    program: &ObjectProgram,
    btf: Option<&OwnedFd>,
) -> Result<LoadedProgram, KernelError> {
    let (func, line) = (&program.func_info, &program.line_info);
    let load = XdpLoad {
        name: &program.name,
        insns: &program.insns,
        license: &program.license,
        attach_type: program.attach_type,
        flags: program.flags,
        btf: btf.map(|fd| (fd.as_fd(), func, line)),
    };
    Ok(LoadedProgram {
        name: program.name.clone(),
        fd: load_xdp(&load)?,
        attach_type: program.attach_type,
        flags: program.flags,
    })
}

/// Loads a program; on rejection once more with a log, which costs time.
pub(crate) fn load_xdp(load: &XdpLoad<'_>) -> Result<OwnedFd, KernelError> {
    let errno = match with_memlock(|| sys::prog_load(load, None)) {
        Ok(fd) => return Ok(fd),
        Err(errno) => errno,
    };
    let mut buffer = vec![0; LOG_BYTES];
    // What counts is the first answer; this one may be that the log was too long.
    let _ = sys::prog_load(load, Some(&mut buffer));
    let end = buffer.iter().position(|&b| b == 0).unwrap_or(LOG_BYTES);
    let log = String::from_utf8_lossy(&buffer[..end]).into_owned();
    if errno == Errno::EPERM && log.trim().is_empty() {
        return Err(denied(&format!("load program `{}`", load.name)));
    }
    tracing::debug!(program = load.name, %errno, "verifier log:\n{log}");
    Err(KernelError::Verifier {
        program: load.name.to_owned(),
        errno,
        log,
    })
}
