//! The smallest network in which a balancer is a balancer: client, router, balancer and reals.
//!
//! ```text
//!   client ── router ── balancer        client -> VIP: router -> balancer -> (IPIP) router -> real
//!               │                       reply:         real -> router -> client, never the balancer (DSR)
//!               └────── real 1..n
//! ```
//! The router only routes. Nothing is bridged, so the balancer works as in production: its gateway's MAC
//! is all it knows of the world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::link::{self, Cidr, LinkEnd};
use crate::{Namespace, TestkitError};

/// MTU of the client's link.
const CLIENT_MTU: u32 = 1500;
/// MTU of the inner links: room for an outer IPv6 header around a full packet.
const INNER_MTU: u32 = 1600;

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct LabOptions {
    /// How many reals, 1 to 200.
    pub reals: u8,
}

impl Default for LabOptions {
    fn default() -> Self {
        LabOptions { reals: 2 }
    }
}

/// A host with one interface, `eth0`, towards the router.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub namespace: Namespace,
    /// Hardware address of `eth0`.
    pub mac: [u8; 6],
    /// Hardware address of the router's end of its cable.
    pub gateway_mac: [u8; 6],
    /// IPv4 address.
    pub ipv4: Ipv4Addr,
    /// IPv6 address.
    pub ipv6: Ipv6Addr,
}

impl Host {
    /// The name of every host's interface.
    pub const INTERFACE: &'static str = "eth0";
    /// After [`Host::add_inlet`]: what is sent here arrives at the host.
    pub const INLET: &'static str = "in0";

    /// Lays a cable from the host to itself: frames sent to [`Host::INLET`] arrive as if they had come
    /// through [`Host::INTERFACE`], so from a program that took them from there.
    ///
    /// # Errors
    /// If there is one already.
    pub fn add_inlet(&self) -> Result<(), TestkitError> {
        let end = |name, mac| LinkEnd {
            namespace: &self.namespace,
            name,
            mac,
            addresses: vec![],
        };
        let [_, rest @ ..] = self.gateway_mac;
        let sender = [0x06, rest[0], rest[1], rest[2], rest[3], rest[4]];
        link::connect(&end(Self::INLET, sender), &end("in1", self.mac), INNER_MTU)
    }

    /// Whether packets of a TCP connection may still leave the host: one is neither closed nor waits, closed by both
    /// ends, for its time to pass (`TIME_WAIT`).
    ///
    /// # Errors
    /// If the namespace cannot be entered or does not tell.
    pub fn has_connections(&self) -> Result<bool, TestkitError> {
        // The fourth word of a line is the state, as in the kernel's `tcp_states.h`.
        const CLOSED: [&str; 3] = ["06", "07", "0A"];
        let open = |table: String| {
            let states = table.lines().skip(1);
            let mut states = states.filter_map(|line| line.split_whitespace().nth(3));
            states.any(|state| !CLOSED.contains(&state))
        };
        let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
        let read = || tables.map(std::fs::read_to_string);
        for table in self.namespace.run(read)? {
            if open(table.map_err(TestkitError::system("reading the TCP connections"))?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Packets and bytes of `eth0`.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn counters(&self) -> Result<link::LinkCounters, TestkitError> {
        self.namespace.run(|| link::counters(Self::INTERFACE))?
    }
}

/// The network. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    /// Where connections come from.
    pub client: Host,
    /// Routes between all others.
    pub router: Namespace,
    /// Where VIP traffic is routed to.
    pub balancer: Host,
    /// Where connections end.
    pub reals: Vec<Host>,
}

impl Lab {
    /// The router's end of the balancer's cable. A balancer in the kernel sends with `XDP_TX`, for which a veth
    /// needs an XDP program at the other end too: here.
    pub const TOWARDS_BALANCER: &'static str = "h2";

    /// The IPv4 VIP: routed to the balancer, an address of every real's loopback interface.
    pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 77, 100, 1);
    /// The IPv6 VIP.
    pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0x100, 0, 0, 0, 0, 0, 1);

    /// Makes all hosts and cables.
    ///
    /// # Errors
    /// If the process lacks rights over network namespaces, or the kernel lacks veth.
    pub fn new(options: LabOptions) -> Result<Lab, TestkitError> {
        let router = Namespace::new("sq-router")?;
        let client = host(&router, "sq-client", 1, CLIENT_MTU)?;
        let balancer = host(&router, "sq-balancer", 2, INNER_MTU)?;
        let reals = (0..options.reals)
            .map(|n| host(&router, &format!("sq-real{}", n + 1), 3 + n, INNER_MTU))
            .collect::<Result<Vec<_>, _>>()?;
        let lab = Lab {
            client,
            router,
            balancer,
            reals,
        };
        lab.configure_router()?;
        lab.reals.iter().try_for_each(configure_real)?;
        Ok(lab)
    }

    fn configure_router(&self) -> Result<(), TestkitError> {
        let (via4, via6) = (
            IpAddr::V4(self.balancer.ipv4),
            IpAddr::V6(self.balancer.ipv6),
        );
        self.router.run(move || {
            link::sysctl("ipv4/ip_forward", "1")?;
            link::sysctl("ipv6/conf/all/forwarding", "1")?;
            link::add_route(Cidr::host(Self::VIP4.into()), via4)?;
            link::add_route(Cidr::host(Self::VIP6.into()), via6)
        })?
    }
}

/// The name of the router's end of the cable to host number `number`.
fn router_end(number: u8) -> String {
    format!("h{number}")
}

fn host(router: &Namespace, label: &str, number: u8, mtu: u32) -> Result<Host, TestkitError> {
    let namespace = Namespace::new(label)?;
    for space in [&namespace, router] {
        space.run(plain_host)??;
    }
    let (ipv4, gateway4) = (
        Ipv4Addr::new(10, 77, number, 2),
        Ipv4Addr::new(10, 77, number, 1),
    );
    let net6 = |last| Ipv6Addr::new(0xfd77, number.into(), 0, 0, 0, 0, 0, last);
    let (ipv6, gateway6) = (net6(2), net6(1));
    let (mac, gateway_mac) = ([2, 0x5c, 0, 0, number, 2], [2, 0x5c, 0, 0, number, 1]);
    link::connect(
        &LinkEnd {
            namespace: &namespace,
            name: Host::INTERFACE,
            mac,
            addresses: vec![Cidr(ipv4.into(), 24), Cidr(ipv6.into(), 64)],
        },
        &LinkEnd {
            namespace: router,
            name: &router_end(number),
            mac: gateway_mac,
            addresses: vec![Cidr(gateway4.into(), 24), Cidr(gateway6.into(), 64)],
        },
        mtu,
    )?;
    namespace.run(move || {
        link::add_addresses("lo", &[])?;
        link::add_route(Cidr(Ipv4Addr::UNSPECIFIED.into(), 0), gateway4.into())?;
        link::add_route(Cidr(Ipv6Addr::UNSPECIFIED.into(), 0), gateway6.into())
    })??;
    Ok(Host {
        namespace,
        mac,
        gateway_mac,
        ipv4,
        ipv6,
    })
}

/// Whatever the machine's defaults are, a host forwards nothing, has no reverse path filter, and its addresses
/// are usable at once: no duplicate detection, no router solicitation.
fn plain_host() -> Result<(), TestkitError> {
    link::sysctl("ipv4/ip_forward", "0")?;
    link::sysctl("ipv6/conf/all/forwarding", "0")?;
    for family in ["all", "default"] {
        link::sysctl(&format!("ipv6/conf/{family}/accept_dad"), "0")?;
        link::sysctl(&format!("ipv6/conf/{family}/router_solicitations"), "0")?;
        link::sysctl(&format!("ipv4/conf/{family}/rp_filter"), "0")?;
    }
    Ok(())
}

/// A real owns the VIPs on its loopback interface, so that it takes decapsulated packets and answers as the VIP.
fn configure_real(real: &Host) -> Result<(), TestkitError> {
    real.namespace.run(|| {
        link::add_addresses(
            "lo",
            &[Cidr::host(Lab::VIP4.into()), Cidr::host(Lab::VIP6.into())],
        )
    })?
}
