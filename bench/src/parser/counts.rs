//! Instructions, counted by callgrind: the same in every run, whatever else the machine does.
//!
//! Owns: starting it, and reading what it writes. Must not: judge. Called by: `parser::run`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::cells::{self, ParserBench, ParserCell};

/// How often each cell does its work while it is counted: it does not vary, so this only thins out the loop itself.
const TIMES: usize = 16;

/// Runs every cell for callgrind: once for what is only done once (and not counted), then counted.
pub(super) fn under_callgrind() {
    let bench = ParserBench::new();
    for cell in cells::cells() {
        bench.heads.iter().for_each(|head| bench.run(cell, head, 1));
    }
    cells::cell_is_over();
    for cell in cells::cells() {
        for head in &bench.heads {
            bench.run(cell, head, times(cell));
            cells::cell_is_over();
        }
    }
}

fn times(cell: ParserCell) -> usize {
    match cell {
        ParserCell::RedirSplit | ParserCell::HttparseSplit => 1,
        _ => TIMES,
    }
}

/// Whether callgrind is here.
pub(super) fn available() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Instructions for one head: of each cell, in the order of [`cells::cells`], for each head.
pub(super) fn count(bench: &ParserBench) -> Result<Vec<Vec<f64>>> {
    let folder = tempfile::tempdir().context("cannot make a folder for callgrind's output")?;
    let out = folder.path().join("out");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(format!("--toggle-collect={}", cells::MEASURED)).arg(format!("--dump-after={}", cells::OVER));
    command.arg(env::current_exe().context("cannot tell where this program is")?);
    command.args(["parser", "counted"]);
    let output = command.output().context("cannot start valgrind")?;
    if !output.status.success() {
        bail!("valgrind failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut dump = 1;
    let mut counts = Vec::new();
    for cell in cells::cells() {
        let mut row = Vec::new();
        for head in &bench.heads {
            dump += 1;
            let total = total(&out.with_extension(dump.to_string()))?;
            row.push(total / (times(cell) * cells::units(cell, head)) as f64);
        }
        counts.push(row);
    }
    Ok(counts)
}

/// The sum at the end of a dump.
fn total(dump: &Path) -> Result<f64> {
    let text = fs::read_to_string(dump).with_context(|| format!("callgrind wrote no {}", dump.display()))?;
    let sum = text.lines().find_map(|line| line.strip_prefix("summary: ").or_else(|| line.strip_prefix("totals: ")));
    let sum: f64 = sum.and_then(|sum| sum.trim().parse().ok()).context("callgrind's output has no sum")?;
    ensure!(sum > 0.0, "callgrind counted nothing: is the program built without symbols?");
    Ok(sum)
}
