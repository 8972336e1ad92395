//! The local cluster: a whole Kubernetes on this machine without a container engine or a registry. Owns its life: what is
//! started in which order, when it is up, and that all of it goes. What it consists of is in the modules below.
//!
//! A node is a network, mount, PID, UTS and IPC namespace, with a containerd, a kubelet and a kube-proxy; the control
//! plane has a network namespace. All of it lives in one cgroup, and stores everything in one folder.

mod cgroup;
mod components;
mod network;
mod pki;
mod plan;
mod programs;
mod ready;

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use redir_rig::namespace::checked;
use redir_rig::{cleanup::NETNS_DIR, wait};
use serde_json::{Value, json};

use super::kubectl::Kubectl;
use super::{Node, Piece, Provider};
use crate::{lock, paths, setup, signals, ui};
use cgroup::Cgroups;
use components::{CONTAINERD_SOCKET, Component, Files, Kind};
use pki::Pki;
use plan::{LOCK, Machine, STATE};
pub(super) use programs::KUBERNETES;

/// What a component may take to end by itself: etcd and the API server close what they have open.
const GRACE: Duration = Duration::from_secs(10);
/// Where the programs are in a node.
const PROGRAMS_IN_NODE: &str = "/var/opt/kubernetes/bin";
/// Where a node's and the control plane's programs look for others.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A local cluster that was started, by this process or another.
pub(super) struct Local {
    nodes: u8,
    cgroups: Cgroups,
    kubectl: Kubectl,
}

/// What `up` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Was {
    Down,
    /// Some of its components did not run.
    Incomplete,
    Up,
}

/// Everything that needs no root: packages, and the programs.
pub(super) fn set_up() -> Result<bool> {
    setup::run(setup::Say::OnlyWork)?;
    programs::install()
}

/// The cluster on this machine, in whatever state it is.
pub(super) fn found() -> Result<Option<Local>> {
    let Ok(text) = fs::read_to_string(record()) else { return Ok(None) };
    let record: Value =
        serde_json::from_str(&text).with_context(|| format!("cannot read {}", self::record().display()))?;
    let nodes =
        record["nodes"].as_u64().and_then(|nodes| u8::try_from(nodes).ok()).context("a cluster without nodes")?;
    Ok(Some(Local {
        nodes,
        cgroups: Cgroups::find()?,
        kubectl: admin(record["programs"].as_str().unwrap_or_default()),
    }))
}

/// Starts a cluster, or what does not run of the one that is there, and waits until everything works. Needs root.
pub(super) fn up(nodes: u8) -> Result<(Local, Was)> {
    let _lock = lock::exclusive(Path::new(LOCK), "`cargo xtask cluster`")?;
    if let Some(local) = found()?.filter(Local::holds_together) {
        ensure!(
            local.nodes == nodes && fs::read_to_string(record()).ok() == Some(recorded(nodes)?),
            "another cluster is up, made with `--nodes {}`: `cargo xtask cluster down` ends it",
            local.nodes
        );
        let was = local.complete()?;
        return Ok((local, was));
    }
    remove(Log::Goes)?;
    let local = start(nodes).inspect_err(|_| {
        // What it said stays, until the next `up` or `down`.
        if let Err(error) = remove(Log::Stays) {
            eprintln!("{} {error:#}", ui::red("error:"));
        }
    })?;
    Ok((local, Was::Down))
}

/// Ends and removes all of it, whatever state it is in; whether there was anything. Needs root.
pub(super) fn down() -> Result<bool> {
    let _lock = lock::exclusive(Path::new(LOCK), "`cargo xtask cluster`")?;
    let there = network::exists() || Path::new(STATE).exists() || Cgroups::find().is_ok_and(|cgroups| cgroups.exist());
    remove(Log::Goes)?;
    Ok(there)
}

/// What becomes of the components' logs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Log {
    Stays,
    Goes,
}

fn remove(log: Log) -> Result<()> {
    // Namespaces of a dead process go with its mounts and devices, so processes come first.
    if let Ok(cgroups) = Cgroups::find() {
        cgroups.end_all()?;
    }
    network::remove()?;
    for entry in fs::read_dir(STATE).into_iter().flatten().flatten() {
        if log == Log::Goes || entry.path() != components::logs() {
            discard(&entry.path())?;
        }
    }
    if log == Log::Goes { discard(Path::new(STATE)) } else { Ok(()) }
}

/// Removes a file or folder, but never through a mount: nothing of ours is mounted here, only in nodes.
fn discard(path: &Path) -> Result<()> {
    let mut command = Command::new("rm");
    checked(command.args(["--recursive", "--force", "--one-file-system", "--"]).arg(path), None).map(drop)
}

fn start(nodes: u8) -> Result<Local> {
    let line = ui::Line::start("network, keys and files");
    let pki = prepare(nodes)?;
    let local = found()?.expect("the record was written");
    pki.kubeconfig("admin", &components::api_url(), local.kubectl.kubeconfig())?;
    line.end("made");
    local.complete().map(|_| local)
}

/// All that is there before the first process.
fn prepare(nodes: u8) -> Result<Pki> {
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700);
    for folder in [components::logs(), Machine::Control.folder(), Path::new(STATE).join("pki")] {
        private.create(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    open_to_the_person()?;
    // First of all, so that whatever else fails is found.
    fs::write(record(), recorded(nodes)?).with_context(|| format!("cannot write {}", record().display()))?;
    let cgroups = Cgroups::find()?;
    Machine::all(nodes).into_iter().try_for_each(|machine| cgroups.prepare(machine))?;
    network::make(nodes)?;
    let pki = Pki::make(nodes)?;
    Files { pki: &pki, snapshotter: snapshotter()?, pause: programs::PAUSE }.write(nodes)?;
    Ok(pki)
}

/// The folder of kubeconfigs belongs to whoever xtask was started by, who may not be root.
fn open_to_the_person() -> Result<()> {
    let (state, folder) = (Path::new(STATE), kubeconfigs());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::set_permissions(state, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .with_context(|| format!("cannot open {}", state.display()))?;
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

/// What tells whether a running cluster is the wanted one.
fn recorded(nodes: u8) -> Result<String> {
    Ok(json!({ "nodes": nodes, "programs": programs::folder()? }).to_string())
}

fn kubeconfigs() -> PathBuf {
    Path::new(STATE).join("kubeconfig")
}

fn admin(programs: &str) -> Kubectl {
    Kubectl::new(Path::new(programs).join("bin/kubectl"), kubeconfigs().join("admin.kubeconfig"))
}

impl Local {
    /// Whether the machines are there, so that only components could be missing. What a reboot or a killed `up` left is not.
    fn holds_together(&self) -> bool {
        self.kubectl.kubeconfig().exists() && Machine::nodes(self.nodes).all(|machine| self.init(machine).is_ok())
    }

    /// Starts what does not run, in order, and waits until all of it works.
    fn complete(&self) -> Result<Was> {
        let missing: Vec<Component> = Component::all(self.nodes).filter(|component| !self.runs(*component)).collect();
        let was = if missing.is_empty() {
            Was::Up
        } else if missing.len() == Component::all(self.nodes).count() {
            Was::Down
        } else {
            Was::Incomplete
        };
        let start = |kinds: &[Kind]| {
            let mut wanted = missing.iter().filter(|component| kinds.contains(&component.kind));
            wanted.try_for_each(|component| self.start_component(*component))
        };
        start(&[Kind::Etcd, Kind::ApiServer, Kind::Node])?;
        self.wait_for_nodes_to_be_made()?;
        start(&[Kind::Containerd])?;
        self.wait("etcd and the API server", |local| local.api_server_wants())?;
        start(&[Kind::ControllerManager, Kind::Scheduler])?;
        for component in missing.iter().filter(|component| component.kind == Kind::Containerd) {
            self.import(component.machine, &programs::folder()?.join("pause.tar"))?;
        }
        self.register()?;
        start(&[Kind::Kubelet, Kind::Proxy])?;
        self.wait("controllers and scheduler", |local| local.controllers_want())?;
        self.wait("nodes", |local| local.nodes_want())?;
        Ok(was)
    }

    /// Makes the nodes' objects, which a kubelet would make too, but without the range of its pods, for which it then waits.
    fn register(&self) -> Result<()> {
        for (node, number) in Machine::nodes(self.nodes).zip(1..) {
            let pods = Machine::pods(number).to_string();
            let object = json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": { "name": node.to_string() },
                "spec": { "podCIDR": pods, "podCIDRs": [pods] },
                // A kubelet of this version panics over a node without any.
                "status": { "capacity": { "pods": "110" }, "allocatable": { "pods": "110" } },
            });
            self.kubectl.output_with(&["apply", "--filename=-"], &object)?;
        }
        Ok(())
    }

    fn runs(&self, component: Component) -> bool {
        !self.processes(component).is_empty()
    }

    fn processes(&self, component: Component) -> Vec<i32> {
        self.cgroups.processes(component.machine, component.kind.name())
    }

    /// Starts it in its cgroup and namespaces, in a session of its own, with its words in its log; does not wait.
    fn start_component(&self, component: Component) -> Result<()> {
        let log = File::options().create(true).append(true).open(component.log());
        let log = log.with_context(|| format!("cannot write {}", component.log().display()))?;
        let doors = self.cgroups.doors(component.machine, component.kind.name())?;
        let mut command = Command::new("sh");
        command.args(["-ec", r#"echo 0 >"$1"; echo 0 >"$2"; shift 2; exec setsid "$@""#, "sh"]).args(doors);
        command.args(self.invocation(component)?);
        command.env_clear().env("PATH", SYSTEM_PATH).current_dir("/");
        if component.machine != Machine::Control {
            command.env("PATH", format!("{PROGRAMS_IN_NODE}:{SYSTEM_PATH}"));
        }
        let name = component.name();
        let errors = log.try_clone().context("cannot copy a descriptor")?;
        let started = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let mut child = started.with_context(|| format!("cannot start {name}"))?;
        // It outlives this process; until then somebody must collect it.
        thread::spawn(move || child.wait());
        Ok(())
    }

    /// The whole command, from the network namespace on.
    fn invocation(&self, component: Component) -> Result<Vec<String>> {
        let name = component.kind.name();
        let mut words = match component.kind {
            Kind::Containerd | Kind::Kubelet | Kind::Proxy => {
                [self.entering(component.machine)?, vec![format!("{PROGRAMS_IN_NODE}/{name}")]].concat()
            }
            kind => {
                let namespace = format!("--net={NETNS_DIR}/{}", component.machine.namespace());
                let program =
                    if kind == Kind::Node { becoming_a_node() } else { vec![path(&programs::program(name)?)] };
                [vec!["nsenter".into(), namespace, "--".into()], program].concat()
            }
        };
        words.extend(component.arguments());
        if component.kind == Kind::Node {
            words.push(path(&programs::folder()?));
        }
        Ok(words)
    }

    /// The words before a command that is to run in a node.
    fn entering(&self, node: Machine) -> Result<Vec<String>> {
        let target = format!("--target={}", self.init(node)?);
        let words = ["nsenter", &target, "--net", "--mount", "--pid", "--uts", "--ipc", "--"];
        Ok(words.map(str::to_owned).to_vec())
    }

    /// A node's first process.
    fn init(&self, node: Machine) -> Result<i32> {
        let processes = self.processes(Component { machine: node, kind: Kind::Node });
        let first = |pid: &i32| {
            // It is pid 1 in its own namespace, and has become `pause` once the node is made.
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let has = |name: &str, value: &str| {
                let mut lines = status.lines().filter_map(|line| line.strip_prefix(name));
                lines.any(|rest| rest.split_whitespace().last() == Some(value))
            };
            has("NSpid:", "1") && has("Name:", "pause")
        };
        processes.into_iter().find(first).with_context(|| format!("{node} is not running"))
    }

    fn wait_for_nodes_to_be_made(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(30);
        for node in Machine::nodes(self.nodes) {
            let made = wait::until_true(format!("{node} to be made"), LIMIT, || Ok(self.init(node).is_ok()));
            made.map_err(|error| self.blame(Component { machine: node, kind: Kind::Node }, &format!("{error:#}")))?;
        }
        Ok(())
    }

    /// Imports an archive of images into a node; containerd's own words.
    fn import(&self, node: Machine, archive: &Path) -> Result<String> {
        // containerd's socket is there some moments after its start.
        const LIMIT: Duration = Duration::from_secs(60);
        let containerd = Component { machine: node, kind: Kind::Containerd };
        let answers =
            || Ok(self.ctr(node, &["version"])?.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success());
        wait::until_true("containerd to answer", LIMIT, answers)
            .map_err(|error| self.blame(containerd, &format!("{error:#}")))?;
        let file = File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
        let output = self.ctr(node, &["images", "import", "-"])?.stdin(file).output().context("cannot start ctr")?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{node} does not take {}: {}", archive.display(), words.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn ctr(&self, node: Machine, arguments: &[&str]) -> Result<Command> {
        let mut command = self.command_in(node)?;
        command.arg(format!("{PROGRAMS_IN_NODE}/ctr")).args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"]);
        command.args(arguments);
        Ok(command)
    }

    fn command_in(&self, node: Machine) -> Result<Command> {
        let words = self.entering(node)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("PATH", format!("{PROGRAMS_IN_NODE}:{SYSTEM_PATH}")).current_dir("/");
        command.env("CONTAINERD_ADDRESS", CONTAINERD_SOCKET).env("CONTAINERD_NAMESPACE", "k8s.io");
        Ok(command)
    }

    /// Waits until `look` finds nothing wanting.
    fn wait(&self, what: &str, look: impl Fn(&Local) -> Option<ready::Wanting>) -> Result<()> {
        // A loaded machine takes half a minute for the slowest of them.
        const LIMIT: Duration = Duration::from_secs(300);
        const LOOK: Duration = Duration::from_millis(100);
        let line = ui::Line::start(what);
        let deadline = Instant::now() + LIMIT;
        while let Some(wanting) = look(self) {
            if signals::interrupted() {
                line.end("interrupted");
                bail!("interrupted");
            }
            if !self.runs(wanting.component) {
                line.end("failed");
                return Err(self.blame(wanting.component, "it has ended"));
            }
            if Instant::now() >= deadline {
                line.end("failed");
                return Err(self.blame(wanting.component, &format!("{} after {}", wanting.what, ui::spoken(LIMIT))));
            }
            line.tick(&format!("{}: {}", wanting.component.name(), wanting.what));
            thread::sleep(LOOK);
        }
        line.end("ready");
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

    fn machine(&self, name: &str) -> Result<Machine> {
        let found = Machine::nodes(self.nodes).find(|node| node.to_string() == name);
        found.with_context(|| format!("no node is called {name}: there are node-1 to node-{}", self.nodes))
    }

    fn component(&self, name: &str) -> Result<Component> {
        let found = Component::all(self.nodes).filter(|component| component.kind != Kind::Node);
        let found = found.into_iter().find(|component| component.name() == name);
        found.with_context(|| format!("no component is called {name}: `cargo xtask cluster status` names them"))
    }
}

/// A node's namespaces are made by unshare; `node.sh` then makes itself at home in them.
fn becoming_a_node() -> Vec<String> {
    let unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"];
    let script = components::node_script().display().to_string();
    let words = unshare.into_iter().chain(["--propagation", "private", "sh"]).map(str::to_owned);
    words.chain([script]).collect()
}

fn path(path: &Path) -> String {
    path.display().to_string()
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
        let node = |machine: Machine| Node { name: machine.to_string(), address: machine.address().into() };
        Ok(Machine::nodes(self.nodes).map(node).collect())
    }

    fn enter(&self, node: &str) -> Result<Command> {
        self.command_in(self.machine(node)?)
    }

    fn load(&self, archive: &Path) -> Result<()> {
        for node in Machine::nodes(self.nodes) {
            let words = self.import(node, archive)?;
            // `unpacking NAME (DIGEST)...done`
            let images = words.lines().filter_map(|line| line.strip_prefix("unpacking ")?.split(' ').next());
            images.for_each(|image| println!("{node}: {image}"));
        }
        Ok(())
    }

    fn stop(&self, component: &str) -> Result<()> {
        let component = self.component(component)?;
        self.cgroups.end(component.machine, component.kind.name(), GRACE)
    }

    fn start(&self, component: &str) -> Result<()> {
        let component = self.component(component)?;
        if !self.runs(component) {
            self.start_component(component)?;
        }
        let control = component.machine == Machine::Control;
        self.wait("API server", |local| local.api_server_wants())?;
        self.wait(&component.name(), |local| if control { local.controllers_want() } else { local.nodes_want() })
    }

    fn pieces(&self) -> Result<Vec<Piece>> {
        let piece = |component: Component| {
            let package = component.kind.package().map(programs::version).transpose()?;
            Ok(Piece {
                name: component.name(),
                version: package.unwrap_or_else(|| KUBERNETES.to_owned()),
                endpoint: component.endpoint(),
                processes: self.processes(component),
                log: component.log(),
            })
        };
        Component::all(self.nodes).filter(|component| component.kind != Kind::Node).map(piece).collect()
    }

    fn wanting(&self) -> Option<String> {
        let dead = Component::all(self.nodes).find(|component| !self.runs(*component));
        if let Some(component) = dead {
            return Some(format!("{} is not running; its log is {}", component.name(), component.log().display()));
        }
        let wanting = self.api_server_wants().or_else(|| self.controllers_want()).or_else(|| self.nodes_want())?;
        let (component, what) = (wanting.component, wanting.what);
        Some(format!("{}: {what}; its log is {}", component.name(), component.log().display()))
    }

    fn memory(&self) -> Option<u64> {
        self.cgroups.memory()
    }
}
