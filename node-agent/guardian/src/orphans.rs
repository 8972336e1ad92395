//! Source ports that a dead worker's connections still occupy: the app has not closed its ends yet.
//!
//! A new socket from such a port to the same client would take the place of the kernel's TIME_WAIT entry, by which the
//! app's last FIN finds back into the pod; the FIN would leave it. Called inside the pod's namespace by `pod`.

use std::collections::BTreeMap;

use redir_abi::is_reserved;

use super::connections::{self, PortConnection};

/// Source port → the app's port that it is connected to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OrphanedLegs {
    held: BTreeMap<u16, u16>,
}

impl OrphanedLegs {
    /// Takes note of the connections that a port has before the worker makes any.
    pub(super) fn note(&mut self, port: u16, connections: &[PortConnection]) {
        let sources = connections.iter().map(|connection| connection.peer_port).filter(|source| is_reserved(*source));
        self.held.extend(sources.map(|source| (source, port)));
    }

    /// Which of these ports must not be used yet. Looks again where one is asked for that was not free.
    pub(super) fn among(&mut self, sources: &[u16]) -> Vec<u16> {
        if sources.iter().any(|source| self.held.contains_key(source)) {
            self.look_again();
        }
        sources.iter().copied().filter(|source| self.held.contains_key(source)).collect()
    }

    fn look_again(&mut self) {
        let mut ports: Vec<_> = self.held.values().copied().collect();
        ports.sort_unstable();
        ports.dedup();
        for port in ports {
            // A kernel that does not tell any more leaves them occupied: there are others.
            let Ok(now) = connections::on_port(port) else { continue };
            self.held.retain(|source, at| *at != port || now.iter().any(|one| one.peer_port == *source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reserved_ports_are_noted_and_what_has_gone_is_free() {
        let mut orphans = OrphanedLegs::default();
        let connection = |peer_port| PortConnection { peer: None, peer_port, uid: 0, is_accepted: true };
        // Nothing is connected to port 1 of this machine: what is noted there is found gone.
        orphans.note(1, &[connection(700), connection(40_000), connection(20_000)]);
        assert_eq!(orphans.held.len(), 2);
        assert!(orphans.among(&[701]).is_empty());
        assert_eq!(orphans.held.len(), 2, "nobody asked for one of them");
        assert!(orphans.among(&[700, 701]).is_empty());
        assert_eq!(orphans, OrphanedLegs::default());
    }
}
