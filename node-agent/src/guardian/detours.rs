//! Clients that reach the app on an armed port although they dialled another port or address: a rule of netfilter in the
//! pod sends them there, behind the programs, which have seen the port that was dialled.
//!
//! Owns: what tells such connections from those that the programs let pass for a reason of their own. Pure. Called by
//! `pod` at each look.

use std::{collections::BTreeSet, net::IpAddr};

use redir_abi::{Program, Reason};

/// The app's connections with clients themselves, and not with the agent.
type Direct = BTreeSet<(IpAddr, u16)>;

/// What was seen of one port.
#[derive(Debug, Default)]
pub(super) struct Detours {
    /// What was there before, and what had been let pass by then; none before the first look.
    base: Option<(Direct, u64)>,
    /// New since then.
    found: Direct,
}

impl Detours {
    /// Takes a look's connections, and how many packets the programs have let pass for reasons that are not about ports.
    /// True once it is certain.
    pub(super) fn saw(&mut self, direct: Direct, passed: u64) -> bool {
        match &self.base {
            Some((before, counted)) if *counted == passed => {
                self.found.extend(direct.difference(before).copied());
                while self.found.len() > ENOUGH {
                    self.found.pop_last();
                }
            }
            // It may be one of those that were let pass: begun anew.
            Some(_) | None => *self = Self { base: Some((direct, passed)), found: Direct::new() },
        }
        self.found.len() >= ENOUGH
    }
}

/// One may be a handshake that began before the port was armed and took long.
const ENOUGH: usize = 2;

/// Whether `steer` leaves new connections to an armed port to the app for this reason. All others are about packets of
/// other ports, of connections that exist, or that it has taken.
pub(super) fn lets_pass(reason: Reason) -> bool {
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
    reason.program() == Program::Steer && !harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(ports: &[u16]) -> Direct {
        ports.iter().map(|port| (IpAddr::from([192, 0, 2, 1]), *port)).collect()
    }

    #[test]
    fn two_new_connections_that_were_not_let_pass_are_certain() {
        let mut detours = Detours::default();
        assert!(!detours.saw(direct(&[1, 2, 3]), 7), "from before");
        assert!(!detours.saw(direct(&[1, 2, 3]), 7));
        assert!(!detours.saw(direct(&[4]), 7), "a slow handshake");
        assert!(!detours.saw(direct(&[4]), 7));
        assert!(detours.saw(direct(&[5]), 7));
        assert!(detours.saw(direct(&[]), 7));
    }

    #[test]
    fn what_the_programs_let_pass_is_no_detour() {
        let mut detours = Detours::default();
        detours.saw(direct(&[1]), 0);
        assert!(!detours.saw(direct(&[1, 2, 3]), 5), "an agent that hung for a while");
        assert!(!detours.saw(direct(&[2, 3]), 5), "they stay");
        assert!(!lets_pass(Reason::SteerBusy) && !lets_pass(Reason::ReflectOther));
        assert!(lets_pass(Reason::SteerStale) && lets_pass(Reason::SteerBypassed) && lets_pass(Reason::SteerNotPodIp));
    }
}
