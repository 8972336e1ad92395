//! The tables that people read, and the file that programs read.
//!
//! Owns: how they look. Must not: judge. Called by: `parser::run`.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use redir_http::InstructionSet;
use serde_json::{Value, json};

use super::cells::ParserCell;
use super::goals::{FRAMED, HEAD, JudgedGoal, ParserFigures, SPLIT, geometric_mean, of_cell};
use super::wall;

/// Both tables.
pub(super) fn markdown(measured: &ParserFigures<'_>, judged: &[JudgedGoal]) -> String {
    let mut text = String::new();
    let counted = if measured.counts.is_some() { "instructions" } else { "nanoseconds (valgrind is not installed)" };
    let _ = writeln!(
        text,
        "Times httparse takes what redir takes: {counted}, and wall time in {} rounds",
        measured.rounds.len()
    );
    let _ = writeln!(
        text,
        "\n| head | bytes | redir | httparse | ratio | wall | framed | httparse | ratio | wall | two pieces |"
    );
    let _ = writeln!(text, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let times = medians(measured);
    let shown = measured.counts.as_ref().unwrap_or(&times);
    let of = |cell, head: usize| of_cell(cell, shown)[head];
    for (number, head) in measured.heads.iter().enumerate() {
        let wall = |ratio: super::goals::Ratio| ratio.each(&times)[number];
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} |",
            head.name,
            head.bytes.len(),
            of(ParserCell::Redir, number),
            of(ParserCell::Httparse, number),
            HEAD.each(shown)[number],
            wall(HEAD),
            of(ParserCell::Engine, number),
            of(ParserCell::HttparseFramed, number),
            FRAMED.each(shown)[number],
            wall(FRAMED),
            SPLIT.each(shown)[number],
        );
    }
    text.push('\n');
    levels(&mut text, shown);
    let _ = writeln!(text, "\n| goal | reach | instructions | wall time (95 %) | |\n|---|---|--:|--:|---|");
    for goal in judged {
        let instructions = goal.instructions.map_or_else(|| "not counted".to_owned(), |ratio| format!("{ratio:.2}"));
        let (wall, met) = (goal.wall, if goal.met { "met" } else { "**missed**" });
        let _ = writeln!(
            text,
            "| {} | {} | {instructions} | {:.2} ({:.2} to {:.2}) | {met} |",
            goal.what, goal.reach, wall.median, wall.low, wall.high
        );
    }
    text
}

/// One line on the instructions that other machines have.
fn levels(text: &mut String, shown: &[Vec<f64>]) {
    let httparse = of_cell(ParserCell::Httparse, shown);
    let ratio = |level| {
        let ours = of_cell(ParserCell::At(level), shown);
        geometric_mean(&httparse.iter().zip(ours).map(|(theirs, ours)| theirs / ours).collect::<Vec<_>>())
    };
    let each: Vec<String> =
        InstructionSet::all().map(|level| format!("{} {:.2}", level.name(), ratio(level))).collect();
    let _ = writeln!(text, "With less SIMD on redir's side alone, geometric mean: {}", each.join(", "));
}

/// The median nanoseconds of each cell, for each head.
fn medians(measured: &ParserFigures<'_>) -> Vec<Vec<f64>> {
    let cells = measured.rounds.first().map_or(0, Vec::len);
    let of = |cell: usize, head: usize| wall::median(measured.rounds.iter().map(|round| round[cell][head]).collect());
    (0..cells).map(|cell| (0..measured.heads.len()).map(|head| of(cell, head)).collect()).collect()
}

/// Both files, with the folder.
pub(super) fn write(folder: &Path, text: &str, measured: &ParserFigures<'_>, judged: &[JudgedGoal]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let files = [("parser.md", text.to_owned()), ("parser.json", format!("{:#}\n", data(measured, judged)))];
    for (name, content) in files {
        let file = folder.join(name);
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn data(measured: &ParserFigures<'_>, judged: &[JudgedGoal]) -> Value {
    let times = medians(measured);
    let of = |cells: &[Vec<f64>], number: usize| {
        let of = |cell| of_cell(cell, cells)[number];
        json!({
            "redir": of(ParserCell::Redir), "httparse": of(ParserCell::Httparse),
            "engine": of(ParserCell::Engine), "httparse_framed": of(ParserCell::HttparseFramed),
            "redir_split": of(ParserCell::RedirSplit), "httparse_split": of(ParserCell::HttparseSplit),
        })
    };
    let heads = measured.heads.iter().enumerate().map(|(number, head)| {
        let instructions = measured.counts.as_ref().map(|counts| of(counts, number));
        json!({ "name": head.name, "bytes": head.bytes.len(), "instructions": instructions, "ns": of(&times, number) })
    });
    let goals = judged.iter().map(|goal| {
        json!({
            "goal": goal.what, "reach": goal.reach, "met": goal.met, "instructions": goal.instructions,
            "wall": { "low": goal.wall.low, "median": goal.wall.median, "high": goal.wall.high },
        })
    });
    json!({ "rounds": measured.rounds.len(), "heads": heads.collect::<Vec<_>>(), "goals": goals.collect::<Vec<_>>() })
}
