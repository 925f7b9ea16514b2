//! Many frames through engines that stay loaded, and a small case when they differ.

use std::fmt;
use std::time::Duration;

use squalus_engine::Engine;
use squalus_isa::Verdict;

use crate::case::Outcome;
use crate::compare::{Difference, Watch, compare_maps, compare_step, shared};
use crate::engines::{Kind, LoadError, Subject};
use crate::{Case, Minimised, Step, minimise};

/// How often, in steps, the maps are compared.
const MAPS_EVERY: usize = 1000;
/// How long to look for a smaller case.
const MINIMISE_FOR: Duration = Duration::from_secs(60);
/// A case keeps this many differences: one cause often shows in many places.
const SHOWN: usize = 12;

/// A comparison of engines on one object.
pub struct Hunt<'a> {
    /// What is loaded.
    pub subject: &'a Subject,
    /// Into which engines; the first is compared with the others.
    pub kinds: &'a [Kind],
    /// What may differ in maps.
    pub watch: &'a Watch,
}

/// What happened in a comparison without differences: proof that the cases reached something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames run, on each engine.
    pub frames: usize,
    /// How many got each verdict, by number.
    pub verdicts: [usize; Verdict::ALL.len()],
    /// Other steps done.
    pub operations: usize,
    /// How many of all steps were refused (alike by all engines).
    pub refused: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames (", self.frames)?;
        for (n, verdict) in Verdict::ALL.into_iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{} {verdict}", self.verdicts[n])?;
        }
        write!(
            f,
            "), {} map operations, {} refused",
            self.operations, self.refused
        )
    }
}

impl Tally {
    fn count(&mut self, step: &Step, outcome: &Outcome) {
        match (step, outcome) {
            (Step::Run { .. }, Outcome::Ran(value, _)) => {
                self.frames += 1;
                self.verdicts[Verdict::from_return((*value).into()) as usize] += 1;
            }
            (Step::Run { .. }, _) => self.frames += 1,
            _ => self.operations += 1,
        }
        if matches!(outcome, Outcome::Refused(_) | Outcome::Failed(_)) {
            self.refused += 1;
        }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.frames += other.frames;
        self.operations += other.operations;
        self.refused += other.refused;
        for (sum, n) in self.verdicts.iter_mut().zip(other.verdicts) {
            *sum += n;
        }
    }
}

/// Engines that differ.
#[derive(Debug)]
pub struct Finding {
    /// The differences as they were found.
    pub differences: Vec<Difference>,
    /// A small case that shows a difference; `None` if it doesn't show again from the start.
    pub minimised: Option<Minimised>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in self.differences.iter().take(SHOWN) {
            writeln!(f, "{difference}")?;
        }
        if let Some(more) = self.differences.len().checked_sub(SHOWN + 1) {
            writeln!(f, "and {} more", more + 1)?;
        }
        let Some(small) = &self.minimised else {
            return write!(f, "(not reproducible on freshly loaded engines)");
        };
        writeln!(
            f,
            "a small case, to replay with `conform balancer|maps --replay`:\n{}",
            small.case
        )?;
        writeln!(f, "on which:")?;
        let shown = small.differences.iter().take(SHOWN);
        shown
            .into_iter()
            .try_for_each(|difference| writeln!(f, "{difference}"))
    }
}

/// Why a comparison ended early.
#[derive(Debug, thiserror::Error)]
pub enum HuntError {
    /// An engine does not take the object.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Engines differ.
    #[error("engines differ\n{0}")]
    Differ(Box<Finding>),
}

impl Hunt<'_> {
    /// Runs the steps on all engines, freshly loaded, and compares everything.
    ///
    /// # Errors
    /// If the object cannot be loaded, or at the first step after which engines differ.
    pub fn run(&self, steps: impl Iterator<Item = Step>) -> Result<Tally, HuntError> {
        let mut engines = self.subject.load(self.kinds)?;
        let mut engines = borrow(&mut engines);
        self.watch.reset_clock();
        let mut done = Vec::new();
        let mut tally = Tally::default();
        for step in steps {
            let (outcome, differences) =
                compare_step(&mut engines, (done.len(), &step), self.watch);
            if let Some(outcome) = outcome {
                tally.count(&step, &outcome);
            }
            done.push(step);
            self.require_none(differences, &done)?;
            if done.len().is_multiple_of(MAPS_EVERY) {
                self.require_none(compare_maps(&shared(&engines), self.watch), &done)?;
            }
        }
        self.require_none(compare_maps(&shared(&engines), self.watch), &done)?;
        Ok(tally)
    }

    fn require_none(&self, differences: Vec<Difference>, done: &[Step]) -> Result<(), HuntError> {
        if differences.is_empty() {
            return Ok(());
        }
        let case = Case {
            steps: done.to_vec(),
        };
        let make = || self.subject.load(self.kinds);
        let minimised = minimise(&case, self.watch, MINIMISE_FOR, make)?;
        Err(HuntError::Differ(Box::new(Finding {
            differences,
            minimised,
        })))
    }
}

pub(crate) fn borrow(engines: &mut [Box<dyn Engine>]) -> Vec<&mut dyn Engine> {
    let engines = engines.iter_mut();
    engines
        .map(|engine| &mut **engine as &mut dyn Engine)
        .collect()
}
