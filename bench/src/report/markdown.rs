//! The page to read.

use std::fmt::Write;

use anyhow::Result;

use super::{BenchResults, by_redir, telling};
use crate::figures::{CellRecord, median};

/// All of it.
pub(super) fn page(results: &BenchResults, charts: &[String]) -> Result<String> {
    let mut page = format!("# redir, measured\n\n{}; {}.\n", results.machine, results.pace);
    if results.quick {
        page += "\n**A quick run: it shows that the bench works, and nothing about speed.**\n";
    }
    page += "\n## Goals\n\nA ratio is taken round by round; median and 95 % bootstrap interval. Met if the interval's worse \
             end is.\n\n";
    page += &goals(results)?;
    page += "\n## Figures\n\nMedians over the rounds. Latency is counted from when a request was due. A machine that others \
             share has slow minutes, of which contenders have different shares: to compare them, take the first column, \
             whose ratios are of the same rounds.\n";
    for cell in results.records.chunk_by(|a, b| a.scenario == b.scenario && a.cell == b.cell) {
        table(&mut page, cell)?;
    }
    for (title, sentences) in [("Shown in the run", &results.notes.shown), ("Left out", &results.notes.left_out)] {
        if !sentences.is_empty() {
            writeln!(page, "\n## {title}\n")?;
        }
        for sentence in sentences {
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
pub(super) fn goals(results: &BenchResults) -> Result<String> {
    let mut table = String::from("| goal | figure | interval | to reach | met |\n|---|---|---|---|---|\n");
    for row in &results.goals {
        let figure = |value: Option<f64>| value.map(short).unwrap_or_default();
        let interval = row.low.map(|_| format!("{} to {}", figure(row.low), figure(row.high))).unwrap_or_default();
        writeln!(table, "| {} | {} | {interval} | {} | {} |", row.goal, figure(row.ratio), row.reach, row.met)?;
    }
    Ok(table)
}

fn table(page: &mut String, cell: &[CellRecord]) -> Result<()> {
    let first = &cell[0];
    writeln!(page, "\n### {}: {}\n\n{}\n", first.scenario, first.cell, first.pins)?;
    writeln!(page, "`cargo xtask bench {}`\n", first.scenario)?;
    let compared = telling(cell).filter(|metric| by_redir(cell, first, metric).is_some());
    let names = compared.map(|metric| format!("{metric} by redir's")).into_iter();
    let names: Vec<String> = names.chain(first.metrics.keys().cloned()).collect();
    writeln!(page, "| | {} | failed |\n|---|{}---|", names.join(" | "), "---|".repeat(names.len()))?;
    for record in cell {
        let ratio = compared.map(|metric| by_redir(cell, record, metric));
        // Another contender's metrics may be fewer.
        let medians = first.metrics.keys().map(|name| record.metrics.get(name).and_then(|values| median(values)));
        let figures = ratio.into_iter().chain(medians).map(|figure| figure.map(short).unwrap_or_default());
        writeln!(page, "| {} | {} | {} |", record.contender, figures.collect::<Vec<_>>().join(" | "), record.failed)?;
    }
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
