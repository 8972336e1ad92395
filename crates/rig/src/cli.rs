//! The real `redir` command on the developer's machine.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    agent::{Developer, find_pin},
    binaries, cleanup,
    namespace::{Namespace, checked},
    process::Process,
};

/// How long until an intercept is live in a debug build on a busy machine.
const LIVE: Duration = Duration::from_secs(20);

/// A developer's home: key and configuration.
#[derive(Debug)]
pub struct Home {
    directory: TempDir,
    /// The pin of the key.
    pub pin: String,
    /// Another build's `redir`; none for the one under test.
    pub program: Option<PathBuf>,
}

impl Home {
    /// Makes a home with a key by `redir keygen`.
    pub fn new() -> Result<Self> {
        let directory = cleanup::directory("home")?;
        let out = checked(command(None, directory.path())?.arg("keygen"), None)?;
        let pin = find_pin(&out).with_context(|| format!("no pin in the output of keygen: {out:?}"))?;
        Ok(Self { directory, pin, program: None })
    }

    /// `$XDG_CONFIG_HOME`.
    pub fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// How the agent is told about this developer; `pods` are label sets as TOML inline tables.
    pub fn developer(&self, name: &str, pods: &str) -> Developer {
        Developer { name: name.to_owned(), pin: self.pin.clone(), pods: pods.to_owned(), flush: false }
    }

    /// The `redir` command with this home.
    pub fn command(&self) -> Result<Command> {
        command(self.program.as_deref(), self.directory.path())
    }

    /// Runs `redir ARGUMENTS` to its end in the namespace: exit code, standard output, standard error.
    pub fn run(&self, namespace: &Namespace, arguments: &[&str]) -> Result<(i32, String, String)> {
        let mut process = namespace.spawn("redir", self.command()?.args(arguments))?;
        let code = process.exit_code(LIVE)?;
        Ok((code, process.stdout(), process.stderr()))
    }

    /// Starts `redir intercept ARGUMENTS -o json`; does not wait.
    pub fn start(&self, namespace: &Namespace, arguments: &[&str]) -> Result<Cli> {
        let mut command = self.command()?;
        command.args(["intercept", "-o", "json"]).args(arguments);
        Ok(Cli { process: namespace.spawn("redir intercept", &mut command)? })
    }

    /// [`Home::start`], and waits until it is live in every pod.
    pub fn intercept(&self, namespace: &Namespace, arguments: &[&str]) -> Result<Cli> {
        let mut cli = self.start(namespace, arguments)?;
        cli.wait_live()?;
        Ok(cli)
    }
}

/// A running `redir intercept`.
#[derive(Debug)]
pub struct Cli {
    /// The process.
    pub process: Process,
}

impl Cli {
    /// Waits for the next `live` event after those seen and gives it.
    pub fn wait_live(&mut self) -> Result<Value> {
        self.wait_event("live", LIVE)
    }

    /// Waits for the first event of a kind.
    pub fn wait_event(&mut self, kind: &str, limit: Duration) -> Result<Value> {
        self.wait_events(kind, 1, limit).map(|mut events| events.remove(0))
    }

    /// Waits until there are `count` events of a kind.
    pub fn wait_events(&mut self, kind: &str, count: usize, limit: Duration) -> Result<Vec<Value>> {
        self.process.wait_for(format!("{count} events {kind:?}"), limit, |log| {
            let found = events(log, kind);
            (found.len() >= count).then_some(found)
        })
    }

    /// The events of a kind so far.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        events(&self.process.stdout(), kind)
    }

    /// Ctrl-C, and waits for the end; gives the exit code.
    pub fn interrupt(&mut self) -> Result<i32> {
        self.process.signal(Signal::SIGINT)?;
        self.process.exit_code(LIVE)
    }

    /// Ctrl-C; it must end with 0.
    pub fn leave(mut self) -> Result<()> {
        let code = self.interrupt()?;
        ensure!(code == 0, "redir ended with {code}: {}", self.process.log());
        Ok(())
    }
}

fn command(program: Option<&Path>, home: &Path) -> Result<Command> {
    let mut command = Command::new(program.map_or_else(|| binaries::find("redir"), |path| Ok(path.to_owned()))?);
    command.env("XDG_CONFIG_HOME", home).env("HOME", home).env("NO_COLOR", "1");
    Ok(command)
}

fn events(log: &str, kind: &str) -> Vec<Value> {
    let whole = log.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n'));
    whole.filter_map(|l| serde_json::from_str::<Value>(l).ok()).filter(|v| v["event"] == kind).collect()
}
