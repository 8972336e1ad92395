//! Sockets of one pod that the guardian has bound already, so that a connection needs no round trip to it.
//!
//! Keyed by the address they are bound to. A pool is made when an address is first wanted and refilled in the
//! background; it holds at most what `CEILING` says, and the oldest go first.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Refilled up to this many: two batches, a burst of new connections while one batch is on its way.
const FULL: usize = 64;
/// The guardian gives at most this many at once.
const BATCH: usize = 32;
/// Sockets of one address, with those that were asked for a certain client and not used.
const CEILING: usize = 128;
/// Addresses with a pool: the pod's own and the loopback ones; a client that walks through 127/8 displaces another.
const ADDRESSES: usize = 16;

/// A socket of the pool.
#[derive(Debug)]
pub(super) struct Pooled {
    pub(super) port: u16,
    pub(super) socket: OwnedFd,
}

/// An address and its scope.
type Key = (IpAddr, u32);
type Pools = HashMap<Key, (SocketAddr, VecDeque<Pooled>)>;

/// The pools of one pod.
#[derive(Default)]
pub(super) struct Pool {
    by_address: Mutex<Pools>,
    /// Some pool is below its level.
    wanting: Notify,
}

impl Pool {
    /// Makes sure that there is a pool for this address.
    pub(super) fn want(&self, bind: SocketAddr) {
        let mut pools = self.lock();
        make_room(&mut pools, key(bind));
        pools.entry(key(bind)).or_insert_with(|| (bind, VecDeque::new()));
        self.wanting.notify_one();
    }

    /// Takes the socket that `choose` picks among the ports on offer.
    pub(super) fn take<C>(&self, bind: SocketAddr, choose: C) -> Option<Pooled>
    where
        C: FnOnce(&mut dyn Iterator<Item = u16>) -> Option<usize>,
    {
        let mut pools = self.lock();
        let Some((_, sockets)) = pools.get_mut(&key(bind)) else {
            drop(pools);
            self.want(bind);
            return None;
        };
        let chosen = choose(&mut sockets.iter().map(|pooled| pooled.port));
        let taken = chosen.and_then(|index| sockets.remove(index));
        if sockets.len() < FULL - BATCH {
            self.wanting.notify_one();
        }
        taken
    }

    /// Adds what the guardian could bind. If that is nothing, the pool is given up until it is wanted again: the address
    /// may have gone. Tells how many there were.
    pub(super) fn put(&self, bind: SocketAddr, sockets: impl Iterator<Item = (u16, io::Result<OwnedFd>)>) -> usize {
        let mut pools = self.lock();
        make_room(&mut pools, key(bind));
        let (_, pool) = pools.entry(key(bind)).or_insert_with(|| (bind, VecDeque::new()));
        let mut bound = 0;
        for (port, socket) in sockets {
            match socket {
                Ok(socket) => {
                    bound += 1;
                    pool.push_back(Pooled { port, socket });
                }
                Err(error) => tracing::trace!(%bind, port, %error, "the guardian could not bind a port"),
            }
        }
        if pool.is_empty() {
            pools.remove(&key(bind));
            return 0;
        }
        while pool.len() > CEILING {
            pool.pop_front();
        }
        bound
    }

    /// Waits until a pool is below its level; tells its address and how many sockets to ask for.
    pub(super) async fn wanting(&self) -> (SocketAddr, usize) {
        loop {
            let wanting = self.wanting.notified();
            let low = self
                .lock()
                .values()
                .filter(|(_, sockets)| sockets.len() < FULL - BATCH)
                .min_by_key(|(_, sockets)| sockets.len())
                .map(|(bind, _)| *bind);
            if let Some(bind) = low {
                return (bind, BATCH);
            }
            wanting.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pools> {
        // A pool has no half-done state that a panic could leave.
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives up some pool if there are too many and this is not one of them.
fn make_room(pools: &mut Pools, wanted: Key) {
    if pools.len() < ADDRESSES || pools.contains_key(&wanted) {
        return;
    }
    if let Some(other) = pools.keys().next().copied() {
        pools.remove(&other);
    }
}

/// The address and its scope; the port does not matter.
fn key(bind: SocketAddr) -> Key {
    match bind {
        SocketAddr::V4(v4) => ((*v4.ip()).into(), 0),
        SocketAddr::V6(v6) => ((*v6.ip()).into(), v6.scope_id()),
    }
}
