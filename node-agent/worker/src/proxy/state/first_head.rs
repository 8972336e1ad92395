//! A global intercept has the port: only the first head is read, to tell the kubelet's probes from everything else.

use std::sync::Arc;

use redir_http::engine::{First, FirstHead, Origin};
use tokio::time::Instant;

use super::{
    Action, ConnectionState, Context, Legs, Opaque, Side, Unfinished,
    opaque::is_left_unused,
    preface::{ExpectPreface, may_be_settings},
};
use crate::{
    plan::{Intercept, Plan},
    proxy::{WHOLE_HEAD, attention::Attention, route::origin},
};

/// The developer's leg is being opened, and the first head is not whole.
pub(super) struct ExpectFirstHead {
    head: FirstHead,
    global: Arc<Intercept>,
    /// Since when a head has been there that is not whole.
    began: Option<Instant>,
}

impl ExpectFirstHead {
    pub(super) fn new(global: Arc<Intercept>) -> Self {
        ExpectFirstHead { head: FirstHead::new(), global, began: None }
    }

    /// The connection is the developer's, whose leg was dialled at the start.
    fn developer(&self, at: &Context<'_>) -> Action {
        match at.flow.leg(origin(&self.global)) {
            Some(_) => Action::go_opaque(Opaque::of_global(&self.global)),
            // The leg could not be opened: as if the intercept were not there.
            None => Action::go_opaque(Opaque::new(Origin::App)),
        }
    }

    /// Its streams may be the kubelet's.
    fn http2(&self) -> Action {
        Action::become_state(ExpectPreface::new(Some(self.global.clone())), Legs::Kept)
    }
}

impl ConnectionState for ExpectFirstHead {
    fn client_bytes(&mut self, _: Option<&Plan>, at: &mut Context<'_>) -> Action {
        match self.head.client(at.flow.unread()) {
            First::NeedMore => Action::Wait,
            First::App => {
                at.access.count_app();
                at.access.went_opaque("probe");
                Action::go_opaque(Opaque::new(Origin::App))
            }
            First::Http2 => self.http2(),
            First::Developer => self.developer(at),
        }
    }

    fn client_end(&mut self, at: &mut Context<'_>) -> Action {
        self.developer(at)
    }

    /// The developer speaks first.
    fn origin_bytes(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        if from != Origin::App && may_be_settings(from, at) {
            return self.http2();
        }
        self.developer(at)
    }

    /// Decided by the leg's failure: as if the first head were not a probe's.
    fn origin_end(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        if at.flow.leg(from).is_some_and(|leg| leg.is_unopened()) {
            return Action::go_opaque(Opaque::new(Origin::App));
        }
        let mut opaque = Opaque::of_global(&self.global);
        opaque.count_global(at);
        Action::go_opaque(opaque)
    }

    fn after_turn(&mut self, at: &mut Context<'_>) -> Action {
        match is_left_unused(&self.global, at) {
            true => Action::begin_anew(at.route.plan().as_deref()),
            false => Action::Wait,
        }
    }

    fn at_rest(&mut self, now: Instant, at: &mut Context<'_>) -> Result<Option<Instant>, Action> {
        if !self.unfinished(at).client {
            self.began = None;
            return Ok(None);
        }
        let until = *self.began.get_or_insert(now) + WHOLE_HEAD;
        // All that is not a probe for certain.
        if now >= until { Err(self.developer(at)) } else { Ok(Some(until)) }
    }

    fn unfinished(&self, at: &Context<'_>) -> Unfinished {
        let flow = at.flow;
        let begun = !flow.up.is_empty() && flow.client == Attention::Read && flow.sending.is_none();
        Unfinished { client: begun && flow.closing.is_none(), leg: None }
    }

    fn memory_scarce(&mut self, _: Side, at: &mut Context<'_>) -> Action {
        self.developer(at)
    }

    fn is_between_requests(&self) -> bool {
        true
    }
}
