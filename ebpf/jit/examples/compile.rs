//! Analyses and compiles the XDP programs of object files and says how well that went.
//!
//! `cargo run -p squalus-jit --example compile -- OBJECT... [--facts] [--clif]`

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use squalus_analysis::analyse;
use squalus_jit::{Options, compile_with};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (flags, files): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|arg| arg.starts_with("--"));
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    for file in files {
        let loaded = common::load(&std::fs::read(&file)?, 1);
        for program in &loaded.programs {
            let start = Instant::now();
            let facts = analyse(program)?;
            let analysed = start.elapsed();
            let options = Options {
                keep_text: has("--clif"),
                ..Options::default()
            };
            let start = Instant::now();
            let compiled = compile_with(program, &facts, options)?;
            println!(
                "{file} {}: {} instructions, {:?}, analysis {analysed:?}, compile {:?}, {} bytes",
                program.name(),
                program.insts().len(),
                facts.counts(program),
                start.elapsed(),
                compiled.code_len(),
            );
            if has("--facts") {
                println!("{}", facts.annotate(program));
            }
            if has("--clif") {
                println!("{}", compiled.clif().unwrap_or_default());
            }
        }
    }
    Ok(())
}
