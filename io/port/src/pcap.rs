//! A port that reads one capture and writes others, so that a file can stand in for the network card.
//!
//! The input is read when the port is opened, so a damaged file is an error before anything runs, and the
//! packet loop reads memory only. A frame leaves with the time at which it came in: a replay gives the
//! same output every time.

use std::path::PathBuf;
use std::time::Duration;

use crate::{
    Burst, Capture, CaptureWriter, Frame, HostPath, Pool, Port, PortError, PortInfo, PortMode,
    PortRequest, PortState, PortStats,
};

/// Which files a [`PcapPort`] uses.
#[derive(Clone, Debug)]
pub struct PcapConfig {
    /// The capture to receive (pcap or pcapng).
    pub input: PathBuf,
    /// Where to write what is sent; nothing is written if absent.
    pub sent: Option<PathBuf>,
    /// Where to write what is passed to the host; nothing is written if absent.
    pub passed: Option<PathBuf>,
    /// How often to receive the capture.
    pub repeat: u32,
}

impl PcapConfig {
    /// Receives `input` once and writes nothing.
    #[must_use]
    pub fn new(input: impl Into<PathBuf>) -> PcapConfig {
        PcapConfig {
            input: input.into(),
            sent: None,
            passed: None,
            repeat: 1,
        }
    }
}

/// A port on capture files.
#[derive(Debug)]
pub struct PcapPort {
    capture: Capture,
    next: usize,
    rounds_left: u32,
    sent: Option<CaptureWriter>,
    passed: Option<CaptureWriter>,
    /// When the frame in each chunk was captured.
    times: Vec<Duration>,
    /// The first error of writing.
    failure: Option<PortError>,
    info: PortInfo,
    stats: PortStats,
}

impl PcapPort {
    /// Reads the input and creates the outputs. `pool` is the pool the port will be used with.
    ///
    /// # Errors
    /// [`PortError::Capture`] if a file can't be read or written.
    pub fn open(config: &PcapConfig, pool: &Pool) -> Result<PcapPort, PortError> {
        let capture = Capture::read(&config.input)?;
        let create =
            |path: &Option<PathBuf>| path.as_deref().map(CaptureWriter::create).transpose();
        let name = config.input.display().to_string();
        let mut info = PortInfo::detached(name, PortRequest::Pcap, PortMode::Pcap);
        if config.passed.is_none() {
            info.host = HostPath::None("no file for passed frames".into());
        }
        let cut = capture
            .iter()
            .filter(|frame| frame.wire_len as usize > frame.bytes.len())
            .count();
        if cut > 0 {
            info.notices.push(format!(
                "{cut} frames were cut when captured; they are received as they are in the file"
            ));
        }
        Ok(PcapPort {
            rounds_left: if capture.is_empty() { 0 } else { config.repeat },
            capture,
            next: 0,
            sent: create(&config.sent)?,
            passed: create(&config.passed)?,
            times: vec![Duration::ZERO; pool.capacity()],
            failure: None,
            info,
            stats: PortStats::default(),
        })
    }

    /// Writes out what is buffered and closes the files.
    ///
    /// # Errors
    /// The first error of writing, if any happened since the port was opened.
    pub fn finish(mut self) -> Result<PortStats, PortError> {
        self.flush();
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.stats),
        }
    }

    /// Writes out what is buffered; a failure shows in the port's state.
    fn flush(&mut self) {
        for writer in [&mut self.sent, &mut self.passed].into_iter().flatten() {
            if let Err(error) = writer.flush() {
                self.failure.get_or_insert(error);
            }
        }
    }

    fn next_packet(&mut self, pool: &mut Pool) -> Option<Frame> {
        while self.rounds_left > 0 {
            let packet = self.capture.get(self.next)?;
            self.next += 1;
            if self.next == self.capture.len() {
                self.next = 0;
                self.rounds_left -= 1;
            }
            if let Some(frame) = pool.alloc_from(packet.bytes) {
                if let Some(time) = self.times.get_mut(frame.chunk()) {
                    *time = packet.time;
                }
                return Some(frame);
            }
            self.stats.rx_too_long += 1;
        }
        None
    }
}

/// Writes frames to a file, or only frees them; returns (frames, bytes) written.
fn write_out(
    writer: &mut Option<CaptureWriter>,
    failure: &mut Option<PortError>,
    times: &[Duration],
    pool: &mut Pool,
    frames: &mut Burst,
) -> (u64, u64) {
    let mut written = (0, 0);
    for frame in frames.drain() {
        if let Some(out) = writer {
            let time = times.get(frame.chunk()).copied().unwrap_or_default();
            match out.write(time, pool.data(&frame)) {
                Ok(()) => written = (written.0 + 1, written.1 + frame.len() as u64),
                Err(error) => {
                    failure.get_or_insert(error);
                    *writer = None;
                }
            }
        }
        pool.free(frame);
    }
    written
}

impl Port for PcapPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn recv(&mut self, pool: &mut Pool, burst: &mut Burst) -> usize {
        let before = burst.len();
        while burst.room() > 0 && pool.available() > 0 {
            let Some(frame) = self.next_packet(pool) else {
                break;
            };
            self.stats.rx_frames += 1;
            self.stats.rx_bytes += frame.len() as u64;
            if let Err(frame) = burst.push(frame) {
                pool.free(frame);
            }
        }
        if burst.len() == before && self.rounds_left == 0 {
            self.flush();
        }
        burst.len() - before
    }

    fn send(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        let count = frames.len() as u64;
        let bytes: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
        let discard = self.sent.is_none() && self.failure.is_none();
        let written = write_out(&mut self.sent, &mut self.failure, &self.times, pool, frames);
        let (sent, sent_bytes) = if discard { (count, bytes) } else { written };
        self.stats.tx_frames += sent;
        self.stats.tx_bytes += sent_bytes;
        self.stats.tx_dropped += count - sent;
        sent as usize
    }

    fn pass(&mut self, pool: &mut Pool, frames: &mut Burst) -> usize {
        let count = frames.len() as u64;
        let (passed, _) = write_out(
            &mut self.passed,
            &mut self.failure,
            &self.times,
            pool,
            frames,
        );
        self.stats.passed += passed;
        self.stats.pass_dropped += count - passed;
        passed as usize
    }

    fn wait(&mut self, _timeout: Duration) -> bool {
        self.rounds_left > 0
    }

    fn state(&self) -> PortState {
        if self.failure.is_some() {
            PortState::Failed(libc::EIO)
        } else if self.rounds_left == 0 {
            PortState::Finished
        } else {
            PortState::Up
        }
    }

    fn stats(&mut self) -> PortStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PoolConfig;

    /// A directory of its own, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("squalus-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn write_input(path: &std::path::Path, lengths: &[usize]) {
        let mut writer = CaptureWriter::create(path).unwrap();
        for (n, len) in lengths.iter().enumerate() {
            writer
                .write(Duration::new(n as u64, 42), &vec![n as u8; *len])
                .unwrap();
        }
        writer.flush().unwrap();
    }

    #[test]
    fn an_echo_reproduces_the_capture_with_its_times() {
        let scratch = Scratch::new("pcap-echo");
        let lengths: Vec<usize> = (0..150).map(|n| 60 + n).collect();
        write_input(&scratch.file("in.pcap"), &lengths);
        let config = PcapConfig {
            sent: Some(scratch.file("sent.pcap")),
            passed: Some(scratch.file("passed.pcap")),
            ..PcapConfig::new(scratch.file("in.pcap"))
        };
        let mut pool = Pool::new(&PoolConfig::default()).unwrap();
        let mut port = PcapPort::open(&config, &pool).unwrap();
        let (mut burst, mut passed) = (Burst::new(), Burst::new());
        while port.state() == PortState::Up {
            port.recv(&mut pool, &mut burst);
            let last = burst.pop().unwrap();
            passed.push(last).unwrap();
            port.send(&mut pool, &mut burst);
            port.pass(&mut pool, &mut passed);
        }
        assert_eq!(pool.available(), pool.capacity());
        let stats = port.finish().unwrap();
        assert_eq!(
            (stats.rx_frames, stats.tx_frames, stats.passed),
            (150, 147, 3)
        );

        let input = Capture::read(&scratch.file("in.pcap")).unwrap();
        let sent = Capture::read(&scratch.file("sent.pcap")).unwrap();
        let passed = Capture::read(&scratch.file("passed.pcap")).unwrap();
        let mut output: Vec<_> = sent.iter().chain(passed.iter()).collect();
        output.sort_by_key(|frame| frame.time);
        assert!(input.iter().eq(output));
    }

    #[test]
    fn repeats_and_skips_what_does_not_fit() {
        let scratch = Scratch::new("pcap-repeat");
        write_input(&scratch.file("in.pcap"), &[60, 5000, 60]);
        let config = PcapConfig {
            repeat: 3,
            ..PcapConfig::new(scratch.file("in.pcap"))
        };
        let mut pool = Pool::new(&PoolConfig::default()).unwrap();
        let mut port = PcapPort::open(&config, &pool).unwrap();
        let mut burst = Burst::new();
        assert_eq!(port.recv(&mut pool, &mut burst), 6);
        assert_eq!(port.state(), PortState::Finished);
        assert_eq!(port.send(&mut pool, &mut burst), 6);
        assert_eq!(port.stats().rx_too_long, 3);
        assert_eq!(port.finish().unwrap().tx_frames, 6);
    }

    #[test]
    fn a_full_disk_fails_the_port_and_is_reported() {
        let scratch = Scratch::new("pcap-full");
        write_input(&scratch.file("in.pcap"), &[1000; 200]);
        let config = PcapConfig {
            sent: Some("/dev/full".into()),
            ..PcapConfig::new(scratch.file("in.pcap"))
        };
        let mut pool = Pool::new(&PoolConfig::default()).unwrap();
        let mut port = PcapPort::open(&config, &pool).unwrap();
        let mut burst = Burst::new();
        while port.recv(&mut pool, &mut burst) > 0 {
            port.send(&mut pool, &mut burst);
        }
        assert_eq!(port.state(), PortState::Failed(libc::EIO));
        let stats = port.stats();
        assert!(stats.tx_dropped > 0);
        assert_eq!(stats.tx_frames + stats.tx_dropped, 200);
        assert!(port.finish().unwrap_err().to_string().contains("/dev/full"));
    }
}
