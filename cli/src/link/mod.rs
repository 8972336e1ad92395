//! One agent, for as long as the intercept is wanted: dialled, asked, and dialled again when the tunnel is lost.
//!
//! Owns: the redialling. Must not speak the protocol (`session`) or decide when redir ends (`commands::intercept`).
//! Called by: `commands::intercept`, one task for each agent.

pub(crate) mod backoff;
pub(crate) mod clock;
mod last_reported;
mod local_tls;
mod proxy_protocol;
mod session;
mod streams;
pub(crate) mod tunnel;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use redir_tunnel::Identity;
use redir_wire::{EarlierConnections, Filter, InterceptRequest, Probes, RefusedCode, Selector, ToDeveloper, Token};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::backoff::Backoff;
use self::clock::ClockWatch;
use self::last_reported::LastReported;
pub(crate) use self::proxy_protocol::ProxyProtocol;
use self::session::{Session, SessionEnd};
use self::tunnel::TunnelError;
use crate::config::Agent;
use crate::events::Event;
use crate::screen::Screen;
use crate::service::{Service, ServiceProtocol};
use crate::values::Target;
use crate::wording::{cluster as cluster_say, session as say};

/// A slice of a redialling wait: a machine that wakes up does not sit out the rest of it.
const SLICE: Duration = Duration::from_millis(250);
/// How often an agent that stays away is mentioned.
const REMIND: Duration = Duration::from_secs(60);
/// How long an agent of a cluster may fail before it counts: it may be about to hear of the Intercept, or be replaced.
const GRACE: Duration = Duration::from_secs(4);

/// The intercept that the developer wants, the same on every agent and over every redial.
#[derive(Debug, Clone)]
pub(crate) struct DesiredIntercept {
    /// Keeps the intercept's seniority over redials.
    pub(crate) token: Token,
    pub(crate) target: Target,
    /// The port that the app listens on in the pod.
    pub(crate) port: NonZeroU16,
    /// Where matched requests end up.
    pub(crate) service: Service,
    /// The same for people: `127.0.0.1:3000`.
    pub(crate) to: String,
    /// `None`: every request.
    pub(crate) filter: Option<Filter>,
    pub(crate) probes: Probes,
    /// What becomes of connections that the app has already.
    pub(crate) earlier: EarlierConnections,
    /// Connections come also while the app does not listen.
    pub(crate) even_if_down: bool,
    /// The agent writes the client's address into the requests.
    pub(crate) forwarded: bool,
    /// Each connection to the service begins with the client's address.
    pub(crate) proxy: Option<ProxyProtocol>,
    /// What the developer's service speaks.
    pub(crate) speaks: ServiceProtocol,
}

impl DesiredIntercept {
    fn wish(&self) -> InterceptRequest {
        InterceptRequest {
            earlier: self.earlier,
            token: self.token,
            selector: selector(&self.target),
            port: self.port.get(),
            filter: self.filter.clone(),
            to: self.to.clone(),
            probes: self.probes,
            even_if_down: self.even_if_down,
            forwarded: self.forwarded,
        }
    }
}

/// The target as the tunnel carries it.
pub(crate) fn selector(target: &Target) -> Selector {
    match target {
        Target::Pod(name) => Selector::Pod(name.clone()),
        Target::Labels(labels) => Selector::Labels(labels.clone()),
        // An agent of a cluster reads the Intercept that the token names, and nothing of this.
        Target::Workload(_, name) => Selector::Pod(name.clone()),
    }
}

/// An agent's first answer.
#[derive(Debug)]
pub(crate) enum FirstAnswer {
    /// So many pods are live, at least one.
    Live(usize),
    /// The agent answered, and no pod of it is live: what to tell of it, and the reason in one sentence.
    NotLive(Vec<Event>, String),
    /// No agent answered; it is dialled on.
    Unreachable(String),
}

/// Why a link is over.
#[derive(Debug)]
pub(crate) enum LinkEnd {
    /// We left.
    Left,
    /// The intercept was ended from elsewhere; why.
    EndedElsewhere(String),
    /// Dialling again cannot help; why.
    GaveUp(String),
}

/// What one agent's task works with.
pub(crate) struct AgentLink {
    pub(crate) agent: Agent,
    /// In a cluster: the agent as its status names it now. Agents are replaced, under new keys and addresses, and the
    /// Intercept's own end is told by the API server alone.
    pub(crate) moved: Option<watch::Receiver<Agent>>,
    pub(crate) identity: Identity,
    pub(crate) wanted: Arc<DesiredIntercept>,
    pub(crate) screen: Screen,
    /// Set once a pod was live, on any agent.
    pub(crate) was_live: Arc<AtomicBool>,
    /// Cancelled when the intercept shall end.
    pub(crate) leave: CancellationToken,
    /// Used once; has room for every agent's.
    pub(crate) verdict: Option<mpsc::Sender<(Agent, FirstAnswer)>>,
}

impl AgentLink {
    /// Runs until the intercept ends.
    pub(crate) async fn run(mut self) -> LinkEnd {
        let mut reported = LastReported::new(self.moved.is_some());
        let mut backoff = Backoff::new();
        let mut since = Instant::now();
        let mut reminded = since;
        loop {
            let gone = match self.once(&mut reported, since).await {
                SessionEnd::Left => return LinkEnd::Left,
                SessionEnd::EndedElsewhere(reason) => return LinkEnd::EndedElsewhere(reason),
                SessionEnd::GaveUp(reason) => {
                    if self.was_decided() {
                        self.screen.tell(&Event::Refused { agent: self.agent.name.clone(), reason: reason.clone() });
                    }
                    self.decide(FirstAnswer::NotLive(Vec::new(), reason.clone()));
                    return LinkEnd::GaveUp(reason);
                }
                SessionEnd::Lost(gone) => gone,
            };
            if self.moved.is_none() || since.elapsed() > GRACE {
                self.decide(FirstAnswer::Unreachable(gone.sentence(&self.agent)));
            }
            if reported.tunnel_lost() {
                (since, reminded, backoff) = (Instant::now(), Instant::now(), Backoff::new());
                let reason = gone.reason(&self.agent);
                self.screen.tell(&Event::Lost { agent: self.agent.name.clone(), reason });
            } else if reminded.elapsed() > REMIND {
                reminded = Instant::now();
                self.screen.note(say::still_dialling(&self.agent, since.elapsed(), &gone.reason(&self.agent)));
            }
            if !self.pause(backoff.wait()).await {
                return LinkEnd::Left;
            }
        }
    }

    /// One tunnel, from dialling to its end.
    async fn once(&mut self, reported: &mut LastReported, since: Instant) -> SessionEnd {
        if let Some(moved) = &mut self.moved {
            self.agent = moved.borrow_and_update().clone();
        }
        let dialled = tokio::select! {
            () = self.leave.cancelled() => return SessionEnd::Left,
            dialled = tunnel::dial(&self.agent, &self.identity) => dialled,
        };
        match dialled {
            Ok(tunnel) => Session::new(self, tunnel, reported, since).run().await,
            Err(gone) => self.over(&gone),
        }
    }

    /// Waits before the next dial; a machine that slept meanwhile dials at once, and so does one that hears where the
    /// agent is now. False: the intercept shall end.
    async fn pause(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let mut watch = ClockWatch::new(SystemTime::now(), std::time::Instant::now());
        while Instant::now() < until && !watch.jumped(SystemTime::now(), std::time::Instant::now()) {
            tokio::select! {
                () = self.leave.cancelled() => return false,
                () = changed(&mut self.moved) => break,
                () = sleep(SLICE.min(until - Instant::now())) => (),
            }
        }
        !self.leave.is_cancelled()
    }

    /// What a tunnel that is gone means.
    fn over(&self, gone: &TunnelError) -> SessionEnd {
        match (self.moved.is_some(), gone) {
            // The key is the Intercept's; nobody has to be asked to let it in.
            (true, TunnelError::UnknownKey(_)) => SessionEnd::Lost(TunnelError::Refused(
                RefusedCode::NotFound,
                cluster_say::not_heard_of(&self.agent.name),
            )),
            (false, gone) if gone.is_final(self.was_decided()) => SessionEnd::GaveUp(gone.sentence(&self.agent)),
            _ => SessionEnd::Lost(gone.clone()),
        }
    }

    /// Tells of a request; other messages tell nothing.
    fn tell_request(&self, message: ToDeveloper) {
        if let ToDeveloper::Request(event) = message {
            let agent = self.agent.name.clone();
            self.screen.tell(&match event.method.is_empty() && event.path.is_empty() {
                true => Event::Connection { agent, event },
                false => Event::Request { agent, event },
            });
        }
    }

    /// Whether the agent's first answer is known: what follows is told at once.
    fn was_decided(&self) -> bool {
        self.verdict.is_none()
    }

    fn decide(&mut self, verdict: FirstAnswer) {
        if let Some(waiting) = self.verdict.take() {
            // Whoever waited may have ended.
            waiting.try_send((self.agent.clone(), verdict)).ok();
        }
    }
}

/// Waits until a cluster's agent is known under another key or address.
async fn changed(moved: &mut Option<watch::Receiver<Agent>>) {
    let is_other = match moved {
        Some(moved) => moved.changed().await.is_ok(),
        None => false,
    };
    if !is_other {
        std::future::pending::<()>().await;
    }
}
