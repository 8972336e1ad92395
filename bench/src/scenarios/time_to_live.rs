//! T: from the start of the command to the first matched answer, next to tunnels whose server already runs.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use redir_rig::{Http, wait};

use super::Bench;
use crate::{
    figures::Record,
    peers::{
        Contender,
        tunnel::{self, Tunnel},
    },
    wan::{W2, W3},
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
    let mut records = over(bench, "W0", bench.pace.pieces(30), &servers)?;
    // A quick run shows that it works over a line.
    let lines = if bench.pace.cut > 1 { &[W2][..] } else { &[W2, W3] };
    for profile in lines.iter().copied() {
        bench.world.set_line(Some(profile), 1)?;
        let seen = over(bench, profile.name, bench.pace.pieces(30), &servers)?;
        records.extend(seen.into_iter().map(|mut record| {
            let free = 4.0 * f64::from(profile.round_trip);
            let above = record.metrics["ms"].iter().map(|ms| ms - free).collect();
            record.metrics.insert("ms above 4 round trips".into(), above);
            record.pins = format!("{}; {}", profile.spelled(), record.pins);
            record
        }));
        bench.world.set_line(None, 1)?;
    }
    Ok(records)
}

/// Everybody in turn, so often.
fn over(bench: &Bench<'_>, line: &str, repetitions: usize, servers: &[Server]) -> Result<Vec<Record>> {
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for repetition in 0..repetitions {
        bench.progress.say(&format!("T {line}: {} of {repetitions}", repetition + 1), Duration::from_secs(1));
        times.entry("redir").or_default().push(redir(bench.world)?);
        for (tunnel, folder, contender) in servers {
            let began = Instant::now();
            let mut client = tunnel.client(bench.world, folder)?;
            wait::until_true(format!("{} to answer", tunnel.name()), START, || {
                Ok(tunnel::answers(bench.world, contender.to))
            })?;
            times.entry(tunnel.name()).or_default().push(began.elapsed().as_secs_f64() * 1e3);
            client.kill()?;
            wait::until_true("the port to be free again", START, || Ok(!tunnel::answers(bench.world, contender.to)))?;
        }
    }
    Ok(times.into_iter().map(|(name, times)| record(line, name, times)).collect())
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

fn record(line: &str, name: &str, times: Vec<f64>) -> Record {
    Record {
        scenario: "T".into(),
        cell: line.to_owned(),
        contender: name.to_owned(),
        pins: "the server's end on one CPU, the rest on any; looked at every 5 ms".into(),
        metrics: BTreeMap::from([("ms".to_owned(), times)]),
        quantiles: Vec::new(),
        timeline: Vec::new(),
        failed: 0,
        reason: None,
    }
}
