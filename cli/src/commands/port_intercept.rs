//! The intercept of one port: on every agent in parallel, until something ends it.
//!
//! Owns: the agents' links and verdicts. What is different in a cluster is in `nodes`. Must not know the other ports, the
//! command or signals (`run`), or speak to agents (`link`). Called by: `run`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use redir_tunnel::Identity;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::end_reason::EndReason;
use super::nodes::{self, ClusterNodes};
use super::service_start::hint;
use crate::error::CliError;
use crate::events::Event;
use crate::link::{AgentLink, DesiredIntercept, FirstAnswer, LinkEnd};
use crate::model::values::KnownAgent;
use crate::screen::Screen;
use crate::wording::session as say;

/// Agents that answer for the first time at the same moment; more than any cluster has nodes.
const VERDICTS: usize = 8192;

/// Whether the developer's service answered before anything was intercepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServiceState {
    /// It did.
    Answering,
    /// Not yet: the developer starts it when they like.
    Silent,
}

/// The intercept of one port under way on every agent.
pub(super) struct PortIntercept {
    /// Its lines say which port they are about.
    pub(super) screen: Screen,
    identity: Identity,
    pub(super) wanted: Arc<DesiredIntercept>,
    links: JoinSet<LinkEnd>,
    sender: mpsc::Sender<(KnownAgent, FirstAnswer)>,
    verdicts: mpsc::Receiver<(KnownAgent, FirstAnswer)>,
    /// In a cluster: its nodes, which come and go.
    pub(super) nodes: Option<ClusterNodes>,
    /// Agents that have not answered yet.
    asked: Vec<KnownAgent>,
    live: bool,
    service: ServiceState,
    /// Set by the links as soon as a pod is live.
    was_live: Arc<AtomicBool>,
    /// What to tell of agents without a live pod, once it is known whether another has one.
    without: Vec<(KnownAgent, Vec<Event>, String)>,
    /// Ends it, with all others.
    leave: CancellationToken,
}

impl PortIntercept {
    /// On these agents, or on those that its object names.
    pub(super) fn new(
        screen: Screen,
        identity: Identity,
        wanted: DesiredIntercept,
        service: ServiceState,
        was_live: Arc<AtomicBool>,
        leave: CancellationToken,
    ) -> Self {
        let (sender, verdicts) = mpsc::channel(VERDICTS);
        Self {
            screen,
            identity,
            wanted: Arc::new(wanted),
            links: JoinSet::new(),
            sender,
            verdicts,
            nodes: None,
            asked: Vec::new(),
            live: false,
            service,
            was_live,
            without: Vec::new(),
            leave,
        }
    }

    /// Dials agents that stay the same.
    pub(super) fn dial_all(&mut self, agents: &[KnownAgent]) {
        for agent in agents {
            self.dial(agent, None, self.leave.clone());
        }
        self.asked = agents.to_vec();
    }

    /// Begins with one agent.
    pub(super) fn dial(
        &mut self,
        agent: &KnownAgent,
        moved: Option<watch::Receiver<KnownAgent>>,
        leave: CancellationToken,
    ) {
        let link = AgentLink {
            agent: agent.clone(),
            moved,
            identity: self.identity.clone(),
            wanted: Arc::clone(&self.wanted),
            screen: self.screen.clone(),
            was_live: Arc::clone(&self.was_live),
            leave,
            verdict: Some(self.sender.clone()),
        };
        self.links.spawn(link.run());
    }

    /// A token that ends one agent's part of the intercept, and that ends with all.
    pub(super) fn leave_one(&self) -> CancellationToken {
        self.leave.child_token()
    }

    /// Runs until something ends it. Cancel-safe.
    pub(super) async fn until_over(&mut self) -> EndReason {
        loop {
            let why = tokio::select! {
                Some((agent, verdict)) = self.verdicts.recv() => match self.nodes.is_some() {
                    true => self.node_verdict(&agent, verdict),
                    false => self.verdict(&agent, verdict),
                },
                Some(end) = self.links.join_next() => self.link_over(end),
                news = nodes::news(&mut self.nodes) => self.news(news),
            };
            if let Some(why) = why {
                return why;
            }
        }
    }

    /// The agents that have not answered yet.
    pub(super) fn asked(&self) -> &[KnownAgent] {
        &self.asked
    }

    /// The cluster's nodes that have not answered yet.
    pub(super) fn waiting_nodes(&self) -> Vec<String> {
        self.nodes.as_ref().map(ClusterNodes::waiting).unwrap_or_default()
    }

    fn verdict(&mut self, agent: &KnownAgent, verdict: FirstAnswer) -> Option<EndReason> {
        self.asked.retain(|asked| asked != agent);
        match verdict {
            FirstAnswer::Live(_) => self.first_live(),
            FirstAnswer::NotLive(events, reason) => self.without.push((agent.clone(), events, reason)),
            FirstAnswer::Unreachable(reason) => self.without.push((agent.clone(), Vec::new(), reason)),
        }
        if !self.asked.is_empty() {
            return None;
        }
        if !self.live {
            let reasons: Vec<_> =
                self.without.iter().map(|(agent, _, reason)| (agent.name.as_str(), reason.as_str())).collect();
            return Some(EndReason::Failed(say::nothing_live(&reasons)));
        }
        for (agent, events, reason) in std::mem::take(&mut self.without) {
            match events.is_empty() {
                true => self.screen.tell(&Event::Refused { agent: agent.name, reason }),
                false => events.iter().for_each(|event| self.screen.tell(event)),
            }
        }
        None
    }

    /// What is said once, when the first pod is live.
    pub(super) fn first_live(&mut self) {
        // A service that answered already does not need it.
        if !std::mem::replace(&mut self.live, true) && self.service == ServiceState::Silent {
            let (screen, wanted) = (self.screen.clone(), Arc::clone(&self.wanted));
            tokio::spawn(async move { hint(&screen, &wanted.service).await });
        }
    }

    /// One agent's task is over; the others go on unless the intercept was ended.
    fn link_over(&mut self, end: Result<LinkEnd, tokio::task::JoinError>) -> Option<EndReason> {
        match end {
            // Its object tells, or its agent comes back.
            Ok(_) if self.nodes.is_some() => None,
            Ok(LinkEnd::EndedElsewhere(reason)) => Some(EndReason::Elsewhere(reason)),
            // Its verdict, which follows, says the same if this was the first thing that happened.
            Ok(LinkEnd::GaveUp(reason)) if self.links.is_empty() && self.asked.is_empty() => {
                Some(EndReason::Failed(reason))
            }
            Ok(LinkEnd::GaveUp(_) | LinkEnd::Left) => None,
            Err(_) => Some(EndReason::Failed(say::bug())),
        }
    }

    /// Waits until every agent was left. Cancel-safe.
    pub(super) async fn left(&mut self) {
        while self.links.join_next().await.is_some() {}
    }

    /// Drops the tunnels where they are.
    pub(super) async fn drop_links(&mut self) {
        self.links.shutdown().await;
    }

    /// Deletes what a cluster holds of it.
    pub(super) async fn end(self) {
        if let Some(nodes) = self.nodes
            && let Err(sentence) = nodes.end().await
        {
            self.screen.note(sentence);
        }
    }

    /// What went wrong, with the port that it is about where there are several.
    pub(super) fn error(&self, sentence: String) -> CliError {
        match self.screen.told_port() {
            Some(port) => CliError::Failed(say::of_port(port, &sentence)),
            None => CliError::Failed(sentence),
        }
    }
}
