//! How many tunnels each key has: one developer must not use up what all share.
//!
//! Owns the counts. Must not close anything. Called by `session`, for each tunnel whose key is known.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redir_tunnel::Pin;

/// Tunnels of one key: each port of each `redir intercept` has one, and after a change of network each has two for a moment.
pub(super) const TUNNELS_OF_A_KEY: usize = 32;

/// The tunnels of all keys, greeted or not; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct TunnelsByKey(Arc<Mutex<HashMap<Pin, usize>>>);

/// One tunnel of a key, counted until it is dropped.
pub(super) struct CountedTunnel {
    keys: TunnelsByKey,
    pub(super) pin: Pin,
    pub(super) room: Room,
}

/// Whether a key had room for its newest tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// It is told why there is none.
    Full,
    /// It has as many again that are being told: this one is only closed.
    Flooded,
}

impl TunnelsByKey {
    pub(super) fn enter(&self, pin: Pin) -> CountedTunnel {
        let mut tunnels = self.lock();
        let count = tunnels.entry(pin).or_default();
        *count += 1;
        let room = match *count {
            0..=TUNNELS_OF_A_KEY => Room::Free,
            count if count <= 2 * TUNNELS_OF_A_KEY => Room::Full,
            _ => Room::Flooded,
        };
        CountedTunnel { keys: self.clone(), pin, room }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Pin, usize>> {
        // Numbers by key: no half-done state that a panic could leave.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CountedTunnel {
    fn drop(&mut self) {
        let mut tunnels = self.keys.lock();
        if let Entry::Occupied(mut count) = tunnels.entry(self.pin) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What a developer hears whose key has no room.
pub(super) fn too_many() -> String {
    format!("your key has {TUNNELS_OF_A_KEY} tunnels to this agent already; end some `redir intercept` first")
}

#[cfg(test)]
mod tests {
    use redir_tunnel::Identity;

    use super::*;

    #[test]
    fn each_key_has_its_own_room_and_gets_it_back() {
        let [alice, bob] = [(), ()].map(|()| Identity::generate().expect("a key").pin());
        let keys = TunnelsByKey::default();
        let mut tunnels: Vec<_> = (0..2 * TUNNELS_OF_A_KEY + 1).map(|_| keys.enter(alice)).collect();
        let rooms = |room| tunnels.iter().filter(|tunnel| tunnel.room == room).count();
        assert_eq!([Room::Free, Room::Full, Room::Flooded].map(rooms), [TUNNELS_OF_A_KEY, TUNNELS_OF_A_KEY, 1]);
        assert_eq!(keys.enter(bob).room, Room::Free);
        tunnels.truncate(TUNNELS_OF_A_KEY - 1);
        assert_eq!(keys.enter(alice).room, Room::Free);
        drop(tunnels);
        assert!(keys.lock().is_empty());
    }
}
