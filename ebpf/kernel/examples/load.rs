//! Loads XDP objects into the kernel and lists what they hold: `cargo run --example load -- FILE...`

use squalus_engine::{Engine, MapAccess};
use squalus_kernel::{KernelEngine, LoadOptions};

fn main() -> std::io::Result<()> {
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path)?;
        match KernelEngine::load(&bytes, &LoadOptions::default()) {
            Err(error) => println!("{path}: {error}"),
            Ok(engine) => {
                println!("{path}: programs {}", engine.programs().join(", "));
                for map in engine.maps() {
                    let inner = map.inner.map(|inner| format!(" of {}", inner.kind));
                    println!(
                        "  {:24} {}{} key {} value {} entries {} flags {:#x}",
                        map.name,
                        map.kind,
                        inner.unwrap_or_default(),
                        map.key_size,
                        map.value_size,
                        map.max_entries,
                        map.flags.0
                    );
                }
            }
        }
    }
    Ok(())
}
