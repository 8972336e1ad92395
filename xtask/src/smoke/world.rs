//! What the smoke test acts on: the programs, the app behind its Service, the developers, and how requests get there.
//!
//! Owns: making all of it, and asking. Must not judge answers.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use redir_rig::namespace::checked;
use redir_rig::process::Process;
use redir_rig::wait;
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, Node, kubectl};
use crate::demo::story::Answer;
use crate::{child, image, paths, signals};

/// The namespace of the app, and one that alice has nothing to do with.
pub(super) const SHOP: &str = "shop";
pub(super) const OTHER: &str = "other";
/// The app's port in the pod, by number and name, and its Service's.
pub(super) const PORT: u16 = 8080;
pub(super) const SERVICE_PORT: u16 = 80;
/// What the developer's requests carry.
pub(super) const HEADER: &str = "x-user: alice";

/// Names that no registry has: the images are brought to the nodes.
const AGENT_IMAGE: &str = "redir.test/redir-agent:smoke";
pub(super) const APP_IMAGE: &str = "redir.test/smoke-app:1";
/// Pods on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(180);
/// A client behind an intercepted workload never waits longer.
const CURL_SECONDS: &str = "15";

/// Everything that is built before the cluster is.
pub(super) struct SmokePrograms {
    redir: PathBuf,
    app: PathBuf,
    agent_archive: PathBuf,
    app_archive: PathBuf,
}

impl SmokePrograms {
    pub(super) fn build(debug: bool) -> Result<SmokePrograms> {
        let folder = paths::target()?.join("smoke");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let (profile, output) = if debug { ("dev", "debug") } else { ("release", "release") };
        let mut cli = paths::cargo();
        cli.current_dir(paths::root()).args(["build", "--package", "redir", "--profile", profile]);
        child::show(cli.env("CARGO_TARGET_DIR", paths::target()?))?;
        let agent_archive = image::build(AGENT_IMAGE, debug, Some(&folder.join("redir-agent.tar")))?;
        let app = folder.join("smoke-app");
        let source = paths::root().join("xtask/src/smoke/app.rs");
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"]).arg(&app).arg(source);
        child::show(&mut rustc)?;
        let app_archive = folder.join("smoke-app.tar");
        cluster::image::write(APP_IMAGE, &app, &app_archive)?;
        Ok(SmokePrograms { redir: paths::target()?.join(output).join("redir"), app, agent_archive, app_archive })
    }
}

/// The cluster with the app in it, and alice at her machine.
pub(super) struct SmokeWorld<'a> {
    pub(super) cluster: &'a Cluster,
    programs: &'a SmokePrograms,
    pub(super) nodes: Vec<Node>,
    /// May intercept in the shop; nothing; may intercept elsewhere.
    pub(super) alice: PathBuf,
    pub(super) mallory: PathBuf,
    pub(super) bob: PathBuf,
    /// Alice's own service, and its port.
    _blue: Process,
    pub(super) own_port: u16,
    pub(super) node_port: u16,
    /// The Service's address of each family, as in a URL.
    pub(super) cluster_ips: Vec<String>,
}

impl<'a> SmokeWorld<'a> {
    /// `redir` as the administrator, before there is a world.
    pub(super) fn admin(cluster: &Cluster, programs: &SmokePrograms, arguments: &[&str]) -> Result<String> {
        checked(redir(&programs.redir, cluster.kubeconfig()).args(arguments), None)
    }

    /// Installs redir by its own command.
    pub(super) fn install(cluster: &Cluster, programs: &SmokePrograms) -> Result<String> {
        cluster.load(&programs.agent_archive)?;
        let values = paths::target()?.join("smoke").join("values.yaml");
        fs::write(&values, "imagePullPolicy: Never\n").context("cannot write the values")?;
        let values = values.display().to_string();
        Self::admin(cluster, programs, &["install", "--image", AGENT_IMAGE, "--values", &values])
    }

    /// The app on two nodes behind a Service, the same labels in another namespace, and three users.
    pub(super) fn new(cluster: &'a Cluster, programs: &'a SmokePrograms) -> Result<SmokeWorld<'a>> {
        cluster.load(&programs.app_archive)?;
        let kubectl = cluster.kubectl();
        for namespace in [SHOP, OTHER] {
            kubectl.output_with(
                &["apply", "-f", "-"],
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
            )?;
            kubectl.output_with(&["apply", "-f", "-"], &deployment(namespace))?;
        }
        kubectl.output_with(&["apply", "-f", "-"], &service())?;
        for namespace in [SHOP, OTHER] {
            kubectl.command().args(["-n", namespace, "rollout", "status", "deploy/web", "--timeout=180s"]).output()?;
        }
        let user = |name: &str, namespace: Option<&str>| -> Result<PathBuf> {
            let kubeconfig = cluster.user(name, &[])?;
            if let Some(namespace) = namespace {
                kubectl.output_with(&["apply", "-f", "-"], &may_intercept(name, namespace))?;
            }
            Ok(kubeconfig)
        };
        let (alice, mallory, bob) = (user("alice", Some(SHOP))?, user("mallory", None)?, user("bob", Some(OTHER))?);
        let own_port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let blue = Process::spawn("blue", Command::new(&programs.app).args(["blue", &own_port.to_string()]))?;
        let found = kubectl.get(&["-n", SHOP, "service", "web"])?;
        let node_port = found["spec"]["ports"][0]["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
        Ok(SmokeWorld {
            cluster,
            programs,
            nodes: cluster.nodes()?,
            alice,
            mallory,
            bob,
            _blue: blue,
            own_port,
            node_port: node_port.context("the Service has no NodePort")?,
            cluster_ips: of_both_families(&found["spec"]["clusterIPs"]).context("the Service")?,
        })
    }

    /// Starts `redir intercept` as this user.
    pub(super) fn intercept(&self, user: &Path, arguments: &[&str]) -> Result<Intercepting> {
        self.intercept_in(SHOP, user, arguments)
    }

    /// The same in any namespace.
    pub(super) fn intercept_in(&self, namespace: &str, user: &Path, arguments: &[&str]) -> Result<Intercepting> {
        go_on()?;
        let mut command = redir(&self.programs.redir, user);
        command.args(["intercept", "-o", "json", "-n", namespace]).args(arguments);
        Ok(Intercepting { process: Process::spawn("redir intercept", &mut command)? })
    }

    /// Runs `redir` to its end as this user: exit code and all it said.
    pub(super) fn redir(&self, user: &Path, arguments: &[&str]) -> Result<(i32, String)> {
        let output = redir(&self.programs.redir, user).args(arguments).output().context("cannot start redir")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned()))
    }

    /// `redir` as the administrator.
    pub(super) fn as_admin(&self, arguments: &[&str]) -> Result<String> {
        Self::admin(self.cluster, self.programs, arguments)
    }

    /// What the app's pods of a namespace are: name, node and address of those that run and are ready.
    pub(super) fn pods(&self, namespace: &str) -> Result<Vec<SmokePod>> {
        self.labelled(namespace, "app=web")
    }

    /// The same for the pods with a label.
    pub(super) fn labelled(&self, namespace: &str, label: &str) -> Result<Vec<SmokePod>> {
        let list = self.cluster.kubectl().get(&["-n", namespace, "pods", "-l", label])?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_ready =
                conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            is_ready && pod["metadata"]["deletionTimestamp"].is_null()
        };
        let pods = list["items"].as_array().context("kubectl listed no pods")?;
        let pod = |pod: &Value| {
            let name = text(&pod["metadata"]["name"]);
            let ips: Value =
                pod["status"]["podIPs"].as_array().into_iter().flatten().map(|ip| ip["ip"].clone()).collect();
            Ok(SmokePod {
                node: text(&pod["spec"]["nodeName"]),
                address: text(&pod["status"]["podIP"]),
                addresses: of_both_families(&ips).with_context(|| format!("the pod {name}"))?,
                uid: text(&pod["metadata"]["uid"]),
                name,
            })
        };
        pods.iter().filter(ready).map(pod).collect()
    }

    /// A request from a node, with alice's header or without; the answer's first line.
    pub(super) fn ask(&self, node: &Node, host: &str, port: u16, header: Option<&str>) -> Answer {
        let mut curl = self.cluster.enter(&node.name)?;
        curl.arg("curl");
        asked(&mut curl, &format!("http://{host}:{port}/"), header)
    }

    /// A node's addresses of both families, as in a URL.
    pub(super) fn addresses(&self, node: &Node) -> Result<Vec<String>> {
        let object = self.cluster.kubectl().get(&["node", &node.name])?;
        let addresses = object["status"]["addresses"].as_array().into_iter().flatten();
        let internal =
            addresses.filter(|address| address["type"] == "InternalIP").map(|address| address["address"].clone());
        of_both_families(&internal.collect()).with_context(|| node.name.clone())
    }

    /// A request from this machine.
    pub(super) fn ask_from_here(&self, host: &str, port: u16, header: Option<&str>) -> Answer {
        asked(&mut Command::new("curl"), &format!("http://{host}:{port}/"), header)
    }

    /// `kubectl port-forward` to the Deployment on a free port.
    pub(super) fn port_forward(&self) -> Result<(Process, u16)> {
        let mut command = self.cluster.kubectl().command();
        command.args(["-n", SHOP, "port-forward", "deploy/web", &format!(":{PORT}")]);
        let mut process = Process::spawn("kubectl port-forward", &mut command)?;
        // `Forwarding from 127.0.0.1:41234 -> 8080`
        let line = process.wait_for_line("Forwarding from 127.0.0.1:", LONG)?;
        let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        Ok((process, port.with_context(|| format!("no port in {line:?}"))?))
    }
}

/// A pod of the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SmokePod {
    pub(super) name: String,
    pub(super) node: String,
    pub(super) address: String,
    /// Of each family, as in a URL.
    pub(super) addresses: Vec<String>,
    /// As it stands in the names of its control groups.
    pub(super) uid: String,
}

/// A list of an IPv4 and an IPv6 address, the latter in brackets.
fn of_both_families(list: &Value) -> Result<Vec<String>> {
    let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    let in_url = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let addresses: Vec<String> = texts.map(in_url).collect();
    ensure!(addresses.len() == 2, "has not an address of both families, but {list}");
    Ok(addresses)
}

/// A request of a `curl` that is begun, with a header or without; the answer's first line.
pub(super) fn asked(curl: &mut Command, url: &str, header: Option<&str>) -> Answer {
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", CURL_SECONDS]);
    if let Some(header) = header {
        curl.args(["--header", header]);
    }
    Ok(checked(curl.arg(url), None)?.trim_end().to_owned())
}

fn redir(program: &Path, kubeconfig: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("KUBECONFIG", kubeconfig).env("NO_COLOR", "1").env("USER", "alice");
    command.env("HOME", "/nonexistent").env_remove("XDG_CONFIG_HOME");
    kubectl::without_proxies(&mut command);
    command
}

/// A running `redir intercept`.
pub(super) struct Intercepting {
    pub(super) process: Process,
}

impl Intercepting {
    /// Waits for the event `status`: how many of how many pods are live, and whatever else it says.
    pub(super) fn status(&mut self) -> Result<Value> {
        self.event("status", 1)
    }

    /// Waits for so many events of a kind and gives the last of them.
    pub(super) fn event(&mut self, kind: &str, count: usize) -> Result<Value> {
        let wanted = format!("{count} events {kind:?} of redir");
        self.process.wait_for(wanted, LONG, |log| events(log, kind).nth(count - 1))
    }

    /// How many events of a kind there were.
    pub(super) fn count(&self, kind: &str) -> usize {
        events(&self.process.stdout(), kind).count()
    }

    /// The pods that were told live until now.
    pub(super) fn live(&self) -> Vec<String> {
        let log = self.process.stdout();
        events(&log, "live").filter_map(|event| event["pod"].as_str().map(str::to_owned)).collect()
    }

    /// The Intercept's name.
    pub(super) fn name(&mut self) -> Result<String> {
        Ok(self.event("created", 1)?["intercept"].as_str().unwrap_or_default().to_owned())
    }

    /// Ctrl-C; it must end well.
    pub(super) fn leave(mut self) -> Result<()> {
        self.process.signal(Signal::SIGINT)?;
        let code = self.process.exit_code(LONG)?;
        ensure!(code == 0, "redir ended with {code}: {}", self.process.log());
        Ok(())
    }
}

fn events(log: &str, kind: &str) -> impl Iterator<Item = Value> {
    let lines = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(move |event| event["event"] == kind)
}

/// Two replicas on two nodes. Its answers begin with `green`.
fn deployment(namespace: &str) -> Value {
    let labels = json!({"app": "web"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "affinity": spread("web"),
                    "containers": [{
                        "name": "web", "image": APP_IMAGE, "imagePullPolicy": "Never", "args": ["green", PORT.to_string()],
                        "ports": [{"name": "http", "containerPort": PORT}],
                        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
                    }],
                },
            },
        },
    })
}

/// Pods with this label `app` go to different nodes.
pub(super) fn spread(app: &str) -> Value {
    json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 100,
        "podAffinityTerm": {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"},
    }]}})
}

pub(super) fn may_intercept(user: &str, namespace: &str) -> Value {
    let group = "rbac.authorization.k8s.io";
    json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": user, "namespace": namespace},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "redir-developer"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": SHOP},
        "spec": {
            "type": "NodePort", "selector": {"app": "web"}, "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"name": "web", "port": SERVICE_PORT, "targetPort": "http"}],
        },
    })
}

/// Waits for a state of the cluster.
pub(super) fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait::until(what, LONG, || {
        go_on()?;
        look()
    })
}

/// Lets time pass, until somebody interrupts.
pub(super) fn pause(span: Duration) -> Result<()> {
    const STEP: Duration = Duration::from_millis(200);
    let end = Instant::now() + span;
    loop {
        go_on()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(STEP));
    }
}

/// A person who interrupts wants the end, not the next scene.
fn go_on() -> Result<()> {
    ensure!(!signals::interrupted(), "interrupted");
    Ok(())
}

/// Asks again and again until an answer begins with this word; how long it took.
pub(super) fn answered(what: &str, word: &str, mut ask: impl FnMut() -> Answer) -> Result<Duration> {
    let began = Instant::now();
    until(what, || Ok(ask().ok().filter(|answer| answer.split(' ').next() == Some(word))))?;
    Ok(began.elapsed())
}

/// The node of this name.
pub(super) fn node<'a>(nodes: &'a [Node], name: &str) -> Result<&'a Node> {
    match nodes.iter().find(|node| node.name == name) {
        Some(node) => Ok(node),
        None => bail!("there is no node {name}"),
    }
}
