#[path = "../tests/common/mod.rs"]
mod common;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let loaded = common::load(&bytes, 2);
    let options = squalus_jit::Options {
        keep_text: true,
        ..Default::default()
    };
    for (program, linked) in common::compile_all(&loaded, options)
        .iter()
        .zip(&loaded.programs)
    {
        println!("==== {}", linked.name());
        for (pass, text) in program.ssa().unwrap() {
            println!("---- {pass}\n{text}");
        }
        println!("---- asm\n{}", program.disassembly().unwrap());
    }
}
