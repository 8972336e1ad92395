//! An ICMP error about a reflected packet (a REJECT in the pod, a message too big): its inner packet says
//! `client:P → pod:app_port`, as the app's side saw it. Both headers are exchanged, so that it reaches the agent's socket
//! instead of leaking to the client.

use redir_abi::{Reason, is_reserved};

use crate::maps;
use crate::packet::{self, TCP};
use crate::raw::{HeaderStart, PacketBuffer};
use crate::reflect::{swap_and_mark, swap_at};
use crate::socket::{self, SocketOwner};

const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;

/// The ICMP of a family.
#[inline(always)]
pub const fn protocol<const V6: bool>() -> u8 {
    if V6 { ICMPV6 } else { ICMPV4 }
}

struct IcmpError {
    outer: [u32; 10],
    inner: [u32; 10],
    /// From the start of the outer IP header, in bytes.
    inner_at: u32,
    /// Of the inner packet, as they stand there.
    ports: u32,
}

#[inline(always)]
pub fn run<const V6: bool, const L2: usize>(skb: PacketBuffer) -> Reason {
    let Some(error) = (if V6 { parse_v6(skb) } else { parse_v4(skb) }) else { return Reason::ReflectOther };
    if !concerns_agent::<V6>(skb, &error) {
        return Reason::ReflectOther;
    }
    if !swap_at::<V6, L2>(skb, error.inner_at, error.inner) {
        return Reason::ReflectWriteFailed;
    }
    swap_and_mark::<V6, L2>(skb, error.outer, Reason::ReflectIcmp)
}

#[inline(always)]
fn concerns_agent<const V6: bool>(skb: PacketBuffer, error: &IcmpError) -> bool {
    if !is_reserved(packet::source_port(error.ports)) || !maps::port(packet::destination_port(error.ports)).reflected {
        return false;
    }
    // The agent's socket receives client:app_port → pod:P.
    let tuple = packet::tuple::<V6>(&error.inner, error.ports.rotate_left(16));
    socket::state_and_owner::<V6>(skb, &tuple).1 == SocketOwner::Agent
}

#[inline(always)]
fn parse_v4(skb: PacketBuffer) -> Option<IcmpError> {
    let outer = skb.load::<[u32; 5]>(HeaderStart::Network, 0)?;
    if packet::v4_protocol(&outer) != ICMPV4 {
        return None;
    }
    let icmp_at = packet::header_length(outer[0]);
    // Destination unreachable, time exceeded, parameter problem.
    if !matches!(skb.load::<u8>(HeaderStart::Network, icmp_at)?, 3 | 11 | 12) {
        return None;
    }
    let inner_at = icmp_at + 8;
    let inner = skb.load::<[u32; 5]>(HeaderStart::Network, inner_at)?;
    if packet::v4_protocol(&inner) != TCP {
        return None;
    }
    let ports = skb.load(HeaderStart::Network, inner_at + packet::header_length(inner[0]))?;
    Some(IcmpError { outer: widen(outer), inner: widen(inner), inner_at, ports })
}

#[inline(always)]
fn parse_v6(skb: PacketBuffer) -> Option<IcmpError> {
    let outer = skb.load::<[u32; 10]>(HeaderStart::Network, 0)?;
    if packet::v6_next_header(&outer) != ICMPV6 {
        return None;
    }
    // Unreachable, too big, time exceeded, parameter problem.
    if !matches!(skb.load::<u8>(HeaderStart::Network, 40)?, 1..=4) {
        return None;
    }
    let inner_at = 48;
    let inner = skb.load::<[u32; 10]>(HeaderStart::Network, inner_at)?;
    if packet::v6_next_header(&inner) != TCP {
        return None;
    }
    let ports = skb.load(HeaderStart::Network, inner_at + 40)?;
    Some(IcmpError { outer, inner, inner_at, ports })
}

#[inline(always)]
fn widen(h: [u32; 5]) -> [u32; 10] {
    [h[0], h[1], h[2], h[3], h[4], 0, 0, 0, 0, 0]
}
