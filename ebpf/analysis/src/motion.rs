//! How places move from round to round of a loop.
//!
//! A loop's counter is bounded by the comparison that ends the loop; a pointer that moves beside it is not
//! compared with anything. What bounds both is the number of *rounds*: how often control came back to the
//! loop's head since it entered the loop. A state has a range of rounds for each loop it is in, and *lines*:
//! a place whose number, or offset into what it points into, is `start + step * rounds`, for a start within a
//! range. Comparisons that bound one place on a line bound the rounds, and so all others.
//!
//! Lines are found where a loop's head is reached again: what was moved by a constant is taken to move so in
//! every round. That is a guess only of what is worth knowing. What is written down holds in the states that
//! were joined, whatever was guessed: a wrong step makes the range of starts wider, and grows it in each
//! round, until the line is given up.
//!
//! Sums are those of numbers, without wrapping: no number of rounds that is possible makes a place wrap around
//! that moves slowly, and one that moves faster is on a line only as long as its bounds say that it does not.

use squalus_isa::{Operand, Reg};

use crate::Interval;

/// No loop goes round so often: at a round a nanosecond, it would take hours for one packet.
const MAX_ROUNDS: i64 = 1 << 44;
/// Greatest step that no number of rounds makes wrap around.
pub(crate) const SLOW_STEP: i64 = 1 << 16;
const MAX_STEP: i64 = 1 << 40;
/// What starts as far away may start anywhere farther away.
const FAR: i64 = 1 << 61;
/// Most loops that a place can move in.
const TERMS: usize = 3;

/// The number of a loop's head: the slot of its first instruction.
pub(crate) type Head = u32;

/// How often control came back to a loop's head since it entered the loop.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Rounds {
    head: Head,
    range: Interval,
}

/// What a place moves by in each round of a loop; by nothing if the step is 0.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Term {
    head: Head,
    step: i64,
}

/// How a place moves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    at: u16,
    start: Interval,
    /// Those that move it first; by number of the head.
    terms: [Term; TERMS],
}

impl Line {
    /// A place that does not move.
    fn still(at: u16, start: Interval) -> Option<Line> {
        let terms = [Term::default(); TERMS];
        Line { at, start, terms }.limited()
    }

    /// The line, unless it is beyond what is tracked.
    fn limited(mut self) -> Option<Line> {
        self.start.lo = self.start.lo.max(-FAR);
        self.start.hi = self.start.hi.min(FAR);
        let known =
            self.has_least() && self.start.lo < FAR || self.has_most() && self.start.hi > -FAR;
        let slow = |term: &Term| term.step.abs() <= MAX_STEP;
        (known && self.terms.iter().all(slow)).then_some(self)
    }

    const fn has_least(&self) -> bool {
        self.start.lo > -FAR
    }

    const fn has_most(&self) -> bool {
        self.start.hi < FAR
    }

    /// Whether no number of rounds makes the place wrap around.
    pub(crate) fn is_slow(&self) -> bool {
        let bounded = self.has_least() && self.has_most();
        bounded && self.terms().all(|term| term.step.abs() <= SLOW_STEP)
    }

    /// The line, starting in an interval that holds `start`, and ends at nothing where it grew beyond `old`.
    fn widened(mut self, old: Interval, start: Interval) -> Option<Line> {
        self.start = Interval {
            lo: if start.lo < old.lo { -FAR } else { start.lo },
            hi: if start.hi > old.hi { FAR } else { start.hi },
        };
        self.limited()
    }

    fn moves(&self) -> bool {
        self.terms[0].step != 0
    }

    fn terms(&self) -> impl Iterator<Item = Term> {
        self.terms.into_iter().filter(|term| term.step != 0)
    }

    fn step(&self, head: Head) -> i64 {
        self.terms()
            .find(|term| term.head == head)
            .map_or(0, |term| term.step)
    }

    /// The line with another step in one loop.
    fn with_step(&self, head: Head, step: i64) -> Option<Line> {
        let mut terms = [Term::default(); TERMS];
        let mut count = 0;
        let others = self.terms().filter(|term| term.head != head);
        for term in others.chain((step != 0).then_some(Term { head, step })) {
            *terms.get_mut(count)? = term;
            count += 1;
        }
        terms[..count].sort_unstable_by_key(|term| term.head);
        Line { terms, ..*self }.limited()
    }

    fn shifted(&self, by: i64) -> Option<Line> {
        let start = start_plus(self.start, Interval::at(by))?;
        Line { start, ..*self }.limited()
    }
}

/// Where a place starts that is moved; what is far away stays so.
fn start_plus(start: Interval, by: Interval) -> Option<Interval> {
    let moved = plus(start, by)?;
    let is_far = |x: i64| !(-FAR < x && x < FAR);
    Some(Interval {
        lo: if is_far(start.lo) { start.lo } else { moved.lo },
        hi: if is_far(start.hi) { start.hi } else { moved.hi },
    })
}

fn plus(a: Interval, b: Interval) -> Option<Interval> {
    let lo = a.lo.checked_add(b.lo)?;
    let hi = a.hi.checked_add(b.hi)?;
    Some(Interval { lo, hi })
}

fn times(a: Interval, by: i64) -> Option<Interval> {
    let (x, y) = (a.lo.checked_mul(by)?, a.hi.checked_mul(by)?);
    Some(Interval {
        lo: x.min(y),
        hi: x.max(y),
    })
}

/// How the places of a state move in the loops it is in.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Motion {
    rounds: Vec<Rounds>,
    /// By place.
    lines: Vec<Line>,
}

impl Motion {
    /// Whether nothing is known to move.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn rounds(&self, head: Head) -> Option<Interval> {
        let own = self.rounds.iter().find(|rounds| rounds.head == head);
        own.map(|rounds| rounds.range)
    }

    /// How many rounds of a loop there are at most, if that is known.
    pub(crate) fn most_rounds(&self, head: Head) -> Option<i64> {
        let most = self.rounds(head)?.hi;
        (most < MAX_ROUNDS).then_some(most)
    }

    fn find(&self, at: usize) -> Result<usize, usize> {
        let at = at as u16;
        self.lines.binary_search_by_key(&at, |line| line.at)
    }

    /// How a place moves.
    pub(crate) fn line(&self, at: usize) -> Option<Line> {
        self.find(at).ok().map(|n| self.lines[n])
    }

    /// The places that move.
    pub(crate) fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let places: Vec<u16> = self.lines.iter().map(|line| line.at).collect();
        places.into_iter().map(usize::from)
    }

    /// Whether the rounds of all loops are known that move a place.
    pub(crate) fn knows(&self, line: &Line) -> bool {
        line.terms().all(|term| self.rounds(term.head).is_some())
    }

    /// Sets how a place moves, if it does.
    pub(crate) fn set(&mut self, at: usize, line: Option<Line>) {
        let line = line.filter(Line::moves);
        match (self.find(at), line) {
            (Ok(n), Some(line)) => {
                self.lines[n] = Line {
                    at: at as u16,
                    ..line
                }
            }
            (Ok(n), None) => drop(self.lines.remove(n)),
            (Err(n), Some(line)) => self.lines.insert(
                n,
                Line {
                    at: at as u16,
                    ..line
                },
            ),
            (Err(_), None) => {}
        }
    }

    /// How a place moves that holds what `at` holds, and `by` more.
    pub(crate) fn shifted(&self, at: usize, by: i64) -> Option<Line> {
        self.line(at)?.shifted(by)
    }

    /// How the sum of two places moves that lie within ranges, if one of them does.
    pub(crate) fn sum(&self, (a, x): (usize, Interval), (b, y): (usize, Interval)) -> Option<Line> {
        let still = |at: usize, range| Line::still(at as u16, range);
        let (a, b) = match (self.line(a), self.line(b)) {
            (None, None) => return None,
            (Some(a), None) => (a, still(b, y)?),
            (None, Some(b)) => (b, still(a, x)?),
            (Some(a), Some(b)) => (a, b),
        };
        let start = match b.has_least() && b.has_most() {
            true => start_plus(a.start, b.start)?,
            false => start_plus(b.start, a.start).filter(|_| a.has_least() && a.has_most())?,
        };
        let both = b.terms().try_fold(a, |sum, term| {
            let step = sum.step(term.head).checked_add(term.step)?;
            sum.with_step(term.head, step)
        })?;
        Line { start, ..both }.limited()
    }

    /// Forgets how the places move that pass a test.
    pub(crate) fn forget(&mut self, test: impl Fn(usize) -> bool) {
        self.lines.retain(|line| !test(line.at.into()));
    }

    /// A loop is entered from outside.
    pub(crate) fn enter(&mut self, head: Head) {
        self.leave(|other| other != head);
        let range = Interval::at(0);
        let place = self.rounds.partition_point(|rounds| rounds.head < head);
        self.rounds.insert(place, Rounds { head, range });
    }

    /// A round of a loop ends.
    pub(crate) fn next_round(&mut self, head: Head) {
        let mut rounds = self.rounds.iter_mut();
        if let Some(rounds) = rounds.find(|rounds| rounds.head == head) {
            rounds.range.lo = (rounds.range.lo + 1).min(MAX_ROUNDS);
            rounds.range.hi = (rounds.range.hi + 1).min(MAX_ROUNDS);
        }
        self.lines.retain_mut(|line| {
            let moved = line.shifted(-line.step(head));
            moved.map(|moved| *line = moved).is_some()
        });
    }

    /// Leaves the loops that are not to be kept. What moved in them is still where it is.
    pub(crate) fn leave(&mut self, kept: impl Fn(Head) -> bool) {
        while let Some(n) = self.rounds.iter().position(|rounds| !kept(rounds.head)) {
            let Rounds { head, range } = self.rounds.remove(n);
            self.lines.retain_mut(|line| {
                let step = line.step(head);
                if step == 0 {
                    return true;
                }
                let start = times(range, step).and_then(|moved| start_plus(line.start, moved));
                let left = line.with_step(head, 0).zip(start);
                let left = left.and_then(|(left, start)| Line { start, ..left }.limited());
                let left = left.filter(Line::moves);
                left.map(|left| *line = left).is_some()
            });
        }
    }

    /// Where a place can be.
    pub(crate) fn range(&self, line: &Line) -> Option<Interval> {
        let sum = self.sum_of(line)?;
        Some(Interval {
            lo: if line.has_least() { sum.lo } else { i64::MIN },
            hi: if line.has_most() { sum.hi } else { i64::MAX },
        })
    }

    /// The sum of the line's parts, where those that are far away are taken to be no farther.
    fn sum_of(&self, line: &Line) -> Option<Interval> {
        line.terms().try_fold(line.start, |sum, term| {
            plus(sum, times(self.rounds(term.head)?, term.step)?)
        })
    }

    /// Learns that a place is within a range. Tells whether that bounds rounds; `None` if it cannot be there.
    pub(crate) fn learn(&mut self, at: usize, range: Interval) -> Option<bool> {
        let Some(line) = self.line(at) else {
            return Some(false);
        };
        let mut learned = false;
        for term in line.terms() {
            let Some(known) = self.rounds(term.head) else {
                continue;
            };
            let Some(others) = self.sum_of(&line).zip(times(known, term.step)) else {
                continue;
            };
            // The range of all but this term, from which the rounds follow.
            let (all, own) = others;
            let clip = |x: i64| x.clamp(-2 * FAR, 2 * FAR);
            let lo = match line.has_most() {
                true => clip(range.lo.saturating_sub(all.hi - own.hi)),
                false => -2 * FAR,
            };
            let hi = match line.has_least() {
                true => clip(range.hi.saturating_sub(all.lo - own.lo)),
                false => 2 * FAR,
            };
            let (least, greatest) = match term.step > 0 {
                true => (div_up(lo, term.step), hi.div_euclid(term.step)),
                false => (div_up(-hi, -term.step), (-lo).div_euclid(-term.step)),
            };
            let bounded = Interval {
                lo: known.lo.max(least),
                hi: known.hi.min(greatest),
            };
            if bounded.lo > bounded.hi {
                return None;
            }
            learned |= bounded != known;
            self.bound(term.head, bounded);
        }
        Some(learned)
    }

    fn bound(&mut self, head: Head, range: Interval) {
        let mut rounds = self.rounds.iter_mut();
        if let Some(rounds) = rounds.find(|rounds| rounds.head == head) {
            rounds.range = range;
        }
    }

    /// Where `line` starts for a place at `extent` that moves as it does here.
    fn start(&self, line: &Line, extent: Option<Interval>) -> Option<Interval> {
        let own = self.line(line.at.into());
        let own = own.or_else(|| Line::still(line.at, extent?))?;
        // What is not moved by the same step is where it is for all rounds that are possible.
        let only_own = own.terms().filter(|term| line.step(term.head) == 0);
        let mut heads = line.terms().chain(only_own).map(|term| term.head);
        heads.try_fold(own.start, |start, head| {
            match own.step(head) - line.step(head) {
                0 => Some(start),
                by => start_plus(start, times(self.rounds(head)?, by)?),
            }
        })
    }

    /// Whether all that holds here holds of other motions too, of places whose extents `of` gives.
    pub(crate) fn includes(&self, other: &Motion, of: impl Fn(usize) -> Option<Interval>) -> bool {
        self.rounds.iter().all(|own| {
            let other = other.rounds(own.head);
            other.is_some_and(|other| own.range.hull(other) == own.range)
        }) && self.lines.iter().all(|line| {
            let start = other.start(line, of(line.at.into()));
            start.is_some_and(|start| line.start.hull(start) == line.start)
        })
    }
}

fn div_up(a: i64, by: i64) -> i64 {
    -(-a).div_euclid(by)
}

/// Two motions on their way to becoming one.
pub(crate) struct Meeting<'a> {
    pub(crate) old: &'a Motion,
    pub(crate) new: &'a Motion,
    /// The loop's head that they meet at, if it is one.
    pub(crate) head: Option<Head>,
    /// How many more rounds the new motion has gone, if that is known and not none.
    pub(crate) between: Option<i64>,
}

impl<'a> Meeting<'a> {
    /// Two motions that meet, at the head of a loop if there is one; with `find`, what moves in it is to be found.
    pub(crate) fn new(
        old: &'a Motion,
        new: &'a Motion,
        head: Option<Head>,
        find: bool,
    ) -> Meeting<'a> {
        let rounds = |motion: &Motion| motion.rounds(head.filter(|_| find)?)?.as_constant();
        let between = rounds(new).zip(rounds(old)).map(|(new, old)| new - old);
        Meeting {
            old,
            new,
            head,
            between: between.filter(|&between| between != 0),
        }
    }

    /// Whether nothing moves, and nothing can be found to move.
    pub(crate) fn is_still(&self) -> bool {
        self.old.rounds.is_empty() || self.new.rounds.is_empty()
    }

    /// The rounds of both; no lines yet.
    pub(crate) fn rounds(&self) -> Motion {
        let both = self.old.rounds.iter().filter_map(|own| {
            let range = own.range.hull(self.new.rounds(own.head)?);
            Some(Rounds { range, ..*own })
        });
        Motion {
            rounds: both.collect(),
            lines: Vec::new(),
        }
    }

    /// How a place moves in both, which was at `old` and is at `new`.
    pub(crate) fn line(
        &self,
        at: usize,
        old: Option<Interval>,
        new: Option<Interval>,
        grows: Grows,
    ) -> Option<Line> {
        let known = (self.old.line(at), self.new.line(at));
        match known {
            (None, None) if self.between.is_none() || old == new => return None,
            (Some(a), Some(b)) if a == b => return Some(a),
            _ => {}
        }
        let own = known.0.or_else(|| Line::still(at as u16, old?))?;
        let added = known.1;
        let added = added.iter().flat_map(Line::terms);
        let mut line = added
            .filter(|term| own.step(term.head) == 0)
            .try_fold(own, |line, term| line.with_step(term.head, term.step))?;
        let starts = |line: &Line| Some((self.old.start(line, old)?, self.new.start(line, new)?));
        let (mut from, mut to) = starts(&line)?;
        if let (Some(between), Some(head)) = (self.between, self.head)
            && line.step(head) == 0
            && to.lo - from.lo == to.hi - from.hi
            && (to.lo - from.lo) % between == 0
        {
            line = line.with_step(head, (to.lo - from.lo) / between)?;
            (from, to) = starts(&line)?;
        }
        let start = from.hull(to);
        let line = Line { start, ..line }.limited().filter(Line::moves)?;
        // A line that still grows is given up for good.
        match grows {
            Grows::Freely => Some(line),
            Grows::ByTerms => line.widened(own.start, start),
            Grows::Never => (known.0 == Some(line)).then_some(line),
        }
    }
}

/// How a line may change where states meet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grows {
    /// In any way.
    Freely,
    /// It may move in more loops.
    ByTerms,
    /// Not at all.
    Never,
}

/// A comparison in a loop that may end it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoopTest {
    pub(crate) reg: Reg,
    pub(crate) with: Operand,
}

impl Motion {
    /// Makes the rounds of a loop that still grow, beyond `old`, jump to where one of its tests may end it.
    /// `of` gives where a register can be.
    pub(crate) fn widen(
        &mut self,
        old: &Motion,
        head: Head,
        tests: &[LoopTest],
        of: impl Fn(Reg) -> Option<Interval>,
    ) {
        let (Some(range), Some(old)) = (self.rounds(head), old.rounds(head)) else {
            return;
        };
        if range.hi <= old.hi {
            return;
        }
        // What moves itself bounds nothing.
        let of = |reg: Reg| match self.line(reg.index()) {
            Some(line) if line.step(head) != 0 => None,
            _ => of(reg),
        };
        let direct = tests.iter().filter_map(|test| {
            let line = self.line(test.reg.index())?;
            self.least_bound(&line, head, bound(test.with, of)?, range.hi)
        });
        let next = direct.min().or_else(|| {
            let all = tests.iter().filter_map(|test| bound(test.with, of));
            let lines = |to| self.lines.iter().map(move |line| (line, to));
            let all = all.flat_map(lines);
            let bounds = all.filter_map(|(line, to)| self.least_bound(line, head, to, range.hi));
            bounds.min()
        });
        let hi = next.unwrap_or(MAX_ROUNDS);
        self.bound(head, Interval { lo: range.lo, hi });
    }

    /// The least number of rounds, from `least` on, in which a line is still before, at or behind a bound.
    fn least_bound(&self, line: &Line, head: Head, to: Interval, least: i64) -> Option<i64> {
        let step = line.step(head);
        let own = times(self.rounds(head)?, step)?;
        let all = self
            .sum_of(line)
            .filter(|_| line.has_least() && line.has_most())?;
        let (lo, hi) = (all.lo - own.lo, all.hi - own.hi);
        let rounds = |beside: i64| match step {
            0 => None,
            1.. => Some((to.hi + beside - lo).div_euclid(step)),
            _ => Some((hi - (to.lo - beside)).div_euclid(-step)),
        };
        let all = [-1, 0, 1].into_iter().filter_map(rounds);
        all.filter(|&rounds| least <= rounds && rounds < MAX_ROUNDS)
            .min()
    }
}

fn bound(with: Operand, of: impl Fn(Reg) -> Option<Interval>) -> Option<Interval> {
    let bound = match with {
        Operand::Imm(imm) => Interval::at(imm.into()),
        Operand::Reg(reg) => of(reg)?,
    };
    (-FAR <= bound.lo && bound.hi <= FAR).then_some(bound)
}

impl std::fmt::Debug for Motion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for rounds in &self.rounds {
            write!(
                f,
                " rounds{}={}..={}",
                rounds.head, rounds.range.lo, rounds.range.hi
            )?;
        }
        for line in &self.lines {
            write!(
                f,
                " place{}=({}..={})",
                line.at, line.start.lo, line.start.hi
            )?;
            for term in line.terms() {
                write!(f, "{:+}*rounds{}", term.step, term.head)?;
            }
        }
        Ok(())
    }
}
