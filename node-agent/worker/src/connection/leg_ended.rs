//! What the end of a leg means for the connection, after all the bytes it has sent.

use redir_http::{
    OpaqueReason,
    engine::{Origin, OriginEnd},
};

use super::{
    exchange::{AppGone, ClientSide, End, Exchange, Judge, Sending, Writing},
    leg::{LegEnd, LegError},
    refusal::{self, Asked},
    transport::Ending,
};

impl Exchange<'_> {
    /// What the end of a leg means, after all its bytes.
    pub(super) fn leg_ended(&mut self, index: usize) -> Result<(), End> {
        let leg = &mut self.legs[index];
        if leg.ending() == Ending::Cut {
            self.ending = Ending::Cut;
        }
        if let (Origin::Developer(_), Some(LegEnd::Failed(error))) = (leg.origin, &leg.end) {
            tracing::debug!(client = %self.route.client, %error, "a developer's leg failed");
            if matches!(error, LegError::Unopened(_)) && self.fall_back(index) {
                return Ok(());
            }
        }
        let origin = self.legs[index].origin;
        match &mut self.judge {
            Judge::Hello(_) => {
                let plan = self.route.plan();
                // It is told again where the plan has a use for this leg.
                self.legs[index].end_told = false;
                self.follow(plan.as_deref());
                Ok(())
            }
            Judge::Http(engine) => {
                let answering = engine.outstanding() > 0;
                let end = engine.origin_eof(origin);
                match origin {
                    Origin::App => self.app_ended(index, end),
                    Origin::Developer(_) => self.developer_ended(index, end, answering),
                }
            }
            Judge::First(_) => {
                // Decided by its failure: as if the first head were not a probe's.
                self.go_opaque(origin, None);
                self.count_global();
                self.opaque_ended(origin)
            }
            Judge::Http2(_) => self.ended_before_http2(origin),
            Judge::Opaque(_) => self.opaque_ended(origin),
        }
    }

    /// Nothing was sent to a developer whose leg could not be opened: the app gets it, as without the intercept. What was
    /// sent on another leg before goes there only if that changes nothing.
    fn fall_back(&mut self, index: usize) -> bool {
        let origin = self.legs[index].origin;
        let possible = match &mut self.judge {
            // Then there is no app to fall back to on this connection.
            Judge::Http(_) if self.app_gone.is_some() => false,
            Judge::Http(engine) => {
                engine.outstanding() > 0 && self.outstanding.newest_may_go_elsewhere() && engine.fall_back()
            }
            Judge::Hello(_) | Judge::First(_) => true,
            // Nobody has got a request yet, and without this leg they find their way.
            Judge::Http2(_) => false,
            Judge::Opaque(to) => *to == origin && self.access.app_requests == 0 && self.outstanding.len() <= 1,
        };
        if !possible {
            return false;
        }
        self.legs.remove(index);
        if let Judge::Http(_) = self.judge {
            self.outstanding.take_back();
            self.access.back_to_app();
            if let Some(sending) = &mut self.sending {
                sending.to = Origin::App;
            }
            self.restore_head();
            self.ensure_leg(Origin::App, None);
        } else {
            self.global = None;
            self.outstanding.clear();
            self.sending = None;
            self.go_opaque(Origin::App, None);
        }
        true
    }

    fn app_ended(&mut self, index: usize, end: OriginEnd) -> Result<(), End> {
        let gone = match &self.legs[index].end {
            Some(LegEnd::Failed(error)) => AppGone::Failed(error.label()),
            Some(LegEnd::Fin) | None => AppGone::Closed,
        };
        let fresh = self.access.app_requests == 0
            && self.access.developer_requests == 0
            && self.client_side == ClientSide::Open;
        match (end, gone) {
            // It may still read, as a sink does that never answers: the client decides when to end.
            (OriginEnd::Idle, AppGone::Closed) if fresh => {
                self.access.went_opaque(OpaqueReason::ServerFirst.as_str());
                self.go_opaque(Origin::App, None);
                return self.opaque_ended(Origin::App);
            }
            (OriginEnd::Idle, _) => self.app_gone = Some(gone),
            (_, AppGone::Failed(why)) => return Err(End::Reset(why)),
            // It may still read, and what is left of a request is for it alone: from here on it is between the client and
            // the app. Told again, the end goes to the client behind what is left of the answer.
            (OriginEnd::Finished | OriginEnd::Early | OriginEnd::Unanswered | OriginEnd::Cut, AppGone::Closed) => {
                self.access.went_opaque(OpaqueReason::AfterClose.as_str());
                self.legs[index].end_told = false;
                self.go_opaque(Origin::App, None);
            }
        }
        Ok(())
    }

    /// `answering`: an answer was not through before this end.
    fn developer_ended(&mut self, index: usize, end: OriginEnd, answering: bool) -> Result<(), End> {
        let failed = self.legs[index].failed();
        match end {
            OriginEnd::Idle => self.legs[index].discard(),
            OriginEnd::Finished if !failed => {
                self.closing = Some("developer_closed");
                self.write_rest(index);
            }
            // Where the answer goes on until the end, a failure may have cut it.
            OriginEnd::Early if failed && answering => return Err(End::Reset("developer_cut")),
            // The answer is whole, and the rest of the body goes nowhere: the client may still read.
            OriginEnd::Early if failed => self.closing = Some("developer_closed"),
            OriginEnd::Early => return self.finish_client(),
            OriginEnd::Finished | OriginEnd::Cut => return Err(End::Reset("developer_cut")),
            // The service ended a connection that was kept alive just when it was used again. Where the request may not be
            // sent twice, its client gets to know what it would know without the agent, and tries again if it may; an
            // answer of the agent's own it would take for the service's.
            OriginEnd::Unanswered if self.ended_while_kept(index) => {
                if !self.resend(index) {
                    self.closing = Some("developer_closed");
                }
            }
            // The new leg could not be opened on which it was to be sent again.
            OriginEnd::Unanswered if self.legs[index].is_unopened() && self.outstanding.any_sent() => {
                self.closing = Some("developer_closed");
            }
            OriginEnd::Unanswered => self.refuse(index),
        }
        Ok(())
    }

    /// Whether a service that had answered on this leg before has ended it, and has not begun to answer again.
    fn ended_while_kept(&self, index: usize) -> bool {
        let leg = &self.legs[index];
        let by_service = match &leg.end {
            Some(LegEnd::Failed(error)) => error.is_services_end(),
            Some(LegEnd::Fin) | None => true,
        };
        leg.answered && by_service && leg.down.is_empty()
    }

    /// Sends what is unanswered once more, on a new leg; to the app if the intercept has ended meanwhile. False: it may
    /// not be, or is not kept.
    fn resend(&mut self, index: usize) -> bool {
        let (Judge::Http(engine), Origin::Developer(key)) = (&self.judge, self.legs[index].origin) else {
            return false;
        };
        let plan = self.route.plan();
        let intercept = plan.as_deref().and_then(|plan| plan.intercept(key));
        let to_app = engine.outstanding() == 1 && self.outstanding.newest_may_go_elsewhere();
        if !engine.may_resend(self.outstanding.newest_unsent()) || (intercept.is_none() && !to_app) {
            return false;
        }
        let Some(sent) = self.outstanding.take_sent() else { return false };
        tracing::debug!(client = %self.route.client, "a developer's leg was closed when it was used again: sent on a new one");
        let left = sent.len() + self.sending.map_or(0, |sending| sending.left);
        self.up.put_back(&sent);
        self.sending = (left > 0).then_some(Sending { to: Origin::Developer(key), left });
        let Some(intercept) = intercept else { return self.fall_back(index) };
        let mut leg = self.route.developer(intercept);
        if self.client_side == ClientSide::Told {
            leg.want_fin(self.client.ending());
        }
        // What was cut off there must not look like a whole request: dropped, it is reset.
        self.legs[index] = leg;
        true
    }

    pub(super) fn opaque_ended(&mut self, origin: Origin) -> Result<(), End> {
        let Some(index) = self.legs.iter().position(|leg| leg.origin == origin) else { return Ok(()) };
        match &self.legs[index].end {
            // Bytes are bytes: the service's own reset is passed on; only what the tunnel's side says gets a sentence.
            Some(LegEnd::Failed(error)) if self.answerable && !error.is_reset() => {
                self.answer_oldest(index, Asked { head: false, keep_alive: false });
                Ok(())
            }
            Some(LegEnd::Failed(error)) => {
                // The client gets a reset and no sentence; the developer gets it.
                if !error.is_reset() {
                    self.outstanding.refused(0, error.to_string());
                }
                Err(End::Reset(error.label()))
            }
            Some(LegEnd::Fin) | None => {
                self.legs[index].end_told = true;
                self.finish_client()
            }
        }
    }

    /// The developer's side gave no answer: the agent answers itself.
    fn refuse(&mut self, index: usize) {
        let Judge::Http(engine) = &mut self.judge else { return };
        let refusal = engine.refuse();
        let more = engine.outstanding() > 0 && refusal.keep_alive;
        self.answer_oldest(index, Asked { head: refusal.head, keep_alive: refusal.keep_alive });
        // The requests behind it on the same leg have no answer either.
        self.legs[index].end_told = !more;
    }

    fn answer_oldest(&mut self, index: usize, asked: Asked) {
        let error = match &self.legs[index].end {
            Some(LegEnd::Failed(error)) => Some(error),
            Some(LegEnd::Fin) | None => None,
        };
        // Many a service closes a connection whose client has ended it: then nobody waits for an answer.
        let left = self.client_side != ClientSide::Open && error.is_none_or(LegError::is_reset);
        let intercept = self.outstanding.oldest().map(|oldest| &*oldest.intercept);
        let refused = refusal::answer(intercept, error, asked);
        self.access.refused();
        if left {
            self.outstanding.client_left();
        } else {
            self.outstanding.refused(refused.status, refused.why);
        }
        let leg = &mut self.legs[index];
        leg.down.clear();
        leg.down.append(refused.answer.as_bytes());
        let left = refused.answer.len();
        self.writing = Some(Writing { from: leg.origin, left, finished: true, ends: !asked.keep_alive });
    }

    /// Passes on what a leg sent before its end and nobody could make an answer of.
    fn write_rest(&mut self, index: usize) {
        let leg = &self.legs[index];
        let left = leg.down.unread().len();
        if left > 0 {
            self.writing = Some(Writing { from: leg.origin, left, finished: false, ends: false });
        }
    }
}
