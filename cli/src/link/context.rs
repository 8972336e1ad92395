//! What one agent's task works with, and what it says of it: shared by the dialling and by each session.
//!
//! Owns: the state that outlives a tunnel, and what the end of a tunnel means. Must not dial or speak the protocol.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use redir_tunnel::Identity;
use redir_wire::{RefusedCode, ToDeveloper};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::desired::DesiredIntercept;
use super::tunnel::TunnelError;
use crate::events::Event;
use crate::model::values::KnownAgent;
use crate::screen::Screen;
use crate::wording::cluster as cluster_say;

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
    pub(crate) agent: KnownAgent,
    /// In a cluster: the agent as its status names it now. Agents are replaced, under new keys and addresses, and the
    /// Intercept's own end is told by the API server alone.
    pub(crate) moved: Option<watch::Receiver<KnownAgent>>,
    pub(crate) identity: Identity,
    pub(crate) wanted: Arc<DesiredIntercept>,
    pub(crate) screen: Screen,
    /// Set once a pod was live, on any agent.
    pub(crate) was_live: Arc<AtomicBool>,
    /// Cancelled to end the intercept.
    pub(crate) leave: CancellationToken,
    /// Used once; has room for every agent's.
    pub(crate) verdict: Option<mpsc::Sender<(KnownAgent, FirstAnswer)>>,
}

/// Why a session is over.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// We left, cleanly.
    Left,
    /// The intercept was ended from elsewhere.
    EndedElsewhere(String),
    /// Dialling again cannot help.
    GaveUp(String),
    /// The tunnel is gone; dial again.
    Lost(TunnelError),
}

impl AgentLink {
    /// What a tunnel that is gone means.
    pub(super) fn over(&self, gone: &TunnelError) -> SessionEnd {
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
    pub(super) fn tell_request(&self, message: ToDeveloper) {
        if let ToDeveloper::Request(event) = message {
            let agent = self.agent.name.clone();
            self.screen.tell(&match event.method.is_empty() && event.path.is_empty() {
                true => Event::Connection { agent, event },
                false => Event::Request { agent, event },
            });
        }
    }

    /// Whether the agent's first answer is known: what follows is told at once.
    pub(super) fn was_decided(&self) -> bool {
        self.verdict.is_none()
    }

    pub(super) fn decide(&mut self, verdict: FirstAnswer) {
        if let Some(waiting) = self.verdict.take() {
            // Whoever waited may have ended.
            waiting.try_send((self.agent.clone(), verdict)).ok();
        }
    }
}
