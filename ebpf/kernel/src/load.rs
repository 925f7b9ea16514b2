//! Loading: maps first, then the programs that name them, and nothing left behind on failure.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;

use squalus_isa::{Errno, INSN_SIZE, Insn, MapDef, opcode};
use squalus_object::btf::BtfFeatures;
use squalus_object::{FUNC_INFO_SIZE, LINE_INFO_SIZE, Object, ObjectError, Program, Refused};

use crate::choose::choose;
use crate::maps::{Creator, create_after_prototype, fill};
use crate::privilege::Needs;
use crate::sys::{self, MapExtras, MapFd, Records, XdpLoad};
use crate::{KernelEngine, KernelError, LoadOptions, functions, verifier};

/// A map with its full definition.
pub(crate) struct LoadedMap {
    pub(crate) def: MapDef,
    pub(crate) fd: MapFd,
}

/// A program in the kernel.
pub(crate) struct LoadedProgram {
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
    /// The kernel's number.
    pub(crate) id: u32,
    pub(crate) attach_type: u32,
    pub(crate) flags: u32,
}

impl KernelEngine {
    /// Loads the XDP programs and the maps of an object into the kernel.
    ///
    /// The bytes are those that the userspace engine takes, and the same reader reads them. Read-only data
    /// is frozen before the programs load, so that the verifier drops what [`LoadOptions::globals`] switch off.
    ///
    /// # Errors
    /// If the object is malformed, an option does not fit, the process lacks the privilege, a map
    /// cannot be created, or the verifier rejects a program (the error holds its log). Nothing stays
    /// loaded or pinned then.
    pub fn load(bytes: &[u8], options: &LoadOptions) -> Result<KernelEngine, KernelError> {
        KernelEngine::load_object(Object::parse(bytes)?, options)
    }

    /// As [`KernelEngine::load`], of an object that is parsed already. It is fitted to the running kernel, as far
    /// as that is still to be done: its types, its configuration, its functions.
    ///
    /// # Errors
    /// As [`KernelEngine::load`].
    pub fn load_object(
        mut object: Object,
        options: &LoadOptions,
    ) -> Result<KernelEngine, KernelError> {
        let cpus = sys::possible_cpus()?;
        options.apply(&mut object)?;
        object.fit_to_kernel()?;
        let chosen = choose(&object, &options.only)?;
        let types = Types::load(&object)?;
        let creator = Creator {
            options,
            btf: types.as_ref().map(|types| types.fd.as_fd()),
            cpus,
        };
        let created = creator.create_all(&object)?;
        let loader = Loader {
            license: license(&object),
            types: types.as_ref(),
            maps: &created.maps,
            ifindex: options.offload.unwrap_or(0),
        };
        let programs = chosen.into_iter().map(|program| loader.load(program));
        let programs: Vec<LoadedProgram> = programs.collect::<Result<_, KernelError>>()?;
        created.set_programs(&object, &programs)?;
        created.pin()?;
        Ok(KernelEngine {
            refused: object.refused,
            ..KernelEngine::of(created.maps, programs, cpus)
        })
    }

    /// The programs of the object that this kernel cannot have, with the reason.
    #[must_use]
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Loads hand-made programs, whose 64-bit immediates name maps by their place in `maps`.
    ///
    /// # Errors
    /// As [`KernelEngine::load`].
    pub fn assembled(
        maps: Vec<MapDef>,
        programs: Vec<(String, Vec<Insn>)>,
    ) -> Result<KernelEngine, KernelError> {
        KernelEngine::assembled_with(maps, &[], programs)
    }

    /// The same, with values that never change in some of the maps, by their place: constant text, for example.
    ///
    /// # Errors
    /// As [`KernelEngine::load`].
    pub fn assembled_with(
        maps: Vec<MapDef>,
        constants: &[(usize, Vec<u8>)],
        programs: Vec<(String, Vec<Insn>)>,
    ) -> Result<KernelEngine, KernelError> {
        let cpus = sys::possible_cpus()?;
        let create = |def: MapDef| {
            let fd = create_after_prototype(&def, MapExtras::default(), None, cpus)?;
            Ok(LoadedMap { def, fd })
        };
        let maps = maps.into_iter().map(create);
        let maps: Vec<LoadedMap> = maps.collect::<Result<_, KernelError>>()?;
        for (place, value) in constants {
            let map = &maps[*place];
            fill(Some(value), true, &map.fd).map_err(|errno| KernelError::Option {
                name: map.def.name.clone(),
                reason: format!("its value cannot be set: {errno}"),
            })?;
        }
        let load = |(name, insns): (String, Vec<Insn>)| load_assembled(name, insns, &maps);
        let programs = programs.into_iter().map(load);
        let programs = programs.collect::<Result<_, KernelError>>()?;
        Ok(KernelEngine::of(maps, programs, cpus))
    }

    pub(crate) fn of(
        maps: Vec<LoadedMap>,
        programs: Vec<LoadedProgram>,
        cpus: usize,
    ) -> KernelEngine {
        KernelEngine {
            maps,
            programs,
            refused: Vec::new(),
            inner: Mutex::default(),
            cpus,
            output: Vec::new(),
        }
    }
}

fn license(object: &Object) -> CString {
    let text = object.license.split('\0').next().unwrap_or_default();
    CString::new(text).expect("what comes before a zero has none")
}

/// An object's types in the kernel.
struct Types {
    fd: OwnedFd,
    features: BtfFeatures,
}

impl Types {
    /// Loads them in the newest form that this kernel takes. Without them programs load all the same, with
    /// less to show in tools; what does need them (timers, spin locks, global subprograms) fails later with
    /// an error of its own.
    fn load(object: &Object) -> Result<Option<Types>, KernelError> {
        /// What Linux 5.9 knows, the oldest that this crate works with.
        const LINUX_5_9: BtfFeatures = BtfFeatures {
            float: false,
            decl_tag: false,
            type_tag: false,
            enum64: false,
            ..BtfFeatures::ALL
        };
        for features in [BtfFeatures::ALL, LINUX_5_9] {
            let Some(bytes) = object.kernel_btf(features)? else {
                return Ok(None);
            };
            match sys::with_memlock(|| sys::btf_load(&bytes)) {
                Ok(fd) => return Ok(Some(Types { fd, features })),
                Err(Errno::EPERM) => return Err(denied("load type information")),
                Err(errno) => tracing::debug!(%errno, "the kernel refused the object's BTF"),
            }
        }
        tracing::warn!("the kernel refused the object's BTF; loading without");
        Ok(None)
    }
}

fn denied(what: &str) -> KernelError {
    KernelError::Privilege {
        what: what.to_owned(),
        advice: Needs::Load.advice(),
    }
}

/// What is the same for all programs of an object.
struct Loader<'l> {
    license: CString,
    types: Option<&'l Types>,
    maps: &'l [LoadedMap],
    ifindex: u32,
}

impl Loader<'_> {
    fn load(&self, program: &Program) -> Result<LoadedProgram, KernelError> {
        let insns = with_descriptors(&program.name, &program.insns, self.maps)?;
        let has_functions = self.types.is_some_and(|types| types.features.func);
        let func = Records {
            size: FUNC_INFO_SIZE as usize,
            bytes: if has_functions {
                program.func_info()
            } else {
                Vec::new()
            },
        };
        let line = Records {
            size: LINE_INFO_SIZE as usize,
            bytes: program.line_info(),
        };
        let (attach_type, flags) = (program.attach.attach_type(), program.prog_flags());
        let load = XdpLoad {
            name: &program.name,
            insns: &insns,
            license: &self.license,
            attach_type,
            flags,
            ifindex: self.ifindex,
            btf: self.types.map(|types| (types.fd.as_fd(), &func, &line)),
        };
        let fd = load_xdp(&load).map_err(|error| verifier::with_source(error, program))?;
        Ok(LoadedProgram {
            name: program.name.clone(),
            id: number(&fd)?,
            fd,
            attach_type,
            flags,
        })
    }
}

fn load_assembled(
    name: String,
    insns: Vec<Insn>,
    maps: &[LoadedMap],
) -> Result<LoadedProgram, KernelError> {
    let types = functions::types_of(&insns).map_err(|errno| KernelError::Option {
        name: name.clone(),
        reason: format!("the kernel refused the types of its functions: {errno}"),
    })?;
    let lines = Records::default();
    let insns = with_descriptors(&name, &insns, maps)?;
    let fd = load_xdp(&XdpLoad {
        name: &name,
        insns: &insns,
        license: c"Dual MIT/GPL",
        attach_type: sys::ATTACH_XDP,
        flags: 0,
        ifindex: 0,
        btf: (types.as_ref()).map(|(types, functions)| (types.as_fd(), functions, &lines)),
    })?;
    Ok(LoadedProgram {
        name,
        id: number(&fd)?,
        fd,
        attach_type: sys::ATTACH_XDP,
        flags: 0,
    })
}

fn number(program: &OwnedFd) -> Result<u32, KernelError> {
    let info = sys::prog_info(program.as_fd());
    info.map(|info| info.id)
        .map_err(|errno| KernelError::System {
            what: "asking about a program",
            errno,
        })
}

/// The instructions with maps by their descriptors, not by their places.
fn with_descriptors(
    program: &str,
    insns: &[Insn],
    maps: &[LoadedMap],
) -> Result<Vec<[u8; INSN_SIZE]>, KernelError> {
    let resolve = |insn: &Insn| {
        let mut insn = *insn;
        let names_map = matches!(insn.src, opcode::PSEUDO_MAP_FD | opcode::PSEUDO_MAP_VALUE);
        if insn.op == opcode::LD_IMM64 && names_map {
            let place = usize::try_from(insn.imm).ok();
            let map = place.and_then(|place| maps.get(place));
            let map = map.ok_or_else(|| KernelError::Option {
                name: program.to_owned(),
                reason: format!("it names map {}, which there is not", insn.imm),
            })?;
            insn.imm = map.fd.as_fd().as_raw_fd();
        }
        Ok(insn.to_bytes())
    };
    insns.iter().map(resolve).collect()
}

/// Loads a program; on rejection once more with a log, which costs time.
pub(crate) fn load_xdp(load: &XdpLoad<'_>) -> Result<OwnedFd, KernelError> {
    let errno = match sys::with_memlock(|| sys::prog_load(load, None)) {
        Ok(fd) => return Ok(fd),
        Err(errno) => errno,
    };
    let log = verifier::log(|buffer| {
        // What counts is the first answer; this one may be that the log was too long.
        let _ = sys::prog_load(load, Some(buffer));
    });
    if errno == Errno::EPERM && log.trim().is_empty() {
        return Err(denied(&format!("load program `{}`", load.name)));
    }
    tracing::debug!(program = load.name, %errno, "verifier log:\n{log}");
    Err(KernelError::Verifier {
        program: load.name.to_owned(),
        errno,
        line: None,
        log,
    })
}

impl From<ObjectError> for KernelError {
    fn from(error: ObjectError) -> KernelError {
        match error {
            ObjectError::NoPrograms => KernelError::NoXdpProgram(String::new()),
            error => KernelError::Object(error),
        }
    }
}
