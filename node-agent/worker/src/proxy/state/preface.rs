//! How a connection becomes one of HTTP/2 that its client begins so, or turns out to be none.
//!
//! The origin gets the preface, which says nothing that is not the same for every client, and nothing else until it has
//! answered: if it does not speak HTTP/2, everything goes on as it came. Must not read a frame; `http2` does.

use std::{sync::Arc, time::Duration};

use redir_http::{OpaqueReason, engine::Origin};
use tokio::time::Instant;

use super::{Action, ConnectionState, Context, Forward, Legs, Opaque, Part};
use crate::{
    misses::Cause,
    plan::{Intercept, Plan},
    proxy::{
        attention::Attention,
        http2::{
            block,
            preface::{self, Told},
        },
        route::origin,
    },
};

/// How long one end may say nothing after the other has shown itself. A server that does may wait for the rest of the
/// client's preface, its SETTINGS, which it then gets; such servers are rare, those that are known answer the first 24
/// bytes or the connection itself. A client that does waits for the server, which is not HTTP/2.
const SILENCE: Duration = Duration::from_secs(1);

/// Whether an origin that speaks before the client may be one that speaks HTTP/2: many send their SETTINGS at once, and
/// the client's preface is on its way.
pub(super) fn may_be_settings(from: Origin, at: &Context<'_>) -> bool {
    let server = preface::server(at.flow.said(from)) != Told::Other;
    let client = preface::client(at.flow.unread()) != Told::Other;
    server && client && at.is_fresh() && at.flow.sending.is_none()
}

/// One of the ends does not speak HTTP/2: everything goes on as it came, to whom `global` or the plan says.
fn not_http2(global: Option<&Arc<Intercept>>, why: OpaqueReason, at: &mut Context<'_>) -> Opaque {
    match global {
        Some(global) => Opaque::of_global(global),
        None => Opaque::undecided(Origin::App, why, at),
    }
}

/// The client's first bytes are those of a preface, or an origin's those of SETTINGS.
pub(super) struct ExpectPreface {
    /// Whose the connection is if it is not HTTP/2.
    global: Option<Arc<Intercept>>,
    /// Since when an origin has been heard and the client has not.
    silent_since: Option<Instant>,
}

impl ExpectPreface {
    pub(super) fn new(global: Option<Arc<Intercept>>) -> Self {
        ExpectPreface { global, silent_since: None }
    }

    fn not_http2(&self, why: OpaqueReason, at: &mut Context<'_>) -> Action {
        Action::go_opaque(not_http2(self.global.as_ref(), why, at))
    }
}

impl ConnectionState for ExpectPreface {
    fn client_bytes(&mut self, plan: Option<&Plan>, at: &mut Context<'_>) -> Action {
        match preface::client(at.flow.unread()) {
            Told::NeedMore => Action::Wait,
            Told::Other => self.not_http2(OpaqueReason::Http2, at),
            Told::Http2 => {
                let first = plan.and_then(|plan| plan.global.clone());
                Action::become_state(ExpectSettings::new(first, self.global.take()), Legs::Kept)
            }
        }
    }

    fn client_end(&mut self, at: &mut Context<'_>) -> Action {
        self.not_http2(OpaqueReason::Http2, at)
    }

    fn origin_bytes(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        match preface::server(at.flow.said(from)) {
            // Until the client's preface is there.
            Told::Http2 => Action::Hold,
            Told::NeedMore => Action::Wait,
            Told::Other => self.not_http2(OpaqueReason::Http2, at),
        }
    }

    fn origin_end(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        match from {
            Origin::App => self.not_http2(OpaqueReason::Http2, at),
            // Once the client has shown that it speaks HTTP/2, it is dialled again.
            Origin::Developer(_) => Action::CloseLeg,
        }
    }

    fn at_rest(&mut self, now: Instant, at: &mut Context<'_>) -> Result<Option<Instant>, Action> {
        if at.flow.legs.iter().all(|leg| leg.down.is_empty()) {
            return Ok(None);
        }
        let until = *self.silent_since.get_or_insert(now) + SILENCE;
        if now >= until { Err(self.not_http2(OpaqueReason::ServerFirst, at)) } else { Ok(Some(until)) }
    }
}

/// The client has sent its preface, which goes to the origin that stands for all.
pub(super) struct ExpectSettings {
    to: Origin,
    /// Who that is, if it is a developer.
    first: Option<Arc<Intercept>>,
    /// Whose the connection is if it is not HTTP/2.
    global: Option<Arc<Intercept>>,
    /// Since when the origin has had the preface and has said nothing.
    silent_since: Option<Instant>,
}

impl ExpectSettings {
    fn new(first: Option<Arc<Intercept>>, global: Option<Arc<Intercept>>) -> Self {
        let to = first.as_deref().map_or(Origin::App, origin);
        ExpectSettings { to, first, global, silent_since: None }
    }

    /// The origin has got the first bytes: it gets the others.
    fn not_http2(&self, at: &mut Context<'_>) -> Action {
        let mut opaque = not_http2(self.global.as_ref(), OpaqueReason::Http2, at);
        if opaque.to() != self.to {
            opaque = Opaque::new(self.to);
        }
        Action::go_opaque(opaque)
    }

    /// Both speak HTTP/2. The client was not answered so far: a header block that is open, and finds no room in memory, goes
    /// to the app unread with everything else.
    fn http2(&self, at: &mut Context<'_>) -> Action {
        if self.to == Origin::App && !block::has_room(at.flow.unread()) {
            at.route.missed(Cause::MemoryScarce);
            at.access.went_opaque(OpaqueReason::MemoryScarce.as_str());
            return Action::go_opaque(Opaque::new(self.to));
        }
        Action::Http2 { to: self.to, upgrade: None }
    }
}

impl ConnectionState for ExpectSettings {
    fn client_bytes(&mut self, _: Option<&Plan>, _: &mut Context<'_>) -> Action {
        let len = preface::PREFACE.len();
        Action::Forward(Forward { to: self.to, opens: self.first.clone(), len, replaced: None, part: Part::Opening })
    }

    /// The client is held behind its preface.
    fn client_end(&mut self, at: &mut Context<'_>) -> Action {
        self.not_http2(at)
    }

    fn origin_bytes(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        match preface::server(at.flow.said(from)) {
            // As soon as the client's preface is passed on.
            Told::Http2 => Action::Hold,
            Told::NeedMore => Action::Wait,
            Told::Other => {
                if from == self.to {
                    at.route.missed(Cause::Http2Unanswered);
                }
                self.not_http2(at)
            }
        }
    }

    fn origin_end(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        match from {
            Origin::App => self.not_http2(at),
            // Each request that it matches is answered for itself.
            Origin::Developer(_) => self.http2(at),
        }
    }

    fn after_turn(&mut self, at: &mut Context<'_>) -> Action {
        let passed_on = at.flow.client == Attention::Held && at.flow.sending.is_none();
        match passed_on && preface::server(at.flow.said(self.to)) == Told::Http2 {
            true => self.http2(at),
            false => Action::Wait,
        }
    }

    fn at_rest(&mut self, now: Instant, at: &mut Context<'_>) -> Result<Option<Instant>, Action> {
        if at.flow.sending.is_some() {
            return Ok(None);
        }
        let until = *self.silent_since.get_or_insert(now) + SILENCE;
        if now >= until { Err(self.http2(at)) } else { Ok(Some(until)) }
    }
}
