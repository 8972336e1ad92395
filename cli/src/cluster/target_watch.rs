//! A target of which no agent has a pod: whether others may come, or it has ended for good.
//!
//! Owns: what the API server is asked about it, and how often. Must not tell anybody or end anything. Called by:
//! `commands::nodes`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use kube::api::DynamicObject;
use kube::core::Selector;
use redir_api::TargetKind;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::api_call::ApiCall;
use super::connect::Cluster;
use super::target;
use crate::error::CliError;
use crate::model::values::{Target, short};
use crate::wording::cluster as say;

/// Until the API server is asked first: agents name new pods within milliseconds, and pods are replaced within seconds.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two questions; each is twice the one before. A target may stay without pods for days.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What becomes of a target of which no agent has a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetState {
    /// It has pods that no agent tells of yet.
    HasPods,
    /// It has none; others may come.
    NoPods,
    /// There will be none; why, for people.
    Ended(String),
}

/// Asks for the target's state while no agent has a pod of it.
pub(crate) struct TargetWatch {
    cluster: Cluster,
    target: Target,
    /// When to ask; `None` while an agent has a pod.
    next: Option<Instant>,
    pause: Duration,
}

impl TargetWatch {
    /// No agent has been heard of yet.
    pub(crate) fn new(cluster: &Cluster, target: &Target) -> Self {
        let next = Some(Instant::now() + FIRST_PAUSE);
        Self { cluster: cluster.clone(), target: target.clone(), next, pause: FIRST_PAUSE }
    }

    /// Whether an agent has a pod of it now.
    pub(crate) fn agents_have_pods(&mut self, has_pods: bool) {
        if has_pods {
            self.next = None;
        } else if self.next.is_none() {
            self.pause = FIRST_PAUSE;
            self.next = Some(Instant::now() + self.pause);
        }
    }

    /// Waits for the next answer. Cancel-safe: a question that was not answered is asked again.
    pub(crate) async fn next(&mut self) -> TargetState {
        loop {
            let Some(next) = self.next else { return std::future::pending().await };
            sleep_until(next).await;
            let state = state(&self.cluster, &self.target).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.next = Some(Instant::now() + self.pause);
            // That the API server is away is told by whoever renews the Intercept.
            if let Ok(state) = state {
                return state;
            }
        }
    }
}

async fn state(cluster: &Cluster, target: &Target) -> Result<TargetState, CliError> {
    let (kind, name) = match target {
        Target::Labels(labels) => return pods_of(cluster, labels).await,
        Target::Pod(name) => (TargetKind::Pod, name),
        Target::Workload(kind, name) => (*kind, name),
    };
    let api: Api<DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &target::resource(kind));
    let right = ApiCall::Right("get", kind.plural(), Some(&cluster.namespace));
    let object = cluster.call(right, api.get_opt(name)).await?;
    let data = object.as_ref().map(|object| &object.data);
    let owner = object.iter().flat_map(|object| object.metadata.owner_references.iter().flatten());
    let owner = owner.filter(|owner| owner.controller == Some(true)).map(|owner| owner.kind.as_str()).next();
    if let Some(how) = ended(kind, data, owner) {
        return Ok(TargetState::Ended(say::target_ended(&format!("{}/{name}", short(kind)), how)));
    }
    let Some(spec) = data.map(|data| &data["spec"]) else { return Ok(TargetState::NoPods) };
    match kind {
        TargetKind::Pod => Ok(TargetState::HasPods),
        TargetKind::Service => {
            let labels: BTreeMap<String, String> = serde_json::from_value(spec["selector"].clone()).unwrap_or_default();
            pods_of(cluster, &labels).await
        }
        _ => {
            let selector: LabelSelector = serde_json::from_value(spec["selector"].clone()).unwrap_or_default();
            match Selector::try_from(selector) {
                Ok(selector) if !selector.selects_all() => selected(cluster, &selector).await,
                _ => Ok(TargetState::NoPods),
            }
        }
    }
}

async fn pods_of(cluster: &Cluster, labels: &BTreeMap<String, String>) -> Result<TargetState, CliError> {
    selected(cluster, &labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()).await
}

/// Where this user may not list pods, the agents' word counts: they have none.
async fn selected(cluster: &Cluster, selector: &Selector) -> Result<TargetState, CliError> {
    let pods = target::pods(cluster, selector).await?.unwrap_or_default();
    Ok(if target::places(&pods).is_empty() { TargetState::NoPods } else { TargetState::HasPods })
}

/// How a target has ended that gets no pods any more. Of all workloads only a Job ends by itself, and a pod by its name
/// comes back only where a StatefulSet makes it.
fn ended(kind: TargetKind, object: Option<&Value>, owner: Option<&str>) -> Option<&'static str> {
    match (kind, object) {
        (TargetKind::Job, None) => Some("was deleted"),
        (TargetKind::Job, Some(job)) => {
            let conditions = job["status"]["conditions"].as_array()?.iter();
            let mut holding = conditions.filter(|condition| condition["status"] == "True");
            holding.find_map(|condition| match condition["type"].as_str()? {
                "Complete" => Some("is complete"),
                "Failed" => Some("has failed"),
                _ => None,
            })
        }
        (TargetKind::Pod, Some(pod)) if owner != Some(TargetKind::StatefulSet.as_str()) => {
            match pod["status"]["phase"].as_str()? {
                "Succeeded" => Some("is complete"),
                "Failed" => Some("has failed"),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_ends_by_itself_and_other_workloads_do_not() {
        let job = |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
        let of_job = |object: &Value| ended(TargetKind::Job, Some(object), None);
        assert_eq!(of_job(&job("Complete", "True")), Some("is complete"));
        assert_eq!(of_job(&job("Failed", "True")), Some("has failed"));
        for runs in [job("Complete", "False"), job("Suspended", "True"), job("FailureTarget", "True"), json!({})] {
            assert_eq!(of_job(&runs), None, "{runs}");
        }
        assert_eq!(ended(TargetKind::Job, None, None), Some("was deleted"));
        for kind in [TargetKind::Deployment, TargetKind::StatefulSet, TargetKind::Service] {
            assert_eq!(ended(kind, None, None), None, "{kind:?} may be made again");
            assert_eq!(ended(kind, Some(&job("Complete", "True")), None), None);
        }
    }

    #[test]
    fn a_pod_comes_back_only_from_a_stateful_set() {
        let pod = |phase: &str| json!({"status": {"phase": phase}});
        let of_pod = |phase: &str, owner| ended(TargetKind::Pod, Some(&pod(phase)), owner);
        assert_eq!(of_pod("Succeeded", None), Some("is complete"));
        assert_eq!(of_pod("Failed", Some("Job")), Some("has failed"));
        assert_eq!(of_pod("Failed", Some("StatefulSet")), None);
        assert_eq!(of_pod("Running", None), None);
        assert_eq!(ended(TargetKind::Pod, None, None), None, "one that was deleted may have belonged to a StatefulSet");
    }
}
