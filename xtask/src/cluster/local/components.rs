//! What runs on each machine of the local cluster, and with which arguments and files. Everything in here is a description:
//! `start` and `end` are in the module above.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::pki::Pki;
use super::plan::{API_PORT, Machine, NAME, POD_NETWORK, PROXY_HEALTH_PORT, SERVICE_NETWORK, STATE};

/// A process of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Component {
    pub(super) machine: Machine,
    pub(super) kind: Kind,
}

/// In the order in which they are started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
    /// A node's first process, which holds its namespaces.
    Node,
    Containerd,
    Kubelet,
    Proxy,
}

const OF_CONTROL: [Kind; 4] = [Kind::Etcd, Kind::ApiServer, Kind::ControllerManager, Kind::Scheduler];
const OF_NODES: [Kind; 4] = [Kind::Node, Kind::Containerd, Kind::Kubelet, Kind::Proxy];

impl Kind {
    /// Its program's name, and its own in messages, logs and cgroups.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Etcd => "etcd",
            Kind::ApiServer => "kube-apiserver",
            Kind::ControllerManager => "kube-controller-manager",
            Kind::Scheduler => "kube-scheduler",
            Kind::Node => "node",
            Kind::Containerd => "containerd",
            Kind::Kubelet => "kubelet",
            Kind::Proxy => "kube-proxy",
        }
    }

    /// The Debian package that it comes from; Kubernetes' own programs are compiled.
    pub(super) fn package(self) -> Option<&'static str> {
        match self {
            Kind::Etcd => Some("etcd-server"),
            Kind::Containerd => Some("containerd"),
            _ => None,
        }
    }
}

impl Component {
    /// Everything, the control plane first.
    pub(super) fn all(nodes: u8) -> impl Iterator<Item = Component> {
        Machine::all(nodes).into_iter().flat_map(|machine| {
            let kinds = if machine == Machine::Control { OF_CONTROL } else { OF_NODES };
            kinds.map(|kind| Component { machine, kind })
        })
    }

    /// `etcd`, `node-1/kubelet`.
    pub(super) fn name(self) -> String {
        match self.machine {
            Machine::Control => self.kind.name().to_owned(),
            node @ Machine::Node(_) => format!("{node}/{}", self.kind.name()),
        }
    }

    /// Where it can be asked, from its own machine at least.
    pub(super) fn endpoint(self) -> String {
        let address = self.machine.address();
        match self.kind {
            Kind::Etcd => "127.0.0.1:2379".into(),
            Kind::ApiServer => format!("{address}:{API_PORT}"),
            Kind::ControllerManager => "127.0.0.1:10252".into(),
            Kind::Scheduler => "127.0.0.1:10251".into(),
            Kind::Node => address.to_string(),
            Kind::Containerd => CONTAINERD_SOCKET.into(),
            Kind::Kubelet => format!("{address}:10250"),
            Kind::Proxy => format!("{address}:{PROXY_HEALTH_PORT}"),
        }
    }

    pub(super) fn log(self) -> PathBuf {
        logs().join(format!("{}.log", self.name().replace('/', "-")))
    }

    /// Its arguments, the program's own name not among them.
    pub(super) fn arguments(self) -> Vec<String> {
        let pki = Pki::place();
        let kubeconfig = |name: &str| format!("--kubeconfig={}", kubeconfig_of_control(name).display());
        let (address, machine) = (self.machine.address(), self.machine);
        match self.kind {
            Kind::Etcd => vec![
                format!("--data-dir={}", machine.folder().join("etcd").display()),
                "--listen-client-urls=http://127.0.0.1:2379".into(),
                "--advertise-client-urls=http://127.0.0.1:2379".into(),
                "--listen-peer-urls=http://127.0.0.1:2380".into(),
            ],
            Kind::ApiServer => api_server(&pki),
            Kind::ControllerManager => vec![
                kubeconfig("kube-controller-manager"),
                "--address=127.0.0.1".into(),
                "--leader-elect=false".into(),
                "--use-service-account-credentials=true".into(),
                format!("--flex-volume-plugin-dir={}", machine.folder().join("volume-plugins").display()),
                format!("--service-account-private-key-file={}", pki.file("service-accounts.key")),
                format!("--root-ca-file={}", pki.file("ca.crt")),
                format!("--cluster-signing-cert-file={}", pki.file("ca.crt")),
                format!("--cluster-signing-key-file={}", pki.file("ca.key")),
            ],
            Kind::Scheduler => {
                vec![kubeconfig("kube-scheduler"), "--address=127.0.0.1".into(), "--leader-elect=false".into()]
            }
            // Its namespaces are made by `node.sh`, which gets these.
            Kind::Node => vec![machine.to_string(), var(machine).display().to_string()],
            Kind::Containerd => vec![format!("--config={}/containerd.toml", Files::IN_NODE)],
            Kind::Kubelet => vec![
                format!("--config={}/kubelet.json", Files::IN_NODE),
                format!("--kubeconfig={}/kubelet.kubeconfig", Files::IN_NODE),
                format!("--hostname-override={machine}"),
                format!("--node-ip={address}"),
                "--container-runtime=remote".into(),
                format!("--container-runtime-endpoint=unix://{CONTAINERD_SOCKET}"),
            ],
            Kind::Proxy => vec![
                format!("--kubeconfig={}/kube-proxy.kubeconfig", Files::IN_NODE),
                format!("--hostname-override={machine}"),
                "--proxy-mode=iptables".into(),
                format!("--cluster-cidr={POD_NETWORK}"),
                format!("--healthz-bind-address={address}:{PROXY_HEALTH_PORT}"),
                "--oom-score-adj=0".into(),
                // These settings of connection tracking belong to the whole machine.
                "--conntrack-max-per-core=0".into(),
                "--conntrack-tcp-timeout-established=0".into(),
                "--conntrack-tcp-timeout-close-wait=0".into(),
            ],
        }
    }
}

fn api_server(pki: &Pki) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.file(name));
    vec![
        format!("--advertise-address={}", Machine::Control.address()),
        format!("--secure-port={API_PORT}"),
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--service-cluster-ip-range={SERVICE_NETWORK}"),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        file("tls-cert-file", "kube-apiserver.crt"),
        file("tls-private-key-file", "kube-apiserver.key"),
        file("client-ca-file", "ca.crt"),
        file("kubelet-certificate-authority", "ca.crt"),
        file("kubelet-client-certificate", "to-kubelets.crt"),
        file("kubelet-client-key", "to-kubelets.key"),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        file("service-account-key-file", "service-accounts.pub"),
        file("service-account-signing-key-file", "service-accounts.key"),
        format!("--audit-policy-file={}", Machine::Control.folder().join("audit-policy.json").display()),
        format!("--audit-log-path={}", audit_log().display()),
    ]
}

/// Where containerd is reached, in its node.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

pub(super) fn logs() -> PathBuf {
    Path::new(STATE).join("log")
}

/// Every request but those of the cluster's own components, one JSON object a line.
pub(super) fn audit_log() -> PathBuf {
    logs().join("audit.log")
}

/// What a node's first process is.
pub(super) fn node_script() -> PathBuf {
    Path::new(STATE).join("node.sh")
}

fn kubeconfig_of_control(name: &str) -> PathBuf {
    Machine::Control.folder().join(format!("{name}.kubeconfig"))
}

/// What is `/var` in the node.
fn var(node: Machine) -> PathBuf {
    node.folder().join("var")
}

/// What the components read.
pub(super) struct Files<'a> {
    pub(super) pki: &'a Pki,
    /// containerd's way of stacking an image's layers.
    pub(super) snapshotter: &'a str,
    /// The image that holds a pod's namespaces.
    pub(super) pause: &'a str,
}

impl Files<'_> {
    /// The folder of these files, as a node sees it.
    const IN_NODE: &'static str = "/var/lib/redir";

    pub(super) fn write(&self, nodes: u8) -> Result<()> {
        make_folder(&Machine::Control.folder())?;
        for name in ["kube-controller-manager", "kube-scheduler"] {
            self.pki.kubeconfig(name, &api_url(), &kubeconfig_of_control(name))?;
        }
        write(&Machine::Control.folder().join("audit-policy.json"), &audit_policy().to_string())?;
        write(&node_script(), include_str!("node.sh"))?;
        Machine::nodes(nodes).zip(1..).try_for_each(|(node, number)| self.write_node(node, number))
    }

    fn write_node(&self, node: Machine, number: u8) -> Result<()> {
        let var = var(node);
        for folder in ["lib/cni", "lib/containerd", "lib/kubelet", "lib/redir/net.d", "log", "opt/kubernetes", "tmp"] {
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
        write(&own.join("kubelet.json"), &kubelet(node).to_string())?;
        write(&own.join("resolv.conf"), "")?;
        write(&own.join("net.d/redir.conflist"), &network(number).to_string())?;
        write(&own.join("containerd.toml"), &self.containerd())
    }

    fn containerd(&self) -> String {
        let (snapshotter, pause) = (self.snapshotter, self.pause);
        format!(
            r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Where CAP_SYS_RESOURCE is missing, no process may be made less likely to be killed than its parent.
restrict_oom_score_adj = true

[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/var/opt/kubernetes/cni"
conf_dir = "{}/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
            Self::IN_NODE
        )
    }
}

/// How everything in and around the cluster reaches the API server.
pub(super) fn api_url() -> String {
    format!("https://{}:{API_PORT}", Machine::Control.address())
}

fn kubelet(node: Machine) -> serde_json::Value {
    let file = |name: &str| format!("{}/{name}", Files::IN_NODE);
    json!({
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
        "failSwapOn": false,
        "resolvConf": file("resolv.conf"),
        "oomScoreAdj": 0,
        // Its own place for it is the machine's /usr.
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // The disk is the developer's own, and how full it is no reason to evict anything or to drop loaded images.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": { "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%" },
    })
}

fn network(number: u8) -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "redir",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                // Pods are routed; nobody may see another address than theirs.
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": Machine::pods(number).to_string() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                    "dataDir": "/var/lib/cni",
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// Who did what, without bodies. The cluster's own components talk without end and are left out.
fn audit_policy() -> serde_json::Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "None", "userGroups": ["system:nodes"] },
            { "level": "None", "users": ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"] },
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
