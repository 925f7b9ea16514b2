//! What compiled code calls that is not a helper.

use squalus_analysis::Area;

/// Addresses of the functions that compiled code calls for what it does not do itself. Whoever compiles the
/// code has them; each gets the environment first.
#[derive(Clone, Copy, Debug)]
pub struct Support {
    /// Passed to the checks: what they know of the program.
    pub context: usize,
    /// `(env, address, request, context) -> reason`: checks an access ([`Request`]).
    pub check: usize,
    /// `(env, args, mask, proto, context) -> reason`: checks arguments of a helper.
    pub check_args: usize,
    /// `(env, offset, signed) -> value`: loads from the context, or sets [`squalus_runtime::Env::trap`].
    pub load_context: usize,
    /// `(env, map, flags, walk) -> error`: begins a walk over a map.
    pub begin_walk: usize,
    /// `(env, map, walk, frame) -> more`: goes to its next element.
    pub next_element: usize,
    /// Offset, in the state of the run, of the depth of calls.
    pub depth_offset: i32,
    /// Offset, in the state of the run, of the frames' addresses.
    pub frames_offset: i32,
    /// Offset of how many calls may be open.
    pub deepest_offset: i32,
}

/// An access to be checked, packed into one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request(pub u64);

/// How many bytes the context has (`struct xdp_md`).
pub(crate) const CONTEXT_SIZE: u64 = 24;

impl Request {
    /// The access writes.
    pub const WRITE: u64 = 1 << 32;
    /// The access is atomic.
    pub const ATOMIC: u64 = 1 << 33;
    /// It may be in the packet.
    pub const PACKET: u64 = 1 << 34;
    /// It may be in a map value.
    pub const MAP_VALUE: u64 = 1 << 35;
    /// It may be in a stack frame.
    pub const STACK: u64 = 1 << 36;
    /// It may be in a key lent to a callback.
    pub const KEY: u64 = 1 << 37;
    /// It may be in a reserved record.
    pub const RECORD: u64 = 1 << 38;
    /// It may be anywhere.
    pub const ANYWHERE: u64 =
        Request::PACKET | Request::MAP_VALUE | Request::STACK | Request::KEY | Request::RECORD;

    /// An access of `len` bytes.
    #[must_use]
    pub fn new(area: Area, len: u32, write: bool, atomic: bool) -> Request {
        let areas = match area {
            Area::Packet => Request::PACKET,
            Area::MapValue => Request::MAP_VALUE,
            Area::Stack => Request::STACK,
            Area::Key => Request::KEY,
            Area::Record => Request::RECORD,
            Area::Any => Request::ANYWHERE,
        };
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        let flags = flag(write, Request::WRITE) | flag(atomic, Request::ATOMIC);
        Request(u64::from(len) | areas | flags)
    }

    /// How many bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    /// Whether it is an access of no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether a bit is set.
    #[must_use]
    pub const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }
}

/// Which blocks of a program ran often, by their numbers in the analysis' graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    counts: Vec<u64>,
    /// How often the function of each block ran.
    runs: Vec<u64>,
    hot: Vec<bool>,
}

impl Profile {
    /// A block is hot that runs at least once while its function runs so many times.
    const SHARE: u64 = 256;

    /// From how often each block ran, and the first block of each one's function.
    #[must_use]
    pub fn new(counts: Vec<u64>, entries: &[usize]) -> Profile {
        let runs = |block: usize| entries.get(block).and_then(|&entry| counts.get(entry));
        let runs = (0..counts.len()).map(|block| runs(block).copied().unwrap_or(0));
        let mut profile = Profile {
            runs: runs.collect(),
            hot: Vec::new(),
            counts,
        };
        let counts = profile.counts.iter().enumerate();
        profile.hot = counts
            .map(|(n, &count)| profile.is_often(n, count))
            .collect();
        profile
    }

    /// Whether so many times are often for something in the function of a block.
    pub(crate) fn is_often(&self, block: usize, count: u64) -> bool {
        let runs = self.runs.get(block).copied().unwrap_or(0);
        count != 0 && count >= runs / Profile::SHARE
    }

    /// How often each block ran.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Whether a block ran often.
    #[must_use]
    pub fn is_hot(&self, block: usize) -> bool {
        self.hot.get(block) == Some(&true)
    }
}

/// What stays as it is for as long as code is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Constants {
    /// Maps that nobody changes.
    pub maps: MapSet,
    /// The CPU that all runs are on, if it is the same for all.
    pub cpu: Option<u32>,
}

impl Constants {
    /// Nothing.
    pub const NONE: Constants = Constants {
        maps: MapSet::NONE,
        cpu: None,
    };
}

/// Some of a program's maps, by their indices. Those beyond [`MapSet::MOST`] are never in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapSet(u128);

impl MapSet {
    /// No map.
    pub const NONE: MapSet = MapSet(0);
    /// How many maps there can be in a set.
    pub const MOST: usize = 128;

    /// The set with one more, if it is not beyond what a set can hold.
    #[must_use]
    pub const fn with(self, index: usize) -> MapSet {
        if index < MapSet::MOST {
            MapSet(self.0 | 1 << index)
        } else {
            self
        }
    }

    /// Whether a map is in the set.
    #[must_use]
    pub const fn has(self, index: usize) -> bool {
        index < MapSet::MOST && self.0 & 1 << index != 0
    }

    /// Whether there is none in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<usize> for MapSet {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> MapSet {
        indices.into_iter().fold(MapSet::NONE, MapSet::with)
    }
}
