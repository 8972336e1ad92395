//! The target as the API server describes it: whether it exists, its pods, its port.
//!
//! Owns: reading one target. Must not judge pods: agents do. Called by: `commands::kubernetes`.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersion, Selector};
use redir_api::TargetKind;
use serde_json::Value;

use super::api_call::{ApiCall, unless};
use super::connect::Cluster;
use super::ports;
use crate::error::CliError;
use crate::model::values::{PortName, Target, short};
use crate::wording::cluster as say;

/// Names that a sentence lists.
const NAMES: u32 = 10;

/// A pod of the target that should come to be intercepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpectedPod {
    pub(crate) name: String,
    /// `None`: not scheduled yet.
    pub(crate) node: Option<String>,
}

/// A target that exists.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its pods now. `None`: this user may not list pods, and only the agents know.
    pub(crate) pods: Option<Vec<ExpectedPod>>,
    /// The port's number in the pods. `None`: it goes by a name that only the agents can resolve.
    pub(crate) port: Option<NonZeroU16>,
}

/// Reads the target, or says what exists instead.
pub(crate) async fn find(cluster: &Cluster, target: &Target, port: &PortName) -> Result<Found, CliError> {
    match target {
        Target::Labels(labels) => selected(cluster, labels, port).await,
        Target::Pod(name) => named(cluster, TargetKind::Pod, name, port).await,
        Target::Workload(kind, name) => named(cluster, *kind, name, port).await,
    }
}

/// Whether the API server has it; of labels nothing is asked, since pods may come.
pub(crate) async fn exists(cluster: &Cluster, target: &Target) -> Result<(), CliError> {
    match target {
        Target::Labels(_) => Ok(()),
        Target::Pod(name) => read(cluster, TargetKind::Pod, name).await.map(drop),
        Target::Workload(kind, name) => read(cluster, *kind, name).await.map(drop),
    }
}

async fn selected(cluster: &Cluster, labels: &BTreeMap<String, String>, port: &PortName) -> Result<Found, CliError> {
    let selector: Selector = labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let pods = pods(cluster, &selector).await?;
    let containers: Vec<_> = pods.iter().flatten().flat_map(containers).collect();
    let number = match (port, &pods) {
        (PortName::Name(_), None) => None,
        (PortName::Name(_), Some(pods)) if pods.is_empty() => None,
        _ => Some(ports::in_workload(port, &containers, &say::pods_with(labels)).map_err(CliError::Failed)?),
    };
    Ok(Found { pods: pods.map(|pods| places(&pods)), port: number })
}

async fn named(cluster: &Cluster, kind: TargetKind, name: &str, port: &PortName) -> Result<Found, CliError> {
    let object = read(cluster, kind, name).await?;
    let spec = &object.data["spec"];
    let target = format!("{}/{name}", short(kind));
    match kind {
        TargetKind::Pod => {
            let number = ports::in_workload(port, &ports::of_containers(spec), &target).map_err(CliError::Failed)?;
            let place = ExpectedPod { name: name.to_owned(), node: spec["nodeName"].as_str().map(str::to_owned) };
            Ok(Found { pods: Some(vec![place]), port: Some(number) })
        }
        TargetKind::Service => {
            let labels: BTreeMap<String, String> = serde_json::from_value(spec["selector"].clone()).unwrap_or_default();
            if labels.is_empty() {
                return Err(CliError::Failed(say::service_without_selector(name)));
            }
            let pods = pods(cluster, &labels.into_iter().collect()).await?;
            let declared: Vec<_> = pods.iter().flatten().map(containers).collect();
            let number = ports::behind_service(port, &ports::of_service(spec), &declared, &target);
            Ok(Found { pods: pods.map(|pods| places(&pods)), port: number.map_err(CliError::Failed)? })
        }
        _ => {
            let declared = ports::of_containers(&spec["template"]["spec"]);
            let number = ports::in_workload(port, &declared, &target).map_err(CliError::Failed)?;
            let selector: LabelSelector = serde_json::from_value(spec["selector"].clone()).unwrap_or_default();
            // A selector that cannot be read is the agents' to understand.
            let pods = match Selector::try_from(selector) {
                Ok(selector) if !selector.selects_all() => pods(cluster, &selector).await?,
                _ => None,
            };
            Ok(Found { pods: pods.map(|pods| places(&pods)), port: Some(number) })
        }
    }
}

/// The kind as the generic client wants it.
pub(crate) fn resource(kind: TargetKind) -> ApiResource {
    let version = kind.api_version();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    ApiResource::from_gvk_with_plural(&GroupVersion::gv(group, version).with_kind(kind.as_str()), kind.plural())
}

async fn read(cluster: &Cluster, kind: TargetKind, name: &str) -> Result<DynamicObject, CliError> {
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource(kind));
    let right = ApiCall::Right("get", kind.plural(), Some(&cluster.namespace));
    match cluster.call(right, async { unless(&[404], api.get(name).await) }).await? {
        Some(object) => Ok(object),
        None => {
            // Without the right to list, the sentence does without names.
            let others = cluster.call(right, api.list_metadata(&ListParams::default().limit(NAMES))).await.ok();
            let names = others.map(|list| list.items.into_iter().filter_map(|item| item.metadata.name).collect());
            Err(CliError::Failed(say::no_such_target(kind, name, &cluster.namespace, names)))
        }
    }
}

/// The target's pods; `None` if this user may not list pods.
pub(super) async fn pods(cluster: &Cluster, selector: &Selector) -> Result<Option<Vec<Pod>>, CliError> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let right = ApiCall::Right("list", "pods", Some(&cluster.namespace));
    let listed = async { unless(&[403], api.list(&ListParams::default().labels_from(selector)).await) };
    Ok(cluster.call(right, listed).await?.map(|list| list.items))
}

fn containers(pod: &Pod) -> Vec<ports::DeclaredPort> {
    let spec = serde_json::to_value(&pod.spec).unwrap_or(Value::Null);
    ports::of_containers(&spec)
}

/// Those that run or will: not what has ended or is ending.
pub(super) fn places(pods: &[Pod]) -> Vec<ExpectedPod> {
    let lives = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
    };
    let place = |pod: &Pod| ExpectedPod {
        name: pod.metadata.name.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
    };
    pods.iter().filter(lives).map(place).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_end_are_not_waited_for() {
        let pod = |name: &str, phase: &str, deleted: Option<&str>| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": name, "deletionTimestamp": deleted},
                "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": phase},
            }))
            .unwrap()
        };
        let pods = [
            pod("runs", "Running", None),
            pod("waits", "Pending", None),
            pod("ends", "Running", Some("2026-01-01T00:00:00Z")),
            pod("ended", "Succeeded", None),
            pod("failed", "Failed", None),
        ];
        let names: Vec<String> = places(&pods).into_iter().map(|place| place.name).collect();
        assert_eq!(names, ["runs", "waits"]);
    }

    #[test]
    fn every_kind_has_its_resource() {
        let rollout = resource(TargetKind::Rollout);
        assert_eq!(
            (rollout.group.as_str(), rollout.version.as_str(), rollout.plural.as_str()),
            ("argoproj.io", "v1alpha1", "rollouts")
        );
        assert_eq!(resource(TargetKind::Pod).api_version, "v1");
        assert_eq!(resource(TargetKind::Job).api_version, "batch/v1");
    }
}
