//! A program as the JIT compiles it, with all that shows how.

use anyhow::{Context, Result};
use squalus_analysis::analyse;
use squalus_bench::engines::CodeArgs;
use squalus_jit::{CodeMap, CompiledProgram, Options, compile_with};
use squalus_object::Object;
use squalus_runtime::LinkedProgram;
use squalus_ssa::ir::Function;
use squalus_vm::{EngineKind, VmBuilder};

/// A compiled program.
pub struct Compiled {
    program: CompiledProgram,
}

impl Compiled {
    /// Compiles a program of an object that fits this machine.
    ///
    /// # Errors
    /// If no userspace engine runs it, or there is no code for this machine.
    pub fn of(object: &Object, name: &str, code: CodeArgs) -> Result<Compiled> {
        let builder = VmBuilder::new(object.clone()).engine(EngineKind::Interp);
        let vm = builder.only(&[name]).build();
        let vm = vm.with_context(|| format!("program `{name}` cannot run in userspace"))?;
        let mut linked = vm.linked().iter();
        let linked: &LinkedProgram = linked
            .find(|program| program.name() == name)
            .context("the machine was built for this program")?;
        let options = Options {
            keep_text: true,
            passes: code.passes,
            ..Options::default()
        };
        Ok(Compiled {
            program: compile_with(linked, &analyse(linked)?, options)?,
        })
    }

    /// The functions as they were built and after each pass.
    pub fn stages(&self) -> &[(String, Function)] {
        self.program.ssa().unwrap_or_default()
    }

    /// The machine code.
    pub fn code(&self) -> &[u8] {
        self.program.code()
    }

    /// What it comes from.
    pub fn map(&self) -> &CodeMap {
        self.program
            .map()
            .expect("the program was compiled so that it is kept")
    }
}
