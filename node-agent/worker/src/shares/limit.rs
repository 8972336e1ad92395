//! How many connections the agent has room for.
//!
//! Pure but for reading the process's own limits at start. Called by `shares`, which shares them out.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::descriptors::{DESCRIPTORS_ASIDE, Descriptors};
use crate::memory;

/// Client and app.
const DESCRIPTORS_EACH: usize = 2;
/// What the agent uses without a connection, beside the budgets of `memory`.
const MEMORY_ASIDE: u64 = 32 << 20;
/// What a connection costs in the agent and in the kernel's sockets, in the long run.
const MEMORY_EACH: u64 = 16 << 10;
/// Never fewer, however small the limits are.
const AT_LEAST: usize = 64;

/// How many connections there is room for; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimit {
    by_memory: usize,
    aside: Descriptors,
}

impl ConnectionLimit {
    /// From the process's descriptor limit (raised as far as it may be) and its cgroup's memory ceiling, in bytes.
    pub(crate) fn of_process(memory: Option<u64>) -> Self {
        let descriptors = raise_descriptors();
        let limit = ConnectionLimit::new(descriptors, memory);
        tracing::info!(connections = limit.most(), descriptors, memory, "connections are shared out up to the limit");
        limit
    }

    fn new(descriptors: u64, memory: Option<u64>) -> Self {
        let by_memory = memory
            .map_or(u64::MAX, |memory| memory.saturating_sub(MEMORY_ASIDE + memory::set_aside(memory)) / MEMORY_EACH);
        let number = |number| usize::try_from(number).unwrap_or(usize::MAX);
        ConnectionLimit { by_memory: number(by_memory), aside: Descriptors::new(number(descriptors)) }
    }

    /// So many, whatever the process has.
    #[cfg(test)]
    pub(super) fn of(most: usize) -> Self {
        ConnectionLimit { by_memory: most, aside: Descriptors::new(usize::MAX) }
    }

    /// What counts the descriptors that are not connections.
    pub(super) fn aside(&self) -> &Descriptors {
        &self.aside
    }

    /// For how many more there is room, beside `live` ones that take the memory of `weight`.
    pub(super) fn free(&self, live: usize, weight: usize) -> usize {
        let by_memory = self.by_memory.max(AT_LEAST).saturating_sub(weight);
        self.most().saturating_sub(live).min(by_memory)
    }

    /// As many as there is room for now.
    fn most(&self) -> usize {
        let aside = DESCRIPTORS_ASIDE.saturating_add(self.aside.held());
        let by_descriptors = self.aside.most().saturating_sub(aside) / DESCRIPTORS_EACH;
        by_descriptors.min(self.by_memory).max(AT_LEAST)
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
        assert_eq!(ConnectionLimit::new(20_000 + DESCRIPTORS_ASIDE as u64, None).most(), 10_000);
        assert_eq!(ConnectionLimit::new(1 << 20, Some(128 << 20)).most(), 2048);
        assert_eq!(ConnectionLimit::new(1 << 20, Some(256 << 20)).most(), 8192);
        assert_eq!(ConnectionLimit::new(10, Some(1)).most(), 64);
    }

    #[test]
    fn descriptors_that_are_held_otherwise_count() {
        let limit = ConnectionLimit::new(2000 + DESCRIPTORS_ASIDE as u64, None);
        let held = limit.aside().hold(600);
        assert_eq!(limit.most(), 700);
        let _more = limit.aside().clone().hold(200);
        assert_eq!(limit.most(), 600);
        drop(held);
        assert_eq!(limit.most(), 900);
    }
}
