//! The commands that the documents show, given to the programs: each must be one that they understand.
#![cfg(target_os = "linux")]

use std::process::Command;

use anyhow::{Result, ensure};
use redir_rig::{binaries, documents};

/// With `--help` in place of what would do something; what is before it is read first, and refused if it is wrong.
fn understood(program: &str, at_least: usize) -> Result<()> {
    let commands = documents::commands(&documents::user_pages()?, program)?;
    ensure!(commands.len() >= at_least, "{program}: {commands:?}");
    for command in commands {
        let own = command.iter().take_while(|word| *word != "--");
        let output = Command::new(binaries::find(program)?).args(own).arg("--help").output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {}: {said}", command.join(" "));
    }
    Ok(())
}

#[test]
fn the_commands_of_the_documents_are_understood() -> Result<()> {
    understood("redir", 15)?;
    understood("redir-agent", 6)
}

#[test]
fn a_wrong_command_would_be_noticed() -> Result<()> {
    let output =
        Command::new(binaries::find("redir")?).args(["intercept", "web-1", "--prot", "1", "--help"]).output()?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    Ok(())
}
