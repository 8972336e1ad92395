//! Why a program did what it did: the index of its counter, its name in the metrics, and what becomes of the packet.

/// Which program counts a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProgramName {
    /// Ingress: gives new connections to the agent.
    Steer,
    /// Egress: turns the agent's packets back to the app, and the app's answers back to the agent.
    Reflect,
    /// `sk_lookup`: gives the connections that `steer` has recorded to the agent's listener.
    Lookup,
    /// Filter of the agent's sockets in the pod.
    Filter,
}

impl ProgramName {
    /// Its name in the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steer => "steer",
            Self::Reflect => "reflect",
            Self::Lookup => "lookup",
            Self::Filter => "filter",
        }
    }
}

/// What becomes of a packet that was decided for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketVerdict {
    /// Goes its way; also a steered packet, which was only given a socket.
    Next,
    /// Dropped: sending it on would break a live connection or leak it to a client.
    Drop,
    /// Swapped and sent to the ingress of the device it was leaving by.
    Redirect,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $program:ident, $verdict:ident;)+) => {
        /// Why a program did what it did with one packet. The discriminant is the index of the counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// All of them, in the order of their counters.
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// Its name in the metrics, unique for each program.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The program that counts it.
            pub const fn program(self) -> ProgramName {
                match self { $(Self::$variant => ProgramName::$program,)+ }
            }

            /// What becomes of the packet.
            #[inline(always)]
            pub const fn verdict(self) -> PacketVerdict {
                match self { $(Self::$variant => PacketVerdict::$verdict,)+ }
            }
        }
    };
}

reasons! {
    /// The agent's own packet, or what the app answers to it.
    SteerOwnMark = "own_mark", Steer, Next;
    /// The app cannot be reached through the agent (the pod sends its SYNs elsewhere), so everything goes to it directly.
    SteerDiverted = "diverted", Steer, Next;
    /// Neither IPv4 nor IPv6, or with a VLAN tag.
    SteerNotIp = "not_ip", Steer, Next;
    /// Not TCP.
    SteerNotTcp = "not_tcp", Steer, Next;
    /// TCP to a port that nobody intercepts.
    SteerNotArmed = "not_armed", Steer, Next;
    /// A fragment.
    SteerFragment = "fragment", Steer, Next;
    /// IPv6 with an extension header other than BIG TCP's.
    SteerExtension = "extension_header", Steer, Next;
    /// Headers shorter than they say, or of another version.
    SteerMalformed = "malformed", Steer, Next;
    /// To an address that is not the pod's own.
    SteerNotPodIp = "not_pod_ip", Steer, Next;
    /// Of a connection that exists, or flags that open none.
    SteerFlags = "flags", Steer, Next;
    /// From a client whose upstream ports run short.
    SteerBypassed = "bypassed", Steer, Next;
    /// The worker's heartbeat is older than the limit.
    SteerStale = "heartbeat_stale", Steer, Next;
    /// The app does not listen on this port.
    SteerNotListening = "app_not_listening", Steer, Next;
    /// A SYN with TCP's MD5 or AO option: client and app share a key that the agent does not have.
    SteerSigned = "tcp_signature", Steer, Next;
    /// A SYN that joins a connection of Multipath TCP, which the app has.
    SteerJoin = "mptcp_join", Steer, Next;
    /// The tuple belongs to a live connection.
    SteerBusy = "tuple_in_use", Steer, Next;
    /// The tuple is in TIME_WAIT and goes to the app.
    SteerTimeWait = "time_wait", Steer, Next;
    /// The tuple is in TIME_WAIT and was left to the companion.
    SteerTimeWaitRecorded = "time_wait_recorded", Steer, Next;
    /// The agent has no listener of this family.
    SteerNoListener = "no_listener", Steer, Next;
    /// An ACK that carries no SYN cookie of the agent's listener.
    SteerNoCookie = "no_cookie", Steer, Next;
    /// A SYN given to the agent.
    SteerAssigned = "steered", Steer, Next;
    /// An ACK with a SYN cookie given to the agent.
    SteerCookie = "steered_cookie", Steer, Next;
    /// The kernel refused an assignment that was decided (counted beside the decision).
    SteerAssignFailed = "assign_failed", Steer, Next;
    /// Neither IPv4 nor IPv6, or with a VLAN tag.
    ReflectNotIp = "not_ip", Reflect, Next;
    /// Not between an armed port and a reserved port, and no ICMP error about such a packet.
    ReflectOther = "other", Reflect, Next;
    /// Agent to app: sent back in.
    ReflectOut = "out", Reflect, Redirect;
    /// To the app from the kernel itself, for a leg whose socket is gone (a reset, TIME_WAIT's answer): sent back in.
    ReflectOutLate = "out_late", Reflect, Redirect;
    /// Agent to app, a SYN whose tuple the app has in use: dropped, the agent takes another port.
    ReflectTupleTaken = "tuple_in_use", Reflect, Drop;
    /// A SYN of the agent to the app that the pod sends elsewhere (a mesh takes what leaves it): dropped.
    ReflectRerouted = "own_syn_rerouted", Reflect, Drop;
    /// The same of a leg that was only to find that out: dropped.
    ReflectTrialRerouted = "trial_syn_rerouted", Reflect, Drop;
    /// Of a leg that only tries the way, while nothing could give it to its listener: dropped, the app must not get it.
    ReflectTrialLost = "trial_lost", Reflect, Drop;
    /// Of the agent to an address of the pod itself, on `lo`, where nothing is turned.
    ReflectLoopback = "loopback", Reflect, Next;
    /// From a socket of the agent, but no whole TCP packet: dropped, it must not reach a client.
    ReflectBroken = "own_broken", Reflect, Drop;
    /// From a socket of the agent to something else than the app, or a SYN from one that accepts: dropped, the agent reaches
    /// nothing else as the pod.
    ReflectElsewhere = "own_elsewhere", Reflect, Drop;
    /// App to agent: sent back in.
    ReflectReply = "reply", Reflect, Redirect;
    /// App to agent, whose socket is in TIME_WAIT: sent back in.
    ReflectReplyTimeWait = "reply_time_wait", Reflect, Redirect;
    /// App to agent, whose socket is gone: sent back in, where the kernel answers with a reset.
    ReflectReplyLate = "reply_late", Reflect, Redirect;
    /// Of an armed port towards a reserved port, but no socket of the agent waits for it: a client's own.
    ReflectNotOurs = "not_ours", Reflect, Next;
    /// An ICMP error about a reflected packet: sent back in.
    ReflectIcmp = "icmp", Reflect, Redirect;
    /// The kernel could not write the swapped addresses: dropped.
    ReflectWriteFailed = "write_failed", Reflect, Drop;
    /// No tuple that `steer` has just recorded.
    LookupOther = "other", Lookup, Next;
    /// Given to the agent's listener.
    LookupAssigned = "steered", Lookup, Next;
    /// The kernel refused the assignment, or the listener is gone: left to the app.
    LookupAssignFailed = "assign_failed", Lookup, Next;
    /// Recorded too long ago: left to the app.
    LookupLate = "late", Lookup, Next;
    /// A leg that only tries the way, whose listener is gone: refused, the app must not get it.
    LookupTrialLost = "trial_lost", Lookup, Drop;
    /// A program of the pod dials the port of the agent's listener itself: refused.
    LookupAgentPort = "agent_port", Lookup, Drop;
    /// A SYN to a socket of the agent, and to a port that nobody intercepts: dropped.
    FilterSyn = "syn", Filter, Drop;
    /// To a socket of the agent that is kept beyond the release of the pod: dropped.
    FilterReleased = "released", Filter, Drop;
}

/// Number of counters.
#[expect(clippy::cast_possible_truncation, reason = "a few dozen")]
pub const REASONS: u32 = Reason::ALL.len() as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_dense_and_names_unique() {
        for (i, a) in Reason::ALL.iter().enumerate() {
            assert_eq!(*a as usize, i);
            assert!(a.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            for b in &Reason::ALL[..i] {
                assert!((a.name(), a.program()) != (b.name(), b.program()), "{a:?} {b:?}");
            }
        }
    }
}
