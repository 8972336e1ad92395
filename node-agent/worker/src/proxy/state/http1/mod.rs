//! HTTP/1: requests are decided one by one by the engine of `crates/http`, with the plan of the moment.
//!
//! Owns what the engine does not know: where the app stands, what was changed in the newest head, and how long is waited.
//! `requests` is what becomes of the client's bytes, `ends` what the end of a leg means.

mod ends;
mod requests;

use std::{sync::atomic::Ordering, time::Duration};

use redir_http::{
    OpaqueReason,
    engine::{ClientEnd, Engine, Origin, Reply},
};
use tokio::time::Instant;

use super::{
    APP, Action, AfterWrite, ConnectionState, Context, End, Legs, Opaque, ReadLimit, Side, Unfinished, WholeHead,
    preface::{ExpectPreface, may_be_settings},
    upgraded::ExpectUpgradedPreface,
};
use crate::{
    misses::Cause,
    plan::Plan,
    proxy::{
        WHOLE_HEAD,
        attention::Attention,
        flow::{ClientSide, Flow},
        http2::Upgrade,
        leg::Leg,
        route::table,
    },
};

/// How long a developer's answer that cannot be read may say nothing before it is taken to be over: some round trips of a
/// tunnel that loses packets. Pools that take it for whole then see the connection end, before they use it again.
const QUIET_ANSWER: Duration = Duration::from_millis(500);

/// How the app stands to the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AppSide {
    /// It is, or can be, connected.
    Open,
    /// It has ended its leg in order: the connection ends with what is outstanding.
    Closed,
    /// Its leg has failed.
    Failed(&'static str),
}

/// Since when an answer says nothing more, and how many bytes the client had got by then.
#[derive(Clone, Copy)]
struct QuietAnswer {
    since: Instant,
    sent: u64,
}

/// See the module.
pub(super) struct Http1Requests {
    engine: Engine,
    app: AppSide,
    /// What the newest request to the app offers with `Upgrade: h2c`.
    upgrade: Option<Box<Upgrade>>,
    /// The head of the newest request, where a developer gets another.
    whole_head: Option<WholeHead>,
    /// Since when a head has been there that is not whole.
    head_began: Option<Instant>,
    quiet_answer: Option<QuietAnswer>,
}

impl Http1Requests {
    pub(super) fn new(engine: Engine) -> Self {
        Http1Requests {
            engine,
            app: AppSide::Open,
            upgrade: None,
            whole_head: None,
            head_began: None,
            quiet_answer: None,
        }
    }

    fn http2() -> Action {
        Action::become_state(ExpectPreface::new(None), Legs::Kept)
    }

    /// The app has answered 101 to `Upgrade: h2c`. `None`: nobody filters any more, or the offer was malformed.
    fn upgraded(&mut self, at: &Context<'_>) -> Option<Action> {
        let filtered = at.route.plan().is_some_and(|plan| plan.is_read());
        let upgrade = self.upgrade.take().filter(|_| filtered)?;
        // What developers have in HTTP/1 is answered.
        Some(Action::become_state(ExpectUpgradedPreface::new(upgrade), APP))
    }

    fn take_reply(&mut self, reply: Reply, at: &mut Context<'_>) -> Action {
        match reply {
            Reply::Forward { len, status, finished, ends } => {
                at.requests.answering(status);
                let then = match (finished, ends) {
                    (true, true) => AfterWrite::LastAnswered,
                    (true, false) => AfterWrite::Answered,
                    (false, _) => AfterWrite::More,
                };
                Action::Write { len, then }
            }
            Reply::NeedMore => Action::Wait,
            Reply::Wait => Action::Hold,
            Reply::Opaque { to, why } => {
                if why == OpaqueReason::H2c
                    && let Some(upgraded) = self.upgraded(at)
                {
                    return upgraded;
                }
                at.access.went_opaque(why.as_str());
                Action::go_opaque(Opaque::new(to))
            }
            Reply::Discard => Action::CloseLeg,
        }
    }

    /// Where a developer's answer ends that cannot be read is not known. Its client knows: when that goes on, or the answer
    /// is whole by its likely length, and nothing more comes, the connection ends. A stream of events is left alone.
    fn is_unreadable_over(&self, flow: &Flow) -> bool {
        let over = !flow.up.is_empty() || self.engine.is_likely_whole();
        flow.writing.is_none() && self.engine.is_unreadable() && self.engine.sending_to().is_none() && over
    }

    fn unreadable_until(&mut self, now: Instant, at: &Context<'_>) -> Option<Instant> {
        let sent = at.access.tally.sent.load(Ordering::Relaxed);
        self.quiet_answer = self.quiet_answer.filter(|quiet| quiet.sent == sent);
        if !self.is_unreadable_over(at.flow) {
            return None;
        }
        let quiet = self.quiet_answer.get_or_insert(QuietAnswer { since: now, sent });
        Some(quiet.since + QUIET_ANSWER)
    }

    /// Whether the client has begun a head, and more of it must come before anything can be decided.
    fn awaits_head(&self, flow: &Flow) -> bool {
        let waits = !flow.up.is_empty() && flow.client == Attention::Read && flow.sending.is_none();
        waits && flow.closing.is_none() && self.engine.awaits_head()
    }

    /// Whether a whole head waits for the app's answers. Behind a developer's answers, which come first, no more than
    /// little is read.
    fn holds_head(&self, flow: &Flow) -> bool {
        let held = flow.client == Attention::Held && flow.sending.is_none() && flow.closing.is_none();
        held && self.engine.awaits_app()
    }

    /// An answer's head may take its time, which is its origin's and the client's affair, but not the memory of others.
    fn unfinished_answer(&self, flow: &Flow) -> Option<Origin> {
        if flow.writing.is_some() || flow.closing.is_some() {
            return None;
        }
        let begun = |leg: &&Leg| {
            !leg.down.is_empty() && leg.attention == Attention::Read && self.engine.awaits_answer_head(leg.origin)
        };
        flow.legs.iter().find(begun).map(|leg| leg.origin)
    }

    /// Whether nothing is left to send of a body that was answered before its end, by the last answer: all of it is sent,
    /// the client has ended inside it, or its developer takes no more.
    fn is_last_body_over(&self, flow: &Flow) -> bool {
        let untaken = || self.engine.sending_to().is_some_and(|to| flow.leg(to).is_none());
        let sent = flow.sending.is_none();
        let ended = flow.client_side == ClientSide::Told && sent;
        self.engine.is_over() && sent || self.engine.is_ending() && (ended || untaken())
    }

    fn end_of(&self, at: &Context<'_>) -> Option<End> {
        let flow = at.flow;
        if self.is_last_body_over(flow) {
            return Some(End::Closed("developer_closed"));
        }
        let body = flow.sending.is_some() || self.engine.sending_to().is_some();
        let answered = self.engine.outstanding() == 0;
        match self.app {
            AppSide::Open => {
                let over =
                    flow.client_side == ClientSide::Told && self.engine.idle() && flow.leg(Origin::App).is_none();
                over.then_some(End::Closed("client_closed"))
            }
            AppSide::Closed | AppSide::Failed(_) if body || !answered => None,
            AppSide::Closed => Some(End::Closed("app_closed")),
            // A reset could overtake a developer's answer that is still on its way to the client.
            AppSide::Failed(why) if at.access.developer_requests > 0 => Some(End::Closed(why)),
            AppSide::Failed(why) => Some(End::Reset(why)),
        }
    }
}

impl ConnectionState for Http1Requests {
    fn client_bytes(&mut self, plan: Option<&Plan>, at: &mut Context<'_>) -> Action {
        let step = self.engine.client(at.flow.unread(), table(plan));
        self.take_step(step, plan, at)
    }

    fn client_end(&mut self, at: &mut Context<'_>) -> Action {
        match self.engine.client_eof(at.flow.unread()) {
            ClientEnd::Idle => Action::PassEnd(None),
            ClientEnd::Inside(to) => Action::PassEnd(Some(to)),
            ClientEnd::Partial => Action::AskAgain,
        }
    }

    fn origin_bytes(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        if from == Origin::App && may_be_settings(from, at) && at.route.plan().is_some_and(|plan| plan.is_read()) {
            return Self::http2();
        }
        let reply = self.engine.response(from, at.flow.said(from));
        self.take_reply(reply, at)
    }

    fn origin_end(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        self.leg_ended(from, at)
    }

    fn after_turn(&mut self, at: &mut Context<'_>) -> Action {
        match self.end_of(at).filter(|_| at.flow.writing.is_none()) {
            Some(end) => Action::End(end),
            None => Action::Wait,
        }
    }

    fn at_rest(&mut self, now: Instant, at: &mut Context<'_>) -> Result<Option<Instant>, Action> {
        let answer = self.unreadable_until(now, at);
        if answer.is_some_and(|until| now >= until) {
            return Err(Action::End(End::Closed("developer_malformed")));
        }
        if !self.awaits_head(at.flow) {
            self.head_began = None;
            return Ok(answer);
        }
        let until = *self.head_began.get_or_insert(now) + WHOLE_HEAD;
        if now >= until {
            return Err(self.give_up_head(OpaqueReason::HeadTooSlow, at));
        }
        Ok(Some(answer.map_or(until, |answer| answer.min(until))))
    }

    fn unfinished(&self, at: &Context<'_>) -> Unfinished {
        let client = self.awaits_head(at.flow) || self.holds_head(at.flow);
        Unfinished { client, leg: self.unfinished_answer(at.flow) }
    }

    fn memory_scarce(&mut self, whose: Side, at: &mut Context<'_>) -> Action {
        match whose {
            Side::Client => self.give_up_head(OpaqueReason::MemoryScarce, at),
            Side::Leg(from) => {
                let reply = self.engine.give_up_answer(OpaqueReason::MemoryScarce, at.flow.said(from));
                at.route.missed(Cause::MemoryScarce);
                self.take_reply(reply, at)
            }
        }
    }

    fn answer_complete(&mut self, at: &mut Context<'_>) -> bool {
        if at.requests.len() == 0 {
            self.whole_head = None;
        }
        !self.engine.is_over()
    }

    fn read_limit(&self) -> ReadLimit {
        if self.engine.awaits_developer() { ReadLimit::Little } else { ReadLimit::Any }
    }

    /// The body that is on its way goes on to whoever takes it.
    fn needs_leg(&self, leg: &Leg) -> bool {
        leg.is_open() && self.engine.sending_to() == Some(leg.origin)
    }

    fn is_idle_leg(&self, leg: Origin) -> bool {
        self.engine.leg_idle(leg)
    }

    fn is_between_requests(&self) -> bool {
        self.engine.idle()
    }
}

/// Why the port's developers do not see the connection is told them, where they could do something about it.
fn note_miss(why: OpaqueReason, plan: Option<&Plan>, at: &Context<'_>) {
    if plan.is_some_and(Plan::is_read)
        && let Some(cause) = Cause::of(why, at.flow.unread(), at.is_fresh())
    {
        at.route.missed(cause);
    }
}
