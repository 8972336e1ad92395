//! Pods in a service mesh: what reaches them is the proxy's, often encrypted, and only what the proxy passes on is the
//! app's.
//!
//! Owns the judgement, pod and port, from what the API server says. A sidecar's pod is intercepted on `lo`, behind the
//! proxy; where redir would see ciphertext, or where its own leg to the app would be taken elsewhere, it is refused.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::facts::containers;
use redir_ipc::FirstHand;

/// The mesh that a pod is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MeshKind {
    /// A proxy runs in the pod, and its netfilter rules give it the pod's connections.
    Sidecar(MeshSidecar),
    /// Istio's ambient mode: the node's proxy has its sockets in the pod, and sends the app's answers to itself by marks.
    Ambient,
}

/// A proxy in the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeshSidecar {
    /// What people call it.
    name: &'static str,
    /// Ports that the proxy itself listens on.
    own: &'static [u16],
    /// Ports whose connections do not go through it.
    past: Vec<PortRange>,
    /// If given, only these go through it.
    through: Option<Vec<PortRange>>,
}

/// Ports from the first to the last.
type PortRange = (u16, u16);

impl MeshKind {
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let annotation = |name: &str| pod.annotations().get(name).map(String::as_str);
        let runs = |name: &str| containers(pod).any(|container| container.name == name);
        if annotation("ambient.istio.io/redirection") == Some("enabled") {
            return Some(Self::Ambient);
        }
        let sidecar = if runs("istio-proxy") || annotation("sidecar.istio.io/status").is_some() {
            MeshSidecar {
                name: "Istio's proxy",
                own: &ISTIO,
                past: ports(annotation("traffic.sidecar.istio.io/excludeInboundPorts")),
                through: annotation("traffic.sidecar.istio.io/includeInboundPorts")
                    .filter(|list| *list != "*")
                    .map(|list| ports(Some(list))),
            }
        } else if runs("linkerd-proxy") {
            let past = ports(annotation("config.linkerd.io/skip-inbound-ports"));
            MeshSidecar { name: "Linkerd's proxy", own: &LINKERD, past, through: None }
        } else {
            return None;
        };
        Some(Self::Sidecar(sidecar))
    }

    /// Who takes the connections of a port first, or why it is refused.
    pub(super) fn judge(&self, port: u16) -> Result<FirstHand, String> {
        let Self::Sidecar(MeshSidecar { name, own, past, through }) = self else {
            return Err("the pod is in Istio's ambient mesh, whose rules would take redir's connections to the app \
                        elsewhere; intercept a pod outside of it, or one with a sidecar"
                .to_owned());
        };
        if own.contains(&port) {
            return Err(format!("port {port} is {name}'s own; intercept a port of the app"));
        }
        let within = |ports: &[PortRange]| ports.iter().any(|(first, last)| (*first..=*last).contains(&port));
        if within(past) || through.as_ref().is_some_and(|through| !within(through)) {
            return Err(format!(
                "connections to port {port} pass {name} by, but its rules would take redir's connections to the app \
                 elsewhere; intercept a port that goes through it"
            ));
        }
        Ok(FirstHand::Proxy)
    }
}

/// A list as in `80,8000-8100`; what is no port is left out.
fn ports(list: Option<&str>) -> Vec<PortRange> {
    let range = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    list.unwrap_or_default().split(',').filter_map(range).collect()
}

/// <https://istio.io/latest/docs/ops/deployment/application-requirements/>
const ISTIO: [u16; 10] = [15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090, 15002];
/// <https://linkerd.io/2/reference/proxy-configuration/>
const LINKERD: [u16; 4] = [4140, 4143, 4190, 4191];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mesh(annotations: &Value, containers: &[&str], sidecars: &[&str]) -> Option<MeshKind> {
        let plain: Vec<Value> = containers.iter().map(|name| json!({"name": name})).collect();
        let always = |name: &&str| json!({"name": name, "restartPolicy": "Always"});
        let sidecars: Vec<Value> = sidecars.iter().map(always).collect();
        let pod = json!({"metadata": {"annotations": annotations}, "spec": {"containers": plain, "initContainers": sidecars}});
        MeshKind::of(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pod_without_a_proxy_is_in_no_mesh() {
        assert_eq!(mesh(&json!({"linkerd.io/inject": "enabled"}), &["app", "istio-init"], &[]), None);
    }

    #[test]
    fn sidecars_are_intercepted_behind_the_proxy() {
        for pod in [
            mesh(&json!({"sidecar.istio.io/status": "{}"}), &["app"], &[]),
            mesh(&json!({}), &["app", "istio-proxy"], &[]),
            mesh(&json!({}), &["app"], &["istio-proxy"]),
            mesh(&json!({}), &["linkerd-proxy", "app"], &[]),
        ] {
            let mesh = pod.expect("a mesh");
            assert_eq!(mesh.judge(8080), Ok(FirstHand::Proxy));
        }
    }

    #[test]
    fn what_would_not_work_is_refused() {
        let ambient = mesh(&json!({"ambient.istio.io/redirection": "enabled"}), &["app"], &[]).expect("a mesh");
        assert!(ambient.judge(8080).is_err_and(|reason| reason.contains("ambient")));
        let own = mesh(&json!({}), &["istio-proxy"], &[]).expect("a mesh");
        assert!(own.judge(15006).is_err_and(|reason| reason.contains("its own") || reason.contains("'s own")));
        let past = json!({"traffic.sidecar.istio.io/excludeInboundPorts": "80, 8000-8100"});
        let past = mesh(&past, &["istio-proxy"], &[]).expect("a mesh");
        assert!(past.judge(8080).is_err() && past.judge(80).is_err() && past.judge(81).is_ok());
        let only = json!({"traffic.sidecar.istio.io/includeInboundPorts": "8080"});
        let only = mesh(&only, &["istio-proxy"], &[]).expect("a mesh");
        assert!(only.judge(8080).is_ok() && only.judge(80).is_err());
        let skipped = mesh(&json!({"config.linkerd.io/skip-inbound-ports": "25"}), &["linkerd-proxy"], &[]);
        assert!(skipped.expect("a mesh").judge(25).is_err());
    }
}
