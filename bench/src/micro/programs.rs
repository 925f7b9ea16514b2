//! The programs: each one's object, source, and the traffic that it is for.

use anyhow::Result;
use squalus_object::Object;

use super::traffic::Traffic;

/// A micro program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name; what comes before the first underscore is its kind.
    pub name: &'static str,
    /// The object, with the one program [`ENTRY`].
    pub object: &'static [u8],
    /// Its C source, from which the object was built.
    pub source: &'static str,
    /// Frames on which it does all its work and answers `XDP_TX`.
    pub traffic: Traffic,
}

/// Name of the program in each object.
pub const ENTRY: &str = "micro";

/// The file that a compiler for this machine needs beside a program's source, by its path.
pub const SHARED_SOURCES: &[(&str, &str)] = &[
    ("micro.h", include_str!("../../programs/micro.h")),
    (
        "crc32_table.h",
        include_str!("../../programs/crc32_table.h"),
    ),
    (
        "native/maps.h",
        include_str!("../../programs/native/maps.h"),
    ),
    (
        "native/maps.c",
        include_str!("../../programs/native/maps.c"),
    ),
    ("native/run.c", include_str!("../../programs/native/run.c")),
];

impl Program {
    /// What sort of program it is: `parse`, `csum`, `map` and so on.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.name.split('_').next().unwrap_or(self.name)
    }

    /// How often it stands in the program that the kernel is measured with (see [`repeated`](super::repeated)): often,
    /// but not so that its code outgrows the first-level cache or the verifier's patience.
    ///
    /// # Errors
    /// If the object is broken.
    pub fn repeats(&self) -> Result<usize> {
        const MOST: usize = 8;
        /// Instructions of the whole: some ten kilobytes of machine code.
        const INSNS: usize = 2048;
        let tangled = TANGLED.iter().find(|(name, _)| *name == self.name);
        let most = tangled.map_or(MOST, |(_, most)| *most);
        let insns = Object::parse(self.object)?
            .require_program(ENTRY)?
            .insns
            .len();
        let fits = |repeats: &usize| insns * repeats <= INSNS;
        Ok([most, 4].into_iter().find(fits).unwrap_or(2))
    }

    /// How far apart the frames of repetitions have to be there: whole cache lines, or 0 if one serves all of them.
    #[must_use]
    pub fn stride(&self) -> usize {
        const LINE: usize = 64;
        if !IN_PLACE.contains(&self.name) {
            return 0;
        }
        let frames = self.traffic.frames();
        let longest = frames.iter().map(Vec::len).max().unwrap_or(1);
        longest.next_multiple_of(LINE)
    }
}

/// Programs that read what they wrote to the frame when they come to it again.
const IN_PLACE: &[&str] = &[
    "parse_arp",
    "csum_20",
    "csum_incremental",
    "swap_addresses",
    "reverse_bytes",
];

/// Programs with so many ways through them that the verifier refuses eight times.
const TANGLED: &[(&str, usize)] = &[
    ("parse_tcp_options", 2),
    ("csum_words", 4),
    ("state_machine", 4),
    ("loop_search", 4),
];

macro_rules! program {
    ($name:literal, $traffic:expr) => {
        Program {
            name: $name,
            object: include_bytes!(concat!("../../programs/objects/", $name, ".o")),
            source: include_str!(concat!("../../programs/", $name, ".c")),
            traffic: $traffic,
        }
    };
}

/// The program that does nothing: what it takes is taken off the others' time.
pub const EMPTY: Program = program!("empty", Traffic::Tcp4);

/// All programs but [`EMPTY`].
pub const PROGRAMS: &[Program] = &[
    program!("parse_tcp4", Traffic::Tcp4),
    program!("parse_vlan", Traffic::Vlan),
    program!("parse_ipv4_options", Traffic::Ipv4Options),
    program!("parse_ipv6_ext", Traffic::Ipv6Extensions),
    program!("parse_tcp_options", Traffic::TcpOptions),
    program!("parse_dns", Traffic::Dns),
    program!("parse_quic", Traffic::Quic),
    program!("parse_icmp", Traffic::Icmp),
    program!("parse_gue", Traffic::Gue),
    program!("parse_http", Traffic::Http),
    program!("parse_arp", Traffic::Arp),
    program!("csum_20", Traffic::Tcp4),
    program!("csum_64", Traffic::Random(64)),
    program!("csum_1500", Traffic::Random(1500)),
    program!("csum_words", Traffic::Random(601)),
    program!("csum_incremental", Traffic::Tcp4),
    program!("csum_helper", Traffic::Tcp4),
    program!("hash_jhash3", Traffic::Tcp4),
    program!("hash_jhash36", Traffic::Tcp6),
    program!("hash_fnv64", Traffic::Random(64)),
    program!("hash_murmur", Traffic::Random(64)),
    program!("hash_siphash", Traffic::Random(64)),
    program!("hash_crc32", Traffic::Random(64)),
    program!("hash_adler32", Traffic::Random(256)),
    program!("hash_xx64", Traffic::Random(256)),
    program!("hash_toeplitz", Traffic::Tcp4),
    program!("copy_bytes", Traffic::Random(128)),
    program!("copy_words", Traffic::Random(1024)),
    program!("copy_struct", Traffic::Random(128)),
    program!("copy_variable", Traffic::Random(256)),
    program!("swap_addresses", Traffic::Tcp4),
    program!("reverse_bytes", Traffic::Random(128)),
    program!("switch_ladder", Traffic::Random(64)),
    program!("search_sorted", Traffic::Random(64)),
    program!("state_machine", Traffic::Text(128)),
    program!("byte_machine", Traffic::Random(64)),
    program!("rules_linear", Traffic::Tcp4),
    program!("map_array", Traffic::Random(64)),
    program!("map_percpu_counters", Traffic::Tcp4),
    program!("map_hash_hit", Traffic::Tcp4),
    program!("map_hash_wide", Traffic::Tcp6),
    program!("map_hash_update", Traffic::Tcp4),
    program!("map_lru_session", Traffic::Tcp4),
    program!("map_lpm", Traffic::Tcp4),
    program!("map_in_map", Traffic::Random(64)),
    program!("map_histogram", Traffic::Random(64)),
    program!("map_token_bucket", Traffic::Tcp4),
    program!("map_percpu_hash", Traffic::Tcp4),
    program!("map_globals", Traffic::Tcp4),
    program!("arith_divmod", Traffic::Random(64)),
    program!("arith_mix64", Traffic::Random(32)),
    program!("arith_mix32", Traffic::Random(32)),
    program!("arith_popcount", Traffic::Random(128)),
    program!("arith_bits", Traffic::Random(32)),
    program!("arith_sort16", Traffic::Random(64)),
    program!("arith_matrix", Traffic::Random(96)),
    program!("arith_base64", Traffic::Random(128)),
    program!("arith_utf8", Traffic::Utf8(192)),
    program!("arith_mul128", Traffic::Random(64)),
    program!("arith_varint", Traffic::Random(96)),
    program!("loop_known", Traffic::Random(64)),
    program!("loop_unknown", Traffic::Random(64)),
    program!("loop_nested", Traffic::Random(64)),
    program!("loop_helper", Traffic::Random(64)),
    program!("loop_search", Traffic::Random(528)),
    program!("calls_flat", Traffic::Random(64)),
    program!("calls_deep", Traffic::Random(64)),
    program!("stack_table", Traffic::Random(64)),
    program!("stack_spill", Traffic::Random(192)),
    program!("stack_header", Traffic::Random(64)),
];
