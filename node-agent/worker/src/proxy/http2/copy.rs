//! One direction of one stream, from one h2 connection to another.
//!
//! Owns: both ends of the direction, and what lies between them. The sender's window opens again only when the receiver
//! has room for what was sent: a slow receiver slows its own sender, and nobody else. It also keeps what was sent, up to a
//! bound, as long as another receiver may have to get it. Must not: add, drop or change bytes or trailers, or look at more
//! of them than gRPC's status. Called by `stream`.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::time::{Sleep, sleep};

use super::{
    guard::Guard,
    limits,
    queue::{Queue, Waiting},
    stream::grpc_status,
};
use crate::memory::{Purpose, Share};

/// What follows the last byte.
enum Rest {
    /// More bytes may come.
    Open,
    /// The trailers.
    Trailers(HeaderMap),
    /// The end.
    End,
    /// The end is with the receiver.
    Sent,
}

/// What the receiver was sent, in case that it refuses the stream.
#[derive(Default)]
struct Kept {
    bytes: BytesMut,
    trailers: Option<HeaderMap>,
    share: Share,
}

/// Kept of one stream at most, in bytes: the message of an ordinary unary call. A longer one is not sent again.
const KEEP: usize = 64 * 1024;

impl Kept {
    /// False: it is more than may be kept.
    fn add(&mut self, bytes: &[u8]) -> bool {
        let len = self.bytes.len() + bytes.len();
        if len > KEEP || !self.share.try_set(len, Purpose::Repetition) {
            return false;
        }
        self.bytes.extend_from_slice(bytes);
        true
    }
}

/// A direction whose receiver has refused all of it: its sender, and what it has sent so far.
pub(super) struct Rewound {
    from: RecvStream,
    queue: Queue,
    rest: Rest,
    /// So many of the queue's first bytes have opened the sender's window already.
    released: usize,
}

impl Rewound {
    /// Whether there is nothing to send but the head.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.len() == 0 && matches!(self.rest, Rest::End)
    }
}

/// How a direction ended.
#[derive(Debug)]
pub(super) enum Moved {
    /// Everything is with the receiver's connection.
    Through,
    /// The sender has ended it otherwise.
    From(h2::Error),
    /// The receiver wants no more, for this reason if it gave one.
    To(Option<Reason>),
}

/// See the module.
pub(super) struct Copy {
    from: RecvStream,
    to: SendStream<Bytes>,
    queue: Queue,
    rest: Rest,
    frames: u32,
    kept: Option<Box<Kept>>,
    /// So many of the queue's first bytes have opened the sender's window already.
    released: usize,
    /// What the trailers say, for the developer's list.
    grpc_status: Option<u32>,
    /// Of the client's connection, if it is the receiver.
    client: Option<Guard>,
    /// Runs while memory is too scarce to give the client more.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Copy {
    /// Begins with nothing passed; what waits counts as `waiting`.
    pub(super) fn new(from: RecvStream, to: SendStream<Bytes>, waiting: Waiting) -> Self {
        Copy {
            from,
            to,
            queue: Queue::new(waiting),
            rest: Rest::Open,
            frames: 0,
            kept: None,
            released: 0,
            grpc_status: None,
            client: None,
            pause: None,
        }
    }

    /// Begins with what another receiver has refused.
    pub(super) fn again(rewound: Rewound, to: SendStream<Bytes>) -> Self {
        let empty = rewound.is_empty();
        let Rewound { from, queue, rest, released } = rewound;
        let rest = if empty { Rest::Sent } else { rest };
        Copy { queue, rest, released, ..Copy::new(from, to, Waiting::default()) }
    }

    /// The receiver is the client, whose connection this guard watches.
    pub(super) fn watched_by(mut self, guard: Guard) -> Self {
        self.client = Some(guard);
        self
    }

    /// From now on what is sent is kept.
    pub(super) fn keep(mut self) -> Self {
        self.kept = Some(Box::default());
        self
    }

    /// It will not be sent again.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// Everything from the beginning on, for another receiver; `None` if that is not there any more.
    pub(super) fn rewind(self, waiting: Waiting) -> Option<Rewound> {
        let Copy { from, mut queue, rest, kept, released, .. } = self;
        let Kept { bytes, trailers, .. } = *kept?;
        let released = released + bytes.len();
        let mut whole = Queue::new(waiting);
        whole.push(bytes.freeze());
        while queue.len() > 0 {
            let most = queue.len();
            whole.push(queue.take(most));
        }
        let rest = match (rest, trailers) {
            (Rest::Sent, Some(trailers)) => Rest::Trailers(trailers),
            (Rest::Sent, None) => Rest::End,
            (rest, _) => rest,
        };
        Some(Rewound { from, queue: whole, rest, released })
    }

    /// The sender had nothing to send, and has said so with its head.
    pub(super) fn ended(from: RecvStream, to: SendStream<Bytes>, waiting: Waiting) -> Self {
        Copy { rest: Rest::Sent, ..Copy::new(from, to, waiting) }
    }

    /// The `grpc-status` of the trailers that came.
    pub(super) fn trailers_grpc_status(&self) -> Option<u32> {
        self.grpc_status
    }

    /// Moves what can be moved.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Moved> {
        if let Err(error) = self.pull(cx) {
            return Poll::Ready(Moved::From(error));
        }
        match self.push(cx) {
            Err(()) => return Poll::Ready(Moved::To(self.why_closed(cx))),
            Ok(()) if matches!(self.rest, Rest::Sent) => return Poll::Ready(Moved::Through),
            Ok(()) => {}
        }
        self.queue.count();
        match self.to.poll_reset(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(reset) => Poll::Ready(Moved::To(reset.ok())),
        }
    }

    /// Ends the receiver's stream.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.to.send_reset(reason);
    }

    /// Frames sent since this was asked last.
    pub(super) fn take_frames(&mut self) -> u32 {
        std::mem::take(&mut self.frames)
    }

    /// Takes everything that has come: the h2 crate ends a connection on which too many small pieces lie.
    fn pull(&mut self, cx: &mut Context<'_>) -> Result<(), h2::Error> {
        while matches!(self.rest, Rest::Open) {
            match self.from.poll_data(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(bytes)) => {
                    self.queue.push(bytes?);
                    if self.from.is_end_stream() {
                        self.rest = Rest::End;
                    }
                }
                Poll::Ready(None) => match self.from.poll_trailers(cx)? {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Some(trailers)) => {
                        self.grpc_status = grpc_status(&trailers);
                        self.rest = Rest::Trailers(trailers);
                    }
                    Poll::Ready(None) => self.rest = Rest::End,
                },
            }
        }
        Ok(())
    }

    /// Gives the receiver what it has room for. `Err`: it takes no more.
    fn push(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        while self.queue.len() > 0 {
            self.to.reserve_capacity(self.queue.len());
            let room = match self.to.capacity() {
                0 => match self.to.poll_capacity(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Some(Ok(_))) => self.to.capacity(),
                    Poll::Ready(Some(Err(_)) | None) => return Err(()),
                },
                room => room,
            };
            if self.is_paused(cx) {
                return Ok(());
            }
            if room > 0 {
                self.send(room)?;
            }
        }
        match std::mem::replace(&mut self.rest, Rest::Sent) {
            Rest::Open => self.rest = Rest::Open,
            Rest::Trailers(trailers) => {
                if let Some(kept) = &mut self.kept {
                    kept.trailers = Some(trailers.clone());
                }
                self.sent(|to| to.send_trailers(trailers))?;
            }
            Rest::End => self.sent(|to| to.send_data(Bytes::new(), true))?,
            Rest::Sent => {}
        }
        Ok(())
    }

    /// Whether the client gets no more for now: what it does not take would lie in the h2 crate, and memory is scarce.
    fn is_paused(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(client) = &self.client else { return false };
        while limits::is_scarce(client.unsent()) {
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(limits::SCARCE_PAUSE)));
            if pause.as_mut().poll(cx).is_pending() {
                return true;
            }
            self.pause = None;
        }
        self.pause = None;
        false
    }

    fn send(&mut self, room: usize) -> Result<(), ()> {
        let bytes = self.queue.take(room);
        let len = bytes.len();
        if self.kept.as_mut().is_some_and(|kept| !kept.add(&bytes)) {
            self.kept = None;
        }
        // The end goes with the last byte, as the sender did it more often than not.
        let last = self.queue.len() == 0 && matches!(self.rest, Rest::End);
        if let Some(client) = &self.client {
            client.given(len);
        }
        let sent = self.sent(|to| to.send_data(bytes, last));
        if last {
            self.rest = Rest::Sent;
        }
        let before = self.released.min(len);
        self.released -= before;
        // Fails only for more than was received.
        let _ = self.from.flow_control().release_capacity(len - before);
        sent
    }

    fn sent(&mut self, send: impl FnOnce(&mut SendStream<Bytes>) -> Result<(), h2::Error>) -> Result<(), ()> {
        self.frames += 1;
        // Fails only on a stream that has ended.
        send(&mut self.to).map_err(drop)
    }

    fn why_closed(&mut self, cx: &mut Context<'_>) -> Option<Reason> {
        match self.to.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Some(reason),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }
}
