//! Maps whose VIPs the steering program follows.
//!
//! The program decides by `vip_map` what is a VIP; the steering program in front of an AF_XDP port must
//! know the same addresses, or frames to a new VIP would stay with the host. So the handle that the control
//! plane writes through looks at `vip_map` after every change of it and tells the steering program.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use squalus_abi::maps::name::VIP_MAP;
use squalus_afxdp::Steering;
use squalus_engine::{EngineError, MapAccess, MapRef};
use squalus_isa::{Errno, MapDef, UpdateFlags};
use squalus_port::PortError;

/// The maps of a machine, and the steering program that follows them, if there is one.
#[derive(Debug)]
pub(super) struct SteeredMaps {
    maps: squalus_vm::Maps,
    steering: Mutex<Option<Arc<Steering>>>,
}

impl SteeredMaps {
    pub(super) fn new(maps: squalus_vm::Maps) -> SteeredMaps {
        SteeredMaps {
            maps,
            steering: Mutex::new(None),
        }
    }

    /// Steers the frames to all present and future VIPs.
    pub(super) fn follow(&self, steering: Arc<Steering>) -> Result<(), EngineError> {
        self.sync(Some(&steering))?;
        *self.lock() = Some(steering);
        Ok(())
    }

    /// Lets go of the steering program.
    pub(super) fn unfollow(&self) {
        *self.lock() = None;
    }

    /// To be called after a change of `map`.
    fn changed(&self, map: MapRef<'_>) -> Result<(), EngineError> {
        if map == MapRef::Name(VIP_MAP) {
            self.sync(self.lock().as_ref())?;
        }
        Ok(())
    }

    fn sync(&self, steering: Option<&Arc<Steering>>) -> Result<(), EngineError> {
        let Some(steering) = steering else {
            return Ok(());
        };
        let vips = self.vips()?;
        steering.set_vips(&vips).map_err(|error| EngineError::Map {
            map: VIP_MAP.to_owned(),
            operation: "steering the VIP's frames to userspace",
            errno: errno_of(&error),
        })
    }

    /// The addresses of all VIPs. There are at most some hundred.
    fn vips(&self) -> Result<BTreeSet<IpAddr>, EngineError> {
        let mut vips = BTreeSet::new();
        if !self.maps.maps().iter().any(|map| map.name == VIP_MAP) {
            return Ok(vips);
        }
        let mut key = self.maps.next_key(VIP_MAP.into(), None)?;
        while let Some(vip) = key {
            vips.extend(addresses(&vip));
            key = self.maps.next_key(VIP_MAP.into(), Some(&vip))?;
        }
        Ok(vips)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Steering>>> {
        match self.steering.lock() {
            Ok(steering) => steering,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// The addresses that a key of `vip_map` can mean. It begins with 16 bytes that hold an IPv6 address or, in
/// the first four, an IPv4 address, and does not say which; to steer both is to steer a few frames too many,
/// which the program passes.
fn addresses(key: &[u8]) -> Vec<IpAddr> {
    let Some(bytes) = key.first_chunk::<16>() else {
        return Vec::new();
    };
    let mut addresses = vec![IpAddr::V6(Ipv6Addr::from(*bytes))];
    let [a, b, c, d, rest @ ..] = *bytes;
    if rest == [0; 12] {
        addresses.push(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    }
    addresses
}

fn errno_of(error: &PortError) -> Errno {
    match error {
        PortError::System { source, .. } => Errno(source.raw_os_error().unwrap_or(0)),
        _ => Errno::EPERM,
    }
}

impl MapAccess for SteeredMaps {
    fn maps(&self) -> Vec<MapDef> {
        self.maps.maps()
    }

    fn cpus(&self) -> usize {
        self.maps.cpus()
    }

    fn lookup(&self, map: MapRef<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.maps.lookup(map, key)
    }

    fn update(
        &self,
        map: MapRef<'_>,
        key: &[u8],
        value: &[u8],
        flags: UpdateFlags,
    ) -> Result<(), EngineError> {
        self.maps.update(map, key, value, flags)?;
        self.changed(map)
    }

    fn update_batch(&self, map: MapRef<'_>, keys: &[u8], values: &[u8]) -> Result<(), EngineError> {
        self.maps.update_batch(map, keys, values)?;
        self.changed(map)
    }

    fn delete(&self, map: MapRef<'_>, key: &[u8]) -> Result<(), EngineError> {
        self.maps.delete(map, key)?;
        self.changed(map)
    }

    fn next_key(
        &self,
        map: MapRef<'_>,
        key: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        self.maps.next_key(map, key)
    }

    fn create_inner(&self, outer: &str, key: &[u8], def: &MapDef) -> Result<(), EngineError> {
        self.maps.create_inner(outer, key, def)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_either_family() {
        let mut key = [0; 20];
        key[..4].copy_from_slice(&[10, 200, 1, 1]);
        let v4: IpAddr = "10.200.1.1".parse().unwrap();
        assert!(addresses(&key).contains(&v4));
        key[15] = 1;
        let v6: IpAddr = "ac8:101::1".parse().unwrap();
        assert_eq!(addresses(&key), [v6]);
        assert!(addresses(&[1, 2, 3]).is_empty());
    }
}
