//! Standard output of the commands that answer and end (`check`, `keygen`).
//!
//! Owns: what becomes of an answer that nobody reads. Called by: `main`, `guardian::check`.

use std::{
    fmt::Arguments,
    io::{self, Write},
};

use anyhow::Context;

/// Prints a line. A reader that left early (`| head`) has what it wanted, and is no failure; a full disk is one.
pub fn line(line: Arguments<'_>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write standard output"),
        Ok(()) | Err(_) => Ok(()),
    }
}
