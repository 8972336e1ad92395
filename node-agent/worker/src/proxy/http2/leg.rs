//! One h2 connection to an origin: the app, or a developer's service.
//!
//! Owns: the connection, from being opened to its end, and the requests that wait for it to be open. Must not: decide
//! what goes where, or know streams once they have begun. Called by `serving`.

use std::{
    mem,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    Reason, SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::HeaderMap;

use super::{
    limits,
    origin::Origin,
    upgrade::Upgrade,
    wire::{Transport, Wire},
};
use crate::memory::{self, Purpose};

/// A leg that is open.
pub(super) struct Opened<T> {
    /// Begins streams; `None`: none begin any more.
    requests: Option<SendRequest<Bytes>>,
    connection: client::Connection<Wire<T, Origin>, Bytes>,
    /// The stream of the request that the origin got before it spoke HTTP/2.
    upgraded: Option<SentRequest>,
}

/// A stream whose request is with the origin.
pub(super) type SentRequest = (ResponseFuture, SendStream<Bytes>);

/// A leg that is being opened.
pub(super) type Opening<'a, T, E> = Pin<Box<dyn Future<Output = Result<Opened<T>, E>> + Send + 'a>>;

/// Says what `io` has got of the preface and has said already, and begins to speak HTTP/2.
pub(super) async fn greet<T: Transport>(
    builder: client::Builder,
    io: T,
    origin: Origin,
    heard: Bytes,
    written: usize,
) -> Result<Opened<T>, h2::Error> {
    let (requests, connection) = builder.handshake(Wire::of_server(io, origin, heard, written)).await?;
    Ok(Opened { requests: Some(requests), connection, upgraded: None })
}

/// Begins to speak HTTP/2 with an app that has answered 101 and said `heard`.
pub(super) async fn greet_upgraded<T: Transport>(
    upgrade: Upgrade,
    io: T,
    origin: Origin,
    heard: Bytes,
) -> Result<Opened<T>, h2::Error> {
    origin.anticipate_acknowledgement();
    let wire = Wire::of_upgraded(io, origin, heard, &upgrade);
    let (mut requests, connection) = limits::towards_upgraded_app(&upgrade).handshake(wire).await?;
    let upgraded = requests.send_request(upgrade.request(), true)?;
    Ok(Opened { requests: Some(requests), connection, upgraded: Some(upgraded) })
}

enum State<'a, T, E> {
    Opening(Opening<'a, T, E>),
    Open(Box<Opened<T>>),
    Ended,
}

/// What happened to a leg.
#[derive(Debug)]
pub(super) enum Event<E> {
    /// Requests may be sent.
    Open,
    /// It could not be opened: nothing was sent.
    Unopened(E),
    /// The origin takes no more requests; those it has begun with go on.
    GoingAway(Reason),
    /// It is over.
    Ended(Result<(), h2::Error>),
}

/// See the module.
pub(super) struct Leg<'a, T, E, W> {
    state: State<'a, T, E>,
    /// What is known of the other end.
    pub(super) origin: Origin,
    /// Requests that are sent once it is open.
    pub(super) waiting: Vec<W>,
    /// Its connection's window, beyond what stalled streams hold.
    window: u32,
    /// What the window is now.
    widened: u32,
    /// Bytes of heads that were sent since the other end was last seen taking some.
    heads: usize,
    /// The stream of the request that the origin got before it spoke HTTP/2: its answer may be here when the leg is over.
    upgraded: Option<SentRequest>,
}

/// The size of a list of headers, in bytes (RFC 9113, 6.5.2).
pub(super) fn header_list(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// Heads have no window. So many bytes of them may be on their way to an origin that takes nothing.
const HEADS: usize = 1024 * 1024;

impl<'a, T: Transport, E, W> Leg<'a, T, E, W> {
    /// Begins to open.
    pub(super) fn new(opening: Opening<'a, T, E>, origin: Origin, window: u32) -> Self {
        let state = State::Opening(opening);
        Leg { state, origin, waiting: Vec::new(), window, widened: window, heads: 0, upgraded: None }
    }

    /// Drives the connection and all streams on it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event<E>> {
        match &mut self.state {
            State::Ended => Poll::Pending,
            State::Opening(opening) => match opening.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(mut opened)) => {
                    self.upgraded = opened.upgraded.take();
                    self.state = State::Open(Box::new(opened));
                    Poll::Ready(Event::Open)
                }
                Poll::Ready(Err(error)) => {
                    self.state = State::Ended;
                    Poll::Ready(Event::Unopened(error))
                }
            },
            State::Open(opened) => {
                if let Poll::Ready(ended) = Pin::new(&mut opened.connection).poll(cx) {
                    self.state = State::Ended;
                    return Poll::Ready(Event::Ended(ended));
                }
                if let Some(requests) = &mut opened.requests
                    && let Poll::Ready(Err(error)) = requests.poll_ready(cx)
                {
                    opened.requests = None;
                    return Poll::Ready(Event::GoingAway(error.reason().unwrap_or(Reason::NO_ERROR)));
                }
                Poll::Pending
            }
        }
    }

    /// Begins streams, if they may begin now.
    pub(super) fn requests(&mut self) -> Option<SendRequest<Bytes>> {
        match &self.state {
            State::Open(opened) => opened.requests.clone(),
            State::Opening(_) | State::Ended => None,
        }
    }

    /// The stream of the request that the origin got before it spoke HTTP/2; once.
    pub(super) fn take_upgraded(&mut self) -> Option<SentRequest> {
        self.upgraded.take()
    }

    /// Whether that is still there.
    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.is_some()
    }

    /// Whether it takes nothing, and enough lies there already.
    pub(super) fn is_full(&mut self) -> bool {
        if !self.is_opening() && !self.origin.is_blocked() {
            self.heads = 0;
        }
        self.heads > HEADS
    }

    /// A head is sent, or waits for the leg to be open.
    pub(super) fn note_head(&mut self, headers: &HeaderMap) {
        if self.is_opening() || self.origin.is_blocked() {
            self.heads += header_list(headers);
        }
    }

    /// Whether requests may wait for it to be open.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening(_))
    }

    /// Whether it is over.
    pub(super) fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Hands over what waits.
    pub(super) fn take_waiting(&mut self) -> Vec<W> {
        mem::take(&mut self.waiting)
    }

    /// No stream begins on it any more: it ends when the last one has.
    pub(super) fn retire(&mut self) {
        match &mut self.state {
            State::Open(opened) => opened.requests = None,
            State::Opening(_) => self.state = State::Ended,
            State::Ended => {}
        }
    }

    /// What stalled streams hold of the connection's window is added to it.
    pub(super) fn widen(&mut self) {
        let State::Open(opened) = &mut self.state else { return };
        let held = self.origin.held().load(Ordering::Relaxed);
        if let Some(window) = widened(self.window, held, self.widened) {
            self.widened = window;
            opened.connection.set_target_window_size(window);
        }
    }
}

/// What a connection's window should be while stalled streams hold so many bytes of it, if that is not what it is `now`.
pub(super) fn widened(window: u32, held: usize, now: u32) -> Option<u32> {
    /// Not for every byte a WINDOW_UPDATE.
    const STEP: usize = 64 * 1024;
    const MOST: usize = 1 << 30;
    let wanted = window + u32::try_from(held.next_multiple_of(STEP).min(MOST)).unwrap_or_default();
    // Beyond the budget a connection's own window is all there is: then its streams do wait for each other.
    let allowed = if wanted > now && !memory::has_room(Purpose::SlowReader) { now } else { wanted };
    (allowed != now).then_some(allowed)
}
