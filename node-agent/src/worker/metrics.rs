//! The worker's figures for Prometheus: handles resolved once, labels bounded.
//!
//! Owns the registry and its text form. Must not take a label from outside: pod names come from the admin's file,
//! reasons are words of our own. Called by everything in the data path, read by `admin`.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use redir_abi::Reason;

/// A counter of events.
pub(crate) type Count = Counter<u64, AtomicU64>;
/// A level that rises and falls.
pub(crate) type Level = Gauge<i64, AtomicI64>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecisionLabel {
    decision: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DatapathLabel {
    pod: String,
    program: &'static str,
    reason: &'static str,
}

/// Every figure of the worker.
pub(crate) struct Metrics {
    registry: Registry,
    datapath: Family<DatapathLabel, Count>,
    closed: Family<ReasonLabel, Count>,
    opaque: Family<ReasonLabel, Count>,
    /// Connections accepted.
    pub(crate) connections: Count,
    /// Connections open now.
    pub(crate) connections_open: Level,
    /// Requests that went to the app.
    pub(crate) requests_app: Count,
    /// Requests that went to a developer.
    pub(crate) requests_developer: Count,
    /// Requests that the agent answered itself because a developer's side could not.
    pub(crate) requests_refused: Count,
    /// Bytes from clients.
    pub(crate) bytes_received: Count,
    /// Bytes to clients.
    pub(crate) bytes_sent: Count,
    /// Source ports that did not work and were replaced by another.
    pub(crate) upstream_retries: Count,
    /// Client addresses whose new connections were let pass to the app because their ports ran short.
    pub(crate) bypasses: Count,
    /// Connections to a port that is not armed: not steered, reset.
    pub(crate) strays: Count,
    /// Failed accepts (file descriptors, memory).
    pub(crate) accept_errors: Count,
    /// Pods whose new connections pass to the app because the agent is at a limit.
    pub(crate) pods_passing: Level,
    /// Pods captured now.
    pub(crate) pods: Level,
    /// Developers connected now.
    pub(crate) tunnels: Level,
    /// Intercepts that steer now.
    pub(crate) intercepts: Level,
    /// Request events that a developer's full queue dropped.
    pub(crate) events_dropped: Count,
    /// Tunnels that were refused after their handshake.
    pub(crate) tunnels_refused: Count,
}

impl Metrics {
    /// All figures, at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("redir");
        let requests = Family::<DecisionLabel, Count>::default();
        let bytes = Family::<DirectionLabel, Count>::default();
        let decided = |decision| requests.get_or_create_owned(&DecisionLabel { decision });
        let directed = |direction| bytes.get_or_create_owned(&DirectionLabel { direction });
        let metrics = Metrics {
            datapath: Family::default(),
            closed: Family::default(),
            opaque: Family::default(),
            connections: Count::default(),
            connections_open: Level::default(),
            requests_app: decided("app"),
            requests_developer: decided("developer"),
            requests_refused: decided("refused"),
            bytes_received: directed("received"),
            bytes_sent: directed("sent"),
            upstream_retries: Count::default(),
            bypasses: Count::default(),
            strays: Count::default(),
            accept_errors: Count::default(),
            pods_passing: Level::default(),
            pods: Level::default(),
            tunnels: Level::default(),
            intercepts: Level::default(),
            events_dropped: Count::default(),
            tunnels_refused: Count::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "HTTP requests by where they went", requests);
        registry.register("bytes", "Bytes of client connections", bytes);
        metrics.register_connections(&mut registry);
        metrics.register_tunnels(&mut registry);
        Metrics { registry, ..metrics }
    }

    fn register_connections(&self, to: &mut Registry) {
        to.register("datapath_packets", "What the programs in the pods decided", self.datapath.clone());
        to.register("connections", "Client connections accepted", self.connections.clone());
        to.register("connections_open", "Client connections open now", self.connections_open.clone());
        to.register("connections_closed", "Client connections ended, by reason", self.closed.clone());
        to.register("connections_opaque", "Client connections not looked at any more, by reason", self.opaque.clone());
        to.register("upstream_retries", "Source ports that had to be replaced", self.upstream_retries.clone());
        to.register("bypasses", "Crowded client addresses let pass to the app", self.bypasses.clone());
        to.register("strays", "Connections to the agent's listener that were not steered", self.strays.clone());
        to.register("accept_errors", "Failed accepts", self.accept_errors.clone());
        to.register("pods_passing", "Pods whose new connections pass to the app for now", self.pods_passing.clone());
        to.register("pods", "Pods captured now", self.pods.clone());
    }

    fn register_tunnels(&self, to: &mut Registry) {
        to.register("tunnels", "Developers connected now", self.tunnels.clone());
        to.register("intercepts", "Intercepts that steer now", self.intercepts.clone());
        to.register("tunnels_refused", "Tunnels refused after their handshake", self.tunnels_refused.clone());
        to.register("events_dropped", "Request events dropped on full queues", self.events_dropped.clone());
    }

    /// The counter of connections that ended for this reason (one of our own words).
    pub(crate) fn closed(&self, reason: &'static str) -> Count {
        self.closed.get_or_create_owned(&ReasonLabel { reason })
    }

    /// The counter of connections that went opaque for this reason.
    pub(crate) fn opaque(&self, reason: &'static str) -> Count {
        self.opaque.get_or_create_owned(&ReasonLabel { reason })
    }

    /// Takes over what the guardian counted in a pod: absolute values, which begin anew when the pod is captured anew.
    pub(crate) fn set_datapath(&self, pod: &str, counts: &[(Reason, u64)]) {
        for &(reason, count) in counts {
            let label = DatapathLabel { pod: pod.to_owned(), program: reason.program().name(), reason: reason.name() };
            self.datapath.get_or_create(&label).inner().store(count, Ordering::Relaxed);
        }
    }

    /// The OpenMetrics text.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_every_figure() {
        let metrics = Metrics::new();
        metrics.connections.inc();
        metrics.requests_app.inc();
        metrics.closed("client").inc();
        metrics.set_datapath("web-1", &[(Reason::ALL[0], 7)]);
        let text = metrics.text().unwrap();
        for line in [
            "redir_connections_total 1",
            "redir_requests_total{decision=\"app\"} 1",
            "redir_connections_closed_total{reason=\"client\"} 1",
            "redir_datapath_packets_total{pod=\"web-1\",program=",
            "redir_intercepts 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
