//! Which XDP program an interface has, and taking it off: single netlink questions (`RTM_GETLINK`,
//! `RTM_SETLINK`) and their answers.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use squalus_isa::Errno;

use crate::Mode;
use crate::sys::last_errno;

const HEADER: usize = 16;
/// Length of `struct ifinfomsg`.
const IFINFO: usize = 16;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
/// Bits of an attribute's type that are no part of it (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const TYPE_MASK: u16 = 0x3fff;
/// Longer than any answer about one interface.
const ANSWER: usize = 64 << 10;

/// The number of the program on an interface, and where it runs: never [`Mode::Auto`].
pub(crate) fn xdp_program(ifindex: u32) -> Result<Option<(u32, Mode)>, Errno> {
    let mut buffer = vec![0; ANSWER];
    let question = message(libc::RTM_GETLINK, 0, ifindex, &[]);
    let len = ask(&question, &mut buffer)?;
    parse(&buffer[..len])
}

/// Takes the program off an interface that was put there without a link. `EBUSY` if a link holds it.
pub(crate) fn remove_xdp_program(ifindex: u32, flags: u32) -> Result<(), Errno> {
    let none = attribute(IFLA_XDP_FD, &(-1i32).to_ne_bytes());
    let flags = attribute(IFLA_XDP_FLAGS, &flags.to_ne_bytes());
    let nested = attribute(
        IFLA_XDP | libc::NLA_F_NESTED as u16,
        &[none, flags].concat(),
    );
    let mut buffer = vec![0; ANSWER];
    let question = message(libc::RTM_SETLINK, libc::NLM_F_ACK, ifindex, &nested);
    let len = ask(&question, &mut buffer)?;
    parse(&buffer[..len]).map(drop)
}

/// A message about an interface.
fn message(kind: u16, flags: libc::c_int, ifindex: u32, attributes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; HEADER + IFINFO];
    out.extend(attributes);
    let len = out.len() as u32;
    out[0..4].copy_from_slice(&len.to_ne_bytes());
    out[4..6].copy_from_slice(&kind.to_ne_bytes());
    out[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    out[HEADER + 4..HEADER + 8].copy_from_slice(&ifindex.to_ne_bytes());
    out
}

fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut out = ((4 + content.len()) as u16).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Sends a question to the kernel and takes one answer.
fn ask(question: &[u8], answer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the call has no pointers; the descriptor it returns is nobody else's.
    let socket = unsafe {
        let fd = libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        );
        if fd < 0 {
            return Err(last_errno());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let fd = socket.as_raw_fd();
    // SAFETY: both buffers are live and as long as given.
    let len = unsafe {
        if libc::send(fd, question.as_ptr().cast(), question.len(), 0) < 0 {
            return Err(last_errno());
        }
        libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    usize::try_from(len).map_err(|_| last_errno())
}

fn parse(answer: &[u8]) -> Result<Option<(u32, Mode)>, Errno> {
    let malformed = Errno(libc::EBADMSG);
    let kind = answer.get(4..6).and_then(u16_of).ok_or(malformed)?;
    let body = &answer[HEADER.min(answer.len())..];
    if i32::from(kind) == libc::NLMSG_ERROR {
        let code = body.get(..4).and_then(u32_of).ok_or(malformed)?;
        // An acknowledgement is an error without a number.
        return match code.cast_signed() {
            0 => Ok(None),
            code => Err(Errno(code.wrapping_neg())),
        };
    }
    let attributes = body.get(IFINFO..).ok_or(malformed)?;
    Ok(find(attributes, IFLA_XDP).and_then(program))
}

/// The program out of the nested `IFLA_XDP`. With several modes in use the one nearest to the wire counts.
fn program(xdp: &[u8]) -> Option<(u32, Mode)> {
    const GENERIC: u8 = 2;
    let id = |kind| find(xdp, kind).and_then(u32_of).filter(|id| *id != 0);
    let by_mode = [
        (IFLA_XDP_HW_PROG_ID, Mode::Hardware),
        (IFLA_XDP_DRV_PROG_ID, Mode::Native),
        (IFLA_XDP_SKB_PROG_ID, Mode::Generic),
    ];
    let found = by_mode
        .into_iter()
        .find_map(|(kind, mode)| Some((id(kind)?, mode)));
    if found.is_some() {
        return found;
    }
    let mode = match find(xdp, IFLA_XDP_ATTACHED)?.first().copied()? {
        GENERIC => Mode::Generic,
        _ => Mode::Native,
    };
    Some((id(IFLA_XDP_PROG_ID)?, mode))
}

/// The content of the first attribute of this type.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    const HEAD: usize = 4;
    loop {
        let len = usize::from(attributes.get(..2).and_then(u16_of)?);
        let found = attributes.get(2..4).and_then(u16_of)? & TYPE_MASK;
        if len < HEAD {
            return None;
        }
        if found == kind {
            return attributes.get(HEAD..len);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn u16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(attributes: &[u8]) -> Vec<u8> {
        let mut out = vec![0; HEADER + IFINFO];
        out[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        out.extend(attributes);
        out
    }

    #[test]
    fn finds_native_and_generic_programs() {
        let native = [
            attribute(IFLA_XDP_ATTACHED, &[1]),
            attribute(IFLA_XDP_PROG_ID, &7u32.to_ne_bytes()),
            attribute(IFLA_XDP_DRV_PROG_ID, &7u32.to_ne_bytes()),
        ]
        .concat();
        let before = attribute(3, b"lo\0");
        let message = answer(&[before, attribute(IFLA_XDP | 0x8000, &native)].concat());
        assert_eq!(parse(&message), Ok(Some((7, Mode::Native))));
        let generic = [
            attribute(IFLA_XDP_ATTACHED, &[2]),
            attribute(IFLA_XDP_PROG_ID, &9u32.to_ne_bytes()),
        ]
        .concat();
        assert_eq!(
            parse(&answer(&attribute(IFLA_XDP, &generic))),
            Ok(Some((9, Mode::Generic)))
        );
    }

    #[test]
    fn no_program_and_errors() {
        let none = attribute(IFLA_XDP, &attribute(IFLA_XDP_ATTACHED, &[0]));
        assert_eq!(parse(&answer(&none)), Ok(None));
        assert_eq!(parse(&answer(&[])), Ok(None));
        let mut error = vec![0; HEADER + 4];
        error[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        error[HEADER..].copy_from_slice(&(-libc::ENODEV).to_ne_bytes());
        assert_eq!(parse(&error), Err(Errno::ENODEV));
        error[HEADER..].copy_from_slice(&0i32.to_ne_bytes());
        assert_eq!(parse(&error), Ok(None));
        assert_eq!(parse(&[1, 2, 3]), Err(Errno(libc::EBADMSG)));
    }
}
