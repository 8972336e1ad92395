//! Clients that reach the app on an armed port past the programs. Most have dialled another port or address: a rule of
//! netfilter in the pod sends them there, behind the programs, which have seen what was dialled. Where those have not seen
//! a packet, something on the pod's device takes packets before them.
//!
//! Owns: what tells such connections from those that the programs let pass for a reason of their own. Pure. Called by
//! `pod` at each look.

use std::{collections::BTreeSet, net::IpAddr};

use redir_abi::{ProgramName, Reason};

use redir_ipc::PortDetour;

/// The app's connections with clients themselves, and not with the agent.
type DirectConnections = BTreeSet<(IpAddr, u16)>;

/// What `steer` has counted in a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SteerCounts {
    /// Packets that it let pass for reasons that are not about ports.
    passed: u64,
    /// All packets but the agent's own.
    seen: u64,
}

impl SteerCounts {
    pub(super) fn of(counters: &[(Reason, u64)]) -> Self {
        let sum =
            |counts: fn(Reason) -> bool| counters.iter().filter(|(reason, _)| counts(*reason)).map(|(_, n)| n).sum();
        let seen = |reason: Reason| reason.program() == ProgramName::Steer && reason != Reason::SteerOwnMark;
        Self { passed: sum(lets_pass), seen: sum(seen) }
    }
}

/// What was seen of one port.
#[derive(Debug, Default)]
pub(super) struct PortDetours {
    /// What was there before, and what had been counted by then; none before the first look.
    base: Option<(DirectConnections, SteerCounts)>,
    /// New since then.
    found: DirectConnections,
    /// What is certain.
    certain: Option<PortDetour>,
}

impl PortDetours {
    /// Takes a look's connections, and what `steer` has counted by now. The result is what is certain.
    pub(super) fn saw(&mut self, direct: DirectConnections, steered: SteerCounts) -> Option<PortDetour> {
        if self.certain.is_some() {
            return self.certain;
        }
        match &self.base {
            Some((before, counted)) if counted.passed == steered.passed => {
                self.found.extend(direct.difference(before).copied());
                while self.found.len() > ENOUGH {
                    self.found.pop_last();
                }
                if self.found.len() >= ENOUGH {
                    let unseen = counted.seen == steered.seen;
                    self.certain = Some(if unseen { PortDetour::Unseen } else { PortDetour::Redirected });
                }
            }
            // It may be one of those that were let pass: begun anew.
            Some(_) | None => *self = Self { base: Some((direct, steered)), ..Self::default() },
        }
        self.certain
    }
}

/// One may be a handshake that began before the port was armed and took long.
const ENOUGH: usize = 2;

/// Whether `steer` leaves new connections to an armed port to the app for this reason. All others are about packets of
/// other ports, of connections that exist, or that it has taken.
fn lets_pass(reason: Reason) -> bool {
    use Reason::{
        SteerAssigned, SteerBusy, SteerCookie, SteerFlags, SteerNoCookie, SteerNotArmed, SteerNotIp, SteerNotListening,
        SteerNotTcp, SteerOwnMark, SteerTimeWaitRecorded,
    };
    let harmless = matches!(
        reason,
        SteerOwnMark
            | SteerNotIp
            | SteerNotTcp
            | SteerNotArmed
            | SteerFlags
            | SteerBusy
            | SteerNotListening
            | SteerAssigned
            | SteerCookie
            | SteerNoCookie
            | SteerTimeWaitRecorded
    );
    reason.program() == ProgramName::Steer && !harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(ports: &[u16]) -> DirectConnections {
        ports.iter().map(|port| (IpAddr::from([192, 0, 2, 1]), *port)).collect()
    }

    fn steered(passed: u64, seen: u64) -> SteerCounts {
        SteerCounts { passed, seen }
    }

    #[test]
    fn two_new_connections_that_were_not_let_pass_are_certain() {
        let mut detours = PortDetours::default();
        assert_eq!(detours.saw(direct(&[1, 2, 3]), steered(7, 1)), None, "from before");
        assert_eq!(detours.saw(direct(&[1, 2, 3]), steered(7, 2)), None);
        assert_eq!(detours.saw(direct(&[4]), steered(7, 3)), None, "a slow handshake");
        assert_eq!(detours.saw(direct(&[4]), steered(7, 4)), None);
        assert_eq!(detours.saw(direct(&[5]), steered(7, 5)), Some(PortDetour::Redirected));
        assert_eq!(detours.saw(direct(&[]), steered(8, 5)), Some(PortDetour::Redirected));
    }

    #[test]
    fn two_of_which_no_packet_was_seen_are_known_as_such_for_good() {
        let mut detours = PortDetours::default();
        assert_eq!(detours.saw(direct(&[1]), steered(7, 9)), None);
        assert_eq!(detours.saw(direct(&[2]), steered(7, 9)), None);
        assert_eq!(detours.saw(direct(&[3]), steered(7, 9)), Some(PortDetour::Unseen));
        assert_eq!(
            detours.saw(direct(&[4]), steered(7, 10)),
            Some(PortDetour::Unseen),
            "somebody inside the pod, later"
        );
    }

    #[test]
    fn the_agents_own_packets_do_not_count_as_seen() {
        let all: Vec<_> = Reason::ALL.into_iter().map(|reason| (reason, 1)).collect();
        let own: Vec<_> =
            all.iter().map(|(reason, n)| (*reason, n + u64::from(*reason == Reason::SteerOwnMark))).collect();
        let reflected: Vec<_> =
            all.iter().map(|(reason, n)| (*reason, n + u64::from(reason.program() != ProgramName::Steer))).collect();
        assert_eq!(SteerCounts::of(&own), SteerCounts::of(&all));
        assert_eq!(SteerCounts::of(&reflected), SteerCounts::of(&all));
        assert!(SteerCounts::of(&all).seen > SteerCounts::of(&all).passed);
    }

    #[test]
    fn what_the_programs_let_pass_is_no_detour() {
        let mut detours = PortDetours::default();
        detours.saw(direct(&[1]), steered(0, 0));
        assert_eq!(detours.saw(direct(&[1, 2, 3]), steered(5, 9)), None, "an agent that hung for a while");
        assert_eq!(detours.saw(direct(&[2, 3]), steered(5, 9)), None, "they stay");
        assert!(!lets_pass(Reason::SteerBusy) && !lets_pass(Reason::ReflectOther));
        assert!(lets_pass(Reason::SteerStale) && lets_pass(Reason::SteerBypassed) && lets_pass(Reason::SteerNotPodIp));
    }
}
