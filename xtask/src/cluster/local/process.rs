//! The local cluster's processes: how each is started in its cgroup and namespaces, found again, entered and ended.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redir_rig::{cleanup::NETNS_DIR, wait};

use super::components::{Component, ComponentKind};
use super::plan::{self, CONTAINERD_SOCKET, ClusterMachine};
use super::{Local, addons};

/// What a component may take to end by itself: etcd and the API server close what they have open.
const GRACE: Duration = Duration::from_secs(10);
/// Where the programs are in a node.
const PROGRAMS_IN_NODE: &str = "/var/opt/kubernetes/bin";
/// Where a node's and the control plane's programs look for others.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

impl Local {
    pub(super) fn runs(&self, component: Component) -> bool {
        !self.processes(component).is_empty()
    }

    /// Without the containers that a containerd looks after: they live on while it restarts.
    pub(super) fn processes(&self, component: Component) -> Vec<i32> {
        let of_containers = |pid: &i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            matches!(name.trim(), "containerd-shim" | "runc")
        };
        let all = self.cgroups.processes(component.machine, component.kind.name());
        all.into_iter().filter(|pid| component.kind != ComponentKind::Containerd || !of_containers(pid)).collect()
    }

    /// Signals a component and waits for its end; whether it has ended.
    pub(super) fn ends_by(&self, signal: Signal, component: Component) -> bool {
        for pid in self.processes(component) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        wait::until_true("its end", GRACE, || Ok(!self.runs(component))).is_ok()
    }

    /// Starts it in its cgroup and namespaces, in a session of its own, with its words in its log; does not wait.
    pub(super) fn start_component(&self, component: Component) -> Result<()> {
        let log = File::options().create(true).append(true).open(component.log());
        let log = log.with_context(|| format!("cannot write {}", component.log().display()))?;
        let doors = self.cgroups.doors(component.machine, component.kind.name())?;
        let mut command = Command::new("sh");
        command.args(["-ec", r#"echo 0 >"$1"; echo 0 >"$2"; shift 2; exec setsid "$@""#, "sh"]).args(doors);
        command.args(self.invocation(component)?);
        command.env_clear().env("PATH", SYSTEM_PATH).current_dir("/");
        if component.machine != ClusterMachine::Control {
            command.env("PATH", format!("{PROGRAMS_IN_NODE}:{SYSTEM_PATH}"));
        }
        // By this flannel knows which node it is on.
        command.env("NODE_NAME", component.machine.to_string());
        let name = component.name();
        let errors = log.try_clone().context("cannot copy a descriptor")?;
        let started = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let mut child = started.with_context(|| format!("cannot start {name}"))?;
        // Only in its cgroup can it be told from one that has ended.
        let arrived = || Ok(self.runs(component) || child.try_wait()?.is_some());
        wait::until_true(format!("{name} to be in its cgroup"), GRACE, arrived)?;
        // It outlives this process; until then somebody must collect it.
        thread::spawn(move || child.wait());
        Ok(())
    }

    /// The whole command, from the network namespace on.
    fn invocation(&self, component: Component) -> Result<Vec<String>> {
        let name = component.kind.name();
        let mut words = match component.kind {
            ComponentKind::Containerd | ComponentKind::Kubelet | ComponentKind::Proxy => {
                [self.entering(component.machine)?, vec![format!("{PROGRAMS_IN_NODE}/{name}")]].concat()
            }
            ComponentKind::KubeRouter | ComponentKind::Flannel => {
                let addon = component.kind.addon().expect("each of these is an addon's");
                [self.entering(component.machine)?, vec![addon.file_in_node(name)]].concat()
            }
            kind => {
                let namespace = format!("--net={NETNS_DIR}/{}", component.machine.namespace());
                let program = if kind == ComponentKind::Node {
                    becoming_a_node()
                } else {
                    vec![path(&self.programs.program(name))]
                };
                [vec!["nsenter".into(), namespace, "--".into()], program].concat()
            }
        };
        words.extend(component.arguments(self.shape));
        if component.kind == ComponentKind::Node {
            words.extend([path(self.programs.folder()), path(&addons::folder()?)]);
        }
        Ok(words)
    }

    /// The words before a command that is to run in a node.
    fn entering(&self, node: ClusterMachine) -> Result<Vec<String>> {
        let target = format!("--target={}", self.init(node)?);
        let words = ["nsenter", &target, "--net", "--mount", "--pid", "--uts", "--ipc", "--"];
        Ok(words.map(str::to_owned).to_vec())
    }

    /// A node's first process.
    pub(super) fn init(&self, node: ClusterMachine) -> Result<i32> {
        let processes = self.processes(Component { machine: node, kind: ComponentKind::Node });
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

    /// Imports an archive of images into a node; containerd's own words.
    pub(super) fn import(&self, node: ClusterMachine, archive: &Path) -> Result<String> {
        // containerd's socket is there some moments after its start.
        const LIMIT: Duration = Duration::from_secs(60);
        let containerd = Component { machine: node, kind: ComponentKind::Containerd };
        let answers =
            || Ok(self.ctr(node, &["version"])?.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success());
        wait::until_true("containerd to answer", LIMIT, answers)
            .map_err(|error| self.blame(containerd, &format!("{error:#}")))?;
        let file = File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
        // Without containerd's transfer service it names each image as it unpacks it.
        let mut import = self.ctr(node, &["images", "import", "--local", "-"])?;
        let output = import.stdin(file).output().context("cannot start ctr")?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{node} does not take {}: {}", archive.display(), words.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn ctr(&self, node: ClusterMachine, arguments: &[&str]) -> Result<Command> {
        let mut command = self.command_in(node)?;
        command.arg(format!("{PROGRAMS_IN_NODE}/ctr")).args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"]);
        command.args(["--connect-timeout", "5s", "--timeout", "5m"]).args(arguments);
        Ok(command)
    }

    pub(super) fn command_in(&self, node: ClusterMachine) -> Result<Command> {
        let words = self.entering(node)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("PATH", format!("{PROGRAMS_IN_NODE}:{SYSTEM_PATH}")).current_dir("/");
        command.env("CONTAINERD_ADDRESS", CONTAINERD_SOCKET).env("CONTAINERD_NAMESPACE", "k8s.io");
        Ok(command)
    }
}

/// A node's namespaces are made by unshare; `node.sh` then makes itself at home in them.
fn becoming_a_node() -> Vec<String> {
    let unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"];
    let script = plan::node_script().display().to_string();
    let words = unshare.into_iter().chain(["--propagation", "private", "sh"]).map(str::to_owned);
    words.chain([script]).collect()
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
