//! How an exchange ends: what has to be through before, and what the sockets get then.

use std::{
    future::Future,
    task::{Context, Poll},
    time::Duration,
};

use redir_http::{
    engine::{Engine, Origin},
    filter::Key,
};
use tokio::time::{sleep, sleep_until};

use super::{
    exchange::{AppGone, ClientSide, End, Exchange, Judge},
    leg::{Leg, LegEnd},
    route::origin,
};
use crate::plan::Plan;

/// How long a developer's answer that cannot be read may say nothing before it is taken to be over: some round trips of a
/// tunnel that loses packets. Pools that take it for whole then see the connection end, before they use it again.
const QUIET_ANSWER: Duration = Duration::from_millis(500);
/// How long a connection that is not read must have been quiet to count as being between requests: longer than a service
/// thinks in the middle of an answer, shorter than its leaving developer waits.
const QUIET: Duration = Duration::from_millis(1500);

impl Exchange<'_> {
    /// For how long nothing has moved, if nothing is on its way.
    pub(super) fn quiet(&self) -> Option<Duration> {
        let between = match &self.judge {
            Judge::Http(engine) => engine.idle(),
            Judge::Hello(_) | Judge::First(_) => true,
            Judge::Http2(_) | Judge::Opaque(_) => false,
        };
        let nothing = self.up.is_empty() && self.sending.is_none() && self.writing.is_none();
        (between && nothing).then(|| self.active.elapsed())
    }

    /// Notes whose end it was, for what is told of the requests without an answer.
    pub(super) fn note_end(&mut self, end: &End) {
        self.client_left = match end {
            End::Reset(reason) => *reason == "client_reset",
            End::Closed(_) => self.client_side != ClientSide::Open,
            End::Relay(_) | End::Tls(_) | End::Http2(_) => false,
        };
    }

    /// Resets every leg.
    pub(super) fn reset(&mut self) {
        for leg in &mut self.legs {
            leg.reset();
        }
    }

    /// Ends the client's side, and every leg as a client does that is done.
    pub(super) fn close(&mut self) {
        // A client that is gone needs no FIN.
        let _ = self.client.finish(self.ending);
        self.legs.iter_mut().for_each(Leg::close);
    }

    /// Legs of intercepts that have ended are closed as soon as nothing is on them: their developer waits for that.
    /// True if another leg is needed then.
    pub(super) fn close_last_legs(&mut self) -> bool {
        if self.is_left_unused() {
            let plan = self.route.plan();
            self.follow(plan.as_deref());
            return true;
        }
        let Judge::Http(engine) = &self.judge else { return false };
        let writing = self.writing.map(|writing| writing.from);
        for leg in self.legs.iter_mut().filter(|leg| leg.last && !leg.end_told) {
            if engine.leg_idle(leg.origin) && leg.down.is_empty() && writing != Some(leg.origin) {
                leg.discard();
            }
        }
        false
    }

    /// Whether the connection is wholly a developer's who leaves, and nothing was sent on it: it goes on as one that opens
    /// now.
    fn is_left_unused(&self) -> bool {
        // What goes either way is counted as his first.
        let (Some(global), ClientSide::Open, None) = (&self.global, self.client_side, self.sending) else {
            return false;
        };
        let (Judge::First(_) | Judge::Opaque(Origin::Developer(_))) = &self.judge else { return false };
        let his = |leg: &Leg| leg.origin == origin(global) && leg.last && leg.end.is_none() && leg.down.is_empty();
        let goes_on = |plan: &Plan| plan.intercept(Key(global.id)).is_some();
        self.writing.is_none() && self.legs.iter().any(his) && !self.route.plan().as_deref().is_some_and(goes_on)
    }

    /// Nothing moves: bytes of a developer that wait for the client hold a part of the tunnel's window.
    pub(super) fn wait(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.wait_for_http2(cx)?;
        self.wait_for_unreadable(cx)?;
        self.wait_until_quiet(cx)?;
        for leg in &mut self.legs {
            let held = leg.waits || self.writing.is_some_and(|writing| writing.from == leg.origin);
            if leg.poll_over(cx, held) {
                return Err(End::Reset("client_slow"));
            }
        }
        Ok(())
    }

    /// Where a developer's answer ends that cannot be read is not known. Its client knows: when that goes on, or the answer
    /// is whole by its likely length, and nothing more comes, the connection ends. A stream of events is left alone.
    fn wait_for_unreadable(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let goes_on = !self.up.is_empty();
        let answered = |engine: &Engine| {
            engine.is_unreadable() && engine.sending_to().is_none() && (goes_on || engine.is_likely_whole())
        };
        if self.writing.is_some() || !matches!(&self.judge, Judge::Http(engine) if answered(engine)) {
            return Ok(());
        }
        let quiet = self.quiet_answer.get_or_insert_with(|| Box::pin(sleep(QUIET_ANSWER)));
        if quiet.as_mut().poll(cx).is_pending() { Ok(()) } else { Err(End::Closed("developer_malformed")) }
    }

    /// A connection that is wholly a developer's cannot go on without him: once he leaves, it ends when it is quiet behind an
    /// answer, as a server ends a connection that is kept alive. Otherwise it is cut when his tunnel is closed: also where an
    /// answer has no length of its own, since half of it would look whole.
    fn wait_until_quiet(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Judge::Opaque(Origin::Developer(_)) = self.judge else { return Ok(()) };
        let last = self.legs.iter().any(|leg| leg.last && leg.end.is_none() && leg.down.is_empty());
        if !last
            || self.framed != Some(true)
            || !self.client_heard_last
            || self.writing.is_some()
            || !self.up.is_empty()
        {
            return Ok(());
        }
        let until = self.active + QUIET;
        let timer = self.leaving.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Err(End::Closed("developer_left")),
            Poll::Pending => Ok(()),
        }
    }

    /// Whether the connection has come to its end.
    pub(super) fn over(&mut self) -> Result<(), End> {
        if self.writing.is_some() {
            return Ok(());
        }
        if let Some(reason) = self.closing {
            return Err(End::Closed(reason));
        }
        match &self.judge {
            Judge::Hello(_) | Judge::First(_) | Judge::Http2(_) => Ok(()),
            Judge::Opaque(to) => self.opaque_over(*to),
            Judge::Http(engine) => {
                if self.last_body_is_over(engine) {
                    return Err(End::Closed("developer_closed"));
                }
                let (outstanding, idle) = (engine.outstanding(), engine.idle());
                let body = self.sending.is_some() || engine.sending_to().is_some();
                let no_app = self.legs.iter().all(|leg| leg.origin != Origin::App);
                match self.app_gone {
                    Some(_) if body => Ok(()),
                    Some(AppGone::Closed) if outstanding == 0 => Err(End::Closed("app_closed")),
                    // A reset could overtake a developer's answer that is still on its way to the client.
                    Some(AppGone::Failed(why)) if outstanding == 0 && self.access.developer_requests > 0 => {
                        Err(End::Closed(why))
                    }
                    Some(AppGone::Failed(why)) if outstanding == 0 => Err(End::Reset(why)),
                    None if self.client_side == ClientSide::Told && idle && no_app => Err(End::Closed("client_closed")),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Whether nothing is left to send of a body that was answered before its end, by the last answer: all of it is sent,
    /// the client has ended inside it, or its developer takes no more.
    fn last_body_is_over(&self, engine: &Engine) -> bool {
        let untaken = || engine.sending_to().is_some_and(|to| self.legs.iter().all(|leg| leg.origin != to));
        let sent = self.sending.is_none();
        engine.is_over() && sent || engine.is_ending() && (self.client_side == ClientSide::Told && sent || untaken())
    }

    fn opaque_over(&mut self, to: Origin) -> Result<(), End> {
        let flushed = self.up.is_empty() && self.sending.is_none();
        let told = self.client_side == ClientSide::Told;
        let Some(index) = self.legs.iter().position(|leg| leg.origin == to) else {
            return Err(End::Closed("origin_closed"));
        };
        let leg = &self.legs[index];
        if let (true, Some(LegEnd::Failed(error))) = (leg.end_told, &leg.end) {
            // After its FIN it does not even read any more.
            return Err(End::Reset(error.label()));
        }
        if leg.end_told && told && flushed {
            return Err(End::Closed("both_closed"));
        }
        let quiet = to == Origin::App && flushed && leg.end.is_none() && leg.down.is_empty();
        let plain = self.client.is_plain() && self.legs[index].app().is_some_and(|app| app.is_plain());
        if quiet && plain {
            let Some(app) = self.legs.swap_remove(index).into_app() else { return Ok(()) };
            return Err(End::Relay(app));
        }
        Ok(())
    }

    /// Passes the end of an opaque connection's origin on.
    pub(super) fn finish_client(&mut self) -> Result<(), End> {
        self.client.finish(self.ending).map_err(|_| End::Reset("client_reset"))
    }
}
