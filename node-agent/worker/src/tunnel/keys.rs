//! How many tunnels there are, and of each key: one developer must not use up what all share, nor many what the agent has.
//!
//! Owns the counts. Must not close anything. Called by `session`, for each tunnel whose key is known.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redir_tunnel::{PART_MIN, Pin};

use crate::{memory::PodAccount, tunnel_handle::backlog::BACKLOG_FREE};

/// Tunnels of one key: each port of each `redir intercept` has one, and after a change of network each has two for a moment.
pub(super) const TUNNELS_OF_A_KEY: usize = 32;

/// Tunnels of an agent, whatever their keys: a key costs nothing in Kubernetes, and each tunnel needs [`TUNNEL_MEMORY`] and a task.
const TUNNELS: usize = 512;
/// What each tunnel may hold at any time, in bytes: unread ones, and two backlogs.
const TUNNEL_MEMORY: u64 = PART_MIN + 2 * BACKLOG_FREE as u64;
/// A key may have so large a part of what is free: those who come later find room until the end.
const PART_OF_FREE: usize = 4;

/// The tunnels of all keys, greeted or not; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct TunnelsByKey {
    counts: Arc<Mutex<TunnelCounts>>,
    most: usize,
}

#[derive(Debug, Default)]
struct TunnelCounts {
    by_key: HashMap<Pin, KeyUsage>,
    all: usize,
    /// Those that had room. The others are being told, and are gone in a moment.
    admitted: usize,
}

#[derive(Debug, Default)]
struct KeyUsage {
    tunnels: usize,
    memory: PodAccount,
}

/// One tunnel of a key, counted until it is dropped.
pub(super) struct CountedTunnel {
    keys: TunnelsByKey,
    /// What waits for the key's developer in all its tunnels.
    pub(super) memory: PodAccount,
    pub(super) pin: Pin,
    pub(super) room: KeyRoom,
}

/// Whether a key had room for its newest tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyRoom {
    Free,
    /// It is told why there is none.
    Full,
    /// The agent has none, or not for this key; it is told why.
    AgentFull,
    /// As many again are being told: this one is only closed.
    Flooded,
}

impl TunnelsByKey {
    /// With room for [`TUNNELS`], or for as many as this memory for what developers and clients leave unread suffices for.
    pub(super) fn new(unread: u64) -> Self {
        let most = usize::try_from(unread / TUNNEL_MEMORY).unwrap_or(usize::MAX).min(TUNNELS);
        Self { counts: Arc::default(), most }
    }

    pub(super) fn enter(&self, pin: Pin) -> CountedTunnel {
        let mut counts = self.lock();
        let free = self.most.saturating_sub(counts.admitted);
        let told = counts.all - counts.admitted;
        counts.all += 1;
        let key = counts.by_key.entry(pin).or_default();
        key.tunnels += 1;
        let (count, memory) = (key.tunnels, key.memory.clone());
        let fits = free > 0 && count <= (free / PART_OF_FREE).max(1);
        let room = match count {
            0..=TUNNELS_OF_A_KEY if fits => KeyRoom::Free,
            count if count > 2 * TUNNELS_OF_A_KEY || told >= self.most => KeyRoom::Flooded,
            0..=TUNNELS_OF_A_KEY => KeyRoom::AgentFull,
            _ => KeyRoom::Full,
        };
        counts.admitted += usize::from(room == KeyRoom::Free);
        CountedTunnel { keys: self.clone(), memory, pin, room }
    }

    fn lock(&self) -> MutexGuard<'_, TunnelCounts> {
        // Numbers by key: no half-done state that a panic could leave.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CountedTunnel {
    fn drop(&mut self) {
        let mut counts = self.keys.lock();
        counts.all -= 1;
        counts.admitted -= usize::from(self.room == KeyRoom::Free);
        if let Entry::Occupied(mut key) = counts.by_key.entry(self.pin) {
            key.get_mut().tunnels -= 1;
            if key.get().tunnels == 0 {
                key.remove();
            }
        }
    }
}

/// What a developer hears for whom there is no room.
pub(super) fn too_many(room: KeyRoom) -> String {
    if room == KeyRoom::AgentFull {
        return "this agent has as many tunnels as it can carry, or your key as many as its part of the rest; end some \
                `redir intercept` first, or try again when others have left"
            .to_owned();
    }
    format!("your key has {TUNNELS_OF_A_KEY} tunnels to this agent already; end some `redir intercept` first")
}

#[cfg(test)]
mod tests {
    use redir_tunnel::Identity;

    use super::*;

    #[test]
    fn each_key_has_its_own_room_and_gets_it_back() {
        let [alice, bob] = [(), ()].map(|()| Identity::generate().expect("a key").pin());
        let keys = TunnelsByKey::new(u64::MAX);
        let mut tunnels: Vec<_> = (0..2 * TUNNELS_OF_A_KEY + 1).map(|_| keys.enter(alice)).collect();
        let rooms = |room| tunnels.iter().filter(|tunnel| tunnel.room == room).count();
        assert_eq!(
            [KeyRoom::Free, KeyRoom::Full, KeyRoom::Flooded].map(rooms),
            [TUNNELS_OF_A_KEY, TUNNELS_OF_A_KEY, 1]
        );
        assert_eq!(keys.enter(bob).room, KeyRoom::Free);
        tunnels.truncate(TUNNELS_OF_A_KEY - 1);
        assert_eq!(keys.enter(alice).room, KeyRoom::Free);
        drop(tunnels);
        assert!(keys.lock().by_key.is_empty());
    }

    /// As many keys as somebody likes, with as many tunnels as they may.
    #[test]
    fn all_keys_together_have_a_bounded_number_and_a_newcomer_finds_room() {
        let pin = || Identity::generate().expect("a key").pin();
        let keys = TunnelsByKey::new(u64::MAX);
        let mut tunnels = Vec::new();
        for _ in 0..32 {
            let key = pin();
            let greedy =
                (0..TUNNELS_OF_A_KEY).map(|_| keys.enter(key)).take_while(|tunnel| tunnel.room == KeyRoom::Free);
            tunnels.extend(greedy);
        }
        assert!(tunnels.len() < TUNNELS, "{}", tunnels.len());
        let mut newcomers = Vec::new();
        let last = loop {
            let newcomer = keys.enter(pin());
            match newcomer.room {
                KeyRoom::Free => newcomers.push(newcomer),
                room => break room,
            }
        };
        assert!(!newcomers.is_empty());
        assert_eq!((last, tunnels.len() + newcomers.len()), (KeyRoom::AgentFull, TUNNELS));
        drop(tunnels);
        assert_eq!(keys.enter(pin()).room, KeyRoom::Free);
        assert_eq!(TunnelsByKey::new(3 * (PART_MIN + 2 * BACKLOG_FREE as u64)).most, 3, "with little memory");
        assert_eq!(TunnelsByKey::new(3 * PART_MIN).most, 2, "their backlogs take some");
    }
}
