//! Choosing an engine by name and loading an object into it.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use squalus_engine::Engine;
use squalus_kernel::{KernelEngine, LoadOptions};
use squalus_object::Object;
use squalus_vm::{EngineKind, Passes, Tiering, VmBuilder};

/// How our compiler does its work.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct CodeArgs {
    /// The optimizer's passes that compiled code goes through: names with commas between them for only these, a minus
    /// before each (`-hot,-merge`) for all but these; `all` or `none`
    #[arg(long, value_name = "LIST", default_value_t, allow_hyphen_values = true)]
    pub passes: Passes,
    /// Whether code is compiled again for the traffic there is and for what maps hold, as when serving.
    #[arg(skip)]
    pub adaptive: bool,
    /// Whether what shows where code comes from is kept.
    #[arg(skip)]
    pub keep_text: bool,
}

impl CodeArgs {
    /// A machine whose programs are compiled so.
    #[must_use]
    pub fn apply(self, builder: VmBuilder) -> VmBuilder {
        let tiering = match self.adaptive {
            true => Tiering::On,
            false => Tiering::Off,
        };
        let builder = builder.passes(self.passes).tiering(tiering);
        let builder = builder.specialise(self.adaptive);
        match self.keep_text {
            true => builder.keep_text(),
            false => builder,
        }
    }
}

/// Where an object runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum EngineName {
    /// The Linux kernel.
    Kernel,
    /// Our interpreter.
    Interp,
    /// Our compiler.
    Jit,
}

impl EngineName {
    /// All engines.
    pub const ALL: [EngineName; 3] = [EngineName::Kernel, EngineName::Interp, EngineName::Jit];

    /// The name as users type it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EngineName::Kernel => "kernel",
            EngineName::Interp => "interp",
            EngineName::Jit => "jit",
        }
    }

    /// How our engine executes it; `None` for the kernel.
    #[must_use]
    pub const fn userspace(self) -> Option<EngineKind> {
        match self {
            EngineName::Kernel => None,
            EngineName::Interp => Some(EngineKind::Interp),
            EngineName::Jit => Some(EngineKind::Jit),
        }
    }

    /// Loads an object's bytes into this engine.
    ///
    /// # Errors
    /// If the object is malformed or the engine cannot run it.
    pub fn load(self, bytes: &[u8]) -> Result<Box<dyn Engine>> {
        let Some(kind) = self.userspace() else {
            let engine = KernelEngine::load(bytes, &LoadOptions::default());
            return Ok(Box::new(
                engine.context("cannot load the object into the kernel")?,
            ));
        };
        let object = squalus_vm::for_host(Object::parse(bytes).context("cannot read the object")?)?;
        let vm = VmBuilder::new(object).engine(kind).build();
        Ok(Box::new(vm.with_context(|| {
            format!("cannot load the object into the {} engine", self.name())
        })?))
    }
}
