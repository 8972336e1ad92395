//! The bench itself, for its correctness: a quick run completes, no request fails, and what it writes is well-formed.
//! What its figures are is not looked at.
#![cfg(target_os = "linux")]

use std::{fs, process::Command, time::Duration};

use anyhow::{Result, ensure};
use redir_bench::report::BenchResults;
use redir_rig::Process;

/// A quick run is a minute; a debug build on a busy machine may take longer.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn a_quick_run_completes_without_failed_requests() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("quick");
    let mut command = Command::new(env!("CARGO_BIN_EXE_redir-bench"));
    command.args(["run", "--quick", "--peers", "none", "--out"]).arg(&out);
    let mut bench = Process::spawn("redir-bench", &mut command)?;
    let code = bench.exit_code(LIMIT)?;
    ensure!(code == 0, "ended with {code}: {}", bench.log());

    let results: BenchResults = serde_json::from_str(&fs::read_to_string(out.join("results.json"))?)?;
    let latest: BenchResults = serde_json::from_str(&fs::read_to_string(folder.path().join("latest.json"))?)?;
    ensure!(results.quick && latest.goals.len() == results.goals.len());
    for scenario in ["neighbour", "unmatched", "filters", "matched", "mixed", "resilience", "first-answer", "idle"] {
        ensure!(results.records.iter().any(|record| record.scenario == scenario), "nothing of {scenario}");
    }
    for record in &results.records {
        ensure!(record.failed == 0, "{record:?}");
        ensure!(record.metrics.values().flatten().all(|value| value.is_finite()), "{record:?}");
    }
    for row in &results.goals {
        ensure!(row.ratio.is_some() == (row.met != "skipped"), "{row:?}");
    }
    ensure!(fs::read_to_string(out.join("README.md"))?.contains("A quick run"));
    ensure!(fs::read_to_string(out.join("unmatched-1-connection.svg"))?.ends_with("</svg>\n"));
    Ok(())
}

/// What CONTRIBUTING shows for work on one thing.
#[test]
fn some_scenarios_and_some_cells_can_be_asked_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("cells");
    let mut command = Command::new(env!("CARGO_BIN_EXE_redir-bench"));
    command
        .args([
            "run",
            "unmatched",
            "neighbour",
            "--quick",
            "--rounds",
            "2",
            "--cell",
            "saturated",
            "--peers",
            "none",
            "--out",
        ])
        .arg(&out);
    let mut bench = Process::spawn("redir-bench", &mut command)?;
    let code = bench.exit_code(LIMIT)?;
    ensure!(code == 0, "ended with {code}: {}", bench.log());
    let results: BenchResults = serde_json::from_str(&fs::read_to_string(out.join("results.json"))?)?;
    let seen = |scenario: &str| results.records.iter().any(|record| record.scenario == scenario);
    ensure!(
        seen("unmatched")
            && seen("neighbour")
            && results.records.iter().all(|record| record.cell.contains("saturated"))
    );
    ensure!(
        results.notes.shown.iter().any(|sentence| sentence.starts_with("congestion control: ")),
        "{:?}",
        results.notes
    );
    Ok(())
}
