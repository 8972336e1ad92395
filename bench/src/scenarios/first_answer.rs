//! `first-answer`: from the start of the command to the first matched answer, next to tunnels whose server already runs.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use redir_rig::{Http, wait};

use super::{BenchRun, cells::order};
use crate::{
    figures::CellRecord,
    peers::{
        Contender,
        tunnel::{self, TunnelPeer},
    },
    programs::START,
    wan::{LinkProfile, W2, W3},
    world::BenchWorld,
};

/// A tunnel whose server runs, the files of its client, and where it answers.
type RunningServer = (TunnelPeer, PathBuf, Contender);

pub(super) fn run(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    bench.world.start_agent()?;
    let mut servers = Vec::new();
    let mut tunnels = vec![TunnelPeer::Ssh, TunnelPeer::Rathole];
    tunnels.retain(|tunnel| bench.asked(tunnel.name()));
    for tunnel in tunnels {
        let folder = bench.folder.join(format!("t-{}", tunnel as u8));
        std::fs::create_dir_all(&folder)?;
        // Started once to the end, so that the server is known to be there.
        match tunnel.start(bench.world, &folder) {
            Ok(mut contender) => {
                let mut client = contender.processes.remove(0);
                client.kill()?;
                let to = contender.to;
                wait::until_true("the port to be free again", START, || Ok(!tunnel::answers(bench.world, to)))?;
                servers.push((tunnel, folder, contender));
            }
            Err(error) => bench.left_out.push(format!("{}: {error:#}", tunnel.name())),
        }
    }
    // A quick run shows that it works over a link.
    let links = if bench.pace.cut > 1 { &[None, Some(W2)][..] } else { &[None, Some(W2), Some(W3)] };
    let mut records = Vec::new();
    for (number, link) in links.iter().enumerate() {
        let later = links.iter().skip(number + 1).map(|link| turn(*link)).sum();
        bench.world.set_link(*link, 1)?;
        records.extend(over(bench, *link, later, &servers)?);
    }
    bench.world.set_link(None, 1)?;
    Ok(records)
}

/// Everybody in turn, some times; `later`: what one time on each link after this one takes.
fn over(
    bench: &BenchRun<'_>,
    link: Option<LinkProfile>,
    later: Duration,
    servers: &[RunningServer],
) -> Result<Vec<CellRecord>> {
    let name = link.map_or("W0", |link| link.name);
    let repetitions = u32::try_from(bench.pace.pieces(30))?;
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for repetition in 0..repetitions {
        let left = turn(link) * (repetitions - repetition) + later * repetitions;
        bench.progress.say(&format!("first-answer {name}: {} of {repetitions}", repetition + 1), left);
        for turn in order(repetition as usize, servers.len() + 1) {
            let (name, took) = match turn.checked_sub(1).map(|number| &servers[number]) {
                None => ("redir", redir(bench.world)?),
                Some(server) => (server.0.name(), peer(bench.world, server)?),
            };
            times.entry(name).or_default().push(took);
        }
    }
    Ok(times.into_iter().map(|(contender, times)| record(name, link, contender, times)).collect())
}

/// In milliseconds.
fn peer(world: &BenchWorld, (tunnel, folder, contender): &RunningServer) -> Result<f64> {
    let began = Instant::now();
    let mut client = tunnel.client(world, folder)?;
    let answers = || Ok(tunnel::answers(world, contender.to));
    wait::until_true(format!("{} to answer", tunnel.name()), START, answers)?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    client.kill()?;
    wait::until_true("the port to be free again", START, || answers().map(|answered| !answered))?;
    Ok(took)
}

/// About what all take once.
fn turn(link: Option<LinkProfile>) -> Duration {
    Duration::from_millis(430) + Duration::from_millis(30) * link.map_or(0, |link| link.round_trip)
}

/// In milliseconds.
fn redir(world: &BenchWorld) -> Result<f64> {
    let began = Instant::now();
    let cli = world.start_intercept(0, &["--header", "x-user: bench"])?;
    wait::until_true("a matched answer", START, || {
        let stream = world.topology.client.namespace.connect(world.app(0))?;
        let answer = Http::new(stream).get("/", &["x-user: bench"]).context("while the intercept begins")?;
        Ok(answer.text().starts_with("blue"))
    })?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    cli.leave()?;
    Ok(took)
}

fn record(cell: &str, link: Option<LinkProfile>, contender: &str, times: Vec<f64>) -> CellRecord {
    let above = link.map(|link| {
        let free = 4.0 * f64::from(link.round_trip);
        ("ms above 4 round trips".to_owned(), times.iter().map(|ms| ms - free).collect())
    });
    let link = link.map(|link| format!("{}; ", link.spelled())).unwrap_or_default();
    CellRecord {
        scenario: "first-answer".into(),
        cell: cell.to_owned(),
        contender: contender.to_owned(),
        pins: format!("{link}the server's end on one CPU, the rest on any; looked at every 5 ms"),
        metrics: [("ms".to_owned(), times)].into_iter().chain(above).collect(),
        quantiles: Vec::new(),
        timeline: Vec::new(),
        failed: 0,
        reason: None,
    }
}
