//! A result's folder: `results.json` with everything, `README.md` to read, a chart for each cell. Beside it `latest.json`,
//! with the goals alone.

pub mod builds;
pub mod compare;
mod markdown;
mod svg;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    figures::{CellRecord, median, ratios},
    goals::{self, GoalRow},
    pace::Pace,
};

/// Everything a run has found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BenchResults {
    /// CPUs, kernel.
    pub machine: String,
    /// How it was measured.
    pub pace: String,
    /// Whether its figures may be quoted.
    pub quick: bool,
    /// A row for each goal.
    pub goals: Vec<GoalRow>,
    /// What the run has shown of its own settings, and what could not be had.
    #[serde(flatten)]
    pub notes: RunNotes,
    /// The figures; `latest.json` is without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<CellRecord>,
}

/// Sentences about a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunNotes {
    /// Settings that were seen at work.
    #[serde(default)]
    pub shown: Vec<String>,
    /// What could not be had, and why.
    pub left_out: Vec<String>,
}

/// Writes the folder, and `latest.json` beside it; prints the goals. False if requests failed outside R.
pub fn write(
    folder: &Path,
    pace: Pace,
    records: Vec<CellRecord>,
    parser: Vec<GoalRow>,
    notes: RunNotes,
) -> Result<bool> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let goals = goals::rows(&records, parser);
    let quick = !pace.is_quotable();
    let results = BenchResults { machine: machine()?, pace: spelled(pace), quick, goals, notes, records };
    write_json(&folder.join("results.json"), &results)?;
    let goals = BenchResults { records: Vec::new(), ..results.clone() };
    let latest = folder.parent().unwrap_or(folder).join("latest.json");
    fs::write(&latest, serde_json::to_string_pretty(&goals)?).with_context(|| format!("write {}", latest.display()))?;
    show(folder, &results)?;
    print!("{}", markdown::goals(&results)?);
    for sentence in &results.notes.shown {
        println!("shown: {sentence}");
    }
    for sentence in &results.notes.left_out {
        println!("left out: {sentence}");
    }
    let broken: Vec<&CellRecord> = results.records.iter().filter(|record| record.failed > 0).collect();
    for record in &broken {
        let reason = record.reason.as_deref().unwrap_or("no reason");
        println!("{} {} {}: {} failed: {reason}", record.scenario, record.cell, record.contender, record.failed);
    }
    println!("written to {}", folder.display());
    Ok(broken.is_empty())
}

/// Writes a result's files again, as this version does.
pub fn again(folder: &Path) -> Result<()> {
    let results = read(folder)?;
    write_json(&folder.join("results.json"), &results)?;
    show(folder, &results)
}

/// A line for each record, and of each figure the digits that mean something.
fn write_json(file: &Path, results: &BenchResults) -> Result<()> {
    let mut results = results.clone();
    for record in &mut results.records {
        let pairs = record.quantiles.iter_mut().map(|(_, us)| us).chain(record.timeline.iter_mut().map(|(_, ms)| ms));
        pairs.chain(record.metrics.values_mut().flatten()).for_each(|value| *value = rounded(*value));
    }
    // Within a string the quotes are escaped: this is never a part of one.
    let json = serde_json::to_string(&results)?.replace("{\"scenario\"", "\n{\"scenario\"");
    fs::write(file, json + "\n").with_context(|| format!("write {}", file.display()))
}

/// To five significant digits: a tenth of what the intervals can tell apart, and less.
fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

fn show(folder: &Path, results: &BenchResults) -> Result<()> {
    let charts = svg::write(folder, results)?;
    fs::write(folder.join("README.md"), markdown::page(results, &charts)?).context("write the page")
}

/// A result from its folder, or from a `results.json`.
fn read(path: &Path) -> Result<BenchResults> {
    let file = if path.is_dir() { path.join("results.json") } else { path.to_owned() };
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no result of this bench", file.display()))
}

/// The metric that a cell is about.
fn telling(cell: &[CellRecord]) -> Option<&str> {
    let wanted = match &cell[0].cell {
        name if name.contains("MB") => "MB/s",
        name if name.contains("saturated") => "requests/s",
        _ => "p50 µs",
    };
    let metrics = &cell[0].metrics;
    metrics.get_key_value(wanted).or_else(|| metrics.iter().next()).map(|(name, _)| name.as_str())
}

/// A contender's figure by redir's, the median of the rounds' ratios; none where redir is alone or does not take part.
fn by_redir(cell: &[CellRecord], record: &CellRecord, metric: &str) -> Option<f64> {
    let redir = cell.iter().find(|other| other.contender == "redir").filter(|_| cell.len() > 1)?;
    median(&ratios(record.metrics.get(metric)?, redir.metrics.get(metric)?))
}

fn spelled(pace: Pace) -> String {
    let spelled = |pace: Pace| format!("{} rounds of {} ms after {} ms", pace.rounds, pace.counted, pace.warm);
    format!("{}; over emulated links {}", spelled(pace), spelled(pace.long()))
}

fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("kernel")?;
    let cpus = fs::read_to_string("/proc/cpuinfo").context("CPUs")?;
    let model =
        cpus.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("").trim_start_matches(['\t', ':', ' ']);
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!("{count} CPUs {model}, Linux {}", kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_kept_with_five_digits() {
        assert_eq!([123_456.7, 0.000_123_456, -1.0, 0.0].map(rounded), [123_460.0, 0.000_123_46, -1.0, 0.0]);
        assert!(rounded(f64::NAN).is_nan());
    }
}
