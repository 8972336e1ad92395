//! Egress of `lo`: a leg to an address of the pod itself is never turned round, so its SYN is noted here. What is here and
//! should not be was sent here by the pod: a mesh redirects what leaves it to its proxy.

use redir_abi::{Reason, TRIAL, is_reserved};

use crate::maps::{self, ConnectionRecord, ListenerRole};
use crate::packet::{self, NotTcp, QuickParse, RawFamily, TcpSegment};
use crate::raw::{PacketBuffer, PacketSender};

#[inline(always)]
pub fn run(skb: PacketBuffer) -> Reason {
    match packet::family(skb) {
        RawFamily::V4 => watch::<false>(skb),
        RawFamily::V6 => watch::<true>(skb),
        RawFamily::Other => Reason::ReflectNotIp,
    }
}

#[inline(always)]
fn watch<const V6: bool>(skb: PacketBuffer) -> Reason {
    match packet::glance::<V6, { crate::ETHERNET }>(skb) {
        QuickParse::Syn { .. } | QuickParse::Unclear => {}
        QuickParse::Tcp { source, .. } if is_reserved(source) => {}
        QuickParse::Tcp { .. } | QuickParse::Other(_) => return Reason::ReflectOther,
    }
    let sender = skb.sender(maps::leg_sockets());
    if !matches!(sender, PacketSender::Leg(_) | PacketSender::Accepted) {
        return Reason::ReflectOther;
    }
    let segment = match packet::segment::<V6>(skb) {
        Ok(segment) => segment,
        Err(why) => return broken(skb, why),
    };
    let number = match sender {
        PacketSender::Leg(number) => number,
        _ if segment.opens() => return Reason::ReflectElsewhere,
        _ => return Reason::ReflectOther,
    };
    if !maps::port(segment.destination_port()).reflected {
        return elsewhere::<V6>(skb, &segment, number);
    }
    let destination = segment.destination::<V6>();
    if segment.opens() {
        if was_rerouted::<V6>(skb, &segment) {
            return rerouted(number);
        }
        maps::note_turned(number);
    }
    // As in `reflect`: at the SYN, and with cookies at the ACK.
    if number & TRIAL != 0 || segment.opens() {
        let leg = ConnectionRecord { client: segment.source::<V6>(), pod: destination, ports: segment.tcp[0] };
        if !give_trial(number, &segment, &leg) {
            return Reason::ReflectTrialLost;
        }
    }
    Reason::ReflectLoopback
}

/// Has the companion give a leg that only tries the way to its listener; false if that cannot be. What is left recorded of one
/// that has ended (it ends with a reset) must not catch another connection, least of all a leg to the app.
#[inline(always)]
pub fn give_trial(number: u64, segment: &TcpSegment, leg: &ConnectionRecord) -> bool {
    let trial = number & TRIAL != 0;
    if trial && (segment.opens() || !segment.has_syn_or_rst()) {
        return maps::has_companion() && maps::record(leg, ListenerRole::Trial);
    }
    maps::forget_record(leg);
    true
}

/// What is no whole packet. Of a leg it is not to be understood, and not to be sent to a client; what accepts sends no
/// extension headers, behind which a SYN could hide.
#[inline(always)]
pub fn broken(skb: PacketBuffer, why: NotTcp) -> Reason {
    match (skb.sender(maps::leg_sockets()), why) {
        (PacketSender::Leg(_), _) | (PacketSender::Accepted, NotTcp::Extension) => Reason::ReflectBroken,
        _ => Reason::ReflectOther,
    }
}

/// What a leg's socket sends to anything but the app stays here: whoever holds it reaches nothing else as the pod.
#[inline(always)]
pub fn elsewhere<const V6: bool>(skb: PacketBuffer, segment: &TcpSegment, number: u64) -> Reason {
    if segment.opens() && was_rerouted::<V6>(skb, segment) {
        return rerouted(number);
    }
    Reason::ReflectElsewhere
}

/// Whether the pod has changed a port or the destination of a leg's SYN.
#[inline(always)]
pub fn was_rerouted<const V6: bool>(skb: PacketBuffer, segment: &TcpSegment) -> bool {
    let to = segment.destination::<V6>();
    !is_reserved(segment.source_port()) || !skb.sender_connects_to::<V6>(&to, segment.destination_port())
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
