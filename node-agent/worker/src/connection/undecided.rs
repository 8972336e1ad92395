//! Heads that have begun and are not whole: how long an exchange waits for the rest, and with how much memory.
//!
//! What is not worth waiting for goes on unread, like every other doubt. A connection that is idle, before its first byte or
//! between requests, waits for nothing and is left alone. Called by `exchange` when nothing moves.

use std::{task::Context, time::Duration};

use redir_http::OpaqueReason;
use tokio::time::sleep;

use super::{
    exchange::{Exchange, Judge},
    leg::Leg,
};
use crate::misses::Cause;

/// How long a head may take from its first byte to its last, however often a byte of it comes: half of nginx's
/// `client_header_timeout`, so that it is still the app that judges.
pub(crate) const WHOLE_HEAD: Duration = Duration::from_secs(30);

impl Exchange<'_> {
    /// Nothing moves. True: what was waited for goes on unread instead.
    pub(super) fn give_up_waiting(&mut self, cx: &mut Context<'_>) -> bool {
        self.give_up_request(cx) || self.give_up_held() || self.give_up_answer()
    }

    /// A whole head that waits for the app's answers is not kept from the app where there is no memory for it. Behind a
    /// developer's answers, which come first, no more than little is read (`read_client`).
    fn give_up_held(&mut self) -> bool {
        let Judge::Http(engine) = &mut self.judge else { return false };
        let waits = self.held && self.sending.is_none() && self.closing.is_none();
        if !waits || !engine.awaits_app() || self.up.try_wait() {
            return false;
        }
        let step = engine.give_up(OpaqueReason::MemoryScarce);
        let plan = self.route.plan();
        // It has no byte of the head yet, so that nothing can have gone wrong.
        self.take_step(step, plan.as_deref()).is_ok()
    }

    fn give_up_request(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.awaits_head() {
            self.unfinished = None;
            return false;
        }
        let timer = self.unfinished.get_or_insert_with(|| Box::pin(sleep(WHOLE_HEAD)));
        let why = match timer.as_mut().poll(cx).is_ready() {
            true => OpaqueReason::HeadTooSlow,
            false if self.up.try_wait() => return false,
            false => OpaqueReason::MemoryScarce,
        };
        self.unfinished = None;
        match &mut self.judge {
            Judge::Http(engine) => {
                let step = engine.give_up(why);
                let plan = self.route.plan();
                // It has no byte of the head yet, so that nothing can have gone wrong.
                self.take_step(step, plan.as_deref()).is_ok()
            }
            // All that is not a probe for certain.
            Judge::First(_) => {
                self.first_to_developer();
                true
            }
            Judge::Hello(_) | Judge::Http2(_) | Judge::Opaque(_) => false,
        }
    }

    /// Whether the client has begun a head, and more of it must come before anything can be decided.
    fn awaits_head(&self) -> bool {
        let waits = !self.up.is_empty() && !self.held && !self.ask && self.sending.is_none() && self.closing.is_none();
        let begun = match &self.judge {
            Judge::Http(engine) => engine.awaits_head(),
            Judge::First(_) => true,
            Judge::Hello(_) | Judge::Http2(_) | Judge::Opaque(_) => false,
        };
        waits && begun
    }

    /// An answer's head may take its time, which is its origin's and the client's affair, but not the memory of others.
    fn give_up_answer(&mut self) -> bool {
        let Judge::Http(engine) = &mut self.judge else { return false };
        if self.writing.is_some() || self.closing.is_some() {
            return false;
        }
        let begun = |leg: &Leg| !leg.ask && !leg.waits && engine.awaits_answer_head(leg.origin);
        let Some(index) = self.legs.iter().position(|leg| !leg.down.is_empty() && begun(leg)) else { return false };
        let down = &mut self.legs[index].down;
        if down.try_wait() {
            return false;
        }
        let reply = engine.give_up_answer(OpaqueReason::MemoryScarce, down.unread());
        self.route.missed(Cause::MemoryScarce);
        self.take_reply(index, reply);
        true
    }
}
