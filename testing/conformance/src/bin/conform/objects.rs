//! `conform objects`: all the objects in some folders, each in a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use squalus_conformance::engines::Kind;
use squalus_conformance::objects::{self, ObjectReport, Outcome, ProgramReport};

use crate::Outcome as Result;

/// Longest time for one object, in seconds.
const TIME_LIMIT: u64 = 120;

#[derive(Args)]
pub struct Objects {
    /// Folders of objects, one for each project; or objects.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Everything found, as JSON.
    #[arg(long)]
    json: bool,
    /// A line for each program, not for each project.
    #[arg(long)]
    programs: bool,
    /// Frames through each program with each filling of its maps.
    #[arg(long, default_value_t = 150)]
    frames: usize,
    /// Seconds for one object.
    #[arg(long, default_value_t = TIME_LIMIT)]
    limit: u64,
    /// Examine one object in this process and print what is found.
    #[arg(long, hide = true)]
    here: bool,
}

#[derive(Serialize)]
struct Project {
    project: String,
    objects: Vec<ObjectReport>,
}

pub fn run(seed: u64, kinds: &[Kind], what: &Objects) -> Result<()> {
    if what.here {
        return examine_here(seed, kinds, what);
    }
    let mut projects = Vec::new();
    for path in &what.paths {
        let project = Project {
            project: file_name(path),
            objects: files(path)?
                .iter()
                .map(|file| examine_apart(seed, file, what))
                .collect(),
        };
        if !what.json {
            project.print(what.programs);
        }
        projects.push(project);
    }
    if what.json {
        println!("{}", serde_json::to_string_pretty(&projects)?);
    } else {
        println!("{}", Counts::of(projects.iter()).row("**all**"));
    }
    let different = projects
        .iter()
        .map(|project| Counts::of([project]).different);
    match different.sum::<usize>() {
        0 => Ok(()),
        n => Err(format!("{n} programs differ").into()),
    }
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "o") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn examine_here(seed: u64, kinds: &[Kind], what: &Objects) -> Result<()> {
    let options = objects::Options {
        seed,
        frames: what.frames,
        kernel: kinds.contains(&Kind::Kernel),
    };
    for path in &what.paths {
        let report = objects::examine(&file_name(path), &std::fs::read(path)?, &options);
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

/// Examines an object in another process, which may crash or hang.
fn examine_apart(seed: u64, file: &Path, what: &Objects) -> ObjectReport {
    let report = output_of_child(seed, file, what)
        .and_then(|output| serde_json::from_slice(&output).map_err(|error| error.to_string()));
    report.unwrap_or_else(|error| ObjectReport {
        object: file_name(file),
        error: Some(error.clone()),
        // Whatever its programs are, something is wrong with us.
        programs: vec![ProgramReport {
            program: "?".to_owned(),
            kernel: None,
            ours: None,
            outcome: Outcome::Different,
            frames: 0,
            trapped: 0,
            notes: vec![error],
        }],
    })
}

fn output_of_child(seed: u64, file: &Path, what: &Objects) -> std::result::Result<Vec<u8>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    // A file, not a pipe, so that a child that prints much does not wait for us.
    let output = std::env::temp_dir().join(format!("conform-{}", std::process::id()));
    let sink = std::fs::File::create(&output).map_err(|error| error.to_string())?;
    let child = Command::new(program)
        .args(["objects", "--here"])
        .args(["--seed", &seed.to_string()])
        .args(["--frames", &what.frames.to_string()])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(sink)
        .spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let end = Instant::now() + Duration::from_secs(what.limit);
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if Instant::now() > end => {
                // It may have ended just now; `wait` tells either way.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("not done after {} s", what.limit));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let bytes = std::fs::read(&output).map_err(|error| error.to_string());
    std::fs::remove_file(&output).map_err(|error| error.to_string())?;
    match status.success() {
        true => bytes,
        false => Err(format!("the process ended with {status}")),
    }
}

impl Project {
    fn print(&self, programs: bool) {
        if !programs {
            println!("{}", Counts::of([self]).row(&self.project));
            return;
        }
        for object in &self.objects {
            let name = format!("{}/{}", self.project, object.object);
            if let Some(error) = &object.error {
                println!("{name}: {error}");
            }
            for program in &object.programs {
                program_line(&name, program);
            }
        }
    }
}

fn program_line(object: &str, program: &ProgramReport) {
    let ProgramReport {
        program: name,
        outcome,
        frames,
        trapped,
        ..
    } = program;
    println!("{object} {name}: {outcome:?}, {frames} frames, {trapped} ended by a check");
    let reasons = [("kernel", &program.kernel), ("ours", &program.ours)];
    for (who, reason) in reasons {
        if let Some(reason) = reason {
            println!("    {who}: {reason}");
        }
    }
    for note in &program.notes {
        println!("    {note}");
    }
}

/// One row of the table.
#[derive(Default)]
struct Counts {
    objects: usize,
    /// Objects that are refused as a whole.
    whole: usize,
    programs: usize,
    kernel: usize,
    ours: usize,
    same: usize,
    same_ours: usize,
    refused: usize,
    different: usize,
}

impl Counts {
    fn of<'a>(projects: impl IntoIterator<Item = &'a Project>) -> Counts {
        let mut counts = Counts::default();
        for object in projects.into_iter().flat_map(|project| &project.objects) {
            if object.error.as_deref() == Some(objects::NO_PROGRAM) {
                continue;
            }
            counts.objects += 1;
            counts.whole += usize::from(object.programs.is_empty());
            for program in &object.programs {
                counts.add(program);
            }
        }
        counts
    }

    fn add(&mut self, program: &ProgramReport) {
        self.programs += 1;
        self.kernel += usize::from(program.kernel.is_none());
        self.ours += usize::from(program.ours.is_none());
        match program.outcome {
            Outcome::Same => self.same += 1,
            Outcome::SameOurs | Outcome::KernelRefuses => self.same_ours += 1,
            Outcome::Refused | Outcome::RefusedByBoth => self.refused += 1,
            Outcome::Different => self.different += 1,
        }
    }

    fn row(&self, name: &str) -> String {
        let Counts {
            objects,
            whole,
            programs,
            kernel,
            ours,
            same,
            same_ours,
            refused,
            different,
        } = self;
        format!(
            "| {name} | {objects} | {whole} | {programs} | {kernel} | {ours} | {same} | {same_ours} | {refused} | {different} |"
        )
    }
}
