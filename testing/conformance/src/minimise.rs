//! From a long case on which engines differ to a short one.

use std::time::{Duration, Instant};

use squalus_engine::Engine;

use crate::compare::{Difference, Watch, compare};
use crate::hunt::borrow;
use crate::{Case, Step};

/// A small case on which engines differ, and how.
#[derive(Debug)]
pub struct Minimised {
    /// The case.
    pub case: Case,
    /// What differs in it.
    pub differences: Vec<Difference>,
}

/// Looks for a small part of `case` on which freshly made engines still differ, for at most `limit`.
///
/// Steps are dropped in halves, quarters and so on, those of `keep` (indices of steps that set the
/// scene) last; then frames are cut from the end. `None` if the whole case shows no difference on fresh
/// engines.
pub fn minimise<E>(
    case: &Case,
    watch: &Watch,
    limit: Duration,
    make: impl FnMut() -> Result<Vec<Box<dyn Engine>>, E>,
) -> Result<Option<Minimised>, E> {
    let mut search = Search {
        make,
        watch,
        until: Instant::now() + limit,
    };
    let Some(differences) = search.differences(case)? else {
        return Ok(None);
    };
    let mut best = Minimised {
        case: case.clone(),
        differences,
    };
    search.only_the_failing_frame(&mut best)?;
    search.drop_steps(&mut best)?;
    search.cut_frames(&mut best)?;
    Ok(Some(best))
}

struct Search<'a, F> {
    make: F,
    watch: &'a Watch,
    until: Instant,
}

impl<E, F: FnMut() -> Result<Vec<Box<dyn Engine>>, E>> Search<'_, F> {
    fn differences(&mut self, case: &Case) -> Result<Option<Vec<Difference>>, E> {
        let mut engines = (self.make)()?;
        let differences = compare(&mut borrow(&mut engines), case, self.watch);
        Ok((!differences.is_empty()).then_some(differences))
    }

    /// Replaces the best case by `case` if engines differ on that too.
    fn accept(&mut self, best: &mut Minimised, case: Case) -> Result<bool, E> {
        if Instant::now() >= self.until {
            return Ok(false);
        }
        let Some(differences) = self.differences(&case)? else {
            return Ok(false);
        };
        *best = Minimised { case, differences };
        Ok(true)
    }

    /// The usual case: one frame does it, whatever came before.
    fn only_the_failing_frame(&mut self, best: &mut Minimised) -> Result<(), E> {
        let Some(failing) = best.differences.iter().find_map(|d| d.step) else {
            return Ok(());
        };
        let keep = |(index, step): (usize, &Step)| {
            (index == failing || !matches!(step, Step::Run { .. })).then(|| step.clone())
        };
        let steps = best.case.steps[..=failing].iter().enumerate();
        let case = Case {
            steps: steps.filter_map(keep).collect(),
        };
        self.accept(best, case).map(drop)
    }

    fn drop_steps(&mut self, best: &mut Minimised) -> Result<(), E> {
        let mut size = best.case.steps.len().div_ceil(2);
        while size > 0 {
            // From the end: what comes last depends on what came before, not the reverse.
            let mut end = best.case.steps.len();
            while end > 0 {
                let start = end.saturating_sub(size);
                let mut case = best.case.clone();
                case.steps.drain(start..end);
                self.accept(best, case)?;
                end = start;
            }
            if size == 1 || Instant::now() >= self.until {
                break;
            }
            size = size.div_ceil(2);
        }
        Ok(())
    }

    fn cut_frames(&mut self, best: &mut Minimised) -> Result<(), E> {
        const ETHERNET: usize = 14;
        for index in 0..best.case.steps.len() {
            let mut cut = 1024;
            while cut > 0 {
                let mut case = best.case.clone();
                let Step::Run { frame, .. } = &mut case.steps[index] else {
                    break;
                };
                let shorter = frame.len().saturating_sub(cut);
                if shorter >= ETHERNET {
                    frame.truncate(shorter);
                    if self.accept(best, case)? {
                        continue;
                    }
                }
                cut /= 2;
            }
        }
        Ok(())
    }
}
