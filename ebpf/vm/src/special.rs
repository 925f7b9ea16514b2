//! Code that has the contents of maps in it, and how it stays right.
//!
//! A map that no program of the machine writes changes only when the control side changes it, which is rare. So code
//! is made that takes its contents for constants, and nothing in the code asks whether they still are. Instead,
//! whoever is about to change such a map first takes the code out of use:
//!
//! 1. The write is announced ([`WriteHook::begin`]), which counts it.
//! 2. If code with contents may be in use, the general code, which is always kept, is installed, and the writer
//!    waits until no worker runs the other any more. Workers wait for nobody: each goes on with its burst.
//! 3. The write happens, and what the packets see of it is what they see of it on any machine: all run general code.
//! 4. When there were no writes for a while, the thread in the background makes new code with the new contents.
//!
//! Contents are read while code is made, and a write may come in between. Therefore the code is installed only if no
//! write has begun since before the first look ([`Special::install`]). A writer counts before it looks whether such
//! code is in use, and the installer says that it is before it looks at the count: so one of them sees the other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use squalus_analysis::Facts;
use squalus_jit::{Constants, MapSet};
use squalus_maps::{Map, WriteHook};
use squalus_runtime::LinkedProgram;

use crate::native::Native;
use crate::slot::CodeSlot;

/// How long a writer waits for workers before it asks again whether they have gone on.
const PATIENCE: Duration = Duration::from_secs(1);

/// The maps whose contents may be in the code, and whether they are.
pub(crate) struct Special {
    constants: Constants,
    slot: Arc<CodeSlot>,
    writes: Arc<Writes>,
    state: Mutex<State>,
    /// Told when code was taken out of use.
    withdrawn: Box<dyn Fn() + Send + Sync>,
}

/// What writers look at.
#[derive(Default)]
struct Writes {
    /// How many writes have begun, and how many are over.
    begun: AtomicU64,
    ended: AtomicU64,
    /// Whether some worker may run code with contents in it.
    in_use: AtomicBool,
}

struct State {
    /// What to go back to before a write.
    general: Arc<Native>,
    /// Whether the code that was installed last has contents in it.
    special: bool,
    /// How often such code was taken out of use for a write.
    withdrawals: u64,
}

/// A state of the maps' contents: how many writes there were before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version(u64);

impl Special {
    /// For these maps of a machine. `withdrawn` is called after code was taken out of use.
    pub fn new(
        (maps, constants): (&[Arc<Map>], Constants),
        slot: &Arc<CodeSlot>,
        withdrawn: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Special> {
        let special = Arc::new(Special {
            constants,
            slot: Arc::clone(slot),
            writes: Arc::default(),
            state: Mutex::new(State {
                general: slot.current(),
                special: false,
                withdrawals: 0,
            }),
            withdrawn: Box::new(withdrawn),
        });
        // The code keeps the maps: they may not keep the code.
        let hook: Arc<dyn WriteHook> = Arc::new(Hook {
            writes: Arc::clone(&special.writes),
            special: Arc::downgrade(&special),
        });
        let chosen = maps
            .iter()
            .enumerate()
            .filter(|(n, _)| constants.maps.has(*n));
        for (_, map) in chosen {
            let first = map.set_write_hook(Arc::clone(&hook));
            assert!(first, "a map of one machine has one hook");
        }
        special
    }

    /// What may be in the code.
    pub fn constants(&self) -> Constants {
        self.constants
    }

    /// The contents as they are now, unless a write is going on.
    pub fn version(&self) -> Option<Version> {
        let ended = self.writes.ended.load(SeqCst);
        (self.writes.begun.load(SeqCst) == ended).then_some(Version(ended))
    }

    /// Whether contents are still as they were.
    pub fn is_current(&self, version: Version) -> bool {
        self.writes.begun.load(SeqCst) == version.0
    }

    /// Installs code that has no contents in it.
    pub fn install_general(&self, native: &Arc<Native>) {
        let mut state = self.lock();
        state.general = Arc::clone(native);
        state.special = false;
        // Workers may still run what was there: the next writer waits for them.
        self.slot.install(Arc::clone(native));
    }

    /// Installs code that has the contents of `version` in it, if nobody has begun to change them since. `general` is
    /// what is installed before they change. Returns whether it was installed.
    pub fn install(&self, native: &Arc<Native>, general: &Arc<Native>, version: Version) -> bool {
        let mut state = self.lock();
        let before = self.writes.in_use.swap(true, SeqCst);
        if !self.is_current(version) {
            // If there was such code before, its writer waits for the lock.
            self.writes.in_use.store(before, SeqCst);
            return false;
        }
        state.general = Arc::clone(general);
        state.special = true;
        self.slot.install(Arc::clone(native));
        true
    }

    /// Whether the code that was installed last has contents in it, and how often such code was taken out of use.
    pub fn state(&self) -> (bool, u64) {
        let state = self.lock();
        (state.special, state.withdrawals)
    }

    /// Takes code with contents out of use, and waits until no worker runs it.
    fn withdraw(&self) {
        let mut state = self.lock();
        if !self.writes.in_use.load(SeqCst) {
            // Another writer did it meanwhile.
            return;
        }
        if state.special {
            self.slot.install(Arc::clone(&state.general));
            state.special = false;
            state.withdrawals += 1;
        }
        while !self.slot.wait_for_workers(PATIENCE) {}
        self.writes.in_use.store(false, SeqCst);
        drop(state);
        (self.withdrawn)();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What maps tell of their writes. There are many writes at a time, so that this must take little.
struct Hook {
    writes: Arc<Writes>,
    special: Weak<Special>,
}

impl WriteHook for Hook {
    fn begin(&self) {
        self.writes.begun.fetch_add(1, SeqCst);
        if self.writes.in_use.load(SeqCst)
            && let Some(special) = self.special.upgrade()
        {
            special.withdraw();
        }
    }

    fn end(&self) {
        self.writes.ended.fetch_add(1, SeqCst);
    }
}

/// The maps that none of the programs writes, as far as their contents can be known.
pub(crate) fn unwritten(
    programs: &[Arc<LinkedProgram>],
    facts: &[Facts],
    maps: &[Arc<Map>],
) -> MapSet {
    let programs = programs.iter().zip(facts);
    let written: Vec<Vec<bool>> = programs
        .map(|(program, facts)| facts.written_maps(program))
        .collect();
    let may = |n: usize| {
        let plain = maps[n].shows_contents() && maps[n].def().fields.is_empty();
        plain && !written.iter().any(|written| written[n])
    };
    (0..maps.len()).filter(|&n| may(n)).collect()
}
