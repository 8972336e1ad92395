//! A cluster's agents as their DaemonSet and pods show them.
//!
//! Owns: the types. Must not read pods (`cluster::agents`) or word anything.

use k8s_openapi::api::apps::v1::DaemonSet;

/// How far a DaemonSet has come with its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AgentRollout {
    /// Nodes that the DaemonSet schedules an agent on.
    pub(crate) wanted: i32,
    /// Those that run the new one, ready.
    pub(crate) ready: i32,
    /// Whether the controller has seen the change at all.
    pub(crate) is_current: bool,
}

impl AgentRollout {
    pub(crate) fn of(set: &DaemonSet) -> Self {
        let status = set.status.clone().unwrap_or_default();
        let updated = status.updated_number_scheduled.unwrap_or(0);
        Self {
            wanted: status.desired_number_scheduled,
            ready: status.number_ready.min(updated),
            is_current: status.observed_generation >= set.metadata.generation,
        }
    }

    pub(crate) fn is_done(self) -> bool {
        self.is_current && self.wanted > 0 && self.ready >= self.wanted
    }
}

/// One agent's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentPod {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) image: String,
    /// Whether it is what the DaemonSet says now; the others are about to be replaced.
    pub(crate) is_new: bool,
    /// Why it is not ready; `None`: it is.
    pub(crate) problem: Option<String>,
    /// Whether it stays so.
    pub(crate) outlook: Outlook,
    /// What the pod's status does not say stands elsewhere.
    pub(crate) more: DetailSource,
}

/// What is to be expected of an agent that is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outlook {
    MayPass,
    /// Not with this image and these values.
    Hopeless,
}

/// Where the details of a problem are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DetailSource {
    Nowhere,
    /// In the log of the container that ended.
    PreviousLog,
    /// In the log of the container that runs.
    Log,
    /// In the pod's Events.
    Events,
}
