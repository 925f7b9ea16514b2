//! Runs one program given as raw instructions and prints its whole `r0` in hexadecimal.
//!
//! ```text
//! echo '71 10 00 00 00 00 00 00  95 00 00 00 00 00 00 00' |
//!     cargo run -p squalus-vm --example run_raw -- '2a'
//! ```
//!
//! The instructions come from standard input as bytes in hexadecimal, the memory they work on as the first
//! argument: the interface of plugins for the public eBPF conformance suite
//! (<https://github.com/Alan-Jowett/bpf_conformance>), which can therefore judge both engines:
//!
//! ```text
//! bpf_conformance_runner --test_file_directory tests --cpu_version v4 --plugin_path target/debug/examples/run_raw
//! ```
//!
//! add `--plugin_options --interp` for the interpreter. Programs here are XDP programs, so the memory is a
//! packet (padded to an Ethernet header's 14 bytes), and two instructions in front of the program turn the
//! context into what such programs expect: the memory's address in `r1` and its length in `r2`. With
//! `--xdp` the program gets the context itself.

use std::io::Read;
use std::process::ExitCode;

use squalus_vm::asm::Asm;
use squalus_vm::{EngineKind, FrameRef, Insn, MIN_FRAME, MemSize, PACKET_HEADROOM, VmBuilder};

const USAGE: &str = "usage: run_raw [MEMORY] [--interp] [--xdp] < INSTRUCTIONS
MEMORY and INSTRUCTIONS are bytes in hexadecimal; spaces don't matter";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct Options {
    memory: Vec<u8>,
    engine: EngineKind,
    xdp: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(r0) => {
            println!("{r0:x}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<u64> {
    let options = options()?;
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let mut code = Vec::new();
    if !options.xdp {
        code.extend(prologue(options.memory.len())?);
    }
    code.extend(instructions(&hex(&text)?)?);

    let vm = VmBuilder::assembled(Vec::new(), vec![("raw".to_owned(), code)])
        .engine(options.engine)
        .build()?;
    let mut worker = vm.worker("raw", 0)?;
    let len = options.memory.len().max(MIN_FRAME);
    let mut buffer = vec![0; PACKET_HEADROOM + len];
    buffer[PACKET_HEADROOM..][..options.memory.len()].copy_from_slice(&options.memory);
    let mut frame = FrameRef::new(&mut buffer, PACKET_HEADROOM, len)?;
    let r0 = worker.run(&mut frame);
    match worker.last_trap() {
        Some(trap) => Err(trap.to_string().into()),
        None => Ok(r0),
    }
}

fn options() -> Outcome<Options> {
    let mut options = Options {
        memory: Vec::new(),
        engine: EngineKind::Jit,
        xdp: false,
    };
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--interp" => options.engine = EngineKind::Interp,
            "--xdp" => options.xdp = true,
            _ if arg.starts_with('-') => return Err(USAGE.into()),
            _ => options.memory = hex(&arg)?,
        }
    }
    Ok(options)
}

/// `r1 = ctx->data; r2 = length`.
fn prologue(len: usize) -> Outcome<Vec<Insn>> {
    let mut code = Asm::new();
    code.load(MemSize::W, 1, 1, 0).mov(2, i32::try_from(len)?);
    Ok(code.finish())
}

fn instructions(bytes: &[u8]) -> Outcome<Vec<Insn>> {
    let (slots, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(format!("{} bytes are not whole instructions (8 bytes)", bytes.len()).into());
    }
    Ok(slots.iter().map(|slot| Insn::from_bytes(*slot)).collect())
}

fn hex(text: &str) -> Outcome<Vec<u8>> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| {
            c.to_digit(16)
                .ok_or_else(|| format!("`{c}` is not a hexadecimal digit"))
        })
        .collect::<Result<_, _>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("an odd number of hexadecimal digits".into());
    }
    Ok(pairs
        .iter()
        .map(|[high, low]| (high * 16 + low) as u8)
        .collect())
}
