//! The client's direction of an exchange: read, ask, write to the leg that the judge names.

use std::{
    sync::atomic::Ordering,
    task::{Context, Poll},
};

use redir_http::{
    OpaqueReason,
    engine::{Begins, ClientEnd, First, Origin, Step},
    h2c,
};

use super::{
    decrypt::Greeting,
    exchange::{AppGone, ClientSide, End, Exchange, Judge, Sending, TLS, WholeHead},
    matched::Matched,
    route::{origin, table},
};
use crate::{http2::Upgrade, memory::FREE, misses::Cause, plan::Plan};

impl Exchange<'_> {
    /// One step; true if something moved or was decided. False only after a socket has said that it will wake the task,
    /// or when the other direction will.
    pub(super) fn upward(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.sending.is_some() {
            return Ok(self.send(cx));
        }
        if self.closing.is_some() || self.held {
            return Ok(false);
        }
        if self.ask {
            if self.developer_answers() {
                return Ok(false);
            }
            self.ask = false;
            return self.judge_client();
        }
        match self.client_side {
            ClientSide::Open => self.read_client(cx),
            ClientSide::Fin => Ok(self.tell_fin()),
            ClientSide::Told => Ok(false),
        }
    }

    /// The last bytes of a developer's answer are on their way to the client. What the client says next could end that
    /// leg, so it is judged when they are through; `answered` asks again.
    fn developer_answers(&self) -> bool {
        self.writing.is_some_and(|writing| writing.finished && writing.from != Origin::App)
    }

    fn send(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(Sending { to, left }) = self.sending else { return false };
        let Some(leg) = self.legs.iter_mut().find(|leg| leg.origin == to) else {
            // The leg failed and was answered for: the rest of this message has nowhere to go.
            self.up.take(left);
            self.sent_up(to, 0);
            return true;
        };
        match leg.poll_write(cx, &self.up.unread()[..left]) {
            Poll::Pending => false,
            Poll::Ready(count) => {
                if to != Origin::App {
                    self.outstanding.written(&self.up.unread()[..count]);
                }
                self.client_heard_last = false;
                self.up.take(count);
                self.sent_up(to, left - count);
                true
            }
        }
    }

    fn sent_up(&mut self, to: Origin, left: usize) {
        self.sending = (left > 0).then_some(Sending { to, left });
        if left == 0 && !self.up.is_empty() {
            self.ask = true;
        }
        if left == 0 {
            self.preface_sent();
        }
    }

    fn read_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if matches!(&self.judge, Judge::Http(engine) if engine.awaits_developer()) {
            if self.up.unread().len() > FREE {
                // What cannot go to the app before the developer has answered stays with the client.
                self.held = true;
                return Ok(false);
            }
            self.up.read_little();
        }
        match self.client.poll_fill(cx, &mut self.up) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => {
                self.client_side = ClientSide::Fin;
                Ok(true)
            }
            Poll::Ready(Ok(count)) => {
                self.access.tally.received.fetch_add(count as u64, Ordering::Relaxed);
                self.ask = true;
                Ok(true)
            }
            Poll::Ready(Err(_)) => Err(End::Reset("client_reset")),
        }
    }

    fn judge_client(&mut self) -> Result<bool, End> {
        let plan = self.route.plan();
        let plan = plan.as_deref();
        match &mut self.judge {
            Judge::Hello(given) if self.up.unread().first() == TLS.first() => {
                let (given, up) = (given.clone(), std::mem::take(&mut self.up));
                // It is the only leg, and has said nothing.
                let app = self.legs.pop().unwrap_or_else(|| self.route.app());
                Err(End::Tls(Box::new(Greeting { up, app, given })))
            }
            Judge::Hello(_) => {
                self.follow(plan);
                Ok(true)
            }
            Judge::Http(engine) => {
                let step = engine.client(self.up.unread(), table(plan));
                self.take_step(step, plan)
            }
            Judge::First(first) => {
                let first = first.client(self.up.unread());
                self.take_first(first, plan);
                Ok(true)
            }
            Judge::Http2(_) => {
                self.judge_preface(plan)?;
                Ok(true)
            }
            Judge::Opaque(to) => {
                let to = *to;
                if to != Origin::App {
                    self.count_global();
                }
                let left = self.up.unread().len();
                self.sending = (left > 0).then_some(Sending { to, left });
                Ok(true)
            }
        }
    }

    pub(super) fn take_step(&mut self, step: Step, plan: Option<&Plan>) -> Result<bool, End> {
        match step {
            Step::Forward { mut to, mut len, begins, .. } => {
                if begins.is_some() {
                    self.unfinished = None;
                    to = self.unless_unanswered(to, plan);
                }
                // The rest of a message never opens a leg: there it would be read as a message of its own.
                if let Some(begins) = begins {
                    self.begin(to, &begins, plan)?;
                    len = self.write_head(to, &begins, plan, len);
                    self.ensure_leg(to, plan);
                }
                self.sending = Some(Sending { to, left: len });
            }
            Step::NeedMore => {}
            Step::Wait => self.held = true,
            Step::Opaque { why: OpaqueReason::Http2, .. } if plan.is_some_and(Plan::is_read) => {
                self.begin_http2();
            }
            Step::Opaque { why: OpaqueReason::H2c, .. } if self.begin_upgraded(plan) => {}
            Step::Opaque { to, why } => {
                self.note_miss(why, plan);
                let to = self.opaque_target(to, why, plan);
                self.go_opaque(to, plan);
            }
            Step::Reset { why } => {
                tracing::debug!(client = %self.route.client, %why, "a request to a developer cannot be ended: reset");
                return Err(End::Reset("ambiguous"));
            }
        }
        Ok(true)
    }

    /// Where a request goes that begins: to the app instead of a developer whose end does not answer.
    fn unless_unanswered(&mut self, to: Origin, plan: Option<&Plan>) -> Origin {
        let (Origin::Developer(key), Judge::Http(engine), None) = (to, &mut self.judge, self.app_gone) else {
            return to;
        };
        match plan.and_then(|plan| plan.intercept(key)) {
            // Behind one that is on its way to the developer, its answer would have to wait for that one's.
            Some(intercept) if intercept.is_unanswered() && engine.fall_back() => {
                intercept.bypass();
                Origin::App
            }
            _ => to,
        }
    }

    /// A request begins: whose it is, for the counts and the developer's list.
    fn begin(&mut self, to: Origin, begins: &Begins, plan: Option<&Plan>) -> Result<(), End> {
        match to {
            Origin::App => {
                match self.app_gone {
                    Some(AppGone::Closed) => return Err(End::Closed("app_closed")),
                    Some(AppGone::Failed(why)) => return Err(End::Reset(why)),
                    None => {}
                }
                self.access.count_app();
                self.outstanding.push_app();
            }
            Origin::Developer(key) => {
                self.access.count_developer();
                let reused = self.outstanding.len() > 0 || self.leg(to).is_some_and(|leg| leg.answered);
                match plan.and_then(|plan| plan.intercept(key)) {
                    Some(intercept) => {
                        let unread = self.up.unread();
                        let (method, path) = (&unread[begins.method.clone()], &unread[begins.path.clone()]);
                        let matched = Matched::new(intercept.clone(), method, path);
                        self.outstanding.push(if reused && begins.idempotent { matched.kept() } else { matched });
                    }
                    // The table of this plan names it; a request without an entry would shift the others.
                    None => self.outstanding.push_app(),
                }
            }
        }
        tracing::debug!(client = %self.route.client, ?to, "a request is decided");
        self.drop_ended_intercepts(plan);
        Ok(())
    }

    /// What becomes of a request's head on its way. The app gets it as it came, and may take an offer to go on with HTTP/2;
    /// a developer does not see the offer, and sees the client's address if he asked for it. `len` bytes were to be sent;
    /// the result is how many there are now.
    fn write_head(&mut self, to: Origin, begins: &Begins, plan: Option<&Plan>, len: usize) -> usize {
        (self.upgrade, self.whole_head) = (None, None);
        let whole = &self.up.unread()[..begins.head];
        let Origin::Developer(key) = to else {
            self.upgrade = begins.h2c.and_then(|head| Upgrade::of(&whole[..head])).map(Box::new);
            return len;
        };
        let forwarded = plan.and_then(|plan| plan.intercept(key)).is_some_and(|intercept| intercept.forwarded);
        if begins.h2c.is_none() && !forwarded {
            return len;
        }
        let whole: Box<[u8]> = whole.into();
        let mut sent = if begins.h2c.is_some() { h2c::withdraw(&whole) } else { whole.to_vec() };
        if forwarded {
            sent = self.route.forwarded().head(&sent);
        }
        self.up.replace(whole.len(), &sent);
        let len = len - whole.len() + sent.len();
        self.whole_head = Some(WholeHead { whole, sent: sent.len() });
        len
    }

    /// The app gets a head that was a developer's, and gets it whole.
    pub(super) fn restore_head(&mut self) {
        let Some(WholeHead { whole, sent }) = self.whole_head.take() else { return };
        self.up.replace(sent, &whole);
        if let Some(sending) = &mut self.sending {
            sending.left = sending.left - sent + whole.len();
        }
        self.upgrade = Upgrade::of(&whole).map(Box::new);
    }

    /// The port's developers are told what they could do something about.
    fn note_miss(&self, why: OpaqueReason, plan: Option<&Plan>) {
        let first = self.access.app_requests == 0 && self.access.developer_requests == 0;
        let is_missed = plan.is_some_and(Plan::is_read);
        if let Some(cause) = Cause::of(why, self.up.unread(), first).filter(|_| is_missed) {
            self.route.missed(cause);
        }
    }

    /// Legs to intercepts that are no more are closed as soon as nothing is on them.
    fn drop_ended_intercepts(&mut self, plan: Option<&Plan>) {
        let Judge::Http(engine) = &self.judge else { return };
        for leg in &mut self.legs {
            let Origin::Developer(key) = leg.origin else { continue };
            if plan.is_none_or(|plan| plan.intercept(key).is_none()) && engine.leg_idle(leg.origin) {
                leg.discard();
            }
        }
    }

    /// Who gets a connection that is not looked at any more: what was never HTTP is the global intercept's, if any.
    pub(super) fn opaque_target(&mut self, to: Origin, why: OpaqueReason, plan: Option<&Plan>) -> Origin {
        self.access.went_opaque(why.as_str());
        if why == OpaqueReason::Tls {
            self.note_tls();
        }
        let first = self.access.app_requests == 0 && self.access.developer_requests == 0;
        let foreign = matches!(why, OpaqueReason::Tls | OpaqueReason::Http2 | OpaqueReason::NotHttp);
        match plan.and_then(|plan| plan.global.as_ref()) {
            Some(global) if to == Origin::App && first && foreign => {
                self.global = Some(global.clone());
                origin(global)
            }
            _ => to,
        }
    }

    fn take_first(&mut self, first: First, plan: Option<&Plan>) {
        match first {
            First::NeedMore => {}
            First::App => {
                self.access.count_app();
                self.access.went_opaque("probe");
                self.go_opaque(Origin::App, plan);
            }
            // Its streams may be the kubelet's.
            First::Http2 => self.begin_http2(),
            First::Developer => self.first_to_developer(),
        }
    }

    /// The connection is the global developer's, whose leg was dialled at the start.
    pub(super) fn first_to_developer(&mut self) {
        match self.legs.first().map(|leg| leg.origin) {
            Some(to) => self.go_opaque(to, None),
            // The leg could not be opened: as if the intercept were not there.
            None => self.go_opaque(Origin::App, None),
        }
    }

    /// The client's FIN goes to whom it concerns.
    fn tell_fin(&mut self) -> bool {
        let ending = self.client.ending();
        match &mut self.judge {
            Judge::Hello(_) => {
                let plan = self.route.plan();
                self.follow(plan.as_deref());
                return true;
            }
            Judge::Http(engine) => match engine.client_eof(self.up.unread()) {
                ClientEnd::Idle => self.legs.iter_mut().for_each(|leg| leg.want_fin(ending)),
                ClientEnd::Inside(to) => {
                    if let Some(leg) = self.leg(to) {
                        leg.want_fin(ending);
                    }
                }
                ClientEnd::Partial => {
                    self.ask = true;
                    return true;
                }
            },
            Judge::First(_) => {
                self.first_to_developer();
                return true;
            }
            Judge::Http2(_) => {
                self.not_http2(OpaqueReason::Http2);
                return true;
            }
            Judge::Opaque(to) => {
                let to = *to;
                if let Some(leg) = self.leg(to) {
                    leg.want_fin(ending);
                }
            }
        }
        self.client_side = ClientSide::Told;
        true
    }
}
