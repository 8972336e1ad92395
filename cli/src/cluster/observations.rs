//! What it means that a node's agent says nothing of an intercept.
//!
//! Owns: how long that is waited for. An agent that runs and has not heard from the API server, which may have been away, takes the
//! intercept up as soon as it has, and one that is being replaced soon runs; one that does not run never does. Only who may see
//! the agents' pods knows the difference, and not from one look. Called by: `commands::nodes`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use redir_api::names;
use tokio::time::{Instant, timeout};

use super::agents;
use super::connect::Cluster;
use crate::model::agents::Outlook;
use crate::wording::cluster as say;

/// How long an agent may take until it is heard of. One that runs answers in milliseconds; one that is being replaced in
/// seconds.
pub(crate) const PATIENT: Duration = Duration::from_secs(10);
/// How often the agents' pods are looked at while one is silent.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How long one is waited for of which nothing more is known, that is not ready, or beside others that have answered.
const LONGEST: Duration = Duration::from_secs(60);
/// How long it may take to list the agents.
const LOOK: Duration = Duration::from_secs(10);

/// The agents, as their pods show them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ObservedAgents {
    /// By node.
    Pods(BTreeMap<String, ObservedAgent>),
    /// The developer may not see them.
    Hidden,
}

/// A node's agent; of two the better one counts, which is the later here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ObservedAgent {
    /// Another one may take its place.
    Ending,
    /// Why.
    NotReady(Outlook, String),
    Ready,
}

impl ObservedAgents {
    /// Looks at the pods.
    pub(crate) async fn look(cluster: &Cluster) -> Self {
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), names::NAMESPACE);
        match timeout(LOOK, api.list(&ListParams::default().labels(&agents::selector()))).await {
            Ok(Ok(pods)) if !pods.items.is_empty() => Self::Pods(by_node(&pods.items)),
            // With none at all they may be in another namespace.
            _ => Self::Hidden,
        }
    }
}

fn by_node(pods: &[Pod]) -> BTreeMap<String, ObservedAgent> {
    let mut seen = BTreeMap::new();
    for pod in pods {
        let is_ending = pod.metadata.deletion_timestamp.is_some();
        let pod = agents::agent_pod(pod);
        let agent = match pod.problem {
            _ if is_ending => ObservedAgent::Ending,
            Some(why) => ObservedAgent::NotReady(pod.outlook, why),
            None => ObservedAgent::Ready,
        };
        let best = seen.entry(pod.node).or_insert(ObservedAgent::Ending);
        if agent > *best {
            *best = agent;
        }
    }
    seen
}

/// What the looks at the agents have shown, one after the other.
#[derive(Debug, Default)]
pub(crate) struct AgentObservations {
    /// The last one, and when it was.
    last: Option<(ObservedAgents, Instant)>,
    /// The one before.
    before: Option<ObservedAgents>,
    /// Since when silent nodes have had no agent that is ready.
    unready: BTreeMap<String, Instant>,
}

impl AgentObservations {
    /// Another look, for the sake of these nodes.
    pub(crate) fn add(&mut self, seen: ObservedAgents, nodes: &[String], at: Instant) {
        match (&seen, &self.last) {
            (ObservedAgents::Pods(pods), _) => {
                let is_ready = |node: &String| pods.get(node) == Some(&ObservedAgent::Ready);
                self.unready.retain(|node, _| !is_ready(node));
                for node in nodes.iter().filter(|node| !is_ready(node)) {
                    self.unready.entry(node.clone()).or_insert(at);
                }
            }
            // One look failed: what was seen is worth more.
            (ObservedAgents::Hidden, Some((ObservedAgents::Pods(_), _))) => return,
            (ObservedAgents::Hidden, _) => (),
        }
        self.before = self.last.replace((seen, at)).map(|(before, _)| before);
    }

    /// Why nothing will come of a node whose agent has said nothing for so long; `None`: something still may.
    pub(crate) fn verdict(&self, node: &str, silent: Duration, others_live: bool) -> Option<String> {
        if silent < PATIENT {
            return None;
        }
        let is_long = silent >= LONGEST;
        let Some((ObservedAgents::Pods(pods), at)) = &self.last else {
            return is_long.then(|| say::silent_agent(node));
        };
        let unready = self.unready.get(node).map_or(Duration::ZERO, |since| at.duration_since(*since));
        match pods.get(node) {
            Some(ObservedAgent::Ready) => (is_long && others_live).then(|| say::deaf_agent(node)),
            Some(ObservedAgent::NotReady(outlook, why)) => {
                (*outlook == Outlook::Hopeless || unready >= LONGEST).then(|| say::agent_not_ready(node, why))
            }
            Some(ObservedAgent::Ending) => (unready >= LONGEST).then(|| say::agent_not_ready(node, say::AGENT_ENDS)),
            // Between an agent's end and the next one there is a moment without.
            None => self.is_absent_before(node).then(|| say::no_agent(node)),
        }
    }

    fn is_absent_before(&self, node: &str) -> bool {
        matches!(&self.before, Some(ObservedAgents::Pods(pods)) if !pods.contains_key(node))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pod(node: &str, is_ending: bool, is_ready: bool, state: &Value, restarts: i32) -> Pod {
        let container = json!({"name": "agent", "image": "a", "imageID": "", "ready": is_ready, "restartCount": restarts, "state": state});
        let ends = is_ending.then_some("2026-11-30T18:00:00Z");
        serde_json::from_value(json!({
            "metadata": {"deletionTimestamp": ends},
            "spec": {"nodeName": node, "containers": []},
            "status": {"containerStatuses": [container]},
        }))
        .unwrap()
    }

    fn runs(node: &str) -> Pod {
        pod(node, false, true, &json!({"running": {}}), 0)
    }

    fn ends(node: &str) -> Pod {
        pod(node, true, true, &json!({"running": {}}), 0)
    }

    fn pulls(node: &str) -> Pod {
        pod(node, false, false, &json!({"waiting": {"reason": "ContainerCreating"}}), 0)
    }

    fn crashes(node: &str) -> Pod {
        pod(node, false, false, &json!({"terminated": {"exitCode": 1}}), 5)
    }

    /// Looks at these pods, each some seconds after the first, for the sake of n1.
    fn looks(seen: &[(u64, &[Pod])]) -> AgentObservations {
        let begin = Instant::now();
        let mut looks = AgentObservations::default();
        for (second, pods) in seen {
            let seen = ObservedAgents::Pods(by_node(pods));
            looks.add(seen, &["n1".to_owned()], begin + Duration::from_secs(*second));
        }
        looks
    }

    #[test]
    fn only_an_agent_that_may_still_hear_of_it_is_waited_for() {
        let seen = [runs("n1"), crashes("n2")];
        let looks = looks(&[(0, &seen), (10, &seen)]);
        for node in ["n1", "n2", "n3"] {
            assert_eq!(looks.verdict(node, PATIENT - SECOND, false), None, "{node}");
        }
        assert_eq!(looks.verdict("n1", 100 * LONGEST, false), None, "it runs: the API server may be away");
        let deaf = looks.verdict("n1", LONGEST, true).unwrap();
        assert!(deaf.contains("not heard from the API server"), "{deaf}");
        assert!(looks.verdict("n2", PATIENT, false).unwrap().contains("ended with code 1"));
        assert!(looks.verdict("n3", PATIENT, false).unwrap().contains("runs on"));
        let mut hidden = AgentObservations::default();
        for _ in 0..2 {
            assert_eq!(hidden.verdict("n1", LONGEST - SECOND, false), None);
            assert!(hidden.verdict("n1", LONGEST, false).unwrap().contains("redir doctor"));
            hidden.add(ObservedAgents::Hidden, &[], Instant::now());
        }
    }

    /// `redir upgrade` ends an agent, and the next one takes its time.
    #[test]
    fn an_agent_that_is_replaced_is_waited_for() {
        let none: &[Pod] = &[runs("n2")];
        let steps: [(u64, &[Pod]); 4] =
            [(0, &[ends("n1")]), (10, none), (20, &[ends("n1"), pulls("n1")]), (59, &[pulls("n1")])];
        for shown in 1..=steps.len() {
            assert_eq!(looks(&steps[..shown]).verdict("n1", 10 * LONGEST, false), None, "after look {shown}");
        }
        let late = looks(&[(0, &[pulls("n1")]), (60, &[pulls("n1")])]).verdict("n1", PATIENT, false).unwrap();
        assert!(late.contains("ContainerCreating"), "{late}");
        let stuck = looks(&[(0, &[ends("n1")]), (60, &[ends("n1")])]).verdict("n1", PATIENT, false).unwrap();
        assert!(stuck.contains("is ending"), "{stuck}");
        assert!(looks(&[(0, none), (10, none)]).verdict("n1", PATIENT, false).unwrap().contains("no agent runs"));
        // What was before it ran does not count.
        let again = looks(&[(0, &[pulls("n1")]), (60, &[runs("n1")]), (70, &[pulls("n1")])]);
        assert_eq!(again.verdict("n1", 2 * LONGEST, false), None);
    }

    #[test]
    fn an_agent_that_crashes_after_the_first_look_is_not_waited_for_forever() {
        let mut looks = looks(&[(0, &[runs("n1")]), (10, &[crashes("n1")])]);
        assert!(looks.verdict("n1", PATIENT, false).unwrap().contains("ended with code 1"));
        looks.add(ObservedAgents::Hidden, &[], Instant::now());
        assert!(looks.verdict("n1", PATIENT, false).is_some(), "a look that failed takes nothing back");
    }
}
