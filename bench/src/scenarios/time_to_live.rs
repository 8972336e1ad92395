//! T: from the start of the command to the first matched answer, next to tunnels whose server already runs.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use redir_rig::{Http, wait};

use super::{Bench, cells::order};
use crate::{
    figures::Record,
    peers::{
        Contender,
        tunnel::{self, Tunnel},
    },
    wan::{Profile, W2, W3},
    world::{START, World},
};

/// A tunnel whose server runs, the files of its client, and where it answers.
type Server = (Tunnel, PathBuf, Contender);

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Vec<Record>> {
    bench.world.start_agent()?;
    let mut servers = Vec::new();
    let mut tunnels = vec![Tunnel::Ssh, Tunnel::Rathole];
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
    // A quick run shows that it works over a line.
    let lines = if bench.pace.cut > 1 { &[None, Some(W2)][..] } else { &[None, Some(W2), Some(W3)] };
    let mut records = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let later = lines.iter().skip(number + 1).map(|line| turn(*line)).sum();
        bench.world.set_line(*line, 1)?;
        records.extend(over(bench, *line, later, &servers)?);
    }
    bench.world.set_line(None, 1)?;
    Ok(records)
}

/// Everybody in turn, some times; `later`: what one time on each line after this one takes.
fn over(bench: &Bench<'_>, line: Option<Profile>, later: Duration, servers: &[Server]) -> Result<Vec<Record>> {
    let name = line.map_or("W0", |line| line.name);
    let repetitions = u32::try_from(bench.pace.pieces(30))?;
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for repetition in 0..repetitions {
        let left = turn(line) * (repetitions - repetition) + later * repetitions;
        bench.progress.say(&format!("T {name}: {} of {repetitions}", repetition + 1), left);
        for turn in order(repetition as usize, servers.len() + 1) {
            let (name, took) = match turn.checked_sub(1).map(|number| &servers[number]) {
                None => ("redir", redir(bench.world)?),
                Some(server) => (server.0.name(), peer(bench.world, server)?),
            };
            times.entry(name).or_default().push(took);
        }
    }
    Ok(times.into_iter().map(|(contender, times)| record(name, line, contender, times)).collect())
}

/// In milliseconds.
fn peer(world: &World, (tunnel, folder, contender): &Server) -> Result<f64> {
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
fn turn(line: Option<Profile>) -> Duration {
    Duration::from_millis(430) + Duration::from_millis(30) * line.map_or(0, |line| line.round_trip)
}

/// In milliseconds.
fn redir(world: &World) -> Result<f64> {
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

fn record(cell: &str, line: Option<Profile>, contender: &str, times: Vec<f64>) -> Record {
    let above = line.map(|line| {
        let free = 4.0 * f64::from(line.round_trip);
        ("ms above 4 round trips".to_owned(), times.iter().map(|ms| ms - free).collect())
    });
    let line = line.map(|line| format!("{}; ", line.spelled())).unwrap_or_default();
    Record {
        scenario: "T".into(),
        cell: cell.to_owned(),
        contender: contender.to_owned(),
        pins: format!("{line}the server's end on one CPU, the rest on any; looked at every 5 ms"),
        metrics: [("ms".to_owned(), times)].into_iter().chain(above).collect(),
        quantiles: Vec::new(),
        timeline: Vec::new(),
        failed: 0,
        reason: None,
    }
}
