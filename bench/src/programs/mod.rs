//! The bench's own programs, each a process of one thread, so that it can be pinned and its cost told apart: the load, the
//! app, and the relay that is the floor of any proxy outside the kernel. `redir-bench` starts itself as one of them.

pub mod app;
mod events;
pub mod load;
pub mod relay;
mod request;
pub mod wan;

pub use events::{Events, Interest};

use std::{env, process::Command, time::Duration};

use anyhow::{Context, Result};
use redir_rig::{Namespace, Process};

/// For a program's start on a busy machine.
pub const START: Duration = Duration::from_secs(20);

/// Starts this very program as one of the bench's own, and waits until it is ready.
pub fn start(namespace: &Namespace, arguments: &[&str]) -> Result<Process> {
    let mut process = namespace.spawn(arguments[0], command()?.args(arguments))?;
    process.wait_for_line("ready", START)?;
    Ok(process)
}

/// `redir-bench program …`, to be completed.
pub fn command() -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("own path")?);
    command.arg("program");
    Ok(command)
}
