//! The demo's world: a node with two pods and their service, a client and a developer behind a router, the agent. Built
//! with the rig, which also removes it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use redir_rig::cli::Home;
use redir_rig::topology::{FAMILIES, Family, unique_prefix};
use redir_rig::{Agent, AgentConfig, App, Cli, Host, Http, Snapshot, Topology, agent, binaries};

use super::story::{Answer, Story};
use crate::ui;

/// The service's port in the pods.
pub(super) const PORT: u16 = 8080;
/// The same service on a port that nobody intercepts: the control of the latency figures.
pub(super) const CONTROL: u16 = 8081;
/// The developer's own version listens here, on loopback of their machine.
const DEVELOPMENT: &str = "127.0.0.1:3000";
/// What a matched request carries.
pub(super) const HEADER: &str = "x-user: alice";
pub(super) const PODS: usize = 2;

/// Dropped in this order: who uses a namespace goes before it.
pub(super) struct DemoWorld {
    /// `None` only while it is started anew.
    agent: Option<Agent>,
    config: AgentConfig,
    home: Home,
    /// The developer's version; `None` while it restarts.
    development: Option<App>,
    _services: Vec<App>,
    /// The pods as they were before anything of redir ran.
    before: Vec<Snapshot>,
    pub(super) topology: Topology,
}

impl DemoWorld {
    pub(super) fn build(story: &mut Story) -> Result<DemoWorld> {
        story.scene(
            "One node, two pods, a client, a developer",
            "real processes and sockets in network namespaces of this machine",
        );
        let topology = Topology::new(&unique_prefix("demo"), PODS)?;
        let mut services = Vec::new();
        for pod in &topology.pods {
            services.push(App::start(&pod.namespace, PORT, "green")?);
            services.push(App::start(&pod.namespace, CONTROL, "green")?);
        }
        let before = topology.pods.iter().map(|pod| Snapshot::take(&pod.namespace)).collect::<Result<Vec<_>>>()?;
        let development = start_development(&topology, "blue")?;
        let home = Home::new()?;
        let mut config = AgentConfig::new(&topology, "auto");
        config.developers.push(home.developer("alice", "{ app = \"web\" }"));
        let agent = Agent::start(&topology.node.namespace, &config)?;
        write_redir_toml(&home, &topology, &agent)?;
        draw(story, &topology);
        Ok(DemoWorld {
            agent: Some(agent),
            config,
            home,
            development: Some(development),
            _services: services,
            before,
            topology,
        })
    }

    /// Starts `redir intercept ARGUMENTS` on the developer's machine and shows it; does not wait.
    pub(super) fn intercept(&self, story: &Story, arguments: &[&str]) -> Result<Cli> {
        story.command(&format!("redir intercept {}", shown(arguments)));
        self.home.start(&self.topology.developer.namespace, arguments)
    }

    /// The running agent.
    pub(super) fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().context("no agent runs: starting it anew has failed")
    }

    /// A new agent with the same key and file, in the place of one that is dead.
    pub(super) fn restart_agent(&mut self) -> Result<()> {
        let files = self.agent.take().context("no agent ran")?.into_files();
        self.agent = Some(Agent::start_with(&self.topology.node.namespace, files, &self.config, &[])?);
        Ok(())
    }

    /// The developer ends their service and starts another version on the same port.
    pub(super) fn restart_development(&mut self, version: &str) -> Result<()> {
        if let Some(running) = self.development.take() {
            running.stop();
        }
        self.development = Some(start_development(&self.topology, version)?);
        Ok(())
    }

    /// One request on a connection of its own, from the client behind the router.
    pub(super) fn ask(&self, to: SocketAddr, headers: &[&str]) -> Answer {
        line(&mut self.dial(to)?, headers)
    }

    pub(super) fn dial(&self, to: SocketAddr) -> Result<Http> {
        self.topology.client.namespace.connect(to).map(Http::new)
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = (&Host, Family)> {
        self.topology.pods.iter().flat_map(|pod| FAMILIES.map(|family| (pod, family)))
    }

    /// `green` and the client's own address: what the app says when it sees who really asks.
    pub(super) fn green(&self, family: Family) -> String {
        format!("green {}", self.topology.client.ip(family))
    }

    /// Whether every pod's namespace looks as it did before redir ran; an error tells what is left.
    pub(super) fn restored(&self) -> Result<()> {
        let mut pods = self.topology.pods.iter().zip(&self.before);
        pods.try_for_each(|(pod, before)| before.restored(&pod.namespace, Duration::from_secs(10)))
    }

    pub(super) fn print_what_to_try(&self) {
        let pod = self.topology.pod();
        let client = self.topology.client.namespace.name();
        let developer = self.topology.developer.namespace.name();
        let redir = binaries::find("redir").unwrap_or_else(|_| PathBuf::from("redir"));
        let home = self.home.path();
        println!("\n{} (as root, in another terminal)", ui::bold("What to try"));
        println!("   ip netns exec {client} curl -s http://{}/", pod.at(Family::V4, PORT));
        println!("   ip netns exec {client} curl -s -H '{HEADER}' http://{}/", pod.at(Family::V6, PORT));
        println!(
            "   alias redir='ip netns exec {developer} env XDG_CONFIG_HOME={} {}'",
            home.display(),
            redir.display()
        );
        println!("   redir list");
        println!("   redir intercept {} --port {PORT}:3000", self.topology.pods[PODS - 1].name);
        println!("   ip netns exec {} curl -s http://{}/metrics", self.topology.node.namespace.name(), agent::ADMIN);
        println!("   ip netns exec {} bpftool link", pod.namespace.name());
    }
}

/// One request on a connection, and the line it was answered with.
pub(super) fn line(connection: &mut Http, headers: &[&str]) -> Answer {
    let response = connection.get("/", headers)?;
    let text = response.text().trim_end().to_owned();
    Ok(if response.status == 200 { text } else { format!("{} {text}", response.status) })
}

/// So that the commands shown are the whole commands.
fn write_redir_toml(home: &Home, topology: &Topology, agent: &Agent) -> Result<()> {
    let address = topology.node.at(Family::V4, agent::TUNNEL_PORT);
    let text = format!("[agents.node]\naddress = \"{address}\"\nkey = \"{}\"\n", agent.pin);
    let path = home.path().join("redir").join("redir.toml");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn start_development(topology: &Topology, version: &str) -> Result<App> {
    let address = DEVELOPMENT.parse().context("the developer's address")?;
    App::start_on(&topology.developer.namespace, &[address], version)
}

/// Arguments as typed into a shell.
fn shown(arguments: &[&str]) -> String {
    let word = |word: &&str| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() };
    arguments.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn draw(story: &Story, topology: &Topology) {
    let service = |host: &Host| format!("{:<10} {:<12} {:<10}", host.name, host.v4, host.v6);
    for pod in &topology.pods {
        story.say(&format!("{} answers {} on port {PORT}", service(pod), ui::green("green")));
    }
    story.say(&format!("{} the agent, redir-agent", service(&topology.node)));
    story.say(&format!("{} sends the requests, from behind a router", service(&topology.client)));
    story.say(&format!(
        "{} runs {} on {DEVELOPMENT}, behind the router too",
        service(&topology.developer),
        ui::blue("blue")
    ));
}
