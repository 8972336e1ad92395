//! The real `redir-agent`: its file, its key, its processes, and what it tells about itself.

use std::{
    fmt::Write,
    fs,
    io::{Read, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    binaries, cleanup,
    namespace::{Namespace, checked},
    process::{self, Process},
    tls::Certificate,
    topology::{Host, Topology},
    wait,
};

/// The agent's UDP port in the rig.
pub const TUNNEL_PORT: u16 = 7447;
/// The agent's port for health and metrics, on loopback of the node.
pub const ADMIN: &str = "127.0.0.1:7448";
/// How long a start in a debug build may take on a busy machine.
const START: Duration = Duration::from_secs(20);

/// A developer the agent knows.
#[derive(Debug, Clone)]
pub struct Developer {
    /// The name in the agent's file.
    pub name: String,
    /// The pin, as `redir keygen` printed it.
    pub pin: String,
    /// Label sets, as TOML inline tables (`{ app = "web" }`).
    pub pods: String,
    /// May have other people's connections closed.
    pub flush: bool,
}

/// A pod the agent knows.
#[derive(Debug, Clone)]
pub struct PodEntry {
    /// Its name.
    pub name: String,
    /// Its labels, as a TOML inline table.
    pub labels: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// The ports that may be intercepted; all when empty.
    pub ports: Vec<u16>,
    /// The app's certificates, by port.
    pub tls: Vec<(u16, Certificate)>,
}

/// What goes into `agent.toml`.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// `auto`, `tcx` or `clsact`.
    pub attach: String,
    /// The UDP address.
    pub listen: String,
    /// More lines of the `[agent]` table.
    pub more: String,
    /// More of its command line.
    pub arguments: Vec<String>,
    /// Another build's `redir-agent`; none for the one under test.
    pub program: Option<PathBuf>,
    /// The pods.
    pub pods: Vec<PodEntry>,
    /// The developers.
    pub developers: Vec<Developer>,
}

impl AgentConfig {
    /// All pods of the topology, labelled `app = "web"` and `pod = NAME`, and no developer yet.
    pub fn new(topology: &Topology, attach: &str) -> Self {
        let pods = topology.pods.iter().map(PodEntry::of).collect();
        let listen = format!("[::]:{TUNNEL_PORT}");
        Self {
            attach: attach.to_owned(),
            listen,
            more: String::new(),
            arguments: Vec::new(),
            program: None,
            pods,
            developers: Vec::new(),
        }
    }

    /// No pod and no developer, on loopback: what is asked is what the agent's processes are and do. It ends within a second.
    pub fn without_pods() -> Self {
        Self {
            attach: "auto".into(),
            listen: format!("127.0.0.1:{TUNNEL_PORT}"),
            more: "drain = \"1s\"".into(),
            arguments: Vec::new(),
            program: None,
            pods: Vec::new(),
            developers: Vec::new(),
        }
    }

    /// The file's text.
    pub fn text(&self, key: &Path) -> Result<String> {
        let mut text = format!(
            "[agent]\nlisten = \"{}\"\nkey = \"{}\"\nadmin = \"{ADMIN}\"\nattach = \"{}\"\n{}\n",
            self.listen,
            key.display(),
            self.attach,
            self.more
        );
        for PodEntry { name, labels, netns, ports, tls } in &self.pods {
            writeln!(text, "[[pod]]\nname = \"{name}\"\nlabels = {labels}\nnetns = \"{}\"", netns.display())?;
            if !ports.is_empty() {
                writeln!(text, "ports = {ports:?}")?;
            }
            for (port, certificate) in tls {
                let (cert, key) = (certificate.cert_file(), certificate.key_file());
                writeln!(text, "[[pod.tls]]\nport = {port}\ncert = {cert:?}\nkey = {key:?}")?;
            }
        }
        for Developer { name, pin, pods, flush } in &self.developers {
            writeln!(text, "[[developer]]\nname = \"{name}\"\nkey = \"{pin}\"\npods = [{pods}]")?;
            if *flush {
                writeln!(text, "flush = true")?;
            }
        }
        Ok(text)
    }
}

impl PodEntry {
    /// A pod of the topology.
    pub fn of(host: &Host) -> Self {
        Self {
            name: host.name.clone(),
            labels: format!("{{ app = \"web\", pod = \"{}\" }}", host.name),
            netns: host.namespace.path().to_owned(),
            ports: Vec::new(),
            tls: Vec::new(),
        }
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The process the rig started: the guardian, or what wraps it.
    pub process: Process,
    /// The agent's pin.
    pub pin: String,
    directory: TempDir,
    /// Whether the guardian is the child of the process the rig started (`unshare --fork`).
    wrapped: bool,
}

/// The place of an agent's files before it runs.
#[derive(Debug)]
pub struct AgentFiles {
    directory: TempDir,
    /// The agent's pin.
    pub pin: String,
}

impl AgentFiles {
    /// Makes a directory and a key by `redir-agent keygen`.
    pub fn new() -> Result<Self> {
        let directory = cleanup::directory("agent")?;
        let key = directory.path().join("agent.key");
        let out = checked(Command::new(binaries::find("redir-agent")?).arg("keygen").arg(&key), None)?;
        let pin = find_pin(&out).with_context(|| format!("no pin in the output of keygen: {out:?}"))?;
        Ok(Self { directory, pin })
    }

    /// The path of `agent.toml`.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("agent.toml")
    }

    /// The path of the agent's key.
    pub fn key(&self) -> PathBuf {
        self.directory.path().join("agent.key")
    }

    /// Writes `agent.toml`, whole (renamed into place).
    pub fn write(&self, text: &str) -> Result<()> {
        write_whole(&self.config(), text)
    }
}

impl Agent {
    /// Writes the file and starts the agent on the node; returns when it is ready.
    pub fn start(node: &Namespace, config: &AgentConfig) -> Result<Self> {
        Self::start_with(node, AgentFiles::new()?, config, &[])
    }

    /// The same with the files of an agent before, or behind a wrapper (`unshare --pid …`).
    pub fn start_with(node: &Namespace, files: AgentFiles, config: &AgentConfig, wrapper: &[&str]) -> Result<Self> {
        files.write(&config.text(&files.key())?)?;
        let program = config.program.clone().map_or_else(|| binaries::find("redir-agent"), Ok)?;
        let process = spawn_with(node, &program, &files.config(), wrapper, &config.arguments)?;
        let mut agent =
            Self { process, pin: files.pin, directory: files.directory, wrapped: wrapper.first() == Some(&"unshare") };
        agent.wait_ready(node)?;
        Ok(agent)
    }

    /// Waits until `/readyz` says 200.
    pub fn wait_ready(&mut self, node: &Namespace) -> Result<()> {
        let log = self.process.log();
        wait::until_true("the agent to be ready", START, || {
            if let Some(status) = self.process.exited()? {
                bail!("the agent ended ({status}): {}", process::tail(&self.process.log()));
            }
            Ok(admin(node, "/readyz").is_ok_and(|(status, _)| status == 200))
        })
        .with_context(|| process::tail(&(log + &self.process.log())))
    }

    /// Its files, to start it again with the same key (the process must have ended).
    pub fn into_files(self) -> AgentFiles {
        let Self { process, pin, directory, .. } = self;
        drop(process);
        AgentFiles { directory, pin }
    }

    /// The path of its `agent.toml`.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("agent.toml")
    }

    /// The path of its key.
    pub fn key(&self) -> PathBuf {
        self.directory.path().join("agent.key")
    }

    /// Replaces `agent.toml`; the agent notices by itself.
    pub fn rewrite(&self, text: &str) -> Result<()> {
        write_whole(&self.config(), text)
    }

    /// The guardian's pid.
    pub fn guardian(&self) -> Result<i32> {
        if !self.wrapped {
            return Ok(self.process.pid());
        }
        self.process.children().first().copied().context("the wrapper has no child")
    }

    /// Starts it again with its own files, after it has ended.
    pub fn restart(&mut self, node: &Namespace, wrapper: &[&str]) -> Result<()> {
        self.process = spawn(node, &self.config(), wrapper)?;
        self.wrapped = wrapper.first() == Some(&"unshare");
        self.wait_ready(node)
    }

    /// The worker's pid.
    pub fn worker(&self) -> Result<i32> {
        process::children(self.guardian()?).first().copied().context("the guardian has no child")
    }

    /// A page of the admin address: status and body.
    pub fn admin(node: &Namespace, path: &str) -> Result<(u16, String)> {
        admin(node, path)
    }

    /// The metrics text.
    pub fn metrics(node: &Namespace) -> Result<String> {
        let (status, body) = admin(node, "/metrics")?;
        ensure!(status == 200, "/metrics: {status}");
        Ok(body)
    }

    /// The sum of all samples of a metric whose name and labels contain every one of `parts`.
    pub fn metric(node: &Namespace, name: &str, parts: &[&str]) -> Result<f64> {
        let text = Self::metrics(node)?;
        let samples = text.lines().filter(|l| l.starts_with(name) && parts.iter().all(|p| l.contains(p)));
        Ok(samples.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// The lines of its log that contain all of `parts`.
    pub fn lines(&self, parts: &[&str]) -> Vec<String> {
        let log = self.process.log();
        log.lines().filter(|l| parts.iter().all(|p| l.contains(p))).map(str::to_owned).collect()
    }

    /// Sends a signal to the guardian.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        let guardian = self.guardian()?;
        kill(Pid::from_raw(guardian), signal).with_context(|| format!("{signal} to the guardian"))
    }

    /// SIGTERM, and waits for the end; gives the exit code.
    pub fn terminate(&mut self, limit: Duration) -> Result<i32> {
        self.signal(Signal::SIGTERM)?;
        self.process.exit_code(limit)
    }
}

/// Starts `redir-agent run --config FILE` in the namespace and does not wait for it.
pub fn spawn(node: &Namespace, config: &Path, wrapper: &[&str]) -> Result<Process> {
    spawn_with(node, &binaries::find("redir-agent")?, config, wrapper, &[])
}

fn spawn_with(
    node: &Namespace,
    binary: &Path,
    config: &Path,
    wrapper: &[&str],
    arguments: &[String],
) -> Result<Process> {
    let mut command = match wrapper.split_first() {
        None => Command::new(binary),
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary);
            command
        }
    };
    command.arg("run").arg("--config").arg(config).args(arguments).env("NO_COLOR", "1");
    node.spawn("redir-agent", &mut command)
}

fn admin(node: &Namespace, path: &str) -> Result<(u16, String)> {
    let to: SocketAddr = ADMIN.parse()?;
    let mut stream = node.connect(to)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no head")?;
    Ok((head.split(' ').nth(1).context("no status")?.parse()?, body.to_owned()))
}

/// The first `sha256:…` in a text.
pub(crate) fn find_pin(text: &str) -> Option<String> {
    let start = text.find("sha256:")?;
    let rest = &text[start..];
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_'))).unwrap_or(rest.len());
    Some(rest[..end].to_owned())
}

fn write_whole(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("write {}", path.display()))
}
