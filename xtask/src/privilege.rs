//! Who runs xtask, and how the few steps that need root get it: directly, through sudo, or not at all.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{child, paths};

/// How a command can be run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    Root,
    Sudo,
}

/// Finds out, asking for sudo's password on a terminal if need be; `what_for` completes the sentence "… needs root".
/// `by_hand` are the commands to print where neither way is open.
pub(crate) fn obtain(what_for: &str, by_hand: &[String]) -> Result<Privilege> {
    if nix::unistd::geteuid().is_root() {
        return Ok(Privilege::Root);
    }
    if let Some(sudo) = paths::program("sudo")
        && sudo_works(&sudo, what_for)
    {
        return Ok(Privilege::Sudo);
    }
    bail!(
        "{what_for} needs root, and sudo does not give it here; run this as root, then try again:\n\n    {}\n",
        by_hand.join("\n    ")
    )
}

fn sudo_works(sudo: &Path, what_for: &str) -> bool {
    let run = |arguments: &[&str]| {
        Command::new(sudo).args(arguments).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let quietly = Command::new(sudo).args(["-n", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if quietly.is_ok_and(|status| status.success()) {
        return true;
    }
    if !std::io::stdin().is_terminal() {
        return false;
    }
    println!("{what_for} needs root: sudo asks for your password");
    run(&["-v"])
}

impl Privilege {
    /// The command that runs `program` as root.
    pub(crate) fn command(self, program: &Path) -> Command {
        match self {
            Privilege::Root => Command::new(program),
            Privilege::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("-n").arg(program);
                command
            }
        }
    }

    /// Xtask itself once more, as root, in the place of this process: signals and the terminal are then its own.
    /// `environment` is added to what sudo lets through. Returns only if it could not be started.
    pub(crate) fn again(self, environment: &[(&str, &OsStr)], arguments: &[&OsStr]) -> Result<()> {
        let mut command = self.command(Path::new("/usr/bin/env"));
        for (name, value) in environment {
            let mut pair = OsStr::new(name).to_owned();
            pair.push("=");
            pair.push(value);
            command.arg(pair);
        }
        command.arg(paths::own()?).args(arguments);
        Err(command.exec()).with_context(|| format!("cannot start `{}`", child::spelled(&command)))
    }
}
