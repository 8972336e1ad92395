//! Ingress: gives new connections of an armed port to the agent.
//!
//! Parse, decide, apply. Decisions read maps and sockets and change nothing; applying is one record for the companion, or
//! one `bpf_sk_assign` where the kernel has no companion.

use redir_abi::{MARK, Reason, is_reserved};

use crate::maps::{self, ConnectionRecord, ListenerRole};
use crate::packet::{self, NotTcp, QuickParse, RawFamily, SynOptions, TcpFlags, TcpSegment};
use crate::raw::PacketBuffer;
use crate::socket::{self, LISTEN, NONE, SocketOwner, TIME_WAIT};

/// What is done with a packet that opens a connection to be steered.
enum SteerAction {
    /// Given to the agent's listener now.
    Assign(OpeningSegment),
    /// A SYN whose tuple is in TIME_WAIT. Assigned, the client would time out; the companion catches it.
    Record,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OpeningSegment {
    Syn,
    /// It may carry a SYN cookie.
    Ack,
}

/// `POD`: on a device of the pod, where `reflect` sends what it has turned; and only packets to one of the pod's addresses,
/// for any other `ip_forward` would drop them once assigned.
#[inline(always)]
pub fn run<const L2: usize, const POD: bool>(skb: PacketBuffer) -> Reason {
    if POD && skb.mark() == MARK {
        // Nothing in the pod is to see it: no rule, no route, no socket.
        skb.set_mark(0);
        return Reason::SteerOwnMark;
    }
    match packet::family(skb) {
        RawFamily::V4 => steer::<false, L2, POD>(skb),
        RawFamily::V6 => steer::<true, L2, POD>(skb),
        RawFamily::Other => Reason::SteerNotIp,
    }
}

#[inline(always)]
fn steer<const V6: bool, const L2: usize, const POD: bool>(skb: PacketBuffer) -> Reason {
    let mut segment = match parse::<V6, L2>(skb) {
        Ok(segment) => segment,
        Err(reason) => return reason,
    };
    match decide::<V6, POD>(skb, &segment) {
        Ok(SteerAction::Assign(opening)) => assign::<V6>(skb, &mut segment, opening),
        Ok(SteerAction::Record) => record::<V6>(&segment),
        Err(reason) => reason,
    }
}

/// A TCP segment to a port that is steered.
#[inline(always)]
fn parse<const V6: bool, const L2: usize>(skb: PacketBuffer) -> Result<TcpSegment, Reason> {
    match packet::glance::<V6, L2>(skb) {
        QuickParse::Syn { destination, .. } | QuickParse::Tcp { destination, .. }
            if !maps::port(destination).steered =>
        {
            return Err(Reason::SteerNotArmed);
        }
        QuickParse::Other(_) => return Err(Reason::SteerNotTcp),
        QuickParse::Syn { .. } | QuickParse::Tcp { .. } | QuickParse::Unclear => {}
    }
    let segment = packet::segment::<V6>(skb).map_err(|why| match why {
        NotTcp::Protocol => Reason::SteerNotTcp,
        NotTcp::Fragment => Reason::SteerFragment,
        NotTcp::Extension => Reason::SteerExtension,
        NotTcp::Malformed => Reason::SteerMalformed,
    })?;
    Ok(segment)
}

#[inline(always)]
fn decide<const V6: bool, const POD: bool>(skb: PacketBuffer, segment: &TcpSegment) -> Result<SteerAction, Reason> {
    let port = maps::port(segment.destination_port());
    if !port.steered {
        return Err(Reason::SteerNotArmed);
    }
    let opening = match segment.flags() {
        TcpFlags::Syn => OpeningSegment::Syn,
        TcpFlags::Ack => OpeningSegment::Ack,
        TcpFlags::Other => return Err(Reason::SteerFlags),
    };
    if is_reserved(segment.source_port()) {
        // What the agent sends to the pod itself passes here as it is.
        if !POD && socket::state_and_owner::<V6>(skb, &segment.sender_tuple::<V6>()).1 == SocketOwner::Agent {
            return Err(Reason::SteerOwnMark);
        }
        // Whatever becomes of it: the tuple is the client's own from now on.
        if opening == OpeningSegment::Syn {
            maps::forget_leg(&tuple::<V6>(segment));
        }
    }
    // Most packets that come this far belong to a connection: this lookup is what ends them.
    let tuple = segment.tuple::<V6>();
    let way = match socket::state::<V6>(skb, &tuple) {
        LISTEN => SteerAction::Assign(opening),
        NONE if port.ungated => SteerAction::Assign(opening),
        NONE => return Err(Reason::SteerNotListening),
        TIME_WAIT if opening == OpeningSegment::Syn => SteerAction::Record,
        _ => return Err(Reason::SteerBusy),
    };
    if POD && !maps::is_pod_ip(&segment.destination::<V6>()) {
        return Err(Reason::SteerNotPodIp);
    }
    if maps::is_bypassed::<V6>(&segment.source::<V6>()) {
        return Err(Reason::SteerBypassed);
    }
    if maps::is_diverted() {
        return Err(Reason::SteerDiverted);
    }
    if !maps::worker_is_alive() {
        return Err(Reason::SteerStale);
    }
    if opening == OpeningSegment::Syn {
        match segment.options(skb) {
            SynOptions::Plain => {}
            SynOptions::Signed => return Err(Reason::SteerSigned),
            SynOptions::Join => return Err(Reason::SteerJoin),
            SynOptions::TooMany => return Err(Reason::SteerMalformed),
        }
    }
    if let SteerAction::Record = way {
        // A reserved port may be one of the agent's own upstream ports towards the app.
        if is_reserved(segment.source_port()) {
            return Err(Reason::SteerTimeWait);
        }
        if !port.ungated && !socket::is_listening::<V6>(skb, &tuple) {
            return Err(Reason::SteerNotListening);
        }
    }
    Ok(way)
}

#[inline(always)]
fn assign<const V6: bool>(skb: PacketBuffer, segment: &mut TcpSegment, opening: OpeningSegment) -> Reason {
    let Some(listener) = socket::agent_listener::<V6>(skb) else { return Reason::SteerNoListener };
    let reason = match opening {
        OpeningSegment::Syn => Reason::SteerAssigned,
        OpeningSegment::Ack if listener.sent_cookie::<V6>(&mut segment.ip, &mut segment.tcp) => Reason::SteerCookie,
        OpeningSegment::Ack => Reason::SteerNoCookie,
    };
    if !matches!(reason, Reason::SteerNoCookie) {
        // Netfilter may still send the packet elsewhere (a mesh redirects it to its proxy): the companion looks after
        // that, while an assigned socket would get it all the same, under a port that nobody intercepts.
        let given = if maps::has_companion() {
            maps::record(&tuple::<V6>(segment), ListenerRole::Agent)
        } else {
            listener.assign(skb)
        };
        if !given {
            maps::count(Reason::SteerAssignFailed);
        }
    }
    listener.release();
    reason
}

#[inline(always)]
fn record<const V6: bool>(segment: &TcpSegment) -> Reason {
    if !maps::record(&tuple::<V6>(segment), ListenerRole::Agent) {
        maps::count(Reason::SteerAssignFailed);
    }
    Reason::SteerTimeWaitRecorded
}

#[inline(always)]
fn tuple<const V6: bool>(segment: &TcpSegment) -> ConnectionRecord {
    ConnectionRecord { client: segment.source::<V6>(), pod: segment.destination::<V6>(), ports: segment.tcp[0] }
}
