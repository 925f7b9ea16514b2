//! The same frames through the same programs in several engines, with allowance for chance.

use std::collections::BTreeMap;

use squalus_engine::{Engine, MapAccess};
use squalus_isa::Verdict;
use squalus_vm::Vm;

use crate::case::Outcome;
use crate::compare::{Hex, Watch, contents, watched};
use crate::engines::{Kind, Subject};
use crate::{Case, MapName, Rng, Step};

use super::content::{self, Filling};

/// Differences noted for one program.
const NOTES: usize = 4;
/// Characters of a note.
const NOTE_LEN: usize = 600;

/// A comparison to make.
pub(super) struct Duel<'a> {
    pub subject: &'a Subject,
    /// Who is right: loaded twice.
    pub judge: Kind,
    /// Programs that all engines take.
    pub group: &'a [String],
    pub filling: Filling,
    pub frames: &'a [Vec<u8>],
}

/// What was found about one program.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    pub differs: bool,
    /// The judge makes no test runs of it.
    pub judge_declines: bool,
    pub frames: usize,
    pub trapped: usize,
    pub notes: Vec<String>,
}

impl Findings {
    pub(super) fn merge(&mut self, other: Findings) {
        self.differs |= other.differs;
        self.judge_declines |= other.judge_declines;
        self.frames += other.frames;
        self.trapped += other.trapped;
        self.notes.extend(other.notes);
        self.notes.truncate(NOTES);
    }

    fn difference(&mut self, what: &str, sides: [(&str, String); 2]) {
        self.differs = true;
        let [(a, left), (b, right)] = sides;
        self.note(format!("{what}: {a} {left} | {b} {right}"));
    }

    fn note(&mut self, mut text: String) {
        if self.notes.len() < NOTES {
            if let Some((end, _)) = text.char_indices().nth(NOTE_LEN) {
                text.truncate(end);
            }
            self.notes.push(text);
        }
    }
}

/// The judge twice, and our engines.
struct Ring {
    judges: [Box<dyn Engine>; 2],
    interp: Vm,
    jit: Vm,
}

/// What all maps hold.
type Holdings = BTreeMap<MapName, Result<BTreeMap<Vec<u8>, Vec<u8>>, String>>;

impl Duel<'_> {
    /// Findings for each program of the group. After a difference the next program starts afresh.
    pub(super) fn fight(&self, rng: &mut Rng) -> Vec<Findings> {
        let filling = rng.word();
        let mut ring = None;
        let mut all = Vec::with_capacity(self.group.len());
        for program in self.group {
            let mut findings = Findings::default();
            let mut current = match ring.take() {
                Some(ring) => ring,
                None => match self.enter(&mut Rng::new(filling), &mut findings) {
                    Ok(ring) => ring,
                    Err(reason) => {
                        findings.differs = true;
                        findings.note(reason);
                        all.push(findings);
                        continue;
                    }
                },
            };
            self.run(&mut current, program, &mut findings);
            current.compare_maps(&mut findings);
            if !findings.differs {
                ring = Some(current);
            }
            all.push(findings);
        }
        all
    }

    /// Loads all engines and fills their maps.
    fn enter(&self, rng: &mut Rng, findings: &mut Findings) -> Result<Ring, String> {
        let subject = self.subject.only(self.group);
        let judge = || -> Result<Box<dyn Engine>, String> {
            let mut loaded = subject
                .load(&[self.judge])
                .map_err(|error| error.to_string())?;
            Ok(loaded.remove(0))
        };
        let vm = |kind| {
            subject
                .vm(kind)
                .map_err(|error| format!("{kind:?}: {error}"))
        };
        let mut ring = Ring {
            judges: [judge()?, judge()?],
            interp: vm(squalus_vm::EngineKind::Interp)?,
            jit: vm(squalus_vm::EngineKind::Jit)?,
        };
        let maps = ring.interp.maps();
        let cpus = ring.interp.cpus();
        let steps = content::fill(rng, self.filling, &maps, self.group, self.frames, cpus);
        let case = Case { steps };
        for step in &case.steps {
            ring.step(step, findings);
        }
        Ok(ring)
    }

    fn run(&self, ring: &mut Ring, program: &str, findings: &mut Findings) {
        for (at, frame) in self.frames.iter().enumerate() {
            let step = Step::Run {
                program: program.to_owned(),
                cpu: 0,
                frame: frame.clone(),
            };
            findings.frames += 1;
            let before = findings.notes.len();
            ring.step(&step, findings);
            if findings.notes.len() > before
                && let Some(note) = findings.notes.last_mut()
            {
                note.insert_str(0, &format!("{:?}, frame {at}: ", self.filling));
            }
            if ring.interp.last_trap(0).is_some() {
                findings.trapped += 1;
            }
            if findings.notes.len() == NOTES {
                return;
            }
        }
    }
}

impl Ring {
    /// Does a step everywhere, and compares what the judges agree on.
    fn step(&mut self, step: &Step, findings: &mut Findings) {
        let [first, second] = &mut self.judges;
        let judged = [step.apply(&mut **first), step.apply(&mut **second)];
        let ours = [step.apply(&mut self.interp), step.apply(&mut self.jit)];
        let declined = matches!(judged[0], Outcome::Failed("frame refused"));
        // The interpreter knows where a pointer came from, compiled code only where it points to: of programs
        // that the kernel refuses it may end more.
        let ends = first.name() == "interp" && self.interp.last_trap(0).is_some();
        if ends && matches!(step, Step::Run { .. }) {
            return;
        }
        let names = [("interp", &ours[0]), ("jit", &ours[1])];
        if declined {
            findings.judge_declines = true;
            if !same_as_judged(&ours[0], &ours[0], &ours[1]) {
                let sides = names.map(|(name, outcome)| {
                    let trap = self.trap(name).unwrap_or_default();
                    (
                        name,
                        format!("{}{trap}", brief(outcome, [&ours[0], &ours[1]])),
                    )
                });
                findings.difference(&what(step), sides);
            }
            return;
        }
        for (name, outcome) in names {
            if !same_as_judged(&judged[0], &judged[1], outcome) {
                let first = first.name();
                let pair = [&judged[0], outcome];
                let sides = [(first, &judged[0]), (name, outcome)].map(|(name, outcome)| {
                    let trap = self.trap(name).unwrap_or_default();
                    (name, format!("{}{trap}", brief(outcome, pair)))
                });
                findings.difference(&what(step), sides);
                return;
            }
        }
    }

    /// Why our engine ended its last run, if it did.
    fn trap(&self, engine: &str) -> Option<String> {
        let vm = match engine {
            "interp" => &self.interp,
            "jit" => &self.jit,
            _ => return None,
        };
        Some(format!(" ({})", vm.last_trap(0)?))
    }

    fn compare_maps(&self, findings: &mut Findings) {
        let judged = self.judges.each_ref().map(|judge| holdings(&**judge));
        let engines: [&dyn Engine; 2] = [&self.interp, &self.jit];
        // A judge that declined the runs has seen nothing of them.
        let (expected, again) = match findings.judge_declines {
            true => {
                let ours = holdings(engines[0]);
                (ours.clone(), ours)
            }
            false => {
                let [first, second] = judged;
                (first, second)
            }
        };
        for engine in engines {
            let found = holdings(engine);
            for (map, expected) in &expected {
                let sides = [Some(expected), again.get(map), found.get(map)];
                if let Some(sides) = content_difference(sides) {
                    let [left, right] = sides;
                    let judge = self.judges[0].name();
                    findings.difference(
                        &format!("map {map}"),
                        [(judge, left), (engine.name(), right)],
                    );
                }
            }
        }
    }
}

fn what(step: &Step) -> String {
    match step {
        Step::Run { frame, .. } => format!("{} bytes", frame.len()),
        step => step.to_string(),
    }
}

/// An outcome; of a frame only the length, and what it has from the first byte on in which these differ.
fn brief(outcome: &Outcome, of: [&Outcome; 2]) -> String {
    let (Outcome::Ran(value, frame), [Outcome::Ran(_, left), Outcome::Ran(_, right)]) =
        (outcome, of)
    else {
        return outcome.to_string();
    };
    let verdict = Verdict::from_return((*value).into());
    let mut text = format!("{value:#x} {verdict} {} bytes", frame.len());
    if left != right {
        let same = left.iter().zip(right).take_while(|(a, b)| a == b).count();
        let rest = frame.get(same..frame.len().min(same + 8));
        text += &format!(", from {same} on {}", Hex(rest.unwrap_or_default()));
    }
    text
}

/// Whether an outcome is as the judges', where these agree with each other.
fn same_as_judged(first: &Outcome, second: &Outcome, found: &Outcome) -> bool {
    match (first, second, found) {
        (Outcome::Ran(a, left), Outcome::Ran(b, right), Outcome::Ran(c, bytes)) => {
            if left.len() != right.len() {
                return true;
            }
            (a != b || a == c) && left.len() == bytes.len() && same_bytes(left, right, bytes)
        }
        _ => first != second || first == found,
    }
}

/// Whether `bytes` has what `left` and `right` have in common. Where these differ is a time, some bytes of which may
/// be the same by chance. Addresses in the kernel's memory are nobody else's.
fn same_bytes(left: &[u8], right: &[u8], bytes: &[u8]) -> bool {
    const AROUND: usize = 7;
    let differs = |at: &usize| left.get(*at) != right.get(*at);
    let certain = |at: usize| {
        !(at.saturating_sub(AROUND)..=at + AROUND).any(|at| differs(&at)) && !is_address(left, at)
    };
    left == bytes || !(0..bytes.len()).any(|at| Some(&bytes[at]) != left.get(at) && certain(at))
}

/// Whether the word around a place is an address in the kernel's map of all memory.
fn is_address(bytes: &[u8], at: usize) -> bool {
    let word = bytes.get(at & !7..).and_then(|rest| rest.first_chunk());
    let word = word.map(|word| u64::from_le_bytes(*word));
    word.is_some_and(|word| (0xffff_8000_0000_0000..0xffff_ff00_0000_0000).contains(&word))
}

fn holdings(engine: &dyn Engine) -> Holdings {
    let maps = watched(engine).into_iter();
    maps.map(|map| {
        let held = contents(engine, &map, &Watch::default());
        (map.0, held)
    })
    .collect()
}

type Held<'a> = Option<&'a Result<BTreeMap<Vec<u8>, Vec<u8>>, String>>;

/// The first entry in which the third map differs from what the first two have in common.
fn content_difference([left, right, found]: [Held<'_>; 3]) -> Option<[String; 2]> {
    let (Some(Ok(left)), Some(Ok(right)), Some(Ok(found))) = (left, right, found) else {
        let text =
            |held: Held<'_>| format!("{:?}", held.map(|held| held.as_ref().map(BTreeMap::len)));
        let same = left == found || left != right;
        return (!same).then(|| [text(left), text(found)]);
    };
    let keys: std::collections::BTreeSet<_> = left.keys().chain(found.keys()).collect();
    // Keys that only one of the judges has hold time or chance.
    for key in keys {
        let (a, b, c) = (left.get(key), right.get(key), found.get(key));
        let same = match (a, b, c) {
            (Some(a), Some(b), Some(c)) => same_bytes(a, b, c),
            (Some(_), None, _) | (None, Some(_), _) => true,
            (None, None, Some(_)) if left.keys().ne(right.keys()) => true,
            _ => a == c,
        };
        if !same {
            let text = |value: Option<&Vec<u8>>| match value {
                Some(value) => format!("{} → {}", Hex(key), Hex(value)),
                None => format!("{} → nothing", Hex(key)),
            };
            return Some([text(a), text(c)]);
        }
    }
    None
}
