//! Facts about a network interface.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::PortError;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A network interface of the calling thread's network namespace, as it was when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
}

impl Interface {
    /// Looks an interface up.
    ///
    /// # Errors
    /// [`PortError::NoInterface`] if there is none, [`PortError::Unsupported`] if it is not Ethernet.
    pub fn by_name(name: &str) -> Result<Interface, PortError> {
        let socket = control_socket()?;
        let mut request = request_for(name)?;
        let ask = |request: &mut libc::ifreq, code, what: &str| {
            interface_ioctl(&socket, code, request).map_err(|source| missing(name, what, source))
        };
        ask(&mut request, libc::SIOCGIFINDEX, "SIOCGIFINDEX")?;
        // SAFETY: the call above filled this member.
        let index = unsafe { request.ifr_ifru.ifru_ifindex } as u32;
        ask(&mut request, libc::SIOCGIFHWADDR, "SIOCGIFHWADDR")?;
        // SAFETY: the call above filled this member.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        if !matches!(
            address.sa_family,
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK
        ) {
            return Err(PortError::Unsupported {
                interface: name.into(),
                what: "Ethernet frames".into(),
            });
        }
        ask(&mut request, libc::SIOCGIFMTU, "SIOCGIFMTU")?;
        // SAFETY: the call above filled this member.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu } as u32;
        ask(&mut request, libc::SIOCGIFFLAGS, "SIOCGIFFLAGS")?;
        // SAFETY: the call above filled this member.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        Ok(Interface {
            name: name.into(),
            index,
            mac: mac_of(&address),
            mtu,
            up: i32::from(flags) & libc::IFF_UP != 0,
        })
    }

    /// Sets the interface up.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`, or if the interface is gone.
    pub fn set_up(&mut self) -> Result<(), PortError> {
        let socket = control_socket()?;
        let mut request = request_for(&self.name)?;
        let what = format!("setting `{}` up", self.name);
        interface_ioctl(&socket, libc::SIOCGIFFLAGS, &mut request)
            .map_err(|source| missing(&self.name, &what, source))?;
        // SAFETY: the call above filled this member, which is plain data.
        unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16 };
        interface_ioctl(&socket, libc::SIOCSIFFLAGS, &mut request)
            .map_err(|source| PortError::from_io(source, what, "CAP_NET_ADMIN"))?;
        self.up = true;
        Ok(())
    }

    /// Sets the interface's Ethernet address.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`, or if the driver refuses.
    pub fn set_mac(&mut self, mac: MacAddr) -> Result<(), PortError> {
        let socket = control_socket()?;
        let mut request = request_for(&self.name)?;
        // SAFETY: a zeroed sockaddr is valid.
        let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
        address.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_hwaddr = address;
        interface_ioctl(&socket, libc::SIOCSIFHWADDR, &mut request).map_err(|source| {
            let what = format!("setting the MAC address of `{}`", self.name);
            PortError::from_io(source, what, "CAP_NET_ADMIN")
        })?;
        self.mac = mac;
        Ok(())
    }

    /// Sets the interface's MTU.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`, or if the driver refuses.
    pub fn set_mtu(&mut self, mtu: u32) -> Result<(), PortError> {
        let socket = control_socket()?;
        let mut request = request_for(&self.name)?;
        request.ifr_ifru.ifru_mtu = mtu as i32;
        interface_ioctl(&socket, libc::SIOCSIFMTU, &mut request).map_err(|source| {
            let what = format!("setting the MTU of `{}` to {mtu}", self.name);
            PortError::from_io(source, what, "CAP_NET_ADMIN")
        })?;
        self.mtu = mtu;
        Ok(())
    }
}

fn mac_of(address: &libc::sockaddr) -> MacAddr {
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from as u8;
    }
    MacAddr(mac)
}

fn missing(name: &str, what: &str, source: io::Error) -> PortError {
    match source.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => PortError::NoInterface(name.into()),
        _ => PortError::from_io(source, what, "CAP_NET_ADMIN"),
    }
}

fn control_socket() -> Result<OwnedFd, PortError> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(PortError::last("opening a socket", "CAP_NET_ADMIN"));
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn request_for(name: &str) -> Result<libc::ifreq, PortError> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.bytes().any(|b| b == 0 || b == b'/')
    {
        return Err(PortError::NoInterface(name.into()));
    }
    // SAFETY: a zeroed ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn interface_ioctl(
    socket: &OwnedFd,
    code: libc::c_ulong,
    request: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: these calls read and write an ifreq, which lives for the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), code as _, request as *mut libc::ifreq) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found() {
        let lo = Interface::by_name("lo").unwrap();
        assert_eq!(lo.mac, MacAddr([0; 6]));
        assert!(lo.index > 0);
        assert!(lo.mtu > 1500);
    }

    #[test]
    fn absent_and_impossible_names_say_so() {
        for name in ["sq-nothing0", "", "a-name-that-is-far-too-long", "a/b"] {
            let error = Interface::by_name(name).unwrap_err();
            assert!(
                matches!(&error, PortError::NoInterface(n) if n == name),
                "{error}"
            );
        }
    }

    #[test]
    fn addresses_print_as_usual() {
        let mac = MacAddr([2, 0, 0, 0xa, 0xbc, 1]);
        assert_eq!(mac.to_string(), "02:00:00:0a:bc:01");
    }
}
