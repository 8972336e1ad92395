//! Which handshakes are under way, and which gives way to a newcomer.
//!
//! Owns: the places, and their order. Must not: know QUIC. Called by: `agent`.
//!
//! A handshake costs whoever begins it one packet, and has no key yet by which to tell developers from others. So nobody is
//! shut out for others' sake: who comes when all places are taken gets the place of the oldest handshake of the client that
//! has most of them. A handshake takes two round trips, and a developer's is over before many others begin.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::source::ClientKey;

/// The handshakes under way; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshakes(Arc<Mutex<HandshakeTable>>);

#[derive(Debug, Default)]
struct HandshakeTable {
    /// By age.
    places: BTreeMap<u64, HandshakeEntry>,
    next: u64,
}

#[derive(Debug)]
struct HandshakeEntry {
    client: ClientKey,
    /// Dropped when another takes the place.
    _displaced: oneshot::Sender<()>,
}

/// What becomes of a newcomer.
#[derive(Debug)]
pub(crate) enum HandshakeAdmission {
    /// It may go on.
    Admitted(HandshakePlace),
    /// It must first prove that its address is not forged.
    Prove,
}

/// A handshake's place until it is dropped.
#[derive(Debug)]
pub(crate) struct HandshakePlace {
    handshakes: Handshakes,
    number: u64,
    displaced: oneshot::Receiver<()>,
}

impl Handshakes {
    /// A handshake begins. `proven`: its address is not forged.
    pub(crate) fn admit(&self, client: ClientKey, proven: bool) -> HandshakeAdmission {
        let mut table = self.lock();
        let own = table.of(client);
        if !proven && (table.places.len() >= PROVE_ABOVE || own >= PROVE_CLIENT_ABOVE) {
            return HandshakeAdmission::Prove;
        }
        if own >= MOST_OF_CLIENT {
            table.displace(client);
        } else if table.places.len() >= MOST
            && let Some(client) = table.largest()
        {
            table.displace(client);
        }
        let number = table.next;
        table.next += 1;
        let (_displaced, displaced) = oneshot::channel();
        table.places.insert(number, HandshakeEntry { client, _displaced });
        HandshakeAdmission::Admitted(HandshakePlace { handshakes: self.clone(), number, displaced })
    }

    fn lock(&self) -> MutexGuard<'_, HandshakeTable> {
        // A map and a number: no half-done state that a panic could leave.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HandshakeTable {
    fn of(&self, client: ClientKey) -> usize {
        self.places.values().filter(|entry| entry.client == client).count()
    }

    /// The client with most places; among equals the one that has the oldest.
    fn largest(&self) -> Option<ClientKey> {
        let mut clients: HashMap<ClientKey, (usize, u64)> = HashMap::new();
        for (number, entry) in &self.places {
            clients.entry(entry.client).or_insert((0, *number)).0 += 1;
        }
        let largest = clients.into_iter().max_by_key(|(_, (count, oldest))| (*count, std::cmp::Reverse(*oldest)));
        largest.map(|(client, _)| client)
    }

    /// Takes a client's oldest place away.
    fn displace(&mut self, client: ClientKey) {
        let oldest = self.places.iter().find(|(_, entry)| entry.client == client).map(|(number, _)| *number);
        oldest.and_then(|number| self.places.remove(&number));
    }
}

impl HandshakePlace {
    /// Resolves when another has taken the place.
    pub(crate) async fn displaced(&mut self) {
        // The sender only ever goes.
        (&mut self.displaced).await.ok();
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.handshakes.lock().places.remove(&self.number);
    }
}

/// Handshakes under way at once. Each holds some tens of KiB.
pub(crate) const MOST: usize = 256;
/// Those of one client: an office behind one address, all of whose tunnels come back at once.
pub(crate) const MOST_OF_CLIENT: usize = 64;
/// Handshakes under way above which addresses must prove that they are not forged. It costs a round trip.
pub(crate) const PROVE_ABOVE: usize = 32;
/// Handshakes of one client above which its next ones must: a forged address takes no place from its owner.
pub(crate) const PROVE_CLIENT_ABOVE: usize = 8;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use super::*;

    /// An address of a network.
    fn client(network: usize, host: usize) -> ClientKey {
        ClientKey::of(Ipv6Addr::from_bits((0x2001_0db8 << 96) | ((network as u128) << 64) | host as u128).into())
    }

    fn admitted(handshakes: &Handshakes, client: ClientKey) -> HandshakePlace {
        match handshakes.admit(client, true) {
            HandshakeAdmission::Admitted(place) => place,
            HandshakeAdmission::Prove => panic!("it has proved itself"),
        }
    }

    fn is_displaced(place: &mut HandshakePlace) -> bool {
        place.displaced.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn under_load_addresses_prove_themselves() {
        let handshakes = Handshakes::default();
        let mut places = Vec::new();
        for _ in 0..PROVE_CLIENT_ABOVE {
            let HandshakeAdmission::Admitted(place) = handshakes.admit(client(1, 1), false) else { panic!("not yet") };
            places.push(place);
        }
        assert!(matches!(handshakes.admit(client(1, 2), false), HandshakeAdmission::Prove), "of the same network");
        for network in 2.. {
            match handshakes.admit(client(network, 1), false) {
                HandshakeAdmission::Admitted(place) => places.push(place),
                HandshakeAdmission::Prove => break,
            }
        }
        assert_eq!(places.len(), PROVE_ABOVE);
        admitted(&handshakes, client(9, 1));
        places.truncate(PROVE_CLIENT_ABOVE - 1);
        assert!(matches!(handshakes.admit(client(1, 1), false), HandshakeAdmission::Admitted(_)));
    }

    #[test]
    fn one_client_takes_places_from_itself_alone() {
        let handshakes = Handshakes::default();
        let mut other = admitted(&handshakes, ClientKey::of(IpAddr::from([192, 0, 2, 1])));
        let mut own: Vec<HandshakePlace> = (0..1000).map(|host| admitted(&handshakes, client(1, host))).collect();
        assert!(!is_displaced(&mut other));
        let displaced = own.iter_mut().filter_map(|place| is_displaced(place).then_some(())).count();
        assert_eq!(displaced, 1000 - MOST_OF_CLIENT);
        assert!(is_displaced(&mut own[0]) && !is_displaced(&mut own[999]), "the oldest");
    }

    #[test]
    fn of_many_clients_the_one_with_most_places_makes_room_and_among_equals_the_oldest() {
        let handshakes = Handshakes::default();
        let mut crowd: Vec<HandshakePlace> =
            (0..MOST - 1).map(|network| admitted(&handshakes, client(network, 1))).collect();
        let mut twice = admitted(&handshakes, client(100, 2));
        let _newcomer = admitted(&handshakes, client(1000, 1));
        assert!(is_displaced(&mut crowd[100]) && !is_displaced(&mut twice) && !is_displaced(&mut crowd[0]));
        let _another = admitted(&handshakes, client(1001, 1));
        assert!(is_displaced(&mut crowd[0]) && !is_displaced(&mut crowd[1]));
        assert_eq!(handshakes.lock().places.len(), MOST);
    }
}
