//! What the tunnels and the registry count, for the metrics page.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, or a gauge.
#[derive(Debug, Default)]
pub(crate) struct TunnelCounter(AtomicU64);

impl TunnelCounter {
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
pub(crate) struct TunnelCounters {
    /// Gauge: tunnels that are up and greeted.
    pub(crate) tunnels: TunnelCounter,
    /// Tunnels that were greeted.
    pub(crate) tunnels_total: TunnelCounter,
    /// Handshakes that failed: unknown keys above all.
    pub(crate) handshakes_refused: TunnelCounter,
    /// Tunnels that were closed because the other end broke the protocol or did not keep up.
    pub(crate) sessions_failed: TunnelCounter,
    /// Gauge: intercepts of live tunnels.
    pub(crate) intercepts: TunnelCounter,
    /// Intercepts that were asked for and not granted.
    pub(crate) intercepts_refused: TunnelCounter,
    /// Gauge: data streams open.
    pub(crate) streams: TunnelCounter,
    /// Data streams so far.
    pub(crate) streams_total: TunnelCounter,
    /// Data streams that could not be opened.
    pub(crate) streams_failed: TunnelCounter,
    /// Matched requests that went to the app because the developer's end did not answer.
    pub(crate) bypassed: TunnelCounter,
    /// Times that a developer's end was asked whether it lives, after a hint that it does not.
    pub(crate) probes: TunnelCounter,
    /// Request events that did not fit their queue.
    pub(crate) events_dropped: TunnelCounter,
    /// Ports that could not be armed.
    pub(crate) arms_failed: TunnelCounter,
}
