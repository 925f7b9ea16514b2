//! Runs an XDP program over a capture and writes the frames it lets through, as it left them.
//!
//! ```text
//! cargo run -p squalus-vm --example filter_pcap -- bpf/objects/decap.bpf.o xdpdecap in.pcap out.pcap
//! ```
//!
//! takes IP in IP tunnels off whatever was captured. Any object will do that clang or bpf-linker made; it
//! needs neither root nor an interface.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use squalus_vm::{FrameMemory, Object, Verdict, VmBuilder};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [object, program, input, output] = &args[..] else {
        eprintln!("usage: filter_pcap OBJECT PROGRAM IN OUT");
        return ExitCode::from(2);
    };
    match filter(
        Path::new(object),
        program,
        Path::new(input),
        Path::new(output),
    ) {
        Ok(counts) => {
            for (verdict, count) in Verdict::ALL.iter().zip(counts) {
                println!("{verdict:<12} {count}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many frames got each verdict. Those that pass or leave are written.
fn filter(object: &Path, program: &str, input: &Path, output: &Path) -> Outcome<[u64; 5]> {
    let object = Object::parse(&std::fs::read(object)?)?;
    let vm = VmBuilder::new(object).only(&[program]).build()?;
    let mut worker = vm.worker(program, 0)?;
    let mut reader = PcapReader::new(File::open(input)?)?;
    let mut writer = PcapWriter::with_header(File::create(output)?, reader.header())?;
    // The buffer that frames are put in, with room for a program to grow them.
    let mut memory = FrameMemory::new();
    while let Some(captured) = reader.next_packet() {
        let captured = captured?;
        memory.set(&captured.data)?;
        let mut frame = memory.frame()?;
        let verdict = Verdict::from_return(worker.run(&mut frame));
        if !matches!(verdict, Verdict::Aborted | Verdict::Drop) {
            let packet = frame.packet();
            writer.write_packet(&PcapPacket::new(
                captured.timestamp,
                packet.len() as u32,
                packet,
            ))?;
        }
    }
    let stats = worker.stats();
    Ok(Verdict::ALL.map(|verdict| stats.verdict(verdict)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use std::time::Duration;

    #[test]
    fn tunnels_come_off() {
        let folder = std::env::temp_dir().join(format!("filter_pcap-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (input, output) = (folder.join("in.pcap"), folder.join("out.pcap"));
        let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        let mut outer = [0; 20];
        (outer[0], outer[9]) = (0x45, 4);
        let mut inner = [7; 40];
        inner[0] = 0x45;
        let frame = [&ethernet[..], &outer, &inner].concat();
        let mut writer = PcapWriter::new(File::create(&input).unwrap()).unwrap();
        let packet = PcapPacket::new(Duration::from_secs(5), frame.len() as u32, &frame);
        writer.write_packet(&packet).unwrap();
        drop(writer);

        let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf/objects/decap.bpf.o");
        let counts = filter(&object, "xdpdecap", &input, &output).unwrap();
        assert_eq!(counts, [0, 0, 1, 0, 0]);
        let mut written = PcapReader::new(File::open(&output).unwrap()).unwrap();
        let first = written.next_packet().unwrap().unwrap();
        assert_eq!(first.timestamp, Duration::from_secs(5));
        assert_eq!(*first.data, [&ethernet[..], &inner].concat());
        assert!(written.next_packet().is_none());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
