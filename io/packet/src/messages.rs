//! The arrays that `recvmmsg` and `sendmmsg` work on, set up once.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use squalus_port::{BURST, Frame, Pool};

use crate::sys::check;

/// Room for one `PACKET_AUXDATA` control message.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

/// What the kernel says of a received message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes stored.
    pub(crate) len: usize,
    /// The frame was longer than its buffer.
    pub(crate) truncated: bool,
    /// The transport checksum is not finished.
    pub(crate) checksum_unfinished: bool,
    /// A VLAN tag that the kernel took out: TPID and TCI.
    pub(crate) vlan: Option<(u16, u16)>,
}

/// Message headers with their buffers for up to [`BURST`] frames.
pub(crate) struct Messages {
    headers: Box<[libc::mmsghdr; BURST]>,
    buffers: Box<[libc::iovec; BURST]>,
    control: Box<[Control; BURST]>,
}

// SAFETY: the raw pointers are to the boxes in the same structure, and to frames of a pool that is passed
// to every call; neither depends on the thread.
unsafe impl Send for Messages {}

impl Messages {
    pub(crate) fn new() -> Messages {
        // SAFETY: zeroed headers and buffers are valid: no address, no buffer, no control message.
        let (headers, buffers) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Messages {
            headers: Box::new(headers),
            buffers: Box::new(buffers),
            control: Box::new([Control([0; 64]); BURST]),
        }
    }

    /// Receives into the frames, behind their headroom, what has arrived; returns how many.
    pub(crate) fn receive(
        &mut self,
        socket: &OwnedFd,
        pool: &mut Pool,
        frames: &mut [Frame],
    ) -> io::Result<usize> {
        let count = frames.len().min(BURST);
        for (n, frame) in frames.iter_mut().take(BURST).enumerate() {
            let bounds = pool.bounds(frame);
            let room = bounds.hard_end.addr() - bounds.data.addr();
            self.set(n, bounds.data, room);
            let header = &mut self.headers[n].msg_hdr;
            header.msg_control = self.control[n].0.as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        // SAFETY: `count` headers describe writable frames that the caller holds exclusively, and control
        // buffers of our own; all live for the call.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        check(result)
    }

    /// What was received in message `n` of the last [`Messages::receive`].
    pub(crate) fn received(&self, n: usize) -> Received {
        let header = &self.headers[n];
        let mut received = Received {
            len: header.msg_len as usize,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            ..Received::default()
        };
        if let Some(auxdata) = self.auxdata(n) {
            received.checksum_unfinished = auxdata.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0;
            if auxdata.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                let named = auxdata.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
                let tpid = if named { auxdata.tp_vlan_tpid } else { 0x8100 };
                received.vlan = Some((tpid, auxdata.tp_vlan_tci));
            }
        }
        received
    }

    fn auxdata(&self, n: usize) -> Option<libc::tpacket_auxdata> {
        let header = &self.headers[n].msg_hdr;
        // SAFETY: the header is of a message the kernel filled in; its control buffer is alive.
        let message = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }?;
        let is_auxdata =
            message.cmsg_level == libc::SOL_PACKET && message.cmsg_type == libc::PACKET_AUXDATA;
        // SAFETY: the kernel stored a tpacket_auxdata behind this header, as its type says.
        is_auxdata.then(|| unsafe {
            libc::CMSG_DATA(message)
                .cast::<libc::tpacket_auxdata>()
                .read_unaligned()
        })
    }

    /// Sends the frames; returns how many the kernel took before the first that it refused.
    pub(crate) fn send(
        &mut self,
        socket: &OwnedFd,
        pool: &mut Pool,
        frames: &mut [Frame],
    ) -> io::Result<usize> {
        let count = frames.len().min(BURST);
        for (n, frame) in frames.iter_mut().take(BURST).enumerate() {
            let data = pool.bounds(frame).data;
            self.set(n, data, frame.len());
            let header = &mut self.headers[n].msg_hdr;
            header.msg_control = std::ptr::null_mut();
            header.msg_controllen = 0;
        }
        // SAFETY: `count` headers describe frames that the caller holds; all live for the call.
        let result = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        check(result)
    }

    fn set(&mut self, n: usize, data: *mut u8, len: usize) {
        self.buffers[n].iov_base = data.cast();
        self.buffers[n].iov_len = len;
        let header = &mut self.headers[n];
        header.msg_len = 0;
        header.msg_hdr.msg_iov = &raw mut self.buffers[n];
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_flags = 0;
    }
}
