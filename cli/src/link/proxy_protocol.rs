//! The PROXY protocol's header (`--proxy-protocol`): whose connection it is, told to the developer's service before the
//! first byte of it.
//!
//! Owns: its two forms, as haproxy.org's proxy-protocol.txt says. Must not do I/O. Called by: `link::streams`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::model::values::ProxyProtocol;

impl ProxyProtocol {
    /// The header of a connection from `client` to `destination`.
    pub(crate) fn header(self, client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let (from, to) = same_family(client.ip(), destination.ip());
        let ports = (client.port(), destination.port());
        match self {
            Self::V1 => v1(from, to, ports),
            Self::V2 => v2(from, to, ports),
        }
    }
}

/// A header has one family: an IPv4 address beside an IPv6 one is written as a mapped one, and two mapped ones as IPv4.
fn same_family(from: IpAddr, to: IpAddr) -> (IpAddr, IpAddr) {
    match (from.to_canonical(), to.to_canonical()) {
        (IpAddr::V4(from), IpAddr::V6(to)) => (from.to_ipv6_mapped().into(), to.into()),
        (IpAddr::V6(from), IpAddr::V4(to)) => (from.into(), to.to_ipv6_mapped().into()),
        same => same,
    }
}

fn v1(from: IpAddr, to: IpAddr, (from_port, to_port): (u16, u16)) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => format!("PROXY TCP4 {from} {to} {from_port} {to_port}\r\n"),
        (from, to) => {
            format!("PROXY TCP6 {} {} {from_port} {to_port}\r\n", in_groups(&from), in_groups(&to))
        }
    }
    .into_bytes()
}

/// An IPv6 address in hexadecimal groups alone: many readers do not know the dotted end of a mapped one.
fn in_groups(address: &IpAddr) -> String {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            None => v6.to_string(),
            Some(_) => {
                let [.., high, low] = v6.segments();
                format!("::ffff:{high:x}:{low:x}")
            }
        },
        IpAddr::V4(v4) => v4.to_string(),
    }
}

fn v2(from: IpAddr, to: IpAddr, (from_port, to_port): (u16, u16)) -> Vec<u8> {
    let (family, addresses) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (TCP_OVER_IPV4, [from.octets(), to.octets()].concat()),
        (from, to) => (TCP_OVER_IPV6, [v6(from).octets(), v6(to).octets()].concat()),
    };
    let length = if family == TCP_OVER_IPV4 { 12_u16 } else { 36 };
    let mut header = SIGNATURE.to_vec();
    header.extend([PROXY, family]);
    header.extend(length.to_be_bytes());
    header.extend(addresses);
    header.extend(from_port.to_be_bytes());
    header.extend(to_port.to_be_bytes());
    header
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// How each header of the second version begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
/// AF_INET, SOCK_STREAM.
const TCP_OVER_IPV4: u8 = 0x11;
/// AF_INET6, SOCK_STREAM.
const TCP_OVER_IPV6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: ProxyProtocol, client: &str, destination: &str) -> Vec<u8> {
        version.header(client.parse().unwrap(), destination.parse().unwrap())
    }

    fn text(client: &str, destination: &str) -> String {
        String::from_utf8(header(ProxyProtocol::V1, client, destination)).unwrap()
    }

    /// The specification's own examples and its longest lines.
    #[test]
    fn the_first_version_is_a_line() {
        assert_eq!(text("192.168.0.1:56324", "192.168.0.11:443"), "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
        let longest = text("255.255.255.255:65535", "255.255.255.255:65535");
        assert_eq!(longest, "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n");
        assert_eq!(longest.len(), 56);
        let ffff = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        let longest = text(ffff, ffff);
        assert_eq!(
            longest,
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"
        );
        assert_eq!(longest.len(), 104);
        assert_eq!(text("[2001:db8::7]:1", "[fd00::1]:8080"), "PROXY TCP6 2001:db8::7 fd00::1 1 8080\r\n");
    }

    #[test]
    fn the_second_version_is_binary() {
        let expected = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c\xc0\xa8\x00\x01\xc0\xa8\x00\x0b\xdc\x04\x01\xbb";
        assert_eq!(header(ProxyProtocol::V2, "192.168.0.1:56324", "192.168.0.11:443"), expected);
        let expected = [
            &b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x21\x00\x24"[..],
            &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0x00, 0x01, 0x1f, 0x90],
        ];
        assert_eq!(header(ProxyProtocol::V2, "[2001:db8::7]:1", "[fd00::1]:8080"), expected.concat());
    }

    #[test]
    fn a_header_has_one_family() {
        assert_eq!(text("[::ffff:192.0.2.7]:1", "[::ffff:10.0.0.1]:2"), "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n");
        assert_eq!(text("192.0.2.7:1", "[fd00::1]:2"), "PROXY TCP6 ::ffff:c000:207 fd00::1 1 2\r\n");
        let mixed = header(ProxyProtocol::V2, "192.0.2.7:1", "[fd00::1]:2");
        assert_eq!((mixed.len(), &mixed[16..32]), (52, &b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x07"[..]));
        // A zone is of one machine alone.
        assert_eq!(text("[fe80::1%3]:1", "[fe80::2]:2"), "PROXY TCP6 fe80::1 fe80::2 1 2\r\n");
    }
}
