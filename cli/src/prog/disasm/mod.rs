//! `squalus prog disasm`: a program's code in each of its forms, with source lines: instructions, SSA between the
//! optimizer's passes, machine code.

mod bytecode;
mod native;
mod ssa;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use squalus_bench::engines::CodeArgs;
use squalus_object::{Object, Program};

use super::compiled::Compiled;
use super::loaded;
use bytecode::Listing;

/// Options of `squalus prog disasm`.
#[derive(Debug, Args)]
pub struct DisasmArgs {
    /// The object file.
    #[arg(value_name = "OBJ")]
    object: PathBuf,
    /// The program; all of them if not given.
    program: Option<String>,
    /// Show the SSA that the JIT makes of it: as it is built, what each pass changes, and what it ends as; or
    /// only this stage (`build` or a pass), in full.
    #[arg(
        long,
        value_name = "STAGE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        conflicts_with = "native"
    )]
    ssa: Option<String>,
    /// Show the JIT's machine code below the instructions that it comes from.
    #[arg(long)]
    native: bool,
    /// Show machine code in the order of its addresses.
    #[arg(long, requires = "native")]
    by_address: bool,
    /// Show the bytes of machine code too.
    #[arg(long, requires = "native")]
    opcodes: bool,
    #[command(flatten)]
    code: CodeArgs,
    /// Print JSON.
    #[arg(short, long)]
    json: bool,
}

/// Prints the code of one program or of all.
///
/// # Errors
/// If the file is no object, has no such program, an instruction is malformed, or what was asked for needs
/// the JIT and that refuses the program.
pub fn run(args: &DisasmArgs) -> Result<bool> {
    let mut object = loaded::parse(&args.object)?;
    if args.ssa.is_some() || args.native {
        // What the JIT sees is the object as it is on this machine.
        object = squalus_vm::for_host(object)?;
    }
    let programs: Vec<&Program> = match &args.program {
        Some(name) => vec![object.require_program(name)?],
        None => object.programs.iter().collect(),
    };
    let views = programs
        .iter()
        .map(|program| View::of(args, &object, program));
    let views: Vec<View<'_>> = views.collect::<Result<_>>()?;
    if args.json {
        super::print_json(&views)?;
    } else {
        let texts: Vec<String> = views.iter().map(|view| view.text(args)).collect();
        super::print(&texts.join("\n"))?;
    }
    Ok(true)
}

/// A program's code in the form that is wanted.
#[derive(Serialize)]
#[serde(untagged)]
enum View<'a> {
    Bytecode(Listing<'a>),
    Ssa(ssa::View<'a>),
    Native(native::View<'a>),
}

impl<'a> View<'a> {
    fn of(args: &'a DisasmArgs, object: &'a Object, program: &'a Program) -> Result<View<'a>> {
        let compiled = || Compiled::of(object, &program.name, args.code);
        Ok(match &args.ssa {
            Some(stage) => View::Ssa(ssa::View::of(object, program, &compiled()?, stage)?),
            None if args.native => View::Native(native::View::of(object, program, &compiled()?)?),
            None => View::Bytecode(Listing::of(object, program)?),
        })
    }

    fn text(&self, args: &DisasmArgs) -> String {
        match self {
            View::Bytecode(view) => view.text(),
            View::Ssa(view) => view.text(),
            View::Native(view) => view.text(args.by_address, args.opcodes),
        }
    }
}
