//! Setting up an AF_XDP socket: memory, rings, queue.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use squalus_port::{Pool, PortError};

use crate::rings::{Consumer, Producer};
use crate::steer::NEEDS;

/// An AF_XDP socket, bound to a queue, with its rings.
pub(crate) struct Socket {
    // Before the descriptor, so that the rings are unmapped first.
    pub(crate) fill: Producer<u64>,
    pub(crate) completion: Consumer<u64>,
    pub(crate) rx: Consumer<libc::xdp_desc>,
    pub(crate) tx: Producer<libc::xdp_desc>,
    pub(crate) fd: OwnedFd,
}

/// Where to bind and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    pub(crate) ifindex: u32,
    pub(crate) queue: u32,
    pub(crate) zero_copy: bool,
    /// Whether frames may lie in several chunks (`XDP_USE_SG`, since Linux 6.6).
    pub(crate) fragments: bool,
}

/// `XDP_USE_SG` of linux/if_xdp.h.
const USE_SG: u16 = 1 << 4;

/// Why a socket could not be had.
pub(crate) enum SocketError {
    /// Setting up memory or rings failed, with whichever mode.
    Setup(PortError),
    /// Binding to the queue in the wanted mode failed.
    Bind(io::Error),
}

impl Socket {
    /// Opens a socket over the pool's memory and binds it. `entries` is the size of each ring.
    pub(crate) fn open(pool: &Pool, entries: u32, binding: Binding) -> Result<Socket, SocketError> {
        let fd = new_socket().map_err(SocketError::Setup)?;
        let socket = Socket::set_up(fd, pool, entries).map_err(SocketError::Setup)?;
        socket.bind(binding).map_err(SocketError::Bind)?;
        Ok(socket)
    }

    fn set_up(fd: OwnedFd, pool: &Pool, entries: u32) -> Result<Socket, PortError> {
        register_memory(&fd, pool)?;
        for ring in [
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_RX_RING,
            libc::XDP_TX_RING,
        ] {
            set_option(&fd, ring, &entries).map_err(setup("creating a ring"))?;
        }
        let offsets = ring_offsets(&fd).map_err(setup("asking for the rings' layout"))?;
        let mapping = || setup("mapping a ring");
        Ok(Socket {
            fill: Producer::map(&fd, libc::XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, entries)
                .map_err(mapping())?,
            completion: Consumer::map(
                &fd,
                libc::XDP_UMEM_PGOFF_COMPLETION_RING,
                &offsets.cr,
                entries,
            )
            .map_err(mapping())?,
            rx: Consumer::map(&fd, libc::XDP_PGOFF_RX_RING as u64, &offsets.rx, entries)
                .map_err(mapping())?,
            tx: Producer::map(&fd, libc::XDP_PGOFF_TX_RING as u64, &offsets.tx, entries)
                .map_err(mapping())?,
            fd,
        })
    }

    fn bind(&self, binding: Binding) -> io::Result<()> {
        let mode = if binding.zero_copy {
            libc::XDP_ZEROCOPY
        } else {
            libc::XDP_COPY
        };
        let fragments = if binding.fragments { USE_SG } else { 0 };
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: mode | libc::XDP_USE_NEED_WAKEUP | fragments,
            sxdp_ifindex: binding.ifindex,
            sxdp_queue_id: binding.queue,
            sxdp_shared_umem_fd: 0,
        };
        // SAFETY: the kernel reads an address of this length, which lives for the call.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Makes the kernel look at the transmit ring.
    pub(crate) fn kick_tx(&self) -> io::Result<()> {
        // SAFETY: there is no message and no address; the kernel touches no memory of ours.
        let result = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Makes the driver look at the fill ring.
    pub(crate) fn kick_rx(&self) {
        // SAFETY: there is no buffer and no address; the kernel touches no memory of ours.
        unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            );
        }
    }

    /// The kernel's counters of the socket.
    pub(crate) fn statistics(&self) -> io::Result<libc::xdp_statistics> {
        // SAFETY: a structure of integers, for which zero is valid.
        let mut value: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        get_option(&self.fd, libc::XDP_STATISTICS, &mut value)?;
        Ok(value)
    }

    /// The error number the kernel keeps for the socket, if any, which is forgotten with the answer.
    pub(crate) fn pending_error(&self) -> Option<i32> {
        let mut errno: libc::c_int = 0;
        let asked = get_option_at(&self.fd, libc::SOL_SOCKET, libc::SO_ERROR, &mut errno);
        asked.ok().and((errno != 0).then_some(errno))
    }

    /// Whether the kernel really uses zero copy.
    pub(crate) fn is_zero_copy(&self) -> io::Result<bool> {
        let mut value = libc::xdp_options { flags: 0 };
        get_option(&self.fd, libc::XDP_OPTIONS, &mut value)?;
        Ok(value.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }
}

fn setup(what: &'static str) -> impl FnOnce(io::Error) -> PortError {
    move |error| PortError::from_io(error, format!("{what} of an AF_XDP socket"), NEEDS)
}

fn new_socket() -> Result<OwnedFd, PortError> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EAFNOSUPPORT) {
            return Err(PortError::Config(
                "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS); use an AF_PACKET port".into(),
            ));
        }
        return Err(PortError::from_io(error, "opening an AF_XDP socket", NEEDS));
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Tells the kernel about the pool's memory. The kernel leaves 256 bytes (`XDP_PACKET_HEADROOM`) in front of
/// every packet by itself; only what the pool wants beyond that is asked for.
fn register_memory(fd: &OwnedFd, pool: &Pool) -> Result<(), PortError> {
    let memory = pool.memory();
    let extra = pool.headroom().saturating_sub(256);
    let registration = libc::xdp_umem_reg {
        addr: memory.base().as_ptr().expose_provenance() as u64,
        len: memory.len() as u64,
        chunk_size: pool.chunk_size() as u32,
        headroom: extra as u32,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(fd, libc::XDP_UMEM_REG, &registration).map_err(|error| {
        if error.raw_os_error() == Some(libc::ENOBUFS) {
            return PortError::Config(format!(
                "{} bytes of frames exceed the limit on locked memory; raise `ulimit -l` or grant CAP_IPC_LOCK",
                memory.len()
            ));
        }
        setup("registering the memory")(error)
    })
}

fn ring_offsets(fd: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: a structure of integers, for which zero is valid.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    get_option(fd, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    Ok(offsets)
}

fn set_option<T>(fd: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `value`, which lives for the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Reads an option into a structure of integers. Kernels before 5.4 know shorter ones, which is an error.
fn get_option<T>(fd: &OwnedFd, name: libc::c_int, value: &mut T) -> io::Result<()> {
    get_option_at(fd, libc::SOL_XDP, name, value)
}

fn get_option_at<T>(
    fd: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`; both live for the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(value).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if len as usize != size_of::<T>() {
        return Err(io::Error::other("the kernel is older than 5.4"));
    }
    Ok(())
}
