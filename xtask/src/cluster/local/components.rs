//! What runs on each machine of the local cluster, and with which arguments. Nothing in here does anything: how a component is
//! started and ended is in `process`, the files that it reads are in `files`.

use std::path::PathBuf;

use super::addons::Addon;
use super::pki::ClusterPki;
use super::plan::{
    ADDON_KUBECONFIG, API_PORT, CONTAINERD_SOCKET, ClusterMachine, FILES_IN_NODE, FLANNEL_HEALTH_PORT,
    KUBE_ROUTER_HEALTH_PORT, POD_NETWORKS, PROXY_HEALTH_PORT, SERVICE_NETWORKS, audit_log, audit_policy, both, logs,
};
use crate::cluster::{Network, ProxyMode, Shape};

/// A process of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Component {
    pub(super) machine: ClusterMachine,
    pub(super) kind: ComponentKind,
}

/// In the order in which they are started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ComponentKind {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
    /// A node's first process, which holds its namespaces.
    Node,
    Containerd,
    Kubelet,
    Proxy,
    /// Enforces network policies.
    KubeRouter,
    Flannel,
}

const OF_CONTROL: [ComponentKind; 4] =
    [ComponentKind::Etcd, ComponentKind::ApiServer, ComponentKind::ControllerManager, ComponentKind::Scheduler];
const OF_NODES: [ComponentKind; 4] =
    [ComponentKind::Node, ComponentKind::Containerd, ComponentKind::Kubelet, ComponentKind::Proxy];

impl ComponentKind {
    /// Its program's name, and its own in messages, logs and cgroups.
    pub(super) fn name(self) -> &'static str {
        match self {
            ComponentKind::Etcd => "etcd",
            ComponentKind::ApiServer => "kube-apiserver",
            ComponentKind::ControllerManager => "kube-controller-manager",
            ComponentKind::Scheduler => "kube-scheduler",
            ComponentKind::Node => "node",
            ComponentKind::Containerd => "containerd",
            ComponentKind::Kubelet => "kubelet",
            ComponentKind::Proxy => "kube-proxy",
            ComponentKind::KubeRouter => "kube-router",
            ComponentKind::Flannel => "flanneld",
        }
    }

    /// What it is a program of, where that is no part of every cluster.
    pub(super) fn addon(self) -> Option<Addon> {
        match self {
            ComponentKind::KubeRouter => Some(Addon::KubeRouter),
            ComponentKind::Flannel => Some(Addon::Flannel),
            _ => None,
        }
    }

    /// What it is a part of, where that is not Kubernetes.
    pub(super) fn part(self) -> Option<&'static str> {
        match self {
            ComponentKind::Etcd => Some("etcd"),
            ComponentKind::Containerd => Some("containerd"),
            _ => None,
        }
    }
}

impl Component {
    /// Everything, the control plane first.
    pub(super) fn all(shape: Shape) -> impl Iterator<Item = Component> {
        ClusterMachine::all(shape.nodes).into_iter().flat_map(move |machine| {
            let kinds = if machine == ClusterMachine::Control { OF_CONTROL.to_vec() } else { of_nodes(shape.network) };
            kinds.into_iter().map(move |kind| Component { machine, kind })
        })
    }

    /// `etcd`, `node-1/kubelet`.
    pub(super) fn name(self) -> String {
        match self.machine {
            ClusterMachine::Control => self.kind.name().to_owned(),
            node @ ClusterMachine::Node(_) => format!("{node}/{}", self.kind.name()),
        }
    }

    /// Where it can be asked, from its own machine at least.
    pub(super) fn endpoint(self) -> String {
        let address = self.machine.address();
        match self.kind {
            ComponentKind::Etcd => "127.0.0.1:2379".into(),
            ComponentKind::ApiServer => format!("{address}:{API_PORT}"),
            ComponentKind::ControllerManager => "127.0.0.1:10257".into(),
            ComponentKind::Scheduler => "127.0.0.1:10259".into(),
            ComponentKind::Node => address.to_string(),
            ComponentKind::Containerd => CONTAINERD_SOCKET.into(),
            ComponentKind::Kubelet => format!("{address}:10250"),
            ComponentKind::Proxy => format!("{address}:{PROXY_HEALTH_PORT}"),
            ComponentKind::KubeRouter => format!("{address}:{KUBE_ROUTER_HEALTH_PORT}"),
            ComponentKind::Flannel => format!("{address}:{FLANNEL_HEALTH_PORT}"),
        }
    }

    pub(super) fn log(self) -> PathBuf {
        logs().join(format!("{}.log", self.name().replace('/', "-")))
    }

    /// Its arguments, the program's own name not among them.
    pub(super) fn arguments(self, shape: Shape) -> Vec<String> {
        let pki = ClusterPki::place();
        let kubeconfig = |name: &str| format!("--kubeconfig={}", self.machine.kubeconfig(name).display());
        let (address, machine) = (self.machine.address(), self.machine);
        match self.kind {
            ComponentKind::Etcd => vec![
                format!("--data-dir={}", machine.folder().join("etcd").display()),
                "--listen-client-urls=http://127.0.0.1:2379".into(),
                "--advertise-client-urls=http://127.0.0.1:2379".into(),
                "--listen-peer-urls=http://127.0.0.1:2380".into(),
            ],
            ComponentKind::ApiServer => api_server(&pki),
            ComponentKind::ControllerManager => vec![
                kubeconfig("kube-controller-manager"),
                "--bind-address=127.0.0.1".into(),
                "--leader-elect=false".into(),
                "--use-service-account-credentials=true".into(),
                format!("--flex-volume-plugin-dir={}", machine.folder().join("volume-plugins").display()),
                format!("--service-account-private-key-file={}", pki.file("service-accounts.key")),
                format!("--root-ca-file={}", pki.file("ca.crt")),
                format!("--cluster-signing-cert-file={}", pki.file("ca.crt")),
                format!("--cluster-signing-key-file={}", pki.file("ca.key")),
            ],
            ComponentKind::Scheduler => {
                vec![kubeconfig("kube-scheduler"), "--bind-address=127.0.0.1".into(), "--leader-elect=false".into()]
            }
            // Its namespaces are made by `node.sh`, which gets these.
            ComponentKind::Node => vec![machine.to_string(), machine.var().display().to_string()],
            ComponentKind::Containerd => vec![format!("--config={}/containerd.toml", FILES_IN_NODE)],
            ComponentKind::Kubelet => vec![
                format!("--config={}/kubelet.json", FILES_IN_NODE),
                format!("--kubeconfig={}/kubelet.kubeconfig", FILES_IN_NODE),
                format!("--hostname-override={machine}"),
                format!("--node-ip={address},{}", machine.address6()),
            ],
            ComponentKind::Proxy => self.proxy(shape),
            ComponentKind::KubeRouter => vec![
                format!("--kubeconfig={ADDON_KUBECONFIG}"),
                format!("--hostname-override={machine}"),
                "--run-firewall=true".into(),
                "--run-router=false".into(),
                "--run-service-proxy=false".into(),
                "--enable-ipv4=true".into(),
                "--enable-ipv6=true".into(),
                format!("--service-cluster-ip-range={}", both(SERVICE_NETWORKS)),
                format!("--health-port={KUBE_ROUTER_HEALTH_PORT}"),
            ],
            ComponentKind::Flannel => vec![
                "--kube-subnet-mgr".into(),
                format!("--kubeconfig-file={ADDON_KUBECONFIG}"),
                format!("--net-config-path={FILES_IN_NODE}/flannel.json"),
                "--iface=eth0".into(),
                format!("--healthz-ip={address}"),
                format!("--healthz-port={FLANNEL_HEALTH_PORT}"),
            ],
        }
    }

    fn proxy(self, shape: Shape) -> Vec<String> {
        let (address, machine) = (self.machine.address(), self.machine);
        let mode = shape.proxy.on(machine);
        let mut arguments = vec![
            format!("--kubeconfig={}/kube-proxy.kubeconfig", FILES_IN_NODE),
            format!("--hostname-override={machine}"),
            format!("--proxy-mode={}", mode.name()),
            format!("--cluster-cidr={}", both(POD_NETWORKS)),
            format!("--healthz-bind-address={address}:{PROXY_HEALTH_PORT}"),
            "--oom-score-adj=0".into(),
            // These settings of connection tracking belong to the whole machine.
            "--conntrack-max-per-core=0".into(),
            "--conntrack-tcp-timeout-established=0".into(),
            "--conntrack-tcp-timeout-close-wait=0".into(),
            "--conntrack-udp-timeout=0".into(),
            "--conntrack-udp-timeout-stream=0".into(),
        ];
        // Only there it is not on by itself.
        if mode == ProxyMode::Nftables && shape.version.minor == 30 {
            arguments.push("--feature-gates=NFTablesProxyMode=true".into());
        }
        arguments
    }
}

fn of_nodes(network: Network) -> Vec<ComponentKind> {
    let flannel = network.is_flannel().then_some(ComponentKind::Flannel);
    let policy = network.policy.then_some(ComponentKind::KubeRouter);
    OF_NODES.into_iter().chain(flannel).chain(policy).collect()
}

impl ProxyMode {
    /// What a node's proxy is told.
    fn on(self, node: ClusterMachine) -> ProxyMode {
        match (self, node) {
            (ProxyMode::Both, ClusterMachine::Node(number)) if number % 2 == 0 => ProxyMode::Iptables,
            (ProxyMode::Both, _) => ProxyMode::Nftables,
            (one, _) => one,
        }
    }
}

fn api_server(pki: &ClusterPki) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.file(name));
    vec![
        format!("--advertise-address={}", ClusterMachine::Control.address()),
        format!("--secure-port={API_PORT}"),
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--service-cluster-ip-range={}", both(SERVICE_NETWORKS)),
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
        format!("--audit-policy-file={}", audit_policy().display()),
        format!("--audit-log-path={}", audit_log().display()),
    ]
}
