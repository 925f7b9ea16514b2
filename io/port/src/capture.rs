//! Capture files: pcap (microseconds and nanoseconds, both byte orders) and pcapng for reading, pcap with
//! nanoseconds for writing.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapReader};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use crate::PortError;

/// First bytes of a pcapng file (the section header block's type).
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// What is written as the longest frame of a file.
const SNAPLEN: u32 = 65_535;

/// One frame of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// When it was captured, since 1970.
    pub time: Duration,
    /// Its length on the wire; more than there are bytes if the capture cut it.
    pub wire_len: u32,
    /// Its bytes, from the Ethernet header on.
    pub bytes: &'a [u8],
}

/// A capture file in memory.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    bytes: Vec<u8>,
    index: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    time: Duration,
    wire_len: u32,
    start: usize,
    len: usize,
}

impl Capture {
    /// Reads a whole capture, pcap or pcapng.
    ///
    /// # Errors
    /// [`PortError::Capture`] if it can't be read, is damaged, or does not hold Ethernet frames.
    pub fn read(path: &Path) -> Result<Capture, PortError> {
        let fail = |reason: String| PortError::Capture {
            path: path.into(),
            reason,
        };
        let mut content = Vec::new();
        File::open(path)
            .and_then(|mut file| file.read_to_end(&mut content))
            .map_err(|error| fail(error.to_string()))?;
        Capture::parse(&content).map_err(fail)
    }

    /// Reads a capture from memory.
    ///
    /// # Errors
    /// The reason, if it is damaged or does not hold Ethernet frames.
    pub fn parse(content: &[u8]) -> Result<Capture, String> {
        let mut capture = Capture::default();
        if content.starts_with(&PCAPNG_MAGIC) {
            capture.read_pcapng(content)?;
        } else {
            capture.read_pcap(content)?;
        }
        Ok(capture)
    }

    /// Number of frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The frame at `position`.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<Captured<'_>> {
        self.index.get(position).map(|entry| Captured {
            time: entry.time,
            wire_len: entry.wire_len,
            bytes: &self.bytes[entry.start..entry.start + entry.len],
        })
    }

    /// All frames, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = Captured<'_>> {
        (0..self.len()).filter_map(|position| self.get(position))
    }

    fn push(&mut self, time: Duration, wire_len: u32, bytes: &[u8]) {
        self.index.push(Entry {
            time,
            wire_len,
            start: self.bytes.len(),
            len: bytes.len(),
        });
        self.bytes.extend_from_slice(bytes);
    }

    fn read_pcap(&mut self, content: &[u8]) -> Result<(), String> {
        let mut reader = PcapReader::new(content)
            .map_err(|error| format!("neither pcap nor pcapng ({})", describe(&error)))?;
        let header = reader.header();
        check_link(header.datalink)?;
        while let Some(packet) = reader.next_raw_packet() {
            let packet = packet.map_err(|error| self.damaged(&error))?;
            let nanos = match header.ts_resolution {
                TsResolution::MicroSecond => u64::from(packet.ts_frac) * 1000,
                TsResolution::NanoSecond => u64::from(packet.ts_frac),
            };
            let time = Duration::from_secs(packet.ts_sec.into()) + Duration::from_nanos(nanos);
            self.push(time, packet.orig_len, &packet.data);
        }
        Ok(())
    }

    fn read_pcapng(&mut self, content: &[u8]) -> Result<(), String> {
        let mut reader = PcapNgReader::new(content)
            .map_err(|error| format!("damaged pcapng ({})", describe(&error)))?;
        let mut interfaces: Vec<Link> = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.map_err(|error| self.damaged(&error))? {
                Block::SectionHeader(_) => interfaces.clear(),
                Block::InterfaceDescription(block) => interfaces.push(Link::of(&block)),
                Block::EnhancedPacket(block) => {
                    let link = link_of(&interfaces, block.interface_id)?;
                    // The reader hands out the raw count of ticks as nanoseconds.
                    let time = link.time(block.timestamp.as_nanos() as u64);
                    self.push(time, block.original_len, &block.data);
                }
                Block::Packet(block) => {
                    let link = link_of(&interfaces, block.interface_id.into())?;
                    self.push(link.time(block.timestamp), block.original_len, &block.data);
                }
                Block::SimplePacket(block) => {
                    let len = block.data.len().min(block.original_len as usize);
                    link_of(&interfaces, 0)?;
                    self.push(Duration::ZERO, block.original_len, &block.data[..len]);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn damaged(&self, error: &PcapError) -> String {
        format!("damaged after frame {} ({})", self.len(), describe(error))
    }
}

/// An interface of a pcapng section: what its frames are and how its clock ticks.
#[derive(Clone, Copy)]
struct Link {
    kind: DataLink,
    /// `if_tsresol`: ticks per second as a negative power of ten, or of two if the high bit is set.
    resolution: u8,
}

impl Link {
    fn of(block: &InterfaceDescriptionBlock<'_>) -> Link {
        let resolution = block.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfTsResol(value) => Some(*value),
            _ => None,
        });
        Link {
            kind: block.linktype,
            resolution: resolution.unwrap_or(6),
        }
    }

    fn time(self, ticks: u64) -> Duration {
        let exponent = u32::from(self.resolution & 0x7f);
        let base: u128 = if self.resolution & 0x80 != 0 { 2 } else { 10 };
        let Some(per_second) = base.checked_pow(exponent) else {
            return Duration::ZERO;
        };
        let ticks = u128::from(ticks);
        let nanos = (ticks % per_second).saturating_mul(1_000_000_000) / per_second;
        Duration::new((ticks / per_second) as u64, nanos as u32)
    }
}

fn link_of(interfaces: &[Link], id: u32) -> Result<Link, String> {
    let link = interfaces.get(id as usize);
    let link =
        link.ok_or_else(|| format!("a frame names interface {id}, which is not described"))?;
    check_link(link.kind)?;
    Ok(*link)
}

fn check_link(kind: DataLink) -> Result<(), String> {
    if kind == DataLink::ETHERNET {
        return Ok(());
    }
    Err(format!(
        "holds frames of link type {}, only Ethernet (1) is understood",
        u32::from(kind)
    ))
}

fn describe(error: &PcapError) -> String {
    match error {
        PcapError::IoError(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it ends in the middle of a frame".into()
        }
        PcapError::IoError(source) => source.to_string(),
        PcapError::IncompleteBuffer => "it is too short".into(),
        other => other.to_string(),
    }
}

/// Writes a pcap file with nanosecond timestamps.
#[derive(Debug)]
pub struct CaptureWriter {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl CaptureWriter {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// [`PortError::Capture`] if it can't be written.
    pub fn create(path: &Path) -> Result<CaptureWriter, PortError> {
        let fail = |reason: String| PortError::Capture {
            path: path.into(),
            reason,
        };
        let file = File::create(path).map_err(|error| fail(error.to_string()))?;
        let header = PcapHeader {
            snaplen: SNAPLEN,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::Little,
            ..PcapHeader::default()
        };
        let mut writer = BufWriter::new(file);
        header
            .write_to(&mut writer)
            .map_err(|error| fail(describe(&error)))?;
        Ok(CaptureWriter {
            path: path.into(),
            writer,
        })
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// [`PortError::Capture`] if it can't be written.
    pub fn write(&mut self, time: Duration, frame: &[u8]) -> Result<(), PortError> {
        let len = frame.len() as u32;
        let record = [time.as_secs() as u32, time.subsec_nanos(), len, len];
        let written = record
            .iter()
            .try_for_each(|field| self.writer.write_all(&field.to_le_bytes()))
            .and_then(|()| self.writer.write_all(frame));
        written.map_err(|error| self.failed(&error))
    }

    /// Writes out what is buffered. Without it the same is tried on drop, silently.
    ///
    /// # Errors
    /// [`PortError::Capture`] if it can't be written.
    pub fn flush(&mut self) -> Result<(), PortError> {
        self.writer.flush().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> PortError {
        PortError::Capture {
            path: self.path.clone(),
            reason: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use pcap_file::pcap::{PcapWriter, RawPcapPacket};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::section_header::SectionHeaderBlock;

    use super::*;

    fn pcap(header: PcapHeader, packets: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
        for (ts_sec, ts_frac, data) in packets {
            writer
                .write_raw_packet(&RawPcapPacket {
                    ts_sec: *ts_sec,
                    ts_frac: *ts_frac,
                    incl_len: data.len() as u32,
                    orig_len: 1000,
                    data: Cow::Borrowed(data),
                })
                .unwrap();
        }
        writer.into_writer()
    }

    #[test]
    fn both_resolutions_and_byte_orders_are_read() {
        for endianness in [Endianness::Big, Endianness::Little] {
            for (ts_resolution, nanos) in [
                (TsResolution::MicroSecond, 999_000),
                (TsResolution::NanoSecond, 999),
            ] {
                let header = PcapHeader {
                    endianness,
                    ts_resolution,
                    ..PcapHeader::default()
                };
                let file = pcap(header, &[(7, 999, b"first"), (8, 0, b"2nd")]);
                let capture = Capture::parse(&file).unwrap();
                let frames: Vec<_> = capture.iter().collect();
                assert_eq!(frames.len(), 2);
                assert_eq!(frames[0].time, Duration::new(7, nanos));
                assert_eq!((frames[0].bytes, frames[0].wire_len), (&b"first"[..], 1000));
                assert_eq!(frames[1].bytes, b"2nd");
            }
        }
    }

    #[test]
    fn pcapng_clocks_tick_as_their_interface_says() {
        let mut writer =
            PcapNgWriter::with_section_header(Vec::new(), SectionHeaderBlock::default()).unwrap();
        let mut plain = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
        writer.write_pcapng_block(plain.clone()).unwrap();
        plain.options = vec![InterfaceDescriptionOption::IfTsResol(9)];
        writer.write_pcapng_block(plain.clone()).unwrap();
        plain.options = vec![InterfaceDescriptionOption::IfTsResol(0x80 | 10)];
        writer.write_pcapng_block(plain).unwrap();
        for interface_id in 0..3 {
            writer
                .write_pcapng_block(EnhancedPacketBlock {
                    interface_id,
                    timestamp: Duration::from_nanos(3_000_000_512),
                    original_len: 5,
                    data: Cow::Borrowed(b"frame"),
                    options: vec![],
                })
                .unwrap();
        }
        let capture = Capture::parse(&writer.into_inner()).unwrap();
        let times: Vec<_> = capture.iter().map(|frame| frame.time).collect();
        // 3 000 000 512 ticks of 1 µs, 1 ns and 1/1024 s.
        assert_eq!(times[0], Duration::new(3000, 512_000));
        assert_eq!(times[1], Duration::new(3, 512));
        assert_eq!(times[2], Duration::new(2_929_688, 0));
        assert!(capture.iter().all(|frame| frame.bytes == b"frame"));
    }

    #[test]
    fn other_links_and_damage_are_told() {
        let raw_ip = PcapHeader {
            datalink: DataLink::RAW,
            ..PcapHeader::default()
        };
        let error = Capture::parse(&pcap(raw_ip, &[])).unwrap_err();
        assert!(error.contains("only Ethernet"), "{error}");

        let mut cut = pcap(
            PcapHeader::default(),
            &[(1, 1, b"whole"), (1, 2, b"cut here")],
        );
        cut.truncate(cut.len() - 3);
        let error = Capture::parse(&cut).unwrap_err();
        assert!(error.contains("after frame 1"), "{error}");

        let error = Capture::parse(b"#!/bin/sh and more than twenty-four bytes").unwrap_err();
        assert!(error.contains("neither pcap nor pcapng"), "{error}");
        assert!(Capture::parse(b"").is_err());
        let error = Capture::read(Path::new("/nonexistent.pcap")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent.pcap"), "{error}");
    }
}
