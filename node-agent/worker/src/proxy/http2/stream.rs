//! One request and its answer, between the client's connection and an origin's.
//!
//! Owns: both streams, from the moment the request's head was sent to the end of both; what the end of one means for the
//! other; whether a request that was not answered may be sent again; and that the developer is told. Must not: decide whom a request is for (`serving` has), or change heads.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{Reason, client::ResponseFuture, server::SendResponse};
use http::HeaderMap;

use super::{
    copy::{Copy, Moved},
    guard::Guard,
    limits,
    origin::{Origin, broken},
    queue::Waiting,
    repeat::{Repeat, may_repeat},
    requests::{Body, Request},
};
use crate::{
    memory::Share,
    plan::Intercept,
    proxy::{
        local_reply::{Http2Asked, LocalReply},
        requests::MatchedRequest,
    },
};

/// A request that went to a developer; reported when it is dropped.
pub(super) struct Report {
    matched: Option<Box<MatchedRequest>>,
    client: SocketAddr,
}

impl Report {
    /// Begins now.
    pub(super) fn new(intercept: Arc<Intercept>, head: &http::request::Parts, client: SocketAddr) -> Self {
        let matched = MatchedRequest::new(intercept, head.method.as_str().as_bytes(), head.uri.path().as_bytes());
        Report { matched: Some(Box::new(matched)), client }
    }

    /// Whose it is.
    pub(super) fn intercept(&self) -> Option<&Arc<Intercept>> {
        self.matched.as_ref().map(|matched| &matched.intercept)
    }

    /// What is known of its answer.
    fn note(&mut self, note: impl FnOnce(&mut MatchedRequest)) {
        if let Some(matched) = &mut self.matched {
            note(matched);
        }
    }

    /// It went to the app after all: nothing to tell.
    pub(super) fn forget(mut self) {
        self.matched = None;
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(matched) = self.matched.take() {
            matched.report(self.client);
        }
    }
}

/// How a stream ended.
pub(super) enum Done {
    /// As its ends wanted it.
    Through,
    /// The agent has answered itself.
    Refused,
    /// This developer's leg has not begun with it: it is to be sent again.
    Again(Box<Request>, Origin),
}

/// The answer, as far as it is.
enum Answer {
    Awaited {
        response: ResponseFuture,
        respond: SendResponse<Bytes>,
    },
    Body(Copy),
    /// Reset with this reason, once what came before has had its chance to be written: the h2 crate drops what it holds of
    /// a stream that is reset.
    Ending {
        copy: Copy,
        reason: Reason,
        turn: u64,
    },
    Through,
}

/// See the module.
pub(super) struct Stream {
    answer: Answer,
    /// `None` once it is to be sent again.
    request: Option<Copy>,
    /// Nothing more of the request is passed on.
    request_over: bool,
    origin: Origin,
    guard: Guard,
    asked: Http2Asked,
    report: Option<Report>,
    /// What sends it again, until it is answered.
    repeat: Option<Box<Repeat>>,
    held: Waiting,
    /// What the stream takes of the agent's memory.
    share: Share,
}

/// What a stream is made of.
pub(super) struct Parts {
    pub(super) respond: SendResponse<Bytes>,
    pub(super) response: ResponseFuture,
    pub(super) request: Copy,
    pub(super) origin: Origin,
    pub(super) guard: Guard,
    pub(super) asked: Http2Asked,
    /// Of a developer's.
    pub(super) report: Option<Report>,
    /// Of one that may be sent again; then `request` keeps what it sends.
    pub(super) repeat: Option<Box<Repeat>>,
    /// What waits for origins.
    pub(super) held: Waiting,
    /// What the stream takes of the agent's memory.
    pub(super) share: Share,
}

impl Stream {
    /// The request's head was sent.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { respond, response, request, origin, guard, asked, report, repeat, held, share } = parts;
        let (answer, request) = (Answer::Awaited { response, respond }, Some(request));
        Stream { answer, request, request_over: false, origin, guard, asked, report, repeat, held, share }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        if let Answer::Awaited { .. } = self.answer {
            match self.poll_head(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(done)) => return Poll::Ready(done),
                Poll::Ready(Ok(())) => {}
            }
        }
        let copy = match &mut self.answer {
            Answer::Body(copy) => copy,
            Answer::Ending { copy, reason, turn } if *turn != self.guard.turn() => {
                copy.reset(*reason);
                return Poll::Ready(Done::Through);
            }
            Answer::Ending { .. } => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Answer::Awaited { .. } | Answer::Through => return Poll::Pending,
        };
        let moved = copy.poll(cx);
        self.guard.worked(copy.take_frames());
        match moved {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Moved::Through) => {
                let grpc_status = copy.trailers_grpc_status();
                self.answer = Answer::Through;
                self.complete(grpc_status);
                Poll::Pending
            }
            Poll::Ready(Moved::From(error)) => {
                let reason = reason_after_head(&error);
                if let Answer::Body(copy) = std::mem::replace(&mut self.answer, Answer::Through) {
                    self.answer = Answer::Ending { copy, reason, turn: self.guard.turn() };
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Moved::To(reason)) => Poll::Ready(self.client_gone(reason)),
        }
    }

    /// The final head is passed on: `Ok`. `Err`: the stream is at its end.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Done>> {
        let Answer::Awaited { response, respond } = &mut self.answer else { return Poll::Ready(Ok(())) };
        while let Poll::Ready(Some(Ok(informational))) = response.poll_informational(cx) {
            // Fails only on a stream that has ended, as the next poll tells.
            let _ = respond.send_informational(informational);
            self.guard.worked(1);
        }
        match Pin::new(response).poll(cx) {
            Poll::Pending => match respond.poll_reset(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(reset) => Poll::Ready(Err(self.client_gone(reset.ok()))),
            },
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.origin_failed(&error))),
            Poll::Ready(Ok(response)) => Poll::Ready(self.pass_head(response)),
        }
    }

    fn pass_head(&mut self, response: http::Response<h2::RecvStream>) -> Result<(), Done> {
        let Answer::Awaited { respond, .. } = &mut self.answer else { return Ok(()) };
        let (head, body) = response.into_parts();
        self.origin.note_answer();
        self.repeat = None;
        // The request's head is with the origin.
        self.share.set(limits::STREAM_COST);
        if let Some(request) = &mut self.request {
            request.forget();
        }
        if let Some(report) = &mut self.report {
            report.note(|matched| matched.answered(head.status.as_u16()));
        }
        let ends = body.is_end_stream();
        // Without a body, trailers alone: what they say is in the head.
        let grpc_status = grpc_status(&head.headers).filter(|_| ends);
        self.guard.worked(1);
        let Ok(to) = respond.send_response(http::Response::from_parts(head, ()), ends) else {
            return Err(self.client_gone(None));
        };
        self.answer = if ends {
            Answer::Through
        } else {
            Answer::Body(Copy::new(body, to, self.origin.held().clone()).watched_by(self.guard.clone()))
        };
        if ends {
            self.complete(grpc_status);
        }
        Ok(())
    }

    /// The answer is with the client's connection.
    fn complete(&mut self, grpc_status: Option<u32>) {
        let Some(report) = &mut self.report else { return };
        report.note(|matched| {
            grpc_status.into_iter().for_each(|status| matched.grpc_status(status));
            matched.complete();
        });
    }

    /// The client has ended the stream, or its connection.
    fn client_gone(&mut self, reason: Option<Reason>) -> Done {
        if let Some(report) = &mut self.report {
            report.note(MatchedRequest::client_left);
        }
        if let Some(request) = &mut self.request {
            request.reset(reason.unwrap_or(Reason::CANCEL));
        }
        Done::Through
    }

    /// The request, from its beginning, if it may be sent again after this error.
    fn repeated(&mut self, error: &h2::Error) -> Option<Box<Request>> {
        let repeat = self.repeat.take_if(|repeat| may_repeat(error, &self.origin, repeat.head()))?;
        let body = self.request.take()?.rewind(self.held.clone())?;
        let Answer::Awaited { respond, .. } = std::mem::replace(&mut self.answer, Answer::Through) else { return None };
        let (asked, report, share) =
            (std::mem::take(&mut self.asked), self.report.take(), std::mem::take(&mut self.share));
        let (head, tries, begun) = repeat.once_more(error);
        Some(Box::new(Request { head, body: Body::Again(Box::new(body)), respond, asked, report, tries, begun, share }))
    }

    /// The origin gave no answer.
    fn origin_failed(&mut self, error: &h2::Error) -> Done {
        if let Some(request) = self.repeated(error) {
            return Done::Again(request, self.origin.clone());
        }
        let Answer::Awaited { respond, .. } = &mut self.answer else { return Done::Through };
        let own = error.is_reset() && error.is_remote();
        if own || unprocessed(error) {
            respond.send_reset(reason_after_head(error));
            return Done::Through;
        }
        let Some(intercept) = self.report.as_ref().and_then(Report::intercept) else {
            respond.send_reset(reason_after_head(error));
            return Done::Through;
        };
        let reply = broken(intercept, self.origin.cause(), Some(error));
        refuse(respond, &reply, &self.asked, self.report.as_mut());
        Done::Refused
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        let Some(request) = self.request.as_mut().filter(|_| !self.request_over) else { return Poll::Pending };
        match request.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Moved::Through) => {
                self.request_over = true;
                Poll::Pending
            }
            Poll::Ready(Moved::From(error)) => {
                Poll::Ready(self.client_gone(error.reason().filter(|_| error.is_reset())))
            }
            // The origin has enough; its answer, or the lack of one, says what it thinks of it.
            Poll::Ready(Moved::To(_)) => {
                self.request_over = true;
                Poll::Pending
            }
        }
    }
}

impl Future for Stream {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let this = &mut *self;
        if let Poll::Ready(done) = this.poll_answer(cx) {
            return Poll::Ready(done);
        }
        if let Poll::Ready(done) = this.poll_request(cx) {
            return Poll::Ready(done);
        }
        let over = this.request_over && matches!(this.answer, Answer::Through);
        if over { Poll::Ready(Done::Through) } else { Poll::Pending }
    }
}

/// The agent's own answer.
pub(super) fn refuse(
    respond: &mut SendResponse<Bytes>,
    reply: &LocalReply,
    asked: &Http2Asked,
    report: Option<&mut Report>,
) {
    let (head, body) = reply.http2(asked);
    if let Some(report) = report {
        report.note(|matched| {
            matched.refused(reply, head.status().as_u16());
            asked.grpc_status().into_iter().for_each(|status| matched.grpc_status(status));
        });
    }
    // Both fail only on a stream that the client has ended.
    let Ok(mut to) = respond.send_response(head, body.is_none()) else { return };
    if let Some(body) = body {
        let _ = to.send_data(body, true);
    }
}

/// The `grpc-status` of trailers, or of a head that is trailers alone.
pub(super) fn grpc_status(fields: &HeaderMap) -> Option<u32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Whether an origin that is going away has certainly not begun with the request.
pub(super) fn unprocessed(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote()
}

/// What a client is told whose answer ends otherwise than its origin wanted, or as it wanted.
pub(super) fn reason_after_head(error: &h2::Error) -> Reason {
    match error.reason() {
        _ if unprocessed(error) => Reason::REFUSED_STREAM,
        Some(reason) if error.is_reset() => reason,
        _ => Reason::INTERNAL_ERROR,
    }
}
