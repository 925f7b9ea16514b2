//! The engines there are, loaded with the same object and options.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};

use squalus_engine::Engine;
use squalus_fib::{Reader, Snapshot};
use squalus_isa::MapDef;
use squalus_kernel::{KernelEngine, LoadOptions};
use squalus_object::Object;
use squalus_runtime::{Clock, FibCell};
use squalus_vm::{EngineKind, Vm, VmBuilder};

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The running kernel. Needs root.
    Kernel,
    /// The userspace engine, interpreting.
    Interp,
    /// The userspace engine, compiling.
    Jit,
}

impl Kind {
    /// All of them, the kernel (the judge) first.
    pub const ALL: [Kind; 3] = [Kind::Kernel, Kind::Interp, Kind::Jit];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kernel => "kernel",
            Kind::Interp => "interp",
            Kind::Jit => "jit",
        })
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.to_string() == text);
        found.ok_or_else(|| format!("no engine `{text}`: there are kernel, interp and jit"))
    }
}

/// An object, and what is changed before it is loaded. Names that the object doesn't have are left out:
/// objects with fewer features have fewer maps.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The ELF file.
    pub object: Vec<u8>,
    /// The programs to load, or all XDP programs that load by themselves.
    pub programs: Option<Vec<String>>,
    /// Values of global variables.
    pub globals: Vec<(String, Vec<u8>)>,
    /// Sizes of maps.
    pub max_entries: Vec<(String, u32)>,
    /// Prototypes of inner maps.
    pub inner: Vec<(String, MapDef)>,
    /// The time in nanoseconds, in userspace engines; the host's clocks without it. The kernel's clock
    /// cannot be set.
    pub clock: Option<Arc<AtomicU64>>,
}

/// The engine does not take the object, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{engine}: {reason}")]
pub struct LoadError {
    /// Which engine.
    pub engine: Kind,
    /// Why.
    pub reason: String,
}

impl Subject {
    /// The object as it is.
    #[must_use]
    pub fn new(object: &[u8]) -> Subject {
        Subject {
            object: object.to_vec(),
            ..Subject::default()
        }
    }

    /// The same, with these programs only.
    #[must_use]
    pub fn only(&self, programs: &[String]) -> Subject {
        Subject {
            programs: Some(programs.to_vec()),
            ..self.clone()
        }
    }

    /// Loads the object freshly into each of these engines.
    ///
    /// # Errors
    /// If one does not take it.
    pub fn load(&self, kinds: &[Kind]) -> Result<Vec<Box<dyn Engine>>, LoadError> {
        kinds.iter().map(|kind| self.load_one(*kind)).collect()
    }

    fn load_one(&self, kind: Kind) -> Result<Box<dyn Engine>, LoadError> {
        let engine: Result<Box<dyn Engine>, String> = match kind {
            Kind::Kernel => self.kernel().map(|engine| Box::new(engine) as _),
            Kind::Interp => self
                .vm(EngineKind::Interp)
                .map(|engine| Box::new(engine) as _),
            Kind::Jit => self.vm(EngineKind::Jit).map(|engine| Box::new(engine) as _),
        };
        engine.map_err(|reason| LoadError {
            engine: kind,
            reason,
        })
    }

    fn parse(&self) -> Result<Object, String> {
        Object::parse(&self.object).map_err(|error| error.to_string())
    }

    fn kernel(&self) -> Result<KernelEngine, String> {
        let object = self.parse()?;
        let has = |name: &str| object.map(name).is_some();
        let options = LoadOptions {
            globals: self.known_globals(&object),
            max_entries: retain(&self.max_entries, has),
            inner: retain(&self.inner, has),
            only: self.programs.clone().unwrap_or_default(),
            ..LoadOptions::default()
        };
        KernelEngine::load(&self.object, &options).map_err(|error| error.to_string())
    }

    fn known_globals(&self, object: &Object) -> Vec<(String, Vec<u8>)> {
        retain(&self.globals, |name| object.global(name).is_ok())
    }

    pub(crate) fn vm(&self, kind: EngineKind) -> Result<Vm, String> {
        let mut object = self.parse()?;
        for (name, value) in self.known_globals(&object) {
            object
                .set_global(&name, &value)
                .map_err(|error| error.to_string())?;
        }
        for map in &mut object.maps {
            let name = &map.def.name;
            if let Some((_, entries)) = self.max_entries.iter().find(|(n, _)| n == name) {
                map.def.max_entries = *entries;
            }
            if let Some((_, inner)) = self.inner.iter().find(|(n, _)| n == name) {
                map.def.inner = Some(Box::new(inner.clone()));
            }
        }
        let clock = match &self.clock {
            Some(clock) => Clock::Manual(Arc::clone(clock)),
            None => Clock::Real,
        };
        let object = squalus_vm::for_host(object).map_err(|error| error.to_string())?;
        let mut builder = VmBuilder::new(object)
            .engine(kind)
            .cpus(cpus())
            .clock(clock)
            .routes(routes());
        // Slow, so it is for long sessions: a false claim of the analysis is a failed run.
        if std::env::var_os("SQUALUS_CHECK_FACTS").is_some() {
            builder = builder.check_facts();
        }
        if let Some(programs) = &self.programs {
            let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
            builder = builder.only(&programs);
        }
        builder.build().map_err(|error| error.to_string())
    }
}

fn retain<T: Clone>(options: &[(String, T)], has: impl Fn(&str) -> bool) -> Vec<(String, T)> {
    options
        .iter()
        .filter(|(name, _)| has(name))
        .cloned()
        .collect()
}

/// The host's routes and links as they were at first use. Where they cannot be read, programs find none.
fn routes() -> Arc<FibCell> {
    static ROUTES: LazyLock<Arc<FibCell>> = LazyLock::new(|| {
        let cell = Arc::new(FibCell::new());
        match Reader::open().and_then(|mut reader| reader.read()) {
            Ok(tables) => cell.publish(Arc::new(Snapshot::new(&tables))),
            Err(error) => eprintln!("without the host's routes: {error}"),
        }
        cell
    });
    Arc::clone(&ROUTES)
}

/// How many CPUs per-CPU values have in the kernel, so that all engines' values compare.
pub(crate) fn cpus() -> u32 {
    squalus_kernel::possible_cpus().map_or(1, |cpus| cpus as u32)
}

/// The engines that can run here: those named in `SQUALUS_ENGINES` (comma-separated), or all. Says on
/// stderr when the kernel has to be left out.
///
/// # Errors
/// If a name is unknown.
pub fn available() -> Result<Vec<Kind>, String> {
    let mut kinds = match std::env::var("SQUALUS_ENGINES") {
        Ok(names) => names
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<Kind>, String>>()?,
        Err(_) => Kind::ALL.to_vec(),
    };
    let root = std::fs::metadata("/proc/self").is_ok_and(|meta| {
        use std::os::unix::fs::MetadataExt;
        meta.uid() == 0
    });
    if !root && kinds.contains(&Kind::Kernel) {
        eprintln!("SKIPPED the kernel engine: loading programs needs root");
        kinds.retain(|kind| *kind != Kind::Kernel);
    }
    Ok(kinds)
}
