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

    /// Looks an interface up by its index.
    ///
    /// # Errors
    /// As [`Interface::by_name`].
    pub fn by_index(index: u32) -> Result<Interface, PortError> {
        let mut name = [0 as libc::c_char; libc::IFNAMSIZ];
        // SAFETY: the call writes at most IFNAMSIZ bytes, a terminating zero among them.
        let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
        if found.is_null() {
            return Err(PortError::NoInterface(format!("index {index}")));
        }
        let bytes = name.iter().take_while(|byte| **byte != 0);
        let bytes: Vec<u8> = bytes.map(|byte| *byte as u8).collect();
        Interface::by_name(&String::from_utf8_lossy(&bytes))
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

    /// How many receive queues the interface has; 1 if the driver does not tell.
    ///
    /// # Errors
    /// If the interface is gone.
    pub fn rx_queues(&self) -> Result<u32, PortError> {
        let mut channels = EthtoolChannels {
            cmd: ETHTOOL_GCHANNELS,
            ..EthtoolChannels::default()
        };
        match ethtool(&self.name, &raw mut channels) {
            Ok(()) => Ok((channels.rx_count + channels.combined_count).max(1)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
            Err(error) => Err(missing(&self.name, "reading the number of queues", error)),
        }
    }

    /// Turns the driver's segmentation, aggregation, checksum and VLAN offloads off, so that frames on
    /// the interface are as they would be on a wire. What the driver does not know is off already.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`, or if the interface is gone.
    pub fn disable_offloads(&self) -> Result<(), PortError> {
        for command in OFFLOADS_OFF {
            self.set_offload(command, 0)?;
        }
        let mut flags = EthtoolValue {
            cmd: ETHTOOL_GFLAGS,
            data: 0,
        };
        match ethtool(&self.name, &raw mut flags) {
            Ok(()) => self.set_offload(ETHTOOL_SFLAGS, flags.data & !FRAME_FLAGS),
            Err(_) => Ok(()),
        }
    }

    fn set_offload(&self, cmd: u32, data: u32) -> Result<(), PortError> {
        let mut value = EthtoolValue { cmd, data };
        match ethtool(&self.name, &raw mut value) {
            Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => {
                let what = format!("changing the offloads of `{}`", self.name);
                Err(missing(&self.name, &what, error))
            }
            _ => Ok(()),
        }
    }
}

// Commands of linux/ethtool.h.
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
/// `ETH_FLAG_TXVLAN`, `ETH_FLAG_RXVLAN`, `ETH_FLAG_LRO`: the flags that change frames.
const FRAME_FLAGS: u32 = 1 << 7 | 1 << 8 | 1 << 15;

/// What [`Interface::disable_offloads`] sets to zero: transmit segmentation first, since a driver keeps
/// scatter-gather on for it, and checksums last.
const OFFLOADS_OFF: [u32; 6] = [
    0x1f, // ETHTOOL_STSO
    0x24, // ETHTOOL_SGSO
    0x2c, // ETHTOOL_SGRO
    0x19, // ETHTOOL_SSG
    0x17, // ETHTOOL_STXCSUM
    0x15, // ETHTOOL_SRXCSUM
];

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

/// Makes an ethtool call. `T` must be the structure that its command, the first member, takes.
fn ethtool<T>(name: &str, value: *mut T) -> io::Result<()> {
    let socket = control_socket().map_err(io::Error::other)?;
    let mut request = request_for(name).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    request.ifr_ifru.ifru_data = value.cast();
    interface_ioctl(&socket, SIOCETHTOOL, &mut request)
}

/// `SIOCETHTOOL` of `linux/sockios.h`.
const SIOCETHTOOL: libc::c_ulong = 0x8946;

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
        assert_eq!(Interface::by_index(lo.index).unwrap(), lo);
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
    fn absent_indices_say_so() {
        let error = Interface::by_index(0x7fff_fff0).unwrap_err();
        assert!(error.to_string().contains("index 2147483632"), "{error}");
    }

    #[test]
    fn addresses_print_as_usual() {
        let mac = MacAddr([2, 0, 0, 0xa, 0xbc, 1]);
        assert_eq!(mac.to_string(), "02:00:00:0a:bc:01");
    }
}
