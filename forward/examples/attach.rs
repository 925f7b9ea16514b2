//! Runs an XDP program on network interfaces, in userspace, for some seconds; prints what became of the
//! packets and what the program traced.
//!
//! ```text
//! sudo target/debug/examples/attach filter.o filter 60 eth0 eth1
//! ```
//!
//! AF_XDP where the interface has it, else AF_PACKET. Needs root, or `CAP_NET_ADMIN`, `CAP_NET_RAW` and
//! `CAP_BPF`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use squalus_forward::{Forwarder, Options, PortOptions, WorkerReport};
use squalus_vm::{Object, VmBuilder, for_host};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [object, program, seconds, interfaces @ ..] = &args[..] else {
        eprintln!("usage: attach OBJECT PROGRAM SECONDS INTERFACE...");
        return ExitCode::from(2);
    };
    match attach(object, program, seconds, interfaces) {
        Ok(reports) => {
            reports.iter().for_each(print);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn attach(
    object: &str,
    program: &str,
    seconds: &str,
    interfaces: &[String],
) -> Outcome<Vec<WorkerReport>> {
    let object = for_host(Object::parse(&std::fs::read(object)?)?)?;
    let mut forwarder =
        Forwarder::new(VmBuilder::new(object).build()?, program, Options::default())?;
    let end = Instant::now() + Duration::from_secs_f32(seconds.parse()?);
    let ports: Vec<PortOptions> = interfaces.iter().map(PortOptions::everything).collect();
    for port in forwarder.attach(&ports)? {
        println!("{port}");
        port.notices
            .iter()
            .for_each(|notice| println!("  {notice}"));
    }
    // Its maps can be changed now, from any thread.
    let maps = forwarder.vm().handle();
    while Instant::now() < end {
        maps.trace(|cpu, line| println!("[{cpu}] {}", line.trim_end()));
        std::thread::sleep(Duration::from_millis(20));
    }
    forwarder.stop()?;
    Ok(forwarder.reports())
}

fn print(report: &WorkerReport) {
    for (verdict, count) in &report.verdicts {
        println!("{verdict:<14} {count}");
    }
    for (reason, count) in &report.aborts {
        println!("aborted: {reason} {count}");
    }
    for (reason, count) in &report.redirect_drops {
        println!("not redirected: {reason} {count}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use std::io::{Read, Write};
    use std::net::{IpAddr, TcpListener, TcpStream};

    use squalus_isa::Verdict;
    use squalus_testkit::{Cidr, LinkEnd, Namespace, connect};

    #[test]
    fn a_connection_goes_through_the_program_as_if_it_were_not_there() {
        let (Ok(here), Ok(there)) = (Namespace::new("sq-ex-here"), Namespace::new("sq-ex-there"))
        else {
            eprintln!("SKIPPED the example `attach`: needs root");
            return;
        };
        let end = |namespace, name, number| LinkEnd {
            namespace,
            name,
            mac: [2, 0, 0, 0, 0, number],
            addresses: vec![Cidr(IpAddr::from([10, 99, 0, number]), 24)],
        };
        connect(&end(&here, "sqa", 1), &end(&there, "sqb", 2), 1500).unwrap();

        let object = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/objects/verdicts.o");
        let listener = here
            .run(|| TcpListener::bind("10.99.0.1:80"))
            .unwrap()
            .unwrap();
        let reports = std::thread::scope(|scope| {
            let attached = scope.spawn(|| {
                let run = || {
                    let reports = attach(object, "verdicts", "1.5", &["sqa".to_owned()]);
                    reports.map_err(|error| error.to_string())
                };
                here.run(run).unwrap().unwrap()
            });
            std::thread::sleep(Duration::from_millis(300));
            // Address resolution, a handshake and data both ways.
            let mut client = there
                .run(|| TcpStream::connect("10.99.0.1:80"))
                .unwrap()
                .unwrap();
            client.write_all(b"question").unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let mut question = [0; 8];
            server.read_exact(&mut question).unwrap();
            server.write_all(b"answer").unwrap();
            let mut answer = [0; 6];
            client.read_exact(&mut answer).unwrap();
            assert_eq!((&question, &answer), (b"question", b"answer"));
            attached.join().unwrap()
        });
        let passed = reports[0]
            .verdicts
            .iter()
            .find(|(v, _)| *v == Verdict::Pass);
        assert!(passed.is_some_and(|(_, count)| *count >= 4), "{reports:?}");
    }
}
