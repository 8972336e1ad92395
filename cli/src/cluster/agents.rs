//! The agents of a cluster as their DaemonSet and pods tell of them.
//!
//! Owns: how many are ready, and why the others are not. Must not wait. Called by: `commands::install`, `commands::doctor`.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use redir_api::names;

use crate::wording::install as say;

/// How far a DaemonSet has come with its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rollout {
    /// Nodes that shall run an agent.
    pub(crate) wanted: i32,
    /// Those that run the new one, ready.
    pub(crate) ready: i32,
    /// Whether the controller has seen the change at all.
    pub(crate) is_current: bool,
}

impl Rollout {
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
    pub(crate) node: String,
    pub(crate) image: String,
    /// Why it is not ready; `None`: it is.
    pub(crate) trouble: Option<String>,
}

/// The pods that are not ending.
pub(crate) fn pods(pods: &[Pod]) -> Vec<AgentPod> {
    pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(agent_pod).collect()
}

/// Selects them.
pub(crate) fn selector() -> String {
    format!("{}={}", names::APP_LABEL, names::AGENT)
}

fn agent_pod(pod: &Pod) -> AgentPod {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let container = status.container_statuses.iter().flatten().next();
    let conditions = status.conditions.iter().flatten();
    let unscheduled =
        conditions.clone().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let trouble = match (container, unscheduled) {
        (_, Some(condition)) => Some(condition.message.clone().unwrap_or_else(say::not_scheduled)),
        (Some(container), None) => of_container(container),
        (None, None) => Some(status.message.unwrap_or_else(say::not_started)),
    };
    AgentPod {
        node: spec.node_name.unwrap_or_default(),
        image: spec.containers.first().and_then(|container| container.image.clone()).unwrap_or_default(),
        trouble,
    }
}

/// What the runtime says of a container that is not ready; what ended it last says most.
fn of_container(container: &ContainerStatus) -> Option<String> {
    if container.ready {
        return None;
    }
    let state = container.state.clone().unwrap_or_default();
    let last = container.last_state.clone().unwrap_or_default();
    let ended = state.terminated.or(last.terminated);
    let waiting = state.waiting.and_then(|waiting| {
        let reason = waiting.reason?;
        Some(match waiting.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason,
        })
    });
    Some(match (waiting, ended) {
        (waiting, Some(ended)) => say::ended(waiting.as_deref(), ended.exit_code, ended.message.as_deref()),
        (Some(waiting), None) => waiting,
        (None, None) => say::not_ready(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: &Value) -> AgentPod {
        agent_pod(
            &serde_json::from_value(json!({
                "spec": {"nodeName": "n1", "containers": [{"name": "agent", "image": "a:1"}]},
                "status": {"containerStatuses": [container]},
            }))
            .unwrap(),
        )
    }

    fn container(ready: bool, state: &Value, last: &Value) -> Value {
        json!({"name": "agent", "image": "a", "imageID": "", "ready": ready, "restartCount": 0, "state": state, "lastState": last})
    }

    #[test]
    fn a_pod_says_why_it_is_not_ready() {
        let ready = pod(&container(true, &json!({"running": {}}), &json!({})));
        assert_eq!((ready.node.as_str(), ready.image.as_str(), ready.trouble), ("n1", "a:1", None));
        let pulling = json!({"waiting": {"reason": "ErrImageNeverPull", "message": "no image a:1"}});
        assert_eq!(
            pod(&container(false, &pulling, &json!({}))).trouble.as_deref(),
            Some("ErrImageNeverPull: no image a:1")
        );
        let crashed = json!({"terminated": {"exitCode": 1, "message": "lacks CAP_BPF"}});
        let looping = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let told = pod(&container(false, &looping, &crashed)).trouble.unwrap();
        assert!(told.contains("CrashLoopBackOff") && told.contains("lacks CAP_BPF"), "{told}");
        assert!(pod(&container(false, &json!({"running": {}}), &json!({}))).trouble.is_some());
    }

    #[test]
    fn a_rollout_is_done_when_all_new_ones_are_ready() {
        let of = |generation: i64, observed: i64, wanted: i32, updated: i32, ready: i32| {
            let set = json!({
                "metadata": {"name": "redir-agent", "generation": generation},
                "status": {
                    "observedGeneration": observed, "desiredNumberScheduled": wanted, "updatedNumberScheduled": updated,
                    "numberReady": ready, "currentNumberScheduled": wanted, "numberMisscheduled": 0,
                },
            });
            Rollout::of(&serde_json::from_value(set).unwrap()).is_done()
        };
        assert!(of(2, 2, 3, 3, 3));
        assert!(!of(2, 1, 3, 3, 3), "not seen yet");
        assert!(!of(2, 2, 3, 1, 3), "old ones are ready");
        assert!(!of(2, 2, 3, 3, 2) && !of(1, 1, 0, 0, 0));
    }
}
