//! One developer's tunnel, as the data path and the registry hold it, and what is counted of all of them.

pub(crate) mod backlog;
pub(crate) mod counters;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redir_tunnel::{Budget, Pin, StallTimer, UnreadPool};
use redir_wire::{ConnectionBytes, RequestOutcome, UnixMillis, limits};
use tokio_util::sync::CancellationToken;

use crate::memory::PodAccount;
use redir_config::PodName;

use self::{
    backlog::{Backlog, EventQueue, EventSender, event_queue},
    counters::TunnelCounters,
};

/// A tunnel that is up, or was. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TunnelHandle(Arc<HandleState>);

#[derive(Debug)]
struct HandleState {
    connection: quinn::Connection,
    events: EventSender,
    backlog: Backlog,
    missed: AtomicU64,
    streams: AtomicU64,
    streams_total: AtomicU64,
    ended: CancellationToken,
    unanswered: AtomicBool,
    counters: Arc<TunnelCounters>,
    budget: Budget,
}

impl TunnelHandle {
    /// A tunnel whose request events go to the returned queue; `memory` is its key's.
    pub(crate) fn new(
        connection: quinn::Connection,
        counters: Arc<TunnelCounters>,
        (unread, key): (&UnreadPool, Pin),
        memory: &PodAccount,
    ) -> (Self, EventQueue) {
        let (events, queue) = event_queue(EVENTS, Backlog::new(memory));
        let backlog = Backlog::new(memory);
        let budget = unread.join(&connection, key);
        let inner = HandleState {
            connection,
            events,
            backlog,
            missed: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            streams_total: AtomicU64::new(0),
            ended: CancellationToken::new(),
            unanswered: AtomicBool::new(false),
            counters,
            budget,
        };
        (Self(Arc::new(inner)), queue)
    }

    /// Opens a data stream; waits while the tunnel has as many as it may.
    pub(crate) async fn open_bi(&self) -> Result<(quinn::SendStream, quinn::RecvStream, OpenStream), OpenError> {
        if !self.alive() {
            return Err(OpenError::Gone);
        }
        if self.is_unanswered() {
            return Err(OpenError::Unanswered);
        }
        let (send, recv) = self.0.connection.open_bi().await.map_err(|_| OpenError::Gone)?;
        Ok((send, recv, OpenStream::new(self.clone())))
    }

    /// Queues a request event, or counts it as missed.
    pub(crate) fn report(&self, intercept: u64, pod: &PodName, event: RequestEvent) {
        let missed = self.0.missed.swap(0, Ordering::Relaxed);
        let when = event.when.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let event = redir_wire::RequestEvent {
            intercept,
            when: UnixMillis(u64::try_from(when).unwrap_or(u64::MAX)),
            method: cut(event.method, limits::NAME),
            path: cut(event.path, limits::PATH),
            status: event.status,
            micros: event.micros,
            pod: pod.bare().to_owned(),
            client: redir_tunnel::canonical(event.client).to_string(),
            missed,
            outcome: match event.outcome {
                RequestOutcome::Refused(why) => RequestOutcome::Refused(cut(why, limits::SENTENCE)),
                other => other,
            },
            grpc_status: event.grpc_status,
            bytes: event.bytes,
        };
        if !self.0.events.try_send(event) {
            self.0.missed.fetch_add(missed + 1, Ordering::Relaxed);
            self.0.counters.events_dropped.add(1);
        }
    }

    /// Whether the tunnel is up.
    pub(crate) fn alive(&self) -> bool {
        !self.0.ended.is_cancelled() && self.0.connection.close_reason().is_none()
    }

    /// Whether it gets no new requests, because the developer's end does not answer.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.0.unanswered.load(Ordering::Relaxed)
    }

    /// Says whether the developer's end answers; true if that is news.
    pub(crate) fn set_unanswered(&self, unanswered: bool) -> bool {
        self.0.unanswered.swap(unanswered, Ordering::Relaxed) != unanswered
    }

    /// Resolves when the tunnel is down.
    #[cfg(test)]
    pub(crate) async fn ended(&self) {
        tokio::select! {
            () = self.0.ended.cancelled() => {}
            _ = self.0.connection.closed() => {}
        }
    }

    /// Marks the tunnel as down, before its connection is.
    pub(crate) fn end(&self) {
        self.0.ended.cancel();
    }

    /// What waits on the control stream.
    pub(crate) fn backlog(&self) -> &Backlog {
        &self.0.backlog
    }

    /// The QUIC connection.
    pub(crate) fn connection(&self) -> &quinn::Connection {
        &self.0.connection
    }

    /// Data streams open now, and so far.
    pub(crate) fn streams(&self) -> (u64, u64) {
        (self.0.streams.load(Ordering::Relaxed), self.0.streams_total.load(Ordering::Relaxed))
    }

    /// The agent's counters.
    pub(crate) fn counters(&self) -> &TunnelCounters {
        &self.0.counters
    }

    /// Streams whose client does not read.
    #[cfg(test)]
    pub(crate) fn stalled(&self) -> usize {
        self.0.budget.stalled()
    }
}

/// Counts one data stream as open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream(TunnelHandle);

impl OpenStream {
    /// How long what the developer sends may wait for the client.
    pub(crate) fn patience(&self) -> StallTimer {
        self.0.0.budget.patience()
    }

    fn new(tunnel: TunnelHandle) -> Self {
        tunnel.0.streams.fetch_add(1, Ordering::Relaxed);
        tunnel.0.streams_total.fetch_add(1, Ordering::Relaxed);
        tunnel.0.counters.streams.add(1);
        tunnel.0.counters.streams_total.add(1);
        Self(tunnel)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.streams.fetch_sub(1, Ordering::Relaxed);
        self.0.0.counters.streams.sub(1);
    }
}

/// Cuts a text at a character's border.
fn cut(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}

/// Request events of one tunnel that wait to be sent, as far as there is memory for them (`backlog`). At 10,000 requests/s a
/// tenth of a second; above it they are dropped and the next event says how many.
const EVENTS: usize = 1024;

/// Why no stream could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The tunnel is down.
    Gone,
    /// The tunnel has as many streams as it may, or takes no more bytes, for [`OPEN_LIMIT`].
    Busy,
    /// The developer's end acknowledges nothing at the moment.
    Unanswered,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the developer's tunnel is down"),
            Self::Busy => f.write_str("the developer's tunnel takes no more streams"),
            Self::Unanswered => f.write_str("the developer's machine does not answer"),
        }
    }
}

impl std::error::Error for OpenError {}

/// One matched request or connection that is through.
#[derive(Clone, Debug)]
pub(crate) struct RequestEvent {
    /// When it came.
    pub(crate) when: SystemTime,
    /// As the client wrote it; empty for a connection that is not HTTP.
    pub(crate) method: String,
    /// As the client wrote it, without the query.
    pub(crate) path: String,
    /// The answer's status; 0 if there was none.
    pub(crate) status: u16,
    /// From the first byte of the request to the last of the answer.
    pub(crate) micros: u64,
    /// The client.
    pub(crate) client: SocketAddr,
    /// Who answered, or why nobody did.
    pub(crate) outcome: RequestOutcome,
    /// The `grpc-status` of a gRPC answer.
    pub(crate) grpc_status: Option<u32>,
    /// What a connection that is not HTTP carried; `None` while it is open.
    pub(crate) bytes: Option<ConnectionBytes>,
}

/// How long a client's bytes may wait for a stream before the request counts as failed. Opening is a matter of
/// microseconds unless the tunnel is at its limit of streams or its path is stuck.
pub(crate) const OPEN_LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(cut("äöü".into(), 3), "ä");
        assert_eq!(cut("abc".into(), 3), "abc");
    }
}
