//! `filters`: U's single connection with more and more to look at: filters of a pod's intercepts, intercepts, intercepted pods.

use anyhow::Result;
use redir_rig::Cli;

use super::{
    BenchRun,
    cells::{CpuPlacement, LoadCell},
};
use crate::{figures::CellRecord, peers::Contender, world::BenchWorld};

/// What a pod's intercepts ask for, while one client asks for something else.
#[derive(Debug, Clone, Copy)]
struct FilterLoad {
    name: &'static str,
    intercepts: usize,
    /// Of each intercept, which may have 32.
    conditions: usize,
}

const fn kind(name: &'static str, intercepts: usize, conditions: usize) -> FilterLoad {
    FilterLoad { name, intercepts, conditions }
}

/// What a goal is about, then the rest; each in a pod of its own, all of them live at once.
const KINDS: [FilterLoad; 6] = [
    kind("1 filter", 1, 1),
    kind("1,000 filters", 40, 25),
    kind("10 filters", 1, 10),
    kind("100 filters", 4, 25),
    kind("100 intercepts", 100, 1),
    kind("1,000 intercepts", 1000, 1),
];
const GOALS: usize = 2;
const CELL: LoadCell<'static> =
    LoadCell { scenario: "filters", name: "1 connection", load: &["--rate", "2000"], pins: CpuPlacement::Together };

pub(super) fn run(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    if !bench.all {
        return kinds(bench, &KINDS[..GOALS]);
    }
    bench.world.stop_agent()?;
    let mut large = BenchWorld::new(PODS[PODS.len() - 1])?;
    std::mem::swap(bench.world, &mut large);
    let records = kinds(bench, &KINDS).and_then(|mut records| {
        records.extend(bench.long(pods)?);
        Ok(records)
    });
    std::mem::swap(bench.world, &mut large);
    records
}

fn kinds(bench: &mut BenchRun<'_>, kinds: &[FilterLoad]) -> Result<Vec<CellRecord>> {
    bench.world.start_agent()?;
    let mut live = Vec::new();
    for (pod, kind) in kinds.iter().enumerate() {
        let intercepts = if kind.intercepts == 1 { 1 } else { bench.pace.pieces(kind.intercepts) };
        for number in 0..intercepts {
            live.push(intercept(bench.world, pod, number, kind.conditions)?);
        }
    }
    live.iter_mut().try_for_each(|cli| cli.wait_live().map(drop))?;
    let pids = bench.world.agent_pids();
    let contenders: Vec<Contender> = kinds
        .iter()
        .enumerate()
        .map(|(pod, kind)| Contender::transparent(kind.name, bench.world.app(pod), pids.clone()))
        .collect();
    let records = CELL.run(bench, &contenders)?;
    live.into_iter().try_for_each(Cli::leave)?;
    Ok(records)
}

/// So many values of one header, of which any would match.
fn intercept(world: &BenchWorld, pod: usize, number: usize, conditions: usize) -> Result<Cli> {
    let values: Vec<String> = (0..conditions).map(|n| format!("x-user: developer-{number}-{n}")).collect();
    let mut asked = vec!["--any"];
    asked.extend(values.iter().flat_map(|value| ["--header", value.as_str()]));
    world.start_intercept(pod, &asked)
}

/// How many pods are intercepted at once.
const PODS: [usize; 3] = [1, 10, 50];

fn pods(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    let cell = LoadCell { name: "1 connection, by intercepted pods", ..CELL };
    let mut runs: [Vec<_>; PODS.len()] = Default::default();
    for round in 0..bench.pace.rounds {
        for (count, runs) in PODS.iter().zip(&mut runs) {
            let left = bench.pace.measurement() * u32::try_from(PODS.len() * (bench.pace.rounds - round))?;
            bench.progress.say(&format!("filters: {count} pods, round {}", round + 1), left);
            let mut live: Vec<Cli> = (0..*count).map(|pod| intercept(bench.world, pod, 0, 1)).collect::<Result<_>>()?;
            live.iter_mut().try_for_each(|cli| cli.wait_live().map(drop))?;
            let redir = Contender::transparent("redir", bench.world.app(0), bench.world.agent_pids());
            runs.push(cell.once(bench, &redir)?);
            live.into_iter().try_for_each(Cli::leave)?;
        }
    }
    Ok(PODS.iter().zip(&runs).map(|(count, runs)| cell.record(&format!("{count} pods"), runs)).collect())
}
