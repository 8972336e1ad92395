//! What `redir doctor` makes of what it sees.
//!
//! Owns: when something is wrong. Must not ask anything. Called by: `commands::doctor`.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use k8s_openapi::api::core::v1::{Node, Pod, ResourceQuota};
use redir_api::limits::MOST_OF_NAMESPACE;
use redir_api::{Intercept, names, node as api};
use serde_json::Value;

use super::quantity;
use crate::model::access::{AccessRight, InterceptableTargets};
use crate::model::agents::{AgentPod, AgentRollout};
use crate::model::check;
use crate::model::check::Check;
use crate::model::values::{AgentAddress, Target};
use crate::wording::{doctor as say, rights as say_right};

/// What of a target's rights is missing.
pub(crate) fn rights(target: &Target, namespace: &str, missing: Vec<AccessRight>, user: Option<&str>) -> Check {
    match missing.is_empty() {
        true => Check::good(say::RIGHTS, say_right::may(target, namespace)),
        false => Check::problem(say::RIGHTS, say_right::missing(target, namespace, &missing, user)).about(missing),
    }
}

/// The same of those on Intercepts alone.
pub(crate) fn own_rights(namespace: &str, missing: Vec<AccessRight>, user: Option<&str>) -> Check {
    match missing.is_empty() {
        true => Check::good(say::RIGHTS, say::own_rights(namespace)),
        false => {
            Check::problem(say::RIGHTS, say_right::missing_on_intercepts(namespace, &missing, user)).about(missing)
        }
    }
}

/// `--flush` beside conditions is a right that few have: without it nothing is wrong.
pub(crate) fn flush(target: &Target, namespace: &str, missing: Vec<AccessRight>, user: Option<&str>) -> Check {
    match missing.is_empty() {
        true => Check::good(say::FLUSH, say_right::may_flush(target)),
        false => Check::note(say::FLUSH, say_right::missing(target, namespace, &missing, user)).about(missing),
    }
}

/// What may be intercepted in the namespace, as far as the server tells.
pub(crate) fn interceptable(namespace: &str, found: &InterceptableTargets, user: Option<&str>) -> Check {
    match (say_right::interceptable(namespace, found), found.is_incomplete) {
        (Some(sentence), _) => Check::good(say::TARGETS, sentence),
        (None, true) => Check::note(say::TARGETS, say_right::unknown(namespace)),
        (None, false) => Check::problem(say::TARGETS, say_right::nothing(namespace, user)),
    }
}

/// The smallest quota on Intercepts is the one that counts. Without one nothing is wrong, but any developer may make many, of which
/// each agent takes only so many of a namespace.
pub(crate) fn quota(namespace: &str, quotas: &[ResourceQuota], there: usize) -> Check {
    if there > MOST_OF_NAMESPACE {
        return Check::problem(say::QUOTA, say::too_many_intercepts(namespace, there));
    }
    let limits = quotas.iter().filter_map(|quota| {
        let most = &quota.spec.as_ref()?.hard.as_ref()?.get(check::COUNT)?.0;
        Some((quota.metadata.name.as_deref().unwrap_or_default(), most.as_str(), quantity::whole(most)?))
    });
    match limits.min_by_key(|(_, _, count)| *count) {
        Some((name, most, count)) => {
            let beyond = count > MOST_OF_NAMESPACE as u64;
            Check::good(say::QUOTA, say::quota(namespace, (name, most), there, beyond))
        }
        None => Check::note(say::QUOTA, say::no_quota(namespace, there)),
    }
}

pub(crate) fn policies(missing: &[String]) -> Check {
    match missing.is_empty() {
        true => Check::good(say::POLICIES, say::policies()),
        false => Check::problem(say::POLICIES, say::policies_missing(missing)),
    }
}

pub(crate) fn agents(rollout: AgentRollout, pods: &[AgentPod]) -> Check {
    let not_ready: Vec<String> =
        pods.iter().filter_map(|pod| Some(format!("{}: {}", pod.node, pod.problem.as_ref()?))).collect();
    match rollout.is_done() && not_ready.is_empty() {
        true => Check::good(say::AGENTS, say::agents(rollout.ready)),
        false => Check::problem(say::AGENTS, say::agents_not_ready(rollout.ready, rollout.wanted, &not_ready)),
    }
}

/// Whether the installed agents are this release's, and have the capabilities that it needs.
pub(crate) fn daemon_set(ours: &Value, theirs: &Value) -> Vec<Check> {
    let container = |set: &Value| set["spec"]["template"]["spec"]["containers"][0].clone();
    let (ours, theirs) = (container(ours), container(theirs));
    let tag = |container: &Value| {
        let image = container["image"].as_str().unwrap_or_default().to_owned();
        image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map(|(_, tag)| tag.to_owned())
    };
    let version = match (tag(&ours), tag(&theirs)) {
        (Some(ours), Some(theirs)) if ours != theirs => Check::note(say::VERSION, say::other_release(&theirs)),
        _ => Check::good(say::VERSION, say::release(theirs["image"].as_str().unwrap_or_default())),
    };
    let capabilities = |container: &Value| -> Vec<String> {
        let added = container["securityContext"]["capabilities"]["add"].as_array().cloned().unwrap_or_default();
        added.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let has = capabilities(&theirs);
    let is_privileged = theirs["securityContext"]["privileged"] == true;
    let missing: Vec<String> =
        capabilities(&ours).into_iter().filter(|name| !has.contains(name) && !is_privileged).collect();
    let capabilities = match missing.is_empty() {
        true => Check::good(say::CAPABILITIES, say::capabilities()),
        false => Check::problem(say::CAPABILITIES, say::capabilities_missing(&missing)),
    };
    vec![version, capabilities]
}

/// Which kernels the nodes have. Whether one will do is not told by its number: its agent tries that at its start, and is not
/// ready where it does not.
pub(crate) fn kernels(nodes: &[Node]) -> Check {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for node in nodes {
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        let Some(info) = info.filter(|info| info.operating_system == "linux") else { continue };
        *seen.entry(info.kernel_version.clone()).or_default() += 1;
    }
    Check::good(say::KERNEL, say::kernels(&seen))
}

/// Where a node's agent is dialled: as it tells developers itself, of both families.
pub(crate) fn endpoints(node: &Node) -> (String, Vec<AgentAddress>) {
    let name = node.metadata.name.clone().unwrap_or_default();
    let told = api::endpoints(Some(node), (Ipv6Addr::UNSPECIFIED, names::PORT).into(), None);
    (name, told.iter().filter_map(|endpoint| endpoint.address.parse().ok()).collect())
}

/// What agents wrote into Intercepts, node by node.
pub(crate) fn named_endpoints(intercepts: &[Intercept]) -> Vec<(String, Vec<AgentAddress>)> {
    let mut nodes: BTreeMap<String, Vec<AgentAddress>> = BTreeMap::new();
    for agent in intercepts.iter().flat_map(super::progress::agents) {
        nodes.insert(agent.name, agent.addresses);
    }
    nodes.into_iter().collect()
}

/// Nodes, how they were dialled, and whether they answered.
pub(crate) fn reach(answered: &[(String, Vec<AgentAddress>, bool)]) -> Check {
    let shown = |addresses: &[AgentAddress]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let silent: Vec<String> = answered
        .iter()
        .filter(|(.., reached)| !reached)
        .map(|(node, addresses, _)| format!("{node} ({})", shown(addresses)))
        .collect();
    match silent.is_empty() {
        true => Check::good(say::REACH, say::reached(answered.len())),
        false => Check::problem(say::REACH, say::silent(&silent, answered.len())),
    }
}

/// Names that networks give their DaemonSets.
const NETWORKS: [(&str, &str); 9] = [
    ("cilium", "Cilium"),
    ("calico-node", "Calico"),
    ("kube-flannel", "Flannel"),
    ("aws-node", "the Amazon VPC CNI"),
    ("azure-cni", "the Azure CNI"),
    ("antrea-agent", "Antrea"),
    ("weave-net", "Weave Net"),
    ("kindnet", "kindnet"),
    ("ovnkube-node", "OVN-Kubernetes"),
];

pub(crate) fn network<'a>(sets: impl Iterator<Item = &'a str>) -> Check {
    let mut found: Vec<&str> = Vec::new();
    for set in sets {
        found.extend(NETWORKS.iter().filter(|(prefix, _)| set.starts_with(prefix)).map(|(_, network)| *network));
    }
    found.dedup();
    Check::good(say::CNI, say::network(&found))
}

/// Containers that a mesh puts into a pod.
const PROXIES: [(&str, &str); 3] =
    [("istio-proxy", "Istio"), ("linkerd-proxy", "Linkerd"), ("consul-dataplane", "Consul")];

/// What of a namespace's pods is out of the ordinary.
pub(crate) fn pods(namespace: &str, pods: &[Pod]) -> Vec<Check> {
    let mut unsupported = Vec::new();
    let mut meshes: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods {
        let (Some(name), Some(spec)) = (&pod.metadata.name, &pod.spec) else { continue };
        if spec.host_network == Some(true) {
            unsupported.push(format!("{name} ({})", say::host_network()));
        }
        if let Some(class) =
            spec.runtime_class_name.as_ref().filter(|class| class.contains("gvisor") || class.contains("kata"))
        {
            unsupported.push(format!("{name} ({class})"));
        }
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let proxy = containers.filter_map(|container| PROXIES.iter().find(|(name, _)| container.name == *name)).next();
        if let Some((_, mesh)) = proxy {
            *meshes.entry(mesh).or_default() += 1;
        }
    }
    let unsupported = match unsupported.is_empty() {
        true => Check::good(say::PODS, say::pods(namespace, pods.len())),
        false => Check::note(say::PODS, say::pods_unsupported(namespace, &unsupported)),
    };
    let mesh = match meshes.is_empty() {
        true => Check::good(say::MESH, say::no_mesh(namespace)),
        false => Check::note(say::MESH, say::mesh(namespace, &meshes)),
    };
    vec![unsupported, mesh]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::check::{COUNT, Finding};

    fn node(name: &str, kernel: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {names::ENDPOINT: "vpn.example.com:17447"}},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": name},
                    {"type": "ExternalIP", "address": "2001:db8::1"},
                ],
                "nodeInfo": {
                    "kernelVersion": kernel, "operatingSystem": "linux", "architecture": "amd64", "bootID": "", "machineID": "",
                    "containerRuntimeVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "osImage": "", "systemUUID": "",
                },
            },
        }))
        .unwrap()
    }

    #[test]
    fn kernels_are_named_and_not_judged_by_their_numbers() {
        let seen = kernels(&[node("a", "4.18.0-553.el8"), node("b", "6.6.1"), node("c", "6.6.1")]);
        assert_eq!(seen.finding, Finding::Good);
        for part in ["Linux 4.18.0-553.el8 on 1", "Linux 6.6.1 on 2", "tries"] {
            assert!(seen.sentence.contains(part), "{seen:?}");
        }
    }

    #[test]
    fn a_node_is_dialled_as_its_agent_says() {
        let (name, addresses) = endpoints(&node("a", "6.6.1"));
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(name, "a");
        assert_eq!(addresses, ["vpn.example.com:17447", "[2001:db8::1]:7447", "10.0.0.1:7447"]);
    }

    #[test]
    fn another_release_and_fewer_capabilities_are_seen() {
        let set = |image: &str, capabilities: &[&str]| {
            let container = json!({"image": image, "securityContext": {"capabilities": {"add": capabilities}}});
            json!({"spec": {"template": {"spec": {"containers": [container]}}}})
        };
        let ours = set("r:5000/a:0.2.0", &["BPF", "NET_ADMIN"]);
        let findings =
            |theirs: &Value| daemon_set(&ours, theirs).into_iter().map(|check| check.finding).collect::<Vec<_>>();
        assert_eq!(findings(&ours), [Finding::Good, Finding::Good]);
        assert_eq!(findings(&set("r:5000/a:0.1.0", &["BPF"])), [Finding::Note, Finding::Problem]);
        assert_eq!(findings(&set("r:5000/a", &["NET_ADMIN", "BPF"])), [Finding::Good, Finding::Good]);
    }

    #[test]
    fn odd_pods_are_named() {
        let pod = |name: &str, spec: Value| -> Pod {
            let mut spec = spec;
            spec["containers"] =
                json!([{"name": "app"}, {"name": if name == "meshed" { "istio-proxy" } else { "other" }}]);
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
        };
        let seen = [
            pod("plain", json!({})),
            pod("meshed", json!({})),
            pod("host", json!({"hostNetwork": true})),
            pod("sandboxed", json!({"runtimeClassName": "gvisor"})),
        ];
        let checks = pods("shop", &seen);
        assert!(
            checks[0].sentence.contains("host (") && checks[0].sentence.contains("sandboxed (gvisor)"),
            "{checks:?}"
        );
        assert!(checks[1].sentence.contains("Istio") && checks[1].finding == Finding::Note);
        assert!(pods("shop", &seen[..1]).iter().all(|check| check.finding == Finding::Good));
    }

    #[test]
    fn the_smallest_quota_counts_and_none_is_a_note() {
        let quota = |name: &str, hard: Value| -> ResourceQuota {
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"hard": hard}})).unwrap()
        };
        let pods = quota("pods", json!({"pods": "3"}));
        let none = super::quota("shop", std::slice::from_ref(&pods), 7);
        assert_eq!(none.finding, Finding::Note);
        assert!(none.sentence.contains("create quota redir-intercepts --hard=count/intercepts.redir.dev="), "{none:?}");
        let both = [quota("many", json!({COUNT: "100"})), pods, quota("few", json!({COUNT: "20", "pods": "1"}))];
        let found = super::quota("shop", &both, 7);
        assert_eq!(found.finding, Finding::Good);
        let in_thousands = [quota("many", json!({COUNT: "1k"})), quota("few", json!({COUNT: "200"}))];
        let small = super::quota("shop", &in_thousands, 7);
        assert!(small.sentence.contains("quota few") && small.sentence.contains("128 oldest"), "{small:?}");
        let many = super::quota("shop", &in_thousands[..1], 129);
        assert!(many.finding == Finding::Problem && many.sentence.contains("128 oldest"), "{many:?}");
        assert!(found.sentence.contains("quota few lets namespace shop have 20 intercepts, and it has 7"), "{found:?}");
    }

    #[test]
    fn silence_is_a_problem() {
        let address = || vec!["10.0.0.1:7447".parse().unwrap()];
        assert_eq!(reach(&[("a".into(), address(), true)]).finding, Finding::Good);
        let silent = reach(&[("a".into(), address(), true), ("b".into(), address(), false)]);
        assert!(silent.finding == Finding::Problem && silent.sentence.contains("b (10.0.0.1:7447)"), "{silent:?}");
        assert!(network(["cilium", "x"].into_iter()).sentence.contains("Cilium"));
    }
}
