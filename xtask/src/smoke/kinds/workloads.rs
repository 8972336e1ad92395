//! The workloads of the scenes in `kinds`: one namespace with PodSecurity `restricted`, and in it everything that pods can
//! be besides a Deployment's.
//!
//! Owns: their description, and starting them. Must not wait for them: they become ready beside the scenes before.

use anyhow::Result;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::smoke::world::{APP_IMAGE, PORT, may_intercept, spread};

pub(super) const NAMESPACE: &str = "strict";
/// The native sidecar's port.
pub(super) const SIDECAR_PORT: u16 = 8081;

/// A Deployment's pods in user namespaces of their own; a StatefulSet's with a native sidecar; a Job's.
pub(super) const ISOLATED: &str = "isolated";
pub(super) const DATABASE: &str = "db";
pub(super) const BATCH: &str = "batch";

/// Makes all of it. A warning of the server is an error: `restricted` has nothing to say about these pods.
pub(in crate::smoke) fn start(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let apply = |object: &Value| kubectl.output_with(&["apply", "--warnings-as-errors", "-f", "-"], object).map(drop);
    apply(&namespace())?;
    apply(&may_intercept("alice", NAMESPACE))?;
    // A cluster that was kept has the Job of an earlier run, which is complete.
    kubectl.output(&["-n", NAMESPACE, "delete", "job", BATCH, "--ignore-not-found"])?;
    [deployment(), stateful_set(), job()].iter().try_for_each(apply)
}

fn namespace() -> Value {
    let labels: serde_json::Map<String, Value> = ["enforce", "warn", "audit"]
        .map(|mode| (format!("pod-security.kubernetes.io/{mode}"), json!("restricted")))
        .into_iter()
        .collect();
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
}

fn deployment() -> Value {
    let spec = json!({"hostUsers": false, "affinity": spread(ISOLATED), "containers": [container("web", "http", "green", PORT)]});
    let mut object = workload("apps/v1", "Deployment", ISOLATED, &spec);
    object["spec"]["replicas"] = json!(2);
    object
}

fn stateful_set() -> Value {
    let mut sidecar = container("side", "side", "side", SIDECAR_PORT);
    sidecar["restartPolicy"] = json!("Always");
    let web = container("web", "http", "green", PORT);
    let spec = json!({"affinity": spread(DATABASE), "initContainers": [sidecar], "containers": [web]});
    let mut object = workload("apps/v1", "StatefulSet", DATABASE, &spec);
    object["spec"]["replicas"] = json!(2);
    object["spec"]["serviceName"] = json!(DATABASE);
    object["spec"]["podManagementPolicy"] = json!("Parallel");
    object
}

/// Its app ends when it is asked for `/end`.
fn job() -> Value {
    let spec = json!({"restartPolicy": "Never", "containers": [container("web", "http", "green", PORT)]});
    let mut object = workload("batch/v1", "Job", BATCH, &spec);
    object["spec"]["backoffLimit"] = json!(0);
    // A Job selects its pods by itself.
    object["spec"].as_object_mut().expect("an object").remove("selector");
    object
}

/// A workload whose pods have its name as their label `app`, and this spec besides what `restricted` wants.
fn workload(api_version: &str, kind: &str, name: &str, spec: &Value) -> Value {
    let labels = json!({"app": name});
    let mut spec = spec.clone();
    spec["terminationGracePeriodSeconds"] = json!(1);
    spec["securityContext"] =
        json!({"runAsNonRoot": true, "runAsUser": 10_001, "seccompProfile": {"type": "RuntimeDefault"}});
    json!({
        "apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    })
}

/// The app under a name that its answers begin with.
fn container(name: &str, port_name: &str, says: &str, port: u16) -> Value {
    json!({
        "name": name, "image": APP_IMAGE, "imagePullPolicy": "Never", "args": [says, port.to_string()],
        "ports": [{"name": port_name, "containerPort": port}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    })
}
