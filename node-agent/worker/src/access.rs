//! The access events: one when a connection opens, one when it closes, target `access`, fixed fields.
//!
//! Must not see bytes: header values, bodies and query strings are in no log. Called by `connection`.

use std::{net::SocketAddr, sync::Arc, sync::atomic::Ordering, time::Instant};

use super::{metrics::Metrics, relay::Tally, shares::ConnectionPlace};
use redir_config::PodName;

/// One client connection, from its access event at open to the one at close (on drop).
pub(crate) struct Access {
    pod: PodName,
    port: u16,
    client: SocketAddr,
    opened: Instant,
    metrics: Arc<Metrics>,
    /// Bytes from and to the client.
    pub(crate) tally: Tally,
    /// Requests that went to the app.
    pub(crate) app_requests: u64,
    /// Requests that went to a developer.
    pub(crate) developer_requests: u64,
    /// Why it is forwarded without being looked at any more, if it is.
    pub(crate) opaque: Option<&'static str>,
    /// Why it ended; a task that was ended from outside has no better word than this.
    reason: &'static str,
    /// Its place among all connections; `None` where they are not counted.
    place: Option<Arc<ConnectionPlace>>,
}

impl Access {
    /// Writes the event at open.
    pub(crate) fn open(pod: &PodName, port: u16, client: SocketAddr, metrics: &Arc<Metrics>) -> Self {
        metrics.connections.inc();
        metrics.connections_open.inc();
        tracing::info!(target: "access", event = "open", %pod, port, %client);
        Access {
            pod: pod.clone(),
            port,
            client,
            opened: Instant::now(),
            metrics: metrics.clone(),
            tally: Tally::default(),
            app_requests: 0,
            developer_requests: 0,
            opaque: None,
            reason: "aborted",
            place: None,
        }
    }

    /// Its place is cheaper once something was decided.
    pub(crate) fn at(&mut self, place: Arc<ConnectionPlace>) {
        self.place = Some(place);
    }

    fn decided(&mut self) {
        if let Some(place) = &self.place {
            place.decided();
        }
    }

    /// The connection takes more memory from now on: it is decrypted, or speaks HTTP/2.
    pub(crate) fn heavy(&self) {
        if let Some(place) = &self.place {
            place.heavy();
        }
    }

    /// A request went to the app.
    pub(crate) fn count_app(&mut self) {
        self.decided();
        self.app_requests += 1;
        self.metrics.requests_app.inc();
    }

    /// A request went to a developer.
    pub(crate) fn count_developer(&mut self) {
        self.decided();
        self.developer_requests += 1;
        self.metrics.requests_developer.inc();
    }

    /// The newest request went to the app after all: its developer could not be reached.
    pub(crate) fn back_to_app(&mut self) {
        self.developer_requests = self.developer_requests.saturating_sub(1);
        self.count_app();
    }

    /// The agent answered a request itself.
    pub(crate) fn refused(&mut self) {
        self.metrics.requests_refused.inc();
    }

    /// The connection is not looked at any more.
    pub(crate) fn went_opaque(&mut self, why: &'static str) {
        if self.opaque.is_none() {
            self.decided();
            self.opaque = Some(why);
            self.metrics.opaque(why).inc();
        }
    }

    /// Notes why the connection ends; the event is written when this is dropped.
    pub(crate) fn ended(&mut self, reason: &'static str) {
        self.reason = reason;
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let received = self.tally.received.load(Ordering::Relaxed);
        let sent = self.tally.sent.load(Ordering::Relaxed);
        self.metrics.connections_open.dec();
        self.metrics.bytes_received.inc_by(received);
        self.metrics.bytes_sent.inc_by(sent);
        self.metrics.closed(self.reason).inc();
        tracing::info!(
            target: "access",
            event = "close",
            pod = %self.pod,
            port = self.port,
            client = %self.client,
            app_requests = self.app_requests,
            developer_requests = self.developer_requests,
            opaque = self.opaque.unwrap_or("no"),
            received,
            sent,
            millis = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX),
            reason = self.reason,
        );
    }
}
