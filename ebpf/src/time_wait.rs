//! The companion of `steer`: a SYN whose tuple is in TIME_WAIT finds its listener only after the stack has let the old
//! connection go, and this program is asked then.
//!
//! It runs for every lookup of a listener in the pod's network namespace, also inside `bpf_skc_lookup_tcp`, where it
//! would falsify the question whether the app listens. So it takes nothing but the tuple `steer` has just recorded.

use aya_ebpf::programs::SkLookupContext;
use redir_abi::Reason;

use crate::maps::{self, Key};
use crate::packet::{self, TCP};
use crate::raw::Lookup;

const AF_INET6: u32 = 10;

#[inline(always)]
pub fn run(ctx: &SkLookupContext) -> Reason {
    let Some(record) = maps::recorded() else { return Reason::TimeWaitOther };
    let lookup = Lookup::of(ctx);
    let (client, pod) = addresses(&lookup);
    let same_ports = lookup.remote_port == record.ports as u16
        && lookup.local_port == u32::from(packet::destination_port(record.ports));
    if lookup.protocol != u32::from(TCP) || !same_ports || client != record.client || pod != record.pod {
        return Reason::TimeWaitOther;
    }
    maps::record(maps::Record { at: 0, ..record });
    if maps::select_listener(ctx, lookup.family == AF_INET6) {
        Reason::TimeWaitAssigned
    } else {
        Reason::TimeWaitAssignFailed
    }
}

/// The client's address and the pod's.
#[inline(always)]
fn addresses(lookup: &Lookup) -> (Key, Key) {
    if lookup.family == AF_INET6 {
        (lookup.remote_v6, lookup.local_v6)
    } else {
        (packet::mapped(lookup.remote_v4), packet::mapped(lookup.local_v4))
    }
}
