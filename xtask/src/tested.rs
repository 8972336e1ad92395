//! `docs/src/tested.md`, whose tables the runs write themselves, each between a mark of its own and [`END`]. Owns: the page and
//! where a table stands in it. What a table holds is the caller's.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use redir_rig::namespace::checked;

use crate::paths;

const END: &str = "<!-- end -->\n";
/// In the place of a table without rows.
pub(crate) const NOTHING: &str = "Nothing yet.\n";

/// Writes a table anew; `mark` is the whole line before it.
pub(crate) fn write(mark: &str, table: &str) -> Result<()> {
    let page = paths::root().join("docs/src/tested.md");
    let text = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    fs::write(&page, with_table(&text, mark, table)?).with_context(|| format!("cannot write {}", page.display()))
}

/// A page with the table behind its mark.
pub(crate) fn with_table(page: &str, mark: &str, table: &str) -> Result<String> {
    let (before, rest) = page.split_once(mark).context("docs/src/tested.md has lost the mark of the table's begin")?;
    let (_, after) = rest.split_once(END).context("docs/src/tested.md has lost the mark of the table's end")?;
    Ok(format!("{before}{mark}{table}{END}{after}"))
}

/// `2026-11-30`, in UTC.
pub(crate) fn today() -> Result<String> {
    Ok(checked(Command::new("date").args(["--utc", "+%F"]), None)?.trim().to_owned())
}
