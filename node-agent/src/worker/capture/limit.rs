//! How many connections the agent takes before new ones pass to the app.
//!
//! Pure but for reading the process's own limits at start. Called by the captures.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::memory_ceiling::memory_ceiling;

/// Descriptors that are not connections: pools and listeners of the pods, tunnel, admin, control, logs.
const DESCRIPTORS_ASIDE: u64 = 1024;
/// Client and app.
const DESCRIPTORS_EACH: u64 = 2;
/// What the agent uses without a connection, with room for tunnels.
const MEMORY_ASIDE: u64 = 48 << 20;
/// What a connection costs in the agent and in the kernel's sockets, in the long run.
const MEMORY_EACH: u64 = 16 << 10;
/// Never fewer, however small the limits are.
const AT_LEAST: u64 = 64;

/// Counts the connections of all pods against the limit; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    most: usize,
    live: Arc<AtomicUsize>,
}

impl Limit {
    /// From the process's descriptor limit (raised as far as it may be) and its cgroup's memory ceiling.
    pub(crate) fn of_process() -> Self {
        let descriptors = raise_descriptors();
        let memory = memory_ceiling(Path::new("/proc/self"));
        let limit = Limit::new(descriptors, memory);
        tracing::info!(connections = limit.most, descriptors, memory, "connections beyond the limit pass to the app");
        limit
    }

    fn new(descriptors: u64, memory: Option<u64>) -> Self {
        let by_descriptors = descriptors.saturating_sub(DESCRIPTORS_ASIDE) / DESCRIPTORS_EACH;
        let by_memory = memory.map_or(u64::MAX, |memory| memory.saturating_sub(MEMORY_ASIDE) / MEMORY_EACH);
        let most = by_descriptors.min(by_memory).max(AT_LEAST);
        Limit { most: usize::try_from(most).unwrap_or(usize::MAX), live: Arc::default() }
    }

    /// A connection begins; it ends when the place is dropped.
    pub(super) fn enter(&self) -> Place {
        self.live.fetch_add(1, Ordering::Relaxed);
        Place(self.live.clone())
    }

    /// Whether new connections should pass to the app, given whether they do now: they come back a tenth below the
    /// limit, not at it.
    pub(super) fn passes(&self, now: bool) -> bool {
        let live = self.live.load(Ordering::Relaxed);
        if now { live > self.most - self.most / 10 } else { live >= self.most }
    }
}

/// One live connection.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn raise_descriptors() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return hard;
    }
    soft
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcer_of_descriptors_and_memory_decides() {
        assert_eq!(Limit::new(21_024, None).most, 10_000);
        assert_eq!(Limit::new(1 << 20, Some(128 << 20)).most, 5120);
        assert_eq!(Limit::new(10, Some(1)).most, 64);
    }

    #[test]
    fn new_connections_come_back_a_tenth_below_the_limit() {
        let limit = Limit { most: 10, live: Arc::default() };
        let mut places: Vec<_> = (0..9).map(|_| limit.enter()).collect();
        assert!(!limit.passes(false));
        places.push(limit.enter());
        assert!(limit.passes(false));
        assert!(limit.passes(true));
        places.truncate(9);
        assert!(!limit.passes(true));
    }
}
