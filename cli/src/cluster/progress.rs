//! How far an intercept has come, told from what is known of pods, agents and tunnels.
//!
//! Owns: which agents are dialled, and whom is still waited for. Must not ask, wait or print. Called by:
//! `commands::kubernetes`.

use std::collections::{BTreeMap, BTreeSet};

use redir_api::{AgentState, Intercept, PodState};
use redir_tunnel::Pin;

use super::target::ExpectedPod;
use crate::model::values::{AgentAddress, KnownAgent};
use crate::wording::cluster as say;

/// The agents that an Intercept's status names, as they can be dialled. One whose entry cannot be used is left out.
pub(crate) fn agents(intercept: &Intercept) -> Vec<KnownAgent> {
    let entries = intercept.status.iter().flat_map(|status| &status.agents);
    let agent = |entry: &redir_api::AgentStatus| {
        let key: Pin = entry.key.parse().ok()?;
        let addresses: Vec<AgentAddress> =
            entry.endpoints.iter().filter_map(|endpoint| endpoint.address.parse().ok()).collect();
        (!addresses.is_empty()).then(|| KnownAgent { name: entry.node.clone(), addresses, key })
    };
    // An agent that has no pod of it has nothing to be dialled for.
    entries.filter(|entry| !entry.pods.is_empty()).filter_map(agent).collect()
}

/// Why the node's agent refuses, if that is all it does.
fn refusal(intercept: &Intercept, node: &str) -> Option<String> {
    let entry = intercept.status.iter().flat_map(|status| &status.agents).find(|entry| entry.node == node)?;
    (entry.state == AgentState::Refused).then(|| {
        let of_pod = entry.pods.iter().find(|pod| pod.state == PodState::Refused).map(|pod| pod.reason.clone());
        if entry.reason.is_empty() { of_pod.unwrap_or_default() } else { entry.reason.clone() }
    })
}

/// What one node's tunnel has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeTunnel {
    /// Being dialled or settled.
    Asked,
    /// So many pods are live.
    Live(usize),
    /// Nothing is live there, and why.
    Without(String),
}

/// Why an intercept is not live in a pod, or on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MissingReason {
    /// No node runs the pod yet.
    NotScheduled,
    /// Its agent has named no address that can be dialled.
    NoEndpoint,
    /// What the agent, or the tunnel to it, says.
    Told(String),
}

impl MissingReason {
    /// For people.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::NotScheduled => say::not_scheduled(),
            Self::NoEndpoint => say::no_endpoint(),
            Self::Told(sentence) => sentence.clone(),
        }
    }
}

/// In how many of its pods an intercept is live, and what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterceptProgress {
    pub(crate) live: usize,
    pub(crate) pods: usize,
    /// Node or pod, and why it is not live.
    pub(crate) missing: Vec<(String, MissingReason)>,
    /// Nodes from which something may still come.
    pub(crate) waiting: Vec<String>,
}

/// Puts together what the developer, the agents and the tunnels know. `silent` says why nothing will come of a node whose agent has
/// said nothing that is of use; `None`: something still may.
pub(crate) fn intercept_progress(
    expected: Option<&[ExpectedPod]>,
    intercept: &Intercept,
    tunnels: &BTreeMap<String, NodeTunnel>,
    silent: impl Fn(&str) -> Option<String>,
) -> InterceptProgress {
    let mut progress = InterceptProgress { live: 0, pods: 0, missing: Vec::new(), waiting: Vec::new() };
    let told: BTreeMap<&str, usize> = intercept
        .status
        .iter()
        .flat_map(|status| &status.agents)
        .map(|agent| (agent.node.as_str(), agent.pods.len()))
        .collect();
    let mut nodes: BTreeMap<&str, usize> = told.clone();
    for pod in expected.unwrap_or_default() {
        match pod.node.as_deref() {
            // What the agent counts is newer than what was listed.
            Some(node) if told.contains_key(node) => (),
            Some(node) => *nodes.entry(node).or_default() += 1,
            None => {
                progress.pods += 1;
                progress.missing.push((pod.name.clone(), MissingReason::NotScheduled));
            }
        }
    }
    for (node, pods) in nodes.into_iter().filter(|(_, pods)| *pods > 0) {
        progress.pods += pods;
        match (tunnels.get(node), refusal(intercept, node)) {
            (Some(NodeTunnel::Live(live)), _) => progress.live += live,
            (Some(NodeTunnel::Without(why)), _) => {
                progress.missing.push((node.to_owned(), MissingReason::Told(why.clone())));
            }
            (_, Some(why)) => progress.missing.push((node.to_owned(), MissingReason::Told(why))),
            (Some(NodeTunnel::Asked), None) => progress.waiting.push(node.to_owned()),
            (None, None) => match silent(node) {
                None => progress.waiting.push(node.to_owned()),
                Some(why) => {
                    let names_agent = told.contains_key(node);
                    let why = if names_agent { MissingReason::NoEndpoint } else { MissingReason::Told(why) };
                    progress.missing.push((node.to_owned(), why));
                }
            },
        }
    }
    progress
}

/// Whether the object's status, which `redir list` and kubectl show, says as much as the tunnels. An agent writes it after it
/// has answered the tunnel.
pub(crate) fn is_published(intercept: &Intercept, tunnels: &BTreeMap<String, NodeTunnel>) -> bool {
    let agents = || intercept.status.iter().flat_map(|status| &status.agents);
    let published = |node: &str| -> usize {
        let pods = agents().filter(|agent| agent.node == node).flat_map(|agent| &agent.pods);
        pods.filter(|pod| pod.state == PodState::Live).count()
    };
    tunnels.iter().all(|(node, tunnel)| match tunnel {
        NodeTunnel::Live(live) => published(node) >= *live,
        NodeTunnel::Asked | NodeTunnel::Without(_) => true,
    })
}

/// Nodes whose tunnel is no longer needed.
pub(crate) fn gone(tunnels: &BTreeMap<String, NodeTunnel>, agents: &[KnownAgent]) -> Vec<String> {
    let wanted: BTreeSet<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
    tunnels.keys().filter(|node| !wanted.contains(node.as_str())).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn may_come(_: &str) -> Option<String> {
        None
    }

    fn silent(_: &str) -> Option<String> {
        Some("it says nothing".to_owned())
    }

    const KEY: &str = "sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

    fn intercept(agents: &[Value]) -> Intercept {
        serde_json::from_value(json!({
            "apiVersion": "redir.dev/v1alpha1", "kind": "Intercept", "metadata": {"name": "web-1"},
            "spec": {"target": {"kind": "Deployment", "name": "web"}, "port": "80", "developerKey": KEY},
            "status": {"agents": agents},
        }))
        .unwrap()
    }

    fn agent(node: &str, state: &str, pods: &[&str]) -> Value {
        let pod = |name: &&str| json!({"name": name, "uid": name, "state": "Waiting", "since": "2026-01-01T00:00:00Z"});
        json!({
            "node": node, "key": KEY, "software": "redir-agent 0.1.0", "protocol": 1, "state": state,
            "reason": if state == "Refused" { "its pods share the host's network" } else { "" },
            "endpoints": [{"address": "203.0.113.1:7447", "kind": "ExternalIP"}, {"address": "10.0.0.1:7447", "kind": "InternalIP"}],
            "pods": pods.iter().map(pod).collect::<Vec<_>>(),
        })
    }

    fn at(pods: &[(&str, &str)]) -> Vec<ExpectedPod> {
        let place = |(name, node): &(&str, &str)| ExpectedPod {
            name: (*name).to_owned(),
            node: (!node.is_empty()).then(|| (*node).to_owned()),
        };
        pods.iter().map(place).collect()
    }

    #[test]
    fn agents_are_dialled_at_all_their_addresses() {
        let mut odd = agent("n3", "Waiting", &["c"]);
        odd["key"] = json!("?");
        let agents = agents(&intercept(&[agent("n1", "Waiting", &["a"]), agent("n2", "Waiting", &[]), odd]));
        assert_eq!(agents.len(), 1);
        let addresses: Vec<String> = agents[0].addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["203.0.113.1:7447", "10.0.0.1:7447"]);
    }

    #[test]
    fn nine_of_ten() {
        let tunnels = BTreeMap::from([
            ("n1".to_owned(), NodeTunnel::Live(2)),
            ("n2".to_owned(), NodeTunnel::Without("unreachable".into())),
            ("n3".to_owned(), NodeTunnel::Asked),
        ]);
        let seen = intercept(&[
            agent("n1", "Waiting", &["a", "b"]),
            agent("n2", "Waiting", &["c"]),
            agent("n3", "Waiting", &["d"]),
            agent("n4", "Refused", &["e"]),
        ]);
        let expected = at(&[("a", "n1"), ("b", "n1"), ("c", "n2"), ("d", "n3"), ("e", "n4"), ("f", "n5"), ("g", "")]);
        let early = intercept_progress(Some(&expected), &seen, &tunnels, may_come);
        assert_eq!((early.live, early.pods), (2, 7));
        assert_eq!(early.waiting, ["n3", "n5"]);
        let names =
            |progress: &InterceptProgress| progress.missing.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&early), ["g", "n2", "n4"]);
        assert_eq!(early.missing[2].1, MissingReason::Told("its pods share the host's network".into()));
        let late = intercept_progress(Some(&expected), &seen, &tunnels, silent);
        assert_eq!(
            (late.waiting.as_slice(), names(&late)),
            (["n3".to_owned()].as_slice(), vec!["g".into(), "n2".into(), "n4".into(), "n5".into()])
        );
    }

    #[test]
    fn what_agents_count_is_newer() {
        let tunnels = BTreeMap::from([("n1".to_owned(), NodeTunnel::Live(3))]);
        let scaled = intercept_progress(
            Some(&at(&[("a", "n1")])),
            &intercept(&[agent("n1", "Live", &["a", "b", "c"])]),
            &tunnels,
            silent,
        );
        assert_eq!((scaled.live, scaled.pods, scaled.missing.len()), (3, 3, 0));
        let unknown = intercept_progress(None, &intercept(&[]), &BTreeMap::new(), may_come);
        assert_eq!((unknown.pods, unknown.waiting.len()), (0, 0));
        assert_eq!(gone(&tunnels, &[]), ["n1"]);
    }

    #[test]
    fn what_the_tunnels_say_first_is_published_later() {
        let with = |states: &[&str]| {
            let mut agent = agent("n1", "Pending", &["a", "b"]);
            for (pod, state) in agent["pods"].as_array_mut().unwrap().iter_mut().zip(states) {
                pod["state"] = json!(state);
            }
            intercept(&[agent])
        };
        let tunnels = |live| BTreeMap::from([("n1".to_owned(), NodeTunnel::Live(live))]);
        assert!(!is_published(&intercept(&[]), &tunnels(2)));
        assert!(!is_published(&with(&["Waiting", "Waiting"]), &tunnels(2)));
        assert!(!is_published(&with(&["Live", "Waiting"]), &tunnels(2)));
        assert!(is_published(&with(&["Live", "Live"]), &tunnels(2)));
        assert!(is_published(&with(&["Live", "Waiting"]), &tunnels(1)), "the other one is refused, or new");
        let without = BTreeMap::from([("n1".to_owned(), NodeTunnel::Without("unreachable".into()))]);
        assert!(is_published(&with(&["Waiting", "Waiting"]), &without));
    }
}
