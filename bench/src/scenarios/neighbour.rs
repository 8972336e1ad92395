//! `neighbour`: another pod of the node is intercepted, this one is not. The control is the same pod with no redir at all, so the
//! agent comes and goes in every round.

use anyhow::Result;

use super::{
    BenchRun,
    cells::{CpuPlacement, LoadCell, RoundFigures, order},
};
use crate::{figures::CellRecord, peers::Contender};

const CELLS: [LoadCell<'static>; 2] = [
    LoadCell { scenario: "neighbour", name: "1 connection", load: &["--rate", "2000"], pins: CpuPlacement::Together },
    LoadCell {
        scenario: "neighbour",
        name: "64 connections, saturated",
        load: &["--connections", "64"],
        pins: CpuPlacement::Apart,
    },
];
const NAMES: [&str; 2] = ["no redir", "redir on another pod"];

pub(super) fn run(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    let mut runs: [[Vec<RoundFigures>; 2]; 2] = Default::default();
    for round in 0..bench.pace.rounds {
        let left = bench.pace.measurement() * u32::try_from(6 * (bench.pace.rounds - round))?;
        bench.progress.say(&format!("neighbour: round {} of {}", round + 1, bench.pace.rounds), left);
        for kind in order(round, NAMES.len()) {
            let name = NAMES[kind];
            bench.world.kill_agent()?;
            let intercept = if kind == 1 { Some(bench.world.intercept(&["--header", "x-user: bench"])?) } else { None };
            let twin = Contender::transparent(name, bench.world.app(1), bench.world.agent_pids());
            for (cell, runs) in CELLS.iter().zip(&mut runs).filter(|(cell, _)| bench.wants(cell.name)) {
                runs[kind].push(cell.once(bench, &twin)?);
            }
            intercept.map_or(Ok(()), |mut cli| cli.process.kill())?;
        }
    }
    let records = CELLS
        .iter()
        .zip(&runs)
        .filter(|(cell, _)| bench.wants(cell.name))
        .flat_map(|(cell, runs)| NAMES.iter().zip(runs).map(|(name, runs)| cell.record(name, runs)));
    Ok(records.collect())
}
