//! Egress of `lo`: a leg to an address of the pod itself is never turned round, so its SYN is noted here. What is here and
//! should not be was sent here by the pod: a mesh redirects what leaves it to its proxy.

use redir_abi::{Reason, TRIAL, is_reserved};

use crate::maps::{self, Record, Taker};
use crate::packet::{self, Family, Glance, Segment};
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
    if number & TRIAL != 0 || segment.opens() {
        let leg = Record { client: segment.source::<V6>(), pod: destination, ports: segment.tcp[0] };
        if !give_trial(number, &segment, &leg) {
            return Reason::ReflectTrialLost;
        }
    }
    Reason::ReflectLoopback
}

/// Has the companion give a leg that only tries the way to its listener; false if that cannot be. What is left recorded of one
/// that has ended (it ends with a reset) must not catch another connection, least of all a leg to the app.
#[inline(always)]
pub fn give_trial(number: u64, segment: &Segment, leg: &Record) -> bool {
    let trial = number & TRIAL != 0;
    if trial && (segment.opens() || !segment.has_syn_or_rst()) {
        return maps::has_companion() && maps::record(leg, Taker::Trial);
    }
    maps::forget_record(leg);
    true
}

/// A leg's SYN goes where it must not arrive: the app would never get it. No further connection is steered, unless this one
/// was to find that out.
#[inline(always)]
pub fn rerouted(number: u64) -> Reason {
    if number & TRIAL != 0 {
        return Reason::ReflectTrialRerouted;
    }
    maps::set_diverted();
    Reason::ReflectRerouted
}
