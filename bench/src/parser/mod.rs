//! The head parser next to httparse: the same bytes, the same filter, the same run.
//!
//! Owns: the order, and what is measured against which goal (`goals`). Must not: measure by itself. Called by: `main`.
//!
//! Instructions are what the goals are judged by where callgrind is: they do not depend on what else the machine does. Wall
//! time is measured in the same program, and judged by with room for noise where callgrind is not.

mod cells;
pub mod contenders;
pub mod corpus;
mod counts;
mod goals;
mod report;
mod wall;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use cells::ParserBench;
pub use goals::JudgedGoal;
pub use wall::WallInterval;

/// What a run may be told.
#[derive(Args, Debug)]
pub struct ParserOptions {
    /// A tenth of the rounds of wall time; the instruction counts are the same
    #[arg(long)]
    quick: bool,
    /// A folder for parser.json and parser.md
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Rounds of wall time, and of a quick run.
const ROUNDS: usize = 500;
const QUICK: usize = 50;

/// Does every cell for callgrind.
pub fn counted() {
    counts::under_callgrind();
}

/// Measures, prints the tables, and tells whether every goal is met.
///
/// # Errors
/// callgrind is there and does not work, or `out` cannot be written.
pub fn run(options: &ParserOptions) -> Result<bool> {
    Ok(measure(options.quick, options.out.as_deref())?.iter().all(|goal| goal.met))
}

/// Measures, prints the tables, writes them into the folder, and gives the goals.
///
/// # Errors
/// As [`run`].
pub fn measure(quick: bool, out: Option<&Path>) -> Result<Vec<JudgedGoal>> {
    let bench = ParserBench::new();
    let counts = if counts::available() { Some(counts::count(&bench)?) } else { None };
    let rounds = wall::measure(&bench, if quick { QUICK } else { ROUNDS });
    let measured = goals::ParserFigures { heads: &bench.heads, counts, rounds };
    let judged = goals::judge(&measured);
    let text = report::markdown(&measured, &judged);
    print!("{text}");
    if let Some(folder) = out {
        report::write(folder, &text, &measured, &judged)?;
    }
    Ok(judged)
}
