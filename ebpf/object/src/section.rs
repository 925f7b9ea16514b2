//! What the name of a section says about its programs.
//!
//! Names are libbpf's of all times: `xdp`, `xdp/anything`, `xdp.frags/devmap`, the legacy `xdp_anything`. Until
//! libbpf 1.0 a name only had to begin like that of a type, so most early objects have names such as
//! `xdp_prog1` or `tc_mark`; iproute2 looks for `prog` unless told otherwise. A name that says nothing is no
//! fault: then the program's user says what it is for.

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
        Class {
            kind: kind(name, prefix),
            attach: attach(prefix, rest),
            sleepable: prefix.ends_with(".s"),
            autoload,
        }
    }
}

/// iproute2's names for programs that are tail-called: the id of a program array and an index in it, such as `5/2`.
pub(crate) fn tail(section: &str) -> Option<(u32, u32)> {
    let (id, index) = section.split_once('/')?;
    Some((number(id)?, number(index)?))
}

/// A number as C writes it.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn kind(name: &str, prefix: &str) -> ProgramKind {
    // iproute2's default for XDP.
    if prefix.starts_with("xdp") || name == "prog" {
        return ProgramKind::Xdp {
            frags: prefix == "xdp.frags",
        };
    }
    let exact = prefix.split('.').next().unwrap_or(prefix);
    let whole = |&&(known, _): &&(&str, &str)| known == exact || known == name;
    let found = TYPES.iter().find(whole).or_else(|| {
        let begins = |&&(known, _): &&(&str, &str)| name.starts_with(known);
        OLD.iter().chain(CGROUP).find(begins)
    });
    match found {
        Some((_, "sched_cls" | "sched_act")) => ProgramKind::Tc,
        Some((_, of)) => ProgramKind::Other((*of).into()),
        None => ProgramKind::Unknown(name.into()),
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

/// Program types, in bpftool's words, by the part of the section's name before a slash, without what follows a dot
/// (`.s` for programs that may sleep, `.multi`, `.session`, `.w`).
const TYPES: &[(&str, &str)] = &[
    ("tc", "sched_cls"),
    ("tcx", "sched_cls"),
    ("netkit", "sched_cls"),
    ("classifier", "sched_cls"),
    ("action", "sched_act"),
    ("socket", "socket_filter"),
    ("socket_filter", "socket_filter"),
    ("kprobe", "kprobe"),
    ("kretprobe", "kprobe"),
    ("ksyscall", "kprobe"),
    ("kretsyscall", "kprobe"),
    ("uprobe", "kprobe"),
    ("uretprobe", "kprobe"),
    ("usdt", "kprobe"),
    ("tracepoint", "tracepoint"),
    ("tp", "tracepoint"),
    ("raw_tracepoint", "raw_tracepoint"),
    ("raw_tp", "raw_tracepoint"),
    ("tp_btf", "tracing"),
    ("fentry", "tracing"),
    ("fexit", "tracing"),
    ("fmod_ret", "tracing"),
    ("iter", "tracing"),
    ("lsm", "lsm"),
    ("lsm_cgroup", "lsm"),
    ("syscall", "syscall"),
    ("perf_event", "perf_event"),
    ("lwt_in", "lwt_in"),
    ("lwt_out", "lwt_out"),
    ("lwt_xmit", "lwt_xmit"),
    ("lwt_seg6local", "lwt_seg6local"),
    ("sockops", "sock_ops"),
    ("sk_skb", "sk_skb"),
    ("sk_msg", "sk_msg"),
    ("sk_reuseport", "sk_reuseport"),
    ("sk_lookup", "sk_lookup"),
    ("lirc_mode2", "lirc_mode2"),
    ("flow_dissector", "flow_dissector"),
    ("netfilter", "netfilter"),
    ("struct_ops", "struct_ops"),
    ("freplace", "ext"),
];

/// Beginnings of names that libbpf took for a type before 1.0.
const OLD: &[(&str, &str)] = &[
    ("tc_", "sched_cls"),
    ("classifier", "sched_cls"),
    ("action", "sched_act"),
    ("socket", "socket_filter"),
    ("perf_event", "perf_event"),
    ("lwt_in", "lwt_in"),
    ("lwt_out", "lwt_out"),
    ("lwt_xmit", "lwt_xmit"),
    ("lwt_seg6local", "lwt_seg6local"),
    ("sockops", "sock_ops"),
    ("sk_skb", "sk_skb"),
    ("sk_msg", "sk_msg"),
    ("sk_reuseport", "sk_reuseport"),
    ("sk_lookup", "sk_lookup"),
    ("lirc_mode2", "lirc_mode2"),
    ("flow_dissector", "flow_dissector"),
];

/// Names that begin with `cgroup`, longer ones first.
const CGROUP: &[(&str, &str)] = &[
    ("cgroup_skb", "cgroup_skb"),
    ("cgroup/skb", "cgroup_skb"),
    ("cgroup/sysctl", "cgroup_sysctl"),
    ("cgroup/dev", "cgroup_device"),
    ("cgroup/getsockopt", "cgroup_sockopt"),
    ("cgroup/setsockopt", "cgroup_sockopt"),
    ("cgroup/bind", "cgroup_sock_addr"),
    ("cgroup/connect", "cgroup_sock_addr"),
    ("cgroup/sendmsg", "cgroup_sock_addr"),
    ("cgroup/recvmsg", "cgroup_sock_addr"),
    ("cgroup/getpeername", "cgroup_sock_addr"),
    ("cgroup/getsockname", "cgroup_sock_addr"),
    ("cgroup/post_bind", "cgroup_sock"),
    ("cgroup/sock", "cgroup_sock"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_times_say_what_programs_are() {
        let kind = |section: &str| match Class::of(section).kind {
            ProgramKind::Xdp { frags: true } => "xdp.frags".to_owned(),
            ProgramKind::Xdp { frags: false } => "xdp".to_owned(),
            ProgramKind::Tc => "tc".to_owned(),
            ProgramKind::Other(of) => of,
            ProgramKind::Unknown(name) => format!("unknown {name}"),
        };
        for (section, want) in [
            ("xdp", "xdp"),
            ("xdp/name", "xdp"),
            ("?xdp.frags/cpumap", "xdp.frags"),
            ("xdp_prog", "xdp"),
            ("xdp-root", "xdp"),
            ("prog", "xdp"),
            ("tcx/ingress", "tc"),
            ("tc_mark", "tc"),
            ("classifier/x", "tc"),
            ("action", "tc"),
            ("socket1", "socket_filter"),
            ("kprobe.multi/x", "kprobe"),
            ("fentry.s/x", "tracing"),
            ("raw_tp.w", "raw_tracepoint"),
            ("lsm.s/x", "lsm"),
            ("cgroup/connect4", "cgroup_sock_addr"),
            ("cgroup_skb/egress", "cgroup_skb"),
            ("cgroup/sock_create", "cgroup_sock"),
            ("from-netdev", "unknown from-netdev"),
            ("2/7", "unknown 2/7"),
            ("tick", "unknown tick"),
            ("", "unknown "),
        ] {
            assert_eq!(kind(section), want, "{section}");
        }
    }

    #[test]
    fn tail_calls_are_pairs_of_numbers() {
        assert_eq!(tail("5/2"), Some((5, 2)));
        assert_eq!(tail("0x1f/0"), Some((31, 0)));
        for section in ["5", "xdp/2", "5/", "/2", "-1/2", "5/2/1"] {
            assert_eq!(tail(section), None, "{section}");
        }
    }

    #[test]
    fn programs_of_maps_are_told_apart() {
        let attach = |section: &str| Class::of(section).attach;
        assert_eq!(attach("xdp/devmap"), XdpAttach::DevMap);
        assert_eq!(attach("xdp_devmap/out"), XdpAttach::DevMap);
        assert_eq!(attach("xdp.frags/cpumap"), XdpAttach::CpuMap);
        assert_eq!(attach("xdp/devmap2"), XdpAttach::Interface);
        assert!(Class::of("fentry.s/x").sleepable);
        assert!(!Class::of("?xdp").autoload);
    }
}
