//! A program as native code: its source and a small runner, compiled by the system's clang into a process of its own
//! that takes orders through a pipe. So no foreign code enters this process.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::measure::Answer;
use super::programs::{Program, SHARED_SOURCES};
use super::schedule::Schedule;

/// What is tried if `CLANG` is not set.
const NAMES: [&str; 10] = [
    "clang", "clang-22", "clang-21", "clang-20", "clang-19", "clang-18", "clang-17", "clang-16",
    "clang-15", "clang-14",
];

/// A clang for this machine.
#[derive(Clone, Debug)]
pub struct Clang {
    command: String,
    /// The first line of what it says of itself.
    pub version: String,
    flags: Vec<String>,
}

impl Clang {
    /// The compiler that the environment variable `CLANG` names, or else the first there is; `None` if there is none.
    #[must_use]
    pub fn find(flags: &str) -> Option<Clang> {
        let chosen = env::var("CLANG").ok();
        let names: Vec<String> = match chosen {
            Some(name) => vec![name],
            None => NAMES.map(str::to_owned).to_vec(),
        };
        names.into_iter().find_map(|command| {
            let output = Command::new(&command).arg("--version").output().ok()?;
            let version = String::from_utf8_lossy(&output.stdout);
            let version = version.lines().next().filter(|_| output.status.success())?;
            Some(Clang {
                version: version.to_owned(),
                command,
                flags: flags.split_whitespace().map(str::to_owned).collect(),
            })
        })
    }

    /// The flags it is called with.
    #[must_use]
    pub fn flags(&self) -> String {
        self.flags.join(" ")
    }

    /// Compiles `program` in `folder` and starts it on `frames`.
    fn build(&self, folder: &Path, program: &Program, frames: &[Vec<u8>]) -> Result<PathBuf> {
        fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::create_dir(folder.join("native"))?;
        for (path, text) in SHARED_SOURCES {
            fs::write(folder.join(path), text)?;
        }
        fs::write(folder.join("program.c"), program.source)?;
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend((frame.len() as u32).to_ne_bytes());
            bytes.extend(frame);
        }
        fs::write(folder.join("frames"), bytes)?;
        let output = Command::new(&self.command)
            .args(&self.flags)
            .args(["-fno-strict-aliasing", "-w", "-o", "program", "program.c"])
            .args(["native/run.c", "native/maps.c"])
            .current_dir(folder)
            .output()
            .with_context(|| format!("cannot run {}", self.command))?;
        ensure!(
            output.status.success(),
            "{} cannot compile {}:\n{}",
            self.command,
            program.name,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(folder.join("program"))
    }
}

/// A program running as native code.
pub struct Native {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    frames: usize,
}

impl Native {
    /// Compiles and starts `program` on `frames`; it runs on the CPU that the calling thread is pinned to.
    ///
    /// # Errors
    /// If it cannot be compiled or started.
    pub fn start(clang: &Clang, program: &Program, frames: &[Vec<u8>]) -> Result<Native> {
        let folder = env::temp_dir().join(format!("squalus-micro-{}", std::process::id()));
        let started = clang
            .build(&folder, program, frames)
            .and_then(|path| Native::spawn(&path, &folder.join("frames"), frames.len()));
        // The process keeps its file; it has read the frames when it answers.
        let first = started.and_then(|mut native| {
            native.order("ready?")?;
            native.answer()?;
            Ok(native)
        });
        let _ = fs::remove_dir_all(&folder);
        first
    }

    fn spawn(path: &Path, frames_file: &Path, frames: usize) -> Result<Native> {
        let mut child = Command::new(path)
            .arg(frames_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", path.display()))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (orders, answers) = pipes.context("the program has no pipes")?;
        Ok(Native {
            child,
            orders,
            answers: BufReader::new(answers),
            frames,
        })
    }

    /// Runs each frame once.
    ///
    /// # Errors
    /// If the process died.
    pub fn check(&mut self) -> Result<Vec<Answer>> {
        self.order("check")?;
        (0..self.frames).map(|_| parse(&self.answer()?)).collect()
    }

    /// Nanoseconds a packet.
    ///
    /// # Errors
    /// If the process died.
    pub fn measure(&mut self, packets: u32, schedule: Schedule) -> Result<f64> {
        let (burst, repeats) = (schedule.burst(), schedule.repeats());
        self.order(&format!("run {packets} {burst} {repeats}"))?;
        let line = self.answer()?;
        let nanos = line.parse().ok();
        nanos.with_context(|| format!("the native program answered `{line}`"))
    }

    fn order(&mut self, line: &str) -> Result<()> {
        writeln!(self.orders, "{line}").context("the native program is gone")
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the native program ended: {}", self.child.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Result<Answer> {
    let (value, hex) = line.split_once(' ').context("not `value bytes`")?;
    let digits: Vec<char> = hex.chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16);
    Ok(Answer {
        value: value.parse()?,
        frame: digits.chunks(2).map(byte).collect::<Result<_, _>>()?,
    })
}
