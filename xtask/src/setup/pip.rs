//! pip, for what PyPI has: it fills folders of redir's own, and no Python environment is touched.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::packages;
use crate::paths;
use crate::step::{log_file, quietly};

/// Runs pip with requirements that are pinned by checksum; the last option takes a folder.
pub(super) fn pinned(work: &Path, pinned: &str, options: &[&str], folder: &Path, line: &str) -> Result<()> {
    let requirements = work.join("requirements.txt");
    fs::write(&requirements, pinned).with_context(|| format!("cannot write {}", requirements.display()))?;
    let mut command = command()?;
    command.args(options).arg(folder).arg("--requirement").arg(&requirements);
    command.args(["--require-hashes", "--no-deps", "--disable-pip-version-check"]);
    quietly(&mut command, line.into(), &log_file("pip.log")?)
}

/// The machine's pip, which is installed if there is none.
pub(super) fn command() -> Result<Command> {
    let program = match paths::program("pip3") {
        Some(program) => program,
        None => {
            packages::install_missing(packages::PIP, packages::Services::Start)?;
            paths::program("pip3").context("python3-pip is installed, but pip3 is nowhere in PATH")?
        }
    };
    Ok(Command::new(program))
}
