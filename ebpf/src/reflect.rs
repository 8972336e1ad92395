//! Egress: turns the agent's packets back to the app with the client's address as source, and the app's answers back
//! to the agent. Exchanging the two addresses changes no checksum.
//!
//! Parse, decide, apply. Applying writes addresses and the mark; the entry point redirects.

use redir_abi::{MARK, PacketVerdict, Reason, TRIAL, is_reserved};

use crate::icmp;
use crate::loopback;
use crate::maps::{self, ConnectionRecord};
use crate::packet::{self, NotTcp, QuickParse, RawFamily, TcpSegment};
use crate::raw::{HeaderStart, PacketBuffer, PacketSender};
use crate::socket::{self, LISTEN, NEW_SYN_RECV, NONE, SYN_SENT, SocketOwner, TIME_WAIT};

/// `MARK` travels with the packet as far as `steer`, which lets it pass and takes the mark off.
#[inline(always)]
pub fn run<const L2: usize>(skb: PacketBuffer) -> Reason {
    match packet::family(skb) {
        RawFamily::V4 => reflect::<false, L2>(skb),
        RawFamily::V6 => reflect::<true, L2>(skb),
        RawFamily::Other => Reason::ReflectNotIp,
    }
}

#[inline(always)]
fn reflect<const V6: bool, const L2: usize>(skb: PacketBuffer) -> Reason {
    if is_somebody_elses::<V6, L2>(skb) {
        return Reason::ReflectOther;
    }
    let segment = match packet::segment::<V6>(skb) {
        Ok(segment) => segment,
        Err(NotTcp::Protocol) => return icmp::run::<V6, L2>(skb),
        Err(why) => return loopback::broken(skb, why),
    };
    let reason = decide::<V6>(skb, &segment);
    if reason.verdict() != PacketVerdict::Redirect {
        return reason;
    }
    let late = matches!(reason, Reason::ReflectOutLate | Reason::ReflectReplyLate | Reason::ReflectReplyTimeWait);
    if late || segment.opens_or_ends() {
        let to_app = matches!(reason, Reason::ReflectOut | Reason::ReflectOutLate);
        maps::remember_leg(&leg::<V6>(&segment, to_app));
    }
    swap_and_mark::<V6, L2>(skb, segment.ip, reason)
}

/// The cheap look that ends almost every packet of the pod. Whatever a leg sends is looked at, wherever it goes: it has a
/// reserved port, unless a rule of the pod has given its SYN another one.
#[inline(always)]
fn is_somebody_elses<const V6: bool, const L2: usize>(skb: PacketBuffer) -> bool {
    match packet::glance::<V6, L2>(skb) {
        QuickParse::Syn { source, destination } => {
            !is_between(source, destination) && !skb.is_of_agent(maps::leg_sockets())
        }
        QuickParse::Tcp { source, destination } => {
            !(is_between(source, destination) || is_reserved(source) && skb.is_of_leg(maps::leg_sockets()))
        }
        QuickParse::Other(protocol) => protocol != icmp::protocol::<V6>(),
        QuickParse::Unclear => false,
    }
}

/// Whether the ports are those of a leg, in either direction.
#[inline(always)]
fn is_between(source: u16, destination: u16) -> bool {
    of_leg(source, destination) || of_leg(destination, source)
}

/// Whether the ports are those of a leg: the agent's and the app's.
#[inline(always)]
fn of_leg(agent: u16, app: u16) -> bool {
    is_reserved(agent) && maps::port(app).reflected
}

/// The leg that a packet belongs to if it is one's: both directions leave the pod with its address as source.
#[inline(always)]
fn leg<const V6: bool>(segment: &TcpSegment, to_app: bool) -> ConnectionRecord {
    let ports = if to_app { segment.tcp[0] } else { segment.tcp[0].rotate_left(16) };
    ConnectionRecord { client: segment.destination::<V6>(), pod: segment.source::<V6>(), ports }
}

/// Sockets are known by what the guardian has put on them, and what comes from no socket by its tuple; never by a mark.
#[inline(always)]
fn decide<const V6: bool>(skb: PacketBuffer, segment: &TcpSegment) -> Reason {
    let (source, destination) = (segment.source_port(), segment.destination_port());
    if is_reserved(source) || segment.opens() {
        let to_app = of_leg(source, destination);
        match skb.sender(maps::leg_sockets()) {
            PacketSender::Leg(number) if to_app => return turn_to_app::<V6>(skb, segment, number),
            PacketSender::Leg(number) => return loopback::elsewhere::<V6>(skb, segment, number),
            PacketSender::Accepted if segment.opens() => return Reason::ReflectElsewhere,
            // A socket of the pod may have the same ports: what it sends is its own.
            PacketSender::Kernel if to_app && maps::is_leg(&leg::<V6>(segment, true)) => return Reason::ReflectOutLate,
            _ => {}
        }
    }
    if of_leg(destination, source) { turn_reply::<V6>(skb, segment) } else { Reason::ReflectOther }
}

/// Agent to app.
#[inline(always)]
fn turn_to_app<const V6: bool>(skb: PacketBuffer, segment: &TcpSegment, number: u64) -> Reason {
    if segment.opens() {
        if loopback::was_rerouted::<V6>(skb, segment) {
            return loopback::rerouted(number);
        }
        match socket::state::<V6>(skb, &segment.swapped_tuple::<V6>()) {
            NONE | LISTEN | TIME_WAIT | NEW_SYN_RECV => {}
            // The client itself has this very connection with the app: a second SYN in it would break it.
            _ => return Reason::ReflectTupleTaken,
        }
        maps::note_turned(number);
    }
    // The stack looks for a listener at the SYN and, where it answers with a cookie, again at the ACK.
    if (number & TRIAL != 0 || segment.opens()) && !loopback::give_trial(number, segment, &leg::<V6>(segment, true)) {
        return Reason::ReflectTrialLost;
    }
    Reason::ReflectOut
}

/// The app's answer, if a socket of the agent waits for it or has waited.
#[inline(always)]
fn turn_reply<const V6: bool>(skb: PacketBuffer, segment: &TcpSegment) -> Reason {
    match socket::state_and_owner::<V6>(skb, &segment.swapped_tuple::<V6>()) {
        // Late segments: the agent's socket has closed first. Nobody's, but nothing else is on reserved ports.
        (TIME_WAIT, _) => Reason::ReflectReplyTimeWait,
        (NONE | LISTEN, _) => late_reply::<V6>(segment),
        // The answer to our SYN has SYN or RST; anything else is of an earlier leg, or of the client's own connection.
        (SYN_SENT, SocketOwner::Agent) if !segment.has_syn_or_rst() => late_reply::<V6>(segment),
        (_, SocketOwner::Agent) => Reason::ReflectReply,
        _ => Reason::ReflectNotOurs,
    }
}

#[inline(always)]
fn late_reply<const V6: bool>(segment: &TcpSegment) -> Reason {
    if maps::is_leg(&leg::<V6>(segment, false)) { Reason::ReflectReplyLate } else { Reason::ReflectNotOurs }
}

/// Writes the addresses in exchange, the device's own address as the frame's destination, and the mark.
#[inline(always)]
pub fn swap_and_mark<const V6: bool, const L2: usize>(skb: PacketBuffer, ip: [u32; 10], reason: Reason) -> Reason {
    if !swap_at::<V6, L2>(skb, 0, ip) || !turn_frame::<L2>(skb) {
        return Reason::ReflectWriteFailed;
    }
    skb.set_mark(MARK);
    reason
}

/// Exchanges the addresses of the IP header `offset` bytes after the outer one's start.
#[inline(always)]
pub fn swap_at<const V6: bool, const L2: usize>(skb: PacketBuffer, offset: u32, mut ip: [u32; 10]) -> bool {
    packet::swap::<V6>(&mut ip);
    let start = L2 as u32 + offset;
    if V6 {
        skb.store(start + 8, &[ip[2], ip[3], ip[4], ip[5], ip[6], ip[7], ip[8], ip[9]])
    } else {
        skb.store(start + 12, &[ip[3], ip[4]])
    }
}

#[inline(always)]
fn turn_frame<const L2: usize>(skb: PacketBuffer) -> bool {
    if L2 == 0 {
        return true;
    }
    let Some(own) = skb.load::<[u8; 6]>(HeaderStart::Link, 6) else { return false };
    skb.store(0, &own)
}
