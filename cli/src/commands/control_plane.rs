//! Whether agents must run on the control plane's nodes, since there are no others.
//!
//! Owns: looking at the nodes. Must not install. Called by: `commands::install`.

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use redir_api::names;
use redir_manifests::Values;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::cluster::trouble::Doing;
use crate::trouble::Trouble;

/// The chart's value.
const VALUE: &str = "controlPlane";

/// Lets agents run there if they could run nowhere else, as in a cluster of one node; whether that was so.
pub(super) async fn include_if_alone(cluster: &Cluster, values: &mut Values) -> Result<bool, Trouble> {
    if values.is_true(VALUE) {
        return Ok(false);
    }
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let nodes = cluster.call(Doing::Admin("list", "nodes"), nodes.list(&ListParams::default())).await?;
    let is_alone = is_alone(&nodes.items);
    if is_alone && values.set(VALUE, Value::Bool(true)).is_err() {
        unreachable!("the chart has this value");
    }
    Ok(is_alone)
}

fn is_alone(nodes: &[Node]) -> bool {
    let is_linux = |node: &&Node| node.labels().get("kubernetes.io/os").is_none_or(|system| system == "linux");
    let mut nodes = nodes.iter().filter(is_linux).peekable();
    nodes.peek().is_some() && nodes.all(|node| node.labels().contains_key(names::CONTROL_PLANE))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_control_plane_is_alone_where_no_other_node_could_take_an_agent() {
        let node = |labels: Value| -> Node { serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap() };
        let control = || node(json!({"kubernetes.io/os": "linux", names::CONTROL_PLANE: ""}));
        let worker = || node(json!({"kubernetes.io/os": "linux"}));
        let windows = || node(json!({"kubernetes.io/os": "windows"}));
        assert!(is_alone(&[control()]) && is_alone(&[control(), control(), windows()]));
        assert!(!is_alone(&[]) && !is_alone(&[control(), worker()]) && !is_alone(&[windows()]));
    }
}
