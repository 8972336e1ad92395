//! The page to read.

use std::fmt::Write;

use anyhow::Result;

use super::Results;
use crate::figures::{Record, estimate};

/// All of it.
pub(super) fn page(results: &Results, charts: &[String]) -> Result<String> {
    let mut page = format!("# redir, measured\n\n{}; {}.\n", results.machine, results.pace);
    if results.quick {
        page += "\n**A quick run: it shows that the bench works, and nothing about speed.**\n";
    }
    page += "\n## Goals\n\nA ratio is taken round by round; median and 95 % bootstrap interval. Met if the interval's worse \
             end is.\n\n";
    page += &goals(results)?;
    page += "\n## Figures\n\nMedians over the rounds. Latency is counted from when a request was due.\n";
    let mut cell = None;
    for record in &results.records {
        let here = Some((&record.scenario, &record.cell));
        if cell != here {
            cell = here;
            head(&mut page, record)?;
        }
        row(&mut page, record)?;
    }
    if !results.left_out.is_empty() {
        page += "\n## Left out\n\n";
        for sentence in &results.left_out {
            writeln!(page, "- {}", sentence.lines().next().unwrap_or_default())?;
        }
    }
    page += "\n## Charts\n\n";
    for chart in charts {
        writeln!(page, "![{chart}]({chart})")?;
    }
    Ok(page)
}

/// The table of goals.
pub(super) fn goals(results: &Results) -> Result<String> {
    let mut table = String::from("| goal | figure | interval | to reach | met |\n|---|---|---|---|---|\n");
    for row in &results.goals {
        let figure = |value: Option<f64>| value.map(short).unwrap_or_default();
        let interval = row.low.map(|_| format!("{} to {}", figure(row.low), figure(row.high))).unwrap_or_default();
        writeln!(table, "| {} | {} | {interval} | {} | {} |", row.goal, figure(row.ratio), row.reach, row.met)?;
    }
    Ok(table)
}

fn head(page: &mut String, record: &Record) -> Result<()> {
    let names: Vec<&str> = record.metrics.keys().map(String::as_str).collect();
    writeln!(page, "\n### {}: {}\n\n{}\n", record.scenario, record.cell, record.pins)?;
    writeln!(page, "`cargo xtask bench {}`\n", record.scenario)?;
    writeln!(page, "| | {} | failed |\n|---|{}---|", names.join(" | "), "---|".repeat(names.len()))?;
    Ok(())
}

fn row(page: &mut String, record: &Record) -> Result<()> {
    let medians = record.metrics.values().map(|values| estimate(values).map(|e| short(e.median)).unwrap_or_default());
    writeln!(page, "| {} | {} | {} |", record.contender, medians.collect::<Vec<_>>().join(" | "), record.failed)?;
    Ok(())
}

/// Three figures, or whole thousands.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
