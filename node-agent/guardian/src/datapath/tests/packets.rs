//! Crafted frames. Checksums stay zero: the programs neither read nor write them.

use std::net::{IpAddr, SocketAddr};

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;
pub(super) const ECE_CWR: u8 = 0xc0;

/// Length of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
pub(super) const DESTINATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

const TCP: u8 = 6;

/// A frame to be: a TCP segment, unless something else is said.
#[derive(Clone, Debug)]
pub(super) struct TestFrame {
    source: SocketAddr,
    destination: SocketAddr,
    flags: u8,
    protocol: u8,
    v4_options: Vec<u8>,
    v4_fragment: u16,
    v6_extensions: Vec<(u8, [u8; 8])>,
    tcp_options: Vec<u8>,
    vlan: bool,
    payload: Option<Vec<u8>>,
}

impl TestFrame {
    pub(super) fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4());
        Self {
            source,
            destination,
            flags,
            protocol: TCP,
            v4_options: Vec::new(),
            v4_fragment: 0,
            v6_extensions: Vec::new(),
            tcp_options: Vec::new(),
            vlan: false,
            payload: None,
        }
    }

    /// Another protocol, with these bytes after the IP header.
    pub(super) fn other(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Self {
        let frame = Self::tcp(SocketAddr::new(source, 0), SocketAddr::new(destination, 0), 0);
        Self { protocol, payload: Some(payload), ..frame }
    }

    pub(super) fn v4_options(mut self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4));
        self.v4_options = options.to_vec();
        self
    }

    /// Flags and offset of the IPv4 header.
    pub(super) fn v4_fragment(mut self, field: u16) -> Self {
        self.v4_fragment = field;
        self
    }

    /// Adds an IPv6 extension header of 8 bytes; its first byte, the next header, is filled in.
    pub(super) fn v6_extension(mut self, kind: u8, rest: [u8; 7]) -> Self {
        let [a, b, c, d, e, f, g] = rest;
        self.v6_extensions.push((kind, [0, a, b, c, d, e, f, g]));
        self
    }

    pub(super) fn tcp_options(mut self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4));
        self.tcp_options = options.to_vec();
        self
    }

    pub(super) fn vlan(mut self) -> Self {
        self.vlan = true;
        self
    }

    /// With an Ethernet header.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [DESTINATION_MAC, SOURCE_MAC].concat();
        if self.vlan {
            bytes.extend([0x81, 0x00, 0x00, 0x05]);
        }
        bytes.extend(if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        bytes.extend(self.packet());
        bytes
    }

    /// From the IP header on.
    pub(super) fn packet(&self) -> Vec<u8> {
        let payload = self.payload.clone().unwrap_or_else(|| self.segment());
        let mut bytes = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let words = u8::try_from(5 + self.v4_options.len() / 4).unwrap();
                let length = u16::try_from(usize::from(words) * 4 + payload.len()).unwrap();
                let mut ip = vec![0x40 | words, 0];
                ip.extend(length.to_be_bytes());
                ip.extend([0, 1]);
                ip.extend(self.v4_fragment.to_be_bytes());
                ip.extend([64, self.protocol, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.extend(&self.v4_options);
                ip
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.v6_headers(source.octets(), destination.octets(), payload.len())
            }
            _ => unreachable!("one family"),
        };
        bytes.extend(payload);
        bytes
    }

    fn v6_headers(&self, source: [u8; 16], destination: [u8; 16], payload: usize) -> Vec<u8> {
        let kinds: Vec<u8> = self.v6_extensions.iter().map(|(kind, _)| *kind).chain([self.protocol]).collect();
        let length = u16::try_from(self.v6_extensions.len() * 8 + payload).unwrap();
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend(length.to_be_bytes());
        ip.extend([kinds[0], 64]);
        ip.extend(source);
        ip.extend(destination);
        for (i, (_, header)) in self.v6_extensions.iter().enumerate() {
            let mut header = *header;
            header[0] = kinds[i + 1];
            ip.extend(header);
        }
        ip
    }

    fn segment(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.destination.port().to_be_bytes());
        tcp.extend([0, 0, 0, 1, 0, 0, 0, 1]);
        let words = u8::try_from(5 + self.tcp_options.len() / 4).unwrap();
        tcp.extend([words << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(&self.tcp_options);
        tcp
    }
}
