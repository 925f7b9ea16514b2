//! An object on an engine, with what the engines don't have in common: traps.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use squalus_bench::engines::{CodeArgs, EngineName};
use squalus_engine::{Engine, MapAccess};
use squalus_kernel::{KernelEngine, KernelError, LoadOptions};
use squalus_object::Object;
use squalus_runtime::Trap;
use squalus_vm::{Vm, VmBuilder};

/// The bytes of an object file.
///
/// # Errors
/// If the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read the object {}", path.display()))
}

/// The object in a file.
///
/// # Errors
/// If the file cannot be read, or is no object with programs.
pub fn parse(path: &Path) -> Result<Object> {
    let bytes = read(path)?;
    Object::parse(&bytes).with_context(|| path.display().to_string())
}

/// Loads all programs, or, if that fails or leaves the wanted one out, that one and those it jumps to.
fn load_into_kernel(bytes: &[u8], wanted: Option<&str>) -> Result<KernelEngine, KernelError> {
    let all = KernelEngine::load(bytes, &LoadOptions::default());
    match (all, wanted) {
        (all, Some(name)) if !all.as_ref().is_ok_and(|all| has(all, name)) => {
            let only = vec![name.to_owned()];
            let options = LoadOptions {
                only,
                ..LoadOptions::default()
            };
            KernelEngine::load(bytes, &options)
        }
        (all, _) => all,
    }
}

fn has(engine: &dyn Engine, program: &str) -> bool {
    engine.programs().iter().any(|name| name == program)
}

/// A loaded object.
pub enum Loaded {
    Kernel(KernelEngine),
    Vm(Box<Vm>),
}

impl Loaded {
    /// Loads an object's programs. If that fails, or leaves out the `wanted` one because it does not load by itself,
    /// only that one is loaded, and those it jumps to.
    ///
    /// # Errors
    /// If the engine cannot run the object.
    pub fn load(
        engine: EngineName,
        bytes: &[u8],
        wanted: Option<&str>,
        code: CodeArgs,
    ) -> Result<Loaded> {
        let Some(kind) = engine.userspace() else {
            let engine = load_into_kernel(bytes, wanted);
            return Ok(Loaded::Kernel(
                engine.context("cannot load the object into the kernel")?,
            ));
        };
        let object = squalus_vm::for_host(Object::parse(bytes).context("cannot read the object")?)?;
        let builder = |object| code.apply(VmBuilder::new(object).engine(kind));
        let vm = match wanted {
            None => builder(object).build(),
            Some(name) => match builder(object.clone()).build() {
                Ok(vm) if has(&vm, name) => Ok(vm),
                _ => {
                    let together = object.with_jump_targets(&[name])?;
                    let names: Vec<String> = together.iter().map(|p| p.name.clone()).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    builder(object).only(&names).build()
                }
            },
        };
        let vm = vm
            .with_context(|| format!("cannot load the object into the {} engine", engine.name()))?;
        Ok(Loaded::Vm(Box::new(vm)))
    }

    /// The engine, to run programs.
    pub fn engine(&mut self) -> &mut dyn Engine {
        match self {
            Loaded::Kernel(engine) => engine,
            Loaded::Vm(vm) => &mut **vm,
        }
    }

    /// The engine, to look at its maps.
    pub fn maps(&self) -> &dyn MapAccess {
        match self {
            Loaded::Kernel(engine) => engine,
            Loaded::Vm(vm) => &**vm,
        }
    }

    /// The name of the program to run: `wanted`, or the only one there is.
    ///
    /// # Errors
    /// If none is wanted and there are several.
    pub fn choose(&mut self, wanted: Option<&str>) -> Result<String> {
        if let Some(name) = wanted {
            return Ok(name.to_owned());
        }
        match &self.engine().programs()[..] {
            [only] => Ok(only.clone()),
            several => bail!(
                "the object has several XDP programs: name one after the object ({})",
                several.join(", ")
            ),
        }
    }

    /// What ended the last run before its time. The kernel's verifier lets no such program load.
    pub fn trap(&self) -> Option<TrapReport> {
        match self {
            Loaded::Kernel(_) => None,
            Loaded::Vm(vm) => vm.last_trap(0).map(|trap| TrapReport::new(vm, trap)),
        }
    }
}

/// A failed check, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrapReport {
    reason: &'static str,
    message: &'static str,
    program: String,
    slot: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl TrapReport {
    fn new(vm: &Vm, trap: &Trap) -> Self {
        let program = vm.linked().get(trap.program);
        let source = program.and_then(|program| program.line(trap.slot));
        TrapReport {
            reason: trap.reason.name(),
            message: trap.reason.text(),
            program: program.map_or_else(String::new, |program| program.name().to_owned()),
            slot: trap.slot,
            source: source.map(ToString::to_string),
        }
    }
}

impl std::fmt::Display for TrapReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TrapReport {
            message,
            program,
            slot,
            ..
        } = self;
        write!(
            f,
            "program `{program}` trapped at instruction {slot}: {message}"
        )?;
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}
