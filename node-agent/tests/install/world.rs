//! A real API server with the controllers that installing is about, and an admin's `redir` and `kubectl` beside it.
//!
//! Only the kubelet is missing: the tests write the status of the agents' pods.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use redir_rig::{binaries, cleanup, namespace::Namespace, process::Process, topology::unique_prefix, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{self, TestApiServer};

/// For a command of redir's and what controllers do, on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(180);
/// The one node that there is.
pub(crate) const NODE: &str = "n1";

pub(crate) struct InstallCluster {
    // Before the namespace that they are in.
    _controllers: Process,
    server: TestApiServer,
    home: TempDir,
    pub(crate) node: Namespace,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct CommandResult {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl CommandResult {
    /// Ended so, and said all of this.
    pub(crate) fn must(self, code: i32, words: &[&str]) -> Result<Self> {
        ensure!(self.code == code, "ended with {} instead of {code}: {self:?}", self.code);
        let said = self.out.clone() + &self.err;
        for word in words {
            ensure!(said.contains(word), "lacks {word:?}: {self:?}");
        }
        Ok(self)
    }
}

impl InstallCluster {
    pub(crate) fn new() -> Result<Self> {
        let node = Namespace::new(format!("{}-admin", unique_prefix("t"))).context("namespaces: run as root")?;
        let server = TestApiServer::start(&node, std::net::Ipv4Addr::new(192, 0, 2, 1))?;
        let mut controllers = Command::new(server::programs()?.join("kube-controller-manager"));
        controllers
            .arg(format!("--kubeconfig={}", server.admin_kubeconfig().display()))
            .args(["--leader-elect=false", "--secure-port=0"])
            .arg("--controllers=namespace,garbagecollector,daemonset,resourcequota");
        let controllers = node.spawn("kube-controller-manager", &mut controllers)?;
        let world = Self { _controllers: controllers, server, home: cleanup::directory("home")?, node };
        world.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"kubernetes.io/os": "linux"}}}))?;
        Ok(world)
    }

    fn redir_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binaries::find("redir")?);
        command.env("HOME", self.home.path()).env("XDG_CONFIG_HOME", self.home.path()).env("NO_COLOR", "1");
        command.env("KUBECONFIG", self.server.admin_kubeconfig()).args(arguments);
        Ok(command)
    }

    /// Starts `redir ARGUMENTS`; nobody is at a terminal.
    pub(crate) fn start(&self, arguments: &[&str]) -> Result<Process> {
        self.node.spawn("redir", &mut self.redir_command(arguments)?)
    }

    /// Runs it to its end.
    pub(crate) fn redir(&self, arguments: &[&str]) -> Result<CommandResult> {
        let mut process = self.start(arguments)?;
        self.end(&mut process)
    }

    pub(crate) fn end(&self, process: &mut Process) -> Result<CommandResult> {
        let code = process.exit_code(LONG)?;
        Ok(CommandResult { code, out: process.stdout(), err: process.stderr() })
    }

    /// Runs it at a terminal, where somebody has typed this.
    pub(crate) fn redir_at_a_terminal(&self, arguments: &[&str], typed: &str) -> Result<String> {
        let redir = binaries::find("redir")?.display().to_string();
        let line = [&[redir.as_str()], arguments].concat().join(" ");
        let (config, home) =
            (self.server.admin_kubeconfig().display().to_string(), self.home.path().display().to_string());
        let (config, home) = (format!("KUBECONFIG={config}"), format!("HOME={home}"));
        // Its own exit code is not what this is about, and would end the helper with an error.
        let line = format!("{line}; echo code $?");
        self.node.output_with(&["env", &config, &home, "script", "-qc", &line, "/dev/null"], Some(typed))
    }

    /// `kubectl ARGUMENTS`, its output.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with(arguments, None)
    }

    fn kubectl_with(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let kubectl = server::programs()?.join("kubectl").display().to_string();
        let config = self.server.admin_kubeconfig().display().to_string();
        self.node.output_with(&[&[kubectl.as_str(), "--kubeconfig", &config], arguments].concat(), input)
    }

    pub(crate) fn create(&self, object: &Value) -> Result<()> {
        self.kubectl_with(&["create", "-f", "-"], Some(&object.to_string())).map(drop)
    }

    /// `kubectl get KIND NAME`, or `None`.
    pub(crate) fn get(&self, arguments: &[&str]) -> Result<Option<Value>> {
        let text = self.kubectl(&[&["get", "--ignore-not-found", "-o", "json"], arguments].concat())?;
        if text.trim().is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
    }

    pub(crate) fn namespace(&self, name: &str) -> Result<Option<Value>> {
        self.get(&["namespace", name])
    }

    /// What a namespace enforces.
    pub(crate) fn level(&self, namespace: &str) -> Result<Value> {
        let found = self.namespace(namespace)?.context("no namespace")?;
        Ok(found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"].clone())
    }

    /// The names of everything that is redir's.
    pub(crate) fn installed(&self) -> Result<Vec<String>> {
        let kinds = "crd,clusterrole,clusterrolebinding,role,rolebinding,namespace,daemonset,serviceaccount,resourcequota,\
            validatingadmissionpolicy,validatingadmissionpolicybinding";
        let text = self.kubectl(&["get", kinds, "-A", "-l", "app.kubernetes.io/part-of=redir", "-o", "name"])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The agent's pod, once the controller has made it.
    pub(crate) fn pod(&self, namespace: &str) -> Result<String> {
        wait::until("the agent's pod", LONG, || {
            let pods = self.pods(namespace)?;
            Ok(pods.first().and_then(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)))
        })
    }

    /// The agents' pods that are there now.
    pub(crate) fn pods(&self, namespace: &str) -> Result<Vec<Value>> {
        let pods = self.get(&["pods", "-n", namespace, "-l", "app.kubernetes.io/name=redir-agent"])?;
        Ok(pods.and_then(|pods| pods["items"].as_array().cloned()).unwrap_or_default())
    }

    /// Writes what a kubelet would: how the agent's container is.
    pub(crate) fn container_is(&self, namespace: &str, pod: &str, container: &Value) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/status");
        wait::until_true("the status to be taken", LONG, || {
            let mut object: Value = serde_json::from_str(&self.kubectl(&["get", "--raw", &path])?)?;
            let mut status = json!({"name": "agent", "image": "a", "imageID": "", "ready": false, "restartCount": 0});
            status.as_object_mut().context("a map")?.extend(container.as_object().context("a map")?.clone());
            let ready = if status["ready"] == true { "True" } else { "False" };
            object["status"]["phase"] = json!("Running");
            object["status"]["conditions"] =
                json!([{"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-30T18:00:00Z"}]);
            object["status"]["containerStatuses"] = json!([status]);
            // The controller may have written in between.
            Ok(self.kubectl_with(&["replace", "--raw", &path, "-f", "-"], Some(&object.to_string())).is_ok())
        })
    }

    /// Installs to the end, with an agent that comes up.
    pub(crate) fn install(&self, namespace: &str, more: &[&str]) -> Result<CommandResult> {
        let mut process = self.start(&[&["install", "-n", namespace], more].concat())?;
        let pod = self.pod(namespace)?;
        self.container_is(namespace, &pod, &json!({"ready": true, "state": {"running": {}}}))?;
        self.end(&mut process)?.must(0, &["is installed: 1 agent is ready"])
    }
}
