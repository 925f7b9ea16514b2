//! Code that is compiled again for what it turns out to do.
//!
//! Which way packets go through a program is only known when they come. So the first code counts how often each of
//! its blocks runs. After a few thousand packets a thread in the background compiles the program anew, with the
//! blocks that ran apart from those that did not, and installs the result; workers notice nothing but that they
//! are faster. Now and then the counting code comes back for as many packets: traffic changes. Only if other
//! blocks are hot than before is anything compiled again.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

use squalus_analysis::Facts;
use squalus_jit::{Constants, Context, JitError, Options, Profile, Tier, has_changed};
use squalus_runtime::LinkedProgram;

use crate::native::{CodeSource, Native};
use crate::shared::{Settings, Shared};
use crate::slot::CodeSlot;
use crate::special::{Special, Version};

/// Whether compiled programs are compiled again for the traffic they see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiering {
    /// Compiled once.
    #[default]
    Off,
    /// Compiled again in the background.
    On,
    /// As `On`, but only [`crate::Vm::recount`] has runs counted again, and they are counted until there are enough:
    /// which code is in use depends on what ran, not on time.
    Untimed,
}

/// How many runs are counted, if nothing else is wanted.
pub(crate) const RUNS: u64 = 4000;
/// How long code is in use before runs are counted again.
const RECOUNT: Duration = Duration::from_secs(5);
/// How long to wait for enough runs when there is code that is good for what ran before.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long there must have been no write before the contents of maps go into code.
const QUIET: Duration = Duration::from_millis(100);
/// How often counts are looked at while packets come, and while none do.
const LOOK: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(256)];

/// What a machine's workers run ([`crate::Vm::code`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeState {
    /// Whether it was compiled for the traffic there was.
    pub hot: bool,
    /// How often code was compiled for the traffic there was.
    pub compiled: u64,
    /// Bytes of machine code of all programs.
    pub bytes: usize,
    /// Whether it has the contents of maps in it ([`crate::VmBuilder::specialise`]).
    pub special: bool,
    /// How often code was made that has.
    pub specialised: u64,
    /// How often such code was taken out of use because somebody was about to change a map.
    pub withdrawn: u64,
    /// Why the last attempt failed. The code from before goes on being used.
    pub failure: Option<String>,
}

/// What programs are compiled from, again and again.
pub(crate) struct Compiler {
    pub programs: Vec<Arc<LinkedProgram>>,
    pub facts: Arc<[Facts]>,
    pub contexts: Vec<Arc<Context>>,
    pub options: Options,
}

impl Compiler {
    pub fn new(
        programs: &[Arc<LinkedProgram>],
        facts: Arc<[Facts]>,
        options: Options,
        cpus: u32,
    ) -> Compiler {
        let contexts = programs.iter().zip(facts.iter());
        let contexts = contexts.map(|(program, facts)| Context::new(program, facts, cpus));
        Compiler {
            programs: programs.to_vec(),
            contexts: contexts.collect(),
            facts,
            options,
        }
    }

    /// Compiles all programs, each as `tier` says for its number.
    pub fn compile<'a>(&'a self, tier: impl Fn(usize) -> Tier<'a>) -> Result<Native, JitError> {
        self.compile_special(Constants::NONE, tier)
    }

    /// As [`Compiler::compile`], with these constants in the code.
    pub fn compile_special<'a>(
        &'a self,
        constant: Constants,
        tier: impl Fn(usize) -> Tier<'a>,
    ) -> Result<Native, JitError> {
        let source = |n: usize| CodeSource {
            program: &self.programs[n],
            facts: &self.facts[n],
            context: &self.contexts[n],
            tier: tier(n),
        };
        let sources: Vec<CodeSource<'_>> = (0..self.programs.len()).map(source).collect();
        let options = Options {
            constant,
            ..self.options
        };
        Native::compile(&sources, options)
    }

    /// Whether code that was made for what ran then is not good for what runs now.
    fn has_changed(&self, then: &[Profile], now: &[Profile]) -> bool {
        // Of what ran so rarely it does not matter.
        let least = self.runs() / 64;
        let programs = self.facts.iter().zip(then.iter().zip(now));
        programs
            .into_iter()
            .any(|(facts, (then, now))| has_changed(facts, then, now, least))
    }

    fn runs(&self) -> u64 {
        self.contexts.iter().map(|context| context.runs()).sum()
    }

    fn reset(&self) {
        self.contexts.iter().for_each(|context| context.reset());
    }

    fn profiles(&self) -> Vec<Profile> {
        self.contexts.iter().map(|c| c.profile()).collect()
    }
}

/// What the thread is asked, and what it answers.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: Wanted,
    /// The last number of [`Wanted::look`] that was done.
    looked: u64,
    /// Whether nobody answers any more.
    over: bool,
    code: CodeState,
}

/// What is to be done besides what time brings.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    stop: bool,
    /// Count again, whatever there is.
    recount: bool,
    /// Make code with the contents of maps in it, when that may be.
    specialise: bool,
    /// Look at the counts at once. Each request has a number.
    look: u64,
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, what: impl FnOnce(&mut Wanted)) {
        what(&mut self.lock().wanted);
        self.changed.notify_all();
    }

    /// Has the thread look after code with the contents of maps in it.
    pub fn specialise(&self) {
        self.ask(|wanted| wanted.specialise = true);
    }

    /// Has the thread do what is to be done by now, and waits for it.
    pub fn settle(&self) -> CodeState {
        self.answered(|_| {})
    }

    /// Has the thread install the code that counts.
    pub fn recount(&self) -> CodeState {
        self.answered(|wanted| wanted.recount = true)
    }

    fn answered(&self, what: impl FnOnce(&mut Wanted)) -> CodeState {
        let mut state = self.lock();
        what(&mut state.wanted);
        state.wanted.look += 1;
        let number = state.wanted.look;
        self.changed.notify_all();
        while state.looked < number && !state.over {
            state = wait(&self.changed, state, PATIENCE);
        }
        state.code.clone()
    }

    pub fn code(&self) -> CodeState {
        self.lock().code.clone()
    }

    /// Says that what was wanted is done, and sleeps until something else is, or for a while.
    fn next(&self, done: Wanted, code: CodeState, sleep: Duration) -> Wanted {
        let mut state = self.lock();
        state.looked = done.look;
        state.code = code;
        self.changed.notify_all();
        let due = Instant::now() + sleep;
        loop {
            let wanted = state.wanted;
            let left = due.saturating_duration_since(Instant::now());
            let asked = wanted.recount || wanted.specialise || wanted.look != state.looked;
            if wanted.stop || asked || left.is_zero() {
                (state.wanted.recount, state.wanted.specialise) = (false, false);
                return wanted;
            }
            state = wait(&self.changed, state, left);
        }
    }
}

fn wait<'a>(
    changed: &Condvar,
    state: MutexGuard<'a, State>,
    timeout: Duration,
) -> MutexGuard<'a, State> {
    let waited = changed.wait_timeout(state, timeout);
    waited.unwrap_or_else(PoisonError::into_inner).0
}

/// The thread of a machine. Dropping it ends the thread; workers go on with the code that was installed last.
pub(crate) struct Background {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Begins to look after a machine that has been compiled to count.
    pub fn start(shared: &Arc<Shared>) -> io::Result<Background> {
        let theirs = Arc::clone(shared);
        let thread = std::thread::Builder::new()
            .name("squalus-compile".to_owned())
            .spawn(move || run(&theirs))?;
        Ok(Background {
            shared: Arc::clone(shared),
            thread: Some(thread),
        })
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background")
            .field("code", &self.shared.requests.code())
            .finish_non_exhaustive()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.shared.requests.ask(|wanted| wanted.stop = true);
        if let Some(thread) = self.thread.take() {
            // It only ends by itself if it panicked, which is on stderr then.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared) {
    struct Over<'a>(&'a Requests);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.lock().over = true;
            self.0.changed.notify_all();
        }
    }
    let _over = Over(&shared.requests);
    let (Some(slot), Some(compiler)) = (&shared.code, &shared.compiler) else {
        return;
    };
    let special = shared.special.as_deref();
    let mut tiers = Tiers::new(slot, compiler, special, &shared.settings);
    let (mut wanted, mut looked) = (Wanted::default(), 0);
    while !wanted.stop {
        let asked = std::mem::replace(&mut looked, wanted.look) != wanted.look;
        let sleep = tiers.step(wanted.recount, asked);
        // What was replaced waits for the workers.
        shared.map_env.reclaimer.collect();
        wanted = shared.requests.next(wanted, tiers.state(), sleep);
    }
}

/// Which code there is, and which is in use.
struct Tiers<'a> {
    slot: &'a CodeSlot,
    compiler: &'a Compiler,
    special: Option<&'a Special>,
    tiering: Tiering,
    counted_runs: u64,
    /// The first code, which counts if runs are to be counted.
    first: Arc<Native>,
    hot: Option<Hot>,
    folded: Option<Folded>,
    /// The contents that maps had when they were last looked at, if nobody was writing, and since when.
    contents: (Option<Version>, Instant),
    /// Whether runs are being counted.
    counting: bool,
    /// When that began or ended.
    since: Instant,
    /// Runs that were counted when counts were last looked at, and how long to wait now.
    seen: (u64, Duration),
    compiled: u64,
    specialised: u64,
    failure: Option<String>,
}

/// Code for what ran.
struct Hot {
    profiles: Vec<Profile>,
    native: Arc<Native>,
}

/// Code that has the contents of maps in it.
struct Folded {
    native: Arc<Native>,
    /// The contents.
    version: Version,
    /// What number of [`Tiers::compiled`] it is like otherwise.
    like: u64,
}

impl<'a> Tiers<'a> {
    fn new(
        slot: &'a CodeSlot,
        compiler: &'a Compiler,
        special: Option<&'a Special>,
        settings: &Settings,
    ) -> Tiers<'a> {
        let tiering = settings.tiering;
        Tiers {
            slot,
            compiler,
            special,
            tiering,
            counted_runs: settings.counted_runs,
            first: slot.current(),
            hot: None,
            folded: None,
            contents: (None, Instant::now()),
            counting: tiering != Tiering::Off,
            since: Instant::now(),
            seen: (0, LOOK[0]),
            compiled: 0,
            specialised: 0,
            failure: None,
        }
    }

    fn state(&self) -> CodeState {
        CodeState {
            hot: !self.counting && self.hot.is_some(),
            compiled: self.compiled,
            bytes: self.slot.current().code_len(),
            failure: self.failure.clone(),
            specialised: self.specialised,
            ..CodeState::default()
        }
    }

    /// Does what is to be done now, and if it is asked for, at once. Returns how long there is nothing to do then.
    fn step(&mut self, recount: bool, asked: bool) -> Duration {
        let wait = self.step_counting(recount);
        match self.counting {
            true => wait,
            false => wait.min(self.specialise(asked)),
        }
    }

    fn step_counting(&mut self, recount: bool) -> Duration {
        let (counts, timed) = (self.tiering != Tiering::Off, self.tiering == Tiering::On);
        let due = timed && !self.counting && self.since.elapsed() >= RECOUNT;
        if counts && (recount || due) {
            self.count();
        }
        if !self.counting {
            return match timed {
                true => RECOUNT.saturating_sub(self.since.elapsed()),
                false => RECOUNT,
            };
        }
        let runs = self.compiler.runs();
        if runs >= self.counted_runs {
            self.compile();
            return RECOUNT;
        }
        if timed && self.since.elapsed() >= PATIENCE && self.hot.is_some() {
            self.settle();
            return RECOUNT;
        }
        let wait = match runs == self.seen.0 {
            true => (self.seen.1 * 2).min(LOOK[1]),
            false => LOOK[0],
        };
        self.seen = (runs, wait);
        wait
    }

    fn count(&mut self) {
        self.compiler.reset();
        self.install(Arc::clone(&self.first));
        self.counting = true;
        self.since = Instant::now();
        self.seen = (0, LOOK[0]);
    }

    /// Makes code for what ran, if there is none.
    fn compile(&mut self) {
        let profiles = self.compiler.profiles();
        if self
            .hot
            .as_ref()
            .is_none_or(|hot| self.compiler.has_changed(&hot.profiles, &profiles))
        {
            match self.compiler.compile(|n| Tier::Hot(&profiles[n])) {
                Ok(native) => {
                    let native = Arc::new(native);
                    self.hot = Some(Hot { profiles, native });
                    self.compiled += 1;
                    self.failure = None;
                }
                Err(error) => self.failure = Some(error.to_string()),
            }
        }
        self.settle();
    }

    /// Uses the code for what ran.
    fn settle(&mut self) {
        if let Some(hot) = &self.hot {
            self.install(Arc::clone(&hot.native));
        }
        self.counting = false;
        self.since = Instant::now();
    }

    /// Uses code that has no contents of maps in it.
    fn install(&self, native: Arc<Native>) {
        match self.special {
            Some(special) => special.install_general(&native),
            None => self.slot.install(native),
        }
    }

    /// Uses code that has the contents of maps in it, if nobody has changed them for a while or it is asked for now.
    /// Returns how long there is nothing to do.
    fn specialise(&mut self, asked: bool) -> Duration {
        let Some(special) = self.special.filter(|special| !special.state().0) else {
            return RECOUNT;
        };
        if !self.is_quiet(special) && !asked {
            return QUIET;
        }
        self.fold(special);
        let Some(folded) = &self.folded else {
            return QUIET;
        };
        let general = self.hot.as_ref().map_or(&self.first, |hot| &hot.native);
        match special.install(&folded.native, general, folded.version) {
            true => RECOUNT,
            false => QUIET,
        }
    }

    /// Whether nobody has changed a map for a while.
    fn is_quiet(&mut self, special: &Special) -> bool {
        let version = special.version();
        if version.is_none() || version != self.contents.0 {
            self.contents = (version, Instant::now());
        }
        self.contents.1.elapsed() >= QUIET
    }

    /// Makes code with the contents that maps have now, unless there is such code or somebody changes them.
    fn fold(&mut self, special: &Special) {
        let Some(version) = special.version() else {
            return;
        };
        let good = |folded: &Folded| folded.version == version && folded.like == self.compiled;
        if self.folded.as_ref().is_some_and(good) {
            return;
        }
        let tier = |n: usize| match &self.hot {
            Some(hot) => Tier::Hot(&hot.profiles[n]),
            None => Tier::Plain,
        };
        match self.compiler.compile_special(special.constants(), tier) {
            Ok(native) => {
                self.folded = Some(Folded {
                    native: Arc::new(native),
                    version,
                    like: self.compiled,
                });
                self.specialised += 1;
                self.failure = None;
            }
            Err(error) => self.failure = Some(error.to_string()),
        }
    }
}
