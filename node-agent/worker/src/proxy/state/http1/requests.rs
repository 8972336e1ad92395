//! What becomes of the client's bytes in HTTP/1.

use redir_http::{
    OpaqueReason,
    engine::{Begins, Origin, Step},
    h2c,
};

use super::{
    super::{Action, Context, End, Forward, Opaque, Part, WholeHead},
    AppSide, Http1Requests, note_miss,
};
use crate::{
    plan::Plan,
    proxy::{http2::Upgrade, requests::MatchedRequest},
};

impl Http1Requests {
    /// Does what the engine says, which was asked with this plan.
    pub(super) fn take_step(&mut self, step: Step, plan: Option<&Plan>, at: &mut Context<'_>) -> Action {
        match step {
            Step::Forward { to, len, begins: Some(begins), .. } => self.forward_head(to, len, &begins, plan, at),
            Step::Forward { to, len, begins: None, .. } => {
                Action::Forward(Forward { to, opens: None, len, replaced: None, part: Part::Rest })
            }
            Step::NeedMore => Action::Wait,
            Step::Wait => Action::Hold,
            Step::Opaque { why: OpaqueReason::Http2, .. } if plan.is_some_and(Plan::is_read) => Self::http2(),
            Step::Opaque { to, why } => {
                if why == OpaqueReason::H2c
                    && let Some(upgraded) = self.upgraded(at)
                {
                    return upgraded;
                }
                note_miss(why, plan, at);
                Action::go_opaque(Opaque::undecided(to, why, at))
            }
            Step::Reset { why } => {
                tracing::debug!(client = %at.route.client, %why, "a request to a developer cannot be ended: reset");
                Action::reset("ambiguous")
            }
        }
    }

    /// The rest of a head that has begun is not waited for. The engine has no byte of it yet.
    pub(super) fn give_up_head(&mut self, why: OpaqueReason, at: &mut Context<'_>) -> Action {
        self.head_began = None;
        let step = self.engine.give_up(why);
        let plan = at.route.plan();
        self.take_step(step, plan.as_deref(), at)
    }

    fn forward_head(
        &mut self,
        to: Origin,
        len: usize,
        begins: &Begins,
        plan: Option<&Plan>,
        at: &mut Context<'_>,
    ) -> Action {
        self.head_began = None;
        let to = self.unless_unanswered(to, plan);
        if let (Origin::App, Some(end)) = (to, self.app_end()) {
            return Action::End(end);
        }
        count(to, begins, plan, at);
        let replaced = self.rewritten(to, begins, plan, at);
        let len = replaced.as_ref().map_or(len, |(whole, sent)| len - whole + sent.len());
        let opens = match to {
            Origin::Developer(key) if at.flow.leg(to).is_none() => plan.and_then(|plan| plan.intercept(key)).cloned(),
            Origin::App | Origin::Developer(_) => None,
        };
        Action::Forward(Forward { to, opens, len, replaced, part: Part::Message })
    }

    /// How the connection ends with a request for an app that is gone.
    fn app_end(&self) -> Option<End> {
        match self.app {
            AppSide::Open => None,
            AppSide::Closed => Some(End::Closed("app_closed")),
            AppSide::Failed(why) => Some(End::Reset(why)),
        }
    }

    /// Where a request goes that begins: to the app instead of a developer whose end does not answer.
    fn unless_unanswered(&mut self, to: Origin, plan: Option<&Plan>) -> Origin {
        let (Origin::Developer(key), AppSide::Open) = (to, self.app) else { return to };
        match plan.and_then(|plan| plan.intercept(key)) {
            // Behind one that is on its way to the developer, its answer would have to wait for that one's.
            Some(intercept) if intercept.is_unanswered() && self.engine.fall_back() => {
                intercept.bypass();
                Origin::App
            }
            _ => to,
        }
    }

    /// What becomes of a request's head on its way. The app gets it as it came, and may take an offer to go on with HTTP/2;
    /// a developer does not see the offer, and sees the client's address if they asked for it.
    fn rewritten(
        &mut self,
        to: Origin,
        begins: &Begins,
        plan: Option<&Plan>,
        at: &Context<'_>,
    ) -> Option<(usize, Vec<u8>)> {
        (self.upgrade, self.whole_head) = (None, None);
        let whole = &at.flow.unread()[..begins.head];
        let Origin::Developer(key) = to else {
            self.upgrade = begins.h2c.and_then(|head| Upgrade::of(&whole[..head])).map(Box::new);
            return None;
        };
        let forwarded = plan.and_then(|plan| plan.intercept(key)).is_some_and(|intercept| intercept.forwarded);
        if begins.h2c.is_none() && !forwarded {
            return None;
        }
        let mut sent = if begins.h2c.is_some() { h2c::withdraw(whole) } else { whole.to_vec() };
        if forwarded {
            sent = at.route.forwarded().head(&sent);
        }
        self.whole_head = Some(WholeHead { whole: whole.into(), sent: sent.len() });
        Some((begins.head, sent))
    }

    /// The app gets a head that was a developer's, and gets it whole.
    pub(super) fn restored_head(&mut self) -> Option<WholeHead> {
        let restored = self.whole_head.take()?;
        self.upgrade = Upgrade::of(&restored.whole).map(Box::new);
        Some(restored)
    }
}

/// Counts a request that begins; a developer is told of it when it is over.
fn count(to: Origin, begins: &Begins, plan: Option<&Plan>, at: &mut Context<'_>) {
    tracing::debug!(client = %at.route.client, ?to, "a request is decided");
    let Origin::Developer(key) = to else {
        at.access.count_app();
        return at.requests.push_app();
    };
    at.access.count_developer();
    let reused = at.requests.len() > 0 || at.flow.leg(to).is_some_and(|leg| leg.answered);
    let Some(intercept) = plan.and_then(|plan| plan.intercept(key)) else {
        // The table of this plan names it; a request without an entry would shift the others.
        return at.requests.push_app();
    };
    let unread = at.flow.unread();
    let (method, path) = (&unread[begins.method.clone()], &unread[begins.path.clone()]);
    let matched = MatchedRequest::new(intercept.clone(), method, path);
    at.requests.push(if reused && begins.idempotent { matched.kept() } else { matched });
}
