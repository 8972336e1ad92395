//! One address shape for both families, as a map key.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address in network order; IPv4 is kept as `::ffff:a.b.c.d`, so that one map serves both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct MappedAddress(pub [u8; 16]);

const _: () = assert!(size_of::<MappedAddress>() == 16 && align_of::<MappedAddress>() == 1);

impl From<IpAddr> for MappedAddress {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for MappedAddress {
    fn from(ip: Ipv4Addr) -> Self {
        Self(ip.to_ipv6_mapped().octets())
    }
}

impl From<Ipv6Addr> for MappedAddress {
    fn from(ip: Ipv6Addr) -> Self {
        Self(ip.octets())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_have_one_key() {
        let mapped: Ipv6Addr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(MappedAddress::from(IpAddr::from([10, 0, 0, 1])), MappedAddress::from(mapped));
        assert_ne!(MappedAddress::from(IpAddr::from([10, 0, 0, 1])), MappedAddress::from(IpAddr::from([10, 0, 0, 2])));
    }
}
