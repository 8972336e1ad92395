//! The requests of one connection whose answers are not through, oldest first, and what is told of them.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use redir_wire::{ConnectionBytes, RequestOutcome};

use super::{local_reply::LocalReply, sent::Sent};
use crate::{plan::Intercept, tunnel_handle::RequestEvent};

/// A request that went to a developer, or a connection that is not HTTP.
pub(super) struct MatchedRequest {
    /// Whose.
    pub(super) intercept: Arc<Intercept>,
    when: SystemTime,
    began: Instant,
    method: String,
    path: String,
    status: u16,
    sent: Sent,
    grpc_status: Option<u32>,
    /// Until it is known: as if its answer broke off.
    outcome: RequestOutcome,
    /// It is not HTTP, and the developer was told that it is open.
    opened: bool,
    /// What it carried, once it has ended.
    bytes: Option<ConnectionBytes>,
}

impl MatchedRequest {
    /// Begins now. The path has no query.
    pub(super) fn new(intercept: Arc<Intercept>, method: &[u8], path: &[u8]) -> Self {
        MatchedRequest {
            intercept,
            when: SystemTime::now(),
            began: Instant::now(),
            method: String::from_utf8_lossy(method).into_owned(),
            path: String::from_utf8_lossy(path).into_owned(),
            status: 0,
            sent: Sent::default(),
            grpc_status: None,
            outcome: RequestOutcome::Cut,
            opened: false,
            bytes: None,
        }
    }

    /// What is written of it is kept, to be sent again where its leg ends without an answer.
    pub(super) fn kept(self) -> Self {
        MatchedRequest { sent: Sent::Nothing { keep: true }, ..self }
    }

    /// It was answered with this status.
    pub(super) fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// The `grpc-status` of its answer.
    pub(super) fn grpc_status(&mut self, status: u32) {
        self.grpc_status = Some(status);
    }

    /// The agent answers itself, with this status; to a gRPC client it is not the reply's own.
    pub(super) fn refused(&mut self, reply: &LocalReply, status: u16) {
        self.status = status;
        self.outcome = RequestOutcome::Refused(reply.why().to_owned());
    }

    /// The client has left before the answer was complete.
    pub(super) fn client_left(&mut self) {
        self.end_as(RequestOutcome::ClientLeft);
    }

    /// Whether nothing of it was written to its developer, or its method changes nothing (RFC 9110, 9.2.1): somebody else
    /// may get it as well.
    fn may_go_elsewhere(&self) -> bool {
        matches!(self.sent, Sent::Nothing { .. }) || matches!(&*self.method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
    }

    /// The answer is complete.
    pub(super) fn complete(&mut self) {
        self.end_as(RequestOutcome::Answered);
    }

    /// What is known already is not overwritten.
    fn end_as(&mut self, outcome: RequestOutcome) {
        if self.outcome == RequestOutcome::Cut {
            self.outcome = outcome;
        }
    }

    /// A connection that is not HTTP.
    fn is_connection(&self) -> bool {
        self.method.is_empty()
    }

    /// Tells the developer how it went.
    pub(super) fn report(self, client: SocketAddr) {
        tracing::debug!(intercept = self.intercept.id, status = self.status, "a matched request is complete");
        let intercept = self.intercept.clone();
        intercept.report(self.into_event(client));
    }

    fn into_event(self, client: SocketAddr) -> RequestEvent {
        RequestEvent {
            when: self.when,
            micros: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            method: self.method,
            path: self.path,
            status: self.status,
            client,
            outcome: self.outcome,
            grpc_status: self.grpc_status,
            bytes: self.bytes,
        }
    }
}

/// One entry for each outstanding request; those that went to the app need nothing told.
#[derive(Default)]
pub(super) struct Requests(VecDeque<Option<Box<MatchedRequest>>>);

impl Requests {
    /// A request went to the app.
    pub(super) fn push_app(&mut self) {
        self.0.push_back(None);
    }

    /// A request went to a developer.
    pub(super) fn push(&mut self, matched: MatchedRequest) {
        self.0.push_back(Some(Box::new(matched)));
    }

    /// The newest request goes to the app after all.
    pub(super) fn take_back(&mut self) {
        if let Some(newest) = self.0.back_mut() {
            *newest = None;
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing went to a developer after all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// These bytes of the newest request were written to its leg.
    pub(super) fn written(&mut self, bytes: &[u8]) {
        let kept = self.0.iter().flatten().map(|matched| matched.sent.kept()).sum();
        if let Some(Some(newest)) = self.0.back_mut() {
            newest.sent.written(bytes, kept);
        }
    }

    /// The oldest request is being answered, with this status if it is known by now: it cannot be sent again.
    pub(super) fn answering(&mut self, status: Option<u16>) {
        if let Some(Some(oldest)) = self.0.front_mut() {
            oldest.sent = Sent::Forgotten;
            status.into_iter().for_each(|status| oldest.answered(status));
        }
    }

    /// Whether nothing of the newest request was written to its leg.
    pub(super) fn newest_unsent(&self) -> bool {
        matches!(self.0.back(), Some(Some(newest)) if matches!(newest.sent, Sent::Nothing { .. }))
    }

    /// Whether the newest request may go to the app after all.
    pub(super) fn newest_may_go_elsewhere(&self) -> bool {
        !matches!(self.0.back(), Some(Some(newest)) if !newest.may_go_elsewhere())
    }

    /// Whether a developer may have begun with any of them.
    pub(super) fn any_sent(&self) -> bool {
        self.0.iter().flatten().any(|matched| !matches!(matched.sent, Sent::Nothing { .. }))
    }

    /// Everything that was written of the requests, if it was kept. It is not kept again.
    pub(super) fn take_sent(&mut self) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        for matched in &mut self.0 {
            let sent = &mut matched.as_mut()?.sent;
            let then = match sent {
                Sent::Nothing { .. } => Sent::Nothing { keep: false },
                Sent::Kept { .. } | Sent::Forgotten => Sent::Forgotten,
            };
            all.extend(std::mem::replace(sent, then).take()?);
        }
        Some(all)
    }

    /// Whose the oldest request is, if it went to a developer.
    pub(super) fn oldest_intercept(&self) -> Option<&Intercept> {
        self.0.front().and_then(Option::as_deref).map(|oldest| &*oldest.intercept)
    }

    /// The agent answers the oldest request itself.
    pub(super) fn refused(&mut self, reply: &LocalReply) {
        if let Some(Some(oldest)) = self.0.front_mut() {
            oldest.refused(reply, reply.status());
        }
    }

    /// The oldest request gets no answer, for this reason.
    pub(super) fn failed(&mut self, why: String) {
        if let Some(Some(oldest)) = self.0.front_mut() {
            oldest.status = 0;
            oldest.outcome = RequestOutcome::Refused(why);
        }
    }

    /// The client has left without the oldest request's answer.
    pub(super) fn client_left(&mut self) {
        if let Some(Some(oldest)) = self.0.front_mut() {
            oldest.client_left();
        }
    }

    /// The oldest request's answer is complete.
    pub(super) fn finished(&mut self, client: SocketAddr) {
        if let Some(Some(mut matched)) = self.0.pop_front() {
            matched.complete();
            matched.report(client);
        }
        if self.0.is_empty() && self.0.capacity() > 16 {
            self.0 = VecDeque::new();
        }
    }

    /// The first bytes came from a developer who has the whole connection: of HTTP, that is all that is told of it.
    pub(super) fn opened(&mut self, status: Option<u16>, client: SocketAddr) {
        let Some(Some(oldest)) = self.0.front_mut() else { return };
        if !oldest.is_connection() {
            oldest.answered(status.unwrap_or_default());
            return self.finished(client);
        }
        if !std::mem::replace(&mut oldest.opened, true) {
            let mut event = MatchedRequest::new(oldest.intercept.clone(), b"", b"").into_event(client);
            event.when = oldest.when;
            event.micros = u64::try_from(oldest.began.elapsed().as_micros()).unwrap_or(u64::MAX);
            event.outcome = RequestOutcome::Answered;
            oldest.intercept.report_open(event);
        }
    }

    /// The connection ends, after so many bytes: what is left had no complete answer, since the client left or for
    /// another reason.
    pub(super) fn abandoned(&mut self, client: SocketAddr, client_left: bool, bytes: ConnectionBytes) {
        while let Some(entry) = self.0.pop_front() {
            let Some(mut matched) = entry else { continue };
            if matched.is_connection() {
                matched.bytes = Some(bytes);
                matched.complete();
            } else if client_left {
                matched.client_left();
            }
            matched.report(client);
        }
    }
}

/// Method and path (without authority and query, which may hold secrets) of an HTTP/1 request line, if the bytes begin with one.
pub(super) fn request_line(head: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = head.split(|&byte| byte == b'\r').next()?;
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let authority = target.windows(3).position(|three| three == b"://").filter(|_| target.first() != Some(&b'/'));
    let target = authority.map_or(target, |at| {
        let rest = &target[at + 3..];
        &rest[rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len())..]
    });
    let path = target.split(|&byte| byte == b'?').next()?;
    version.starts_with(b"HTTP/1.").then_some((method, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_is_told_without_its_query() {
        assert_eq!(request_line(b"GET /a?secret=1 HTTP/1.1\r\nHost: x"), Some((&b"GET"[..], &b"/a"[..])));
        let absolute = b"GET http://me:secret@web/a?x HTTP/1.1\r\n";
        assert_eq!(request_line(absolute), Some((&b"GET"[..], &b"/a"[..])));
        let redirect = b"GET /to/http://web/b HTTP/1.1\r\n";
        assert_eq!(request_line(redirect), Some((&b"GET"[..], &b"/to/http://web/b"[..])));
        assert_eq!(request_line(b"GET http://web HTTP/1.1\r\n"), Some((&b"GET"[..], &b""[..])));
        assert_eq!(request_line(b"SSH-2.0-x\r\n"), None);
        assert_eq!(request_line(b""), None);
    }
}
