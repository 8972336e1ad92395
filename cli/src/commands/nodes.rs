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

use crate::cluster::Cluster;
use crate::cluster::lease::{Lease, LeaseEvent};
use crate::cluster::observations::{AgentObservations, LOOK_AGAIN, ObservedAgents, PATIENT};
use crate::cluster::progress::{self, InterceptProgress, NodeTunnel};
use crate::cluster::target::ExpectedPod;
use crate::cluster::target_watch::{TargetState, TargetWatch};
use crate::model::values::KnownAgent;
use crate::wording::cluster as say;

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long the object's status may lag behind the tunnels before the intercept's status is told all the same.
const STATUS_LAG: Duration = Duration::from_secs(2);

/// What is known of an intercept in a cluster.
pub(super) struct ClusterNodes {
    pub(super) lease: Lease,
    /// The pods when it was made.
    pub(super) expected: Option<Vec<ExpectedPod>>,
    /// Asks for the target while no agent has a pod of it.
    pub(super) target: TargetWatch,
    pub(super) object: Intercept,
    pub(super) tunnels: BTreeMap<String, NodeTunnel>,
    pub(super) links: BTreeMap<String, NodeLink>,
    /// Since when agents may have heard of it.
    pub(super) began: Instant,
    pub(super) cluster: Cluster,
    /// What their pods have shown, since somebody had to look at them.
    pub(super) looks: Arc<Mutex<AgentObservations>>,
    /// When that was last.
    pub(super) looked: Option<Instant>,
    pub(super) look: Interval,
    /// Since when all is known that is told then.
    pub(super) complete: Option<Instant>,
    /// Whether the intercept's status was told.
    pub(super) is_told: bool,
    /// Whether it was told that there is no pod.
    pub(super) is_empty_told: bool,
    /// Whether it was told that agents have not heard of it.
    pub(super) is_silence_told: bool,
}

/// One agent's link.
pub(super) struct NodeLink {
    pub(super) agent: watch::Sender<KnownAgent>,
    pub(super) leave: CancellationToken,
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
pub(super) async fn news(nodes: &mut Option<ClusterNodes>) -> ClusterEvent {
    let Some(nodes) = nodes else { return std::future::pending().await };
    tokio::select! {
        news = nodes.lease.next() => ClusterEvent::Object(news),
        _ = nodes.look.tick(), if !nodes.is_told => ClusterEvent::Look,
        state = nodes.target.next() => ClusterEvent::Target(state),
    }
}

impl ClusterNodes {
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
            complete: None,
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
        if self.is_told { Vec::new() } else { self.progress().waiting }
    }

    /// Notices whether an agent has a pod of it.
    pub(super) fn follow_pods(&mut self) {
        let has_pods = self.object.status.iter().flat_map(|status| &status.agents).any(|agent| !agent.pods.is_empty());
        self.target.agents_have_pods(has_pods);
        if has_pods {
            self.is_empty_told = false;
        }
    }

    pub(super) fn progress(&self) -> InterceptProgress {
        let silent = self.began.elapsed();
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let others_live = self.tunnels.values().any(|tunnel| matches!(tunnel, NodeTunnel::Live(_)));
        let why = |node: &str| looks.verdict(node, silent, others_live);
        progress::intercept_progress(self.expected.as_deref(), &self.object, &self.tunnels, why)
    }

    /// Whether `redir list` says the same by now, or had the time to.
    pub(super) fn is_published(&mut self) -> bool {
        let complete = *self.complete.get_or_insert_with(Instant::now);
        progress::is_published(&self.object, &self.tunnels) || complete.elapsed() >= STATUS_LAG
    }

    /// The agents may have heard of it from now on only.
    pub(super) fn begin_anew(&mut self) {
        self.began = Instant::now();
        // A look that is under way writes into the old ones.
        (self.looks, self.looked, self.is_silence_told) = (Arc::default(), None, false);
    }

    /// Agents have said nothing for long: looks at their pods again and again, where the developer may. What to tell, once.
    pub(super) fn wonder(&mut self, waiting: &[String]) -> Option<String> {
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
