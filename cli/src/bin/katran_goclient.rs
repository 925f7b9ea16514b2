//! katran's client.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    squalus::goclient::main(std::env::args_os())
}
