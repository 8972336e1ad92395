//! Egress of `lo`: a leg to an address of the pod itself is never turned round, so its SYN is noted here. What is here and
//! should not be was sent here by the pod: a mesh redirects what leaves it to its proxy.

use redir_abi::{Reason, TRIAL, is_reserved};

use crate::maps::{self, Record, Taker};
use crate::packet::{self, Family, Glance};
use crate::raw::{Sender, Skb};

#[inline(always)]
pub fn run(skb: Skb) -> Reason {
    match packet::family(skb) {
        Family::V4 => watch::<false>(skb),
        Family::V6 => watch::<true>(skb),
        Family::Other => Reason::ReflectNotIp,
    }
}

#[inline(always)]
fn watch<const V6: bool>(skb: Skb) -> Reason {
    let source = match packet::glance::<V6, { crate::ETHERNET }>(skb) {
        Glance::Syn { source, .. } | Glance::Tcp { source, .. } => source,
        _ => return Reason::ReflectOther,
    };
    if !is_reserved(source) {
        return Reason::ReflectOther;
    }
    let Sender::Leg(number) = skb.sender(maps::leg_sockets()) else { return Reason::ReflectOther };
    let Ok(segment) = packet::segment::<V6>(skb) else { return Reason::ReflectBroken };
    let destination = segment.destination::<V6>();
    if segment.opens() {
        if !maps::port(segment.destination_port()).reflected || !skb.sender_connects_to::<V6>(&destination) {
            return rerouted(number);
        }
        maps::note_turned(number);
    }
    // As in `reflect`: at the SYN, and with cookies at the ACK.
    if number & TRIAL != 0 {
        let leg = Record { client: segment.source::<V6>(), pod: destination, ports: segment.tcp[0] };
        if !maps::record(&leg, Taker::Trial) {
            return Reason::ReflectWriteFailed;
        }
    }
    Reason::ReflectLoopback
}

/// A leg's SYN goes where it must not arrive: the app would never get it. No further connection is steered, unless this one
/// was to find that out.
#[inline(always)]
pub fn rerouted(number: u64) -> Reason {
    if number & TRIAL == 0 {
        maps::set_diverted();
    }
    Reason::ReflectRerouted
}
