//! The files that the local cluster's components read: configuration, kubeconfigs, and a node's own `/var`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::pki::ClusterPki;
use super::plan::{
    ADDON_USER, CONTAINERD_SOCKET, ClusterMachine, DNS_DOMAIN, DNS_SERVICE, FILES_IN_NODE, NAME, POD_NETWORKS, api_url,
    audit_policy, node_script,
};
use crate::cluster::{Network, Shape};

/// What the components read.
pub(super) struct NodeFiles<'a> {
    pub(super) pki: &'a ClusterPki,
    /// containerd's way of stacking an image's layers.
    pub(super) snapshotter: &'a str,
    /// The image that holds a pod's namespaces.
    pub(super) pause: &'a str,
}

impl NodeFiles<'_> {
    pub(super) fn write(&self, shape: Shape) -> Result<()> {
        make_folder(&ClusterMachine::Control.folder())?;
        for name in ["kube-controller-manager", "kube-scheduler"] {
            self.pki.kubeconfig(name, &api_url(), &ClusterMachine::Control.kubeconfig(name))?;
        }
        write(&audit_policy(), &unaudited().to_string())?;
        write(&node_script(), include_str!("node.sh"))?;
        ClusterMachine::nodes(shape.nodes).zip(1..).try_for_each(|(node, number)| self.write_node(node, number, shape))
    }

    fn write_node(&self, node: ClusterMachine, number: u8, shape: Shape) -> Result<()> {
        let var = node.var();
        for folder in [
            "lib/cni",
            "lib/containerd",
            "lib/kubelet",
            "lib/redir/net.d",
            "log",
            "opt/addons",
            "opt/kubernetes",
            "tmp",
        ] {
            make_folder(&var.join(folder))?;
        }
        symlink("/run", var.join("run")).with_context(|| format!("cannot link /var/run of {node}"))?;
        let own = var.join("lib/redir");
        for (from, to) in [
            ("ca.crt".into(), "ca.crt"),
            (format!("{node}.crt"), "kubelet.crt"),
            (format!("{node}.key"), "kubelet.key"),
        ] {
            fs::copy(self.pki.file(&from), own.join(to)).with_context(|| format!("cannot copy {from} to {node}"))?;
        }
        self.pki.kubeconfig(&node.to_string(), &api_url(), &own.join("kubelet.kubeconfig"))?;
        self.pki.kubeconfig("kube-proxy", &api_url(), &own.join("kube-proxy.kubeconfig"))?;
        self.pki.kubeconfig(ADDON_USER, &api_url(), &own.join("addons.kubeconfig"))?;
        write(&own.join("kubelet.json"), &kubelet(node, shape).to_string())?;
        write(&own.join("resolv.conf"), "")?;
        write(&own.join("net.d/redir.conflist"), &pod_network(number, shape.network).to_string())?;
        if shape.network.is_flannel() {
            write(&own.join("flannel.json"), &flannel().to_string())?;
        }
        write(&own.join("containerd.toml"), &self.containerd())
    }

    fn containerd(&self) -> String {
        let (snapshotter, pause) = (self.snapshotter, self.pause);
        let snapshotters =
            ["btrfs", "devmapper", "zfs", "erofs", "blockfile"].map(|name| format!("snapshotter.v1.{name}"));
        let others = ["nri.v1.nri", "tracing.processor.v1.otlp"].map(str::to_owned);
        let unused = [&snapshotters[..], &others].concat();
        let unused: Vec<String> = unused.iter().map(|plugin| format!("io.containerd.{plugin}")).collect();
        format!(
            r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = {unused:?}

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "{snapshotter}"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
# Where CAP_SYS_RESOURCE is missing, no process may be made less likely to be killed than its parent.
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/var/opt/kubernetes/cni"]
conf_dir = "{FILES_IN_NODE}/net.d"

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
        )
    }
}

fn kubelet(node: ClusterMachine, shape: Shape) -> Value {
    let file = |name: &str| format!("{}/{name}", FILES_IN_NODE);
    let mut configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": file("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": file("kubelet.crt"),
        "tlsPrivateKeyFile": file("kubelet.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{NAME}/{node}"),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "failSwapOn": false,
        "resolvConf": file("resolv.conf"),
        "oomScoreAdj": 0,
        // Its own place for it is the machine's /usr.
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // The disk is the developer's own, and how full it is no reason to evict anything or to drop loaded images.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": { "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%" },
    });
    // A machine with cgroups of version 1, which this one may be, is refused since 1.35 unless this is said, and it can be
    // said since 1.31.
    if shape.version.minor >= 31 {
        configuration["failCgroupV1"] = false.into();
    }
    if shape.network.dns {
        configuration["clusterDNS"] = json!([DNS_SERVICE]);
        configuration["clusterDomain"] = DNS_DOMAIN.into();
    }
    configuration
}

fn pod_network(number: u8, network: Network) -> Value {
    let mut bridge = json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "hairpinMode": true,
        // Pods are routed; nobody may see another address than theirs.
        "ipMasq": false,
        "ipam": {
            "type": "host-local",
            "ranges": ClusterMachine::pods(number).map(|network| [json!({ "subnet": network.to_string() })]),
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            "dataDir": "/var/lib/cni",
        },
    });
    // Flannel's own plugin, which the module proxy has not, would write the same from what flanneld has found out.
    if network.is_flannel() {
        bridge["mtu"] = FLANNEL_MTU.into();
    }
    json!({
        "cniVersion": "1.0.0",
        "name": "redir",
        "plugins": [bridge, { "type": "portmap", "capabilities": { "portMappings": true } }],
    })
}

/// VXLAN in IPv6 takes 70 bytes of 1500.
const FLANNEL_MTU: u32 = 1430;

fn flannel() -> Value {
    let [v4, v6] = POD_NETWORKS;
    json!({ "Network": v4.to_string(), "EnableIPv6": true, "IPv6Network": v6.to_string(), "Backend": { "Type": "vxlan" } })
}

/// Who did what, without bodies. The cluster's own components talk without end and are left out.
fn unaudited() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "None", "userGroups": ["system:nodes"] },
            { "level": "None", "users": ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy", ADDON_USER] },
            { "level": "None", "userGroups": ["system:serviceaccounts:kube-system"] },
            { "level": "Metadata" },
        ],
    })
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
