//! `mixed`: unmatched requests, while a ninth as many matched ones go to 1, 5, 20 or 50 developers. The control has the same
//! intercept and nobody who asks for anything of it.

use anyhow::{Context, Result, ensure};
use redir_rig::{Cli, Process};

use super::{
    BenchRun,
    cells::{CpuPlacement, LoadCell, RoundFigures, order},
};
use crate::{
    cost::{self, ENDS},
    figures::CellRecord,
    peers::Contender,
    programs::{self, START, load::LoadFigures},
};

const DEVELOPERS: [usize; 5] = [0, 1, 5, 20, 50];
/// Matched requests a second, of all developers together.
const MATCHED: usize = 100;

pub(super) fn run(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    let cell = LoadCell {
        scenario: "mixed",
        name: "900 unmatched requests/s, 100 matched",
        load: &["--connections", "4", "--rate", "900"],
        pins: CpuPlacement::Apart,
    };
    let mut runs: [Vec<RoundFigures>; DEVELOPERS.len()] = Default::default();
    let mut failed = [0; DEVELOPERS.len()];
    for round in 0..bench.pace.rounds {
        for number in order(round, DEVELOPERS.len()) {
            let count = &DEVELOPERS[number];
            let left = bench.pace.measurement() * u32::try_from(DEVELOPERS.len() * (bench.pace.rounds - round))?;
            bench.progress.say(&format!("mixed: {count} developers, round {}", round + 1), left);
            let live = intercepts(bench, (*count).min(bench.pace.pieces(DEVELOPERS[4])).max(1))?;
            let loads = if *count == 0 { Vec::new() } else { matched(bench, live.len())? };
            let redir = Contender::transparent("redir", bench.world.app(0), bench.world.agent_pids());
            runs[number].push(cell.once(bench, &redir)?);
            for load in loads {
                failed[number] += ended(bench, load)?;
            }
            live.into_iter().try_for_each(Cli::leave)?;
        }
    }
    let records = DEVELOPERS.iter().zip(&runs).zip(failed).map(|((count, runs), failed)| {
        let mut record = cell.record(&named(*count), runs);
        record.failed += failed;
        record
    });
    Ok(records.collect())
}

fn named(count: usize) -> String {
    match count {
        0 => "nobody asks".to_owned(),
        1 => "1 developer".to_owned(),
        many => format!("{many} developers"),
    }
}

fn header(number: usize) -> String {
    format!("x-user: developer-{number}")
}

/// So many developers, each with a header value of their own. All are live.
fn intercepts(bench: &mut BenchRun<'_>, count: usize) -> Result<Vec<Cli>> {
    bench.world.start_agent()?;
    let start = |number| bench.world.start_intercept(0, &["--header", &header(number)]);
    let mut all: Vec<Cli> = (0..count).map(start).collect::<Result<_>>()?;
    for cli in &mut all {
        cli.wait_live()?;
    }
    Ok(all)
}

/// The developers' clients, one each.
fn matched(bench: &BenchRun<'_>, developers: usize) -> Result<Vec<Process>> {
    #[expect(clippy::cast_precision_loss, reason = "a hundred requests")]
    let rate = (MATCHED as f64 / developers as f64).to_string();
    let (to, warm, counted) =
        (bench.world.app(0).to_string(), bench.pace.warm.to_string(), bench.pace.counted.to_string());
    let one = |number| {
        let mut command = programs::command()?;
        command.args(["load", "--to", &to, "--expect", "blue", "--rate", &rate, "--header", &header(number)]);
        command.args(["--warm", &warm, "--counted", &counted]);
        let load = bench.world.topology.client.namespace.spawn("a developer's client", &mut command)?;
        cost::pin(&[load.pid()], ENDS)?;
        Ok(load)
    };
    (0..developers).map(one).collect()
}

/// How many of its requests failed.
fn ended(bench: &BenchRun<'_>, mut load: Process) -> Result<u64> {
    let code = load.exit_code(bench.pace.measurement() + START)?;
    ensure!(code == 0, "a developer's client ended with {code}: {}", load.stderr());
    let report: LoadFigures = serde_json::from_str(&load.stdout()).context("what the load printed")?;
    Ok(report.failed)
}
