//! `compare A B`: what changed between two results, by goal. Only where the intervals do not meet is a change called one.

use std::path::Path;

use anyhow::Result;

use super::{markdown::short, read};
use crate::goals::GoalRow;

/// Prints a line for each goal that both have.
pub fn print(before: &Path, after: &Path) -> Result<()> {
    let (before, after) = (read(before)?, read(after)?);
    if before.machine != after.machine {
        println!("not the same machine: {} and {}", before.machine, after.machine);
    }
    for row in &after.goals {
        if let Some(old) = before.goals.iter().find(|old| old.goal == row.goal)
            && let (Some(was), Some(is)) = (old.ratio, row.ratio)
        {
            println!("{:<55} {:>8} → {:<8} {}", row.goal, short(was), short(is), change(old, row));
        }
    }
    Ok(())
}

fn change(old: &GoalRow, new: &GoalRow) -> &'static str {
    let apart = old.high < new.low || new.high < old.low;
    match (apart, old.met == new.met, new.met.as_str()) {
        (_, false, "yes") => "met now",
        (_, false, _) => "missed now",
        (true, true, _) => "changed",
        (false, true, _) => "",
    }
}
