//! The worker's figures for Prometheus: handles resolved once, labels bounded.
//!
//! Owns the registry and its text form. Must not take a label from outside: pod names come from the admin's file or the
//! API server, reasons are words of our own. Called by everything in the data path, read by `admin`.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use redir_abi::Reason;

use super::tunnel_handle::counters::TunnelCounters;
use redir_link::ControllerHealth;

/// A counter of events.
pub(crate) type EventCounter = Counter<u64, AtomicU64>;
/// A level that rises and falls.
pub(crate) type LevelGauge = Gauge<i64, AtomicI64>;

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
    datapath: Family<DatapathLabel, EventCounter>,
    closed: Family<ReasonLabel, EventCounter>,
    opaque: Family<ReasonLabel, EventCounter>,
    bypasses: Family<ReasonLabel, EventCounter>,
    pods_passing: Family<ReasonLabel, LevelGauge>,
    /// Connections accepted.
    pub(crate) connections: EventCounter,
    /// Connections open now.
    pub(crate) connections_open: LevelGauge,
    /// Requests that went to the app.
    pub(crate) requests_app: EventCounter,
    /// Requests that went to a developer.
    pub(crate) requests_developer: EventCounter,
    /// Requests that the agent answered itself because a developer's side could not.
    pub(crate) requests_refused: EventCounter,
    /// Bytes from clients.
    pub(crate) bytes_received: EventCounter,
    /// Bytes to clients.
    pub(crate) bytes_sent: EventCounter,
    /// Source ports that did not work and were replaced by another.
    pub(crate) upstream_retries: EventCounter,
    /// Connections that somebody in the pod dialled to the agent's listener itself: not steered, reset.
    pub(crate) strays: EventCounter,
    /// Failed accepts (file descriptors, memory).
    pub(crate) accept_errors: EventCounter,
    /// Clients whose new connections pass to the app because they have their share.
    pub(crate) clients_passing: LevelGauge,
    /// Pods captured now.
    pub(crate) pods: LevelGauge,
    /// Intercepts that the API server tells of, in the whole cluster.
    objects: LevelGauge,
    /// Bytes that are held for clients and developers now.
    pub(crate) memory_held: LevelGauge,
    /// Calls to the API server that failed, watches included.
    api_errors: EventCounter,
    /// Intercepts that were deleted because nobody renewed them.
    expired: EventCounter,
    /// 1 while the controller is heard.
    controller: LevelGauge,
    tunnels: LevelGauge,
    tunnels_opened: EventCounter,
    handshakes_refused: EventCounter,
    sessions_failed: EventCounter,
    intercepts: LevelGauge,
    intercepts_refused: EventCounter,
    streams: LevelGauge,
    streams_opened: EventCounter,
    streams_failed: EventCounter,
    requests_bypassed: EventCounter,
    tunnel_probes: EventCounter,
    events_dropped: EventCounter,
    arms_failed: EventCounter,
}

impl Metrics {
    /// All figures, at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("redir");
        let requests = Family::<DecisionLabel, EventCounter>::default();
        let bytes = Family::<DirectionLabel, EventCounter>::default();
        let decided = |decision| requests.get_or_create_owned(&DecisionLabel { decision });
        let directed = |direction| bytes.get_or_create_owned(&DirectionLabel { direction });
        let metrics = Metrics {
            datapath: Family::default(),
            closed: Family::default(),
            opaque: Family::default(),
            connections: EventCounter::default(),
            connections_open: LevelGauge::default(),
            requests_app: decided("app"),
            requests_developer: decided("developer"),
            requests_refused: decided("refused"),
            bytes_received: directed("received"),
            bytes_sent: directed("sent"),
            upstream_retries: EventCounter::default(),
            bypasses: Family::default(),
            strays: EventCounter::default(),
            accept_errors: EventCounter::default(),
            clients_passing: LevelGauge::default(),
            pods_passing: Family::default(),
            pods: LevelGauge::default(),
            objects: LevelGauge::default(),
            memory_held: LevelGauge::default(),
            api_errors: EventCounter::default(),
            expired: EventCounter::default(),
            controller: LevelGauge::default(),
            tunnels: LevelGauge::default(),
            tunnels_opened: EventCounter::default(),
            handshakes_refused: EventCounter::default(),
            sessions_failed: EventCounter::default(),
            intercepts: LevelGauge::default(),
            intercepts_refused: EventCounter::default(),
            streams: LevelGauge::default(),
            streams_opened: EventCounter::default(),
            streams_failed: EventCounter::default(),
            requests_bypassed: EventCounter::default(),
            tunnel_probes: EventCounter::default(),
            events_dropped: EventCounter::default(),
            arms_failed: EventCounter::default(),
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
        let clients = "Clients whose new connections to a pod pass to the app for now";
        to.register("clients_passing", clients, self.clients_passing.clone());
        to.register("pods", "Pods captured now", self.pods.clone());
        let held = "Bytes held for clients and developers beyond what each connection may hold";
        to.register("memory_held_bytes", held, self.memory_held.clone());
    }

    fn register_tunnels(&self, to: &mut Registry) {
        to.register("tunnels", "Developers connected now", self.tunnels.clone());
        to.register("tunnels_opened", "Tunnels that were greeted", self.tunnels_opened.clone());
        to.register("handshakes_refused", "Tunnel handshakes that failed", self.handshakes_refused.clone());
        to.register("sessions_failed", "Tunnels closed for breaking the protocol", self.sessions_failed.clone());
        to.register("intercepts", "Intercepts of live tunnels", self.intercepts.clone());
        to.register("intercepts_refused", "Intercepts not granted", self.intercepts_refused.clone());
        to.register("streams", "Tunnelled connections open now", self.streams.clone());
        to.register("streams_opened", "Tunnelled connections", self.streams_opened.clone());
        to.register("streams_failed", "Tunnelled connections that could not be opened", self.streams_failed.clone());
        let bypassed = "Matched requests that went to the app because the developer's machine did not answer";
        to.register("requests_bypassed", bypassed, self.requests_bypassed.clone());
        let probes = "Times that a developer was asked whether it is there, after a hint that it is not";
        to.register("tunnel_probes", probes, self.tunnel_probes.clone());
        to.register("events_dropped", "Request events dropped on full queues", self.events_dropped.clone());
        to.register("arms_failed", "Ports that could not be armed", self.arms_failed.clone());
        to.register("intercept_objects", "Intercepts that the API server tells of", self.objects.clone());
        to.register("intercepts_expired", "Intercepts deleted because nobody renewed them", self.expired.clone());
        to.register(
            "controller_up",
            "1 while the process that speaks to the API server is heard",
            self.controller.clone(),
        );
        to.register("api_errors", "Calls to the API server that failed", self.api_errors.clone());
    }

    /// The counter of connections that ended for this reason (one of our own words).
    pub(crate) fn closed(&self, reason: &'static str) -> EventCounter {
        self.closed.get_or_create_owned(&ReasonLabel { reason })
    }

    /// The counter of connections that went opaque for this reason.
    pub(crate) fn opaque(&self, reason: &'static str) -> EventCounter {
        self.opaque.get_or_create_owned(&ReasonLabel { reason })
    }

    /// The counter of clients let pass to the app for this reason.
    pub(crate) fn bypasses(&self, reason: &'static str) -> EventCounter {
        self.bypasses.get_or_create_owned(&ReasonLabel { reason })
    }

    /// The number of pods whose new connections pass to the app now for this reason.
    pub(crate) fn pods_passing(&self, reason: &'static str) -> LevelGauge {
        self.pods_passing.get_or_create_owned(&ReasonLabel { reason })
    }

    /// Drops what was counted in pods: where pods come and go, those that are captured no longer must not pile up.
    pub(crate) fn forget_datapaths(&self) {
        self.datapath.clear();
    }

    /// Takes over what the guardian counted in a pod: absolute values, which begin anew when the pod is captured anew.
    pub(crate) fn set_datapath(&self, pod: &str, counts: &[(Reason, u64)]) {
        for &(reason, count) in counts {
            let label = DatapathLabel { pod: pod.to_owned(), program: reason.program().name(), reason: reason.name() };
            self.datapath.get_or_create(&label).inner().store(count, Ordering::Relaxed);
        }
    }

    /// Takes over what the controller has counted, since what it said before.
    pub(crate) fn set_controller(&self, now: ControllerHealth, before: ControllerHealth) {
        self.objects.set(i64::try_from(now.objects).unwrap_or(i64::MAX));
        self.api_errors.inc_by(now.api_errors.saturating_sub(before.api_errors));
        self.expired.inc_by(now.expired.saturating_sub(before.expired));
    }

    /// Whether the controller is heard.
    pub(crate) fn set_controller_up(&self, up: bool) {
        self.controller.set(up.into());
    }

    /// Takes over what the tunnels counted.
    pub(crate) fn set_tunnels(&self, counters: &TunnelCounters) {
        for (ours, count) in [
            (&self.tunnels, counters.tunnels.value()),
            (&self.intercepts, counters.intercepts.value()),
            (&self.streams, counters.streams.value()),
        ] {
            ours.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for (ours, count) in [
            (&self.tunnels_opened, counters.tunnels_total.value()),
            (&self.handshakes_refused, counters.handshakes_refused.value()),
            (&self.sessions_failed, counters.sessions_failed.value()),
            (&self.intercepts_refused, counters.intercepts_refused.value()),
            (&self.streams_opened, counters.streams_total.value()),
            (&self.streams_failed, counters.streams_failed.value()),
            (&self.requests_bypassed, counters.bypassed.value()),
            (&self.tunnel_probes, counters.probes.value()),
            (&self.events_dropped, counters.events_dropped.value()),
            (&self.arms_failed, counters.arms_failed.value()),
        ] {
            ours.inner().store(count, Ordering::Relaxed);
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

    /// The table of `docs/src/metrics.md` names each figure by the name that Prometheus stores it under, and no other.
    #[test]
    fn the_page_has_every_figure() {
        let page = include_str!("../../../docs/src/metrics.md");
        let table = page.split("| metric | what |").nth(1).expect("the table of metrics");
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let names = rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2));
        let mut documented: Vec<&str> = names.map(|name| name.split('{').next().unwrap_or_default()).collect();
        documented.sort_unstable();
        let metrics = Metrics::new();
        // A family without any member is not written.
        metrics.closed("client").inc();
        metrics.opaque("tls").inc();
        metrics.bypasses("ports").inc();
        metrics.pods_passing("share").inc();
        metrics.set_datapath("web-1", &[(Reason::ALL[0], 7)]);
        let text = metrics.text().unwrap();
        let mut counted: Vec<String> = Vec::new();
        for line in text.lines() {
            let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            counted.push(if kind == "counter" { format!("{name}_total") } else { name.to_owned() });
        }
        counted.sort_unstable();
        assert_eq!(documented, counted);
    }

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
