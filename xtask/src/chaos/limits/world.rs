//! A node with two intercepted pods: the crowd comes to the first, the others have connections to the second.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use redir_rig::cli::Home;
use redir_rig::topology::{Family, unique_prefix};
use redir_rig::{Agent, AgentConfig, App, Certificate, Cli, MemoryCgroup, Topology, agent};

use super::bystanders::{Alive, Bystanders, Targets};
use super::http2::Http2App;

pub(in crate::chaos) const PORT: u16 = 8080;
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3000);
/// The same of HTTP/2.
pub(super) const PORT_HTTP2: u16 = 8081;
const LOCAL_HTTP2: SocketAddr = SocketAddr::new(LOCAL.ip(), 3001);
/// Connections to the second pod.
pub(super) const OTHERS: Alive = Alive { http1: 50, http2: 20 };

/// What the first pod's port is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::chaos) enum Setting {
    /// An app of HTTP/1.
    Http1,
    /// The same, and the agent has a certificate for it.
    Tls,
    /// The crowd brings an app.
    Empty,
    /// As with TLS, and on the other port an app of HTTP/2 that says nothing.
    All,
}

/// Dropped in this order: who uses a namespace or the cgroup goes before it.
pub(in crate::chaos) struct World {
    bystanders: Option<Bystanders>,
    intercepts: Vec<Cli>,
    agent: Agent,
    worker: i32,
    _apps: Vec<App>,
    home: Home,
    cgroup: MemoryCgroup,
    pub(in crate::chaos) topology: Topology,
}

impl World {
    pub(in crate::chaos) fn new(setting: Setting, memory: u64) -> Result<Self> {
        let topology = Topology::new(&unique_prefix("chaos"), 2)?;
        let cgroup = MemoryCgroup::new(memory)?;
        let cgroup = cgroup.context("memory cannot be limited here: this container has a single cgroup")?;
        let mut apps = vec![App::start(&topology.pods[1].namespace, PORT, "green")?];
        if setting != Setting::Empty {
            apps.push(App::start(&topology.pods[0].namespace, PORT, "green")?);
        }
        apps.push(App::start_on(&topology.developer.namespace, &[LOCAL], "blue")?);
        Http2App::start(&topology.pods[1].namespace, ([0, 0, 0, 0], PORT_HTTP2).into(), Some("green"))?;
        Http2App::start(&topology.developer.namespace, LOCAL_HTTP2, Some("blue"))?;
        let home = Home::new()?;
        let mut config = AgentConfig::new(&topology, "auto");
        config.developers.push(home.developer("alice", "{ app = \"web\" }"));
        if matches!(setting, Setting::Tls | Setting::All) {
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
        if setting == Setting::All {
            Http2App::start(&world.topology.pod().namespace, ([0, 0, 0, 0], PORT_HTTP2).into(), None)?;
            let intercept = world.intercept_port("web-1", PORT_HTTP2, LOCAL_HTTP2, "x-user: alice")?;
            world.intercepts.push(intercept);
        }
        let intercept = world.intercept_port("web-2", PORT_HTTP2, LOCAL_HTTP2, "x-user: alice")?;
        world.intercepts.push(intercept);
        let other = &world.topology.pods[1];
        let to = Targets { http1: other.at(Family::V4, PORT), http2: other.at(Family::V4, PORT_HTTP2) };
        world.bystanders = Some(Bystanders::start(&world.topology.client.namespace, to, OTHERS)?);
        Ok(world)
    }

    /// Another `redir` of the same key; it ends when it is dropped.
    pub(super) fn intercept(&self, pod: &str, header: &str) -> Result<Cli> {
        self.intercept_port(pod, PORT, LOCAL, header)
    }

    fn intercept_port(&self, pod: &str, port: u16, local: SocketAddr, header: &str) -> Result<Cli> {
        let address = self.topology.node.at(Family::V4, agent::TUNNEL_PORT).to_string();
        let ports = format!("{port}:{}", local.port());
        let arguments =
            [pod, "--port", &ports, "--agent", &address, "--agent-key", &self.agent.pin, "--header", header];
        self.home.intercept(&self.topology.developer.namespace, &arguments)
    }

    /// A figure of the agent's.
    pub(in crate::chaos) fn metric(&self, name: &str, label: &str) -> Result<f64> {
        Agent::metric(&self.topology.node.namespace, name, &[label])
    }

    pub(in crate::chaos) fn guardian(&self) -> Result<i32> {
        self.agent.guardian()
    }

    pub(in crate::chaos) fn worker(&self) -> Result<i32> {
        self.agent.worker()
    }

    pub(in crate::chaos) fn peak(&self) -> Result<u64> {
        self.cgroup.peak()
    }

    /// How many of the others' connections live, and what must not have happened.
    pub(in crate::chaos) fn verdict(&mut self) -> (Alive, Option<String>) {
        let alive = self.bystanders.take().map(Bystanders::alive).unwrap_or_default();
        let killed = self.cgroup.killed().unwrap_or_default();
        let failed = match self.agent.worker() {
            _ if killed > 0 => Some(format!("the kernel killed {killed} of the agent's processes for want of memory")),
            Ok(worker) if worker == self.worker => None,
            Ok(_) => Some("the worker ended and was started anew".to_owned()),
            Err(error) => Some(format!("the agent: {error:#}")),
        };
        let failed = failed.or_else(|| (alive != OTHERS).then(|| "connections of others were lost".to_owned()));
        let failed = failed.or_else(|| self.answers().err().map(|error| format!("afterwards: {error:#}")));
        (alive, failed)
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
