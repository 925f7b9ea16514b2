//! Routes and links of the host: `bpf_fib_lookup` and `bpf_check_mtu`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use squalus_isa::Errno;

use super::bytes_mut;
use crate::{Env, FibAnswer, FibOutcome, FibQuery, FibRoute, FibTable};

/// Flags of `bpf_fib_lookup` (`BPF_FIB_LOOKUP_*`).
const DIRECT: u32 = 1 << 0;
const OUTPUT: u32 = 1 << 1;
const SKIP_NEIGH: u32 = 1 << 2;
const TBID: u32 = 1 << 3;
const SRC: u32 = 1 << 4;
const MARK: u32 = 1 << 5;
const ALL_FLAGS: u32 = DIRECT | OUTPUT | SKIP_NEIGH | TBID | SRC | MARK;

/// `AF_INET` and `AF_INET6`, as a program writes them.
const INET: u8 = 2;
const INET6: u8 = 10;

/// The length of `struct bpf_fib_lookup`.
const LEN: usize = 64;

helpers! {
    /// `bpf_fib_lookup(ctx, params, len, flags)`: 0, or the reason why the packet is not forwarded.
    fn fib_lookup(env, _, params, len, flags) {
        // SAFETY: the module's contract: readable and writable for `len` bytes.
        let params = unsafe { bytes_mut(params, len) };
        match params.first_chunk_mut().map(|params| lookup(env, Params(params), flags as u32)) {
            Some(Ok(outcome)) => outcome as u64,
            Some(Err(errno)) => errno.as_return(),
            None => Errno::EINVAL.as_return(),
        }
    }

    /// `bpf_check_mtu(ctx, ifindex, mtu_len, len_diff, flags)`: 0, or 1 if the packet would be too long.
    fn check_mtu(env, _, ifindex, mtu_len, len_diff, flags) {
        if flags != 0 {
            return Errno::EINVAL.as_return();
        }
        let ifindex = match ifindex as u32 {
            0 => env.ingress_ifindex,
            other => other,
        };
        let Some(link) = env.fib.get().and_then(|fib| fib.link(ifindex)) else {
            return Errno::ENODEV.as_return();
        };
        let place = mtu_len as *mut u32;
        // SAFETY: the module's contract: four readable and writable bytes.
        let asked = unsafe { place.read_unaligned() };
        let len = match asked {
            // SAFETY: the module's contract: the environment's frame is live.
            0 => unsafe { env.frame() }.linear_len() as u32,
            len => len.wrapping_add(link.header),
        };
        // SAFETY: as above.
        unsafe { place.write_unaligned(link.mtu) };
        let len = len.wrapping_add(len_diff as u32).cast_signed();
        u64::from(len > link.mtu.wrapping_add(link.header).cast_signed())
    }
}

/// `struct bpf_fib_lookup`. Ports and addresses are in network byte order.
struct Params<'a>(&'a mut [u8; LEN]);

/// Offsets of its fields; what is read at some of them is another thing than what is written.
mod at {
    pub const FAMILY: usize = 0;
    pub const PROTOCOL: usize = 1;
    pub const SOURCE_PORT: usize = 2;
    pub const DESTINATION_PORT: usize = 4;
    /// The packet's length; the MTU.
    pub const LENGTH: usize = 6;
    pub const IFINDEX: usize = 8;
    /// Type of service or flow; the metric.
    pub const FLOW: usize = 12;
    pub const SOURCE: usize = 16;
    pub const DESTINATION: usize = 32;
    /// The table; the VLAN.
    pub const TABLE: usize = 48;
    /// The mark; Ethernet addresses.
    pub const MARK: usize = 52;
    pub const SOURCE_MAC: usize = 52;
    pub const DESTINATION_MAC: usize = 58;
}

impl Params<'_> {
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.0[at..]
            .first_chunk()
            .expect("fields lie inside the struct")
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.get(at))
    }

    fn address(&self, at: usize) -> Result<IpAddr, Errno> {
        match self.0[at::FAMILY] {
            INET => Ok(Ipv4Addr::from(self.get::<4>(at)).into()),
            INET6 => Ok(Ipv6Addr::from(self.get::<16>(at)).into()),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    fn query(&self, flags: u32) -> Result<FibQuery, Errno> {
        let has = |flag| flags & flag != 0;
        let table = match (has(DIRECT), has(TBID)) {
            (false, _) => FibTable::Rules,
            (true, false) => FibTable::Main,
            (true, true) => FibTable::Number(self.word(at::TABLE)),
        };
        let source = self.address(at::SOURCE)?;
        let flow = u32::from_be_bytes(self.get(at::FLOW));
        Ok(FibQuery {
            interface: self.word(at::IFINDEX),
            source,
            destination: self.address(at::DESTINATION)?,
            protocol: self.0[at::PROTOCOL],
            source_port: u16::from_be_bytes(self.get(at::SOURCE_PORT)),
            destination_port: u16::from_be_bytes(self.get(at::DESTINATION_PORT)),
            length: u16::from_ne_bytes(self.get(at::LENGTH)),
            tos: match source {
                IpAddr::V4(_) => self.0[at::FLOW],
                IpAddr::V6(_) => (flow >> 20) as u8,
            },
            flow_label: flow & 0xf_ffff,
            mark: if has(MARK) && !has(DIRECT) {
                self.word(at::MARK)
            } else {
                0
            },
            table,
            output: has(OUTPUT),
            want_source: has(SRC),
            want_neighbour: !has(SKIP_NEIGH),
        })
    }

    fn set_address(&mut self, at: usize, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.set(at, &address.octets()),
            IpAddr::V6(address) => self.set(at, &address.octets()),
        }
    }

    fn set_route(&mut self, route: &FibRoute) {
        self.set(at::FLOW, &route.metric.to_ne_bytes());
        self.set(at::IFINDEX, &route.interface.to_ne_bytes());
        if let Some(source) = route.source {
            self.set_address(at::SOURCE, source);
        }
        if let Some(gateway) = route.gateway {
            if gateway.is_ipv6() {
                self.set(at::FAMILY, &[INET6]);
            }
            self.set_address(at::DESTINATION, gateway);
        }
    }

    fn set_answer(&mut self, answer: &FibAnswer) {
        if let Some(route) = &answer.route {
            self.set_route(route);
        }
        if let Some(macs) = &answer.macs {
            self.set(at::DESTINATION_MAC, &macs.destination);
            self.set(at::SOURCE_MAC, &macs.source);
        }
        let mtu = (answer.mtu as u16).to_ne_bytes();
        match answer.outcome {
            FibOutcome::FragmentationNeeded => self.set(at::LENGTH, &mtu),
            FibOutcome::Success => {
                self.set(at::TABLE, &[0; 4]);
                self.set(at::LENGTH, &mtu);
            }
            _ => {}
        }
    }
}

fn lookup(env: &Env, mut params: Params<'_>, flags: u32) -> Result<FibOutcome, Errno> {
    if flags & !ALL_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let query = params.query(flags)?;
    if stays_on_link(query.source) || stays_on_link(query.destination) {
        return Ok(FibOutcome::NotForwarded);
    }
    let answer = env.fib.get().ok_or(Errno::ENODEV)?.lookup(&query)?;
    if matches!(query.table, FibTable::Number(_))
        && answer.outcome != FibOutcome::ForwardingDisabled
    {
        params.set(at::TABLE, &[0; 4]);
    }
    params.set_answer(&answer);
    Ok(answer.outcome)
}

/// IPv6 addresses that are never forwarded (`rt6_need_strict`).
fn stays_on_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => {
            address.is_multicast() || address.is_loopback() || address.is_unicast_link_local()
        }
    }
}
