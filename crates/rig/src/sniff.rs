//! Watches the host's end of a pod's device for packets that must never be there: the agent's own legs (ports of the
//! reserved ranges) and ICMP errors that belong to them.

use std::{
    fmt::Write,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket},
};
use socket2::{SockFilter, SockRef};

use crate::namespace::Namespace;

/// A packet socket on one device.
#[derive(Debug)]
pub struct Sniff {
    socket: OwnedFd,
    device: String,
    index: usize,
}

impl Sniff {
    /// Starts to watch `device` of the namespace.
    pub fn start(namespace: &Namespace, device: &str) -> Result<Self> {
        let (socket, index) = namespace.run(|| -> Result<_> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            let filter: Vec<_> = FILTER.iter().map(|&(code, jt, jf, k)| SockFilter::new(code, jt, jf, k)).collect();
            SockRef::from(&socket).attach_filter(&filter)?;
            Ok((socket, if_nametoindex(device)?))
        })??;
        let sniff = Self { socket, device: device.to_owned(), index: index.try_into()? };
        // What came between the socket and its filter.
        sniff.take()?;
        Ok(sniff)
    }

    /// What was seen since the last call, one line a packet.
    pub fn take(&self) -> Result<Vec<String>> {
        let mut seen = Vec::new();
        let mut packet = [0; 128];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut packet) {
                Ok((length, from)) if from.is_some_and(|f| f.ifindex() == self.index) => {
                    seen.push(describe(&packet[..length.min(packet.len())]));
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(seen),
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(e) => return Err(e).context("packet socket"),
            }
        }
    }

    /// An error with the packets, if there were any since the last look.
    pub fn silent(&self) -> Result<()> {
        let seen = self.take()?;
        ensure!(seen.is_empty(), "{} packets leaked on {}: {:#?}", seen.len(), self.device, &seen[..seen.len().min(8)]);
        Ok(())
    }
}

/// `10.0.0.1:700 > 10.0.0.2:8080 SA`
fn describe(packet: &[u8]) -> String {
    let half = |at: usize| packet.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    let byte = |at: usize| packet.get(at).copied().unwrap_or(0);
    let v4 = |at: usize| packet.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).unwrap_or_default();
    let v6 = |at: usize| packet.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok()).unwrap_or_default();
    let (from, to, protocol, transport) = if half(12) == 0x800 {
        let transport = 14 + usize::from(byte(14) & 15) * 4;
        (Ipv4Addr::from(v4(26)).to_string(), Ipv4Addr::from(v4(30)).to_string(), byte(23), transport)
    } else {
        (Ipv6Addr::from(v6(22)).to_string(), Ipv6Addr::from(v6(38)).to_string(), byte(20), 54)
    };
    if protocol != 6 {
        return format!("{from} > {to} icmp type {} code {}", byte(transport), byte(transport + 1));
    }
    let mut text = format!("{from} {} > {to} {} ", half(transport), half(transport + 2));
    let flags = byte(transport + 13);
    for (bit, name) in "FSRPA".chars().enumerate() {
        if flags >> bit & 1 == 1 {
            let _ = text.write_char(name);
        }
    }
    text
}

/// `tcpdump -y EN10MB -ddd` of: `(tcp and (portrange 512-1023 or portrange 10000-29999)) or (ip6 and tcp and (portrange
/// 512-1023 or portrange 10000-29999)) or (icmp and (icmp[0]==3 or icmp[0]==11 or icmp[0]==12)) or (icmp6 and ip6[40]<5)`
#[rustfmt::skip]
const FILTER: &[(u16, u8, u8, u32)] = &[
    (40, 0, 0, 12), (21, 0, 24, 2048), (48, 0, 0, 23), (21, 0, 14, 6), (40, 0, 0, 20), (69, 54, 0, 8191), (177, 0, 0,
    14), (72, 0, 0, 14), (53, 0, 1, 512), (37, 0, 49, 1023), (72, 0, 0, 16), (53, 0, 1, 512), (37, 0, 46, 1023), (72,
    0, 0, 14), (53, 0, 1, 10000), (37, 0, 43, 29999), (72, 0, 0, 16), (53, 34, 42, 10000), (21, 0, 41, 1), (40, 0, 0,
    20), (69, 39, 0, 8191), (177, 0, 0, 14), (80, 0, 0, 14), (21, 35, 0, 3), (21, 34, 0, 11), (21, 33, 34, 12), (21, 0,
    33, 34525), (48, 0, 0, 20), (21, 0, 24, 6), (40, 0, 0, 54), (53, 0, 1, 512), (37, 0, 27, 1023), (40, 0, 0, 56),
    (53, 0, 1, 512), (37, 0, 24, 1023), (40, 0, 0, 54), (53, 0, 1, 10000), (37, 0, 21, 29999), (40, 0, 0, 56), (53, 0,
    1, 10000), (37, 0, 18, 29999), (40, 0, 0, 54), (53, 0, 1, 512), (37, 0, 15, 1023), (40, 0, 0, 56), (53, 0, 1, 512),
    (37, 0, 12, 1023), (40, 0, 0, 54), (53, 0, 1, 10000), (37, 0, 9, 29999), (40, 0, 0, 56), (53, 0, 8, 10000), (37, 7,
    6, 29999), (21, 0, 2, 44), (48, 0, 0, 54), (21, 4, 0, 6), (21, 0, 3, 58), (48, 0, 0, 54), (53, 1, 0, 5), (6, 0, 0,
    262144), (6, 0, 0, 0),
];
