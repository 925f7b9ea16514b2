//! Prints what objects hold: `cargo run -p squalus-object --example inspect -- [--disasm] OBJECT...`

use std::process::ExitCode;

use squalus_isa::{decode, disassemble};
use squalus_object::{Object, ProgramKind};

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let (options, paths): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|a| a == "--disasm");
    let disasm = !options.is_empty();
    for path in paths {
        let shown = std::fs::read(&path)
            .map_err(|e| e.to_string())
            .and_then(|bytes| Object::parse(&bytes).map_err(|e| e.to_string()));
        match shown {
            Ok(object) => {
                println!("{path}: license {:?}", object.license);
                print(&object, disasm);
            }
            Err(error) => {
                eprintln!("{path}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn print(object: &Object, disasm: bool) {
    for (index, map) in object.maps.iter().enumerate() {
        let d = &map.def;
        println!(
            "  map {index} {}: {} key {} value {} entries {} flags {:#x} {:?}{}{}",
            d.name,
            d.kind,
            d.key_size,
            d.value_size,
            d.max_entries,
            d.flags.0,
            map.origin,
            d.inner.as_ref().map_or(String::new(), |i| format!(
                " inner {} {}",
                i.kind, i.value_size
            )),
            if map.values.is_empty() {
                String::new()
            } else {
                format!(" values {:?}", map.values)
            },
        );
    }
    for global in object.globals() {
        println!(
            "  variable {}: {} bytes at {}+{}",
            global.name, global.size, global.section, global.offset
        );
    }
    for program in &object.programs {
        let kind = match &program.kind {
            ProgramKind::Xdp { frags: true } => "xdp.frags",
            ProgramKind::Xdp { frags: false } => "xdp",
            ProgramKind::Tc => "tc",
            ProgramKind::Other(other) => other,
            ProgramKind::Unknown(_) => "unknown",
        };
        let state = match decode(&program.insns) {
            Ok(decoded) => format!("{} instructions", decoded.len()),
            Err(error) => format!("does not decode: {error}"),
        };
        println!(
            "  program {} ({kind}, section {}): {} slots, {} functions, {} lines, {state}",
            program.name,
            program.section,
            program.insns.len(),
            program.subprograms.len(),
            program.lines.len()
        );
        if disasm && let Ok(text) = disassemble(&program.insns) {
            println!("{text}");
        }
    }
    for refused in &object.refused {
        println!("  refused {}: {}", refused.name, refused.reason);
    }
}
