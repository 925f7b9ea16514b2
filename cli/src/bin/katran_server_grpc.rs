//! The balancer under the name and with the flags of katran's server.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    squalus::log_to_stderr();
    let flags = std::env::args_os().skip(1).collect();
    match squalus::serve::main("katran_server_grpc", flags) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("katran_server_grpc: {}", squalus::explain(&error));
            ExitCode::from(2)
        }
    }
}
