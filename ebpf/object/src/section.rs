//! What the name of a section says about its programs.
//!
//! Names are libbpf's of all times: `xdp`, `xdp/anything`, `xdp.frags`, the legacy `xdp_anything` and
//! `xdp-anything`, `xdp/devmap` and `xdp_devmap/anything`. Other loaders want no name in particular: the program
//! says what it is for by being attached there.

use crate::{ProgramKind, XdpAttach};

/// What a section's name says.
pub(crate) struct Class {
    pub(crate) kind: ProgramKind,
    pub(crate) attach: XdpAttach,
    pub(crate) sleepable: bool,
    /// Whether its programs load unasked.
    pub(crate) autoload: bool,
}

impl Class {
    pub(crate) fn of(section: &str) -> Class {
        let (name, autoload) = match section.strip_prefix('?') {
            Some(rest) => (rest, false),
            None => (section, true),
        };
        let (prefix, rest) = name.split_once('/').unwrap_or((name, ""));
        let kind = match prefix {
            _ if prefix.starts_with("xdp") => ProgramKind::Xdp {
                frags: prefix == "xdp.frags",
            },
            "tc" | "tcx" | "classifier" | "action" => ProgramKind::Tc,
            _ => ProgramKind::Other(prefix.into()),
        };
        Class {
            kind,
            attach: attach(prefix, rest),
            sleepable: prefix.ends_with(".s"),
            autoload,
        }
    }
}

/// `xdp/devmap` and `xdp.frags/devmap`, and the older `xdp_devmap/name`.
fn attach(prefix: &str, rest: &str) -> XdpAttach {
    match (prefix, rest) {
        ("xdp" | "xdp.frags", "devmap") | ("xdp_devmap", _) => XdpAttach::DevMap,
        ("xdp" | "xdp.frags", "cpumap") | ("xdp_cpumap", _) => XdpAttach::CpuMap,
        _ => XdpAttach::Interface,
    }
}
