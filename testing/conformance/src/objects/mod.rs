//! Any object's XDP programs in every engine: who takes them, and whether they do the same.
//!
//! Nothing is known of the programs, so maps are filled with contents of several kinds and the frames are
//! [`traffic`] of every kind. What a program does may depend on time: the judge (the kernel, or the
//! interpreter for programs that the kernel refuses) is therefore loaded twice, and what differs between
//! these two is not compared. Random numbers are replaced by constants while programs run, not where
//! it is asked which programs load.

mod content;
mod duel;
pub mod traffic;

use serde::{Deserialize, Serialize};
use squalus_isa::{HelperId, INSN_SIZE, Insn, MapType, opcode};
use squalus_object::{Object, ProgramKind};

use crate::Rng;
use crate::engines::{Kind, Subject};
use content::Filling;
use duel::{Duel, Findings};

/// What became of one object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObjectReport {
    /// Its file's name.
    pub object: String,
    /// Why nothing of it loads, if so.
    pub error: Option<String>,
    /// Its XDP programs.
    pub programs: Vec<ProgramReport>,
}

/// What became of one program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProgramReport {
    /// Its name.
    pub program: String,
    /// Why the kernel refuses it.
    pub kernel: Option<String>,
    /// Why we refuse it.
    pub ours: Option<String>,
    /// What comes of it all.
    pub outcome: Outcome,
    /// Frames that were run in each engine.
    pub frames: usize,
    /// How many of them a check of our engine ended (with `XDP_ABORTED`).
    pub trapped: usize,
    /// The first differences, or what prevented a comparison.
    pub notes: Vec<String>,
}

/// The summary of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Same verdicts, bytes and maps in kernel, interpreter and compiled code.
    Same,
    /// The kernel loads it but makes no test runs of it; interpreter and compiled code do the same.
    SameOurs,
    /// The kernel refuses it; we run it, interpreted and compiled alike.
    KernelRefuses,
    /// We refuse what the kernel loads.
    Refused,
    /// Neither takes it.
    RefusedByBoth,
    /// Engines do not do the same.
    Different,
}

/// How to examine.
#[derive(Clone, Debug)]
pub struct Options {
    /// For frames and map contents.
    pub seed: u64,
    /// Frames through each program with each kind of map contents.
    pub frames: usize,
    /// Whether the kernel is there.
    pub kernel: bool,
}

/// The error of an object that is none of ours.
pub const NO_PROGRAM: &str = "no XDP program";
/// Small LRU maps evict at their own discretion; all get at least this many entries.
const LEAST_LRU: u32 = 4096;
/// Size of maps that the object leaves to its own loader: a page, for ring buffers.
const LEFT_TO_LOADER: u32 = 4096;

/// Loads an object into the engines and runs frames through all its XDP programs.
#[must_use]
pub fn examine(name: &str, bytes: &[u8], options: &Options) -> ObjectReport {
    let failed = |error: String| ObjectReport {
        object: name.to_owned(),
        error: Some(error),
        programs: Vec::new(),
    };
    let object = match Object::parse(bytes) {
        Ok(object) => object,
        Err(error) => return failed(error.to_string()),
    };
    let mut reports = refused(&object);
    let programs = object.programs.iter();
    let names: Vec<String> = programs
        .filter(|program| matches!(program.kind, ProgramKind::Xdp { .. }))
        .map(|program| program.name.clone())
        .collect();
    if names.is_empty() && reports.is_empty() {
        return failed(NO_PROGRAM.to_owned());
    }
    let subject = subject(&object, bytes);
    let census = Census::take(&subject, &names, options.kernel);
    reports.extend(census.refused());
    for (judge, group) in [
        (Kind::Kernel, census.everywhere()),
        (Kind::Interp, census.ours_only()),
    ] {
        reports.extend(census.duel(&subject, judge, &group, options));
    }
    let place = |report: &ProgramReport| names.iter().position(|name| *name == report.program);
    reports.sort_by_key(place);
    ObjectReport {
        object: name.to_owned(),
        error: None,
        programs: reports,
    }
}

fn subject(object: &Object, bytes: &[u8]) -> Subject {
    let mut subject = Subject::new(bytes);
    for map in &object.maps {
        let def = &map.def;
        let least = match def.kind {
            MapType::LruHash | MapType::LruPerCpuHash => LEAST_LRU,
            // One buffer for each CPU.
            MapType::PerfEventArray => 0,
            MapType::CpuMap if def.max_entries == 0 => 1,
            _ if def.max_entries == 0 => LEFT_TO_LOADER,
            _ => 0,
        };
        if def.max_entries < least {
            subject.max_entries.push((def.name.clone(), least));
        }
    }
    subject
}

/// The object with `number` in place of every random number: calls of `bpf_get_prandom_u32` become moves of the
/// same length.
fn without_chance(subject: &Subject, number: i32) -> Subject {
    let call = Insn {
        op: opcode::JMP | opcode::CALL,
        dst: 0,
        src: 0,
        off: 0,
        imm: HelperId::GET_PRANDOM_U32.0 as i32,
    };
    let constant = Insn {
        op: opcode::ALU | opcode::MOV | opcode::K,
        imm: number,
        ..call
    };
    let mut subject = subject.clone();
    // Sections of instructions are aligned to instructions.
    for slot in subject.object.as_chunks_mut::<INSN_SIZE>().0 {
        if *slot == call.to_bytes() {
            *slot = constant.to_bytes();
        }
    }
    subject
}

/// XDP programs that our loader leaves out.
fn refused(object: &Object) -> Vec<ProgramReport> {
    let refused = object.refused.iter();
    let xdp = refused.filter(|refused| refused.section.trim_start_matches('?').starts_with("xdp"));
    xdp.map(|refused| {
        let reason = refused.reason.to_string();
        ProgramReport::loads(&refused.name, None, Some(reason), Outcome::Refused)
    })
    .collect()
}

impl ProgramReport {
    fn loads(
        name: &str,
        kernel: Option<String>,
        ours: Option<String>,
        outcome: Outcome,
    ) -> ProgramReport {
        ProgramReport {
            program: name.to_owned(),
            kernel,
            ours,
            outcome,
            frames: 0,
            trapped: 0,
            notes: Vec::new(),
        }
    }
}

/// Which engine takes which program.
struct Census {
    programs: Vec<Taken>,
    kernel: bool,
}

struct Taken {
    name: String,
    /// Why the engine refuses it, in the order of [`Kind::ALL`].
    refusals: [Option<String>; 3],
}

impl Census {
    fn take(subject: &Subject, names: &[String], kernel: bool) -> Census {
        let mut census = Census {
            programs: Vec::new(),
            kernel,
        };
        let columns = Kind::ALL.map(|kind| {
            if kind == Kind::Kernel && !kernel {
                return vec![Some("not asked".to_owned()); names.len()];
            }
            refusals(subject, kind, names)
        });
        for (at, name) in names.iter().enumerate() {
            census.programs.push(Taken {
                name: name.clone(),
                refusals: [0, 1, 2].map(|kind: usize| columns[kind][at].clone()),
            });
        }
        census
    }

    fn group(&self, wanted: impl Fn(&[Option<String>; 3]) -> bool) -> Vec<String> {
        let taken = self.programs.iter().filter(|taken| wanted(&taken.refusals));
        taken.map(|taken| taken.name.clone()).collect()
    }

    fn everywhere(&self) -> Vec<String> {
        self.group(|refusals| refusals.iter().all(Option::is_none))
    }

    fn ours_only(&self) -> Vec<String> {
        self.group(|refusals| matches!(refusals, [Some(_), None, None]))
    }

    /// Reports on what we don't take.
    fn refused(&self) -> Vec<ProgramReport> {
        let mut reports = Vec::new();
        for Taken { name, refusals } in &self.programs {
            let [kernel, interp, jit] = refusals.clone();
            let outcome = match (&kernel, &interp, &jit) {
                (None, Some(_), Some(_)) => Outcome::Refused,
                (Some(_), Some(_), Some(_)) if self.kernel => Outcome::RefusedByBoth,
                (Some(_), Some(_), Some(_)) => Outcome::Refused,
                (_, None, None) => continue,
                // One of our engines takes what the other refuses.
                _ => Outcome::Different,
            };
            reports.push(ProgramReport::loads(name, kernel, interp.or(jit), outcome));
        }
        reports
    }

    /// Runs a group of programs and reports on each.
    fn duel(
        &self,
        subject: &Subject,
        judge: Kind,
        group: &[String],
        options: &Options,
    ) -> Vec<ProgramReport> {
        if group.is_empty() {
            return Vec::new();
        }
        let mut findings = vec![Findings::default(); group.len()];
        for filling in Filling::ALL {
            let mut rng = Rng::new(options.seed);
            let frames = traffic::frames(&mut rng, options.frames);
            let subject = without_chance(subject, rng.word() as i32);
            let duel = Duel {
                subject: &subject,
                judge,
                group,
                filling,
                frames: &frames,
            };
            for (of, found) in findings.iter_mut().zip(duel.fight(&mut rng)) {
                of.merge(found);
            }
        }
        let reports = group.iter().zip(findings);
        reports
            .map(|(name, found)| self.report(name, judge, found))
            .collect()
    }

    fn report(&self, name: &str, judge: Kind, found: Findings) -> ProgramReport {
        let outcome = match (found.differs, judge) {
            (true, _) => Outcome::Different,
            (false, Kind::Kernel) if found.judge_declines => Outcome::SameOurs,
            (false, Kind::Kernel) => Outcome::Same,
            (false, _) if self.kernel => Outcome::KernelRefuses,
            (false, _) => Outcome::SameOurs,
        };
        let taken = self.programs.iter().find(|taken| taken.name == name);
        let kernel = taken.and_then(|taken| taken.refusals[0].clone());
        ProgramReport {
            frames: found.frames,
            trapped: found.trapped,
            notes: found.notes,
            ..ProgramReport::loads(name, kernel, None, outcome)
        }
    }
}

/// Why an engine refuses each of these programs, if it does.
fn refusals(subject: &Subject, kind: Kind, names: &[String]) -> Vec<Option<String>> {
    let load = |names: &[String]| subject.only(names).load(&[kind]).map(drop);
    if load(names).is_ok() {
        return vec![None; names.len()];
    }
    let one = |name: &String| {
        let refusal = load(std::slice::from_ref(name)).err()?;
        Some(last_words(&refusal.reason))
    };
    names.iter().map(one).collect()
}

/// The line of a refusal that says why: of a verifier's log the last but its statistics.
fn last_words(reason: &str) -> String {
    let mut lines = reason.lines().map(str::trim).filter(|line| {
        !line.is_empty()
            && !line.starts_with("processed ")
            && !line.starts_with("verification time")
    });
    let first = lines.next().unwrap_or_default().to_owned();
    match lines.next_back() {
        Some(last) => format!("{first} … {last}"),
        None => first,
    }
}
