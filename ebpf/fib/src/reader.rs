//! Asking the kernel for its tables.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use crate::facts::Tables;
use crate::wire::{self, HEADER, Message, messages};

/// Longest datagram that the kernel answers with.
const BUFFER: usize = 1 << 16;
/// How often tables are read again that changed while they were read.
const ATTEMPTS: usize = 10;

/// Why the host's tables could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FibError {
    /// A socket could not be opened or used.
    #[error(
        "the host's routes cannot be read: {doing}: {source}; is the process allowed netlink sockets?"
    )]
    Socket {
        /// What failed.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("the host's routes cannot be read: the kernel answered with {0}")]
    Refused(io::Error),
    /// The tables changed faster than they could be read.
    #[error("the host's routes change faster than they can be read; try again when they settle")]
    Unsteady,
}

pub(crate) fn failed(doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> FibError {
    move |errno| FibError::Socket {
        doing,
        source: errno.into(),
    }
}

/// A socket on the tables of the network namespace it was opened in.
#[derive(Debug)]
pub struct Reader {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// Which tables to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub links: bool,
    pub addresses: bool,
    pub routes: bool,
    pub rules: bool,
    pub neighbours: bool,
}

impl Parts {
    pub(crate) const ALL: Parts = Parts {
        links: true,
        addresses: true,
        routes: true,
        rules: true,
        neighbours: true,
    };
}

/// Opens a socket that hears of changes in `groups`, bits by group number less one.
pub(crate) fn open(groups: u32) -> Result<OwnedFd, FibError> {
    // Without a protocol: that of routes has number 0.
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None);
    let socket = socket.map_err(failed("opening a socket"))?;
    bind(&socket, &SocketAddrNetlink::new(0, groups)).map_err(failed("binding a socket"))?;
    Ok(socket)
}

impl Reader {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn open() -> Result<Reader, FibError> {
        Ok(Reader {
            socket: open(0)?,
            buffer: vec![0; BUFFER],
        })
    }

    /// Reads everything.
    ///
    /// # Errors
    /// What the kernel refuses; or if the tables change all the time.
    pub fn read(&mut self) -> Result<Tables, FibError> {
        let mut tables = Tables::default();
        self.update(&mut tables, Parts::ALL)?;
        Ok(tables)
    }

    /// Reads some of the tables anew.
    pub(crate) fn update(&mut self, tables: &mut Tables, parts: Parts) -> Result<(), FibError> {
        if parts.links {
            tables.links = self.dump(libc::RTM_GETLINK, libc::AF_UNSPEC, wire::link)?;
            // Its changes are told as those of links.
            let setting = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward_use_pmtu");
            tables.use_route_mtu = setting.is_ok_and(|text| text.trim() != "0");
        }
        if parts.addresses {
            tables.addresses = self.dump(libc::RTM_GETADDR, libc::AF_UNSPEC, wire::address)?;
        }
        if parts.routes {
            tables.routes = self.dump(libc::RTM_GETROUTE, libc::AF_INET, wire::route)?;
            let v6 = self.dump(libc::RTM_GETROUTE, libc::AF_INET6, wire::route)?;
            tables.routes.extend(v6);
        }
        if parts.rules {
            tables.rules = self.dump(libc::RTM_GETRULE, libc::AF_INET, wire::rule)?;
            let v6 = self.dump(libc::RTM_GETRULE, libc::AF_INET6, wire::rule)?;
            tables.rules.extend(v6);
        }
        if parts.neighbours {
            let get = libc::RTM_GETNEIGH;
            tables.neighbours = self.dump(get, libc::AF_INET, wire::neighbour)?;
            tables
                .neighbours
                .extend(self.dump(get, libc::AF_INET6, wire::neighbour)?);
        }
        Ok(())
    }

    fn dump<T>(
        &mut self,
        kind: u16,
        family: i32,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, FibError> {
        for _ in 0..ATTEMPTS {
            self.request(kind, family)?;
            let mut found = Vec::new();
            let steady = self.answers(|message| found.extend(parse(message.body)))?;
            if steady {
                return Ok(found);
            }
        }
        Err(FibError::Unsteady)
    }

    fn request(&self, kind: u16, family: i32) -> Result<(), FibError> {
        // As long as the longest of the kinds' own headers.
        let mut bytes = [0u8; HEADER + 16];
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[HEADER] = family as u8;
        let sent = send(&self.socket, &bytes, SendFlags::empty());
        sent.map(drop).map_err(failed("asking"))
    }

    /// Gives every message up to the end of the answer to `each`; returns whether nothing changed meanwhile.
    fn answers(&mut self, mut each: impl FnMut(&Message<'_>)) -> Result<bool, FibError> {
        let mut steady = true;
        loop {
            let (len, _) = recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())
                .map_err(failed("reading the answer"))?;
            for message in messages(&self.buffer[..len]) {
                steady &= message.flags & libc::NLM_F_DUMP_INTR as u16 == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(steady),
                    libc::NLMSG_ERROR => return Err(refusal(message.body)),
                    _ => each(&message),
                }
            }
        }
    }
}

fn refusal(body: &[u8]) -> FibError {
    let errno = body
        .first_chunk()
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    FibError::Refused(io::Error::from_raw_os_error(-errno))
}
