//! What happens to one port's intercept in a cluster: its object changes, agents come and go, its target ends.
//!
//! Owns: what follows from each. Must not renew or watch (`lease`), or judge (`progress`). Called by: `port_intercept`.

use std::sync::Arc;

use redir_api::Intercept;
use tokio::sync::watch;

use super::end_reason::EndReason;
use super::nodes::{ClusterEvent, NodeLink};
use super::port_intercept::PortIntercept;
use crate::cluster::lease::LeaseEvent;
use crate::cluster::observations::PATIENT;
use crate::cluster::progress::{self, InterceptProgress, MissingReason, NodeTunnel};
use crate::cluster::target_watch::TargetState;
use crate::events::Event;
use crate::link::{DesiredIntercept, FirstAnswer};
use crate::model::values::KnownAgent;
use crate::wording::{cluster as say, session};

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

    /// Another object is in the place of the one that expired: another token, the same request.
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
    pub(super) fn node_verdict(&mut self, agent: &KnownAgent, verdict: FirstAnswer) -> Option<EndReason> {
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
        let progress = nodes.progress();
        let comes_later = progress.missing.iter().all(|(_, why)| *why == MissingReason::NotScheduled);
        if !progress.waiting.is_empty() {
            if let Some(line) = nodes.wonder(&progress.waiting) {
                self.screen.note(line);
            }
            return None;
        }
        if progress.live == 0 && comes_later {
            let is_late = nodes.began.elapsed() >= PATIENT / 5;
            if is_late && !std::mem::replace(&mut nodes.is_empty_told, true) {
                self.screen.note(say::no_pods_yet(&self.wanted.target));
            }
            return None;
        }
        if progress.live > 0 && !nodes.is_published() {
            return None;
        }
        nodes.is_told = true;
        let missing: Vec<_> = progress.missing.iter().map(|(name, why)| (name.clone(), why.sentence())).collect();
        if progress.live == 0 {
            let reasons: Vec<_> = missing.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
            return Some(EndReason::Failed(session::nothing_live(&reasons)));
        }
        let InterceptProgress { live, pods, missing: _, waiting: _ } = progress;
        self.screen.tell(&Event::Status { live, pods, missing });
        None
    }
}
