//! `redir-agent`: the one redir process on each node, in two parts (guardian and worker).
//!
//! Owns the exit code and the one line that says why the agent ended. Everything else is in its rooms.
#![cfg(target_os = "linux")]

mod args;
mod config;
mod guardian;
mod ipc;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command},
    config::ConfigError,
};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("redir-agent: {error:#}");
            let usage = error.chain().any(|cause| cause.is::<ConfigError>());
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { .. } | Command::Check { .. } | Command::Worker { .. } => anyhow::bail!("not in this build"),
        Command::Keygen { file } => keygen(&file),
    }
}

fn keygen(file: &std::path::Path) -> anyhow::Result<ExitCode> {
    let identity = redir_tunnel::Identity::generate()?;
    identity.save(file)?;
    println!("{}", identity.pin());
    Ok(ExitCode::SUCCESS)
}
