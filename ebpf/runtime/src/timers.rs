//! Timers in map values: a table that all workers of a machine share.
//!
//! The value holds the number of its timer; whoever removes the element zeroes it (`squalus_maps`), and with
//! that the timer is gone, though its place in the table is only found free later. Workers run what is due
//! between bursts. Programs that use timers take a lock whenever they touch one; others never do.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use squalus_isa::Errno;
use squalus_maps::Map;

use crate::callback::function_slot;
use crate::{ClockId, Env};

/// A deadlock: a callback that cancels its own timer (`EDEADLK`).
const EDEADLK: Errno = Errno(35);
/// Most timers of a machine at once.
const MOST: u64 = 1 << 16;
/// No deadline.
const NEVER: u64 = u64::MAX;

const CLOCK_REALTIME: u64 = 0;
const CLOCK_MONOTONIC: u64 = 1;
const CLOCK_BOOTTIME: u64 = 7;
const TIMER_ABS: u64 = 1;
const TIMER_CPU_PIN: u64 = 2;

/// The timers of a machine.
#[derive(Debug)]
pub struct Timers {
    maps: Vec<Arc<Map>>,
    /// The earliest deadline, or an earlier time.
    next: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    timers: Vec<Timer>,
    most: usize,
}

/// The last number given to a timer. No two of the process have the same, so that what one machine left in
/// a shared map means nothing to another.
static GIVEN: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, Debug)]
struct Timer {
    id: u64,
    /// Address of the `struct bpf_timer`.
    address: u64,
    /// Index of its map.
    map: usize,
    clock: u64,
    callback: Option<Callback>,
    deadline: u64,
}

/// A function of a program, by numbers only its engine understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callback {
    /// What the engine gave to `bpf_timer_set_callback` for the program.
    pub owner: u64,
    /// Slot of the function.
    pub slot: usize,
}

/// A timer whose time has come; it is stopped.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    id: u64,
    address: u64,
    map: usize,
    /// What is to be called.
    pub callback: Callback,
}

fn word<'a>(address: u64) -> &'a AtomicU64 {
    // SAFETY: callers pass the address of a timer in a value of a live map of the machine, aligned to 8,
    // which all use atomically.
    unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(address as usize)) }
}

impl Timer {
    /// Whether its element is still there.
    fn lives(&self) -> bool {
        word(self.address).load(Relaxed) == self.id
    }
}

impl Timers {
    /// The table for a machine with these maps; `None` if none of them has timers in its values.
    #[must_use]
    pub fn of(maps: &[Arc<Map>]) -> Option<Arc<Timers>> {
        let has = |map: &&Arc<Map>| map.def().fields.timer.is_some();
        let maps: Vec<Arc<Map>> = maps.iter().filter(has).map(Arc::clone).collect();
        let entries = maps.iter().map(|map| u64::from(map.def().max_entries));
        let most = entries.sum::<u64>().min(MOST) as usize;
        (!maps.is_empty()).then(|| {
            Arc::new(Timers {
                maps,
                next: AtomicU64::new(NEVER),
                table: Mutex::new(Table {
                    timers: Vec::with_capacity(most),
                    most,
                }),
            })
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether some timer may be due. Cheap as long as none is armed.
    #[inline]
    #[must_use]
    pub fn is_due(&self, env: &Env) -> bool {
        let next = self.next.load(Relaxed);
        next != NEVER && env.clock.now(ClockId::Monotonic) >= next
    }

    /// Takes a timer that is due, the earliest first.
    #[must_use]
    pub fn take_due(&self, env: &Env) -> Option<Due> {
        let now = env.clock.now(ClockId::Monotonic);
        let mut table = self.table();
        table.timers.retain(Timer::lives);
        let due = table
            .timers
            .iter_mut()
            .filter(|timer| timer.deadline <= now);
        let due = due.min_by_key(|timer| (timer.deadline, timer.id));
        let due = due.and_then(|timer| {
            timer.deadline = NEVER;
            Some(Due {
                id: timer.id,
                address: timer.address,
                map: timer.map,
                callback: timer.callback?,
            })
        });
        let next = table.timers.iter().map(|timer| timer.deadline).min();
        self.next.store(next.unwrap_or(NEVER), Relaxed);
        due
    }

    /// Readies `env` for the callback of a timer and returns its arguments: the map, the key, the value.
    /// `None` if the element is gone.
    pub fn arguments(&self, due: &Due, env: &mut Env) -> Option<[u64; 3]> {
        let map = self.maps.get(due.map)?;
        let value = due.address - u64::from(map.def().fields.timer?);
        let key = env.keys.lend_key_of(map, value)?;
        let lives = word(due.address).load(Relaxed) == due.id;
        env.timer = due.id;
        let map = Arc::as_ptr(map).expose_provenance() as u64;
        lives.then_some([map, key, value])
    }

    /// `bpf_timer_init`.
    pub(crate) fn init(&self, address: u64, map: u64, flags: u64) -> Result<(), Errno> {
        let clock = flags;
        if !matches!(clock, CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_BOOTTIME) {
            return Err(Errno::EINVAL);
        }
        let is = |known: &Arc<Map>| Arc::as_ptr(known).addr() as u64 == map;
        // Inner maps come and go; the table cannot know when.
        let at = self.maps.iter().position(is).ok_or(Errno::EOPNOTSUPP)?;
        let timer = u64::from(self.maps[at].def().fields.timer.unwrap_or_default());
        let size = self.maps[at].def().value_size as usize;
        if !self.maps[at].contains((address - timer) as usize, size) {
            return Err(Errno::EINVAL);
        }
        let mut table = self.table();
        if word(address).load(Relaxed) != 0 {
            return Err(Errno::EBUSY);
        }
        if table.timers.len() == table.most {
            table.timers.retain(Timer::lives);
        }
        if table.timers.len() == table.most {
            return Err(Errno::ENOMEM);
        }
        let id = GIVEN.fetch_add(1, Relaxed) + 1;
        table.timers.push(Timer {
            id,
            address,
            map: at,
            clock,
            callback: None,
            deadline: NEVER,
        });
        word(address).store(id, Relaxed);
        Ok(())
    }

    /// Does something with the timer at `address`, which must be initialised.
    fn with<T>(&self, address: u64, act: impl FnOnce(&mut Timer) -> T) -> Result<T, Errno> {
        let id = word(address).load(Relaxed);
        let mut table = self.table();
        let mut timers = table.timers.iter_mut();
        let timer = timers.find(|timer| id != 0 && timer.id == id && timer.address == address);
        timer.map(act).ok_or(Errno::EINVAL)
    }

    /// `bpf_timer_set_callback`.
    pub(crate) fn set_callback(&self, address: u64, callback: Callback) -> Result<(), Errno> {
        self.with(address, |timer| timer.callback = Some(callback))
    }

    /// `bpf_timer_start`.
    pub(crate) fn start(&self, address: u64, ns: u64, flags: u64, env: &Env) -> Result<(), Errno> {
        if flags & !(TIMER_ABS | TIMER_CPU_PIN) != 0 {
            return Err(Errno::EINVAL);
        }
        let now = env.clock.now(ClockId::Monotonic);
        let deadline = self.with(address, |timer| {
            timer.callback?;
            let wait = match (flags & TIMER_ABS != 0, timer.clock) {
                (false, _) => ns,
                (true, CLOCK_BOOTTIME) => ns.saturating_sub(env.clock.now(ClockId::Boot)),
                // The host's two clocks of the world differ by whole leap seconds at most.
                (true, CLOCK_REALTIME) => ns.saturating_sub(env.clock.now(ClockId::Tai)),
                (true, _) => ns.saturating_sub(now),
            };
            timer.deadline = now.saturating_add(wait).min(NEVER - 1);
            Some(timer.deadline)
        })?;
        let deadline = deadline.ok_or(Errno::EINVAL)?;
        self.next.fetch_min(deadline, Relaxed);
        Ok(())
    }

    /// `bpf_timer_cancel`: whether the timer was armed.
    pub(crate) fn cancel(&self, address: u64, env: &Env) -> Result<bool, Errno> {
        self.with(address, |timer| {
            if timer.id == env.timer {
                return Err(EDEADLK);
            }
            Ok(std::mem::replace(&mut timer.deadline, NEVER) != NEVER)
        })?
    }
}

impl Callback {
    pub(crate) fn new(owner: u64, address: u64) -> Callback {
        Callback {
            owner,
            slot: function_slot(address),
        }
    }
}
