//! The world of an end-to-end test: a topology, the real agent on its node, two developers with the real CLI, and the
//! look at what is left behind. Used by the test binaries of this crate; owns no traffic of its own.
#![cfg(target_os = "linux")]

pub mod http2;
pub use redir_rig::starvation;
pub mod talk;

use std::{
    env, fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use redir_rig::{
    Agent, AgentConfig, App, Cli, Host, Http, Listener, Snapshot, Sniff, Topology, agent, bounded,
    cli::Home,
    process, tcx,
    topology::{Family, unique_prefix},
    wait,
};

/// The port of the app in every test.
pub const PORT: u16 = 8080;
/// The port of the developer's own version.
pub const LOCAL: u16 = 3000;
/// For what should take milliseconds, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(10);

/// Other people's cases and programs of that name, which `cargo xtask setup` has put into the cache. `cargo xtask test` says
/// where; a plain `cargo test` looks where set-up puts them.
pub fn cases(name: &str) -> Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let all = env::var_os("REDIR_CASES").map(PathBuf::from).or_else(|| Some(cache?.join("redir/cases")));
    let folder = all.context("HOME is not set")?.join(name);
    ensure!(folder.is_dir(), "{} is not there; run `cargo xtask setup`", folder.display());
    Ok(folder)
}

/// How a test's world differs from the usual one.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// How many pods.
    pub pods: usize,
    /// What is done to the networks before the first look.
    pub before: fn(&Topology) -> Result<()>,
    /// What is done to the agent's file.
    pub config: fn(&mut AgentConfig),
    /// The command that the agent is started by, if not directly.
    pub wrapper: &'static [&'static str],
    /// Whether packets of the agent's own legs on the pod's device fail the test.
    pub sniff: bool,
    /// The test's upper bound.
    pub limit: Duration,
}

/// One pod, nothing special.
pub const USUAL: Scenario =
    Scenario { pods: 1, before: |_| Ok(()), config: |_| {}, wrapper: &[], sniff: true, limit: Duration::from_secs(60) };

/// What a test body works with.
#[derive(Debug)]
pub struct World {
    /// The networks.
    pub topology: Topology,
    /// The agent on the node.
    pub agent: Agent,
    /// The agent's file, to change and write again.
    pub config: AgentConfig,
    /// A developer who may intercept `app = "web"`.
    pub alice: Home,
    /// Another one.
    pub bob: Home,
    /// The watch on the first pod's device.
    pub sniff: Sniff,
    before: Vec<Snapshot>,
}

/// Runs a test in a world of its own, and looks at what it leaves behind; as often as `cargo xtask test --rounds` says, each
/// time in a new world.
pub fn run(attach: &str, scenario: Scenario, body: fn(&mut World) -> Result<()>) -> Result<()> {
    let rounds = rounds()?;
    for round in 1..=rounds {
        once_in_a_world(attach, scenario, body).with_context(|| format!("round {round} of {rounds}"))?;
    }
    Ok(())
}

/// [`run`] with TCX; where the kernel has none, that is said instead.
pub fn run_by_tcx(scenario: Scenario, body: fn(&mut World) -> Result<()>) -> Result<()> {
    if tcx::is_here() { run("tcx", scenario, body) } else { Ok(()) }
}

fn rounds() -> Result<usize> {
    match std::env::var("REDIR_ROUNDS") {
        Ok(rounds) => rounds.parse().with_context(|| format!("REDIR_ROUNDS is no number: {rounds}")),
        Err(_) => Ok(1),
    }
}

fn once_in_a_world(attach: &str, scenario: Scenario, body: fn(&mut World) -> Result<()>) -> Result<()> {
    let prefix = unique_prefix("t");
    let (name, attach) = (prefix.clone(), attach.to_owned());
    bounded::run(&prefix, scenario.limit, move || {
        let result = whole(&name, &attach, scenario, body);
        if result.is_err() {
            process::ended_logs().iter().for_each(|log| eprintln!("{log}"));
        }
        result
    })?
}

fn whole(prefix: &str, attach: &str, scenario: Scenario, body: fn(&mut World) -> Result<()>) -> Result<()> {
    let topology = Topology::new(prefix, scenario.pods)?;
    (scenario.before)(&topology)?;
    let (alice, bob) = (Home::new()?, Home::new()?);
    let mut config = AgentConfig::new(&topology, attach);
    config.developers = vec![alice.developer("alice", "{ app = \"web\" }"), bob.developer("bob", "{ app = \"web\" }")];
    (scenario.config)(&mut config);
    let before = topology.pods.iter().map(|pod| Snapshot::take(&pod.namespace)).collect::<Result<_>>()?;
    let sniff = Sniff::start(&topology.node.namespace, "vweb-1")?;
    let agent = Agent::start_with(&topology.node.namespace, agent::AgentFiles::new()?, &config, scenario.wrapper)?;
    let mut world = World { topology, agent, config, alice, bob, sniff, before };
    let result = body(&mut world).and_then(|()| world.end(scenario.sniff));
    if result.is_err() {
        world.agent.process.dump();
    }
    result
}

impl World {
    fn end(&mut self, sniff: bool) -> Result<()> {
        if self.agent.process.exited()?.is_none() {
            let code = self.agent.terminate(Duration::from_secs(30))?;
            ensure!(code == 0, "the agent ended with {code}");
        }
        for (pod, before) in self.topology.pods.iter().zip(&self.before) {
            before.restored(&pod.namespace, SOON)?;
        }
        if sniff { self.sniff.silent() } else { Ok(()) }
    }

    /// The first pod.
    pub fn pod(&self) -> &Host {
        self.topology.pod()
    }

    /// Makes the first pod anew: the same name and addresses, another network namespace. Nothing runs in it.
    pub fn recreate_pod(&mut self) -> Result<()> {
        self.topology.recreate_pod(0)?;
        self.before[0] = self.before[0].of_successor(&self.pod().namespace)?;
        Ok(())
    }

    /// The machine behind the gateway.
    pub fn client(&self) -> &Host {
        &self.topology.client
    }

    /// The node's namespace.
    pub fn node(&self) -> &redir_rig::Namespace {
        &self.topology.node.namespace
    }

    /// The first pod's first look, to compare with.
    pub fn before(&self) -> &Snapshot {
        &self.before[0]
    }

    /// The app, `green`, in the first pod.
    pub fn green(&self) -> Result<App> {
        App::start(&self.pod().namespace, PORT, "green")
    }

    /// A developer's own version on the developer's machine.
    pub fn local(&self, port: u16, version: &str) -> Result<App> {
        App::start_on(&self.topology.developer.namespace, &[([127, 0, 0, 1], port).into()], version)
    }

    /// `--agent … --agent-key …`
    pub fn agent_flags(&self) -> [String; 4] {
        self.agent_flags_over(Family::V4)
    }

    /// The same, to the agent's address of a family.
    pub fn agent_flags_over(&self, family: Family) -> [String; 4] {
        let at = self.topology.node.at(family, agent::TUNNEL_PORT).to_string();
        ["--agent".into(), at, "--agent-key".into(), self.agent.pin.clone()]
    }

    /// The arguments of `redir intercept` for the first pod: `ports` as `8080:3000`, then more flags.
    pub fn arguments<'a>(&self, target: &'a str, ports: &'a str, flags: &[&'a str]) -> Vec<String> {
        let mut all = vec![target.to_owned(), "--port".into(), ports.into()];
        all.extend(self.agent_flags());
        all.extend(flags.iter().map(|f| (*f).to_owned()));
        all
    }

    /// Starts an intercept of the first pod's port 8080 and waits until it is live.
    pub fn intercept(&self, home: &Home, local: u16, flags: &[&str]) -> Result<Cli> {
        let mut cli = self.start(home, local, flags)?;
        cli.wait_live()?;
        Ok(cli)
    }

    /// The same with nothing on the developer's port yet, once `redir` has looked there: no connection of its own is
    /// mistaken for a client's.
    pub fn intercept_early(&self, home: &Home, local: u16, flags: &[&str]) -> Result<Cli> {
        let mut cli = self.intercept(home, local, flags)?;
        cli.process.wait_for_line("nothing answers", SOON)?;
        Ok(cli)
    }

    /// Starts an intercept and does not wait.
    pub fn start(&self, home: &Home, local: u16, flags: &[&str]) -> Result<Cli> {
        let arguments = self.arguments("web-1", &format!("{PORT}:{local}"), flags);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        home.start(&self.topology.developer.namespace, &arguments)
    }

    /// Alice's usual intercept: `x-user: alice` to her port 3000.
    pub fn alice(&self) -> Result<Cli> {
        self.intercept(&self.alice, LOCAL, &["--header", "x-user: alice"])
    }

    /// Runs `redir COMMAND… --agent …` to its end: exit code, standard output, standard error.
    pub fn redir(&self, home: &Home, command: &[&str]) -> Result<(i32, String, String)> {
        let flags = self.agent_flags();
        let all: Vec<&str> = command.iter().copied().chain(flags.iter().map(String::as_str)).collect();
        home.run(&self.topology.developer.namespace, &all)
    }

    /// A client connection from a host to the app's port.
    pub fn connect(&self, from: &Host, family: Family) -> Result<TcpStream> {
        from.namespace.connect(self.pod().at(family, PORT))
    }

    /// The same, for HTTP.
    pub fn http(&self, from: &Host, family: Family) -> Result<Http> {
        self.connect(from, family).map(Http::new)
    }

    /// A GET on a connection of its own, from the client behind the gateway; its body.
    pub fn get(&self, family: Family, headers: &[&str]) -> Result<String> {
        Ok(self.http(self.client(), family)?.get("/", headers)?.text())
    }

    /// The app's end of the next connection from a host; the agent's own look whether the app speaks TLS, which comes from
    /// the pod itself, is none.
    pub fn accept(&self, app: &Listener, from: &Host, family: Family) -> Result<(TcpStream, SocketAddr)> {
        loop {
            let (end, peer) = app.accept()?;
            if peer.ip() == from.ip(family) || peer.ip() != self.pod().ip(family) {
                return Ok((end, peer));
            }
        }
    }

    /// A client connection and the app's end of it; it must have come through the agent, from the client's address.
    pub fn pair(&self, from: &Host, family: Family, app: &Listener) -> Result<Pair> {
        let client = self.connect(from, family)?;
        let (app, peer) = self.accept(app, from, family)?;
        let pair = Pair { client, app, peer };
        ensure!(pair.steered()?, "the app sees {peer}, the client is {}", pair.client.local_addr()?);
        ensure!(peer.ip() == from.ip(family), "the app sees {peer} instead of {}", from.ip(family));
        ensure!(pair.app.local_addr()? == self.pod().at(family, PORT), "the app is at {}", pair.app.local_addr()?);
        Ok(pair)
    }

    /// Waits until the agent's listeners in the first pod are gone: from then on a SYN reaches the app.
    pub fn listeners_gone(&self) -> Result<()> {
        wait::until_true("the agent's listeners to be gone", SOON, || Ok(self.transparent_listeners()? == 0))
    }

    fn transparent_listeners(&self) -> Result<usize> {
        let tables = self.pod().namespace.run(|| -> std::io::Result<_> {
            Ok(fs::read_to_string("/proc/thread-self/net/tcp")? + &fs::read_to_string("/proc/thread-self/net/tcp6")?)
        })??;
        // Column 3 is the state, 0A = LISTEN; column 1 address and port. The app's own are on the unspecified address.
        let listening = tables.lines().filter(|l| l.split_whitespace().nth(3) == Some("0A"));
        let loopback = listening.filter(|l| {
            let at = l.split_whitespace().nth(1).unwrap_or_default();
            at.starts_with("0100007F:") || at.starts_with("00000000000000000000000001000000:")
        });
        Ok(loopback.count())
    }

    /// Waits until a program in the first pod has counted a reason at least so often.
    pub fn counted(&self, program: &str, reason: &str, least: f64) -> Result<()> {
        let labels = [format!("program=\"{program}\""), format!("reason=\"{reason}\"")];
        let labels = labels.each_ref().map(String::as_str);
        wait::until_true(format!("{program} to count {reason} {least} times"), SOON, || {
            Ok(self.metric("redir_datapath_packets_total", &labels)? >= least)
        })
    }

    /// A metric of the agent (the sum over all samples whose labels contain all of `parts`).
    pub fn metric(&self, name: &str, parts: &[&str]) -> Result<f64> {
        Agent::metric(self.node(), name, parts)
    }
}

/// Both ends of one client connection.
#[derive(Debug)]
pub struct Pair {
    /// The client's end.
    pub client: TcpStream,
    /// The app's end.
    pub app: TcpStream,
    /// The client as the app sees it.
    pub peer: SocketAddr,
}

impl Pair {
    /// Whether it goes through the agent: another port, of the reserved ranges.
    pub fn steered(&self) -> Result<bool> {
        Ok(self.client.local_addr()?.port() != self.peer.port() && reserved(self.peer.port()))
    }
}

/// Whether a port is one the agent uses towards the app.
pub fn reserved(port: u16) -> bool {
    (512..=1023).contains(&port) || (10_000..=29_999).contains(&port)
}

/// Reads exactly `length` bytes.
pub fn read_exactly(stream: &mut TcpStream, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    std::io::Read::read_exact(stream, &mut bytes).context("read")?;
    Ok(bytes)
}

/// Reads to the end of the stream.
pub fn read_all(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(stream, &mut bytes).context("read to the end")?;
    Ok(bytes)
}

/// Writes all.
pub fn write(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) -> Result<()> {
    std::io::Write::write_all(stream, bytes.as_ref()).context("write")
}

/// A test that runs twice: with TCX, where the kernel has it, and with clsact forced. `both!(name, SCENARIO, |w| { … })`
#[macro_export]
macro_rules! both {
    ($(#[doc = $doc:literal])* $name:ident, $scenario:expr, $body:expr) => {
        mod $name {
            #[expect(unused_imports, reason = "not every body needs everything")]
            use super::*;

            #[test]
            fn tcx() -> anyhow::Result<()> {
                $crate::run_by_tcx($scenario, $body)
            }

            #[test]
            fn clsact() -> anyhow::Result<()> {
                $crate::run("clsact", $scenario, $body)
            }
        }
    };
}

/// A test that runs once, with what the kernel has. `once!(name, SCENARIO, |w| { … })`
#[macro_export]
macro_rules! once {
    ($name:ident, $scenario:expr, $body:expr) => {
        #[test]
        fn $name() -> anyhow::Result<()> {
            $crate::run("auto", $scenario, $body)
        }
    };
}
