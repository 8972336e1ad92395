//! `cargo xtask cluster`: a real Kubernetes for tests, on this machine. Owns the command line and what every cluster can do
//! ([`Cluster`], which the smoke test builds on); how one is made is in `local`, which needs no container engine and no
//! registry, and in `kind`, for machines that have both. No test needs it, and no build.

pub(crate) mod image;
mod kind;
mod kubeconfig;
pub(crate) mod kubectl;
mod local;
mod status;
mod users;
mod version;

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};

use crate::{child, paths, privilege, ui};
use kubectl::Kubectl;
use version::KubernetesVersion;

#[derive(Args)]
pub(crate) struct ClusterOptions {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a cluster, and wait until every node is ready; one that is up already is left as it is
    Up(Up),
    /// End the cluster and remove all that it made on this machine
    Down,
    /// What runs, where, and what does not; fails unless all of it works
    Status {
        /// How to say it
        #[arg(short, long, value_enum, default_value_t = status::Format::Text)]
        output: status::Format,
    },
    /// Print the line that lets kubectl and redir use the cluster: `eval "$(cargo xtask cluster kubeconfig)"`
    Kubeconfig {
        /// As this user instead of the administrator; they may nothing until RBAC says so
        #[arg(long, value_name = "NAME", value_parser = users::name)]
        user: Option<String>,
        /// Put the user into this group; may be repeated
        #[arg(long, value_name = "NAME", requires = "user", value_parser = users::name)]
        group: Vec<String>,
    },
    /// Bring the images of an archive (`docker save`, OCI) to every node; use them with `imagePullPolicy: Never`
    Load { archive: PathBuf },
    /// Run a command on a node, a shell without one
    Enter {
        /// As `status` names it
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Stop a component, to see what the loss of it does
    Stop {
        /// As `status` names it: kube-apiserver, node-1/kubelet
        component: String,
    },
    /// Start a component that was stopped, and wait for it
    Start {
        /// As `status` names it
        component: String,
    },
    /// Only the set-up: packages, and Kubernetes itself, compiled from its source
    Setup {
        /// Another version than the one that `up` takes by itself
        #[arg(long, value_name = "VERSION")]
        kubernetes_version: Option<KubernetesVersion>,
    },
}

#[derive(Clone, Copy, Args)]
pub(crate) struct Up {
    /// How many nodes run pods
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) nodes: u8,
    /// What makes the cluster
    #[arg(long, value_enum, default_value_t = ProviderName::Local)]
    provider: ProviderName,
    /// Another version of Kubernetes, e.g. 1.34.4: compiled if the Go module proxy has it; with kind, what kind has
    #[arg(long, value_name = "VERSION")]
    kubernetes_version: Option<KubernetesVersion>,
    /// How kube-proxy brings connections to Services; kind's own choice with kind, else `both`
    #[arg(long, value_enum)]
    proxy: Option<ProxyMode>,
    /// What connects pods; kind's own choice with kind, else `bridge`
    #[arg(long, value_enum)]
    cni: Option<Cni>,
    /// Names for Services; kind always has them
    #[arg(long)]
    dns: bool,
    /// Network policies that are enforced; kind and Cilium do so by themselves
    #[arg(long)]
    policy: bool,
}

impl Up {
    /// What a local cluster is asked to be.
    fn shape(&self) -> Shape {
        Shape {
            nodes: self.nodes,
            version: self.kubernetes_version.unwrap_or_else(KubernetesVersion::in_tree),
            proxy: self.proxy.unwrap_or(ProxyMode::Both),
            network: self.network(),
        }
    }

    /// What a cluster of kind's is asked to be.
    fn request(&self) -> kind::Request {
        kind::Request { nodes: self.nodes, version: self.kubernetes_version, proxy: self.proxy, cni: self.cni }
    }

    fn network(&self) -> Network {
        Network { cni: self.cni.unwrap_or(Cni::Bridge), dns: self.dns, policy: self.policy }
    }

    /// The same with all that redir could get in the way of.
    pub(crate) fn with_names_and_policies(self) -> Up {
        Up { dns: true, policy: true, ..self }
    }
}

/// What kube-proxy writes its rules with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum ProxyMode {
    Nftables,
    Iptables,
    /// By turns: nftables on node-1, iptables on node-2; only with the local provider
    Both,
}

impl ProxyMode {
    /// As a person writes it, and Kubernetes too but for `both`.
    fn name(self) -> &'static str {
        match self {
            ProxyMode::Nftables => "nftables",
            ProxyMode::Iptables => "iptables",
            ProxyMode::Both => "both",
        }
    }
}

/// What connects pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Cni {
    /// Kubernetes' own bridge plugin, and routes between the nodes
    Bridge,
    /// Flannel's VXLAN between bridges
    Flannel,
    /// Cilium, in place of kube-proxy as well; only with kind
    Cilium,
    /// The same with netkit devices instead of veth, which the kernel must have (6.7, CONFIG_NETKIT)
    CiliumNetkit,
}

impl Cni {
    /// As a person writes it.
    fn name(self) -> &'static str {
        match self {
            Cni::Bridge => "bridge",
            Cni::Flannel => "flannel",
            Cni::Cilium => "cilium",
            Cni::CiliumNetkit => "cilium-netkit",
        }
    }

    fn is_cilium(self) -> bool {
        matches!(self, Cni::Cilium | Cni::CiliumNetkit)
    }
}

/// A cluster's network, and what it has for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Network {
    cni: Cni,
    /// CoreDNS.
    dns: bool,
    /// kube-router, which enforces network policies and nothing else.
    policy: bool,
}

impl Network {
    fn is_flannel(self) -> bool {
        self.cni == Cni::Flannel
    }
}

/// What tells one local cluster from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shape {
    nodes: u8,
    version: KubernetesVersion,
    proxy: ProxyMode,
    network: Network,
}

/// Who makes a cluster.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProviderName {
    /// From programs compiled on this machine, in network namespaces
    Local,
    /// With kind, where Docker works and images can be pulled
    Kind,
}

/// A node that runs pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Where this machine reaches it: NodePorts, the agent's tunnel.
    pub(crate) address: IpAddr,
}

/// A component as `status` shows it.
struct Piece {
    name: String,
    version: String,
    endpoint: String,
    processes: Vec<i32>,
    log: PathBuf,
}

/// What a kind of cluster can do. Two implementations: `local` and `kind`.
trait Provider {
    fn name(&self) -> &'static str;
    /// As the administrator.
    fn kubectl(&self) -> &Kubectl;
    /// The folder for kubeconfigs, the person's own.
    fn kubeconfigs(&self) -> Result<PathBuf>;
    fn nodes(&self) -> Result<Vec<Node>>;
    fn enter(&self, node: &str) -> Result<Command>;
    fn load(&self, archive: &Path) -> Result<()>;
    fn stop(&self, component: &str) -> Result<()>;
    fn start(&self, component: &str) -> Result<()>;
    fn pieces(&self) -> Result<Vec<Piece>>;
    /// The first thing that does not work.
    fn wanting(&self) -> Option<String>;
    /// Whether all but reading needs it.
    fn needs_root(&self) -> bool;
    /// Bytes that all of it holds, where that can be told.
    fn memory(&self) -> Option<u64>;
    /// Who asked the API server for what, as JSON lines, where it is written.
    fn audit_log(&self) -> Option<PathBuf>;
}

/// A cluster on this machine. Dropping it does nothing: it stays until [`Cluster::down`].
pub(crate) struct Cluster {
    provider: Box<dyn Provider>,
}

impl Cluster {
    /// Starts a cluster, or finds it running, and waits until every node is ready. [`prepare`] comes before.
    pub(crate) fn up(options: &Up) -> Result<Cluster> {
        let began = Instant::now();
        let (provider, how): (Box<dyn Provider>, _) = match options.provider {
            ProviderName::Local => {
                ensure!(kind::found()?.is_none(), "a cluster of kind's is up: `cargo xtask cluster down` ends it");
                let (local, was) = local::up(options.shape())?;
                let how = match was {
                    local::PreviousState::Down => "up",
                    local::PreviousState::Incomplete => "up again, all of it",
                    local::PreviousState::Up => "up already",
                };
                (Box::new(local), how)
            }
            ProviderName::Kind => {
                ensure!(local::found()?.is_none(), "a local cluster is up: `cargo xtask cluster down` ends it");
                let request = options.request();
                match kind::found()? {
                    Some(kind) => {
                        kind::ensure_made_for(request)?;
                        (Box::new(kind), "up already")
                    }
                    None => (Box::new(kind::up(request)?), "up"),
                }
            }
        };
        println!("{} {}", ui::green(how), ui::dim(&ui::spoken(began.elapsed())));
        Ok(Cluster { provider })
    }

    /// The cluster that is on this machine, made by whichever provider.
    pub(crate) fn found() -> Result<Option<Cluster>> {
        if let Some(local) = local::found()? {
            return Ok(Some(Cluster { provider: Box::new(local) }));
        }
        Ok(kind::found()?.map(|kind| Cluster { provider: Box::new(kind) }))
    }

    /// The same where there must be one.
    fn present() -> Result<Cluster> {
        let cluster =
            Cluster::found()?.context("no cluster is on this machine: `cargo xtask cluster up` starts one")?;
        let made = cluster.kubeconfig().exists();
        ensure!(made, "what is on this machine is half a cluster: `cargo xtask cluster up` makes it whole");
        Ok(cluster)
    }

    /// The same for what changes it, as root where it must be.
    fn to_change(what_for: &str) -> Result<Cluster> {
        let cluster = Cluster::present()?;
        if cluster.provider.needs_root() {
            as_root(what_for)?;
        }
        Ok(cluster)
    }

    /// Ends whatever is there, whole or half, if need be as root in another process; whether there was anything.
    pub(crate) fn down() -> Result<bool> {
        if !local::is_there() {
            return kind::down();
        }
        as_root("ending a local cluster's processes and namespaces")?;
        local::down().map(|()| true)
    }

    /// As `--provider` takes it.
    pub(crate) fn provider_name(&self) -> &'static str {
        self.provider.name()
    }

    /// The version of a component, where this machine can tell it.
    pub(crate) fn version_of(&self, component: &str) -> Result<Option<String>> {
        let pieces = self.provider.pieces()?;
        Ok(pieces.into_iter().find(|piece| piece.name == component).map(|piece| piece.version))
    }

    /// As the administrator.
    pub(crate) fn kubectl(&self) -> &Kubectl {
        self.provider.kubectl()
    }

    /// The administrator's.
    pub(crate) fn kubeconfig(&self) -> &Path {
        self.kubectl().kubeconfig()
    }

    /// A new kubeconfig for a user with these groups (plain names), who may nothing until RBAC says so.
    pub(crate) fn user(&self, name: &str, groups: &[String]) -> Result<PathBuf> {
        users::make(self.kubectl(), name, groups, &self.provider.kubeconfigs()?)
    }

    /// The nodes that run pods.
    pub(crate) fn nodes(&self) -> Result<Vec<Node>> {
        self.provider.nodes()
    }

    /// The beginning of a command that runs on a node, in its network and with its files; the rest is the caller's.
    pub(crate) fn enter(&self, node: &str) -> Result<Command> {
        self.provider.enter(node)
    }

    /// Brings the images of an archive to every node.
    pub(crate) fn load(&self, archive: &Path) -> Result<()> {
        self.provider.load(archive)
    }

    /// Stops a component by its name in `status`; `kube-apiserver` is one with every provider.
    pub(crate) fn stop(&self, component: &str) -> Result<()> {
        self.provider.stop(component)
    }

    /// Starts a stopped component and waits until it works.
    pub(crate) fn start(&self, component: &str) -> Result<()> {
        self.provider.start(component)
    }
}

/// What [`Cluster::up`] needs of the machine: packages, programs, and this process to be root, which it is in another of the
/// same arguments if it was not. kind brings its own.
pub(crate) fn prepare(up: &Up) -> Result<()> {
    if up.provider == ProviderName::Kind {
        return Ok(());
    }
    let shape = up.shape();
    ensure!(!shape.network.cni.is_cilium(), "Cilium is for `--provider kind`, where its own chart installs it");
    local::set_up(shape.version, Some(shape.network))?;
    as_root("making network namespaces and cgroups for a cluster")
}

/// The folder of a local cluster's programs, which are made if they are not there.
pub(crate) fn programs() -> Result<PathBuf> {
    let version = KubernetesVersion::in_tree();
    local::set_up(version, None)?;
    local::programs(version)
}

pub(crate) fn run(options: &ClusterOptions) -> Result<()> {
    match &options.action {
        Action::Setup { kubernetes_version } => {
            let version = kubernetes_version.unwrap_or_else(KubernetesVersion::in_tree);
            let did = if local::set_up(version, None)? { "done" } else { "nothing to do" };
            println!("{} {did}: `cargo xtask cluster up` will work now", ui::green("set up,"));
            Ok(())
        }
        Action::Up(up) => self::up(up),
        Action::Down => {
            let said = if Cluster::down()? { "the cluster is gone" } else { "there was no cluster" };
            println!("{said}");
            Ok(())
        }
        Action::Status { output } => status::show(Cluster::found()?.as_ref(), *output),
        Action::Kubeconfig { user, group } => {
            let cluster = Cluster::present()?;
            let path = match user {
                Some(user) => cluster.user(user, group)?,
                None => cluster.kubeconfig().to_owned(),
            };
            println!("export KUBECONFIG={}", path.display());
            Ok(())
        }
        Action::Load { archive } => Cluster::to_change("entering the nodes")?.load(archive),
        Action::Enter { node, command } => enter(node, command),
        Action::Stop { component } => Cluster::to_change("ending a process of the cluster")?.stop(component),
        Action::Start { component } => Cluster::to_change("starting a process of the cluster")?.start(component),
    }
}

fn up(up: &Up) -> Result<()> {
    prepare(up)?;
    let cluster = Cluster::up(up)?;
    for node in cluster.nodes()? {
        println!("   {} {}", node.name, node.address);
    }
    println!("   export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("   cargo xtask cluster status, down");
    Ok(())
}

fn enter(node: &str, command: &[OsString]) -> Result<()> {
    let mut entering = Cluster::to_change("entering a node")?.enter(node)?;
    let shell = [OsString::from("sh")];
    entering.args(if command.is_empty() { &shell } else { command });
    Err(entering.exec()).with_context(|| format!("cannot start `{}`", child::spelled(&entering)))
}

/// Goes on as root, in this process or in another in its place, with the same cache.
fn as_root(what_for: &str) -> Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let typed: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    match privilege::obtain(what_for, &[format!("cargo xtask {}", typed.join(" "))])? {
        privilege::Privilege::Root => Ok(()),
        sudo @ privilege::Privilege::Sudo => {
            let cache = paths::cache()?;
            let above = cache.parent().expect("redir's cache lies in another");
            let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
            sudo.again(&[("XDG_CACHE_HOME", above.as_os_str())], &arguments)
        }
    }
}
