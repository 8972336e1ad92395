//! What a pod's network namespace holds: its addresses, and the devices that its packets can take.
//!
//! Owns the choice of devices. Changes nothing. Called inside the pod's namespace by `pod` and `check`.

use std::{io, net::IpAddr};

use nix::sys::socket::SockProtocol;

use super::{
    datapath::{LinkLayer, PodDevice},
    netlink::{NetlinkSocket, attribute, u16_at, u32_at},
};

/// The addresses and devices of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NetnsSurvey {
    /// The devices that a packet of the pod can take, `lo` excepted, by their index: those with an address, and those
    /// that are up and belong to no bridge or bond, since a route needs no address.
    pub(super) devices: Vec<PodDevice>,
    /// The addresses on devices other than `lo`.
    pub(super) pod_addresses: Vec<IpAddr>,
    /// The addresses on `lo`.
    pub(super) loopback_addresses: Vec<IpAddr>,
    /// Why not all of the pod's connections can be steered: a device with an address that delivers past the programs, or whose
    /// frames redir does not know.
    pub(super) unusable: Option<String>,
}

impl NetnsSurvey {
    /// Looks at the namespace of the calling thread.
    pub(super) fn take() -> io::Result<Self> {
        let mut netlink = NetlinkSocket::open(SockProtocol::NetlinkRoute)?;
        let mut tries = 1..=TRIES;
        loop {
            let last = tries.next() == Some(TRIES);
            match look(&mut netlink) {
                // An address of a device that came later: whoever waits for changes hears of it, and looks again.
                Ok((links, addresses)) if last || addresses.iter().all(|one| one.is_on(&links)) => {
                    return Ok(Self::of(&links, &addresses));
                }
                Err(error) if last || error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// The same for a pod that is to be intercepted; the error ends with the next step.
    pub(super) fn of_intercepted() -> Result<Self, String> {
        let survey = Self::take().map_err(|error| format!("cannot list the pod's addresses: {error}; try again"))?;
        if survey.pod_addresses.is_empty() {
            return Err(
                "the pod's network namespace has no address besides loopback; wait until the pod has its IP".into()
            );
        }
        match survey.unusable {
            Some(sentence) => Err(sentence),
            None => Ok(survey),
        }
    }

    /// The addresses whose connections are steered: a load balancer's may be on `lo`.
    pub(super) fn steered_addresses(&self) -> Vec<IpAddr> {
        let on_lo = self.loopback_addresses.iter().filter(|address| !address.is_loopback());
        self.pod_addresses.iter().chain(on_lo).copied().collect()
    }

    fn of(links: &[DeviceLink], addresses: &[LinkAddress]) -> Self {
        let mut survey = Self::default();
        let mut links: Vec<_> = links.iter().collect();
        links.sort_by_key(|link| link.index);
        for link in links {
            let own = addresses.iter().filter(|address| address.link == link.index).map(|address| address.ip);
            if link.loopback {
                survey.loopback_addresses.extend(own);
                continue;
            }
            let before = survey.pod_addresses.len();
            survey.pod_addresses.extend(own);
            let addressed = survey.pod_addresses.len() > before;
            if link.delivers_past_programs {
                if addressed {
                    let sentence = format!(
                        "the pod's device {} is an ipvlan in mode l3s, which delivers past the programs on it; use mode l2 or l3",
                        link.name
                    );
                    survey.unusable.get_or_insert(sentence);
                }
                continue;
            }
            match framing(link.hardware) {
                Some(framing) if addressed || (link.up && !link.enslaved) => {
                    survey.devices.push(PodDevice { index: link.index, name: link.name.clone(), framing });
                }
                None if addressed => {
                    let sentence = format!(
                        "the pod's device {} is of kind {} (ARPHRD), which redir does not know; use one with Ethernet or plain IP frames",
                        link.name, link.hardware
                    );
                    survey.unusable.get_or_insert(sentence);
                }
                Some(_) | None => {}
            }
        }
        survey
    }
}

/// What is known of one device.
#[derive(Debug, Clone)]
struct DeviceLink {
    index: u32,
    name: String,
    /// `ARPHRD_…`
    hardware: u16,
    loopback: bool,
    up: bool,
    /// It hands what it receives to another device: a bridge, a bond.
    enslaved: bool,
    /// What comes in is the other device's until netfilter's input: no program on this one's ingress sees it.
    delivers_past_programs: bool,
}

#[derive(Debug, Clone)]
struct LinkAddress {
    link: u32,
    ip: IpAddr,
}

impl LinkAddress {
    fn is_on(&self, links: &[DeviceLink]) -> bool {
        links.iter().any(|link| link.index == self.link)
    }
}

fn look(netlink: &mut NetlinkSocket) -> io::Result<(Vec<DeviceLink>, Vec<LinkAddress>)> {
    let (mut links, mut addresses) = (Vec::new(), Vec::new());
    netlink.dump(libc::RTM_GETLINK, &links_question(), |body| links.extend(link(body)))?;
    netlink.dump(libc::RTM_GETADDR, &[0; ADDRESS_HEADER], |body| addresses.extend(address(body)))?;
    Ok((links, addresses))
}

/// `struct ifinfomsg` of any family, and `IFLA_EXT_MASK`: no statistics, which are most of the answer.
fn links_question() -> [u8; LINK_HEADER + 8] {
    let mut question = [0; LINK_HEADER + 8];
    let attribute = &mut question[LINK_HEADER..];
    attribute[..2].copy_from_slice(&8_u16.to_ne_bytes());
    attribute[2..4].copy_from_slice(&libc::IFLA_EXT_MASK.to_ne_bytes());
    attribute[4..].copy_from_slice(&RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    question
}

/// `struct ifinfomsg` and its attributes.
fn link(body: &[u8]) -> Option<DeviceLink> {
    let flags = u32_at(body, 8)?.cast_signed();
    let attributes = body.get(LINK_HEADER..)?;
    let name = attribute(attributes, libc::IFLA_IFNAME)?;
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    Some(DeviceLink {
        index: u32_at(body, 4)?,
        name: String::from_utf8_lossy(name).into_owned(),
        hardware: u16_at(body, 2)?,
        loopback: flags & libc::IFF_LOOPBACK != 0,
        up: flags & libc::IFF_UP != 0,
        enslaved: attribute(attributes, libc::IFLA_MASTER).is_some(),
        delivers_past_programs: ipvlan_mode(attributes) == Some(IPVLAN_MODE_L3S),
    })
}

/// The mode of an ipvlan device, from a link's attributes.
fn ipvlan_mode(attributes: &[u8]) -> Option<u16> {
    let info = attribute(attributes, libc::IFLA_LINKINFO)?;
    let kind = attribute(info, libc::IFLA_INFO_KIND)?;
    // Some kernels end the kind with a zero byte.
    if kind.strip_suffix(b"\0").unwrap_or(kind) != b"ipvlan" {
        return None;
    }
    u16_at(attribute(attribute(info, libc::IFLA_INFO_DATA)?, IFLA_IPVLAN_MODE)?, 0)
}

/// `struct ifaddrmsg` and its attributes. On a point-to-point device `IFA_ADDRESS` is the other end's.
fn address(body: &[u8]) -> Option<LinkAddress> {
    let attributes = body.get(ADDRESS_HEADER..)?;
    let bytes = attribute(attributes, libc::IFA_LOCAL).or_else(|| attribute(attributes, libc::IFA_ADDRESS))?;
    let ip = match i32::from(*body.first()?) {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(LinkAddress { link: u32_at(body, 4)?, ip })
}

/// What a device's frames begin with, by its ARPHRD number (`if_arp.h`).
fn framing(hardware: u16) -> Option<LinkLayer> {
    match hardware {
        libc::ARPHRD_ETHER => Some(LinkLayer::Ethernet),
        libc::ARPHRD_NONE | libc::ARPHRD_TUNNEL | libc::ARPHRD_TUNNEL6 | libc::ARPHRD_SIT | ARPHRD_RAWIP => {
            Some(LinkLayer::Bare)
        }
        _ => None,
    }
}

/// `if_arp.h`; libc has no name for it.
const ARPHRD_RAWIP: u16 = 519;
/// linux/if_link.h
const IFLA_IPVLAN_MODE: u16 = 1;
/// linux/if_link.h
const IPVLAN_MODE_L3S: u16 = 2;
/// Bytes of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// Bytes of `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// linux/rtnetlink.h
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
/// How often a list that changed while it was made is made again at once.
const TRIES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, index: u32, hardware: u16) -> DeviceLink {
        let name = name.into();
        DeviceLink {
            index,
            name,
            hardware,
            loopback: hardware == 772,
            up: true,
            enslaved: false,
            delivers_past_programs: false,
        }
    }

    fn address(link: u32, ip: &str) -> LinkAddress {
        LinkAddress { link, ip: ip.parse().expect("address") }
    }

    fn names(survey: &NetnsSurvey) -> Vec<(&str, LinkLayer)> {
        survey.devices.iter().map(|device| (&*device.name, device.framing)).collect()
    }

    #[test]
    fn devices_that_packets_can_take_are_taken() {
        let down = DeviceLink { up: false, ..link("down0", 4, 1) };
        let spare = DeviceLink { up: false, ..link("spare0", 5, 1) };
        let port = DeviceLink { enslaved: true, ..link("port0", 6, 1) };
        let survey = NetnsSurvey::of(
            &[link("tun0", 3, 0xfffe), link("lo", 1, 772), link("eth0", 2, 1), down, spare, port, link("route0", 7, 1)],
            &[
                address(1, "127.0.0.1"),
                address(2, "10.0.0.2"),
                address(3, "10.9.0.2"),
                address(2, "fe80::1"),
                address(4, "10.0.9.1"),
                address(1, "192.0.2.80"),
            ],
        );
        let expected = [("eth0", LinkLayer::Ethernet), ("tun0", LinkLayer::Bare), ("down0", LinkLayer::Ethernet)];
        assert_eq!(names(&survey)[..3], expected);
        assert_eq!(names(&survey)[3..], [("route0", LinkLayer::Ethernet)]);
        assert_eq!((survey.pod_addresses.len(), survey.loopback_addresses.len()), (4, 2));
        let steered = survey.steered_addresses();
        assert!(steered.contains(&"192.0.2.80".parse().expect("address")), "a load balancer's on lo: {steered:?}");
        assert!(!steered.contains(&"127.0.0.1".parse().expect("address")), "{steered:?}");
        assert_eq!(survey.unusable, None);
    }

    #[test]
    fn a_device_of_unknown_kind_is_named() {
        let survey = NetnsSurvey::of(&[link("gre1", 2, 778)], &[address(2, "10.0.0.2")]);
        let sentence = survey.unusable.expect("GRE");
        assert!(sentence.contains("gre1") && sentence.contains("778"), "{sentence}");
        assert_eq!(NetnsSurvey::of(&[link("gre1", 2, 778)], &[]).unusable, None, "without an address");
    }

    #[test]
    fn a_device_that_delivers_past_programs_is_named() {
        let l3s = DeviceLink { delivers_past_programs: true, ..link("ipvl0", 3, 1) };
        let links = [link("eth0", 2, 1), l3s];
        let survey = NetnsSurvey::of(&links, &[address(2, "10.0.0.2"), address(3, "10.0.1.2")]);
        let sentence = survey.unusable.expect("ipvlan");
        assert!(sentence.contains("ipvl0") && sentence.contains("l3s") && sentence.contains("; use "), "{sentence}");
        let survey = NetnsSurvey::of(&links, &[address(2, "10.0.0.2")]);
        assert_eq!((names(&survey).len(), survey.unusable), (1, None), "without an address");
    }

    #[test]
    fn the_mode_of_an_ipvlan_is_read() {
        let attribute = |kind: u16, value: &[u8]| {
            let length = u16::try_from(4 + value.len()).expect("short");
            let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let link = |kind: &[u8], mode: u16| {
            let data = attribute(libc::IFLA_INFO_DATA, &attribute(IFLA_IPVLAN_MODE, &mode.to_ne_bytes()));
            let info = [attribute(libc::IFLA_INFO_KIND, kind), data].concat();
            [attribute(libc::IFLA_IFNAME, b"eth0\0"), attribute(libc::IFLA_LINKINFO, &info)].concat()
        };
        assert_eq!(ipvlan_mode(&link(b"ipvlan\0", 2)), Some(IPVLAN_MODE_L3S));
        assert_eq!(ipvlan_mode(&link(b"ipvlan", 1)), Some(1));
        assert_eq!(ipvlan_mode(&link(b"macvlan\0", 2)), None);
        assert_eq!(ipvlan_mode(&attribute(libc::IFLA_IFNAME, b"eth0\0")), None);
    }

    #[test]
    fn the_machine_itself_is_read_as_other_programs_read_it() {
        let survey = NetnsSurvey::take().expect("netlink");
        assert!(survey.loopback_addresses.contains(&"127.0.0.1".parse().expect("address")), "{survey:?}");
        for device in &survey.devices {
            let index = std::fs::read_to_string(format!("/sys/class/net/{}/ifindex", device.name));
            assert_eq!(index.expect("a device").trim(), device.index.to_string());
        }
    }
}
