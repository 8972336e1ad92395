//! What `--against` says: by cell, whether the build under test is better or worse than the baseline.
//!
//! Of each cell two figures are judged: the one it is about, and CPU time of the agent for each request. So many figures would
//! be outside of their 95 % intervals by chance too often; each has the narrower chance with which all together have 5 %.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::{BenchResults, RunNotes, machine, markdown::short, spelled, telling, write_json};
use crate::{
    figures::{CellRecord, Estimate, estimate_with, median, ratios},
    pace::Pace,
    peers::{BASELINE, REDIR},
};

/// One figure of both builds.
struct ComparedFigure<'a> {
    record: &'a CellRecord,
    metric: &'a str,
    medians: [f64; 2],
    ratio: Estimate,
    verdict: BuildVerdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BuildVerdict {
    Better,
    Worse,
    NoDifference,
    /// Whether it is one or the other would be chance.
    TooFewRounds,
}

/// Writes `results.json` and `README.md`, prints the comparison; false if anything is worse, or a request failed.
pub fn write(folder: &Path, pace: Pace, blocks: usize, records: Vec<CellRecord>, notes: RunNotes) -> Result<bool> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let goals = Vec::new();
    let results = BenchResults { machine: machine()?, pace: spelled(pace), quick: true, goals, notes, records };
    let (all, outside) = compare(&results.records)?;
    let count = |verdict| all.iter().filter(|compared| compared.verdict == verdict).count();
    let (worse, better) = (count(BuildVerdict::Worse), count(BuildVerdict::Better));
    let mut page = format!(
        "# redir next to another build\n\n{}; {blocks} times {}, with new processes that have changed places.\n\n{}\n",
        results.machine,
        results.pace,
        table(&all, outside)?
    );
    for sentence in results.notes.shown.iter().chain(&results.notes.left_out) {
        writeln!(page, "- {sentence}")?;
    }
    let failed: u64 = results.records.iter().map(|record| record.failed).sum();
    for record in results.records.iter().filter(|record| record.failed > 0) {
        let reason = record.reason.as_deref().unwrap_or("no reason");
        writeln!(
            page,
            "- {} {} {}: {} failed: {reason}",
            record.scenario, record.cell, record.contender, record.failed
        )?;
    }
    let (same, unknown) = (count(BuildVerdict::NoDifference), count(BuildVerdict::TooFewRounds));
    writeln!(
        page,
        "\n**{worse} worse, {better} better, {same} without a difference, {unknown} with too few rounds to say**"
    )?;
    print!("{page}");
    fs::write(folder.join("README.md"), &page).context("write the page")?;
    write_json(&folder.join("results.json"), &results)?;
    println!("written to {}", folder.display());
    Ok(worse == 0 && failed == 0)
}

/// All figures that are judged, and the chance of each to be outside of its interval.
fn compare(records: &[CellRecord]) -> Result<(Vec<ComparedFigure<'_>>, f64)> {
    let of = |wanted: &'static str| records.iter().filter(move |record| record.contender == wanted);
    let pairs = of(REDIR).filter_map(|redir| {
        let same = |other: &&CellRecord| other.scenario == redir.scenario && other.cell == redir.cell;
        Some((redir, of(BASELINE).find(same)?))
    });
    let judged: Vec<(&CellRecord, &CellRecord, &str)> = pairs
        .flat_map(|(redir, baseline)| {
            let metrics = telling(std::slice::from_ref(redir)).into_iter().chain([CPU]);
            let both =
                metrics.filter(|metric| redir.metrics.contains_key(*metric) && baseline.metrics.contains_key(*metric));
            both.map(move |metric| (redir, baseline, metric))
        })
        .collect();
    ensure!(!judged.is_empty(), "nothing was measured of both builds");
    #[expect(clippy::cast_precision_loss, reason = "some figures")]
    let outside = 0.05 / judged.len() as f64;
    let compared = judged.into_iter().map(|(redir, baseline, metric)| {
        let (of_redir, of_baseline) = (&redir.metrics[metric], &baseline.metrics[metric]);
        let rounds = ratios(of_redir, of_baseline);
        let seen = estimate_with(&rounds, outside).zip(median(of_redir)).zip(median(of_baseline));
        let ((ratio, redir_median), baseline_median) =
            seen.with_context(|| format!("{} {}: no figure of both builds", redir.scenario, redir.cell))?;
        let verdict =
            if !suffice(rounds.len(), outside) { BuildVerdict::TooFewRounds } else { BuildVerdict::of(ratio, metric) };
        Ok(ComparedFigure { record: redir, metric, medians: [baseline_median, redir_median], ratio, verdict })
    });
    Ok((compared.collect::<Result<_>>()?, outside))
}

impl BuildVerdict {
    fn of(ratio: Estimate, metric: &str) -> Self {
        let more_is_better = ["requests/s", "MB/s"].contains(&metric);
        match (ratio.low > 1.0, ratio.high < 1.0) {
            (true, _) if more_is_better => Self::Better,
            (true, _) => Self::Worse,
            (_, true) if more_is_better => Self::Worse,
            (_, true) => Self::Better,
            (false, false) => Self::NoDifference,
        }
    }

    fn spelled(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "**worse**",
            Self::NoDifference => "",
            Self::TooFewRounds => "too few rounds",
        }
    }
}

fn table(all: &[ComparedFigure<'_>], outside: f64) -> Result<String> {
    let mut table = format!(
        "| cell | figure | {BASELINE} | {REDIR} | ratio | {:.2} % interval | |\n|---|---|--:|--:|--:|---|---|\n",
        (1.0 - outside) * 100.0
    );
    for ComparedFigure { record, metric, medians: [baseline, redir], ratio, verdict } in all {
        writeln!(
            table,
            "| {} {} | {metric} | {} | {} | {:.3} | {:.3} to {:.3} | {} |",
            record.scenario,
            record.cell,
            short(*baseline),
            short(*redir),
            ratio.median,
            ratio.low,
            ratio.high,
            verdict.spelled()
        )?;
    }
    Ok(table)
}

const CPU: &str = "CPU ns/request";

/// Whether it is less likely by chance that one of two equal builds wins all rounds than that a figure is outside.
fn suffice(rounds: usize, outside: f64) -> bool {
    i32::try_from(rounds).is_ok_and(|rounds| 2_f64.powi(1 - rounds) <= outside)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn record(contender: &str, metric: &str, values: &[f64]) -> CellRecord {
        CellRecord {
            scenario: "unmatched".into(),
            cell: if metric == "requests/s" { "64 connections, saturated" } else { "1 connection" }.into(),
            contender: contender.into(),
            pins: String::new(),
            metrics: BTreeMap::from([(metric.to_owned(), values.to_vec())]),
            quantiles: Vec::new(),
            timeline: Vec::new(),
            failed: 0,
            reason: None,
        }
    }

    fn verdict(metric: &str, redir: &[f64], baseline: &[f64]) -> BuildVerdict {
        let records = [record(REDIR, metric, redir), record(BASELINE, metric, baseline)];
        compare(&records).expect("both are there").0[0].verdict
    }

    #[test]
    fn a_difference_is_one_beyond_its_interval_and_has_a_direction() {
        let slow = [110.0, 111.0, 109.0, 112.0, 110.0, 110.0, 111.0, 109.0];
        let fast = [100.0, 101.0, 99.0, 100.0, 102.0, 100.0, 101.0, 99.0];
        assert_eq!(verdict("p50 µs", &slow, &fast), BuildVerdict::Worse);
        assert_eq!(verdict("p50 µs", &fast, &slow), BuildVerdict::Better);
        assert_eq!(verdict("requests/s", &slow, &fast), BuildVerdict::Better);
        assert_eq!(verdict("requests/s", &fast, &slow), BuildVerdict::Worse);
        let noisy = [99.0, 103.0, 100.0, 101.0, 101.0, 99.0, 103.0, 99.0];
        assert_eq!(verdict("p50 µs", &noisy, &fast), BuildVerdict::NoDifference);
        assert_eq!(verdict("p50 µs", &slow[..6], &fast[..6]), BuildVerdict::Worse);
        assert_eq!(verdict("p50 µs", &slow[..5], &fast[..5]), BuildVerdict::TooFewRounds);
    }

    #[test]
    fn builds_are_paired_by_cell_in_whatever_order() {
        let all = [
            record(REDIR, "p50 µs", &[1.0; 8]),
            record(REDIR, "requests/s", &[1.0; 8]),
            record(BASELINE, "p50 µs", &[1.0; 8]),
            record(BASELINE, "requests/s", &[2.0; 8]),
        ];
        let (compared, outside) = compare(&all).expect("both are there");
        assert_eq!((compared.len(), outside), (2, 0.025));
        assert_eq!((compared[0].verdict, compared[1].verdict), (BuildVerdict::NoDifference, BuildVerdict::Worse));
    }

    #[test]
    fn the_more_figures_the_more_rounds_are_needed() {
        let figures = |rounds: usize| {
            (0..8).flat_map(move |cell: u8| {
                [(REDIR, 2.0), (BASELINE, 1.0)].map(|(contender, value)| CellRecord {
                    cell: cell.to_string(),
                    ..record(contender, "p50 µs", &vec![value; rounds])
                })
            })
        };
        for (rounds, suffice) in [(8, false), (9, true)] {
            let records: Vec<_> = figures(rounds).collect();
            let (compared, outside) = compare(&records).expect("both are there");
            let too_few = compared.iter().any(|compared| compared.verdict == BuildVerdict::TooFewRounds);
            assert_eq!(too_few, !suffice, "{rounds} rounds, {} figures, {outside}", compared.len());
        }
    }

    #[test]
    fn a_build_alone_is_compared_with_nothing() {
        let error = compare(&[record(REDIR, "p50 µs", &[1.0])]).map(drop).expect_err("alone").to_string();
        assert!(error.contains("both builds"), "{error}");
    }
}
