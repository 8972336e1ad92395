//! Sockets of one pod that the guardian has bound already, so that a connection needs no round trip to it.
//!
//! Keyed by the address they are bound to. A pool is made when an address is first wanted and refilled in the
//! background. It holds twice what was taken from it within a second, within bounds: so much lasts until a guardian that
//! hangs is noticed, on a machine that is late with everything. The oldest go first.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Duration, Instant, sleep_until},
};

use super::ports::Ranges;
use crate::{
    broker::LegSocket,
    shares::{Descriptors, HeldDescriptors},
};

/// A pool's least level: two batches, a burst of new connections while one batch is on its way.
const LEAST: usize = 64;
/// A pool's highest level; a socket costs some 3 KiB of kernel memory and a descriptor.
const MOST: usize = 512;
/// Of few descriptors a pool takes no larger part than this, however busy its pod is: connections need the others.
const PART: usize = 16;
/// The guardian gives at most this many at once.
pub(super) const BATCH: usize = 32;
/// How many are asked for at the same time: on a busy machine an answer takes a tenth of a second.
const AT_ONCE: usize = 4 * BATCH;
/// Beyond the level, those that were asked for a certain client and not used.
const SPARE: usize = 64;
/// Addresses with a pool: the pod's own and the loopback ones; a client that walks through 127/8 displaces another.
const ADDRESSES: usize = 16;
/// Twice what is taken from a pool within this time is its level; without takers the level is halved as often.
const WINDOW: Duration = Duration::from_secs(1);

/// A socket of the pool.
#[derive(Debug)]
pub(super) struct Pooled {
    pub(super) port: u16,
    pub(super) leg: LegSocket,
    _counted: HeldDescriptors,
}

/// An address and its scope.
type Key = (IpAddr, u32);
type Pools = HashMap<Key, Address>;

/// The sockets of one address.
struct Address {
    bind: SocketAddr,
    sockets: VecDeque<Pooled>,
    /// As many as there should be, and at most.
    level: usize,
    most: usize,
    /// How many were taken since `since`.
    taken: usize,
    since: Instant,
    /// It has had sockets: from then on it can run dry.
    filled: bool,
}

impl Address {
    fn new(bind: SocketAddr, most: usize) -> Self {
        Address { bind, sockets: VecDeque::new(), level: LEAST, most, taken: 0, since: Instant::now(), filled: false }
    }

    /// A batch is missing.
    fn is_low(&self) -> bool {
        self.sockets.len() + BATCH <= self.level
    }

    /// The level follows the demand: up at once, down by half a window.
    fn follow_demand(&mut self, now: Instant) {
        let demand = (2 * self.taken).clamp(LEAST, self.most);
        self.level = self.level.max(demand);
        let windows = now.saturating_duration_since(self.since).as_millis() / WINDOW.as_millis();
        if windows > 0 {
            let halved = self.level >> windows.min(16);
            self.level = halved.max(demand);
            (self.taken, self.since) = (0, now);
        }
        while self.sockets.len() > self.level + SPARE {
            self.sockets.pop_front();
        }
    }
}

/// The pools of one pod.
pub(super) struct Pool {
    descriptors: Descriptors,
    by_address: Mutex<Pools>,
    /// Some pool is below its level.
    wanting: Notify,
}

impl Pool {
    /// Without an address.
    pub(super) fn new(descriptors: Descriptors) -> Self {
        Self { descriptors, by_address: Mutex::default(), wanting: Notify::new() }
    }

    /// Makes sure that there is a pool for this address.
    pub(super) fn want(&self, bind: SocketAddr) {
        let mut pools = self.lock();
        make_room(&mut pools, key(bind));
        pools.entry(key(bind)).or_insert_with(|| Address::new(bind, self.most()));
        self.wanting.notify_one();
    }

    /// Takes the socket that `choose` picks among the ports on offer. Those outside the ranges, which were under way when
    /// the ranges changed, are let go.
    pub(super) fn take<C>(&self, bind: SocketAddr, ranges: Ranges, choose: C) -> Option<Pooled>
    where
        C: FnOnce(&mut dyn Iterator<Item = u16>) -> Option<usize>,
    {
        let mut pools = self.lock();
        let Some(pool) = pools.get_mut(&key(bind)) else {
            drop(pools);
            self.want(bind);
            return None;
        };
        pool.sockets.retain(|pooled| ranges.contains(pooled.port));
        let chosen = choose(&mut pool.sockets.iter().map(|pooled| pooled.port));
        let taken = chosen.and_then(|index| pool.sockets.remove(index));
        pool.taken += usize::from(taken.is_some());
        pool.follow_demand(Instant::now());
        if pool.is_low() {
            self.wanting.notify_one();
        }
        taken
    }

    /// The number of sockets in the pool that has the fewest, without those that are being filled for the first time.
    pub(super) fn fewest(&self) -> Option<usize> {
        self.lock().values().filter(|pool| pool.filled).map(|pool| pool.sockets.len()).min()
    }

    /// Adds what the guardian could bind. If the pool has nothing, or the address has gone, it is given up until it is wanted
    /// again. Tells how many there were.
    pub(super) fn put(&self, bind: SocketAddr, sockets: impl Iterator<Item = (u16, io::Result<LegSocket>)>) -> usize {
        let mut pools = self.lock();
        make_room(&mut pools, key(bind));
        let pool = pools.entry(key(bind)).or_insert_with(|| Address::new(bind, self.most()));
        let (mut bound, mut gone) = (0, false);
        for (port, socket) in sockets {
            match socket {
                Ok(leg) => {
                    bound += 1;
                    pool.sockets.push_back(Pooled { port, leg, _counted: self.descriptors.hold(1) });
                }
                Err(error) => {
                    gone |= error.kind() == io::ErrorKind::AddrNotAvailable;
                    tracing::trace!(%bind, port, %error, "the guardian could not bind a port");
                }
            }
        }
        if pool.sockets.is_empty() || bound == 0 && gone {
            pools.remove(&key(bind));
            return 0;
        }
        pool.filled = true;
        pool.follow_demand(Instant::now());
        bound
    }

    /// Gives up the pools of other addresses than these.
    pub(super) fn keep(&self, is_used: impl Fn(&IpAddr) -> bool) {
        self.lock().retain(|(ip, _), _| is_used(ip));
    }

    /// Lets all sockets go: their ports are not to be used any more.
    pub(super) fn empty(&self) {
        self.lock().values_mut().for_each(|pool| pool.sockets.clear());
        self.wanting.notify_one();
    }

    /// Waits until a pool is below its level; tells its address and how many sockets to ask for.
    pub(super) async fn wanting(&self) -> (SocketAddr, usize) {
        loop {
            let wanting = self.wanting.notified();
            let mut settles = None;
            {
                let mut pools = self.lock();
                let now = Instant::now();
                pools.values_mut().for_each(|pool| pool.follow_demand(now));
                let low = pools.values().filter(|pool| pool.is_low()).min_by_key(|pool| pool.sockets.len());
                if let Some(low) = low {
                    return (low.bind, (low.level - low.sockets.len()).min(AT_ONCE));
                }
                if pools.values().any(|pool| pool.level > LEAST) {
                    settles = Some(now + WINDOW);
                }
            }
            tokio::select! {
                () = wanting => {}
                () = sleep_until(settles.unwrap_or_else(Instant::now)), if settles.is_some() => {}
            }
        }
    }

    fn most(&self) -> usize {
        (self.descriptors.most() / PART).clamp(LEAST, MOST)
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

#[cfg(test)]
mod tests {
    use super::*;

    const BIND: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn socket() -> io::Result<LegSocket> {
        Ok(LegSocket { socket: std::fs::File::open("/dev/null")?.into(), number: 1 })
    }

    fn fill(pool: &Pool, count: usize) {
        pool.put(BIND, (0..count).map(|_| (700, socket())));
    }

    /// Takes as often as there are connections, and refills as the guardian would; the level at the end.
    fn busy_window(pool: &Pool, connections: usize) -> usize {
        for _ in 0..connections {
            while pool.take(BIND, Ranges::LowFirst, |offered| offered.next().map(|_| 0)).is_none() {
                fill(pool, BATCH);
            }
        }
        pool.lock()[&key(BIND)].level
    }

    #[tokio::test]
    async fn sockets_outside_the_ranges_are_let_go() {
        let pool = Pool::new(Descriptors::new(1 << 20));
        fill(&pool, 1);
        pool.put(BIND, std::iter::once((10_000, socket())));
        let taken = pool.take(BIND, Ranges::HighOnly, |offered| offered.next().map(|_| 0));
        assert_eq!((taken.map(|taken| taken.port), pool.fewest()), (Some(10_000), Some(0)));
    }

    #[tokio::test]
    async fn pooled_sockets_are_counted_and_of_few_descriptors_they_are_few() {
        let descriptors = Descriptors::new(1200);
        let pool = Pool::new(descriptors.clone());
        fill(&pool, LEAST);
        assert_eq!(descriptors.held(), LEAST);
        assert_eq!(busy_window(&pool, 10 * MOST), 1200 / PART);
        pool.empty();
        assert_eq!(descriptors.held(), 0);
    }

    #[tokio::test]
    async fn a_pool_whose_address_has_gone_is_given_up() {
        let pool = Pool::new(Descriptors::new(1 << 20));
        fill(&pool, 1);
        pool.put(BIND, std::iter::once((701, Err(io::ErrorKind::AddrInUse.into()))));
        assert_eq!(pool.fewest(), Some(1));
        pool.put(BIND, std::iter::once((701, Err(io::ErrorKind::AddrNotAvailable.into()))));
        assert_eq!(pool.fewest(), None);
        fill(&pool, 1);
        pool.keep(|ip| *ip != BIND.ip());
        assert_eq!(pool.fewest(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_level_follows_what_is_taken_within_a_second_and_settles() {
        let pool = Pool::new(Descriptors::new(1 << 20));
        pool.want(BIND);
        assert_eq!(pool.fewest(), None, "it is filled for the first time");
        assert_eq!(busy_window(&pool, 10), LEAST);
        assert_eq!(busy_window(&pool, 90), 200);
        tokio::time::advance(WINDOW).await;
        assert_eq!(busy_window(&pool, 1), 202, "half the level is less than what was taken");
        assert_eq!(busy_window(&pool, 10 * MOST), MOST);
        // Refilled as long as a batch is missing, and no further.
        while let Ok((bind, batch)) = tokio::time::timeout(Duration::ZERO, pool.wanting()).await {
            assert_eq!(bind, BIND);
            fill(&pool, batch);
        }
        let held = pool.fewest().expect("a pool");
        assert!((MOST - BATCH..=MOST + SPARE).contains(&held), "{held}");
        for _ in 0..6 {
            tokio::time::advance(WINDOW).await;
            let low = tokio::time::timeout(Duration::ZERO, pool.wanting()).await;
            assert!(low.is_err(), "nobody takes: nothing is missing");
        }
        let held = pool.fewest().expect("a pool");
        assert!((LEAST - BATCH..=LEAST + SPARE).contains(&held), "{held} are left of a burst");
    }
}
