//! The same cluster with kind, where Docker works and its images can be pulled: GitHub's runners, most developers' machines.
//! Kubernetes' version can be chosen here. The programs `kind`, `docker` and `kubectl` are the machine's own.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};
use redir_rig::namespace::checked;
use redir_rig::wait;

use super::kubectl::Kubectl;
use super::version::KubernetesVersion;
use super::{Cni, Node, Piece, Provider, ProxyMode, local};
use crate::{child, paths, ui};

/// What kind calls the cluster, and its machines after it.
const NAME: &str = "redir";
const CONTROL: &str = "redir-control-plane";
/// Cilium's chart and what it installs.
const CILIUM: &str = "1.20.2";
/// Where a kubelet looks for the control plane's pods.
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// The kubelet looks at its folder of pods each 20 s.
const LIMIT: Duration = Duration::from_secs(180);

pub(super) struct KindProvider {
    kubectl: Kubectl,
}

/// What a cluster is asked to be; kind chooses what is not given.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) nodes: u8,
    pub(super) version: Option<KubernetesVersion>,
    pub(super) proxy: Option<ProxyMode>,
    pub(super) cni: Option<Cni>,
}

/// As a person writes it.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--nodes {}", self.nodes)?;
        self.version.map_or(Ok(()), |version| write!(f, " --kubernetes-version {version}"))?;
        self.proxy.map_or(Ok(()), |proxy| write!(f, " --proxy {}", proxy.name()))?;
        self.cni.map_or(Ok(()), |cni| write!(f, " --cni {}", cni.name()))
    }
}

/// The cluster of that name, if kind is here and has it.
pub(super) fn found() -> Result<Option<KindProvider>> {
    if paths::program("kind").is_none() {
        return Ok(None);
    }
    let clusters = checked(Command::new("kind").args(["get", "clusters"]), None)?;
    if !clusters.lines().any(|name| name == NAME) {
        return Ok(None);
    }
    Ok(Some(KindProvider { kubectl: Kubectl::new("kubectl", kubeconfig()?) }))
}

/// An error unless the cluster that is up was made for this request, to its end.
pub(super) fn ensure_made_for(request: Request) -> Result<()> {
    let made_for = fs::read_to_string(shape()?).ok();
    ensure_same(made_for.as_deref(), request)
}

fn ensure_same(made_for: Option<&str>, request: Request) -> Result<()> {
    let made_for = made_for.context("half a cluster of kind's is here: `cargo xtask cluster down` ends it")?;
    ensure!(
        made_for == request.to_string(),
        "another cluster is up, made with `{made_for}`: `cargo xtask cluster down` ends it"
    );
    Ok(())
}

/// Makes it and waits until its nodes are ready; half of one goes again, also when this is interrupted.
pub(super) fn up(request: Request) -> Result<KindProvider> {
    let Request { nodes, version, proxy, cni } = request;
    ensure!(
        proxy != Some(ProxyMode::Both),
        "kind has one kube-proxy for all nodes: say `--proxy nftables` or `iptables`"
    );
    ensure!(cni != Some(Cni::Flannel), "flannel is for `--provider local`: kind would need its images as well");
    let cilium = cni.filter(|cni| cni.is_cilium());
    for program in ["kind", "docker", "kubectl"].into_iter().chain(cilium.map(|_| "helm")) {
        ensure!(
            paths::program(program).is_some(),
            "{program} is not on this machine: install it (https://kind.sigs.k8s.io, https://helm.sh), or use `--provider local`"
        );
    }
    let folder = folder()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let description = folder.join("cluster.yaml");
    fs::write(&description, describe(nodes, proxy, cilium.is_some()))
        .with_context(|| format!("cannot write {}", description.display()))?;
    let shape = shape()?;
    // One that somebody removed by hand may have left it.
    if shape.exists() {
        fs::remove_file(&shape).with_context(|| format!("cannot remove {}", shape.display()))?;
    }
    let make = || {
        child::show(&mut create(&description, &kubeconfig()?, version, cilium.is_none()))?;
        let kind = found()?.context("kind made a cluster, but does not list it: `kind get clusters` should")?;
        if let Some(cilium) = cilium {
            connect_by(cilium, &kind.kubectl)?;
        }
        // Last of all: who finds it finds a whole cluster.
        fs::write(&shape, request.to_string()).with_context(|| format!("cannot write {}", shape.display()))?;
        Ok(kind)
    };
    make().inspect_err(|_: &anyhow::Error| {
        if let Err(error) = down() {
            eprintln!("{} {error:#}", ui::red("error:"));
        }
    })
}

/// Installs Cilium and waits until nodes are ready, which without a network they never are.
fn connect_by(cilium: Cni, kubectl: &Kubectl) -> Result<()> {
    let chart = chart()?;
    child::show(&mut install_cilium(cilium, &chart, kubectl.kubeconfig()))?;
    child::show(kubectl.command().args(["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=300s"]))
}

/// Removes it; whether there was one.
pub(super) fn down() -> Result<bool> {
    if found()?.is_none() {
        return Ok(false);
    }
    // In a group that nobody interrupts: this is what is left to do after Ctrl-C.
    let mut delete = Command::new("kind");
    checked(delete.args(["delete", "cluster", "--name", NAME]).process_group(0), None)?;
    let folder = folder()?;
    // One that was made with another cache has no folder here.
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(true)
}

/// Nodes without a network are never ready, so nobody `waits` for them.
fn create(description: &Path, kubeconfig: &Path, version: Option<KubernetesVersion>, waits: bool) -> Command {
    let mut command = Command::new("kind");
    command.args(["create", "cluster", "--name", NAME]);
    if waits {
        command.args(["--wait", "5m"]);
    }
    command.arg("--config").arg(description);
    command.arg("--kubeconfig").arg(kubeconfig);
    if let Some(version) = version {
        command.arg("--image").arg(format!("kindest/node:v{version}"));
    }
    command
}

/// The folder of Cilium's own chart, which its source has.
fn chart() -> Result<PathBuf> {
    let source = local::source_of(&format!("github.com/cilium/cilium@v{CILIUM}"), &folder()?)?;
    Ok(source.join("install/kubernetes/cilium"))
}

/// Cilium by its own chart, in place of kube-proxy as well.
fn install_cilium(cni: Cni, chart: &Path, kubeconfig: &Path) -> Command {
    let mode = if cni == Cni::CiliumNetkit { "netkit" } else { "veth" };
    let mut command = Command::new("helm");
    command.args(["install", "cilium"]).arg(chart);
    command.args(["--namespace", "kube-system", "--wait", "--timeout", "10m", "--kubeconfig"]).arg(kubeconfig);
    for value in [
        "kubeProxyReplacement=true",
        &format!("k8sServiceHost={CONTROL}"),
        "k8sServicePort=6443",
        "ipam.mode=kubernetes",
        "ipv6.enabled=true",
        "operator.replicas=1",
        // Without iptables' part netkit devices are of use.
        "bpf.masquerade=true",
        &format!("bpf.datapathMode={mode}"),
    ] {
        command.args(["--set", value]);
    }
    command
}

/// Pods run on workers only, and have addresses of both families, as with the local cluster.
fn describe(nodes: u8, proxy: Option<ProxyMode>, cilium: bool) -> String {
    let workers = "- role: worker\n".repeat(nodes.into());
    let proxy = proxy.map(|mode| format!("  kubeProxyMode: {}\n", mode.name())).unwrap_or_default();
    let network = if cilium { "  disableDefaultCNI: true\n  kubeProxyMode: none\n" } else { &proxy };
    format!(
        "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking:\n  ipFamily: dual\n{network}\
         nodes:\n- role: control-plane\n{workers}"
    )
}

fn folder() -> Result<PathBuf> {
    Ok(paths::cache()?.join("cluster").join("kind"))
}

/// What it was made for; not there until it is whole.
fn shape() -> Result<PathBuf> {
    Ok(folder()?.join("shape"))
}

fn kubeconfig() -> Result<PathBuf> {
    Ok(folder()?.join("admin.kubeconfig"))
}

fn in_machine(machine: &str) -> Command {
    let mut command = Command::new("docker");
    command.args(["exec", "--interactive", machine]);
    command
}

/// Moves the API server's description into the kubelet's folder or out of it.
fn move_api_server(from: &str, to: &str) -> Result<()> {
    let file = "kube-apiserver.yaml";
    checked(in_machine(CONTROL).args(["mv", &format!("{from}/{file}"), &format!("{to}/{file}")]), None).map(drop)
}

impl Provider for KindProvider {
    fn name(&self) -> &'static str {
        "kind"
    }

    fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    fn kubeconfigs(&self) -> Result<PathBuf> {
        folder()
    }

    fn nodes(&self) -> Result<Vec<Node>> {
        let list = self.kubectl.get(&["nodes"])?;
        let nodes = list["items"].as_array().into_iter().flatten();
        let workers = nodes.filter(|node| node["metadata"]["name"] != CONTROL);
        let workers = workers.map(|node| {
            let mut addresses = node["status"]["addresses"].as_array().into_iter().flatten();
            let internal = addresses.find(|address| address["type"] == "InternalIP");
            let address = internal.and_then(|address| address["address"].as_str()?.parse().ok());
            let name = node["metadata"]["name"].as_str().context("a node without a name")?.to_owned();
            Ok(Node { address: address.with_context(|| format!("{name} has no address"))?, name })
        });
        workers.collect()
    }

    fn enter(&self, node: &str) -> Result<Command> {
        Ok(in_machine(node))
    }

    fn load(&self, archive: &Path) -> Result<()> {
        child::show(Command::new("kind").args(["load", "image-archive", "--name", NAME]).arg(archive))
    }

    fn stop(&self, component: &str) -> Result<()> {
        ensure!(component == "kube-apiserver", "with kind only kube-apiserver can be stopped");
        move_api_server(MANIFESTS, "/etc/kubernetes")?;
        wait::until_true("the API server to be gone", LIMIT, || Ok(self.kubectl.raw("/readyz").is_err()))
    }

    fn start(&self, component: &str) -> Result<()> {
        ensure!(component == "kube-apiserver", "with kind only kube-apiserver can be started");
        move_api_server("/etc/kubernetes", MANIFESTS)?;
        wait::until_true("the API server to answer", LIMIT, || Ok(self.kubectl.raw("/readyz").is_ok()))
    }

    fn pieces(&self) -> Result<Vec<Piece>> {
        // They are pods of kind's own.
        Ok(Vec::new())
    }

    fn wanting(&self) -> Option<String> {
        self.kubectl.raw("/readyz").err().map(|error| format!("the API server does not answer: {error:#}"))
    }

    fn needs_root(&self) -> bool {
        false
    }

    fn memory(&self) -> Option<u64> {
        None
    }

    fn audit_log(&self) -> Option<PathBuf> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_are_two_workers_beside_the_control_plane() {
        let head = ["kind: Cluster", "apiVersion: kind.x-k8s.io/v1alpha4", "networking:", "  ipFamily: dual"];
        let nodes = ["nodes:", "- role: control-plane", "- role: worker", "- role: worker"];
        assert_eq!(describe(2, None, false).lines().collect::<Vec<_>>(), [&head[..], &nodes].concat());
        let with_proxy = [&head[..], &["  kubeProxyMode: nftables"], &nodes].concat();
        assert_eq!(describe(2, Some(ProxyMode::Nftables), false).lines().collect::<Vec<_>>(), with_proxy);
        let without_network = [&head[..], &["  disableDefaultCNI: true", "  kubeProxyMode: none"], &nodes].concat();
        assert_eq!(describe(2, None, true).lines().collect::<Vec<_>>(), without_network);
    }

    #[test]
    fn only_the_cluster_that_was_asked_for_is_taken() {
        let plain = Request { nodes: 2, version: None, proxy: None, cni: None };
        let of = |made_for: Request| ensure_same(Some(&made_for.to_string()), plain).map_err(|error| error.to_string());
        assert_eq!(of(plain), Ok(()));
        for (other, flags) in [
            (Request { nodes: 3, ..plain }, "--nodes 3"),
            (Request { version: "1.34.0".parse().ok(), ..plain }, "--nodes 2 --kubernetes-version 1.34.0"),
            (Request { proxy: Some(ProxyMode::Nftables), ..plain }, "--nodes 2 --proxy nftables"),
            (Request { cni: Some(Cni::CiliumNetkit), ..plain }, "--nodes 2 --cni cilium-netkit"),
        ] {
            let refusal = of(other).unwrap_err();
            assert!(refusal.contains(&format!("made with `{flags}`")), "{refusal}");
        }
        let half = ensure_same(None, plain).unwrap_err().to_string();
        assert!(half.contains("half a cluster"), "{half}");
    }

    #[test]
    fn a_version_chooses_the_image() {
        let spelled = |version: Option<&str>| {
            let version = version.map(|version| version.parse().unwrap());
            child::spelled(&create(Path::new("/c.yaml"), Path::new("/k"), version, true))
        };
        let common = "kind create cluster --name redir --wait 5m --config /c.yaml --kubeconfig /k";
        assert_eq!(spelled(None), common);
        assert_eq!(spelled(Some("1.34.0")), format!("{common} --image kindest/node:v1.34.0"));
    }
}
