//! What a pod's network namespace holds: its addresses, and the devices that carry them.
//!
//! Owns the choice of devices. Changes nothing. Called inside the pod's namespace by `pod` and `check`.

use std::{collections::BTreeMap, io, net::IpAddr};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrLike};

use super::datapath::{Device, Framing};

/// The addresses and devices of one namespace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Survey {
    /// Devices with an address, `lo` excepted.
    pub(super) devices: Vec<Device>,
    /// The addresses on these devices.
    pub(super) pod_addresses: Vec<IpAddr>,
    /// The addresses on `lo`.
    pub(super) loopback_addresses: Vec<IpAddr>,
}

/// One line of `getifaddrs`, without the kernel's structures.
#[derive(Debug, Clone)]
struct Interface {
    name: String,
    loopback: bool,
    fact: Fact,
}

#[derive(Debug, Clone)]
enum Fact {
    Address(IpAddr),
    Link { index: u32, hardware: u16 },
}

/// Looks at the namespace of the calling thread; the error ends with the next step.
pub(super) fn survey() -> Result<Survey, String> {
    let interfaces = interfaces().map_err(|error| format!("cannot list the pod's addresses: {error}; try again"))?;
    choose(&interfaces)
}

fn interfaces() -> io::Result<Vec<Interface>> {
    let mut interfaces = Vec::new();
    for entry in getifaddrs()? {
        let Some(address) = entry.address else { continue };
        let fact = match address.family() {
            Some(nix::sys::socket::AddressFamily::Inet) => {
                address.as_sockaddr_in().map(|v4| Fact::Address(v4.ip().into()))
            }
            Some(nix::sys::socket::AddressFamily::Inet6) => {
                address.as_sockaddr_in6().map(|v6| Fact::Address(v6.ip().into()))
            }
            Some(nix::sys::socket::AddressFamily::Packet) => address.as_link_addr().and_then(|link| {
                Some(Fact::Link { index: u32::try_from(link.ifindex()).ok()?, hardware: link.hatype() })
            }),
            _ => None,
        };
        // IPv4 entries carry the address's label: "eth0:1" is a second address of eth0.
        let name = entry.interface_name.split(':').next().unwrap_or_default().to_owned();
        let loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        interfaces.extend(fact.map(|fact| Interface { name, loopback, fact }));
    }
    Ok(interfaces)
}

fn choose(interfaces: &[Interface]) -> Result<Survey, String> {
    let mut links = BTreeMap::new();
    let mut carried: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    let mut loopback_addresses = Vec::new();
    for Interface { name, loopback, fact } in interfaces {
        match fact {
            Fact::Link { index, hardware } => {
                links.insert(name.as_str(), (*index, *hardware));
            }
            Fact::Address(ip) if *loopback => loopback_addresses.push(*ip),
            Fact::Address(ip) => carried.entry(name).or_default().push(*ip),
        }
    }
    if carried.is_empty() {
        return Err("the pod's network namespace has no address besides loopback; wait until the pod has its IP".into());
    }
    let device = |name: &&str| {
        match links.get(*name) {
        Some((index, hardware)) => framing(*hardware).map(|framing| Device { index: *index, name: (*name).into(), framing })
            .ok_or_else(|| format!("the pod's device {name} is of kind {hardware} (ARPHRD), which redir does not know; use one with Ethernet or plain IP frames")),
        None => Err(format!("the pod's device {name} vanished while redir looked at it; try again")),
    }
    };
    let devices = carried.keys().map(device).collect::<Result<_, _>>()?;
    let pod_addresses = carried.into_values().flatten().collect();
    Ok(Survey { devices, pod_addresses, loopback_addresses })
}

/// What a device's frames begin with, by its ARPHRD number (`if_arp.h`).
fn framing(hardware: u16) -> Option<Framing> {
    match hardware {
        libc::ARPHRD_ETHER => Some(Framing::Ethernet),
        libc::ARPHRD_NONE | libc::ARPHRD_TUNNEL | libc::ARPHRD_TUNNEL6 | libc::ARPHRD_SIT | ARPHRD_RAWIP => {
            Some(Framing::Bare)
        }
        _ => None,
    }
}

/// `if_arp.h`; libc has no name for it.
const ARPHRD_RAWIP: u16 = 519;

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, index: u32, hardware: u16) -> Interface {
        Interface { name: name.into(), loopback: hardware == 772, fact: Fact::Link { index, hardware } }
    }

    fn address(name: &str, ip: &str) -> Interface {
        Interface { name: name.into(), loopback: name == "lo", fact: Fact::Address(ip.parse().expect("address")) }
    }

    #[test]
    fn devices_with_addresses_are_taken() {
        let survey = choose(&[
            link("lo", 1, 772),
            link("eth0", 2, 1),
            link("tun0", 3, 0xfffe),
            link("spare", 4, 1),
            address("lo", "127.0.0.1"),
            address("eth0", "10.0.0.2"),
            address("tun0", "10.9.0.2"),
            address("eth0", "fe80::1"),
        ])
        .expect("a pod");
        let names: Vec<_> = survey.devices.iter().map(|device| (&*device.name, device.framing)).collect();
        assert_eq!(names, [("eth0", Framing::Ethernet), ("tun0", Framing::Bare)]);
        assert_eq!((survey.pod_addresses.len(), survey.loopback_addresses.len()), (3, 1));
    }

    #[test]
    fn a_namespace_without_a_pod_address_is_refused() {
        let refused = choose(&[link("lo", 1, 772), link("eth0", 2, 1), address("lo", "127.0.0.1")]);
        assert!(refused.expect_err("no address").contains("wait until the pod has its IP"));
    }

    #[test]
    fn a_device_of_unknown_kind_is_refused_by_name() {
        let refused = choose(&[link("gre1", 2, 778), address("gre1", "10.0.0.2")]).expect_err("GRE");
        assert!(refused.contains("gre1") && refused.contains("778"), "{refused}");
    }
}
