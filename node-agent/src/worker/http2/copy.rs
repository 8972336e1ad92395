//! One direction of one stream, from one h2 connection to another.
//!
//! Owns: both ends of the direction, and what lies between them. The sender's window opens again only when the receiver
//! has room for what was sent: a slow receiver slows its own sender, and nobody else. Must not: add, drop or look at
//! bytes or trailers. Called by `stream`.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;

use super::queue::{Queue, Waiting};

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
}

impl Copy {
    /// Begins with nothing passed; what waits counts as `waiting`.
    pub(super) fn new(from: RecvStream, to: SendStream<Bytes>, waiting: Waiting) -> Self {
        Copy { from, to, queue: Queue::new(waiting), rest: Rest::Open, frames: 0 }
    }

    /// The sender had nothing to send, and has said so with its head.
    pub(super) fn ended(from: RecvStream, to: SendStream<Bytes>, waiting: Waiting) -> Self {
        Copy { rest: Rest::Sent, ..Copy::new(from, to, waiting) }
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
                    Poll::Ready(Some(trailers)) => self.rest = Rest::Trailers(trailers),
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
            if room > 0 {
                self.send(room)?;
            }
        }
        match std::mem::replace(&mut self.rest, Rest::Sent) {
            Rest::Open => self.rest = Rest::Open,
            Rest::Trailers(trailers) => self.sent(|to| to.send_trailers(trailers))?,
            Rest::End => self.sent(|to| to.send_data(Bytes::new(), true))?,
            Rest::Sent => {}
        }
        Ok(())
    }

    fn send(&mut self, room: usize) -> Result<(), ()> {
        let bytes = self.queue.take(room);
        let len = bytes.len();
        // The end goes with the last byte, as the sender did it more often than not.
        let last = self.queue.len() == 0 && matches!(self.rest, Rest::End);
        self.sent(|to| to.send_data(bytes, last))?;
        if last {
            self.rest = Rest::Sent;
        }
        // Fails only for more than was received.
        let _ = self.from.flow_control().release_capacity(len);
        Ok(())
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
