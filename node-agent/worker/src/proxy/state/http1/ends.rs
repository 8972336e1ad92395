//! What the end of a leg means in HTTP/1, after all the bytes it has sent.

use redir_http::{
    OpaqueReason,
    engine::{Origin, OriginEnd},
};

use super::{
    super::{Action, Context, LegAnswer, Opaque},
    AppSide, Http1Requests,
};
use crate::proxy::{
    flow::ClientSide,
    leg::{Leg, LegEnd, LegError},
    local_reply::{Http1Asked, LocalReply},
};

/// How a leg ended.
fn error_of<'a>(from: Origin, at: &Context<'a>) -> Option<&'a LegError> {
    match at.flow.leg(from).and_then(Leg::end) {
        Some(LegEnd::Failed(error)) => Some(error),
        Some(LegEnd::Fin) | None => None,
    }
}

impl Http1Requests {
    pub(super) fn leg_ended(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        if from != Origin::App && is_unopened(from, at) && self.fall_back(at) {
            return Action::Reroute(self.restored_head());
        }
        let answering = self.engine.outstanding() > 0;
        let end = self.engine.origin_eof(from);
        match from {
            Origin::App => self.app_ended(end, at),
            Origin::Developer(_) => self.developer_ended(from, end, answering, at),
        }
    }

    /// Nothing was sent to a developer whose leg could not be opened: the app gets it, as without the intercept. What was
    /// sent on another leg before goes there only if that changes nothing.
    fn fall_back(&mut self, at: &mut Context<'_>) -> bool {
        // Else there is no app to fall back to on this connection.
        let possible = self.app == AppSide::Open
            && self.engine.outstanding() > 0
            && at.requests.newest_may_go_elsewhere()
            && self.engine.fall_back();
        if possible {
            at.requests.take_back();
            at.access.back_to_app();
        }
        possible
    }

    fn app_ended(&mut self, end: OriginEnd, at: &mut Context<'_>) -> Action {
        let gone = error_of(Origin::App, at).map_or(AppSide::Closed, |error| AppSide::Failed(error.label()));
        let fresh = at.is_fresh() && at.flow.client_side == ClientSide::Open;
        match (end, gone) {
            // It may still read, as a sink does that never answers: the client decides when to end.
            (OriginEnd::Idle, AppSide::Closed) if fresh => go_opaque(OpaqueReason::ServerFirst, at),
            (OriginEnd::Idle, _) => {
                self.app = gone;
                Action::Wait
            }
            (_, AppSide::Failed(why)) => Action::reset(why),
            // It may still read, and what is left of a request is for it alone: from here on it is between the client and
            // the app. Told again, the end goes to the client behind what is left of the answer.
            (
                OriginEnd::Finished | OriginEnd::Early | OriginEnd::Unanswered | OriginEnd::Cut,
                AppSide::Closed | AppSide::Open,
            ) => go_opaque(OpaqueReason::AfterClose, at),
        }
    }

    /// `answering`: an answer was not through before this end.
    fn developer_ended(&mut self, from: Origin, end: OriginEnd, answering: bool, at: &mut Context<'_>) -> Action {
        let failed = error_of(from, at).is_some();
        match end {
            OriginEnd::Idle => Action::CloseLeg,
            OriginEnd::Finished if !failed => Action::Finish { reason: "developer_closed", rest: true },
            // Where the answer goes on until the end, a failure may have cut it.
            OriginEnd::Early if failed && answering => Action::reset("developer_cut"),
            // The answer is whole, and the rest of the body goes nowhere: the client may still read.
            OriginEnd::Early if failed => FINISH,
            OriginEnd::Early => Action::EndClient,
            OriginEnd::Finished | OriginEnd::Cut => Action::reset("developer_cut"),
            // The service ended a connection that was kept alive just when it was used again. Where the request may not be
            // sent twice, its client gets to know what it would know without the agent, and tries again if it may; an
            // answer of the agent's own it would take for the service's.
            OriginEnd::Unanswered if ended_while_kept(from, at) => self.resend(from, at).unwrap_or(FINISH),
            // The new leg could not be opened on which it was to be sent again.
            OriginEnd::Unanswered if is_unopened(from, at) && at.requests.any_sent() => FINISH,
            OriginEnd::Unanswered => self.refuse(from, at),
        }
    }

    /// Sends what is unanswered once more, on a new leg; to the app if the intercept has ended meanwhile. `None`: it may
    /// not be, or is not kept.
    fn resend(&mut self, from: Origin, at: &mut Context<'_>) -> Option<Action> {
        let Origin::Developer(key) = from else { return None };
        let intercept = at.route.plan().as_deref().and_then(|plan| plan.intercept(key)).cloned();
        let to_app = intercept.is_none();
        if !self.engine.may_resend(at.requests.newest_unsent()) {
            return None;
        }
        if to_app && !(self.engine.outstanding() == 1 && at.requests.newest_may_go_elsewhere()) {
            return None;
        }
        let sent = at.requests.take_sent()?;
        let restored = match to_app {
            true if !self.fall_back(at) => return None,
            true => self.restored_head(),
            false => None,
        };
        tracing::debug!(client = %at.route.client, "a developer's leg was closed when it was used again: sent on a new one");
        Some(Action::Resend { sent, to: intercept, restored })
    }

    /// The developer's side gave no answer: the agent answers itself.
    fn refuse(&mut self, from: Origin, at: &mut Context<'_>) -> Action {
        let refusal = self.engine.refuse();
        let error = error_of(from, at);
        // Many a service closes a connection whose client has ended it: then nobody waits for an answer.
        let left = at.flow.client_side != ClientSide::Open && error.is_none_or(LegError::is_reset);
        let reply = LocalReply::of_leg(at.requests.oldest_intercept(), error);
        let bytes = reply.http1(Http1Asked { head: refusal.head, keep_alive: refusal.keep_alive });
        at.access.refused();
        if left {
            at.requests.client_left();
        } else {
            at.requests.refused(&reply);
        }
        // The requests behind it on the same leg have no answer either.
        let more = self.engine.outstanding() > 0 && refusal.keep_alive;
        Action::Answer(LegAnswer { bytes, keep_alive: refusal.keep_alive, more })
    }
}

/// The client ends behind what was answered.
const FINISH: Action = Action::Finish { reason: "developer_closed", rest: false };

fn go_opaque(why: OpaqueReason, at: &mut Context<'_>) -> Action {
    at.access.went_opaque(why.as_str());
    Action::go_opaque(Opaque::new(Origin::App))
}

fn is_unopened(from: Origin, at: &Context<'_>) -> bool {
    at.flow.leg(from).is_some_and(Leg::is_unopened)
}

/// Whether a service that had answered on this leg before has ended it, and has not begun to answer again.
fn ended_while_kept(from: Origin, at: &Context<'_>) -> bool {
    let by_service = error_of(from, at).is_none_or(LegError::is_services_end);
    by_service && at.flow.leg(from).is_some_and(|leg| leg.answered && leg.down.is_empty())
}
