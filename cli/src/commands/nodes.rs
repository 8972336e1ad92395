//! The part of an intercept that only a cluster has: agents that come, go and are replaced, and an object that is kept.
//!
//! Owns: which agents are dialled when, and when it is known how the intercept stands. Must not renew or watch (`lease`), or
//! judge (`progress`). Called by: `intercept`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redir_api::Intercept;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::port_intercept::PortIntercept;
use super::run::EndReason;
use crate::cluster::Cluster;
use crate::cluster::lease::{Lease, LeaseEvent};
use crate::cluster::observations::{AgentObservations, LOOK_AGAIN, ObservedAgents, PATIENT};
use crate::cluster::progress::{self, InterceptProgress, NodeTunnel};
use crate::cluster::target::ExpectedPod;
use crate::cluster::target_watch::{TargetState, TargetWatch};
use crate::config::Agent;
use crate::events::Event;
use crate::link::{DesiredIntercept, FirstAnswer};
use crate::wording::cluster as say;
use crate::wording::session;

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What is known of an intercept in a cluster.
pub(super) struct Nodes {
    lease: Lease,
    /// The pods when it was made.
    expected: Option<Vec<ExpectedPod>>,
    /// Asks for the target while no agent has a pod of it.
    target: TargetWatch,
    object: Intercept,
    tunnels: BTreeMap<String, NodeTunnel>,
    links: BTreeMap<String, NodeLink>,
    /// Since when agents may have heard of it.
    began: Instant,
    cluster: Cluster,
    /// What their pods have shown, since somebody had to look at them.
    looks: Arc<Mutex<AgentObservations>>,
    /// When that was last.
    looked: Option<Instant>,
    look: Interval,
    /// Whether it was told how the intercept stands.
    is_told: bool,
    /// Whether it was told that there is no pod.
    is_empty_told: bool,
    /// Whether it was told that agents have not heard of it.
    is_silence_told: bool,
}

/// One agent's link.
struct NodeLink {
    agent: watch::Sender<Agent>,
    leave: CancellationToken,
}

/// What happens in a cluster while an intercept runs.
pub(super) enum ClusterEvent {
    /// To the object.
    Object(LeaseEvent),
    /// Time passed.
    Look,
    /// To a target of which no agent has a pod.
    Target(TargetState),
}

/// Waits for news from the cluster, if there is one.
pub(super) async fn news(nodes: &mut Option<Nodes>) -> ClusterEvent {
    let Some(nodes) = nodes else { return std::future::pending().await };
    tokio::select! {
        news = nodes.lease.next() => ClusterEvent::Object(news),
        _ = nodes.look.tick(), if !nodes.is_told => ClusterEvent::Look,
        state = nodes.target.next() => ClusterEvent::Target(state),
    }
}

impl Nodes {
    pub(super) fn new(
        cluster: Cluster,
        lease: Lease,
        expected: Option<Vec<ExpectedPod>>,
        target: TargetWatch,
        object: Intercept,
    ) -> Self {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            lease,
            expected,
            target,
            object,
            tunnels: BTreeMap::new(),
            links: BTreeMap::new(),
            began: Instant::now(),
            cluster,
            looks: Arc::default(),
            looked: None,
            look,
            is_told: false,
            is_empty_told: false,
            is_silence_told: false,
        }
    }

    /// Deletes the object.
    pub(super) async fn end(self) -> Result<(), String> {
        self.lease.end().await
    }

    /// Nodes that are still waited for.
    pub(super) fn waiting(&self) -> Vec<String> {
        if self.is_told { Vec::new() } else { self.standing().waiting }
    }

    /// Notices whether an agent has a pod of it.
    fn follow_pods(&mut self) {
        let has_pods = self.object.status.iter().flat_map(|status| &status.agents).any(|agent| !agent.pods.is_empty());
        self.target.agents_have_pods(has_pods);
        if has_pods {
            self.is_empty_told = false;
        }
    }

    fn standing(&self) -> InterceptProgress {
        let silent = self.began.elapsed();
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let others_live = self.tunnels.values().any(|tunnel| matches!(tunnel, NodeTunnel::Live(_)));
        let why = |node: &str| looks.verdict(node, silent, others_live);
        progress::standing(self.expected.as_deref(), &self.object, &self.tunnels, why)
    }

    /// The agents may have heard of it from now on only.
    fn begin_anew(&mut self) {
        self.began = Instant::now();
        // A look that is under way writes into the old ones.
        (self.looks, self.looked, self.is_silence_told) = (Arc::default(), None, false);
    }

    /// Agents have said nothing for long: looks at their pods again and again, where the developer may. What to tell, once.
    fn wonder(&mut self, waiting: &[String]) -> Option<String> {
        let unheard = |node: &&String| !self.tunnels.contains_key(*node);
        let nodes: Vec<String> = waiting.iter().filter(unheard).cloned().collect();
        if self.began.elapsed() < PATIENT || nodes.is_empty() {
            return None;
        }
        let line = (!std::mem::replace(&mut self.is_silence_told, true)).then(|| say::deaf_agents(&nodes));
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
            self.looked = Some(Instant::now());
            let (cluster, looks) = (self.cluster.clone(), Arc::clone(&self.looks));
            // Whoever ends meanwhile does not need it.
            tokio::spawn(async move {
                let seen = ObservedAgents::look(&cluster).await;
                looks.lock().unwrap_or_else(PoisonError::into_inner).add(seen, &nodes, Instant::now());
            });
        }
        line
    }
}

impl PortIntercept {
    /// The object changed, or time passed.
    pub(super) fn news(&mut self, news: ClusterEvent) -> Option<EndReason> {
        let nodes = self.nodes.as_mut()?;
        match news {
            ClusterEvent::Look => self.judge(),
            ClusterEvent::Object(LeaseEvent::Changed(object)) => {
                if let Err(why) = object.wanted() {
                    return Some(EndReason::Failed(say::refused(nodes.lease.name(), &why.to_string())));
                }
                nodes.object = *object;
                nodes.follow_pods();
                self.follow_agents();
                self.judge()
            }
            ClusterEvent::Target(state) => self.target_state(state),
            ClusterEvent::Object(LeaseEvent::Recreated(object)) => self.again(*object),
            ClusterEvent::Object(LeaseEvent::Deleted) => Some(EndReason::Elsewhere(say::deleted(nodes.lease.name()))),
            ClusterEvent::Object(LeaseEvent::Failed(why)) => Some(EndReason::Failed(why)),
            ClusterEvent::Object(LeaseEvent::ApiServerAway(line)) => {
                self.screen.note(line);
                None
            }
            ClusterEvent::Object(LeaseEvent::ApiServerBack) => {
                // The agents have not heard of anything meanwhile either.
                nodes.begin_anew();
                self.screen.note(say::api_back());
                None
            }
        }
    }

    /// Dials agents that are new, tells links where theirs is now, leaves those that have nothing to do with it any more.
    fn follow_agents(&mut self) {
        let Some(mut nodes) = self.nodes.take() else { return };
        let agents = progress::agents(&nodes.object);
        for node in progress::gone(&nodes.tunnels, &agents) {
            nodes.tunnels.remove(&node);
            if let Some(link) = nodes.links.remove(&node) {
                link.leave.cancel();
            }
        }
        for agent in agents {
            match nodes.links.get(&agent.name) {
                Some(link) if !link.agent.is_closed() => {
                    link.agent.send_if_modified(|known| {
                        let is_other = *known != agent;
                        *known = agent;
                        is_other
                    });
                }
                _ => {
                    let (sender, receiver) = watch::channel(agent.clone());
                    let leave = self.leave_one();
                    self.dial(&agent, Some(receiver), leave.clone());
                    nodes.tunnels.insert(agent.name.clone(), NodeTunnel::Asked);
                    nodes.links.insert(agent.name, NodeLink { agent: sender, leave });
                }
            }
        }
        self.nodes = Some(nodes);
    }

    /// Another object is in the place of the one that expired: other token, same wish.
    fn again(&mut self, object: Intercept) -> Option<EndReason> {
        let Some(token) = object.metadata.uid.as_deref().and_then(redir_api::token) else {
            return Some(EndReason::Failed(session::bug()));
        };
        let nodes = self.nodes.as_mut()?;
        std::mem::take(&mut nodes.links).into_values().for_each(|link| link.leave.cancel());
        nodes.tunnels.clear();
        self.wanted = Arc::new(DesiredIntercept { token, ..DesiredIntercept::clone(&self.wanted) });
        self.screen.tell(&Event::Recreated { intercept: nodes.lease.name().to_owned() });
        nodes.object = object;
        nodes.begin_anew();
        nodes.follow_pods();
        self.follow_agents();
        None
    }

    /// No agent has a pod of the target: that is told once something was live, and a target that has ended ends it all.
    fn target_state(&mut self, state: TargetState) -> Option<EndReason> {
        let nodes = self.nodes.as_mut()?;
        match state {
            TargetState::HasPods => None,
            TargetState::Ended(why) if nodes.is_told => Some(EndReason::Elsewhere(why)),
            TargetState::Ended(why) => Some(EndReason::Failed(why)),
            TargetState::NoPods => {
                // Before, `judge` says so.
                if nodes.is_told && !std::mem::replace(&mut nodes.is_empty_told, true) {
                    self.screen.note(say::no_pods_yet(&self.wanted.target));
                }
                None
            }
        }
    }

    /// One agent's first answer.
    pub(super) fn node_verdict(&mut self, agent: &Agent, verdict: FirstAnswer) -> Option<EndReason> {
        let tunnel = match verdict {
            FirstAnswer::Live(pods) => {
                self.first_live();
                NodeTunnel::Live(pods)
            }
            FirstAnswer::NotLive(events, reason) => {
                events.iter().for_each(|event| self.screen.tell(event));
                NodeTunnel::Without(reason)
            }
            FirstAnswer::Unreachable(reason) => NodeTunnel::Without(reason),
        };
        // A node that left meanwhile is not brought back.
        let known = self.nodes.as_mut()?.tunnels.get_mut(&agent.name)?;
        *known = tunnel;
        self.judge()
    }

    /// Tells how the intercept stands once that is known. It is a failure if nothing is live by then.
    fn judge(&mut self) -> Option<EndReason> {
        let nodes = self.nodes.as_mut().filter(|nodes| !nodes.is_told)?;
        let standing = nodes.standing();
        let comes_later = standing.missing.iter().all(|(_, why)| *why == say::not_scheduled());
        if !standing.waiting.is_empty() {
            if let Some(line) = nodes.wonder(&standing.waiting) {
                self.screen.note(line);
            }
            return None;
        }
        if standing.live == 0 && comes_later {
            let is_late = nodes.began.elapsed() >= PATIENT / 5;
            if is_late && !std::mem::replace(&mut nodes.is_empty_told, true) {
                self.screen.note(say::no_pods_yet(&self.wanted.target));
            }
            return None;
        }
        nodes.is_told = true;
        if standing.live == 0 {
            let reasons: Vec<_> = standing.missing.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
            return Some(EndReason::Failed(session::nothing_live(&reasons)));
        }
        let InterceptProgress { live, pods, missing, waiting: _ } = standing;
        self.screen.tell(&Event::Status { live, pods, missing });
        None
    }
}
