//! Who may have how many of the agent's connections: each pod a share, and in it each client.
//!
//! Owns the counts. Pure but for its locks. Must not know why a connection is there. Called by the accept loops.
//!
//! A share is what its owner may have of the places that are *free now*, as in the buffers of a switch (Choudhury and Hahne,
//! "Dynamic queue length thresholds", 1998): a pod may have up to [`POD_BORROWS`] times as many as are free, and a client up to
//! [`CLIENT_BORROWS`] times as many as its pod may still take. Whoever is alone borrows most of all. When others come less is
//! free, and whoever has borrowed more than that allows lets its new connections pass to the app until they are fewer. Some
//! places are always free, so a newcomer finds one whatever the others have, and no connection is ever cut off for another.

mod descriptors;
mod limit;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use redir_tunnel::ClientKey;

pub(crate) use self::{
    descriptors::{DESCRIPTORS_OF_POD, Descriptors, HeldDescriptors},
    limit::ConnectionLimit,
};
use crate::memory::{ClientAccount, PodAccount};

/// Alone, a pod may have three quarters of all places, a second one three quarters of the rest, and so on: of five thousand
/// places the fifth that hoards still finds some.
const POD_BORROWS: usize = 3;
/// Alone in a pod that is alone, a client may have two thirds of all places: it may be a gateway.
const CLIENT_BORROWS: usize = 2;
/// What a connection counts of which nothing was decided yet, neither a request nor that it is not read: to hold it costs its
/// client nothing. Alone a client may have a third of all places with such connections.
const UNDECIDED: usize = 4;
/// What a connection counts beside that which is decrypted or speaks HTTP/2: a session, or buffers for frames on both sides.
const HEAVY: usize = 3;

/// The connections of all pods; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionShares(Arc<AllPods>);

#[derive(Debug)]
struct AllPods {
    limit: ConnectionLimit,
    live: AtomicUsize,
    /// The same by memory, a heavy one counting more.
    weight: AtomicUsize,
}

/// The connections of one pod.
#[derive(Debug)]
pub(crate) struct PodShare {
    all: ConnectionShares,
    usage: Mutex<ShareUsage>,
    /// What its clients hold of the ledger.
    account: PodAccount,
}

/// What is in use, a connection counting 1 or [`UNDECIDED`], and [`HEAVY`] beside if it is.
#[derive(Debug, Default)]
struct ShareUsage {
    pod: usize,
    clients: HashMap<ClientKey, ClientUsage>,
}

#[derive(Debug)]
struct ClientUsage {
    weight: usize,
    account: Arc<ClientAccount>,
}

/// Whether somebody has more than their share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShareState {
    Within,
    /// Within it, and would not be with a tenth more: who passes already goes on to, instead of coming and going.
    Close,
    Above,
}

impl ShareState {
    fn of(usage: usize, most: usize) -> Self {
        match usage {
            usage if usage >= most => Self::Above,
            usage if usage >= most - most / 10 => Self::Close,
            _ => Self::Within,
        }
    }

    /// Whether new connections pass, given whether they do now.
    pub(crate) fn passes(self, now: bool) -> bool {
        self == Self::Above || now && self == Self::Close
    }
}

impl ConnectionShares {
    pub(crate) fn new(limit: ConnectionLimit) -> Self {
        Self(Arc::new(AllPods { limit, live: AtomicUsize::new(0), weight: AtomicUsize::new(0) }))
    }

    /// A pod's share, without a connection.
    pub(crate) fn pod(&self) -> PodShare {
        PodShare { all: self.clone(), usage: Mutex::default(), account: PodAccount::default() }
    }

    /// What counts the descriptors that are not connections.
    pub(crate) fn descriptors(&self) -> &Descriptors {
        self.0.limit.aside()
    }

    fn free(&self) -> usize {
        let [live, weight] = [&self.0.live, &self.0.weight].map(|count| count.load(Ordering::Relaxed));
        self.0.limit.free(live, weight)
    }
}

impl PodShare {
    /// A connection of a client begins; it ends when its place is dropped.
    pub(crate) fn enter(self: &Arc<Self>, client: ClientKey) -> Arc<ConnectionPlace> {
        self.all.0.live.fetch_add(1, Ordering::Relaxed);
        self.all.0.weight.fetch_add(1, Ordering::Relaxed);
        let account = self.take(client, UNDECIDED);
        let (decided, heavy) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(ConnectionPlace { pod: self.clone(), client, account, decided, heavy })
    }

    fn take(&self, client: ClientKey, weight: usize) -> Arc<ClientAccount> {
        let mut usage = self.usage();
        usage.pod += weight;
        let new = || ClientUsage { weight: 0, account: Arc::new(ClientAccount::new(&self.account)) };
        let own = usage.clients.entry(client).or_insert_with(new);
        own.weight += weight;
        own.account.clone()
    }

    pub(crate) fn share_state(&self) -> ShareState {
        ShareState::of(self.usage().pod, self.most())
    }

    pub(crate) fn share_state_of(&self, client: ClientKey) -> ShareState {
        let usage = self.usage();
        let most = CLIENT_BORROWS * self.most().saturating_sub(usage.pod);
        usage.clients.get(&client).map_or(ShareState::Within, |own| ShareState::of(own.weight, most))
    }

    fn most(&self) -> usize {
        POD_BORROWS * self.all.free()
    }

    fn usage(&self) -> MutexGuard<'_, ShareUsage> {
        // Only numbers: no half-done state that a panic could leave.
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, client: ClientKey, weight: usize) {
        let mut usage = self.usage();
        usage.pod -= weight;
        if let Some(own) = usage.clients.get_mut(&client) {
            own.weight -= weight;
            if own.weight == 0 {
                usage.clients.remove(&client);
            }
        }
    }
}

/// The place of one live connection.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    pod: Arc<PodShare>,
    client: ClientKey,
    account: Arc<ClientAccount>,
    decided: AtomicBool,
    heavy: AtomicBool,
}

impl ConnectionPlace {
    /// Something of the connection was decided: it counts less from now on.
    pub(crate) fn decided(&self) {
        if !self.decided.swap(true, Ordering::Relaxed) {
            self.pod.give_back(self.client, UNDECIDED - 1);
        }
    }
}

impl ConnectionPlace {
    /// The connection takes more memory than most, for as long as it lives.
    pub(crate) fn heavy(&self) {
        if !self.heavy.swap(true, Ordering::Relaxed) {
            self.pod.all.0.weight.fetch_add(HEAVY, Ordering::Relaxed);
            self.pod.take(self.client, HEAVY);
        }
    }

    /// Who holds what the connection holds.
    pub(crate) fn account(&self) -> &Arc<ClientAccount> {
        &self.account
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let decided = if *self.decided.get_mut() { 1 } else { UNDECIDED };
        let heavy = if *self.heavy.get_mut() { HEAVY } else { 0 };
        self.pod.give_back(self.client, decided + heavy);
        self.pod.all.0.weight.fetch_sub(1 + heavy, Ordering::Relaxed);
        self.pod.all.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MOST: usize = 8000;

    fn client(number: u32) -> ClientKey {
        ClientKey::of(Ipv4Addr::from_bits(number).into())
    }

    fn shares() -> ConnectionShares {
        ConnectionShares::new(ConnectionLimit::of(MOST))
    }

    /// The connections that a client gets until its next ones pass.
    fn fill(pod: &Arc<PodShare>, client: ClientKey, decided: bool) -> Vec<Arc<ConnectionPlace>> {
        let mut places = Vec::new();
        while !pod.share_state().passes(false) && !pod.share_state_of(client).passes(false) {
            let place = pod.enter(client);
            if decided {
                place.decided();
            }
            places.push(place);
        }
        places
    }

    fn percent(places: &[Arc<ConnectionPlace>]) -> usize {
        places.len() * 100 / MOST
    }

    #[test]
    fn who_is_alone_borrows_most() {
        let pod = Arc::new(shares().pod());
        let requests = fill(&pod, client(1), true);
        assert_eq!(percent(&requests), 66);
        drop(requests);
        assert_eq!(percent(&fill(&pod, client(1), false)), 33);
    }

    #[test]
    fn idle_connections_of_one_client_leave_room_for_all_others() {
        let shares = shares();
        let (crowded, other) = (Arc::new(shares.pod()), Arc::new(shares.pod()));
        let idle = fill(&crowded, client(1), false);
        let of_other_pod = fill(&other, client(1), true);
        assert!(percent(&of_other_pod) >= 40, "{} %", percent(&of_other_pod));
        drop(of_other_pod);
        let of_same_pod = fill(&crowded, client(2), true);
        assert!(percent(&of_same_pod) >= 14, "{} %", percent(&of_same_pod));
        drop((idle, of_same_pod));
        assert_eq!(shares.free(), MOST);
        assert!(crowded.usage().clients.is_empty() && crowded.usage().pod == 0);
    }

    #[test]
    fn what_takes_more_memory_counts_more() {
        let shares = shares();
        let pod = Arc::new(shares.pod());
        let mut places = Vec::new();
        while !pod.share_state_of(client(1)).passes(false) {
            let place = pod.enter(client(1));
            place.decided();
            place.heavy();
            place.heavy();
            places.push(place);
        }
        assert_eq!(percent(&places), 16, "a quarter of the two thirds that others get");
        drop(places);
        assert_eq!(shares.free(), MOST);
        assert!(pod.usage().clients.is_empty() && pod.usage().pod == 0);
    }

    /// Also when each of the others has taken all that it may.
    #[test]
    fn a_newcomer_finds_a_place() {
        for decided in [false, true] {
            let shares = shares();
            let mut places = Vec::new();
            for pod in 0..3 {
                let share = Arc::new(shares.pod());
                for number in 0..3 {
                    let found = fill(&share, client(number), decided);
                    assert!(!found.is_empty(), "client {number} of pod {pod}");
                    places.push(found);
                }
            }
            assert!(shares.free() > 0);
        }
    }

    #[test]
    fn who_has_borrowed_gives_back_before_it_takes_more() {
        let shares = shares();
        let (first, second) = (Arc::new(shares.pod()), Arc::new(shares.pod()));
        let mut borrowed = fill(&first, client(1), true);
        let _others = fill(&second, client(1), true);
        assert_eq!(first.share_state_of(client(1)), ShareState::Above);
        borrowed.truncate(borrowed.len() / 4);
        assert_eq!(first.share_state_of(client(1)), ShareState::Within);
        borrowed.extend(fill(&first, client(1), true));
        // What passes comes back some way below the share, not at it.
        borrowed.pop();
        let share_state = first.share_state_of(client(1));
        assert!(share_state.passes(true) && !share_state.passes(false), "{share_state:?}");
    }
}
