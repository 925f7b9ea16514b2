//! `squalus prog run`: a program on a frame, or on every frame of a capture, on any engine.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use squalus_bench::engines::{CodeArgs, EngineName};
use squalus_engine::TestRun;
use squalus_object::Object;
use squalus_vm::Passes;

use super::capture;
use super::dump::{self, MapDump, NoTypes, Wanted};
use super::loaded::{self, Loaded, TrapReport};
use super::words::Words;

/// Options of `squalus prog run`.
#[derive(Debug, Args)]
#[command(
    override_usage = "squalus prog run [OPTIONS] OBJ [PROGRAM] data_in FILE [data_out FILE] [repeat N]
       squalus prog run [OPTIONS] OBJ [PROGRAM] --frame HEX [data_out FILE] [repeat N]
       squalus prog run [OPTIONS] OBJ [PROGRAM] --pcap FILE [repeat N]"
)]
pub struct RunArgs {
    /// The object file.
    #[arg(value_name = "OBJ")]
    object: PathBuf,
    /// The program, if the object has several, then bpftool's words: `data_in FILE`, `data_out FILE`, `repeat N`;
    /// the file `-` is standard input or output.
    #[arg(value_name = "PROGRAM WORDS")]
    words: Vec<String>,
    /// Where to run it.
    #[arg(long, value_enum, default_value = "jit")]
    engine: EngineName,
    #[command(flatten)]
    code: CodeArgs,
    /// The frame in hexadecimal, instead of `data_in`; spaces and colons don't matter.
    #[arg(long, value_name = "HEX", conflicts_with = "pcap")]
    frame: Option<String>,
    /// Run every frame of this capture (pcap or pcapng) and count the verdicts.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Print what is in the maps after the run: in those named, or in all that are not empty. Entries of
    /// arrays that are zero are left out.
    #[arg(
        long,
        value_name = "MAP,...",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_delimiter = ','
    )]
    dump_maps: Option<Vec<String>>,
    /// Print JSON.
    #[arg(short, long)]
    json: bool,
}

/// Runs and prints what came of it. False if a run ended in a trap, or frames of a capture could not be run.
///
/// # Errors
/// If the object or the frame cannot be used.
pub fn run(args: &RunArgs) -> Result<bool> {
    let words = Words::parse(&args.words)?;
    ensure!(
        args.engine == EngineName::Jit || args.code.passes == Passes::ALL,
        "--passes is for compiled code: it does not go with --engine {}",
        args.engine.name()
    );
    let input = Input::of(args.frame.as_deref(), args.pcap.as_deref(), &words)?;
    let bytes = loaded::read(&args.object)?;
    let wanted = words.program.as_deref();
    let mut loaded = Loaded::load(args.engine, &bytes, wanted, args.code)
        .with_context(|| args.object.display().to_string())?;
    let program = loaded.choose(wanted)?;
    dump::check(loaded.maps(), &map_names(args).unwrap_or_default())?;
    let job = Job {
        args,
        program: &program,
        repeat: words.repeat,
        bytes: &bytes,
    };
    match input {
        Input::Frame(frame) => job.frame(&mut loaded, &frame, words.data_out.as_deref()),
        Input::Capture(path) => job.capture(&mut loaded, &path),
    }
}

/// What to run a program on.
pub enum Input {
    Frame(Vec<u8>),
    Capture(PathBuf),
}

impl Input {
    /// # Errors
    /// If nothing is given, or several things are, or a frame cannot be read.
    pub fn of(frame: Option<&str>, pcap: Option<&Path>, words: &Words) -> Result<Input> {
        match (&words.data_in, frame, pcap) {
            (Some(path), None, None) => read_frame(path).map(Input::Frame),
            (None, Some(text), None) => parse_hex(text).map(Input::Frame),
            (None, None, Some(_)) if words.data_out.is_some() => {
                bail!("`data_out` takes one frame: it does not go with --pcap")
            }
            (None, None, Some(path)) => Ok(Input::Capture(path.to_owned())),
            (None, None, None) => {
                bail!("nothing to run on: give `data_in FILE`, --frame HEX or --pcap FILE")
            }
            _ => bail!("give one of `data_in FILE`, --frame HEX and --pcap FILE, not several"),
        }
    }
}

fn read_frame(path: &Path) -> Result<Vec<u8>> {
    if path != Path::new("-") {
        let frame = std::fs::read(path);
        return frame.with_context(|| format!("cannot read the frame {}", path.display()));
    }
    let mut frame = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut frame);
    read.context("cannot read the frame from standard input")?;
    Ok(frame)
}

fn parse_hex(text: &str) -> Result<Vec<u8>> {
    let digits: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .collect();
    hex::decode(digits).context("--frame is not hexadecimal")
}

/// What came of a run on one frame; bpftool's names first.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data_out: Option<&'a [u8]>,
    retval: u32,
    /// Mean of one repetition in nanoseconds.
    duration: u128,
    verdict: &'static str,
    engine: &'static str,
    program: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trap: Option<TrapReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maps: Option<Vec<MapDump>>,
}

/// A run that is ready to go.
struct Job<'a> {
    args: &'a RunArgs,
    program: &'a str,
    repeat: u32,
    bytes: &'a [u8],
}

impl Job<'_> {
    fn frame(&self, loaded: &mut Loaded, frame: &[u8], out: Option<&Path>) -> Result<bool> {
        let run = TestRun {
            frame,
            repeat: self.repeat,
            cpu: 0,
        };
        let result = loaded.engine().test_run(self.program, &run)?;
        let to_stdout = out == Some(Path::new("-"));
        if let Some(path) = out.filter(|_| !to_stdout) {
            std::fs::write(path, &result.frame)
                .with_context(|| format!("cannot write the frame to {}", path.display()))?;
        }
        let report = Report {
            data_out: to_stdout.then_some(&result.frame),
            retval: result.return_value,
            duration: result.duration.as_nanos(),
            verdict: result.verdict().name(),
            engine: self.args.engine.name(),
            program: self.program,
            trap: loaded.trap(),
            maps: self.maps(loaded)?,
        };
        if self.args.json {
            super::print_json(&report)?;
        } else {
            super::print(&self.text(&report))?;
            report.trap.iter().for_each(|trap| eprintln!("{trap}"));
        }
        Ok(report.trap.is_none())
    }

    /// As bpftool says it.
    fn text(&self, report: &Report<'_>) -> String {
        let dump = report.data_out.map_or_else(String::new, hex_dump);
        let average = if self.repeat > 1 { " (average)" } else { "" };
        let (retval, duration) = (report.retval, report.duration);
        let maps = maps_text(report.maps.as_deref());
        format!("{dump}Return value: {retval}, duration{average}: {duration}ns\n{maps}")
    }

    fn capture(&self, loaded: &mut Loaded, path: &Path) -> Result<bool> {
        let mut report = capture::run(loaded, self.program, path, self.repeat)?;
        report.maps = self.maps(loaded)?;
        if self.args.json {
            super::print_json(&report)?;
        } else {
            super::print(&(report.to_string() + &maps_text(report.maps.as_deref())))?;
            report.complaints().for_each(|line| eprintln!("{line}"));
        }
        Ok(report.complaints().next().is_none())
    }

    fn maps(&self, loaded: &Loaded) -> Result<Option<Vec<MapDump>>> {
        let Some(names) = map_names(self.args) else {
            return Ok(None);
        };
        // The kernel may take an object that we don't: its maps are then shown without types.
        let wanted = Wanted::or(&names, Wanted::Filled);
        match Object::parse(self.bytes) {
            Ok(object) => dump::all(loaded.maps(), &object, wanted),
            Err(_) => dump::all(loaded.maps(), &NoTypes, wanted),
        }
        .map(Some)
    }
}

/// The maps to dump, if any are to be; none named means all.
fn map_names(args: &RunArgs) -> Option<Vec<&str>> {
    let names = args.dump_maps.as_ref()?.iter().map(String::as_str);
    Some(names.filter(|name| !name.is_empty()).collect())
}

fn maps_text(maps: Option<&[MapDump]>) -> String {
    let maps = maps.unwrap_or_default().iter();
    maps.map(|map| format!("\n{map}")).collect()
}

/// Bytes in bpftool's layout: offset, pairs, text.
fn hex_dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (n, row) in bytes.chunks(16).enumerate() {
        let mut pairs = String::new();
        let mut text = String::new();
        for at in 0..16 {
            let byte = row.get(at);
            pairs += &byte.map_or("  ".to_owned(), |byte| format!("{byte:02x}"));
            pairs += if at % 2 == 1 { " " } else { "" };
            text += if at == 8 { " " } else { "" };
            let shown = |byte: &u8| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            };
            text.extend(byte.map(shown));
        }
        out += &format!("{:07x}\t{pairs}| {}\n", 16 * n, text.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_dumped_as_bpftool_does() {
        let dump = hex_dump(b"squalus, and so on!");
        let expected = "0000000\t7371 7561 6c75 732c 2061 6e64 2073 6f20 | squalus,  and so\n\
                        0000010\t6f6e 21                                 | on!\n";
        assert_eq!(dump, expected);
    }
}
