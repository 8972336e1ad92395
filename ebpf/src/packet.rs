//! Parse: from a packet to its addresses, ports and flags. Knows nothing of ports that are armed, or of sockets.

use crate::maps::{self, AddressKey};
use crate::raw::{self, HeaderStart, PacketBuffer, SocketTuple};

/// EtherTypes as `skb->protocol` has them, in network order.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;

pub const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
/// The other extension headers of IPv6: routing, fragment, destination options.
const EXTENSIONS: [u8; 3] = [43, 44, 60];
/// More-fragments and the offset, of the first word's lower half.
const V4_FRAGMENT: u32 = 0x3fff;

/// Options of a SYN that are looked at, with those that only fill: the usual five, and room.
const OPTIONS: u32 = 16;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The family of a frame that carries IP itself, without a VLAN tag.
pub enum RawFamily {
    V4,
    V6,
    Other,
}

#[inline(always)]
pub fn family(skb: PacketBuffer) -> RawFamily {
    if skb.has_vlan() {
        return RawFamily::Other;
    }
    match skb.protocol() {
        IPV4 => RawFamily::V4,
        IPV6 => RawFamily::V6,
        _ => RawFamily::Other,
    }
}

/// What a cheap look at the linear part tells: most packets need no more.
pub enum QuickParse {
    /// A SYN without ACK. Not a field of `Tcp`: the compiler would read it where there is none, which the verifier refuses.
    Syn {
        source: u16,
        destination: u16,
    },
    Tcp {
        source: u16,
        destination: u16,
    },
    Other(u8),
    /// IP options, fragments, extension headers, or headers that are not in the linear part.
    Unclear,
}

#[inline(always)]
pub fn glance<const V6: bool, const L2: usize>(skb: PacketBuffer) -> QuickParse {
    let (protocol, ports, flags) = if V6 {
        let Some(ip) = skb.peek::<[u8; 40]>(L2) else { return QuickParse::Unclear };
        if ip[6] != TCP {
            (ip[6], [0; 4], 0)
        } else {
            let Some(ip) = skb.peek::<[u8; 54]>(L2) else { return QuickParse::Unclear };
            (TCP, [ip[40], ip[41], ip[42], ip[43]], ip[53])
        }
    } else {
        let Some(ip) = skb.peek::<[u8; 20]>(L2) else { return QuickParse::Unclear };
        if ip[0] != 0x45 {
            return QuickParse::Unclear;
        }
        if ip[9] != TCP {
            (ip[9], [0; 4], 0)
        } else {
            let Some(ip) = skb.peek::<[u8; 34]>(L2) else { return QuickParse::Unclear };
            if ip[6] & 0x3f != 0 || ip[7] != 0 {
                return QuickParse::Unclear;
            }
            (TCP, [ip[20], ip[21], ip[22], ip[23]], ip[33])
        }
    };
    if protocol == TCP {
        let source = u16::from_be_bytes([ports[0], ports[1]]);
        let destination = u16::from_be_bytes([ports[2], ports[3]]);
        if opens(flags) {
            return QuickParse::Syn { source, destination };
        }
        return QuickParse::Tcp { source, destination };
    }
    if V6 && (protocol == HOP_BY_HOP || EXTENSIONS.contains(&protocol)) {
        return QuickParse::Unclear;
    }
    QuickParse::Other(protocol)
}

/// Why a packet is no whole TCP segment.
pub enum NotTcp {
    /// The IP header says another protocol.
    Protocol,
    Fragment,
    Extension,
    Malformed,
}

/// An unfragmented TCP segment: the IP header without options, and the TCP header without options.
pub struct TcpSegment {
    pub ip: [u32; 10],
    pub tcp: [u32; 5],
    /// Of the TCP header, from the start of the IP header.
    pub offset: u32,
}

/// What a SYN's options ask of who answers it.
pub enum SynOptions {
    /// Nothing that the agent could not do.
    Plain,
    /// TCP-MD5 or TCP-AO (RFC 2385, RFC 5925).
    Signed,
    /// MP_JOIN of Multipath TCP (RFC 8684).
    Join,
    /// More than are looked at.
    TooMany,
}

/// Of SYN, ACK, RST and FIN.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TcpFlags {
    Syn,
    Ack,
    Other,
}

/// Reads the whole headers, wherever they are.
#[inline(always)]
pub fn segment<const V6: bool>(skb: PacketBuffer) -> Result<TcpSegment, NotTcp> {
    let (ip, offset) = if V6 { ipv6(skb)? } else { ipv4(skb)? };
    let Some(tcp) = skb.load(HeaderStart::Network, offset) else { return Err(NotTcp::Malformed) };
    Ok(TcpSegment { ip, tcp, offset })
}

#[inline(always)]
fn ipv4(skb: PacketBuffer) -> Result<([u32; 10], u32), NotTcp> {
    let Some(h) = skb.load::<[u32; 5]>(HeaderStart::Network, 0) else { return Err(NotTcp::Malformed) };
    let length = header_length(h[0]);
    if u32::from_be(h[0]) >> 28 != 4 || length < 20 {
        return Err(NotTcp::Malformed);
    }
    if v4_protocol(&h) != TCP {
        return Err(NotTcp::Protocol);
    }
    if u32::from_be(h[1]) & V4_FRAGMENT != 0 {
        return Err(NotTcp::Fragment);
    }
    Ok(([h[0], h[1], h[2], h[3], h[4], 0, 0, 0, 0, 0], length))
}

#[inline(always)]
fn ipv6(skb: PacketBuffer) -> Result<([u32; 10], u32), NotTcp> {
    let Some(h) = skb.load::<[u32; 10]>(HeaderStart::Network, 0) else { return Err(NotTcp::Malformed) };
    if u32::from_be(h[0]) >> 28 != 6 {
        return Err(NotTcp::Malformed);
    }
    match v6_next_header(&h) {
        TCP => Ok((h, 40)),
        // BIG TCP: the kernel itself puts an 8-byte hop-by-hop header (jumbo payload) into packets over 64 KiB.
        HOP_BY_HOP => match skb.load::<[u8; 4]>(HeaderStart::Network, 40) {
            Some([TCP, 0, 0xc2, 4]) => Ok((h, 48)),
            _ => Err(NotTcp::Extension),
        },
        44 => Err(NotTcp::Fragment),
        next if EXTENSIONS.contains(&next) => Err(NotTcp::Extension),
        _ => Err(NotTcp::Protocol),
    }
}

/// Whether a segment with these flags opens a connection.
#[inline(always)]
pub fn opens(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN
}

/// Length of an IPv4 header, in bytes, from its first word.
#[inline(always)]
pub fn header_length(first: u32) -> u32 {
    ((u32::from_be(first) >> 24) & 0xf) * 4
}

#[inline(always)]
pub fn v4_protocol(h: &[u32; 5]) -> u8 {
    (u32::from_be(h[2]) >> 16) as u8
}

#[inline(always)]
pub fn v6_next_header(h: &[u32; 10]) -> u8 {
    (u32::from_be(h[1]) >> 8) as u8
}

impl TcpSegment {
    #[inline(always)]
    pub fn source_port(&self) -> u16 {
        source_port(self.tcp[0])
    }

    #[inline(always)]
    pub fn destination_port(&self) -> u16 {
        destination_port(self.tcp[0])
    }

    /// Reads the options of a SYN. The kernel reads none behind a broken one, and neither does this.
    ///
    /// The position is kept in a map's value: the verifier knows nothing of what is in there, so the ways through the loop
    /// look alike to it, and it goes each only once.
    #[inline(always)]
    pub fn options(&self, skb: PacketBuffer) -> SynOptions {
        let Some(at) = maps::scratch() else { return SynOptions::Plain };
        let end = self.offset + (u32::from_be(self.tcp[3]) >> 28) * 4;
        raw::write(Some(at), self.offset + 20);
        for _ in 0..OPTIONS {
            let Some(position) = raw::value(Some(at.cast_const())) else { return SynOptions::Plain };
            if position >= end {
                return SynOptions::Plain;
            }
            // Those that matter are longer.
            let Some([kind, length, subtype, _]) = skb.load::<[u8; 4]>(HeaderStart::Network, position) else {
                return SynOptions::Plain;
            };
            let step = match kind {
                0 => return SynOptions::Plain,
                1 => 1,
                19 | 29 => return SynOptions::Signed,
                30 if subtype >> 4 == 1 => return SynOptions::Join,
                _ if length < 2 => return SynOptions::Plain,
                _ => u32::from(length),
            };
            raw::write(Some(at), position + step);
        }
        SynOptions::TooMany
    }

    /// PSH, URG and the ECN bits do not matter: some stacks set them on a SYN.
    #[inline(always)]
    pub fn flags(&self) -> TcpFlags {
        match self.flag_bits() & (SYN | ACK | RST | FIN) {
            SYN => TcpFlags::Syn,
            ACK => TcpFlags::Ack,
            _ => TcpFlags::Other,
        }
    }

    #[inline(always)]
    pub fn opens(&self) -> bool {
        opens(self.flag_bits())
    }

    /// Whether it opens or ends a connection, or does so for one direction.
    #[inline(always)]
    pub fn opens_or_ends(&self) -> bool {
        self.flag_bits() & (SYN | FIN | RST) != 0
    }

    #[inline(always)]
    pub fn has_syn_or_rst(&self) -> bool {
        self.flag_bits() & (SYN | RST) != 0
    }

    #[inline(always)]
    fn flag_bits(&self) -> u8 {
        (u32::from_be(self.tcp[3]) >> 16) as u8
    }

    #[inline(always)]
    pub fn source<const V6: bool>(&self) -> AddressKey {
        let i = &self.ip;
        if V6 { [i[2], i[3], i[4], i[5]] } else { mapped(i[3]) }
    }

    #[inline(always)]
    pub fn destination<const V6: bool>(&self) -> AddressKey {
        let i = &self.ip;
        if V6 { [i[6], i[7], i[8], i[9]] } else { mapped(i[4]) }
    }

    /// The tuple of the socket that receives this segment.
    #[inline(always)]
    pub fn tuple<const V6: bool>(&self) -> SocketTuple {
        tuple::<V6>(&self.ip, self.tcp[0])
    }

    /// The tuple of the socket that sends this segment, if that is one of the pod.
    #[inline(always)]
    pub fn sender_tuple<const V6: bool>(&self) -> SocketTuple {
        let mut ip = self.ip;
        swap::<V6>(&mut ip);
        tuple::<V6>(&ip, self.tcp[0].rotate_left(16))
    }

    /// The tuple of the socket that would receive it with its addresses exchanged.
    #[inline(always)]
    pub fn swapped_tuple<const V6: bool>(&self) -> SocketTuple {
        let mut ip = self.ip;
        swap::<V6>(&mut ip);
        tuple::<V6>(&ip, self.tcp[0])
    }
}

/// An IPv4 address as `abi::MappedAddress` has it.
#[inline(always)]
pub fn mapped(v4: u32) -> AddressKey {
    [0, 0, 0xffff_u32.to_be(), v4]
}

#[inline(always)]
pub fn source_port(ports: u32) -> u16 {
    u16::from_be(ports as u16)
}

#[inline(always)]
pub fn destination_port(ports: u32) -> u16 {
    u16::from_be((ports >> 16) as u16)
}

#[inline(always)]
pub fn tuple<const V6: bool>(i: &[u32; 10], ports: u32) -> SocketTuple {
    if V6 { [i[2], i[3], i[4], i[5], i[6], i[7], i[8], i[9], ports] } else { [i[3], i[4], ports, 0, 0, 0, 0, 0, 0] }
}

/// Exchanges the addresses of an IP header.
#[inline(always)]
pub fn swap<const V6: bool>(i: &mut [u32; 10]) {
    if V6 {
        *i = [i[0], i[1], i[6], i[7], i[8], i[9], i[2], i[3], i[4], i[5]];
    } else {
        i.swap(3, 4);
    }
}
