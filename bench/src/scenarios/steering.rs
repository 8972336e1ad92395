//! U, a connection for each request, by how the agent comes to its connections: redir's programs, or the TPROXY and
//! REDIRECT of netfilter, which other tools use.
//!
//! TPROXY stands in front of the very same agent: its listener is transparent, and a filter before redir's on the clsact
//! hook keeps the programs from seeing a packet on its way in. REDIRECT cannot: it hides the port that the client wanted,
//! and the agent believes nobody who tells it later. So the floor stands behind both, and what REDIRECT costs more than
//! TPROXY there is added to what redir costs behind TPROXY.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};
use redir_rig::{Cli, Namespace, topology::Family};

use super::{
    BenchRun,
    cells::{CpuPlacement, LoadCell},
};
use crate::{
    figures::CellRecord,
    peers::{Contender, REDIR, REDIRECT},
    programs,
    world::{BenchWorld, PORT},
};

/// The floor's own port, and that of its clients.
const RELAY: u16 = 9100;
const RELAYED: u16 = 9101;

const CELL: LoadCell<'static> = LoadCell {
    scenario: "unmatched",
    name: "a connection for each request, however taken",
    load: &["--connections", "16", "--close", "--rate", "1000"],
    pins: CpuPlacement::Together,
};
const MACHINE: &str = "machine ns/request";

const TPROXY: &str = "redir behind TPROXY";
const FLOOR_TPROXY: &str = "epoll floor behind TPROXY";
const FLOOR_REDIRECT: &str = "epoll floor behind REDIRECT";

/// The pods: steered, behind TPROXY, and those of the two floors.
const STEERED: usize = 0;
const BEHIND: usize = 1;
const FLOORS: [usize; 2] = [2, 3];

pub(super) fn run(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    if !bench.wants(CELL.name) {
        return Ok(Vec::new());
    }
    bench.world.stop_agent()?;
    let before = std::mem::replace(&mut bench.world.config.attach, "clsact".to_owned());
    take_first_place(bench.world)?;
    let records = measure(bench);
    bench.world.stop_agent()?;
    bench.world.config.attach = before;
    // With it everything on the hook goes.
    behind(bench.world).output(&["tc", "qdisc", "del", "dev", "eth0", "clsact"])?;
    records
}

fn measure(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    bench.world.start_agent()?;
    let start = |pod| bench.world.start_intercept(pod, &["--header", "x-user: bench"]);
    let mut live = [start(STEERED)?, start(BEHIND)?];
    live.iter_mut().try_for_each(|cli| cli.wait_live().map(drop))?;
    let rule = go_around_programs(bench.world)?;
    let redir = |name, pod| Contender::transparent(name, bench.world.app(pod), bench.world.agent_pids());
    let [tproxy, redirect] = FLOORS;
    let contenders = [
        redir(REDIR, STEERED),
        redir(TPROXY, BEHIND),
        floor(bench.world, tproxy, true)?,
        floor(bench.world, redirect, false)?,
    ];
    let measured = CELL.run(bench, &contenders);
    // Also when nothing was measured: the next scenario's clients go by the same hook.
    netfilter(behind(bench.world), "-D", &rule)?;
    let mut records = measured?;
    records.push(calculated(&records)?);
    live.into_iter().try_for_each(Cli::leave)?;
    Ok(records)
}

/// What redir would cost behind REDIRECT.
fn calculated(records: &[CellRecord]) -> Result<CellRecord> {
    let of = |name: &str| {
        let record = records.iter().find(|record| record.contender == name).context("a contender is missing")?;
        record.metrics.get(MACHINE).context("it has answered nothing")
    };
    let floors = of(FLOOR_REDIRECT)?.iter().zip(of(FLOOR_TPROXY)?);
    let more = floors.map(|(redirect, tproxy)| redirect - tproxy);
    let cost = of(TPROXY)?.iter().zip(more).map(|(tproxy, more)| tproxy + more).collect();
    let mut record = CELL.record(REDIRECT, &[]);
    record.metrics = BTreeMap::from([(MACHINE.to_owned(), cost)]);
    Ok(record)
}

/// The floor in a pod behind TPROXY or REDIRECT. A pod each: what netfilter does for one connection, it does for every one
/// of its network namespace.
fn floor(world: &BenchWorld, pod: usize, transparent: bool) -> Result<Contender> {
    let (host, app) = (&world.topology.pods[pod], world.app(pod));
    let (name, listen, table, target) = match transparent {
        true => (FLOOR_TPROXY, Family::V4.loopback(), "mangle", format!("TPROXY --on-ip 127.0.0.1 --on-port {RELAY}")),
        false => (FLOOR_REDIRECT, host.v4.into(), "nat", format!("REDIRECT --to-ports {RELAY}")),
    };
    let (listen, app) = (SocketAddr::new(listen, RELAY).to_string(), app.to_string());
    let mut arguments = vec!["relay", "--listen", &listen, "--to", &app];
    if transparent {
        arguments.push("--transparent");
    }
    let process = programs::start(&host.namespace, &arguments)?;
    netfilter(&host.namespace, "-A", &format!("PREROUTING -t {table} -i eth0 -p tcp --dport {RELAYED} -j {target}"))?;
    let mut contender = Contender::transparent(name, SocketAddr::new(host.v4.into(), RELAYED), vec![process.pid()]);
    contender.processes = vec![process];
    Ok(contender)
}

fn behind(world: &BenchWorld) -> &Namespace {
    &world.topology.pods[BEHIND].namespace
}

/// A filter of nothing in the first place of the pod's hook, so that redir's is behind what is added later.
fn take_first_place(world: &BenchWorld) -> Result<()> {
    behind(world).output(&["tc", "qdisc", "add", "dev", "eth0", "clsact"])?;
    // A protocol for local experiments (IEEE 802), which nobody speaks here.
    behind(world).output(&[FILTER, &["1", "protocol", "0x88b5"], EVERYTHING].concat())?;
    Ok(())
}

const FILTER: &[&str] = &["tc", "filter", "add", "dev", "eth0", "ingress", "pref"];
/// Ends the hook's chain with what the kernel would do anyway.
const EVERYTHING: &[&str] = &["u32", "match", "u32", "0", "0", "flowid", "1:1"];

/// TPROXY instead of redir's programs, for packets on their way in; gives its rule.
fn go_around_programs(world: &BenchWorld) -> Result<String> {
    // The app listens on every address; on loopback alone there is nobody but the agent.
    let listeners = behind(world).output(&["ss", "--no-header", "--listening", "--tcp", "--numeric", "--ipv4"])?;
    let mut words = listeners.split_whitespace();
    let port = words.find_map(|word| word.strip_prefix("127.0.0.1:")).context("the agent listens nowhere")?;
    // What the agent's own packets carry is never taken again.
    let mark = redir_abi::MARK;
    let rule = format!(
        "PREROUTING -t mangle -i eth0 -p tcp --dport {PORT} -m mark ! --mark {mark} -j TPROXY --on-ip 127.0.0.1 --on-port \
         {port}"
    );
    netfilter(behind(world), "-A", &rule)?;
    behind(world).output(&[FILTER, &["2", "protocol", "ip"], EVERYTHING].concat())?;
    Ok(rule)
}

fn netfilter(namespace: &Namespace, how: &str, rule: &str) -> Result<()> {
    let words = ["iptables-legacy", how].into_iter().chain(rule.split(' ')).collect::<Vec<_>>();
    namespace.output(&words).map(drop)
}
