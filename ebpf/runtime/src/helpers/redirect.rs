//! Redirects: what the verdict `XDP_REDIRECT` will mean.

use squalus_isa::{MapType, Verdict};
use squalus_maps::Map;

use super::maps::map;
use crate::{Env, Redirect};

/// The bits of the flags that are the verdict if there is no entry.
const VERDICT_MASK: u64 = 3;
/// Send to every interface of the map (`BPF_F_BROADCAST`).
const BROADCAST: u64 = 1 << 3;
/// But not to the one the frame came in by (`BPF_F_EXCLUDE_INGRESS`).
const EXCLUDE_INGRESS: u64 = 1 << 4;

helpers! {
    /// `bpf_redirect(ifindex, flags)`: no flags exist for XDP, any of them aborts.
    fn redirect(env, ifindex, flags) {
        if flags != 0 {
            return Verdict::Aborted as u64;
        }
        env.redirect = Redirect::Interface(ifindex as u32);
        Verdict::Redirect as u64
    }

    /// `bpf_redirect_map(map, key, flags)`: without an entry, the verdict in the flags.
    fn redirect_map(env, m, key, flags) {
        // SAFETY: the module's contract.
        to_entry(env, unsafe { map(m) }, key as u32, flags)
    }
}

fn to_entry(env: &mut Env, map: &Map, key: u32, flags: u64) -> u64 {
    let own = match map.def().kind {
        MapType::DevMap | MapType::DevMapHash => BROADCAST | EXCLUDE_INGRESS,
        _ => 0,
    };
    if flags & !(VERDICT_MASK | own) != 0 {
        return Verdict::Aborted as u64;
    }
    let target = map.redirect(key);
    env.redirect = match target {
        _ if flags & BROADCAST != 0 => Redirect::Broadcast {
            map: map.id(),
            exclude_ingress: flags & EXCLUDE_INGRESS != 0,
        },
        Some(target) => Redirect::Entry {
            map: map.id(),
            key,
            target,
        },
        // The kernel forgets the map, but not the interface of an earlier redirect.
        None => {
            if !matches!(env.redirect, Redirect::Interface(_)) {
                env.redirect = Redirect::Nowhere;
            }
            return flags & VERDICT_MASK;
        }
    };
    Verdict::Redirect as u64
}
