//! The place of everything: two pods on a node, a client and a developer behind a gateway, the agent. `web-1` is the one
//! that is intercepted; `web-2`, its twin, has the control and the peers. Dropped, everything is gone.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redir_rig::{
    Agent, AgentConfig, Cli, Namespace, Process, Topology,
    cli::Home,
    topology::{Family, unique_prefix},
    wait,
};

use crate::{
    cost::{self, MIDDLE},
    programs::{self, START},
    wan::{EmulatedLink, LinkProfile},
};

/// Each with a key of their own, since the agent takes 32 tunnels of a key: intercepts are theirs in turn.
const DEVELOPERS: usize = 8;
/// The app's port, in both pods.
pub const PORT: u16 = 8080;
/// Where the developer's own version listens.
pub const LOCAL: u16 = 3000;

/// The programs that a world runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirBuild {
    /// The contender's name in results.
    pub name: &'static str,
    /// Its `redir-agent` and `redir`; none for those under test.
    pub programs: Option<[PathBuf; 2]>,
}

impl RedirBuild {
    /// What the bench is for.
    pub const TESTED: Self = Self { name: "redir", programs: None };
}

/// Namespaces and what runs in them all the time.
#[derive(Debug)]
pub struct BenchWorld {
    /// Whose agent and CLI are started here.
    build: RedirBuild,
    /// The apps of both pods, and the developer's.
    pub apps: Vec<Process>,
    /// The agent, while it runs.
    pub agent: Option<Agent>,
    /// The developers' keys.
    homes: Vec<Home>,
    /// How many intercepts were started.
    started: AtomicUsize,
    /// Its file.
    pub config: AgentConfig,
    /// The link to the developer's machine; none is there unless a scenario asks for it.
    link: Option<EmulatedLink>,
    /// The namespaces; they go last.
    pub topology: Topology,
}

/// The congestion control of a namespace's new connections.
const CONGESTION_CONTROL: &str = "net.ipv4.tcp_congestion_control";

/// All namespaces that send bytes of a measurement.
fn senders(topology: &Topology) -> impl Iterator<Item = &Namespace> {
    let hosts = [&topology.peer, &topology.node, &topology.gateway, &topology.client, &topology.developer];
    topology.pods.iter().chain(hosts).map(|host| &host.namespace)
}

impl BenchWorld {
    /// Builds it with so many pods, at least two, and without an agent.
    pub fn new(pods: usize) -> Result<Self> {
        let topology = Topology::new(&unique_prefix("bench"), pods)?;
        let homes = (0..DEVELOPERS).map(|_| Home::new()).collect::<Result<Vec<_>>>()?;
        let mut config = AgentConfig::new(&topology, "auto");
        // As the proxies, which write no line for each request either.
        config.arguments = vec!["--log=info,access=off".to_owned()];
        let named = homes.iter().enumerate();
        config.developers =
            named.map(|(number, home)| home.developer(&format!("bench-{number}"), "{ app = \"web\" }")).collect();
        let namespaces = topology.pods.iter().map(|pod| &pod.namespace);
        for namespace in namespaces.chain([&topology.client.namespace, &topology.developer.namespace]) {
            // A connection for each request runs out of ports within seconds else; TIME_WAIT stays as it is.
            namespace.sysctl("net.ipv4.tcp_tw_reuse", "1")?;
            namespace.sysctl("net.ipv4.ip_local_port_range", "30000 65000")?;
            namespace.sysctl("net.core.somaxconn", "4096")?;
        }
        for namespace in senders(&topology) {
            // New namespaces inherit whatever the machine has. Cubic is what QUIC's ends here use too; reno is in every
            // kernel and allowed in every namespace.
            let set = |name| namespace.sysctl(CONGESTION_CONTROL, name);
            set("cubic").or_else(|_| set("reno"))?;
        }
        let mut world = Self {
            build: RedirBuild::TESTED,
            apps: Vec::new(),
            agent: None,
            homes,
            started: AtomicUsize::new(0),
            config,
            link: None,
            topology,
        };
        world.start_apps()?;
        Ok(world)
    }

    /// Which congestion control every sender has, as the namespaces themselves say.
    pub fn senders(&self) -> String {
        let read = |namespace: &Namespace| {
            let name = namespace.read_sysctl(CONGESTION_CONTROL).unwrap_or_else(|error| format!("unknown ({error:#})"));
            name.trim().to_owned()
        };
        let names: BTreeSet<String> = senders(&self.topology).map(read).collect();
        let tcp = names.into_iter().collect::<Vec<_>>().join(", ");
        format!("congestion control: {tcp} for TCP in all namespaces; redir and rusnel have that of quinn, cubic")
    }

    /// Whose agent and CLI are started here.
    pub fn build(&self) -> &RedirBuild {
        &self.build
    }

    /// Ends the agent; the next one, and the next CLI, are this build's.
    pub fn set_build(&mut self, build: RedirBuild) -> Result<()> {
        self.stop_agent()?;
        let [agent, cli] = build.programs.clone().map_or([None, None], |programs| programs.map(Some));
        self.config.program = agent;
        for home in &mut self.homes {
            home.program.clone_from(&cli);
        }
        self.build = build;
        Ok(())
    }

    fn start_apps(&mut self) -> Result<()> {
        for pod in &self.topology.pods {
            let listen = SocketAddr::new(Family::V4.any(), PORT);
            self.apps.push(app(&pod.namespace, "green", listen)?);
        }
        let listen = SocketAddr::new(Family::V4.loopback(), LOCAL);
        self.apps.push(app(&self.topology.developer.namespace, "blue", listen)?);
        Ok(())
    }

    /// Puts a link between the developer's machine and the node, or takes it away. The seed decides what is lost.
    pub fn set_link(&mut self, profile: Option<LinkProfile>, seed: u64) -> Result<()> {
        if let Some(link) = self.link.take() {
            link.down(&self.topology)?;
        }
        if let Some(profile) = profile {
            self.link = Some(EmulatedLink::up(&self.topology, profile, seed)?);
        }
        Ok(())
    }

    /// The app of a pod as its clients reach it: 0 is intercepted, 1 its twin.
    pub fn app(&self, pod: usize) -> SocketAddr {
        self.topology.pods[pod].at(Family::V4, PORT)
    }

    /// The app of another port of the first pod, for as long as the process is kept.
    pub fn app_on(&self, port: u16) -> Result<Process> {
        app(&self.topology.pods[0].namespace, "green", SocketAddr::new(Family::V4.any(), port))
    }

    /// The agent's processes; none while it does not run.
    pub fn agent_pids(&self) -> Vec<i32> {
        self.agent.as_ref().map(|agent| cost::family(agent.process.pid())).unwrap_or_default()
    }

    /// Starts the agent on the middle's CPU, if it does not run.
    pub fn start_agent(&mut self) -> Result<()> {
        if self.agent.is_none() {
            let agent = Agent::start_with(
                &self.topology.node.namespace,
                redir_rig::agent::AgentFiles::new()?,
                &self.config,
                &["taskset", "--cpu-list", &MIDDLE.to_string()],
            )?;
            self.agent = Some(agent);
        }
        Ok(())
    }

    /// Ends the agent, if it runs.
    pub fn stop_agent(&mut self) -> Result<()> {
        match self.agent.take() {
            Some(mut agent) => agent.terminate(START).map(drop),
            None => Ok(()),
        }
    }

    /// Ends the agent with SIGKILL to its guardian and its worker, if it runs; gone when this returns, and its listeners and
    /// programs with it.
    pub fn kill_agent(&mut self) -> Result<()> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        let pids = cost::family(agent.process.pid());
        for pid in &pids {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).with_context(|| format!("kill {pid}"))?;
        }
        for pid in &pids {
            // A zombie has no program either.
            wait::until_true(format!("the end of {pid}"), START, || {
                Ok(fs::read_link(format!("/proc/{pid}/exe")).is_err())
            })?;
        }
        agent.process.kill()
    }

    /// `redir intercept web-1 …` from the developer's machine; live when it returns.
    pub fn intercept(&mut self, conditions: &[&str]) -> Result<Cli> {
        self.start_agent()?;
        let mut cli = self.start_intercept(0, conditions)?;
        cli.wait_live()?;
        Ok(cli)
    }

    /// The same of any pod, without waiting.
    pub fn start_intercept(&self, pod: usize, conditions: &[&str]) -> Result<Cli> {
        self.start_intercept_of(pod, PORT, conditions)
    }

    /// The same of any port.
    pub fn start_intercept_of(&self, pod: usize, port: u16, conditions: &[&str]) -> Result<Cli> {
        let agent = self.agent.as_ref().context("the agent does not run")?;
        let (port, node) =
            (format!("{port}:{LOCAL}"), self.topology.node.at(Family::V4, redir_rig::agent::TUNNEL_PORT));
        let node = node.to_string();
        let mut arguments =
            vec![self.topology.pods[pod].name.as_str(), "--port", &port, "--agent", &node, "--agent-key", &agent.pin];
        arguments.extend(conditions);
        let home = &self.homes[self.started.fetch_add(1, Ordering::Relaxed) % self.homes.len()];
        home.start(&self.topology.developer.namespace, &arguments)
    }
}

fn app(namespace: &Namespace, name: &str, listen: SocketAddr) -> Result<Process> {
    programs::start(namespace, &["app", "--name", name, "--listen", &listen.to_string()])
}
