//! Everything goes to one origin and comes from it, unread.

use std::{sync::Arc, time::Duration};

use redir_http::{OpaqueReason, engine::Origin, filter::Key};
use tokio::time::Instant;

use super::{Action, AfterWrite, ConnectionState, Context, End, Forward, LegAnswer, Part, hello::TLS};
use crate::{
    plan::{Intercept, Plan},
    proxy::{
        flow::{ClientSide, LastHeard},
        leg::{Leg, LegEnd},
        local_reply::{Http1Asked, LocalReply},
        requests::{MatchedRequest, request_line},
        route::origin,
    },
    tls::Finding,
};

/// How long a connection that is not read must have been quiet to count as being between requests: longer than a service
/// thinks in the middle of an answer, shorter than its leaving developer waits.
const QUIET: Duration = Duration::from_millis(1500);

/// What a developer who has the whole connection has answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstAnswer {
    Awaited,
    /// It says where it ends: by a length or by chunks.
    Framed,
    Unframed,
}

/// See the module.
pub(in super::super) struct Opaque {
    to: Origin,
    /// Whose the connection is, until its first bytes were counted as theirs.
    uncounted: Option<Arc<Intercept>>,
    /// What the client sent looks like HTTP.
    is_http: bool,
    first_answer: FirstAnswer,
}

impl Opaque {
    /// Of which everything was counted.
    pub(in super::super) fn new(to: Origin) -> Self {
        Opaque { to, uncounted: None, is_http: false, first_answer: FirstAnswer::Awaited }
    }

    /// Wholly a global intercept's.
    pub(super) fn of_global(global: &Arc<Intercept>) -> Self {
        Opaque { uncounted: Some(global.clone()), ..Opaque::new(origin(global)) }
    }

    /// Who gets a connection that was not decided: what was never HTTP is the global intercept's, if there is one.
    pub(super) fn undecided(to: Origin, why: OpaqueReason, at: &mut Context<'_>) -> Self {
        at.access.went_opaque(why.as_str());
        if why == OpaqueReason::Tls {
            note_tls(at);
        }
        let foreign = matches!(why, OpaqueReason::Tls | OpaqueReason::Http2 | OpaqueReason::NotHttp);
        let plan = at.route.plan();
        match plan.as_deref().and_then(|plan| plan.global.as_ref()) {
            Some(global) if to == Origin::App && foreign && at.is_fresh() => Opaque::of_global(global),
            _ => Opaque::new(to),
        }
    }

    /// Whose it is, and was not counted as theirs so far.
    pub(super) fn uncounted(&self) -> Option<&Arc<Intercept>> {
        self.uncounted.as_ref()
    }

    /// Who has the connection.
    pub(super) fn to(&self) -> Origin {
        self.to
    }

    /// The first bytes of a connection that is the global developer's: counted once.
    pub(super) fn count_global(&mut self, at: &mut Context<'_>) {
        let Some(global) = self.uncounted.take() else { return };
        note_tls(at);
        at.access.count_developer();
        at.access.went_opaque("global");
        let (method, path) = request_line(at.flow.unread()).unwrap_or_default();
        self.is_http = !method.is_empty();
        at.requests.push(MatchedRequest::new(global, method, path));
    }

    /// The first bytes of an answer under a global intercept: its status is told to the developer.
    fn count_answer(&mut self, at: &mut Context<'_>) {
        if self.to == Origin::App {
            return;
        }
        self.count_global(at);
        let answer = at.flow.said(self.to);
        if self.first_answer == FirstAnswer::Awaited {
            self.first_answer = if is_framed(answer) { FirstAnswer::Framed } else { FirstAnswer::Unframed };
        }
        at.requests.opened(status(answer), at.route.client);
    }

    /// Nothing was sent to a developer whose leg could not be opened: the app gets it, as without the intercept.
    fn may_fall_back(&self, from: Origin, at: &Context<'_>) -> bool {
        let unopened = at.flow.leg(from).is_some_and(|leg| leg.is_unopened());
        unopened && from == self.to && at.access.app_requests == 0 && at.requests.len() <= 1
    }
}

/// TLS that nobody decrypts begins: the port's developers are told.
fn note_tls(at: &Context<'_>) {
    if at.flow.unread().starts_with(TLS) && !at.route.is_decrypted() {
        at.route.found(Finding::Tls);
    }
}

/// Whether the connection is wholly a developer's who leaves, and nothing was sent on it: it goes on as one that opens now.
pub(super) fn is_left_unused(global: &Intercept, at: &Context<'_>) -> bool {
    let flow = at.flow;
    // What goes either way is counted as theirs first.
    if flow.client_side != ClientSide::Open || flow.sending.is_some() || flow.writing.is_some() {
        return false;
    }
    let left = flow.leg(origin(global)).is_some_and(|leg| leg.last && leg.end().is_none() && leg.down.is_empty());
    left && at.route.plan().as_deref().is_none_or(|plan| plan.intercept(Key(global.id)).is_none())
}

impl ConnectionState for Opaque {
    fn client_bytes(&mut self, _: Option<&Plan>, at: &mut Context<'_>) -> Action {
        if self.to != Origin::App {
            self.count_global(at);
        }
        match at.flow.unread().len() {
            0 => Action::Wait,
            len => Action::Forward(Forward { to: self.to, opens: None, len, replaced: None, part: Part::Rest }),
        }
    }

    fn client_end(&mut self, _: &mut Context<'_>) -> Action {
        Action::PassEnd(Some(self.to))
    }

    fn origin_bytes(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        if from != self.to {
            return Action::CloseLeg;
        }
        self.count_answer(at);
        Action::Write { len: at.flow.said(from).len(), then: AfterWrite::More }
    }

    fn origin_end(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        if self.may_fall_back(from, at) {
            at.requests.clear();
            return Action::go_opaque(Opaque::new(Origin::App));
        }
        let nothing_sent = at.access.tally.sent.load(std::sync::atomic::Ordering::Relaxed) == 0;
        match at.flow.leg(from).and_then(|leg| leg.end()) {
            // Bytes are bytes: the service's own reset is passed on; only what the tunnel's side says gets a sentence.
            Some(LegEnd::Failed(error)) if self.is_http && nothing_sent && !error.is_reset() => {
                let reply = LocalReply::of_leg(at.requests.oldest_intercept(), Some(error));
                let bytes = reply.http1(Http1Asked { head: false, keep_alive: false });
                at.access.refused();
                at.requests.refused(&reply);
                Action::Answer(LegAnswer { bytes, keep_alive: false, more: false })
            }
            Some(LegEnd::Failed(error)) => {
                // The client gets a reset and no sentence; the developer gets it.
                if !error.is_reset() {
                    at.requests.failed(error.to_string());
                }
                Action::reset(error.label())
            }
            Some(LegEnd::Fin) | None => Action::EndClient,
        }
    }

    fn after_turn(&mut self, at: &mut Context<'_>) -> Action {
        if self.uncounted.as_deref().is_some_and(|global| is_left_unused(global, at)) {
            return Action::begin_anew(at.route.plan().as_deref());
        }
        let flow = at.flow;
        if flow.writing.is_some() {
            return Action::Wait;
        }
        let Some(leg) = flow.leg(self.to) else { return Action::End(End::Closed("origin_closed")) };
        match leg.end() {
            // After its FIN it does not even read any more.
            Some(LegEnd::Failed(error)) if leg.is_end_told() => Action::reset(error.label()),
            Some(_) if leg.is_end_told() && flow.client_side == ClientSide::Told && flow.is_sent() => {
                Action::End(End::Closed("both_closed"))
            }
            None if self.to == Origin::App && flow.is_sent() && leg.down.is_empty() => Action::Join,
            Some(_) | None => Action::Wait,
        }
    }

    /// A connection that is wholly a developer's cannot go on without them: once they leave, it ends when it is quiet behind
    /// an answer, as a server ends a connection that is kept alive. Otherwise it is cut when their tunnel is closed: also
    /// where an answer has no length of its own, since half of it would look whole.
    fn at_rest(&mut self, now: Instant, at: &mut Context<'_>) -> Result<Option<Instant>, Action> {
        let flow = at.flow;
        let leaves = flow.leg(self.to).is_some_and(|leg| leg.last && leg.end().is_none() && leg.down.is_empty());
        let answered = self.first_answer == FirstAnswer::Framed && flow.last_heard == LastHeard::Client;
        if self.to == Origin::App || !leaves || !answered || flow.writing.is_some() || !flow.up.is_empty() {
            return Ok(None);
        }
        let until = flow.active + QUIET;
        if now >= until { Err(Action::End(End::Closed("developer_left"))) } else { Ok(Some(until)) }
    }

    fn needs_leg(&self, leg: &Leg) -> bool {
        leg.origin == self.to
    }
}

/// Whether an HTTP/1 answer begins with a whole head that names a length or chunks.
fn is_framed(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let named = |line: &[u8]| {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        [&b"content-length"[..], b"transfer-encoding"].iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    answer.starts_with(b"HTTP/1.1 ") && answer[..end].split(|&byte| byte == b'\n').any(named)
}

/// The status of an HTTP/1 answer, if the bytes begin with one.
fn status(answer: &[u8]) -> Option<u16> {
    let code = answer.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn an_answer_says_its_end_by_a_length_or_by_chunks() {
        for answer in
            ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbl", "HTTP/1.1 200\r\ntransfer-encoding:chunked\r\n\r\n"]
        {
            assert!(is_framed(answer.as_bytes()), "{answer}");
        }
        for other in [
            "HTTP/1.1 200 OK\r\n\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n",
            "220 hi\r\n",
        ] {
            assert!(!is_framed(other.as_bytes()), "{other}");
        }
    }
}
