//! A node with two intercepted pods: the crowd comes to the first, the others have connections to the second.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use redir_rig::cli::Home;
use redir_rig::topology::{Family, unique_prefix};
use redir_rig::{Agent, AgentConfig, App, Certificate, Cli, MemoryCgroup, Topology, agent};

use super::bystanders::Bystanders;

pub(super) const PORT: u16 = 8080;
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3000);
/// Connections to the second pod.
const OTHERS: usize = 50;

/// What the first pod's port is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// An app of HTTP/1.
    Http1,
    /// The same, and the agent has a certificate for it.
    Tls,
    /// The crowd brings an app.
    Empty,
}

/// Dropped in this order: who uses a namespace or the cgroup goes before it.
pub(super) struct World {
    bystanders: Option<Bystanders>,
    intercepts: Vec<Cli>,
    agent: Agent,
    worker: i32,
    _apps: Vec<App>,
    home: Home,
    cgroup: MemoryCgroup,
    pub(super) topology: Topology,
}

impl World {
    pub(super) fn new(setting: Setting, memory: u64) -> Result<Self> {
        let topology = Topology::new(&unique_prefix("chaos"), 2)?;
        let cgroup = MemoryCgroup::new(memory)?;
        let cgroup = cgroup.context("memory cannot be limited here: this container has a single cgroup")?;
        let mut apps = vec![App::start(&topology.pods[1].namespace, PORT, "green")?];
        if setting != Setting::Empty {
            apps.push(App::start(&topology.pods[0].namespace, PORT, "green")?);
        }
        apps.push(App::start_on(&topology.developer.namespace, &[LOCAL], "blue")?);
        let home = Home::new()?;
        let mut config = AgentConfig::new(&topology, "auto");
        config.developers.push(home.developer("alice", "{ app = \"web\" }"));
        if setting == Setting::Tls {
            config.pods[0].tls = vec![(PORT, Certificate::new()?)];
        }
        let wrapper = cgroup.wrapper();
        let wrapper = wrapper.each_ref().map(String::as_str);
        let agent = Agent::start_with(&topology.node.namespace, agent::AgentFiles::new()?, &config, &wrapper)?;
        let worker = agent.worker()?;
        let mut world =
            Self { bystanders: None, intercepts: Vec::new(), agent, worker, _apps: apps, home, cgroup, topology };
        for pod in ["web-1", "web-2"] {
            let intercept = world.intercept(pod, "x-user: alice")?;
            world.intercepts.push(intercept);
        }
        let to = world.topology.pods[1].at(Family::V4, PORT);
        world.bystanders = Some(Bystanders::start(&world.topology.client.namespace, to, OTHERS)?);
        Ok(world)
    }

    /// Another `redir` of the same key; it ends when it is dropped.
    pub(super) fn intercept(&self, pod: &str, header: &str) -> Result<Cli> {
        let address = self.topology.node.at(Family::V4, agent::TUNNEL_PORT).to_string();
        let ports = format!("{PORT}:{}", LOCAL.port());
        let arguments =
            [pod, "--port", &ports, "--agent", &address, "--agent-key", &self.agent.pin, "--header", header];
        self.home.intercept(&self.topology.developer.namespace, &arguments)
    }

    /// A figure of the agent's.
    pub(super) fn metric(&self, name: &str, label: &str) -> Result<f64> {
        Agent::metric(&self.topology.node.namespace, name, &[label])
    }

    pub(super) fn peak(&self) -> Result<u64> {
        self.cgroup.peak()
    }

    /// How many of the others' connections live, of how many, and what must not have happened.
    pub(super) fn verdict(&mut self) -> ((usize, usize), Option<String>) {
        let alive = self.bystanders.take().map_or(0, Bystanders::alive);
        let killed = self.cgroup.killed().unwrap_or_default();
        let failed = match self.agent.worker() {
            _ if killed > 0 => Some(format!("the kernel killed {killed} of the agent's processes for want of memory")),
            Ok(worker) if worker == self.worker => None,
            Ok(_) => Some("the worker ended and was started anew".to_owned()),
            Err(error) => Some(format!("the agent: {error:#}")),
        };
        let failed = failed.or_else(|| (alive < OTHERS).then(|| "connections of others were lost".to_owned()));
        let failed = failed.or_else(|| self.answers().err().map(|error| format!("afterwards: {error:#}")));
        ((alive, OTHERS), failed)
    }

    /// Requests on connections of their own go where they should.
    fn answers(&self) -> Result<()> {
        let to = self.topology.pods[1].at(Family::V4, PORT);
        for (header, answer) in [("x-user: nobody", "green"), ("x-user: alice", "blue")] {
            let stream = self.topology.client.namespace.connect(to)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let text = redir_rig::Http::new(stream).get("/", &[header])?.text();
            anyhow::ensure!(text.starts_with(answer), "{header} was answered {text:?}");
        }
        Ok(())
    }
}
