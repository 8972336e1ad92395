//! Ingress: gives new connections of an armed port to the agent.
//!
//! Parse, decide, apply. Decisions read maps and sockets and change nothing; applying is one record for the companion, or
//! one `bpf_sk_assign` where the kernel has no companion.

use redir_abi::{MARK, Reason, is_reserved};

use crate::maps::{self, Record, Taker};
use crate::packet::{self, Family, Flags, Glance, NotTcp, Options, Segment};
use crate::raw::Skb;
use crate::socket::{self, LISTEN, NONE, Owner, TIME_WAIT};

/// What is done with a packet that opens a connection to be steered.
enum Way {
    /// Given to the agent's listener now.
    Assign(Opening),
    /// A SYN whose tuple is in TIME_WAIT. Assigned, the client would time out; the companion catches it.
    Record,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    Syn,
    /// It may carry a SYN cookie.
    Ack,
}

/// `POD`: on a device of the pod, where `reflect` sends what it has turned; and only packets to one of the pod's addresses,
/// for any other `ip_forward` would drop them once assigned.
#[inline(always)]
pub fn run<const L2: usize, const POD: bool>(skb: Skb) -> Reason {
    if POD && skb.mark() == MARK {
        // Nothing in the pod is to see it: no rule, no route, no socket.
        skb.set_mark(0);
        return Reason::SteerOwnMark;
    }
    match packet::family(skb) {
        Family::V4 => steer::<false, L2, POD>(skb),
        Family::V6 => steer::<true, L2, POD>(skb),
        Family::Other => Reason::SteerNotIp,
    }
}

#[inline(always)]
fn steer<const V6: bool, const L2: usize, const POD: bool>(skb: Skb) -> Reason {
    let mut segment = match parse::<V6, L2>(skb) {
        Ok(segment) => segment,
        Err(reason) => return reason,
    };
    match decide::<V6, POD>(skb, &segment) {
        Ok(Way::Assign(opening)) => assign::<V6>(skb, &mut segment, opening),
        Ok(Way::Record) => record::<V6>(&segment),
        Err(reason) => reason,
    }
}

/// A TCP segment to a port that is steered.
#[inline(always)]
fn parse<const V6: bool, const L2: usize>(skb: Skb) -> Result<Segment, Reason> {
    match packet::glance::<V6, L2>(skb) {
        Glance::Syn { destination, .. } | Glance::Tcp { destination, .. } if !maps::port(destination).steered => {
            return Err(Reason::SteerNotArmed);
        }
        Glance::Other(_) => return Err(Reason::SteerNotTcp),
        Glance::Syn { .. } | Glance::Tcp { .. } | Glance::Unclear => {}
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
fn decide<const V6: bool, const POD: bool>(skb: Skb, segment: &Segment) -> Result<Way, Reason> {
    let port = maps::port(segment.destination_port());
    if !port.steered {
        return Err(Reason::SteerNotArmed);
    }
    let opening = match segment.flags() {
        Flags::Syn => Opening::Syn,
        Flags::Ack => Opening::Ack,
        Flags::Other => return Err(Reason::SteerFlags),
    };
    if is_reserved(segment.source_port()) {
        // What the agent sends to the pod itself passes here as it is.
        if !POD && socket::state_and_owner::<V6>(skb, &segment.sender_tuple::<V6>()).1 == Owner::Agent {
            return Err(Reason::SteerOwnMark);
        }
        // Whatever becomes of it: the tuple is the client's own from now on.
        if opening == Opening::Syn {
            maps::forget_leg(&tuple::<V6>(segment));
        }
    }
    // Most packets that come this far belong to a connection: this lookup is what ends them.
    let tuple = segment.tuple::<V6>();
    let way = match socket::state::<V6>(skb, &tuple) {
        LISTEN => Way::Assign(opening),
        NONE if port.ungated => Way::Assign(opening),
        NONE => return Err(Reason::SteerNotListening),
        TIME_WAIT if opening == Opening::Syn => Way::Record,
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
    if opening == Opening::Syn {
        match segment.options(skb) {
            Options::Plain => {}
            Options::Signed => return Err(Reason::SteerSigned),
            Options::Join => return Err(Reason::SteerJoin),
            Options::TooMany => return Err(Reason::SteerMalformed),
        }
    }
    if let Way::Record = way {
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
fn assign<const V6: bool>(skb: Skb, segment: &mut Segment, opening: Opening) -> Reason {
    let Some(listener) = socket::agent_listener::<V6>(skb) else { return Reason::SteerNoListener };
    let reason = match opening {
        Opening::Syn => Reason::SteerAssigned,
        Opening::Ack if listener.sent_cookie::<V6>(&mut segment.ip, &mut segment.tcp) => Reason::SteerCookie,
        Opening::Ack => Reason::SteerNoCookie,
    };
    if !matches!(reason, Reason::SteerNoCookie) {
        // Netfilter may still send the packet elsewhere (a mesh redirects it to its proxy): the companion looks after
        // that, while an assigned socket would get it all the same, under a port that nobody intercepts.
        let given = if maps::has_companion() {
            maps::record(&tuple::<V6>(segment), Taker::Agent)
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
fn record<const V6: bool>(segment: &Segment) -> Reason {
    if !maps::record(&tuple::<V6>(segment), Taker::Agent) {
        maps::count(Reason::SteerAssignFailed);
    }
    Reason::SteerTimeWaitRecorded
}

#[inline(always)]
fn tuple<const V6: bool>(segment: &Segment) -> Record {
    Record { client: segment.source::<V6>(), pod: segment.destination::<V6>(), ports: segment.tcp[0] }
}
