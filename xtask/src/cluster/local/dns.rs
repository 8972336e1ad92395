//! CoreDNS in the local cluster: a Deployment behind the Service `kube-dns`, as everywhere. It knows the cluster's names and no
//! others, since nothing of the cluster reaches out.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Local;
use super::addons::Addon;
use super::plan::{ClusterMachine, DNS_DOMAIN, DNS_SERVICE, STATE};
use super::ready::has_condition;
use crate::cluster::image;
use crate::ui;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "coredns";
const SERVICE: &str = "kube-dns";

impl Local {
    /// Brings it to the cluster, or does nothing if it is there already, and waits until it answers.
    pub(super) fn start_dns(&self) -> Result<()> {
        let line = ui::ProgressLine::start("DNS");
        let started = self.dns();
        line.end(if started.is_ok() { "ready" } else { "failed" });
        started
    }

    /// What DNS still lacks; `None` if it works, or nobody asked for it.
    pub(super) fn dns_lacks(&self) -> Option<String> {
        if !self.shape.network.dns {
            return None;
        }
        // The Service is made last of all.
        let namespace = format!("--namespace={NAMESPACE}");
        match self.kubectl.get(&[&namespace, &format!("deployment/{NAME}"), &format!("service/{SERVICE}")]) {
            Err(_) => Some("is not there yet".into()),
            Ok(found) => {
                let available = has_condition(&found["items"][0]["status"]["conditions"], "Available");
                (!available).then(|| "does not answer yet".into())
            }
        }
    }

    fn dns(&self) -> Result<()> {
        let reference = format!("redir.local/coredns:{}", Addon::CoreDns.version());
        let archive = Path::new(STATE).join("coredns.tar");
        if !archive.exists() {
            // Under its own name once every node has it.
            let new = archive.with_extension("new");
            image::write(&reference, &Addon::CoreDns.file("coredns")?, &new)?;
            ClusterMachine::nodes(self.shape.nodes).try_for_each(|node| self.import(node, &new).map(drop))?;
            fs::rename(&new, &archive).with_context(|| format!("cannot rename {}", new.display()))?;
        }
        for object in objects(&reference) {
            self.kubectl.output_with(&["apply", "--filename=-"], &object)?;
        }
        let mut wait = self.kubectl.command();
        wait.args(["--namespace", NAMESPACE, "rollout", "status", "deployment/coredns", "--timeout=180s"]);
        redir_rig::namespace::checked(&mut wait, None).context("CoreDNS does not become ready").map(drop)
    }
}

fn objects(image: &str) -> [Value; 6] {
    let group = "rbac.authorization.k8s.io";
    let metadata = json!({ "name": NAME, "namespace": NAMESPACE });
    let labels = json!({ "k8s-app": "kube-dns" });
    let ports = [("dns", "UDP"), ("dns-tcp", "TCP")];
    [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": { "name": NAME },
            "rules": [
                { "apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"] },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
            ],
        }),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": { "name": NAME },
            "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": NAME },
            "subjects": [{ "kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE }],
        }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "Corefile": corefile() } }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "replicas": 2, "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "serviceAccountName": NAME, "dnsPolicy": "Default", "priorityClassName": "system-cluster-critical",
                        "containers": [{
                            "name": NAME, "image": image, "imagePullPolicy": "Never",
                            "args": ["-conf", "/etc/coredns/Corefile"],
                            "ports": ports.map(|(name, protocol)| json!({ "name": name, "containerPort": 53, "protocol": protocol })),
                            "readinessProbe": { "httpGet": { "path": "/ready", "port": 8181 }, "periodSeconds": 1 },
                            "volumeMounts": [{ "name": "config", "mountPath": "/etc/coredns" }],
                        }],
                        "volumes": [{ "name": "config", "configMap": { "name": NAME } }],
                    },
                },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": SERVICE, "namespace": NAMESPACE },
            "spec": {
                "selector": labels, "clusterIP": DNS_SERVICE,
                "ports": ports.map(|(name, protocol)| json!({ "name": name, "port": 53, "protocol": protocol })),
            },
        }),
    ]
}

fn corefile() -> String {
    format!(
        ".:53 {{\n    errors\n    health\n    ready\n    kubernetes {DNS_DOMAIN} in-addr.arpa ip6.arpa\n    cache 30\n    \
         loadbalance\n}}\n"
    )
}
