//! A command behind one line of progress: its words go to a log file, and their end to the screen if it fails.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::child::{self, End};
use crate::{paths, signals, ui};

/// An hour is far beyond the slowest machine seen, and still an end.
const LIMIT: Duration = Duration::from_secs(3600);

/// A file for a program's output, in the cache.
pub(crate) fn log_file(name: &str) -> Result<PathBuf> {
    let folder = paths::cache()?.join("log");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder.join(name))
}

/// Runs a command to its success.
pub(crate) fn quietly(command: &mut Command, line: String, log: &Path) -> Result<()> {
    noting(command, line, log, |_| String::new())
}

/// The same; `note` is given every line of the command's output and says how far it is, for a terminal's clock.
pub(crate) fn noting(
    command: &mut Command,
    line: String,
    log: &Path,
    mut note: impl FnMut(&str) -> String,
) -> Result<()> {
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let line = ui::ProgressLine::start(line);
    let mut tail = Tail::default();
    let mut noted = String::new();
    let end = child::lines(command, Instant::now() + LIMIT, |text| {
        if let Some(text) = text {
            let _ = writeln!(file, "{text}");
            tail.push(text);
            noted = note(text);
        }
        line.tick(&noted);
    })?;
    match end {
        End::Exited(status) if status.success() => {
            line.end("done");
            return Ok(());
        }
        _ if signals::interrupted() => line.end("interrupted; running it again is safe"),
        End::Exited(status) => line.end(&format!("failed ({status})")),
        End::Late => line.end(&format!("not done after {}, stopped", ui::spoken(LIMIT))),
    }
    if !signals::interrupted() {
        eprintln!("{}", tail.text());
    }
    bail!("`{}` did not succeed: all of its words are in {}", child::spelled(command), log.display())
}

/// The last lines of an output.
#[derive(Default)]
pub(crate) struct Tail(VecDeque<String>);

impl Tail {
    /// Enough for a compiler's error.
    const LINES: usize = 25;

    pub(crate) fn push(&mut self, line: &str) {
        if self.0.len() == Self::LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    pub(crate) fn text(&self) -> String {
        self.0.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    }
}
