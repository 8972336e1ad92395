//! Whether agents run on the control plane's nodes, since there are no others or since they run there already.
//!
//! Owns: looking at the nodes. Must not install. Called by: `commands::install`.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use redir_api::names;
use redir_manifests::Values;
use serde_json::{Map, Value};

use crate::cluster::Cluster;
use crate::cluster::api_call::ApiCall;
use crate::error::CliError;
use crate::wording::install as say;

/// The chart's value.
const VALUE: &str = "controlPlane";

/// Where the agents' pods are, and what the admin said.
pub(super) struct ControlPlanePreference<'a> {
    pub(super) namespace: &'a str,
    /// `controlPlane: false` was written down.
    pub(super) is_refused: bool,
}

/// Lets agents run there if they could run nowhere else, as in a cluster of one node, or if they do; what to say of it.
pub(super) async fn include_if_needed(
    cluster: &Cluster,
    preference: ControlPlanePreference<'_>,
    values: &mut Values,
) -> Result<Option<String>, CliError> {
    if is_included(values) {
        return Ok(None);
    }
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let nodes = cluster.call(ApiCall::Admin("list", "nodes"), nodes.list(&ListParams::default())).await?.items;
    let (control, others) = apart(&nodes, &values.node_selector());
    let has = if control.is_empty() || preference.is_refused {
        Vec::new()
    } else {
        agents(cluster, preference.namespace).await?
    };
    let decision = decide(&control, others, &has);
    if decision.as_ref().is_some_and(|(is_on, _)| *is_on) {
        include(values);
    }
    Ok(decision.map(|(_, sentence)| sentence))
}

/// Whether agents run on the control plane's nodes, and what to say of it.
fn decide(control: &[String], has_others: bool, has_agent: &[String]) -> Option<(bool, String)> {
    let running: Vec<String> = control.iter().filter(|name| has_agent.contains(name)).cloned().collect();
    match (control.is_empty(), has_others, running.is_empty()) {
        (true, ..) => None,
        (false, false, _) => Some((true, say::control_plane_alone())),
        (false, true, false) => Some((true, say::control_plane_kept(&running))),
        (false, true, true) => Some((false, say::control_plane_left_out(control))),
    }
}

pub(super) fn include(values: &mut Values) {
    values.set(VALUE, Value::Bool(true)).expect("the chart has this value");
}

pub(super) fn is_included(values: &Values) -> bool {
    values.is_true(VALUE)
}

/// The control plane's nodes that could take an agent, and whether another could.
fn apart(nodes: &[Node], selector: &Map<String, Value>) -> (Vec<String>, bool) {
    let fits = |node: &&Node| {
        let labels = node.labels();
        let has = |key: &str, value: &str| labels.get(key).is_some_and(|found| found == value);
        has("kubernetes.io/os", "linux")
            && !has("type", "virtual-kubelet")
            && selector.iter().all(|(key, value)| has(key, value.as_str().unwrap_or_default()))
    };
    let (control, others): (Vec<&Node>, Vec<&Node>) =
        nodes.iter().filter(fits).partition(|node| node.labels().contains_key(names::CONTROL_PLANE));
    (control.into_iter().map(Node::name_any).collect(), !others.is_empty())
}

/// The nodes that an agent runs on now.
async fn agents(cluster: &Cluster, namespace: &str) -> Result<Vec<String>, CliError> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let ours = ListParams::default().labels(&format!("app.kubernetes.io/name={}", names::AGENT));
    let pods = cluster.call(ApiCall::Admin("list", "pods"), pods.list(&ours)).await?;
    Ok(pods.items.into_iter().filter_map(|pod| pod.spec?.node_name).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_control_plane_is_alone_where_no_other_node_could_take_an_agent() {
        let node = |name: &str, labels: Value| -> Node {
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
        };
        let control = |name| node(name, json!({"kubernetes.io/os": "linux", "a": "b", names::CONTROL_PLANE: ""}));
        let worker = |labels: Value| node("worker", labels);
        let linux = || worker(json!({"kubernetes.io/os": "linux"}));
        let windows = || worker(json!({"kubernetes.io/os": "windows"}));
        let is_virtual = || worker(json!({"kubernetes.io/os": "linux", "type": "virtual-kubelet"}));
        let apart = |nodes: &[Node], selector: Value| apart(nodes, selector.as_object().unwrap());
        let both = || vec!["c1".to_owned(), "c2".to_owned()];
        assert_eq!(apart(&[], json!({})), (vec![], false));
        assert_eq!(apart(&[control("c1"), windows(), control("c2"), is_virtual()], json!({})), (both(), false));
        assert_eq!(apart(&[control("c1"), linux(), control("c2")], json!({})), (both(), true));
        assert_eq!(apart(&[control("c1"), linux(), control("c2")], json!({"a": "b"})), (both(), false));
        assert_eq!(apart(&[control("c1"), linux()], json!({"a": "c"})), (vec![], false));
    }

    #[test]
    fn agents_that_run_on_a_control_plane_stay_and_nodes_without_one_are_named() {
        let names = |all: &[&str]| -> Vec<String> { all.iter().map(|&name| name.to_owned()).collect() };
        let decide = |control: &[&str], others, agents: &[&str]| decide(&names(control), others, &names(agents));
        assert_eq!(decide(&[], true, &["w"]), None);
        let (is_on, sentence) = decide(&["c1"], false, &[]).unwrap();
        assert!(is_on && sentence.contains("no node takes agents but those"), "{sentence}");
        let (is_on, sentence) = decide(&["c1", "c2"], true, &["c2", "w"]).unwrap();
        assert!(is_on && sentence.starts_with("agents run on c2 of") && sentence.contains("false in"), "{sentence}");
        let (is_on, sentence) = decide(&["c1", "c2"], true, &["w"]).unwrap();
        assert!(!is_on && sentence.contains("on c1, c2 of") && sentence.contains("true in --values"), "{sentence}");
    }
}
