//! A cell: one kind of load on several contenders, round by round in turn, so that what the machine does meanwhile
//! meets all of them.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result};

use super::BenchRun;
use crate::{
    cost::{self, ENDS, MIDDLE, MachineTime},
    figures::{CellRecord, median},
    peers::Contender,
    programs::{self, load::LoadFigures},
    world::BenchWorld,
};

/// Where load and app (and a developer's end) run; what is between is always on the middle's CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CpuPlacement {
    /// On the middle's too: each hand-over is on one CPU, the least noise for latency.
    Together,
    /// On the other one: the middle has its CPU for itself, and its capacity is what is found.
    Apart,
}

impl CpuPlacement {
    pub(super) fn ends(self) -> usize {
        match self {
            Self::Together => MIDDLE,
            Self::Apart => ENDS,
        }
    }

    fn spelled(self) -> String {
        format!("load, app and developer on CPU {}, what is between on CPU {MIDDLE}", self.ends())
    }
}

/// A kind of load.
pub(super) struct LoadCell<'a> {
    pub(super) scenario: &'a str,
    pub(super) name: &'a str,
    /// Of `redir-bench program load`.
    pub(super) load: &'a [&'a str],
    pub(super) pins: CpuPlacement,
}

impl LoadCell<'_> {
    /// Measures all contenders in every round, in turn.
    pub(super) fn run(&self, bench: &mut BenchRun<'_>, contenders: &[Contender]) -> Result<Vec<CellRecord>> {
        if !bench.wants(self.name) {
            return Ok(Vec::new());
        }
        let pace = bench.pace;
        self.warm(bench, contenders)?;
        let mut runs: Vec<Vec<RoundFigures>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..pace.rounds {
            let left = pace.measurement() * u32::try_from((pace.rounds - round) * contenders.len())?;
            bench
                .progress
                .say(&format!("{} {}: round {} of {}", self.scenario, self.name, round + 1, pace.rounds), left);
            for number in order(bench.block + round, contenders.len()) {
                runs[number].push(self.once(bench, &contenders[number])?);
            }
        }
        Ok(contenders.iter().zip(runs).map(|(contender, runs)| self.record(&contender.name, &runs)).collect())
    }

    /// Every contender carries the load once before anything counts: what one does only at first (connections to the
    /// app, tables that grow) is in nobody's first round.
    fn warm(&self, bench: &mut BenchRun<'_>, contenders: &[Contender]) -> Result<()> {
        let pace = bench.pace;
        bench.pace = pace.warming();
        let warmed = contenders.iter().try_for_each(|contender| self.once(bench, contender).map(drop));
        bench.pace = pace;
        warmed
    }

    /// One round of one contender.
    pub(super) fn once(&self, bench: &BenchRun<'_>, contender: &Contender) -> Result<RoundFigures> {
        self.measure(bench, contender).with_context(|| format!("{} {}: {}", self.scenario, self.name, contender.name))
    }

    fn measure(&self, bench: &BenchRun<'_>, contender: &Contender) -> Result<RoundFigures> {
        let world = bench.at(contender.site);
        let pids = contender.pids();
        cost::pin(&pids, MIDDLE)?;
        pin_ends(world, contender, self.pins.ends())?;
        let (warm, counted) = (bench.pace.warm, bench.pace.counted);
        let mut command = programs::command()?;
        command.args(["load", "--to", &contender.to.to_string(), "--expect", contender.expect]).args(self.load);
        command.args(["--warm", &warm.to_string(), "--counted", &counted.to_string()]);
        for header in &contender.headers {
            command.args(["--header", header]);
        }
        let mut load = world.topology.client.namespace.spawn("load", &mut command)?;
        cost::pin(&[load.pid()], self.pins.ends())?;
        thread::sleep(Duration::from_millis(warm));
        let before = (cost::cpu_time(&pids), MachineTime::now()?);
        thread::sleep(Duration::from_millis(counted));
        let after = (cost::cpu_time(&pids), MachineTime::now()?);
        let code = load.exit_code(Duration::from_secs(30))?;
        anyhow::ensure!(code == 0, "the load ended with {code}: {}", load.stderr());
        let report = serde_json::from_str(&load.stdout()).context("what the load printed")?;
        Ok(RoundFigures { report, cpu: after.0.saturating_sub(before.0), busy: after.1.busy_since(&before.1) })
    }

    /// The rounds of one contender as they are kept.
    pub(super) fn record(&self, contender: &str, runs: &[RoundFigures]) -> CellRecord {
        let mut metrics: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for run in runs {
            for (name, value) in run.metrics() {
                metrics.entry(name.to_owned()).or_default().push(value);
            }
        }
        CellRecord {
            scenario: self.scenario.to_owned(),
            cell: self.name.to_owned(),
            contender: contender.to_owned(),
            pins: self.pins.spelled(),
            metrics,
            quantiles: quantiles(runs),
            timeline: Vec::new(),
            failed: runs.iter().map(|run| run.report.failed).sum(),
            reason: runs.iter().find_map(|run| run.report.reason.clone()),
        }
    }
}

/// Whose turn it is in a round: each begins once, and follows another one each time, so that none of them always comes
/// after the most expensive one, or always first.
pub(super) fn order(round: usize, contenders: usize) -> impl Iterator<Item = usize> {
    let backwards = (round / contenders.max(1)) % 2 == 1;
    (0..contenders).map(move |turn| {
        let turn = if backwards { contenders - 1 - turn } else { turn };
        (turn + round) % contenders
    })
}

/// The figures of a round.
pub(super) struct RoundFigures {
    report: LoadFigures,
    /// Nanoseconds of the contender's processes, and of the whole machine.
    cpu: u64,
    busy: u64,
}

impl RoundFigures {
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
    fn metrics(&self) -> Vec<(&'static str, f64)> {
        let report = &self.report;
        let quantile =
            |wanted: f64| report.quantiles.iter().find(|(q, _)| *q >= wanted).map_or(f64::NAN, |(_, us)| *us);
        let requests = report.requests as f64;
        let mut all =
            vec![("requests/s", requests / report.seconds), ("MB/s", report.bytes as f64 / report.seconds / 1e6)];
        if report.requests > 0 {
            all.extend([("p50 µs", 0.5), ("p95 µs", 0.95), ("p99 µs", 0.99)].map(|(name, q)| (name, quantile(q))));
            all.push(("CPU ns/request", self.cpu as f64 / requests));
            all.push(("machine ns/request", self.busy as f64 / requests));
        }
        all
    }
}

/// The median of each.
fn quantiles(runs: &[RoundFigures]) -> Vec<(f64, f64)> {
    let Some(first) = runs.first() else { return Vec::new() };
    let at = |index: usize| runs.iter().filter_map(move |run| run.report.quantiles.get(index)).map(|(_, us)| *us);
    let points = first.report.quantiles.iter().enumerate();
    points.filter_map(|(index, (q, _))| Some((*q, median(&at(index).collect::<Vec<_>>())?))).collect()
}

fn pin_ends(world: &BenchWorld, contender: &Contender, cpu: usize) -> Result<()> {
    let apps: Vec<i32> = world.apps.iter().map(redir_rig::Process::pid).collect();
    cost::pin(&apps, cpu)?;
    // A tunnel's developer end; the roots are the middle.
    let ends = contender.processes.iter().map(redir_rig::Process::pid).filter(|pid| !contender.roots.contains(pid));
    cost::pin(&ends.collect::<Vec<_>>(), cpu)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everybody_has_every_place_in_the_order_and_more_than_one_predecessor() {
        let rounds: Vec<Vec<usize>> = (0..8).map(|round| order(round, 4).collect()).collect();
        for place in 0..4 {
            let there: BTreeSet<usize> = rounds.iter().map(|round| round[place]).collect();
            assert_eq!(there.len(), 4, "place {place} of {rounds:?}");
        }
        for contender in 0..4 {
            let before = |round: &Vec<usize>| {
                let place = round.iter().position(|number| *number == contender).expect("in every round");
                place.checked_sub(1).map(|place| round[place])
            };
            let predecessors: BTreeSet<usize> = rounds.iter().filter_map(before).collect();
            assert!(predecessors.len() > 1, "{contender} in {rounds:?}");
        }
        assert_eq!(order(3, 0).count(), 0);
    }
}
