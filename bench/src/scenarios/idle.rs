//! `idle`: what the agent holds for idle connections, streams and tunnels, next to proxies: proportional set size with a tenth
//! of them and with all, and the slope between. The connections' first requests were answered.

use std::{collections::BTreeMap, net::TcpStream, time::Duration};

use anyhow::{Result, ensure};
use redir_rig::Http;

use super::{BenchRun, builds::merge, unmatched};
use crate::{
    cost,
    figures::CellRecord,
    peers::{Contender, MATCHED, proxy::ProxyPeer},
    world::BenchWorld,
};

/// Pass-through connections, matched ones, developers. Both ends of the first fit into 20,000 open files.
const CONNECTIONS: usize = 7000;
const STREAMS: usize = 1000;
const TUNNELS: usize = 100;
/// How often each of two builds is measured before they change their worlds.
const ROUNDS_OF_A_BLOCK: usize = 2;

pub(super) fn run(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    if bench.twin.is_some() {
        return builds(bench);
    }
    let mut proxies = Vec::new();
    for proxy in [ProxyPeer::HaproxyHttp, ProxyPeer::HaproxyTcp, ProxyPeer::Nginx] {
        unmatched::start(bench, proxy, &mut proxies);
    }
    one_build(bench, proxies)
}

/// Both builds in turn, with half of everything. Only one agent runs: pages that two share would count for each by half.
fn builds(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    let before = bench.pace;
    bench.pace.cut *= 2;
    let mut records = Vec::new();
    for _ in 0..ROUNDS_OF_A_BLOCK {
        for _ in 0..2 {
            bench.each_world(BenchWorld::stop_agent)?;
            merge(&mut records, one_build(bench, Vec::new())?);
            bench.swap_sites();
        }
    }
    bench.pace = before;
    Ok(records)
}

/// The build of the main world, and these.
fn one_build(bench: &mut BenchRun<'_>, proxies: Vec<Contender>) -> Result<Vec<CellRecord>> {
    anew(bench)?;
    let build = bench.world.build().name;
    #[expect(clippy::cast_precision_loss, reason = "bytes below 2^52")]
    let resident = cost::memory(&bench.world.agent_pids())? as f64 / 1024.0 / 1024.0;
    let mut records = vec![record("agent, nothing to do", build, "MiB", resident)];
    let intercept = bench.world.intercept(&["--header", MATCHED])?;
    let contenders: Vec<_> = [Contender::unmatched(bench.world)].into_iter().chain(proxies).collect();
    for contender in &contenders {
        let connections = bench.pace.pieces(CONNECTIONS);
        bench.progress.say(&format!("idle: {connections} connections, {}", contender.name), Duration::from_secs(20));
        let bytes = slope(bench.world, contender, connections)?;
        records.push(record("idle connection", &contender.name, "bytes each", bytes));
    }
    intercept.leave()?;
    anew(bench)?;
    let intercept = bench.world.intercept(&["--header", MATCHED])?;
    let matched = Contender::matched(bench.world);
    let bytes = slope(bench.world, &matched, bench.pace.pieces(STREAMS))?;
    records.push(record("idle matched connection", build, "bytes each", bytes));
    intercept.leave()?;
    anew(bench)?;
    records.push(record("tunnel", build, "bytes each", tunnels(bench)?));
    Ok(records)
}

/// An agent whose memory grows from nothing: what others have left behind would be used again.
fn anew(bench: &mut BenchRun<'_>) -> Result<()> {
    bench.world.stop_agent()?;
    bench.world.start_agent()
}

/// Bytes for each connection between the first tenth and all.
fn slope(world: &BenchWorld, contender: &Contender, count: usize) -> Result<f64> {
    let mut open = Vec::with_capacity(count);
    let first = hold(world, contender, &mut open, (count / 10).max(1))?;
    let all = hold(world, contender, &mut open, count)?;
    Ok(each(first, all, count - (count / 10).max(1)))
}

/// Opens connections up to `count`, and gives the memory then.
fn hold(world: &BenchWorld, contender: &Contender, open: &mut Vec<Http<TcpStream>>, count: usize) -> Result<u64> {
    let headers: Vec<&str> = contender.headers.iter().map(String::as_str).collect();
    let fill = || -> Result<()> {
        while open.len() < count {
            let stream = TcpStream::connect(contender.to)?;
            stream.set_read_timeout(Some(redir_rig::namespace::PATIENCE))?;
            let mut http = Http::new(stream);
            let answer = http.get("/", &headers)?;
            ensure!(answer.text().starts_with(contender.expect), "answered {:?}", answer.text());
            open.push(http);
        }
        Ok(())
    };
    world.topology.client.namespace.run(fill)??;
    cost::memory(&contender.pids())
}

/// Bytes of the agent for each developer with an intercept, between the first tenth and all.
fn tunnels(bench: &mut BenchRun<'_>) -> Result<f64> {
    let count = bench.pace.pieces(TUNNELS);
    let (mut live, mut first) = (Vec::new(), 0);
    for number in 0..count {
        if number % 10 == 0 {
            bench.progress.say(&format!("idle: tunnel {number} of {count}"), Duration::from_secs(10));
        }
        live.push(bench.world.intercept(&["--header", &format!("x-user: developer-{number}")])?);
        if live.len() == (count / 10).max(1) {
            first = cost::memory(&bench.world.agent_pids())?;
        }
    }
    let all = cost::memory(&bench.world.agent_pids())?;
    Ok(each(first, all, count - (count / 10).max(1)))
}

#[expect(clippy::cast_precision_loss, reason = "bytes below 2^52")]
fn each(first: u64, all: u64, count: usize) -> f64 {
    (all as f64 - first as f64) / count as f64
}

fn record(cell: &str, contender: &str, metric: &str, value: f64) -> CellRecord {
    CellRecord {
        scenario: "idle".into(),
        cell: cell.to_owned(),
        contender: contender.to_owned(),
        pins: "does not matter".into(),
        metrics: BTreeMap::from([(metric.to_owned(), vec![value])]),
        quantiles: Vec::new(),
        timeline: Vec::new(),
        failed: 0,
        reason: None,
    }
}
