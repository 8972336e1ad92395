//! What a starting local cluster is still waiting for. Each look asks the cluster itself, never a clock, and names the first
//! component that is not there yet.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use redir_rig::Http;
use serde_json::Value;

use super::Local;
use super::components::{Component, Kind};
use super::plan::{Machine, PROXY_HEALTH_PORT};

/// The first thing that is not as it should be.
pub(super) struct Wanting {
    pub(super) component: Component,
    pub(super) what: String,
}

fn wanting(machine: Machine, kind: Kind, what: impl Into<String>) -> Wanting {
    Wanting { component: Component { machine, kind }, what: what.into() }
}

impl Local {
    /// Its own readiness has etcd's in it.
    pub(super) fn api_server_wants(&self) -> Option<Wanting> {
        let etcd = Component { machine: Machine::Control, kind: Kind::Etcd };
        if !self.runs(etcd) {
            return Some(wanting(etcd.machine, etcd.kind, "not running"));
        }
        self.kubectl.raw("/readyz").err().map(|_| wanting(Machine::Control, Kind::ApiServer, "does not answer yet"))
    }

    /// The API server asks the others of the control plane for their health.
    pub(super) fn controllers_want(&self) -> Option<Wanting> {
        let control = |kind, what: &str| Some(wanting(Machine::Control, kind, what));
        let statuses = self.kubectl.get(&["componentstatuses"]).unwrap_or_default();
        let healthy = |name: &str| {
            let status = items(&statuses).find(|status| status["metadata"]["name"] == name);
            status.is_some_and(|status| has_condition(&status["conditions"], "Healthy"))
        };
        if !healthy("controller-manager") {
            return control(Kind::ControllerManager, "not healthy yet");
        }
        if !healthy("scheduler") {
            return control(Kind::Scheduler, "not healthy yet");
        }
        // No pod can be made before.
        let account = self.kubectl.get(&["serviceaccounts", "default", "--namespace=default"]);
        account.is_err().then(|| wanting(Machine::Control, Kind::ControllerManager, "no service account yet"))
    }

    /// Ready, open to pods, and its proxy at work.
    pub(super) fn nodes_want(&self) -> Option<Wanting> {
        let nodes = self.kubectl.get(&["nodes"]).unwrap_or_default();
        Machine::nodes(self.nodes).find_map(|machine| {
            if !self.runs(Component { machine, kind: Kind::Containerd }) {
                return Some(wanting(machine, Kind::Containerd, "not running"));
            }
            let Some(node) = items(&nodes).find(|node| node["metadata"]["name"] == machine.to_string()) else {
                return Some(wanting(machine, Kind::Kubelet, "has not registered yet"));
            };
            let conditions = &node["status"]["conditions"];
            if !has_condition(conditions, "Ready") {
                return Some(wanting(machine, Kind::Kubelet, reason(conditions)));
            }
            // The controllers take the mark of a new node away a moment later.
            if node["spec"]["taints"].is_array() {
                return Some(wanting(machine, Kind::Kubelet, "takes no pods yet"));
            }
            // A node stays Ready for a while without its kubelet; and this is the way of logs, exec and port-forward.
            if self.kubectl.raw(&format!("/api/v1/nodes/{machine}/proxy/healthz")).is_err() {
                return Some(wanting(machine, Kind::Kubelet, "cannot be reached by the API server yet"));
            }
            let proxy = proxy_is_healthy((machine.address(), PROXY_HEALTH_PORT).into());
            (!proxy).then(|| wanting(machine, Kind::Proxy, "not healthy yet"))
        })
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn has_condition(conditions: &Value, kind: &str) -> bool {
    let mut conditions = conditions.as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn reason(conditions: &Value) -> String {
    let mut conditions = conditions.as_array().into_iter().flatten();
    let ready = conditions.find(|condition| condition["type"] == "Ready");
    let message = ready.and_then(|condition| condition["message"].as_str());
    format!("not Ready yet{}", message.map(|text| format!(" ({text})")).unwrap_or_default())
}

fn proxy_is_healthy(address: SocketAddr) -> bool {
    const LIMIT: Duration = Duration::from_secs(2);
    let Ok(stream) = TcpStream::connect_timeout(&address, LIMIT) else { return false };
    let limited = stream.set_read_timeout(Some(LIMIT)).is_ok();
    limited && Http::new(stream).get("/healthz", &[]).is_ok_and(|response| response.status == 200)
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
        assert_eq!(reason(&conditions), "not Ready yet (cni plugin not initialized)");
        assert_eq!(reason(&Value::Null), "not Ready yet");
    }
}
