//! What a client connection is at the moment: a machine of typed states.
//!
//! Each state owns what means something in it, and answers the same few events with an [`Action`]: bytes or the end of the
//! client, bytes or the end of an origin, a turn in which nothing moved. It becomes another by [`Action::Become`]. States
//! must not do I/O nor keep time: they get the connection's bytes to look at ([`Context`]), and the time as a value. The
//! driver, which owns the sockets, is their only caller.
//!
//! ```text
//! ExpectHello ─ a certificate is given ─┬─▶ (decrypted, and begun anew)
//!      │ not TLS                        │
//!      ├─▶ Http1Requests ─ preface ─┬─▶ ExpectPreface ─▶ ExpectSettings ─┬─▶ HTTP/2
//!      │        │ 101 to h2c        │        │                  │        │
//!      │        ├────────────────── │ ─▶ ExpectUpgradedPreface ─┼────────┘
//!      ├─▶ ExpectFirstHead ─ preface┘        │ none of it       │
//!      └─▶ Opaque ◀─ any doubt, 101, CONNECT ┴──────────────────┘
//! ```

mod first_head;
mod hello;
mod http1;
mod opaque;
mod preface;
#[cfg(test)]
mod tests;
mod upgraded;

use std::sync::Arc;

use redir_http::engine::{Engine, Options, Origin};
use tokio::time::Instant;

use super::{
    flow::{AfterWrite, Flow},
    http2::Upgrade,
    leg::Leg,
    requests::Requests,
    route::{Route, origin},
};
use crate::{
    access::Access,
    plan::{Intercept, Plan},
    tls::Given,
};

use self::{first_head::ExpectFirstHead, http1::Http1Requests};
pub(super) use self::{hello::ExpectHello, opaque::Opaque};

/// What a state gets to know with each event.
pub(super) struct Context<'a> {
    /// Where the connection came from, and what its port does now.
    pub(super) route: &'a Route,
    /// Counts what is decided.
    pub(super) access: &'a mut Access,
    /// The requests whose answers are not complete.
    pub(super) requests: &'a mut Requests,
    /// The connection's bytes.
    pub(super) flow: &'a Flow,
}

impl Context<'_> {
    /// Whether nothing was decided so far.
    fn is_fresh(&self) -> bool {
        self.access.app_requests == 0 && self.access.developer_requests == 0
    }
}

/// What the driver does.
pub(super) enum Action {
    /// Nothing, until the next event.
    Wait,
    /// Whose bytes these are is neither read nor asked about until an answer is complete.
    Hold,
    /// The client's bytes are asked about once more, although no more come.
    AskAgain,
    /// The client's first bytes go to an origin.
    Forward(Forward),
    /// The first bytes of the origin go to the client.
    Write { len: usize, then: AfterWrite },
    /// The client's end goes to all legs, or to one.
    PassEnd(Option<Origin>),
    /// The origin's end goes to the client; the other direction goes on.
    EndClient,
    /// The leg is closed quietly: what it said answers nothing.
    CloseLeg,
    /// The client gets this from the agent, in the place of what the leg did not say.
    Answer(LegAnswer),
    /// What was to go to a developer whose leg could not be opened goes to the app.
    Reroute(Option<WholeHead>),
    /// What the leg has got of unanswered requests is sent once more, on a new leg to the intercept, or to the app.
    Resend { sent: Vec<u8>, to: Option<Arc<Intercept>>, restored: Option<WholeHead> },
    /// The connection ends for this reason once everything is written, with what the leg has said if `rest`.
    Finish { reason: &'static str, rest: bool },
    /// Another state.
    Become(Box<Next>),
    /// Nothing is left to look at or hold between the client and the app: they are joined, if both are in clear.
    Join,
    /// The client speaks TLS, which may be decrypted.
    Decrypt(Arc<Given>),
    /// Both ends speak HTTP/2; this origin was heard first.
    Http2 { to: Origin, upgrade: Option<Box<Upgrade>> },
    /// The connection is over.
    End(End),
}

impl Action {
    /// The client and every leg are reset.
    fn reset(reason: &'static str) -> Self {
        Action::End(End::Reset(reason))
    }

    /// The connection goes on in another state.
    fn become_state(state: impl ConnectionState + 'static, legs: Legs) -> Self {
        Action::Become(Box::new(Next { state: Box::new(state), legs }))
    }

    /// The connection goes on as one that opens now.
    fn begin_anew(plan: Option<&Plan>) -> Self {
        Action::Become(Box::new(by_plan(plan)))
    }

    /// Everything goes to one origin.
    fn go_opaque(opaque: Opaque) -> Self {
        let legs = Legs::Only(opaque.to(), opaque.uncounted().cloned());
        Action::become_state(opaque, legs)
    }
}

/// The client's first bytes go to an origin.
pub(super) struct Forward {
    pub(super) to: Origin,
    /// Whose leg is opened if `to` is a developer and there is none.
    pub(super) opens: Option<Arc<Intercept>>,
    /// How many, after the replacement.
    pub(super) len: usize,
    /// So many of them are replaced by these.
    pub(super) replaced: Option<(usize, Vec<u8>)>,
    pub(super) part: Part,
}

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The beginning of a message: the leg is opened if there is none.
    Message,
    /// The rest of one: it must not open a leg, where it would be read as a message of its own.
    Rest,
    /// What opens a protocol: as a message, and the client is held behind it.
    Opening,
}

/// The agent's own answer.
#[derive(Debug)]
pub(super) struct LegAnswer {
    pub(super) bytes: String,
    pub(super) keep_alive: bool,
    /// Further requests on the leg have no answer either: its end is told again.
    pub(super) more: bool,
}

/// A head as it came. What is sent of it to a developer stands in its place at the front of the client's bytes: should
/// nobody take it, the app gets what came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WholeHead {
    pub(super) whole: Box<[u8]>,
    /// How many bytes stand in its place.
    pub(super) sent: usize,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything is through: the client gets a FIN.
    Closed(&'static str),
    /// The client and every leg are reset.
    Reset(&'static str),
}

/// A state to be taken, and the legs that it needs; its first events are what is here already.
pub(super) struct Next {
    pub(super) state: Box<dyn ConnectionState>,
    pub(super) legs: Legs,
}

impl Next {
    /// With the legs that there are.
    pub(super) fn kept(state: impl ConnectionState + 'static) -> Self {
        Next { state: Box::new(state), legs: Legs::Kept }
    }
}

/// The legs that a new state needs. Others are closed.
pub(super) enum Legs {
    /// Those that there are.
    Kept,
    /// This one; if there is none it is opened, a developer's if the intercept is known.
    Only(Origin, Option<Arc<Intercept>>),
    /// None so far.
    Closed,
}

/// What of the bytes that are here is the beginning of something, and needs room while its rest is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unfinished {
    /// The client's bytes.
    pub(super) client: bool,
    /// This leg's.
    pub(super) leg: Option<Origin>,
}

/// Whose bytes are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Leg(Origin),
}

/// How much is read of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadLimit {
    /// As much as it sends.
    Any,
    /// What is free in any case: it may have to wait for a developer's answers.
    Little,
}

/// See the module.
pub(super) trait ConnectionState: Send {
    /// The client has sent bytes, of which the plan of the moment decides; they are asked about until they are forwarded.
    fn client_bytes(&mut self, plan: Option<&Plan>, at: &mut Context<'_>) -> Action;

    /// The client sends no more. Told again where the answer is not [`Action::PassEnd`].
    fn client_end(&mut self, at: &mut Context<'_>) -> Action;

    /// An origin has sent bytes.
    fn origin_bytes(&mut self, from: Origin, at: &mut Context<'_>) -> Action;

    /// An origin has ended, after all its bytes. Told once to each state.
    fn origin_end(&mut self, from: Origin, at: &mut Context<'_>) -> Action;

    /// Asked after each turn: whether the connection is over, or is something else by now.
    fn after_turn(&mut self, _: &mut Context<'_>) -> Action {
        Action::Wait
    }

    /// Nothing moves at this time. The answer is an action, or until when the state waits.
    fn at_rest(&mut self, _now: Instant, _: &mut Context<'_>) -> Result<Option<Instant>, Action> {
        Ok(None)
    }

    /// What needs room in memory while nothing moves.
    fn unfinished(&self, _: &Context<'_>) -> Unfinished {
        Unfinished::default()
    }

    /// There is no room for what is unfinished.
    fn memory_scarce(&mut self, _: Side, _: &mut Context<'_>) -> Action {
        Action::Wait
    }

    /// An answer is with the client, whole. True: its request's body is still on its way.
    fn answer_complete(&mut self, _: &mut Context<'_>) -> bool {
        false
    }

    /// How much is read of the client.
    fn read_limit(&self) -> ReadLimit {
        ReadLimit::Any
    }

    /// Whether a leg is needed although it has ended.
    fn needs_leg(&self, _: &Leg) -> bool {
        false
    }

    /// Whether a leg may close without anyone noticing.
    fn is_idle_leg(&self, _: Origin) -> bool {
        false
    }

    /// Whether the connection is between requests, as far as the protocol goes.
    fn is_between_requests(&self) -> bool {
        false
    }
}

/// The app's leg alone.
const APP: Legs = Legs::Only(Origin::App, None);

/// The state that a plan asks for at the beginning of a connection.
pub(super) fn by_plan(plan: Option<&Plan>) -> Next {
    let global = plan.filter(|plan| !plan.is_read()).and_then(|plan| plan.global.clone());
    match (plan, global) {
        (Some(plan), Some(global)) => {
            let legs = Legs::Only(origin(&global), Some(global.clone()));
            let state: Box<dyn ConnectionState> = match plan.probes_to_app {
                true => Box::new(ExpectFirstHead::new(global)),
                false => Box::new(Opaque::of_global(&global)),
            };
            Next { state, legs }
        }
        (plan, _) => {
            let options = Options { probes_to_app: plan.is_none_or(|plan| plan.probes_to_app) };
            // Beside a global intercept the app gets probes at most.
            let legs = if plan.is_none_or(|plan| plan.global.is_none()) { APP } else { Legs::Closed };
            Next { state: Box::new(Http1Requests::new(Engine::new(options))), legs }
        }
    }
}
