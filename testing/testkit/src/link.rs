//! Links, addresses, routes and sysctls of a namespace.

use std::ffi::CString;
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use squalus_port::Interface;

use crate::{Namespace, TestkitError};

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(pub IpAddr, pub u8);

impl Cidr {
    /// The address alone, as a network of one.
    #[must_use]
    pub fn host(address: IpAddr) -> Cidr {
        Cidr(address, if address.is_ipv4() { 32 } else { 128 })
    }
}

/// One end of a virtual Ethernet cable.
#[derive(Debug)]
pub struct LinkEnd<'a> {
    /// Where it is.
    pub namespace: &'a Namespace,
    /// What the interface is called there.
    pub name: &'a str,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses.
    pub addresses: Vec<Cidr>,
}

/// Lays a cable between two namespaces: both ends up, with addresses, `mtu` bytes and offloads off.
///
/// Offloads are off because a frame that an XDP program sends on must already have its checksums, and
/// must fit the wire.
///
/// # Errors
/// What the kernel refuses, by name.
pub fn connect(a: &LinkEnd<'_>, b: &LinkEnd<'_>, mtu: u32) -> Result<(), TestkitError> {
    let (a_name, b_name, fd) = (a.name.to_owned(), b.name.to_owned(), b.namespace.raw_fd());
    let temporary = format!("sq{}", fd);
    a.namespace.run(move || {
        netlink("adding a veth pair", async |handle| {
            handle
                .link()
                .add(LinkVeth::new(&a_name, &temporary).build())
                .execute()
                .await?;
            let index = index_of(&temporary)?;
            let moved = LinkUnspec::new_with_index(index)
                .name(b_name)
                .setns_by_fd(fd)
                .build();
            Ok(handle.link().set(moved).execute().await?)
        })
    })??;
    for end in [a, b] {
        configure(end, mtu)?;
    }
    Ok(())
}

fn configure(end: &LinkEnd<'_>, mtu: u32) -> Result<(), TestkitError> {
    let (name, mac, addresses) = (end.name.to_owned(), end.mac, end.addresses.clone());
    end.namespace.run(move || {
        netlink(&format!("configuring {name}"), async |handle| {
            let index = index_of(&name)?;
            let up = LinkUnspec::new_with_index(index)
                .address(mac.to_vec())
                .mtu(mtu)
                .up()
                .build();
            handle.link().set(up).execute().await?;
            add_all(&handle, index, &addresses).await?;
            Ok(())
        })?;
        Interface::by_name(&name)?.disable_offloads()?;
        Ok(())
    })?
}

/// Gives an existing interface of the calling thread's namespace an address and brings it up.
///
/// # Errors
/// What the kernel refuses.
pub fn add_addresses(name: &str, addresses: &[Cidr]) -> Result<(), TestkitError> {
    netlink(&format!("adding addresses to {name}"), async |handle| {
        let index = index_of(name)?;
        handle
            .link()
            .set(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await?;
        add_all(&handle, index, addresses).await?;
        Ok(())
    })
}

/// Adds addresses that are usable at once: without duplicate detection, which takes its time even on loopback.
async fn add_all(handle: &Handle, index: u32, addresses: &[Cidr]) -> Result<(), Refused> {
    for Cidr(address, prefix) in addresses {
        let mut request = handle.address().add(index, *address, *prefix);
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        request.execute().await?;
    }
    Ok(())
}

/// Adds a route in the calling thread's namespace.
///
/// # Errors
/// What the kernel refuses.
pub fn add_route(destination: Cidr, gateway: IpAddr) -> Result<(), TestkitError> {
    netlink(
        &format!("adding the route to {}/{}", destination.0, destination.1),
        async |handle| {
            let route = match (destination.0, gateway) {
                (IpAddr::V4(to), IpAddr::V4(via)) => {
                    RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                        .destination_prefix(to, destination.1)
                        .gateway(via)
                        .build()
                }
                (IpAddr::V6(to), IpAddr::V6(via)) => {
                    RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                        .destination_prefix(to, destination.1)
                        .gateway(via)
                        .build()
                }
                _ => {
                    return Err(Refused(
                        "destination and gateway are of different families".to_owned(),
                    ));
                }
            };
            Ok(handle.route().add(route).execute().await?)
        },
    )
}

/// Pins the hardware address of a neighbour in the calling thread's namespace.
///
/// # Errors
/// What the kernel refuses.
pub fn add_neighbour(interface: &str, address: IpAddr, mac: [u8; 6]) -> Result<(), TestkitError> {
    netlink(&format!("adding the neighbour {address}"), async |handle| {
        let index = index_of(interface)?;
        let request = handle
            .neighbours()
            .add(index, address)
            .link_layer_address(&mac);
        Ok(request.state(NeighbourState::Permanent).execute().await?)
    })
}

/// Sets a sysctl under `/proc/sys/net` in the calling thread's namespace.
///
/// # Errors
/// If it does not exist or may not be set.
pub fn sysctl(name: &str, value: &str) -> Result<(), TestkitError> {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).map_err(TestkitError::system(format!("setting {path} to {value}")))
}

/// Packets and bytes that an interface received and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// Reads the counters of an interface of the calling thread's namespace.
///
/// # Errors
/// If there is no such interface.
pub fn counters(interface: &str) -> Result<LinkCounters, TestkitError> {
    let path = "/proc/thread-self/net/dev";
    let text =
        std::fs::read_to_string(path).map_err(TestkitError::system(format!("reading {path}")))?;
    let missing = || TestkitError::Netlink {
        what: format!("reading the counters of {interface}"),
        reason: "no such interface".to_owned(),
    };
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    let fields: Vec<u64> = line
        .ok_or_else(missing)?
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    match fields[..] {
        [
            rx_bytes,
            rx_packets,
            _,
            _,
            _,
            _,
            _,
            _,
            tx_bytes,
            tx_packets,
            ..,
        ] => Ok(LinkCounters {
            rx_packets,
            rx_bytes,
            tx_packets,
            tx_bytes,
        }),
        _ => Err(missing()),
    }
}

/// The index of an interface of the calling thread's namespace.
pub(crate) fn index_of(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the name is a NUL-terminated string that lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Why a netlink request was not carried out, as text.
struct Refused(String);

impl From<rtnetlink::Error> for Refused {
    fn from(error: rtnetlink::Error) -> Refused {
        Refused(error.to_string())
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Refused(error.to_string())
    }
}

/// Runs netlink requests on the calling thread, so in its namespace.
fn netlink<T>(
    what: &str,
    work: impl AsyncFnOnce(Handle) -> Result<T, Refused>,
) -> Result<T, TestkitError> {
    let system = |what: &str| TestkitError::system(what.to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(system("starting a runtime"))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(system("opening a netlink socket"))?;
        tokio::spawn(connection);
        let outcome = work(handle).await;
        outcome.map_err(|error| TestkitError::Netlink {
            what: what.to_owned(),
            reason: error.0,
        })
    })
}
