//! Which capabilities the process lacks, so that a refusal can say what to do.

/// `CAP_NET_ADMIN`.
const NET_ADMIN: Capability = (12, "CAP_NET_ADMIN");
/// `CAP_SYS_ADMIN`, which stands in for each of the others too.
const SYS_ADMIN: Capability = (21, "CAP_SYS_ADMIN");
/// `CAP_PERFMON`.
const PERFMON: Capability = (38, "CAP_PERFMON");
/// `CAP_BPF`.
const BPF: Capability = (39, "CAP_BPF");

/// A capability's bit and name.
type Capability = (u32, &'static str);

/// What a refused operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Loading programs, maps and types.
    Load,
    /// Binding a program to an interface.
    Attach,
    /// Opening maps, programs and links that another process made, by their numbers.
    OpenById,
    /// Mounting a file system.
    Mount,
}

impl Needs {
    fn capabilities(self) -> &'static [Capability] {
        match self {
            Needs::Load => &[BPF, NET_ADMIN, PERFMON],
            Needs::Attach => &[NET_ADMIN, BPF],
            Needs::OpenById | Needs::Mount => &[SYS_ADMIN],
        }
    }

    /// What to do about it, for an error message.
    pub(crate) fn advice(self) -> String {
        advice(self, effective())
    }
}

fn advice(needs: Needs, held: Option<u64>) -> String {
    let names = |list: &[Capability]| {
        let names: Vec<&str> = list.iter().map(|(_, name)| *name).collect();
        names.join(", ")
    };
    let wanted = needs.capabilities();
    let Some(held) = held else {
        return format!("run as root, or with {}", names(wanted));
    };
    let has = |bit: u32| held & (1 << bit) != 0;
    let missing: Vec<Capability> = wanted
        .iter()
        .copied()
        .filter(|(bit, _)| !has(*bit) && !has(SYS_ADMIN.0))
        .collect();
    match missing[..] {
        [] => "the process has the capabilities for it, but perhaps only in a user namespace: the kernel \
               wants them in the first one (or a security module forbids it)"
            .to_owned(),
        _ => format!("the process lacks {}: run as root, or grant it", names(&missing)),
    }
}

/// The process's effective capabilities.
fn effective() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let none = advice(Needs::Load, Some(0));
        assert!(
            none.contains("lacks CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"),
            "{none}"
        );
        let most = advice(Needs::Load, Some(1 << 39 | 1 << 12));
        assert!(most.contains("lacks CAP_PERFMON:"), "{most}");
        let all = advice(Needs::Attach, Some(1 << 21 | 1 << 12));
        assert!(all.contains("user namespace"), "{all}");
        assert!(advice(Needs::Mount, None).contains("CAP_SYS_ADMIN"));
    }

    #[test]
    fn the_process_has_a_set() {
        assert!(effective().is_some());
    }
}
