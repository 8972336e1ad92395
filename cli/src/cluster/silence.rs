//! What it means that a node's agent says nothing of an intercept.
//!
//! Owns: how long that is waited for. An agent that runs and has not heard from the API server, which may have been away, takes the
//! intercept up as soon as it has; one that does not run never does. Only who may see the agents' pods knows the difference.
//! Called by: `commands::nodes`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use redir_api::names;
use tokio::time::timeout;

use super::{agents, connect::Cluster};
use crate::wording::cluster as say;

/// How long an agent may take until it is heard of. One that runs answers in milliseconds; one that is being replaced in
/// seconds.
pub(crate) const PATIENT: Duration = Duration::from_secs(10);
/// How long one is waited for of which nothing more is known, or beside others that have answered.
const LONGEST: Duration = Duration::from_secs(60);
/// How long it may take to list the agents.
const LOOK: Duration = Duration::from_secs(10);

/// The agents, as their pods show them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SeenAgents {
    /// Why each of them is not ready, by node; `None`: it is.
    Pods(BTreeMap<String, Option<String>>),
    /// The developer may not see them.
    Hidden,
}

impl SeenAgents {
    /// Looks at the pods.
    pub(crate) async fn look(cluster: &Cluster) -> Self {
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), names::NAMESPACE);
        match timeout(LOOK, api.list(&ListParams::default().labels(&agents::selector()))).await {
            Ok(Ok(pods)) if !pods.items.is_empty() => {
                let pods = agents::staying(&pods.items).map(agents::agent_pod);
                Self::Pods(pods.map(|pod| (pod.node, pod.trouble)).collect())
            }
            // With none at all they may be in another namespace.
            _ => Self::Hidden,
        }
    }
}

/// Why nothing will come of a node whose agent has said nothing for so long; `None`: something still may.
pub(crate) fn verdict(node: &str, silent: Duration, seen: Option<&SeenAgents>, others_live: bool) -> Option<String> {
    if silent < PATIENT {
        return None;
    }
    let is_long = silent >= LONGEST;
    match seen {
        Some(SeenAgents::Pods(pods)) => match pods.get(node) {
            None => Some(say::no_agent(node)),
            Some(Some(trouble)) => Some(say::agent_not_ready(node, trouble)),
            Some(None) => (is_long && others_live).then(|| say::deaf_agent(node)),
        },
        Some(SeenAgents::Hidden) | None => is_long.then(|| say::silent_agent(node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agent_that_may_still_hear_of_it_is_waited_for() {
        let second = Duration::from_secs(1);
        let pods = [("n1", None), ("n2", Some("CrashLoopBackOff".to_owned()))];
        let pods = SeenAgents::Pods(pods.into_iter().map(|(node, trouble)| (node.to_owned(), trouble)).collect());
        for node in ["n1", "n2", "n3"] {
            assert_eq!(verdict(node, PATIENT - second, Some(&pods), false), None, "{node}");
        }
        assert_eq!(verdict("n1", 100 * LONGEST, Some(&pods), false), None, "it runs: the API server may be away");
        let deaf = verdict("n1", LONGEST, Some(&pods), true).unwrap();
        assert!(deaf.contains("not heard from the API server"), "{deaf}");
        assert!(verdict("n2", PATIENT, Some(&pods), false).unwrap().contains("CrashLoopBackOff"));
        assert!(verdict("n3", PATIENT, Some(&pods), false).unwrap().contains("runs on"));
        for seen in [None, Some(&SeenAgents::Hidden)] {
            assert_eq!(verdict("n1", LONGEST - second, seen, false), None);
            assert!(verdict("n1", LONGEST, seen, false).unwrap().contains("redir doctor"));
        }
    }
}
