//! What the tunnels and the registry count, for the metrics page.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, or a gauge.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Adds.
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Takes away; for gauges.
    pub(crate) fn sub(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }

    /// Puts a number in the place of the present one; for gauges.
    pub(crate) fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// The number now.
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All of them. Gauges say so; the rest only grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Gauge: tunnels that are up and greeted.
    pub(crate) tunnels: Count,
    /// Tunnels that were greeted.
    pub(crate) tunnels_total: Count,
    /// Handshakes that failed: unknown keys above all.
    pub(crate) handshakes_refused: Count,
    /// Tunnels that were closed because the other end broke the protocol or did not keep up.
    pub(crate) sessions_failed: Count,
    /// Gauge: intercepts of live tunnels.
    pub(crate) intercepts: Count,
    /// Intercepts that were asked for and not granted.
    pub(crate) intercepts_refused: Count,
    /// Gauge: data streams open.
    pub(crate) streams: Count,
    /// Data streams so far.
    pub(crate) streams_total: Count,
    /// Data streams that could not be opened.
    pub(crate) streams_failed: Count,
    /// Matched requests that went to the app because the developer's end did not answer.
    pub(crate) bypassed: Count,
    /// Times that a developer's end was asked whether it lives, after a hint that it does not.
    pub(crate) probes: Count,
    /// Request events that did not fit their queue.
    pub(crate) events_dropped: Count,
    /// Ports that could not be armed.
    pub(crate) arms_failed: Count,
}
