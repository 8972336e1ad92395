//! Does what a connection's state says.

use std::sync::Arc;

use redir_http::engine::Origin;

use super::{Driver, Outcome};
use crate::{
    plan::{Intercept, Plan},
    proxy::{
        attention::Attention,
        decrypt::Greeting,
        flow::{AfterWrite, ClientSide, Sending, Writing},
        http2::{self, Upgrade},
        leg::Leg,
        state::{Action, End, Forward, LegAnswer, Legs, Next, Part, Side, WholeHead},
    },
    tls::Given,
    upstream::AppLeg,
};

impl Driver<'_> {
    /// Does what was said about these bytes, or this end.
    pub(super) fn act(&mut self, side: Side, action: Action) -> Result<(), Outcome> {
        match action {
            Action::Wait | Action::Join => {}
            Action::Hold => self.hold(side),
            Action::AskAgain => self.flow.client = Attention::Ask,
            Action::Forward(forward) => self.forward(forward),
            Action::Write { len, then } => self.begin_write(side, len, then),
            Action::PassEnd(to) => self.pass_end(to),
            Action::EndClient => {
                self.client.finish(self.ending).map_err(|_| Outcome::Over(End::Reset("client_reset")))?;
            }
            Action::CloseLeg => self.with_leg(side, Leg::discard),
            Action::Answer(answer) => self.answer(side, answer),
            Action::Reroute(restored) => self.reroute(side, restored),
            Action::Resend { sent, to, restored } => self.resend(side, &sent, to, restored),
            Action::Finish { reason, rest } => {
                self.flow.closing = Some(reason);
                if rest {
                    self.begin_write(side, usize::MAX, AfterWrite::More);
                }
            }
            Action::Become(next) => self.become_state(*next),
            Action::Decrypt(given) => return Err(self.greeting(given)),
            Action::Http2 { to, upgrade } => return Err(self.http2(to, upgrade)),
            Action::End(end) => return Err(Outcome::Over(end)),
        }
        Ok(())
    }

    /// The same for what was said after a turn; true if anything is to be done.
    pub(super) fn after_turn(&mut self, action: Action) -> Result<bool, Outcome> {
        if self.flow.writing.is_none()
            && let Some(reason) = self.flow.closing
        {
            return Err(Outcome::Over(End::Closed(reason)));
        }
        match action {
            Action::Wait => Ok(false),
            Action::Join => match self.joined() {
                Some(app) => Err(Outcome::Joined(app)),
                None => Ok(false),
            },
            action => self.act(Side::Client, action).map(|()| true),
        }
    }

    fn with_leg(&mut self, side: Side, work: impl FnOnce(&mut Leg)) {
        if let Side::Leg(from) = side
            && let Some(leg) = self.flow.leg_mut(from)
        {
            work(leg);
        }
    }

    fn hold(&mut self, side: Side) {
        match side {
            Side::Client => self.flow.client = Attention::Held,
            Side::Leg(_) => self.with_leg(side, |leg| leg.attention = Attention::Held),
        }
    }

    fn forward(&mut self, forward: Forward) {
        let Forward { to, opens, len, replaced, part } = forward;
        if let Some((whole, sent)) = replaced {
            self.flow.up.replace(whole, &sent);
        }
        if part != Part::Rest {
            self.ensure_leg(to, opens.as_ref());
        }
        if part == Part::Opening {
            self.flow.client = Attention::Held;
        }
        self.flow.sending = Some(Sending { to, left: len });
    }

    /// Nothing follows on legs to intercepts that are no more.
    pub(super) fn note_ended_intercepts(&mut self, plan: Option<&Plan>) {
        for leg in &mut self.flow.legs {
            let Origin::Developer(key) = leg.origin else { continue };
            leg.last |= self.state.is_idle_leg(leg.origin) && plan.is_none_or(|plan| plan.intercept(key).is_none());
        }
    }

    /// Legs of intercepts that have ended are closed as soon as nothing is on them: their developer waits for that.
    pub(super) fn close_last_legs(&mut self) {
        let writing = self.flow.writing.map(|writing| writing.from);
        for leg in self.flow.legs.iter_mut().filter(|leg| leg.last && !leg.is_end_told()) {
            if self.state.is_idle_leg(leg.origin) && leg.down.is_empty() && writing != Some(leg.origin) {
                leg.discard();
            }
        }
    }

    /// Opens the leg to an origin if there is none.
    fn ensure_leg(&mut self, to: Origin, intercept: Option<&Arc<Intercept>>) {
        if self.flow.leg(to).is_some() {
            return;
        }
        let leg = match (to, intercept) {
            (Origin::App, _) => self.route.app_leg(),
            (Origin::Developer(_), Some(intercept)) => self.route.developer_leg(intercept),
            // A state names whom it sends a developer's first bytes to.
            (Origin::Developer(_), None) => return,
        };
        self.flow.legs.push(leg);
    }

    fn begin_write(&mut self, side: Side, len: usize, then: AfterWrite) {
        let Side::Leg(from) = side else { return };
        let left = len.min(self.flow.said(from).len());
        if left > 0 {
            self.flow.writing = Some(Writing { from, left, then });
        }
    }

    fn pass_end(&mut self, to: Option<Origin>) {
        let ending = self.client.ending();
        for leg in self.flow.legs.iter_mut().filter(|leg| to.is_none_or(|to| to == leg.origin)) {
            leg.want_fin(ending);
        }
        self.flow.client_side = ClientSide::Told;
    }

    /// What a leg that has ended did not say.
    fn answer(&mut self, side: Side, answer: LegAnswer) {
        let LegAnswer { bytes, keep_alive, more } = answer;
        self.with_leg(side, |leg| {
            leg.down.clear();
            leg.down.append(bytes.as_bytes());
            if more {
                leg.tell_end_again();
            }
        });
        let then = if keep_alive { AfterWrite::Answered } else { AfterWrite::LastAnswered };
        self.begin_write(side, bytes.len(), then);
    }

    /// The app gets what was to go to a developer, as it came.
    fn reroute(&mut self, side: Side, restored: Option<WholeHead>) {
        if let Side::Leg(from) = side {
            self.flow.legs.retain(|leg| leg.origin != from);
        }
        if let Some(sending) = &mut self.flow.sending {
            sending.to = Origin::App;
        }
        if let Some(WholeHead { whole, sent }) = restored {
            self.flow.up.replace(sent, &whole);
            if let Some(sending) = &mut self.flow.sending {
                sending.left = sending.left - sent + whole.len();
            }
        }
        self.ensure_leg(Origin::App, None);
        if self.flow.client_side == ClientSide::Told {
            let ending = self.client.ending();
            self.flow.legs.iter_mut().filter(|leg| leg.origin == Origin::App).for_each(|leg| leg.want_fin(ending));
        }
    }

    fn resend(&mut self, side: Side, sent: &[u8], to: Option<Arc<Intercept>>, restored: Option<WholeHead>) {
        let Side::Leg(from) = side else { return };
        let left = sent.len() + self.flow.sending.map_or(0, |sending| sending.left);
        self.flow.up.put_back(sent);
        self.flow.sending = (left > 0).then_some(Sending { to: from, left });
        let Some(intercept) = to else { return self.reroute(side, restored) };
        let mut leg = self.route.developer_leg(&intercept);
        if self.flow.client_side == ClientSide::Told {
            leg.want_fin(self.client.ending());
        }
        // What was cut off there must not look like a whole request: dropped, it is reset.
        self.with_leg(side, |old| *old = leg);
    }

    fn become_state(&mut self, next: Next) {
        let Next { state, legs } = next;
        self.state = state;
        self.take_legs(legs);
    }

    /// Takes the legs that a new state needs, closes the others, and tells it what is here.
    pub(super) fn take_legs(&mut self, legs: Legs) {
        match legs {
            Legs::Kept => {}
            Legs::Only(needed, intercept) => {
                self.close_legs(|leg| leg.origin != needed);
                self.ensure_leg(needed, intercept.as_ref());
                // What nobody else has got of a message goes the same way.
                self.flow.sending = self.flow.sending.filter(|sending| sending.to == needed);
            }
            Legs::Closed => self.close_legs(|_| true),
        }
        self.flow.client = Attention::anew(!self.flow.up.is_empty());
        self.flow.legs.iter_mut().for_each(Leg::tell_anew);
    }

    fn close_legs(&mut self, which: impl Fn(&Leg) -> bool) {
        self.flow.legs.iter_mut().filter(|leg| which(leg)).for_each(Leg::discard);
        self.flow.legs.retain(|leg| !which(leg));
    }

    fn greeting(&mut self, given: Arc<Given>) -> Outcome {
        let up = std::mem::take(&mut self.flow.up);
        // It is the only leg, and has said nothing.
        let app = self.flow.legs.pop().unwrap_or_else(|| self.route.app_leg());
        Outcome::Tls(Box::new(Greeting { up, app, given }))
    }

    fn http2(&mut self, to: Origin, upgrade: Option<Box<Upgrade>>) -> Outcome {
        let index = self.flow.legs.iter().position(|leg| leg.origin == to);
        let socket = index.and_then(|index| self.flow.legs.swap_remove(index).into_socket());
        // What of the preface is not written is given anew.
        let unsent = self.flow.sending.take().map_or(0, |sending| sending.left);
        self.flow.up.take(unsent);
        let unread = self.flow.up.take_all();
        Outcome::Http2(Box::new(http2::Start { to, socket, unread, upgrade }))
    }

    /// The app's socket, if there is nothing around it or the client's.
    fn joined(&mut self) -> Option<AppLeg> {
        let index = self.flow.legs.iter().position(|leg| leg.origin == Origin::App)?;
        let plain = self.client.is_plain() && self.flow.legs[index].app().is_some_and(|app| app.is_plain());
        if plain { self.flow.legs.swap_remove(index).into_app() } else { None }
    }
}
