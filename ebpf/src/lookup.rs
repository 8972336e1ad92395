//! The companion of `steer`: gives a new connection to the agent when the stack looks for its listener. That is after
//! netfilter (what a mesh in the pod redirects to its proxy stays the proxy's), and for a tuple in TIME_WAIT after the
//! stack has let the old connection go.
//!
//! It runs for every lookup of a listener in the pod's network namespace, also inside `bpf_skc_lookup_tcp`, where it
//! would falsify the question whether the app listens. So it takes nothing but a tuple `steer` has just recorded, once.

use aya_ebpf::programs::SkLookupContext;
use redir_abi::Reason;

use crate::maps::{self, AddressKey, ConnectionRecord, ListenerRole};
use crate::packet::{self, TCP};
use crate::raw::LookupContext;

const AF_INET6: u32 = 10;

#[inline(always)]
pub fn run(ctx: &SkLookupContext) -> Reason {
    let lookup = LookupContext::of(ctx);
    let (client, pod) = addresses(&lookup);
    // As in the TCP header: source first, both in network order.
    let ports = u32::from(lookup.remote_port) | u32::from((lookup.local_port as u16).to_be()) << 16;
    if lookup.protocol != u32::from(TCP) {
        return Reason::LookupOther;
    }
    let Some(taken) = maps::take(&ConnectionRecord { client, pod, ports }) else {
        return if is_dialled_itself(&lookup) { Reason::LookupAgentPort } else { Reason::LookupOther };
    };
    if taken.late {
        // Of whom it is now, is not known.
        Reason::LookupLate
    } else if maps::select_listener(ctx, lookup.family == AF_INET6, taken.taker) {
        Reason::LookupAssigned
    } else if taken.taker == ListenerRole::Trial {
        Reason::LookupTrialLost
    } else {
        Reason::LookupAssignFailed
    }
}

/// Whether a program of the pod dials the agent's listener by loopback. Refused here, it gets a reset at once; the listener's
/// filter could only drop the SYN, and the program would wait for minutes. The programs' own questions have no remote port, and
/// what netfilter's TPROXY asks for has a client's address.
#[inline(always)]
fn is_dialled_itself(lookup: &LookupContext) -> bool {
    let by_loopback = if lookup.family == AF_INET6 {
        const LOOPBACK: [u32; 4] = [0, 0, 0, 1_u32.to_be()];
        lookup.local_v6 == LOOPBACK && lookup.remote_v6 == LOOPBACK
    } else {
        lookup.local_v4 == 0x7f00_0001_u32.to_be() && u32::from_be(lookup.remote_v4) >> 24 == 127
    };
    by_loopback && lookup.remote_port != 0 && lookup.local_port == u32::from(maps::agent_port())
}

/// The client's address and the pod's.
#[inline(always)]
fn addresses(lookup: &LookupContext) -> (AddressKey, AddressKey) {
    if lookup.family == AF_INET6 {
        (lookup.remote_v6, lookup.local_v6)
    } else {
        (packet::mapped(lookup.remote_v4), packet::mapped(lookup.local_v4))
    }
}
