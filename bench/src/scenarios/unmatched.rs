//! `unmatched`: requests that match nothing on an intercepted port, next to the app alone and to proxies in the same place.

use anyhow::Result;
use redir_rig::Cli;

use super::{
    BenchRun,
    cells::{CpuPlacement, LoadCell},
    steering,
};
use crate::{
    figures::{CellRecord, median},
    peers::{
        Contender,
        proxy::{self, ProxyPeer},
    },
};

/// A load that goals are about.
struct UnmatchedLoad {
    cell: LoadCell<'static>,
    /// Whether the app alone is measured too.
    direct: bool,
    /// Those that a goal names.
    proxies: &'static [ProxyPeer],
}

const LOADS: [UnmatchedLoad; 4] = [
    UnmatchedLoad {
        cell: LoadCell {
            scenario: "unmatched",
            name: "1 connection",
            load: &["--rate", "2000"],
            pins: CpuPlacement::Together,
        },
        direct: true,
        proxies: &[ProxyPeer::Floor, ProxyPeer::HaproxyHttp, ProxyPeer::Envoy],
    },
    UnmatchedLoad {
        cell: LoadCell {
            scenario: "unmatched",
            name: "64 connections, saturated",
            load: &["--connections", "64"],
            pins: CpuPlacement::Apart,
        },
        direct: true,
        proxies: &[ProxyPeer::HaproxyHttp, ProxyPeer::HaproxyTcp, ProxyPeer::Nginx, ProxyPeer::Envoy],
    },
    UnmatchedLoad {
        // At a fixed rate: saturated, this load would measure how the client address runs out of ports.
        cell: LoadCell {
            scenario: "unmatched",
            name: "a connection for each request",
            load: &["--connections", "16", "--close", "--rate", "1000"],
            pins: CpuPlacement::Together,
        },
        direct: true,
        // The one shares its connections to the app between clients; the other opens one for each, as redir does.
        proxies: &[ProxyPeer::HaproxyHttp, ProxyPeer::HaproxyTcp],
    },
    UnmatchedLoad {
        cell: LoadCell {
            scenario: "unmatched",
            name: "8 MB bodies",
            load: &["--path", "/8000000"],
            pins: CpuPlacement::Apart,
        },
        direct: false,
        proxies: &[ProxyPeer::HaproxyTcp],
    },
];

pub(super) fn run(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    let intercepts = bench.each_world(|world| world.intercept(&["--header", "x-user: bench"]))?;
    let mut records = Vec::new();
    for UnmatchedLoad { cell, direct, proxies } in &LOADS {
        if !bench.wants(cell.name) {
            continue;
        }
        let (direct, proxies) = if bench.all { (true, &proxy::ALL[..]) } else { (*direct, *proxies) };
        let contenders = contenders(bench, direct, proxies)?;
        records.extend(cell.run(bench, &contenders)?);
        bench.shown.extend(proxy::proven(&contenders, cell.name)?);
    }
    if bench.all {
        let more = levels(bench, &records)?;
        records.extend(more);
    }
    intercepts.into_iter().try_for_each(Cli::leave)?;
    // Its contenders are those of netfilter.
    if bench.twin.is_none() {
        records.extend(steering::run(bench)?);
    }
    Ok(records)
}

/// Redir, these, and the app alone if asked.
fn contenders(bench: &mut BenchRun<'_>, direct: bool, proxies: &[ProxyPeer]) -> Result<Vec<Contender>> {
    let mut contenders = bench.each_site(Contender::unmatched);
    if bench.builds_only() {
        return Ok(contenders);
    }
    if direct {
        contenders.insert(0, Contender::transparent("direct", bench.world.app(1), Vec::new()));
    }
    for proxy in proxies {
        start(bench, *proxy, &mut contenders);
    }
    Ok(contenders)
}

/// What no goal asks for: more connections, shares of what the slowest proxy can, larger heads and bodies, pipelines.
fn levels(bench: &mut BenchRun<'_>, seen: &[CellRecord]) -> Result<Vec<CellRecord>> {
    let saturated =
        seen.iter().filter(|record| record.cell.starts_with("64 connections") && record.contender != "direct");
    let rates = saturated.filter_map(|record| median(record.metrics.get("requests/s")?));
    let slowest = rates.fold(f64::INFINITY, f64::min);
    let mut loads: Vec<(String, Vec<String>)> = Vec::new();
    for connections in ["1", "16", "256"] {
        loads.push((format!("{connections} connections, saturated"), vec!["--connections".into(), connections.into()]));
    }
    // Where nothing was saturated there is no slowest proxy to take a share of.
    for percent in [10.0, 50.0, 80.0].into_iter().filter(|_| slowest.is_finite()) {
        let rate = (slowest * percent / 100.0).round().to_string();
        let load = ["--connections", "16", "--rate", &rate].map(str::to_owned).to_vec();
        loads.push((format!("16 connections, {percent} % of the slowest"), load));
    }
    for bytes in [1000, 4000] {
        let cookie = format!("cookie: session={}", "x".repeat(bytes - 100));
        let load = ["--rate", "2000", "--header", &cookie].map(str::to_owned).to_vec();
        loads.push((format!("1 connection, heads of {bytes} B"), load));
    }
    for bytes in [10_000, 100_000, 1_000_000] {
        loads.push((format!("bodies of {} KB", bytes / 1000), vec!["--path".into(), format!("/{bytes}")]));
    }
    let pipelined = ["--connections", "16", "--pipeline", "16"].map(str::to_owned).to_vec();
    loads.push(("16 connections, 16 requests at once".to_owned(), pipelined));
    let contenders = contenders(bench, true, &proxy::ALL)?;
    let mut records = Vec::new();
    for (name, load) in &loads {
        let load: Vec<&str> = load.iter().map(String::as_str).collect();
        records.extend(
            LoadCell { scenario: "unmatched", name, load: &load, pins: CpuPlacement::Apart }.run(bench, &contenders)?,
        );
    }
    Ok(records)
}

/// One that cannot be started is left out, and said.
pub(super) fn start(bench: &mut BenchRun<'_>, proxy: ProxyPeer, contenders: &mut Vec<Contender>) {
    // The floor is the bench's own.
    if proxy != ProxyPeer::Floor && !bench.asked(proxy.name()) {
        return;
    }
    match proxy.start(bench.world, &bench.folder) {
        Ok(contender) => contenders.push(contender),
        Err(error) => bench.left_out.push(format!("{}: {error:#}", proxy.name())),
    }
}
