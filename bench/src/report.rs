//! A result's folder: `results.json` with everything, `README.md` to read, a chart for each cell. Beside it
//! `latest.json`, with the goals.

pub mod builds;
pub mod compare;
mod markdown;
mod svg;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    figures::{Record, median, ratios},
    goals::{self, Row},
    pace::Pace,
};

/// Everything a run has found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// CPUs, kernel.
    pub machine: String,
    /// How it was measured.
    pub pace: String,
    /// Whether its figures may be quoted.
    pub quick: bool,
    /// A row for each goal.
    pub goals: Vec<Row>,
    /// What the run has shown of its own settings, and what could not be had.
    #[serde(flatten)]
    pub notes: Notes,
    /// The figures.
    pub records: Vec<Record>,
}

/// Sentences about a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Notes {
    /// Settings that were seen at work.
    #[serde(default)]
    pub shown: Vec<String>,
    /// What could not be had, and why.
    pub left_out: Vec<String>,
}

/// Writes the folder, and `latest.json` beside it; prints the goals. False if requests failed outside R.
pub fn write(folder: &Path, pace: Pace, records: Vec<Record>, parser: Vec<Row>, notes: Notes) -> Result<bool> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let goals = goals::rows(&records, parser);
    let quick = !pace.is_quotable();
    let results = Results { machine: machine()?, pace: spelled(pace), quick, goals, notes, records };
    let json = serde_json::to_string_pretty(&results)?;
    let latest = folder.parent().unwrap_or(folder).join("latest.json");
    for file in [folder.join("results.json"), latest] {
        fs::write(&file, &json).with_context(|| format!("write {}", file.display()))?;
    }
    show(folder, &results)?;
    print!("{}", markdown::goals(&results)?);
    for sentence in &results.notes.shown {
        println!("shown: {sentence}");
    }
    for sentence in &results.notes.left_out {
        println!("left out: {sentence}");
    }
    let broken: Vec<&Record> = results.records.iter().filter(|record| record.failed > 0).collect();
    for record in &broken {
        let reason = record.reason.as_deref().unwrap_or("no reason");
        println!("{} {} {}: {} failed: {reason}", record.scenario, record.cell, record.contender, record.failed);
    }
    println!("written to {}", folder.display());
    Ok(broken.is_empty())
}

/// Writes a result's page and charts again, as this version does.
pub fn again(folder: &Path) -> Result<()> {
    show(folder, &read(folder)?)
}

fn show(folder: &Path, results: &Results) -> Result<()> {
    let charts = svg::write(folder, results)?;
    fs::write(folder.join("README.md"), markdown::page(results, &charts)?).context("write the page")
}

/// A result from its folder, or from a `results.json`.
fn read(path: &Path) -> Result<Results> {
    let file = if path.is_dir() { path.join("results.json") } else { path.to_owned() };
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no result of this bench", file.display()))
}

/// The metric that a cell is about.
fn telling(cell: &[Record]) -> Option<&str> {
    let wanted = match &cell[0].cell {
        name if name.contains("MB") => "MB/s",
        name if name.contains("saturated") => "requests/s",
        _ => "p50 µs",
    };
    let metrics = &cell[0].metrics;
    metrics.get_key_value(wanted).or_else(|| metrics.iter().next()).map(|(name, _)| name.as_str())
}

/// A contender's figure by redir's, the median of the rounds' ratios; none where redir is alone or does not take part.
fn by_redir(cell: &[Record], record: &Record, metric: &str) -> Option<f64> {
    let redir = cell.iter().find(|other| other.contender == "redir").filter(|_| cell.len() > 1)?;
    median(&ratios(record.metrics.get(metric)?, redir.metrics.get(metric)?))
}

fn spelled(pace: Pace) -> String {
    let spelled = |pace: Pace| format!("{} rounds of {} ms after {} ms", pace.rounds, pace.counted, pace.warm);
    format!("{}; over lines {}", spelled(pace), spelled(pace.long()))
}

fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("kernel")?;
    let cpus = fs::read_to_string("/proc/cpuinfo").context("CPUs")?;
    let model =
        cpus.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("").trim_start_matches(['\t', ':', ' ']);
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!("{count} CPUs {model}, Linux {}", kernel.trim()))
}
