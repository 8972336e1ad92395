//! The local cluster: a whole Kubernetes on this machine without a container engine or a registry. Owns its life: what is
//! started in which order, when it is up, and that all of it goes. What it consists of is in the modules below.
//!
//! A node is a network, mount, PID, UTS and IPC namespace, with a containerd, a kubelet and a kube-proxy; the control
//! plane has a network namespace. All of it lives in one cgroup, and stores everything in one folder.

mod addons;
mod cgroup;
mod components;
mod dns;
mod files;
mod network;
mod pki;
mod plan;
mod process;
mod programs;
mod progress;
mod ready;

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use redir_rig::namespace::checked;
use redir_rig::wait;
use serde_json::{Value, json};

use super::kubectl::Kubectl;
use super::version::KubernetesVersion;
use super::{Cni, Network, Node, Piece, Provider, ProxyMode, Shape};
use crate::{lock, paths, setup, signals, ui};
use cgroup::NodeCgroups;
use components::{Component, ComponentKind};
use files::NodeFiles;
use pki::ClusterPki;
use plan::{ClusterMachine, LOCK, STATE};
use programs::ClusterPrograms;
pub(super) use programs::source_of;

/// A local cluster that was started, by this process or another.
pub(super) struct Local {
    shape: Shape,
    programs: ClusterPrograms,
    cgroups: NodeCgroups,
    kubectl: Kubectl,
}

/// What `up` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PreviousState {
    Down,
    /// Some of its components did not run.
    Incomplete,
    Up,
}

/// Everything that needs no root: packages, and the programs.
pub(super) fn set_up(version: KubernetesVersion, network: Option<Network>) -> Result<bool> {
    setup::run(setup::Say::OnlyWork)?;
    let programs = ClusterPrograms::of(version)?.install()?;
    let addons = network.map(addons::install).transpose()?;
    Ok(programs || addons == Some(true))
}

/// Where they are.
pub(super) fn programs(version: KubernetesVersion) -> Result<PathBuf> {
    Ok(ClusterPrograms::of(version)?.folder().join("bin"))
}

/// The cluster on this machine, in whatever state it is.
pub(super) fn found() -> Result<Option<Local>> {
    let Ok(text) = fs::read_to_string(record()) else { return Ok(None) };
    let read = |text: &str| {
        let record: Value = serde_json::from_str(text).ok()?;
        let shape = Shape {
            nodes: record["nodes"].as_u64().and_then(|nodes| u8::try_from(nodes).ok())?,
            version: record["kubernetes"].as_str()?.parse().ok()?,
            proxy: ProxyMode::from_str(record["proxy"].as_str()?, false).ok()?,
            network: Network {
                cni: Cni::from_str(record["cni"].as_str()?, false).ok()?,
                dns: record["dns"].as_bool()?,
                policy: record["policy"].as_bool()?,
            },
        };
        Some((shape, ClusterPrograms::in_folder(shape.version, record["programs"].as_str()?)))
    };
    let (shape, programs) = read(&text).with_context(|| {
        format!("cannot read {}: `cargo xtask cluster down` removes what is there", self::record().display())
    })?;
    let kubectl = Kubectl::new(programs.program("kubectl"), admin_kubeconfig());
    Ok(Some(Local { shape, programs, cgroups: NodeCgroups::find()?, kubectl }))
}

/// Starts a cluster, or what does not run of the one that is there, and waits until everything works. Needs root.
pub(super) fn up(shape: Shape) -> Result<(Local, PreviousState)> {
    let _lock = lock::exclusive(Path::new(LOCK), "`cargo xtask cluster`")?;
    if let Some(local) = found()?.filter(Local::holds_together) {
        let Shape { nodes, version, proxy, network } = local.shape;
        ensure!(
            local.shape == shape && local.programs == ClusterPrograms::of(shape.version)?,
            "another cluster is up, made with `--nodes {nodes} --kubernetes-version {version} --proxy {} --cni {}{}{}`: \
             `cargo xtask cluster down` ends it",
            proxy.name(),
            network.cni.name(),
            if network.dns { " --dns" } else { "" },
            if network.policy { " --policy" } else { "" },
        );
        let was = local.complete()?;
        return Ok((local, was));
    }
    remove(ComponentLog::Goes)?;
    let local = start(shape).inspect_err(|_| {
        // What it said stays, until the next `up` or `down`.
        if let Err(error) = remove(ComponentLog::Stays) {
            eprintln!("{} {error:#}", ui::red("error:"));
        }
    })?;
    Ok((local, PreviousState::Down))
}

/// Whether anything of a cluster is there, in whatever state.
pub(super) fn is_there() -> bool {
    network::exists() || Path::new(STATE).exists() || NodeCgroups::find().is_ok_and(|cgroups| cgroups.exist())
}

/// Ends and removes all of it. Needs root.
pub(super) fn down() -> Result<()> {
    let _lock = lock::exclusive(Path::new(LOCK), "`cargo xtask cluster`")?;
    remove(ComponentLog::Goes)
}

/// What becomes of the components' logs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ComponentLog {
    Stays,
    Goes,
}

fn remove(log: ComponentLog) -> Result<()> {
    // Namespaces of a dead process go with its mounts and devices, so processes come first.
    if let Ok(cgroups) = NodeCgroups::find() {
        cgroups.end_all()?;
    }
    network::remove()?;
    for entry in fs::read_dir(STATE).into_iter().flatten().flatten() {
        if log == ComponentLog::Goes || entry.path() != plan::logs() {
            discard(&entry.path())?;
        }
    }
    if log == ComponentLog::Goes { discard(Path::new(STATE)) } else { Ok(()) }
}

/// Removes a file or folder, but never through a mount: nothing of ours is mounted here, only in nodes.
fn discard(path: &Path) -> Result<()> {
    let mut command = Command::new("rm");
    checked(command.args(["--recursive", "--force", "--one-file-system", "--"]).arg(path), None).map(drop)
}

fn start(shape: Shape) -> Result<Local> {
    let line = ui::ProgressLine::start("network, keys and files");
    let prepared = prepare(shape);
    line.end(if prepared.is_ok() { "made" } else { "failed" });
    prepared?;
    let local = found()?.expect("the record was written");
    local.complete().map(|_| local)
}

/// All that is there before the first process.
fn prepare(shape: Shape) -> Result<()> {
    let (nodes, programs) = (shape.nodes, ClusterPrograms::of(shape.version)?);
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700);
    for folder in [ClusterMachine::Control.folder(), Path::new(STATE).join("pki")] {
        private.create(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let state = Path::new(STATE);
    let open =
        || fs::set_permissions(state, Permissions::from_mode(0o755)).and_then(|()| fs::create_dir_all(plan::logs()));
    open().with_context(|| format!("cannot open {} to everyone", state.display()))?;
    give_kubeconfigs_to_the_person()?;
    // First of all, so that whatever else fails is found.
    fs::write(record(), recorded(shape, &programs)).with_context(|| format!("cannot write {}", record().display()))?;
    let cgroups = NodeCgroups::find()?;
    ClusterMachine::all(nodes).into_iter().try_for_each(|machine| cgroups.prepare(machine))?;
    network::make(nodes, shape.network.cni)?;
    let pki = ClusterPki::make(nodes)?;
    NodeFiles { pki: &pki, snapshotter: snapshotter()?, pause: &programs.pause_image() }.write(shape)?;
    // Last of all: who finds it finds all the others.
    pki.kubeconfig("admin", &plan::api_url(), &admin_kubeconfig())
}

/// Their folder belongs to whoever xtask was started by, who may not be root.
fn give_kubeconfigs_to_the_person() -> Result<()> {
    let folder = kubeconfigs();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let person = fs::metadata(paths::cache()?).context("cannot look at redir's cache")?;
    chown(&folder, Some(person.uid()), Some(person.gid()))
        .with_context(|| format!("cannot give {} away", folder.display()))
}

/// An overlay cannot lie on another, as a container's root often is one.
fn snapshotter() -> Result<&'static str> {
    let kind = checked(Command::new("stat").args(["--file-system", "--format=%T", STATE]), None)?;
    Ok(if kind.trim() == "overlayfs" { "native" } else { "overlayfs" })
}

fn record() -> PathBuf {
    Path::new(STATE).join("cluster.json")
}

/// What `found` reads.
fn recorded(shape: Shape, programs: &ClusterPrograms) -> String {
    let Shape { nodes, version, proxy, network } = shape;
    json!({
        "nodes": nodes,
        "kubernetes": version.to_string(),
        "proxy": proxy.name(),
        "cni": network.cni.name(),
        "dns": network.dns,
        "policy": network.policy,
        "programs": programs.folder(),
    })
    .to_string()
}

fn kubeconfigs() -> PathBuf {
    Path::new(STATE).join("kubeconfig")
}

fn admin_kubeconfig() -> PathBuf {
    kubeconfigs().join("admin.kubeconfig")
}

impl Local {
    /// Whether the machines are there, so that only components could be missing. What a reboot or a killed `up` left is not.
    fn holds_together(&self) -> bool {
        self.kubectl.kubeconfig().exists()
            && ClusterMachine::nodes(self.shape.nodes).all(|machine| self.init(machine).is_ok())
    }

    /// Starts what does not run, in order, and waits until all of it works.
    fn complete(&self) -> Result<PreviousState> {
        let missing: Vec<Component> = Component::all(self.shape).filter(|component| !self.runs(*component)).collect();
        if missing.is_empty() && self.wanting().is_none() {
            return Ok(PreviousState::Up);
        }
        let all = missing.len() == Component::all(self.shape).count();
        let start = |kinds: &[ComponentKind]| {
            let mut wanted = missing.iter().filter(|component| kinds.contains(&component.kind));
            wanted.try_for_each(|component| self.start_component(*component))
        };
        start(&[ComponentKind::Etcd, ComponentKind::ApiServer, ComponentKind::Node])?;
        self.wait_for_nodes_to_be_made()?;
        start(&[ComponentKind::Containerd])?;
        self.wait("etcd and the API server", &[ComponentKind::Etcd, ComponentKind::ApiServer])?;
        start(&[ComponentKind::ControllerManager, ComponentKind::Scheduler])?;
        for kubelet in missing.iter().filter(|component| component.kind == ComponentKind::Kubelet) {
            self.import(kubelet.machine, &self.programs.pause_archive())?;
        }
        self.register()?;
        start(&[ComponentKind::Kubelet, ComponentKind::Proxy, ComponentKind::KubeRouter, ComponentKind::Flannel])?;
        self.wait("controllers and scheduler", &[ComponentKind::ControllerManager, ComponentKind::Scheduler])?;
        let addons = [ComponentKind::KubeRouter, ComponentKind::Flannel];
        if Component::all(self.shape).any(|component| addons.contains(&component.kind)) {
            self.wait("network", &addons)?;
        }
        self.wait("nodes", &[ComponentKind::Containerd, ComponentKind::Kubelet, ComponentKind::Proxy])?;
        if self.shape.network.dns {
            self.start_dns()?;
        }
        Ok(if all { PreviousState::Down } else { PreviousState::Incomplete })
    }

    /// Makes the nodes' objects, which a kubelet would make too, but without the range of its pods, for which it then waits.
    fn register(&self) -> Result<()> {
        for (node, number) in ClusterMachine::nodes(self.shape.nodes).zip(1..) {
            let pods = ClusterMachine::pods(number).map(|network| network.to_string());
            let addresses = [IpAddr::from(node.address()), node.address6().into()];
            let addresses = addresses.map(|address| json!({ "type": "InternalIP", "address": address }));
            let object = json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": { "name": node.to_string() },
                "spec": { "podCIDR": pods[0], "podCIDRs": pods },
                // The proxy takes its addresses from here.
                "status": { "addresses": addresses },
            });
            self.kubectl.output_with(&["apply", "--filename=-"], &object)?;
        }
        Ok(())
    }

    fn wait_for_nodes_to_be_made(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(30);
        for node in ClusterMachine::nodes(self.shape.nodes) {
            let made = wait::until_true(format!("{node} to be made"), LIMIT, || Ok(self.init(node).is_ok()));
            made.map_err(|error| {
                self.blame(Component { machine: node, kind: ComponentKind::Node }, &format!("{error:#}"))
            })?;
        }
        Ok(())
    }

    /// Waits until all components of these kinds work.
    fn wait(&self, what: &str, kinds: &[ComponentKind]) -> Result<()> {
        let line = ui::ProgressLine::start(what);
        let mut components = Component::all(self.shape).filter(|component| kinds.contains(&component.kind));
        let result = components.try_for_each(|component| self.wait_for(component, &line));
        line.end(if result.is_ok() { "ready" } else { "failed" });
        result
    }

    fn wait_for(&self, component: Component, line: &ui::ProgressLine) -> Result<()> {
        // A loaded machine takes half a minute for the slowest of them.
        const LIMIT: Duration = Duration::from_secs(300);
        const LOOK: Duration = Duration::from_millis(100);
        let deadline = Instant::now() + LIMIT;
        while let Some(lack) = self.lacks(component) {
            ensure!(!signals::interrupted(), "interrupted");
            if !self.runs(component) {
                return Err(self.blame(component, "it has ended"));
            }
            if Instant::now() >= deadline {
                return Err(self.blame(component, &format!("{lack} after {}", ui::spoken(LIMIT))));
            }
            line.tick(&format!("{} {lack}", component.name()));
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// An error that names a component, with the end of its log.
    fn blame(&self, component: Component, what: &str) -> anyhow::Error {
        const LINES: usize = 15;
        let log = fs::read_to_string(component.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LINES)..].join("\n    ");
        anyhow!(
            "{}: {what}\n\n    {tail}\n\nits whole log is {}; `cargo xtask cluster up` tries again",
            component.name(),
            component.log().display()
        )
    }

    fn machine(&self, name: &str) -> Result<ClusterMachine> {
        let found = ClusterMachine::nodes(self.shape.nodes).find(|node| node.to_string() == name);
        found.with_context(|| format!("no node is called {name}: there are node-1 to node-{}", self.shape.nodes))
    }

    fn component(&self, name: &str) -> Result<Component> {
        let found = Component::all(self.shape).filter(|component| component.kind != ComponentKind::Node);
        let found = found.into_iter().find(|component| component.name() == name);
        found.with_context(|| format!("no component is called {name}: `cargo xtask cluster status` names them"))
    }
}

impl Provider for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    fn kubeconfigs(&self) -> Result<PathBuf> {
        Ok(kubeconfigs())
    }

    fn nodes(&self) -> Result<Vec<Node>> {
        let node = |machine: ClusterMachine| Node { name: machine.to_string(), address: machine.address().into() };
        Ok(ClusterMachine::nodes(self.shape.nodes).map(node).collect())
    }

    fn enter(&self, node: &str) -> Result<Command> {
        self.command_in(self.machine(node)?)
    }

    fn load(&self, archive: &Path) -> Result<()> {
        for node in ClusterMachine::nodes(self.shape.nodes) {
            let words = self.import(node, archive)?;
            // `unpacking NAME (DIGEST)...done`
            let images = words.lines().filter_map(|line| line.strip_prefix("unpacking ")?.split(' ').next());
            images.for_each(|image| println!("{node}: {image}"));
        }
        Ok(())
    }

    fn stop(&self, component: &str) -> Result<()> {
        let component = self.component(component)?;
        let ended = [Signal::SIGTERM, Signal::SIGKILL].into_iter().any(|signal| self.ends_by(signal, component));
        ensure!(ended, "{} does not end, although killed", component.name());
        Ok(())
    }

    fn start(&self, component: &str) -> Result<()> {
        let component = self.component(component)?;
        if !self.runs(component) {
            self.start_component(component)?;
        }
        let line = ui::ProgressLine::start(component.name());
        let result = self.wait_for(component, &line);
        line.end(if result.is_ok() { "ready" } else { "failed" });
        result
    }

    fn pieces(&self) -> Result<Vec<Piece>> {
        let piece = |component: Component| {
            let part = component.kind.part().map(|part| self.programs.version_of(part)).transpose()?;
            Ok(Piece {
                name: component.name(),
                version: part.unwrap_or_else(|| self.shape.version.to_string()),
                endpoint: component.endpoint(),
                processes: self.processes(component),
                log: component.log(),
            })
        };
        Component::all(self.shape).filter(|component| component.kind != ComponentKind::Node).map(piece).collect()
    }

    fn wanting(&self) -> Option<String> {
        let mut components = Component::all(self.shape);
        match components.find_map(|component| Some((component, self.lacks(component)?))) {
            Some((component, lack)) => {
                Some(format!("{}: {lack}; its log is {}", component.name(), component.log().display()))
            }
            None => self.dns_lacks().map(|lack| format!("DNS {lack}; `cargo xtask cluster up` brings it")),
        }
    }

    fn needs_root(&self) -> bool {
        true
    }

    fn memory(&self) -> Option<u64> {
        self.cgroups.memory()
    }

    fn audit_log(&self) -> Option<PathBuf> {
        Some(plan::audit_log())
    }
}
