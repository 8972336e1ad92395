//! The agents of a cluster as their DaemonSet and pods tell of them.
//!
//! Owns: how many are ready, why the others are not, and whether they can become so. Must not wait. Called by:
//! `commands::rollout`, `commands::doctor`.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use redir_api::names;
use serde_json::Value;

use crate::model::agents::{AgentPod, DetailSource, Outlook};
use crate::wording::install as say;

/// An agent that ended so often does not come up by itself: by then its kubelet waits 80 s between two tries.
const HOPELESS_RESTARTS: i32 = 3;
/// What no waiting fixes.
const HOPELESS: [&str; 3] = ["InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"];
/// The container runtime's waits between two tries: what they wait after says more, and their text counts seconds.
const BACK_OFFS: [&str; 1] = ["CrashLoopBackOff"];
/// Counts the changes of a DaemonSet's pods, on it and on each of them.
const GENERATION: &str = "deprecated.daemonset.template.generation";
const POD_GENERATION: &str = "pod-template-generation";
/// Lines of what a container said last.
const LAST_WORDS: usize = 3;
/// Characters of such a line.
const LINE: usize = 400;

/// The pods that are not ending.
pub(crate) fn pods(set: &DaemonSet, pods: &[Pod]) -> Vec<AgentPod> {
    let newest = set.metadata.annotations.as_ref().and_then(|annotations| annotations.get(GENERATION));
    staying(pods)
        .map(|pod| {
            let generation = pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_GENERATION));
            AgentPod { is_new: newest.is_none() || generation == newest, ..agent_pod(pod) }
        })
        .collect()
}

/// Selects them.
pub(crate) fn selector() -> String {
    format!("{}={}", names::APP_LABEL, names::AGENT)
}

/// Those that nobody has asked to end.
pub(crate) fn staying(pods: &[Pod]) -> impl Iterator<Item = &Pod> {
    pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none())
}

/// What one pod's status says.
pub(crate) fn agent_pod(pod: &Pod) -> AgentPod {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let container = status.container_statuses.iter().flatten().next();
    let conditions = status.conditions.iter().flatten();
    let unscheduled =
        conditions.clone().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let problem = match (container, unscheduled) {
        (_, Some(condition)) => {
            Some(ContainerProblem::passing(condition.message.clone().unwrap_or_else(say::not_scheduled)))
        }
        (Some(container), None) => of_container(container),
        (None, None) => Some(ContainerProblem {
            more: DetailSource::Events,
            ..ContainerProblem::passing(status.message.unwrap_or_else(say::not_started))
        }),
    };
    let (outlook, more) =
        problem.as_ref().map_or((Outlook::MayPass, DetailSource::Nowhere), |problem| (problem.outlook, problem.more));
    AgentPod {
        name: pod.metadata.name.clone().unwrap_or_default(),
        node: spec.node_name.unwrap_or_default(),
        image: spec.containers.first().and_then(|container| container.image.clone()).unwrap_or_default(),
        is_new: true,
        problem: problem.map(|problem| problem.sentence),
        outlook,
        more,
    }
}

struct ContainerProblem {
    sentence: String,
    outlook: Outlook,
    more: DetailSource,
}

impl ContainerProblem {
    fn passing(sentence: String) -> Self {
        Self { sentence, outlook: Outlook::MayPass, more: DetailSource::Nowhere }
    }
}

/// What the runtime says of a container that is not ready; what ended it last says most.
fn of_container(container: &ContainerStatus) -> Option<ContainerProblem> {
    if container.ready {
        return None;
    }
    let state = container.state.clone().unwrap_or_default();
    let last = container.last_state.clone().unwrap_or_default();
    let waiting = state.waiting.and_then(|waiting| Some((waiting.reason?, waiting.message)));
    let is_back_off = waiting.as_ref().is_some_and(|(reason, _)| BACK_OFFS.contains(&reason.as_str()));
    let ended = state.terminated.or(last.terminated);
    let outlook = match &waiting {
        Some((reason, _)) if HOPELESS.contains(&reason.as_str()) => Outlook::Hopeless,
        _ if ended.is_some() && container.restart_count >= HOPELESS_RESTARTS => Outlook::Hopeless,
        _ => Outlook::MayPass,
    };
    Some(match (waiting.filter(|_| !is_back_off), ended) {
        (Some((reason, message)), _) => {
            // Between two tries of old servers the reason is gone from the status.
            let is_bare = message.as_ref().is_none_or(|message| reason.ends_with("BackOff") && !message.contains(": "));
            let sentence =
                message.map_or_else(|| reason.clone(), |message| format!("{reason}: {}", last_words(&message)));
            ContainerProblem {
                sentence,
                outlook,
                more: if is_bare { DetailSource::Events } else { DetailSource::Nowhere },
            }
        }
        (None, Some(ended)) => {
            let words = ended.message.as_deref().map(last_words).filter(|words| !words.is_empty());
            let more = if words.is_some() { DetailSource::Nowhere } else { DetailSource::PreviousLog };
            ContainerProblem {
                sentence: say::ended(ended.exit_code, ended.reason.as_deref(), words.as_deref()),
                outlook,
                more,
            }
        }
        (None, None) => ContainerProblem { sentence: say::not_ready(), outlook, more: DetailSource::Log },
    })
}

/// The end of what a container wrote, in one line; of its log's JSON only what was said, which is the same each time.
pub(crate) fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LAST_WORDS)..];
    let words: Vec<String> = last.iter().map(|line| said(line).chars().take(LINE).collect()).collect();
    words.join(" / ")
}

/// `ERROR cannot read …` of `{"timestamp":…,"level":"ERROR","message":"cannot read …"}`
fn said(line: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    match (text("message"), text("level")) {
        (Some(message), Some(level)) => match text("error") {
            Some(problem) => format!("{level} {message}: {problem}"),
            None => format!("{level} {message}"),
        },
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::agents::AgentRollout;

    fn pod(container: &Value) -> AgentPod {
        agent_pod(
            &serde_json::from_value(json!({
                "spec": {"nodeName": "n1", "containers": [{"name": "agent", "image": "a:1"}]},
                "status": {"containerStatuses": [container]},
            }))
            .unwrap(),
        )
    }

    fn container(ready: bool, state: &Value, last: &Value, restarts: i32) -> Value {
        json!({"name": "agent", "image": "a", "imageID": "", "ready": ready, "restartCount": restarts, "state": state, "lastState": last})
    }

    #[test]
    fn a_pod_says_why_it_is_not_ready() {
        let none = json!({});
        let ready = pod(&container(true, &json!({"running": {}}), &none, 9));
        assert_eq!((ready.node.as_str(), ready.image.as_str(), ready.problem), ("n1", "a:1", None));
        let never = pod(&container(
            false,
            &json!({"waiting": {"reason": "ErrImageNeverPull", "message": "no image a:1"}}),
            &none,
            0,
        ));
        assert_eq!(
            (never.problem.as_deref(), never.outlook),
            (Some("ErrImageNeverPull: no image a:1"), Outlook::Hopeless)
        );
        let pulling = json!({"waiting": {"reason": "ErrImagePull", "message": "rpc error: code = NotFound desc = no such image"}});
        let pulling = pod(&container(false, &pulling, &none, 0));
        assert!(pulling.problem.unwrap().contains("no such image"));
        assert_eq!((pulling.outlook, pulling.more), (Outlook::MayPass, DetailSource::Nowhere));
        let waits = json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"a:1\""}});
        assert_eq!(pod(&container(false, &waits, &none, 0)).more, DetailSource::Events);
        let running = pod(&container(false, &json!({"running": {}}), &none, 0));
        assert_eq!((running.problem.is_some(), running.more), (true, DetailSource::Log));
        assert_eq!(
            pod(&container(false, &json!({"waiting": {"reason": "ContainerCreating"}}), &none, 0)).more,
            DetailSource::Events
        );
    }

    /// From one try to the next the times in it change, and how long the kubelet waits.
    #[test]
    fn an_agent_that_does_not_start_is_told_alike_at_each_try() {
        let looping = |restarts: i32| {
            let log = format!(
                "{{\"timestamp\":\"2026-11-30T18:00:0{restarts}Z\",\"level\":\"ERROR\",\"message\":\"lacks CAP_BPF\"}}\nredir-agent: ends\n"
            );
            let crashed = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": log}});
            let waits = json!({"waiting": {"reason": "CrashLoopBackOff", "message": format!("back-off {}0s restarting", restarts)}});
            pod(&container(false, &waits, &crashed, restarts))
        };
        let (first, third) = (looping(1), looping(3));
        assert_eq!(first.problem.as_deref(), Some("it ended with code 1: ERROR lacks CAP_BPF / redir-agent: ends"));
        assert_eq!(first.problem, third.problem);
        assert_eq!((first.outlook, third.outlook), (Outlook::MayPass, Outlook::Hopeless));
        let silent = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let silent = pod(&container(false, &silent, &json!({}), 0));
        assert_eq!(
            (silent.problem.as_deref(), silent.more),
            (Some("it ended with code 137 (OOMKilled)"), DetailSource::PreviousLog)
        );
    }

    /// What the last release left behind says nothing of this one.
    #[test]
    fn pods_from_before_the_change_are_told_apart() {
        let set = |generation: &str| -> DaemonSet {
            serde_json::from_value(json!({"metadata": {"annotations": {GENERATION: generation}}})).unwrap()
        };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"labels": {POD_GENERATION: "1"}}})).unwrap();
        let is_new = |set: &DaemonSet| pods(set, std::slice::from_ref(&pod))[0].is_new;
        assert!(is_new(&set("1")) && !is_new(&set("2")) && is_new(&DaemonSet::default()));
    }

    #[test]
    fn of_many_words_the_last_ones_are_told() {
        assert_eq!(last_words("a\n\nb\nc\nd\n"), "b / c / d");
        assert_eq!(last_words(&"x".repeat(5_000)).len(), LINE);
        assert_eq!(last_words(" \n"), "");
        assert_eq!(last_words("{\"level\":\"WARN\",\"message\":\"m\",\"error\":\"e\"}"), "WARN m: e");
        assert_eq!(last_words("{\"a\":1}"), "{\"a\":1}");
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
            AgentRollout::of(&serde_json::from_value(set).unwrap()).is_done()
        };
        assert!(of(2, 2, 3, 3, 3));
        assert!(!of(2, 1, 3, 3, 3), "not seen yet");
        assert!(!of(2, 2, 3, 1, 3), "old ones are ready");
        assert!(!of(2, 2, 3, 3, 2) && !of(1, 1, 0, 0, 0));
    }
}
