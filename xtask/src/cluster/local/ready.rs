//! Whether a component of the local cluster works. Each look asks the cluster itself, never a clock.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use redir_rig::Http;
use serde_json::Value;

use super::Local;
use super::components::{Component, ComponentKind};
use super::plan::{ClusterMachine, FLANNEL_HEALTH_PORT, KUBE_ROUTER_HEALTH_PORT, PROXY_HEALTH_PORT};

impl Local {
    /// What a component still lacks; `None` if it works.
    pub(super) fn lacks(&self, component: Component) -> Option<String> {
        if !self.runs(component) {
            return Some("it is not running".into());
        }
        match component.kind {
            // Told by those who need them: the API server's readiness has etcd's in it, the kubelet's containerd's.
            ComponentKind::Etcd | ComponentKind::Node | ComponentKind::Containerd => None,
            ComponentKind::ApiServer => self.kubectl.raw("/readyz").err().map(|_| "does not answer yet".into()),
            ComponentKind::ControllerManager => self.controller_manager_lacks(),
            ComponentKind::Scheduler => self.unhealthy("scheduler"),
            ComponentKind::Kubelet => self.kubelet_lacks(component.machine),
            ComponentKind::Proxy => unhealthy_at(component.machine, PROXY_HEALTH_PORT, "/healthz"),
            ComponentKind::KubeRouter => unhealthy_at(component.machine, KUBE_ROUTER_HEALTH_PORT, "/healthz"),
            ComponentKind::Flannel => unhealthy_at(component.machine, FLANNEL_HEALTH_PORT, "/readyz"),
        }
    }

    fn controller_manager_lacks(&self) -> Option<String> {
        // Without this account no pod can be made.
        let account = || self.kubectl.get(&["serviceaccounts", "default", "--namespace=default"]);
        self.unhealthy("controller-manager")
            .or_else(|| account().err().map(|_| "has not made the service accounts yet".into()))
    }

    /// The API server asks the others of the control plane for their health.
    fn unhealthy(&self, name: &str) -> Option<String> {
        let statuses = self.kubectl.get(&["componentstatuses"]).unwrap_or_default();
        let status = items(&statuses).find(|status| status["metadata"]["name"] == name);
        let healthy = status.is_some_and(|status| has_condition(&status["conditions"], "Healthy"));
        (!healthy).then(|| "is not healthy yet".into())
    }

    fn kubelet_lacks(&self, machine: ClusterMachine) -> Option<String> {
        let node = self.kubectl.get(&["nodes", &machine.to_string()]).unwrap_or_default();
        let conditions = &node["status"]["conditions"];
        if !has_condition(conditions, "Ready") {
            return Some(reason(conditions));
        }
        // The controllers take the mark of a new node away a moment later.
        if node["spec"]["taints"].is_array() {
            return Some("takes no pods yet".into());
        }
        // A node stays Ready for a while without its kubelet; and this is the way of logs, exec and port-forward.
        let healthz = self.kubectl.raw(&format!("/api/v1/nodes/{machine}/proxy/healthz"));
        healthz.err().map(|_| "cannot be reached by the API server yet".into())
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

pub(super) fn has_condition(conditions: &Value, kind: &str) -> bool {
    let mut conditions = conditions.as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn reason(conditions: &Value) -> String {
    let mut conditions = conditions.as_array().into_iter().flatten();
    let ready = conditions.find(|condition| condition["type"] == "Ready");
    let message = ready.and_then(|condition| condition["message"].as_str());
    format!("is not Ready yet{}", message.map(|text| format!(" ({text})")).unwrap_or_default())
}

fn unhealthy_at(machine: ClusterMachine, port: u16, path: &str) -> Option<String> {
    let healthy = answers((machine.address(), port).into(), path);
    (!healthy).then(|| "is not healthy yet".into())
}

fn answers(address: SocketAddr, path: &str) -> bool {
    const LIMIT: Duration = Duration::from_secs(2);
    let Ok(stream) = TcpStream::connect_timeout(&address, LIMIT) else { return false };
    let limited = stream.set_read_timeout(Some(LIMIT)).is_ok();
    limited && Http::new(stream).get(path, &[]).is_ok_and(|response| response.status == 200)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_that_is_not_ready_says_why() {
        let conditions = json!([
            { "type": "MemoryPressure", "status": "False", "message": "kubelet has sufficient memory" },
            { "type": "Ready", "status": "False", "message": "cni plugin not initialized" },
        ]);
        assert!(!has_condition(&conditions, "Ready"));
        assert_eq!(reason(&conditions), "is not Ready yet (cni plugin not initialized)");
        assert_eq!(reason(&Value::Null), "is not Ready yet");
    }
}
