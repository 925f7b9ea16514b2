//! Which XDP program is attached to an interface, asked over netlink.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::bpf;

// Attributes of linux/if_link.h.
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
/// Set in the type of an attribute that holds others.
const NESTED: u16 = 1 << 15;

/// Length of `nlmsghdr`, and of `ifinfomsg`, which follows it.
const HEADER: usize = 16;

/// An attached XDP program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// The kernel's number for it.
    pub id: u32,
    /// Its name; empty if the kernel doesn't tell.
    pub name: String,
}

/// The XDP program attached to the interface, in any mode.
///
/// # Errors
/// What the kernel answers, e.g. `ENODEV`.
pub fn attached_program(ifindex: u32) -> io::Result<Option<AttachedProgram>> {
    let answer = ask_link(ifindex)?;
    let attributes = answer.get(HEADER * 2..).unwrap_or_default();
    let Some(xdp) = find(attributes, IFLA_XDP) else {
        return Ok(None);
    };
    // One program has the first number; with programs in several modes only the others are there.
    let ids = (IFLA_XDP_PROG_ID..=IFLA_XDP_HW_PROG_ID).filter_map(|kind| find(xdp, kind));
    let id = ids.filter_map(number).find(|id| *id != 0);
    Ok(id.map(|id| AttachedProgram {
        id,
        name: bpf::program_name(id).unwrap_or_default(),
    }))
}

/// Sends `RTM_GETLINK` for one interface and returns the answer, header included.
fn ask_link(ifindex: u32) -> io::Result<Vec<u8>> {
    let mut request = Vec::with_capacity(HEADER * 2);
    request.extend((HEADER as u32 * 2).to_ne_bytes());
    request.extend(libc::RTM_GETLINK.to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend([0; 8]); // sequence number and port
    request.extend([0; 4]); // family and device type
    request.extend(ifindex.to_ne_bytes());
    request.extend([0; 8]); // flags and change mask

    let socket = open_socket()?;
    // SAFETY: the kernel reads the request, which lives for the call.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            request.as_ptr().cast(),
            request.len(),
            0,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = vec![0; 64 << 10];
    // SAFETY: the kernel writes at most the length given into the answer, which lives for the call.
    let len = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            0,
        )
    };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    answer.truncate(len);
    match answer
        .get(4..6)
        .map(|kind| u16::from_ne_bytes([kind[0], kind[1]]))
    {
        Some(libc::RTM_NEWLINK) => Ok(answer),
        _ => {
            // An error message: its number, negated, follows the header.
            let errno = answer.get(HEADER..).and_then(number).unwrap_or_default() as i32;
            Err(io::Error::from_raw_os_error(-errno))
        }
    }
}

fn open_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The content of the first attribute of a kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while attributes.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let found = u16::from_ne_bytes([attributes[2], attributes[3]]) & !NESTED;
        let content = attributes.get(4..len)?;
        if found == kind {
            return Some(content);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
    None
}

fn number(content: &[u8]) -> Option<u32> {
    let bytes = content.get(..4)?;
    Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_padding() {
        let attributes = [5, 0, 1, 0, 0xaa, 0, 0, 0, 8, 0, 43, 0x80, 1, 2, 3, 4];
        assert_eq!(find(&attributes, 1), Some(&[0xaa][..]));
        assert_eq!(find(&attributes, 43), Some(&[1, 2, 3, 4][..]));
        assert_eq!(find(&attributes, 44), None);
        assert_eq!(find(&[9, 0, 1, 0, 0], 1), None, "longer than there is");
        assert_eq!(find(&[0; 8], 1), None, "a length of zero ends the search");
    }

    #[test]
    fn the_loopback_interface_has_none_and_others_do_not_exist() {
        assert_eq!(attached_program(1).unwrap(), None);
        let error = attached_program(0x7fff_fff0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
